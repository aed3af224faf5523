"""The figures have one message each, are legible on a slide, and use colours that colour-blind readers can tell apart.

Read along: chapters/02_attention.py and those after it. Source: Okabe and Ito 2008 (the colours).
"""

import matplotlib.pyplot as plt
import numpy as np

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"
STYLE = {"text.parse_math": False,    # a label may hold a $, and it is no formula
         "font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
         "axes.titlelocation": "left", "axes.titlesize": 12, "figure.figsize": (7, 4.2)}


@plt.rc_context(STYLE)
def plot_values(epochs_seen, examples_seen, train_values, val_values, label="loss"):
    """Values of training and validation over the epochs, with the number of messages seen along the top.

    Input: epochs_seen, examples_seen, train_values, val_values: sequences of one length; label, the name of the values
    Output: a matplotlib Figure; plt.show() shows it
    """
    fig, axes = plt.subplots()
    axes.plot(epochs_seen, train_values, color=BLUE, label=f"training {label}")
    axes.plot(epochs_seen, val_values, color=ORANGE, linestyle="--", label=f"validation {label}")
    axes.set(xlabel="epochs", ylabel=f"{label}, nats per message" if label == "loss" else label, ylim=(0, None))
    axes.legend()
    top = axes.twiny()    # a second x axis over the same values: an invisible line gives it its scale
    top.plot(examples_seen, train_values, alpha=0)
    top.set_xlabel("messages seen")
    top.spines["top"].set_visible(True)
    fig.tight_layout()
    return fig


@plt.rc_context(STYLE)
def plot_accuracies(rows, title, measure="test accuracy", by_value=True):
    """Accuracies as points with their 95 % intervals, one row each, the best at the top or in the order given.

    Input: rows, tuples (name, accuracy, low, high), each 0..1; the name of our own model begins with "GPT-2"; measure,
        the name of the values if they are no accuracies; by_value=False keeps the order, with the first row at the top
    Output: a matplotlib Figure
    """
    rows = sorted(rows, key=lambda row: row[1]) if by_value else rows[::-1]    # drawn from the bottom
    fig, axes = plt.subplots(figsize=(7, 1.4 + 0.55 * len(rows)))
    for y, (name, accuracy, low, high) in enumerate(rows):
        colour = BLUE if name.startswith("GPT-2") else GREY
        axes.plot([100 * low, 100 * high], [y, y], color=colour, linewidth=2)
        axes.plot(100 * accuracy, y, "o", color=colour, markersize=9)
        axes.annotate(f"{100 * accuracy:.1f} %", (100 * accuracy, y), xytext=(0, 9), textcoords="offset points",
                      ha="center", color=colour)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set(xlabel=f"{measure}, % (line: 95 % interval)", ylim=(-0.5, len(rows) - 0.3), title=title)
    axes.grid(axis="x", alpha=0.3)
    fig.tight_layout()
    return fig


@plt.rc_context(STYLE)
def plot_token_times(positions, milliseconds, model):
    """How long one more token takes as the text grows, one line for each way of computing it.

    Input: positions, tokens in the text; milliseconds, {way: one time for each position}, at most three ways, the
        fastest last; model, its name
    Output: a matplotlib Figure
    """
    fig, axes = plt.subplots()
    looks = [(GREY, ":", "s"), (ORANGE, "--", "^"), (BLUE, "-", "o")]
    for (way, times), (colour, line, marker) in zip(milliseconds.items(), looks, strict=False):
        axes.plot(positions, times, color=colour, linestyle=line, marker=marker, label=way)
    axes.set(xlabel="tokens in the text", ylabel="time for one more token, ms", ylim=(0, None),
             title=f"{model}: without a cache each token takes longer")
    axes.legend()
    fig.tight_layout()
    return fig


@plt.rc_context(STYLE)
def plot_padding(panels):
    """What a pass over the messages computes: a row of tokens for each message, and the padding behind it.

    Input: panels, one to three (title, lengths (N,), widths (N,)): row i has lengths[i] tokens, padded to widths[i]
    Output: a matplotlib Figure
    """
    fig, all_axes = plt.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    for axes, (title, lengths, widths) in zip(all_axes[0], panels):
        rows = range(len(lengths))
        axes.fill_betweenx(rows, lengths, widths, step="mid", color=ORANGE, linewidth=0, label="padding")
        axes.fill_betweenx(rows, 0, lengths, step="mid", color=BLUE, linewidth=0, label="tokens of the message")
        axes.set(xlabel="tokens", title=title)
    all_axes[0][0].set(ylabel="messages", xlim=(0, None))
    all_axes[0][-1].legend(loc="lower right")
    fig.tight_layout()
    return fig


