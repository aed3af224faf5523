"""gpt/evaluate/metrics.py against numbers worked out by hand, published ones, and a count over all pairs."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from gpt.evaluate.metrics import classification_report, confusion_matrix, format_report, roc_auc, wilson_interval
from gpt.evaluate.significance import mcnemar

# Ten messages. Class 1: 4 of them, predicted 5 times, 3 times rightly.
LABELS = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
SPAM = [0.1, 0.2, 0.2, 0.3, 0.6, 0.7, 0.2, 0.8, 0.9, 0.9]
PROBABILITIES = [[1 - p, p] for p in SPAM]


@pytest.mark.exercise("E5.9")
@pytest.mark.parametrize("correct, total, low, high", [
    (8, 10, 0.490, 0.943),
    (0, 10, 0.000, 0.278),
    (10, 10, 0.722, 1.000),
    (81, 263, 0.2553, 0.3662),    # Newcombe 1998, table I: 81 of 263 by Wilson's method
])
def test_the_interval_is_wilsons(correct, total, low, high):
    digits = 4 if total == 263 else 3
    assert [round(bound, digits) for bound in wilson_interval(correct, total)] == [low, high], (
        "p -+ z sqrt(p (1 - p) / n) is another interval; is everything divided by 1 + z^2 / n?")


@pytest.mark.exercise("E5.9")
def test_the_bounds_are_the_accuracies_at_which_the_observed_share_is_just_z_deviations_away():
    for bound in wilson_interval(285, 300):
        assert math.isclose(abs(285 / 300 - bound), 1.96 * math.sqrt(bound * (1 - bound) / 300)), "see Wilson 1927"


@pytest.mark.exercise("E5.9")
@pytest.mark.parametrize("z", [0.5, 1.96, 3.0])
def test_the_interval_stays_within_0_and_1_holds_the_share_and_is_a_mirror_image_for_the_wrong_answers(sizes, z):
    for total in (1, sizes.T, sizes.V):
        for correct in range(total + 1):
            low, high = wilson_interval(correct, total, z)
            assert 0 <= low <= correct / total + 1e-12 and correct / total - 1e-12 <= high <= 1, "a bound lies outside 0..1"
            if 0 < correct < total:
                for bound in (low, high):    # the equation that Wilson solved
                    reach = z * math.sqrt(bound * (1 - bound) / total)
                    assert math.isclose(abs(correct / total - bound), reach, abs_tol=1e-9), "is z taken from the argument?"
            assert (1 - high, 1 - low) == pytest.approx(wilson_interval(total - correct, total, z), abs=1e-12)
        assert high - low > 0.001, "as many right as there are messages is no certainty"


@pytest.mark.exercise("E5.9")
@pytest.mark.parametrize("correct, total", [(0, 0), (3, 2), (-1, 2)])
def test_an_interval_of_nothing_is_an_error(correct, total):
    with pytest.raises(ValueError, match=f"{correct} correct out of {total}"):
        wilson_interval(correct, total)


@pytest.mark.parametrize("only_first, only_second", [(0, 3), (1, 4), (2, 2), (5, 5), (0, 0), (7, 2)])
def test_p_is_the_share_of_all_throws_of_coins_that_are_as_uneven(only_first, only_second):
    n, reach = only_first + only_second, abs(only_first - only_second)
    throws = [abs(n - 2 * sum(throw)) >= reach for throw in itertools.product((0, 1), repeat=n)]
    assert mcnemar(only_first, only_second) == pytest.approx(sum(throws) / len(throws), abs=1e-12), (
        "one side only, the result itself left out, or an even one counted twice?")


def test_p_does_not_ask_who_is_first_and_bears_many_messages():
    assert mcnemar(24, 42) == mcnemar(42, 24) == pytest.approx(0.0356, abs=5e-5)
    assert mcnemar(2000, 2000) == 1 and 0 < mcnemar(900, 1100) < 1e-4, "2^n is no float for long"


@pytest.mark.parametrize("counts", [(-1, 2), (2, -1)])
def test_fewer_than_no_messages_are_an_error(counts):
    with pytest.raises(ValueError, match=f"{counts[0]} and {counts[1]} messages"):
        mcnemar(*counts)


def test_rows_of_the_confusion_matrix_are_true_and_columns_predicted():
    counts = confusion_matrix([0, 0, 1, 2, 2, 2], [0, 1, 1, 0, 0, 2], 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]], "transposed?"
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("labels, predictions, reason", [
    ([0, 1], [0], "2 labels but 1 predictions"),
    ([0, 2], [0, 1], "labels lie between 0 and 2"),
    ([0, 1], [-1, 1], "predictions lie between -1 and 1"),
])
def test_a_class_out_of_range_or_missing_is_an_error(labels, predictions, reason):
    with pytest.raises(ValueError, match=reason):
        confusion_matrix(labels, predictions, 2)


def auc_by_pairs(labels, scores):
    """The share of pairs of a positive and a negative in which the positive wins, a draw counting one half."""
    positives, negatives = ([s for y, s in zip(labels, scores) if y == k] for k in (1, 0))
    wins = [(p > n) + 0.5 * (p == n) for p, n in itertools.product(positives, negatives)]
    return sum(wins) / len(wins)


def test_auc_counts_the_pairs_in_the_right_order_and_ties_one_half():
    rng = np.random.default_rng(0)
    for n in (2, 10, 101):
        labels = np.arange(n) % 3 % 2
        scores = rng.integers(0, 8, n) / 8    # eighths: many ties
        assert math.isclose(roc_auc(labels, scores), auc_by_pairs(labels, scores))
    assert roc_auc([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]) == 1.0
    assert roc_auc([0, 0, 1, 1], [0.4, 0.3, 0.2, 0.1]) == 0.0
    assert roc_auc([0, 1, 1], [0.5, 0.5, 0.5]) == 0.5, "equal scores must not depend on their order"


def test_auc_is_unknown_when_a_class_is_absent_and_an_error_for_nan():
    assert roc_auc([1, 1], [0.2, 0.3]) is None and roc_auc([0], [0.2]) is None
    with pytest.raises(ValueError, match="1 scores are NaN"):
        roc_auc([0, 1], [0.2, float("nan")])


def test_the_report_agrees_with_a_calculation_by_hand():
    report = classification_report(LABELS, PROBABILITIES, {"ham": 0, "spam": 1})
    assert (report["n"], report["accuracy"], report["confusion"]) == (10, 0.7, [[4, 2], [1, 3]])
    assert report["interval"] == list(wilson_interval(7, 10))
    ham, spam = report["classes"]["ham"], report["classes"]["spam"]
    assert ham == {"messages": 6, "precision": 4 / 5, "recall": 4 / 6, "f1": 8 / 11, "roc_auc": 20 / 24}
    assert spam == {"messages": 4, "precision": 3 / 5, "recall": 3 / 4, "f1": 6 / 9, "roc_auc": 20 / 24}
    assert report["mean_recall"] == (4 / 6 + 3 / 4) / 2, "weighted by how many there are it is the accuracy"
    assert report["roc_auc"] == 20 / 24, "of 24 pairs 19 are in order and 2 are ties"
    almost_one = torch.tensor([[1.0, 1e-9], [1.0, 1e-8]])    # what float32 makes of 1 - 1e-9
    assert classification_report([0, 1], almost_one)["roc_auc"] == 1.0, "of class 0, where rounding makes a tie?"


def test_the_report_takes_tensors_and_arrays_alike_and_survives_json():
    report = classification_report(LABELS, PROBABILITIES)
    assert report == classification_report(torch.tensor(LABELS), torch.tensor(PROBABILITIES, dtype=torch.double))
    assert report == classification_report(np.array(LABELS), np.array(PROBABILITIES))
    assert report == json.loads(json.dumps(report))


def test_several_classes_are_measured_one_against_the_rest():
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.4, 0.5, 0.1], [0.1, 0.2, 0.7]])
    report = classification_report([0, 1, 0, 2], probabilities, ["a", "b", "c"])
    aucs = {name: scores["roc_auc"] for name, scores in report["classes"].items()}
    assert aucs == {"a": 1.0, "b": pytest.approx(2.5 / 3), "c": 1.0}
    assert report["roc_auc"] == pytest.approx((1 + 2.5 / 3 + 1) / 3)


def test_what_cannot_be_known_is_none_and_not_zero():
    report = classification_report([0, 0], [[0.9, 0.1, 0.0], [0.4, 0.6, 0.0]])
    scores = [[report["classes"][k][key] for key in ("precision", "recall", "f1", "roc_auc")] for k in "012"]
    assert scores == [[1.0, 0.5, 2 / 3, None], [0.0, None, 0.0, None], [None, None, None, None]]
    assert report["roc_auc"] is None
    assert report["mean_recall"] == 0.5, "a class that does not occur has no recall, and 0 would be a claim"
    found_none = classification_report([0, 1], [[0.9, 0.1], [0.8, 0.2]])
    assert found_none["mean_recall"] == 0.5, "a class that occurs and is never found counts, with 0"


def test_the_report_says_which_sizes_do_not_fit():
    with pytest.raises(ValueError, match="3 names for 2 classes"):
        classification_report(LABELS, PROBABILITIES, ["a", "b", "c"])
    with pytest.raises(ValueError, match="9 labels but 10 predictions"):
        classification_report(LABELS[1:], PROBABILITIES)


def test_the_printed_report_holds_the_numbers_in_columns():
    lines = format_report(classification_report(LABELS, PROBABILITIES, ["ham", "spam"])).splitlines()
    assert lines == [
        "accuracy 70.00 % of 10 messages (95 % interval: 39.68 to 89.22 %)",
        "       messages  precision     recall         F1    ROC AUC   taken for ham, spam",
        "ham           6      0.800      0.667      0.727      0.833   4, 2",
        "spam          4      0.600      0.750      0.667      0.833   1, 3"]
    unknown = format_report(classification_report([0], [[0.9, 0.1]])).splitlines()[-1]
    assert unknown.split() == ["1", "0", "-", "-", "-", "-", "0,", "0"]


def test_of_many_classes_the_largest_mistakes_are_shown_and_not_all_pairs():
    """52 classes make 52 x 52 numbers, in lines of over 400 characters."""
    labels = torch.arange(52).repeat(20)
    answers = torch.where(labels == 7, 9, torch.where((labels == 3) & (torch.arange(1040) < 520), 4, labels))
    names = [f"class {k}" for k in range(52)]
    lines = format_report(classification_report(labels, torch.eye(52)[answers], names)).splitlines()
    assert lines[-2:] == ["20 times class 7 taken for class 9", "10 times class 3 taken for class 4"]
    assert len(lines) == 2 + 52 + 2 and max(map(len, lines)) < 100
