"""gpt/plots.py: what is drawn is what was given."""

import io

import matplotlib
import pytest

from gpt.config import GPT2_SIZES
from gpt.plots import (
    plot_accuracies, plot_cost, plot_distributions, plot_inside, plot_learning, plot_padding, plot_rank_accuracy,
    plot_text_losses, plot_token_times,
)

matplotlib.use("Agg")


def test_the_best_stands_at_the_top_or_what_was_given_first():
    rows = [("GPT-2: rare", 0.5, 0.25, 0.75), ("counting: rare", 0.125, 0.0, 0.5), ("GPT-2: frequent", 0.75, 0.5, 1.0)]
    for by_value, order in ((True, [1, 0, 2]), (False, [2, 1, 0])):
        axes, = plot_accuracies(rows, "how much is found", "recall", by_value).axes
        names = [tick.get_text() for tick in axes.get_yticklabels()]
        assert names == [rows[i][0] for i in order], "from the bottom to the top"
        for y, i in enumerate(order):
            interval, point = axes.lines[2 * y:2 * y + 2]
            drawn = [list(line.get_data()[0]) for line in (point, interval)]
            assert drawn == [[100 * rows[i][1]], [100 * rows[i][2], 100 * rows[i][3]]], "another row's value"
            assert set(interval.get_ydata()) == set(point.get_ydata()) == {y}
        assert axes.get_xlabel().startswith("recall, %")


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
    assert drawn["validation loss"] == ([7, 14, 21], [6.0, 5.5, 7.0])
    assert drawn["its lowest point"] == ([14], [5.5]), "overfitting begins where the validation loss is lowest"
    assert [text.get_text() for text in axes.texts] == ["ln V", "counting"] and axes.get_ylim()[0] == 0


def test_a_distribution_keeps_its_outline_where_a_way_of_choosing_leaves_nothing():
    ways = {"as it is": [0.7, 0.3], "greedy": [1.0, 0.0]}
    panels = plot_distributions(["mat", "sofa"], [0.7, 0.3], ways).axes
    heights = [[bar.get_height() for bar in axes.patches] for axes in panels[:2]]
    assert heights == [[0.7, 0.3, 0.7, 0.3], [0.7, 0.3, 1.0, 0.0]], "first the outlines, then the bars"
    assert [axes.get_title(loc="left") for axes in panels[:2]] == list(ways)
    assert [text.get_text() for text in panels[1].texts] == ["1.00"], "nothing is written over an empty bar"


@pytest.mark.parametrize("model", GPT2_SIZES)
def test_a_title_is_not_cut_off(model):
    fig = plot_token_times([16, 64, 256], {"cache": [1.0, 1.0, 2.0]}, model)
    fig.canvas.draw()
    titles = [axes._left_title for axes in fig.axes]    # matplotlib has no public name for a title on the left
    assert all(title.get_window_extent().x1 <= fig.bbox.x1 for title in titles)


def test_accuracy_over_rank_stands_between_the_levels_to_reach_with_its_intervals():
    intervals, levels = [(0.75, 0.5, 1.0), (0.5, 0.25, 0.75)], {"all": (1.0, 0.75, 1.0), "before": (0.25, 0.0, 0.5)}
    axes, = plot_rank_accuracy([1, 64], intervals, levels).axes
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert drawn["LoRA"] == ([1, 64], [75, 50]), "accuracies are not in per cent"
    assert drawn["all"][1] == [100, 100] and drawn["before"][1] == [25, 25]
    bars, = (part for part in axes.collections if hasattr(part, "get_segments"))
    assert [bar.tolist() for bar in bars.get_segments()] == [[[1, 50], [1, 100]], [[64, 25], [64, 75]]]
    assert axes.get_title(loc="left") == "LoRA 50.0 to 75.0 %; all 100.0 %, before 25.0 %"
    assert axes.get_xscale() == "log" and [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "64"]


def test_an_interval_of_an_accuracy_is_drawn_no_further_than_0_and_100_per_cent():
    axes, = plot_rank_accuracy([1], [(0.75, -0.25, 1.75)], {}).axes
    bar, = axes.collections[0].get_segments()
    assert bar.tolist() == [[1, 0], [1, 100]], "no accuracy is below 0 or above 100 %"