@plt.rc_context(STYLE)
def plot_attention(weights, tokens, titles):
    """Attention weights as heat maps side by side: a row for each token that looks, a column for each it looks at.

    The future, which the mask hides, is grey, because white is a weight of 0.

    Input: weights, a list of (T, T) tensors, each row with sum 1; tokens, T strings; titles, one for each map
    Output: a matplotlib Figure
    """
    T = len(tokens)
    width = 2 + 0.36 * T
    fig, all_axes = plt.subplots(1, len(weights), figsize=(width * len(weights), width), squeeze=False,
                                 sharey=True, layout="constrained")
    colours = plt.get_cmap("Blues").with_extremes(bad="#D9D9D9")
    for axes, matrix, title in zip(all_axes[0], weights, titles):
        shares = np.where(np.tri(T, dtype=bool), 100 * np.array(matrix.tolist()), np.nan)
        image = axes.imshow(shares, cmap=colours, vmin=0, vmax=100)
        axes.set_xticks(range(T), tokens, rotation=90)
        axes.set_yticks(range(T), tokens)
        axes.set(xlabel="token that is looked at (key)", title=title)
    all_axes[0][0].set_ylabel("token that looks (query)")
    fig.colorbar(image, ax=all_axes, label="weight, % of a row", shrink=0.8)
    return fig


@plt.rc_context(STYLE)
def plot_text_losses(steps, train_values, val_values, levels, title):
    """The losses of the text that is learnt and of text kept out of training, with lines to measure them by.

    Input: steps, train_values, val_values: sequences of one length, losses in nats per token; levels, {name: loss}
    Output: a matplotlib Figure
    """
    fig, axes = plt.subplots()
    for name, level in levels.items():
        axes.axhline(level, color=GREY, linestyle=":")
        axes.annotate(name, (1.01, level), xycoords=("axes fraction", "data"), va="center", color=GREY)
    axes.plot(steps, train_values, color=BLUE, label="training loss")
    axes.plot(steps, val_values, color=ORANGE, linestyle="--", label="validation loss")
    lowest = min(range(len(steps)), key=val_values.__getitem__)
    axes.plot(steps[lowest], val_values[lowest], "o", color=ORANGE, markersize=9, label="its lowest point")
    axes.set(xlabel="training steps", ylabel="loss, nats per token", ylim=(0, None), title=title)
    axes.legend(loc="center right")
    fig.tight_layout()
    return fig


@plt.rc_context(STYLE)
def plot_distributions(tokens, before, ways):
    """One distribution as grey outlines, and as blue bars what several ways of choosing a token make of it.

    Input: tokens, V strings; before, V probabilities; ways, {name: V probabilities}, at most four
    Output: a matplotlib Figure
    """
    fig, all_axes = plt.subplots(2, 2, sharex=True, sharey=True, layout="constrained")
    for axes, (name, after) in zip(all_axes.flat, ways.items()):
        axes.bar(tokens, before, fill=False, edgecolor=GREY)
        axes.bar(tokens, after, color=BLUE, alpha=0.8)
        for x, (old, new) in enumerate(zip(before, after)):
            if new > 0.005:
                axes.text(x, max(old, new) + 0.03, f"{new:.2f}", ha="center")
        axes.set(title=name, ylim=(0, 1.2))
    fig.supylabel("probability", fontsize=12)
    return fig


# ---- Chapter 7: what fine-tuning costs and what it learns, all weights against LoRA ----------------------------------

WAY_LOOKS = {"all weights": (ORANGE, "--", "^"), "LoRA": (BLUE, "-", "o")}


def saving(values):
    """The share, 0..1, that LoRA saves of {way: what it costs}; below 0 where it costs more."""
    return 1 - values["LoRA"] / values["all weights"]


