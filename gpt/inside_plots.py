"""The figures of what is inside LoRA: accuracy over rank, and how few directions an update has.

Read along: chapters/08_lora_inside.py. Colours: Okabe and Ito 2008.
"""

import matplotlib.pyplot as plt

from gpt.plots import BLUE, GREEN, GREY, ORANGE, STYLE


@plt.rc_context(STYLE)
def plot_rank_accuracy(ranks, intervals, levels):
    """Test accuracy over a LoRA's rank, with 95 % intervals, and lines for what it is measured by; the title says both.

    Input: ranks, rising; intervals, a (mean, low, high), 0..1, for each, drawn as far as 0 and 100 %; levels, {name:
        (mean, low, high)}, at most two
    Output: a matplotlib Figure
    """
    fig, axes = plt.subplots(figsize=(7, 4.2))
    intervals = [[100 * min(max(value, 0), 1) for value in interval] for interval in intervals]
    levels = {name: [100 * min(max(value, 0), 1) for value in interval] for name, interval in levels.items()}
    for (name, (mean, low, high)), colour, line in zip(levels.items(), (ORANGE, GREY), ("--", ":")):
        axes.axhspan(low, high, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(mean, color=colour, linestyle=line, label=name)
    means, lows, highs = zip(*intervals)
    axes.vlines(ranks, lows, highs, color=BLUE, linewidth=2)
    axes.plot(ranks, means, "o-", color=BLUE, label="LoRA")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.set_xlabel("rank of the LoRA (bars and bands: 95 % intervals)")
    axes.set_ylabel("test accuracy, %")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    said = ", ".join(f"{name} {level[0]:.1f} %" for name, level in levels.items())
    axes.set_title(f"LoRA {min(means):.1f} to {max(means):.1f} %; {said}", loc="left", fontsize=12, pad=32)
    fig.tight_layout()
    return fig


@plt.rc_context(STYLE)
def plot_inside(curves, cuts):
    """How few directions an update has: what two runs share, and what is left when dW is cut to rank k.

    Input: curves, {name: phi(i, i) for i = 1, 2, ...}, at most five, the last that of random directions; cuts,
        {k: test loss, nats a message}
    Output: a matplotlib Figure with two panels
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.4))
    looks = [(BLUE, "-", "o"), (BLUE, "--", "s"), (ORANGE, "-", "^"), (ORANGE, "--", "v"), (GREY, ":", "")]
    for (name, phi), (colour, line, marker) in zip(curves.items(), looks):
        left.plot(range(1, len(phi) + 1), phi, color=colour, linestyle=line, marker=marker, label=name)
    left.set_xlabel("i, directions compared, the strongest first")
    left.set_ylabel("phi(i, i), share in common")
    left.set_ylim(0, 1)
    left.set_title("What two runs have in common", loc="left", fontsize=12)
    left.legend()
    right.plot(list(cuts), list(cuts.values()), "o-", color=GREEN)
    right.set_xscale("symlog", base=2, linthresh=1, linscale=0.5)    # a step from 0 to 1, one for each doubling
    right.set_xticks(list(cuts), [str(k) for k in cuts])
    right.minorticks_off()
    right.set_xlabel("k, the rank that dW of each layer is cut to")
    right.set_ylabel("test loss, nats a message")
    right.set_ylim(0, 1.1 * max(cuts.values()))
    right.set_title("Full fine-tuning, cut to rank k", loc="left", fontsize=12)
    fig.tight_layout()
    return fig
