"""gpt/plots.py: what is drawn is what was given."""

import matplotlib
import matplotlib.pyplot as plt
import pytest

from gpt.evaluate.calibration import reliability
from gpt.plots import LOOKS, plot_learning_curves, plot_reliability

matplotlib.use("Agg")

ROWS = [{"predicted": 0.05, "observed": 0.0, "interval": [0.0, 0.25]}, {"predicted": 0.75, "observed": 0.5,
        "interval": [0.25, 0.75]}, {"predicted": 1.0, "observed": 1.0, "interval": [0.5, 1.0]}]
CURVES = {"LoRA": {16: (0.75, 0.5, 1.0), 1045: (0.875, 0.75, 0.9375)}, "all": {16: (0.5, -0.25, 1.25), 64: (1, 1, 1)}}


@pytest.fixture(autouse=True)
def figures_are_closed():
    yield
    plt.close("all")


def segments(axes):
    """[(x, from, to), ...] of each set of vertical lines."""
    return [[(bar[0][0], bar[0][1], bar[1][1]) for bar in part.get_segments()] for part in axes.collections]


def names_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_reliability_is_observed_over_predicted_in_per_cent_with_its_intervals():
    axes, = plot_reliability({"as learnt": ROWS}, "says too much").axes
    diagonal, curve = axes.lines
    assert [list(data) for data in diagonal.get_data()] == [[0, 100], [0, 100]], "what is true lies on the diagonal"
    assert [list(data) for data in curve.get_data()] == [[5, 75, 100], [0, 50, 100]], "predicted goes along the x axis"
    assert segments(axes) == [[(5, 0, 25), (75, 25, 75), (100, 50, 100)]]
    assert axes.get_xlabel().endswith(", %") and axes.get_ylabel().endswith(", %")
    assert axes.get_title(loc="left") == "says too much" and names_of(axes) == ["as learnt"]
    assert axes.texts[0].get_text() == "as it should be", "an unnamed line"


def test_reliabilitys_own_rows_can_be_drawn():
    rows = reliability([0, 0, 1, 1, 0, 1], [0.05, 0.04, 0.97, 1.0, 0.55, 0.52])
    axes, = plot_reliability({"model": rows}, "t").axes
    assert list(axes.lines[1].get_ydata()) == [100 * row["observed"] for row in rows] and len(rows) == 3


def test_several_curves_stand_a_little_apart_and_look_different():
    axes, = plot_reliability({name: ROWS for name in "abcd"}, "t").axes
    curves = axes.lines[1:]
    assert len(curves) == 4 and names_of(axes) == list("abcd")
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in curves}) == 4 == len(LOOKS)
    assert len({line.get_xdata()[0] for line in curves}) == 4, "intervals hide each other"
    for line, bars in zip(curves, segments(axes)):
        assert [bar[0] for bar in bars] == list(line.get_xdata()), "an interval stands beside another point"
    low, high = axes.get_xlim()
    assert all(low < x < high for line in curves for x in line.get_xdata()), "a point is cut off"
    assert axes.get_ylim()[0] < 0 and axes.get_ylim()[1] > 100, "half of a point at 0 or 100 % is cut off"


def test_learning_curves_are_accuracies_in_per_cent_over_the_number_of_messages():
    axes, = plot_learning_curves(CURVES, "mini").axes
    lora, everything = axes.lines
    assert [list(data) for data in lora.get_data()] == [[16, 1045], [75, 87.5]]
    assert everything.get_xdata() == pytest.approx([16, 64], rel=0.1) and list(everything.get_ydata()) == [50, 100]
    assert everything.get_xdata()[0] != 16, "intervals hide each other"
    assert names_of(axes) == ["LoRA", "all"] and lora.get_color() != everything.get_color()
    assert axes.get_title(loc="left") == "mini" and ", % (bars: 95 % intervals)" in axes.get_ylabel()
    assert axes.get_xlabel().startswith("messages trained on")


def test_an_interval_of_an_accuracy_ends_at_0_and_100_per_cent():
    axes, = plot_learning_curves(CURVES, "mini").axes
    lora, everything = segments(axes)
    assert lora == [(16, 50, 100), (1045, 75, 93.75)]
    assert [bar[1:] for bar in everything] == [(0, 100), (100, 100)], "no accuracy is below 0 or above 100 %"
    assert [bar[0] for bar in everything] == list(axes.lines[1].get_xdata()), "an interval stands beside another point"


def test_each_number_of_messages_has_its_mark_on_a_scale_that_doubles():
    axes, = plot_learning_curves(CURVES, "mini").axes
    assert axes.get_xscale() == "log" and list(axes.get_xticks()) == [16, 64, 1045]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["16", "64", "1,045"]
    assert not list(axes.get_xticks(minor=True)), "marks in between have no meaning"


@pytest.mark.parametrize("draw, given", [(plot_reliability, {"model": ROWS}), (plot_learning_curves, CURVES)])
def test_a_title_of_the_chapter_fits(draw, given):
    for title in ("Learnt from half spam, it says spam too often", "gpt2-medium (355M): what more messages bring"):
        fig = draw(given, title)
        fig.canvas.draw()
        assert fig.axes[0]._left_title.get_window_extent().x1 <= fig.bbox.x1    # matplotlib has no public name for it