def _less(values):
    share = 100 * saving(values)
    return f"{abs(share):.0f} % {'less' if share >= 0 else 'more'}"


@plt.rc_context(STYLE)
def plot_cost(seconds, peaks, predicted, model):
    """Training time and peak memory as two panels of bars, with the prediction as a line across each bar of memory.

    Input: seconds, {way: of training}; peaks, {way: bytes, or None where the system does not say}; predicted, {way:
        bytes}; the ways are those of WAY_LOOKS; model, its name
    Output: a matplotlib Figure
    """
    fig, panels = plt.subplots(1, 2)
    known = {way: peak for way, peak in peaks.items() if peak is not None}
    for axes, values, unit, sign in ((panels[0], seconds, "training time, s", "{:.0f} s"),
                                     (panels[1], {way: peak / 1e6 for way, peak in known.items()},
                                      "peak memory of training, MB", "{:,.0f} MB")):
        bars = axes.bar(list(values), list(values.values()), width=0.6, color=[WAY_LOOKS[way][0] for way in values])
        axes.bar_label(bars, [sign.format(value) for value in values.values()], padding=3)
        axes.set(ylabel=unit, ylim=(0, 1.36 * max(values.values(), default=1)))
    panels[0].margins(x=0.1)
    for i, way in enumerate(known):
        panels[1].plot([i - 0.36, i + 0.36], [predicted[way] / 1e6] * 2, color="black", linestyle=":", linewidth=2,
                       label="predicted, without room\nfor kernels and malloc" if i == 0 else None)
    if known:
        panels[1].legend(loc="upper right", handlelength=1.5, borderaxespad=0)
    fig.suptitle(f"{model}: LoRA takes {_less(seconds)} time" + (f" and {_less(known)} memory" if known else ""),
                 x=0.02, ha="left", fontsize=12)
    fig.tight_layout()
    return fig


@plt.rc_context(STYLE)
def plot_learning(curves, title):
    """Validation loss and token accuracy over the steps of training, one line for each way of training, in two panels.

    Input: curves, {way: list of {"step", "loss" (nats per token), "accuracy" (0..1)}}; the ways are those of WAY_LOOKS
    Output: a matplotlib Figure
    """
    fig, panels = plt.subplots(1, 2)
    for axes, key, factor, unit in ((panels[0], "loss", 1, "validation loss, nats per token"),
                                    (panels[1], "accuracy", 100, "validation token accuracy, %")):
        for way, points in curves.items():
            colour, line, marker = WAY_LOOKS[way]
            axes.plot([point["step"] for point in points], [factor * point[key] for point in points], color=colour,
                      linestyle=line, marker=marker, label=way)
        axes.axhline(factor * next(iter(curves.values()))[0][key], color=GREY, linestyle=":", label="before training")
        axes.set(xlabel="training steps", ylabel=unit)
    fig.suptitle(title, x=0.02, ha="left", fontsize=12)
    fig.legend(*panels[0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.0, 0.95), ncols=3)
    fig.tight_layout(rect=(0, 0, 1, 0.9))
    return fig


# ---- Chapter 8: accuracy over rank, and how few directions an update has ---------------------------------------------