def test_what_is_inside_is_drawn_from_one_direction_on_and_each_cut_at_its_rank():
    curves = {"A": [0.5, 0.25], "dW": [1.0, 0.75], "chance": [0.1, 0.2]}
    left, right = plot_inside(curves, {0: 0.5, 16: 0.2, 128: 0.1}).axes
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in left.lines}
    assert drawn == {name: ([1, 2], phi) for name, phi in curves.items()}, "phi(i, i) begins with i = 1"
    assert len({(line.get_color(), line.get_linestyle()) for line in left.lines}) == 3, "two curves look alike"
    assert [list(data) for data in right.lines[0].get_data()] == [[0, 16, 128], [0.5, 0.2, 0.1]]
    assert right.get_xscale() == "symlog", "of ranks that double 0 to 16 must stay apart, and 0 has no logarithm"
    assert right.get_ylim()[1] > 0.5, "the highest point is cut in half"
    assert right.get_ylim()[0] == 0, "a cut axis makes a small difference look large"
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["0", "16", "128"], "each cut needs its own rank"


def test_time_and_memory_of_training_are_bars_with_the_prediction_across():
    ways = ("all weights", "LoRA")
    fig = plot_cost(dict(zip(ways, (20.0, 14.0))), dict(zip(ways, (300e6, 200e6))), dict(zip(ways, (280e6, 190e6))), "m")
    times, memory = fig.axes
    assert [bar.get_height() for bar in times.patches] == [20.0, 14.0]
    assert [bar.get_height() for bar in memory.patches] == [300.0, 200.0]
    assert [list(line.get_ydata()) for line in memory.lines] == [[280.0] * 2, [190.0] * 2]
    assert times.get_ylim()[0] == memory.get_ylim()[0] == 0, "a cut axis makes a small difference look large"
    assert times.get_ylabel().endswith(", s") and memory.get_ylabel().endswith(", MB")
    assert [text.get_text() for text in memory.texts] == ["300 MB", "200 MB"]
    assert fig.get_suptitle() == "m: LoRA takes 30 % less time and 33 % less memory"
    slower = plot_cost(dict(zip(ways, (20.0, 21.0))), dict.fromkeys(ways), dict.fromkeys(ways, 1), "m")
    assert slower.get_suptitle() == "m: LoRA takes 5 % more time", "less of what is more, or of what nobody measured"


def test_where_no_peak_was_measured_there_is_no_bar():
    nothing = dict.fromkeys(("all weights", "LoRA"))
    memory = plot_cost({"all weights": 2.0, "LoRA": 1.0}, nothing, {"all weights": 1, "LoRA": 1}, "m").axes[1]
    assert not memory.patches and not memory.lines


def test_loss_and_accuracy_have_one_line_for_each_way_and_one_for_the_start():
    points = {"all weights": [(0, 7.0, 0.1), (5, 5.0, 0.2)], "LoRA": [(0, 7.0, 0.1), (5, 6.0, 0.15)]}
    curves = {way: [dict(zip(("step", "loss", "accuracy"), point)) for point in way_points]
              for way, way_points in points.items()}
    for axes, place, factor in zip(plot_learning(curves, "m").axes, (1, 2), (1, 100)):
        assert axes.get_ylabel().startswith("validation "), "the test part is scored once, not along the way"
        drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        assert drawn == {"before training": [factor * points["LoRA"][0][place]] * 2} | {
            way: [factor * point[place] for point in way_points] for way, way_points in points.items()}
        assert list(axes.lines[0].get_xdata()) == [0, 5]


def test_a_label_with_a_dollar_sign_is_no_formula():
    """matplotlib takes what stands between two dollar signs for mathematics, and stopped a run after its training."""
    names = ["$", "$$", "$_$", "$0_$50", "$5-$9", "a_b^{"]
    fig = plot_accuracies([(name, 0.5, 0.25, 0.75) for name in names], "$ and $$", "$x", by_value=False)
    fig.savefig(io.BytesIO(), format="png")
    assert not any(text.get_parse_math() for text in fig.findobj(matplotlib.text.Text))
