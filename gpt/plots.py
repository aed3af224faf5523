"""The figures: one message each, legible on a slide, in colours that colour-blind readers can tell apart.

Read along: chapters/02_attention.py and those after it. Colours: Okabe and Ito 2008.
"""

import matplotlib.pyplot as plt

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"
STYLE = {"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}


@plt.rc_context(STYLE)
def plot_values(epochs_seen, examples_seen, train_values, val_values, label="loss"):
    """Training against validation over the epochs, with the number of messages seen along the top.

    Input: epochs_seen, examples_seen, train_values, val_values: sequences of one length; label, the name of the values
    Output: a matplotlib Figure; plt.show() shows it
    """
    fig, axes = plt.subplots(figsize=(7, 4.2))
    axes.plot(epochs_seen, train_values, color=BLUE, label=f"training {label}")
    axes.plot(epochs_seen, val_values, color=ORANGE, linestyle="--", label=f"validation {label}")
    axes.set_xlabel("epochs")
    axes.set_ylabel(f"{label}, nats a message" if label == "loss" else label)
    axes.set_ylim(bottom=0)
    axes.legend()
    top = axes.twiny()    # a second x axis over the same values: an invisible line gives it its scale
    top.plot(examples_seen, train_values, alpha=0)
    top.set_xlabel("messages seen")
    top.spines["top"].set_visible(True)
    fig.tight_layout()
    return fig


@plt.rc_context(STYLE)
def plot_accuracies(rows, title, measure="test accuracy", by_value=True):
    """Accuracies as points with their 95 % intervals, one row each, the best at the top, or in the order given.

    Input: rows, tuples (name, accuracy, low, high), each 0..1; the name of our own model begins with "GPT-2"; measure,
        what they are the values of, if no accuracy; by_value=False keeps rows that belong together under each other
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
    axes.set_ylim(-0.5, len(rows) - 0.3)
    axes.set_xlabel(f"{measure}, % (line: 95 % interval)")
    axes.set_title(title, loc="left", fontsize=12)
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
    fig, axes = plt.subplots(figsize=(7, 4.2))
    looks = [(GREY, ":", "s"), (ORANGE, "--", "^"), (BLUE, "-", "o")]
    for (way, times), (colour, line, marker) in zip(milliseconds.items(), looks, strict=False):
        axes.plot(positions, times, color=colour, linestyle=line, marker=marker, label=way)
    axes.set_xlabel("tokens in the text")
    axes.set_ylabel("time for one more token, ms")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{model}: without a cache each token takes longer", loc="left", fontsize=12)
    axes.legend()
    fig.tight_layout()
    return fig


@plt.rc_context(STYLE)
def plot_padding(panels):
    """What a pass over the messages computes: a row of tokens for each, and the padding behind it.

    Input: panels, one to three tuples (title, lengths (N,), widths (N,)), in tokens: a row has lengths[i] real ones and
        is padded to widths[i]
    Output: a matplotlib Figure
    """
    fig, all_axes = plt.subplots(1, len(panels), figsize=(7, 4.2), sharex=True, sharey=True, squeeze=False)
    for axes, (title, lengths, widths) in zip(all_axes[0], panels):
        rows = range(len(lengths))
        axes.fill_betweenx(rows, lengths, widths, step="mid", color=ORANGE, linewidth=0, label="padding")
        axes.fill_betweenx(rows, 0, lengths, step="mid", color=BLUE, linewidth=0, label="tokens of the message")
        axes.set_xlabel("tokens")
        axes.set_title(title, loc="left", fontsize=12)
    all_axes[0][0].set_ylabel("messages")
    all_axes[0][0].set_xlim(left=0)
    all_axes[0][-1].legend(loc="lower right")
    fig.tight_layout()
    return fig


@plt.rc_context(STYLE)
def plot_attention(weights, tokens, titles):
    """Attention weights as heat maps side by side: one row for each token that looks, one column for what it looks at.

    The future, which the mask hides, is grey: white is a weight of 0.

    Input: weights, a list of (T, T) tensors, each row with sum 1; tokens, T strings; titles, one for each map
    Output: a matplotlib Figure
    """
    T, width = len(tokens), 2 + 0.36 * len(tokens)
    fig, all_axes = plt.subplots(1, len(weights), figsize=(width * len(weights), width), squeeze=False,
                                 sharey=True, layout="constrained")
    colours = plt.get_cmap("Blues").with_extremes(bad="#D9D9D9")
    for axes, matrix, title in zip(all_axes[0], weights, titles):
        matrix = [[100 * matrix[t, s].item() if s <= t else float("nan") for s in range(T)] for t in range(T)]
        image = axes.imshow(matrix, cmap=colours, vmin=0, vmax=100)
        axes.set_xticks(range(T), tokens, rotation=90)
        axes.set_yticks(range(T), tokens)
        axes.set_xlabel("token that is looked at (key)")
        axes.set_title(title, loc="left", fontsize=12)
    all_axes[0][0].set_ylabel("token that looks (query)")
    fig.colorbar(image, ax=all_axes, label="weight, % of a row", shrink=0.8)
    return fig


@plt.rc_context(STYLE)
def plot_text_losses(steps, train_values, held_out_values, levels, title):
    """Loss of the text that is learnt and of held-out text, with lines to measure them by.

    Input: steps, train_values, held_out_values: sequences of one length, losses in nats a token; levels, {name: loss}
    Output: a matplotlib Figure
    """
    fig, axes = plt.subplots(figsize=(7, 4.2))
    for name, level in levels.items():
        axes.axhline(level, color=GREY, linestyle=":")
        axes.annotate(name, (1.01, level), xycoords=("axes fraction", "data"), va="center", color=GREY)
    axes.plot(steps, train_values, color=BLUE, label="training loss")
    axes.plot(steps, held_out_values, color=ORANGE, linestyle="--", label="held-out loss")
    lowest = min(range(len(steps)), key=held_out_values.__getitem__)
    axes.plot(steps[lowest], held_out_values[lowest], "o", color=ORANGE, markersize=9, label="its lowest point")
    axes.set_xlabel("training steps")
    axes.set_ylabel("loss, nats a token")
    axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left", fontsize=12)
    axes.legend(loc="center right")
    fig.tight_layout()
    return fig
