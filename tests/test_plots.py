"""gpt/plots.py: what is drawn is what was given."""

import matplotlib
import pytest

from gpt.config import GPT2_SIZES
from gpt.plots import plot_padding, plot_text_losses, plot_token_times

matplotlib.use("Agg")


def test_padding_is_drawn_from_the_end_of_a_message_to_the_width_of_its_batch():
    fig = plot_padding([("all to 9", [1, 4, 6], [9, 9, 9]), ("by length", [1, 4, 6], [1, 6, 6])])
    for axes, widths in zip(fig.axes, ([9, 9, 9], [1, 6, 6])):
        padding, message = (area.get_paths()[0].vertices for area in axes.collections)
        assert message[:, 0].min() == 0 and message[:, 0].max() == 6, "the messages are cut"
        assert padding[:, 0].max() == max(widths), "padding ends before, or behind, the batch's width"
        assert padding[:, 0].min() == 1, "padding covers the messages"
    assert [axes.get_title(loc="left") for axes in fig.axes] == ["all to 9", "by length"]
    assert fig.axes[0].get_xlim() == fig.axes[1].get_xlim(), "the two panels cannot be compared"
    assert fig.axes[0].get_xlim()[1] > 9, "the widest row is cut"


def test_the_time_of_a_token_has_one_line_for_each_way_from_zero():
    ways = {"no cache": [1.0, 4.0, 9.0], "cache": [1.0, 1.0, 2.0]}
    axes, = plot_token_times([16, 64, 256], ways, "mini").axes
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert drawn == {way: ([16, 64, 256], times) for way, times in ways.items()}
    assert axes.get_ylim()[0] == 0, "a cut axis makes a small difference look large"
    assert axes.get_ylabel().endswith("ms") and "mini" in axes.get_title(loc="left")


def test_two_losses_stand_beside_the_levels_to_beat_and_the_turn_is_marked():
    levels = {"ln V": 6.6, "counting": 6.2}
    axes, = plot_text_losses([7, 14, 21], (5.0, 3.0, 1.0), (6.0, 5.5, 7.0), levels, "a page").axes
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert drawn["training loss"] == ([7, 14, 21], [5.0, 3.0, 1.0])
    assert drawn["held-out loss"] == ([7, 14, 21], [6.0, 5.5, 7.0])
    assert drawn["its lowest point"] == ([14], [5.5]), "overfitting begins where the held-out loss is lowest"
    assert [text.get_text() for text in axes.texts] == ["ln V", "counting"] and axes.get_ylim()[0] == 0


@pytest.mark.parametrize("model", GPT2_SIZES)
def test_a_title_is_not_cut_off(model):
    fig = plot_token_times([16, 64, 256], {"cache": [1.0, 1.0, 2.0]}, model)
    fig.canvas.draw()
    titles = [axes._left_title for axes in fig.axes]    # matplotlib has no public name for a title on the left
    assert all(title.get_window_extent().x1 <= fig.bbox.x1 for title in titles)
