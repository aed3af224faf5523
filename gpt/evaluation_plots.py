"""The figures of an honest evaluation: whether probabilities mean what they say, and what more messages bring.

Read along: chapters/10_believe_the_number.py. Colours and style: gpt/plots.py.
"""

import matplotlib.pyplot as plt

from gpt.plots import BLUE, GREEN, GREY, ORANGE, STYLE

LOOKS = ((BLUE, "-", "o"), (ORANGE, "--", "^"), (GREY, ":", "s"), (GREEN, "-.", "D"))


@plt.rc_context(STYLE)
def plot_reliability(curves, title):
    """What share of the messages is spam among those that get about the same P(spam): on the diagonal where it is true.

    Input: curves, {name: rows of `gpt.probabilities.reliability`}, at most four
    Output: a matplotlib Figure
    """
    fig, axes = plt.subplots(figsize=(7, 5))
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1)
    axes.text(50, 52, "as it should be", color=GREY, ha="center", va="bottom", rotation=45, rotation_mode="anchor",
              transform_rotates_text=True)
    for i, ((name, rows), (colour, line, marker)) in enumerate(zip(curves.items(), LOOKS)):
        said = [100 * row["predicted"] + 0.8 * i for row in rows]    # a little apart: intervals would hide each other
        axes.vlines(said, *([100 * row["interval"][end] for row in rows] for end in (0, 1)), color=colour, alpha=0.6)
        axes.plot(said, [100 * row["observed"] for row in rows], color=colour, linestyle=line, marker=marker,
                  label=name)
    axes.set_xlabel("probability of spam that the model gives, %")
    axes.set_ylabel("of these messages are spam, %")
    axes.set_xlim(-2, 104)
    axes.set_ylim(-2, 102)
    axes.set_title(title, loc="left", fontsize=12)
    axes.legend(loc="upper left")
    fig.tight_layout()
    return fig


@plt.rc_context(STYLE)
def plot_learning_curves(curves, title):
    """Test accuracy over the number of messages that were trained on, one line a method, with 95 % intervals.

    Input: curves, {name: {number of messages: (mean, low, high), 0..1}}, at most four
    Output: a matplotlib Figure
    """
    fig, axes = plt.subplots(figsize=(7, 4.6))
    for i, ((name, points), (colour, line, marker)) in enumerate(zip(curves.items(), LOOKS)):
        at = [n * 1.04**i for n in points]    # a little apart
        means, lows, highs = ([100 * min(max(point[j], 0), 1) for point in points.values()] for j in range(3))
        axes.vlines(at, lows, highs, color=colour, alpha=0.6)
        axes.plot(at, means, color=colour, linestyle=line, marker=marker, label=name)
    sizes = sorted({n for points in curves.values() for n in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.set_xlabel("messages trained on, half of them spam")
    axes.set_ylabel("test accuracy, % (bars: 95 % intervals)")
    axes.set_title(title, loc="left", fontsize=12, pad=52)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    fig.tight_layout()
    return fig