@plt.rc_context(STYLE)
def plot_rank_accuracy(ranks, intervals, levels):
    """Test accuracy over a LoRA's rank, with 95 % intervals, and a band for each level to measure it by.

    Input: ranks, rising; intervals, a (mean, low, high), 0..1, for each, drawn as far as 0 and 100 %; levels, {name:
        (mean, low, high)}, at most two
    Output: a matplotlib Figure
    """
    fig, axes = plt.subplots()
    levels = {name: 100 * np.clip(interval, 0, 1) for name, interval in levels.items()}
    for (name, (mean, low, high)), colour, line in zip(levels.items(), (ORANGE, GREY), ("--", ":")):
        axes.axhspan(low, high, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(mean, color=colour, linestyle=line, label=name)
    means, lows, highs = 100 * np.clip(intervals, 0, 1).T
    axes.vlines(ranks, lows, highs, color=BLUE, linewidth=2)
    axes.plot(ranks, means, "o-", color=BLUE, label="LoRA")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.set(xlabel="rank of the LoRA (bars and bands: 95 % intervals)", ylabel="test accuracy, %")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    said = ", ".join(f"{name} {level[0]:.1f} %" for name, level in levels.items())
    axes.set_title(f"LoRA {min(means):.1f} to {max(means):.1f} %; {said}", pad=32)
    fig.tight_layout()
    return fig


@plt.rc_context(STYLE)
def plot_inside(curves, cuts):
    """How few directions an update has: what two runs share, and what is left when dW is cut to rank k.

    Input: curves, {name: phi(i, i) for i = 1, 2, ...}, at most five, the last that of random directions; cuts,
        {k: test loss, nats per message}
    Output: a matplotlib Figure with two panels
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.4))
    looks = [(BLUE, "-", "o"), (BLUE, "--", "s"), (ORANGE, "-", "^"), (ORANGE, "--", "v"), (GREY, ":", "")]
    for (name, phi), (colour, line, marker) in zip(curves.items(), looks):
        left.plot(range(1, len(phi) + 1), phi, color=colour, linestyle=line, marker=marker, label=name)
    left.set(xlabel="i, directions compared, the strongest first", ylabel="phi(i, i), share in common", ylim=(0, 1),
             title="What two runs have in common")
    left.legend()
    right.plot(list(cuts), list(cuts.values()), "o-", color=GREEN)
    right.set_xscale("symlog", base=2, linthresh=1, linscale=0.5)    # a step from 0 to 1, one for each doubling
    right.set_xticks(list(cuts), [str(k) for k in cuts])
    right.minorticks_off()
    right.set(xlabel="k, the rank that dW of each layer is cut to", ylabel="test loss, nats per message",
              ylim=(0, 1.1 * max(cuts.values())), title="Full fine-tuning, cut to rank k")
    fig.tight_layout()
    return fig


# ---- Chapter 10: whether probabilities mean what they say, and what more messages bring ------------------------------

LOOKS = ((BLUE, "-", "o"), (ORANGE, "--", "^"), (GREY, ":", "s"), (GREEN, "-.", "D"))


@plt.rc_context(STYLE)
def plot_reliability(curves, title):
    """The share of spam among the messages that get about the same P(spam); on the diagonal P(spam) is true.

    Input: curves, {name: rows of `gpt.evaluate.calibration.reliability`}, at most four
    Output: a matplotlib Figure
    """
    fig, axes = plt.subplots(figsize=(7, 5))
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1)
    axes.text(50, 52, "as it should be", color=GREY, ha="center", va="bottom", rotation=45, rotation_mode="anchor",
              transform_rotates_text=True)
    for i, ((name, rows), (colour, line, marker)) in enumerate(zip(curves.items(), LOOKS)):
        said = [100 * row["predicted"] + 0.8 * i for row in rows]    # a little apart: intervals would hide each other
        lows, highs = 100 * np.array([row["interval"] for row in rows]).T
        axes.vlines(said, lows, highs, color=colour, alpha=0.6)
        axes.plot(said, [100 * row["observed"] for row in rows], color=colour, linestyle=line, marker=marker,
                  label=name)
    axes.set(xlabel="probability of spam that the model gives, %", ylabel="of these messages are spam, %",
             xlim=(-2, 104), ylim=(-2, 102), title=title)
    axes.legend(loc="upper left")
    fig.tight_layout()
    return fig


@plt.rc_context(STYLE)
def plot_learning_curves(curves, title):
    """Test accuracy over the number of messages that were trained on, one line per method, with 95 % intervals.

    Input: curves, {name: {number of messages: (mean, low, high), 0..1}}, at most four
    Output: a matplotlib Figure
    """
    fig, axes = plt.subplots(figsize=(7, 4.6))
    for i, ((name, points), (colour, line, marker)) in enumerate(zip(curves.items(), LOOKS)):
        at = [n * 1.04**i for n in points]    # a little apart
        means, lows, highs = 100 * np.clip(list(points.values()), 0, 1).T
        axes.vlines(at, lows, highs, color=colour, alpha=0.6)
        axes.plot(at, means, color=colour, linestyle=line, marker=marker, label=name)
    sizes = sorted({n for points in curves.values() for n in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.set(xlabel="messages trained on, half of them spam", ylabel="test accuracy, % (bars: 95 % intervals)")
    axes.set_title(title, pad=52)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    fig.tight_layout()
    return fig
