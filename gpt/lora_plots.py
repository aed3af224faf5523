"""The figures of LoRA for text: what fine-tuning costs, and what it learns, all weights against LoRA.

Read along: chapters/07_lora_writer.py. Colours and style: gpt/plots.py.
"""

import matplotlib.pyplot as plt

from gpt.plots import BLUE, GREY, ORANGE, STYLE

LOOKS = {"all weights": (ORANGE, "--", "^"), "LoRA": (BLUE, "-", "o")}


def saving(values):
    """The share, 0..1, that LoRA saves of {way: what it costs}; below 0 where it costs more."""
    return 1 - values["LoRA"] / values["all weights"]


def _less(values):
    share = 100 * saving(values)
    return f"{abs(share):.0f} % {'less' if share >= 0 else 'more'}"


@plt.rc_context(STYLE)
def plot_cost(seconds, peaks, predicted, model):
    """Training time and peak memory as two panels of bars, and as a line across each bar of memory the prediction.

    Input: seconds, {way: of training}; peaks, {way: bytes, or None where the system does not say}; predicted, {way:
        bytes}; ways are those of LOOKS; model, its name
    Output: a matplotlib Figure
    """
    fig, panels = plt.subplots(1, 2, figsize=(7, 4.2))
    known = {way: peak for way, peak in peaks.items() if peak is not None}
    for axes, values, unit, sign in ((panels[0], seconds, "training time, s", "{:.0f} s"),
                                     (panels[1], {way: peak / 1e6 for way, peak in known.items()},
                                      "peak memory of training, MB", "{:,.0f} MB")):
        bars = axes.bar(list(values), list(values.values()), width=0.6, color=[LOOKS[way][0] for way in values])
        axes.bar_label(bars, [sign.format(value) for value in values.values()], padding=3)
        axes.set_ylabel(unit)
        axes.set_ylim(0, 1.36 * max(values.values(), default=1))
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

    Input: curves, {way: list of {"step", "loss" (nats a token), "accuracy" (0..1)}}; ways are those of LOOKS
    Output: a matplotlib Figure
    """
    fig, panels = plt.subplots(1, 2, figsize=(7, 4.2))
    for axes, key, factor, unit in ((panels[0], "loss", 1, "validation loss, nats a token"),
                                    (panels[1], "accuracy", 100, "validation token accuracy, %")):
        for way, points in curves.items():
            colour, line, marker = LOOKS[way]
            axes.plot([point["step"] for point in points], [factor * point[key] for point in points], color=colour,
                      linestyle=line, marker=marker, label=way)
        axes.axhline(factor * next(iter(curves.values()))[0][key], color=GREY, linestyle=":", label="before training")
        axes.set_xlabel("training steps")
        axes.set_ylabel(unit)
    fig.suptitle(title, x=0.02, ha="left", fontsize=12)
    fig.legend(*panels[0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.0, 0.95), ncols=3)
    fig.tight_layout(rect=(0, 0, 1, 0.9))
    return fig
