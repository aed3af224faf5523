"""gpt/evaluate/calibration.py against numbers worked out by hand, scikit-learn's, and loops over all thresholds."""

import json
import math

import numpy as np
import pytest
import torch

from gpt.evaluate import calibration
from gpt.evaluate.calibration import average_precision, brier_score, measures, reliability, threshold_for
from gpt.evaluate.metrics import wilson_interval

# Ten messages, those of tests/evaluate/test_metrics.py. Spam is 2 of the 2 at 0.9, 3 of 3 from 0.8 up, 4 of 9 from 0.2 up.
LABELS = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
SPAM = [0.1, 0.2, 0.2, 0.3, 0.6, 0.7, 0.2, 0.8, 0.9, 0.9]
# Sixty messages with 26 positives and sixteen different scores, so ties in every class: no order, or nearly none.
MANY = np.arange(60)
MANY_LABELS, MANY_SCORES = (MANY * MANY % 7 < 2).astype(int), MANY * 37 % 16 / 16
BRIER = pytest.param(brier_score, marks=pytest.mark.exercise("E10.4"))
ALL = [pytest.param(average_precision, marks=pytest.mark.exercise("E10.3")), BRIER, reliability,
       pytest.param(threshold_for, marks=pytest.mark.exercise("E10.7")), measures]


def ties(rng, n=40):
    """Random labels, both classes present, and scores in eighths."""
    return np.append(rng.integers(0, 2, n - 2), [0, 1]), rng.integers(0, 9, n) / 8


# ---- average precision ------------------------------------------------------------------------------------------

@pytest.mark.exercise("E10.3")
def test_average_precision_is_the_one_worked_out_by_hand():
    assert average_precision([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6]) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(LABELS, SPAM) == pytest.approx(2 / 4 * 1 + 1 / 4 * 1 + 1 / 4 * 4 / 9), (
        "is precision taken after each group of equal scores, and weighted with how many positives it adds?")
    assert average_precision([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]) == 1.0, "a perfect order; sorted ascending it is 0.42"
    assert average_precision([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4]) == pytest.approx((1 / 3 + 2 / 4) / 2)


@pytest.mark.exercise("E10.3")
@pytest.mark.parametrize("labels, scores, expected", [    # average_precision_score of scikit-learn 1.9.1
    (LABELS, SPAM, 0.8611111111111112),
    ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.8333333333333333),
    (MANY_LABELS, MANY_SCORES, 0.4047582192266127),
])
def test_average_precision_is_scikit_learns(labels, scores, expected):
    assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-12), (
        "equal scores split? And a line between the points, as under the ROC curve, is another measure")


@pytest.mark.exercise("E10.3")
def test_tied_scores_enter_together(numbers):
    assert average_precision([1, 0, 0, 0], [0.5] * 4) == 0.25, "split by their order in the list the positive is first"
    assert average_precision([0, 0, 0, 1], [0.5] * 4) == 0.25, "and here last: the score knows neither"
    for seed in range(20):
        labels, scores = ties(numbers(seed))
        order = numbers(seed).permutation(len(labels))
        assert average_precision(labels, scores) == average_precision(labels[order], scores[order])


@pytest.mark.exercise("E10.3")
def test_average_precision_is_the_mean_precision_at_the_positives(numbers):
    for seed in range(20):
        labels, scores = ties(numbers(seed))
        precisions = [labels[scores >= s].mean() for s in scores[labels == 1]]
        assert average_precision(labels, scores) == pytest.approx(np.mean(precisions))


@pytest.mark.exercise("E10.3")
def test_scores_that_differ_in_the_ninth_digit_are_in_order():
    found = average_precision([0, 1, 0, 1], [0.5, 0.500000002, 0.500000001, 0.500000003])
    assert found == 1.0, "these are four scores, not one: were they rounded, or made float32?"
    assert type(found) is float, "a plain number, not a tensor of one"


@pytest.mark.exercise("E10.3")
def test_only_the_order_of_the_scores_counts(numbers):
    labels, scores = ties(numbers(0))
    assert average_precision(labels, scores) == average_precision(labels, np.exp(5 * scores) - 100)


@pytest.mark.exercise("E10.3")
def test_average_precision_is_unknown_without_a_positive():
    assert average_precision([0, 0], [0.2, 0.3]) is None and average_precision([], []) is None
    assert average_precision([1, 1], [0.2, 0.3]) == 1.0, "without a negative every precision is 1"


# ---- Brier ------------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E10.4")
def test_the_brier_score_is_the_mean_square():
    assert brier_score([1, 0, 1], [1.0, 0.0, 0.5]) == pytest.approx(0.25 / 3), "not squared, the root taken, or no mean?"
    assert brier_score([0, 1, 1], [0.5] * 3) == 0.25, "summed over both classes, as Brier did, it is 0.5"
    assert (brier_score([0, 1], [0, 1]), brier_score([0, 1], [1, 0])) == (0.0, 1.0)
    assert type(brier_score([0, 1], [0.5, 0.5])) is float, "a plain number, not a tensor of one"
    assert brier_score([], []) is None


@pytest.mark.exercise("E10.4")
def test_the_brier_score_is_scikit_learns():    # brier_score_loss of scikit-learn 1.9.1
    assert brier_score(LABELS, SPAM) == pytest.approx(0.173, abs=1e-12)
    assert brier_score(MANY_LABELS, MANY_SCORES) == pytest.approx(0.351171875, abs=1e-12)


@pytest.mark.exercise("E10.4")
def test_to_exaggerate_costs():
    labels = [1] * 7 + [0] * 3
    scores = {p: brier_score(labels, [p] * 10) for p in (0.5, 0.6, 0.7, 0.8, 0.99)}
    assert min(scores, key=scores.get) == 0.7, "where 7 in 10 are spam, to say 0.7 is best: is the error not squared?"


# ---- reliability ------------------------------------------------------------------------------------------------

def test_each_bin_says_what_was_predicted_and_what_came_true():
    low, middle, high = reliability([0, 1, 0, 1, 1], [0.02, 0.06, 0.55, 0.99, 1.0])
    assert low == {"low": 0.0, "high": 0.1, "n": 2, "predicted": pytest.approx(0.04), "observed": 0.5,
                   "interval": list(wilson_interval(1, 2))}
    assert (middle["low"], middle["high"], middle["n"], middle["observed"]) == (0.5, 0.6, 1, 0.0)
    assert (high["low"], high["high"], high["n"], high["observed"]) == (0.9, 1.0, 2, 1.0), "p = 1 has no bin of its own"
    assert high["predicted"] == pytest.approx(0.995), "the mean of the probabilities, not the middle of the bin"
    assert reliability([], []) == [], "an empty bin has no row"
    json.dumps([low, middle, high])


@pytest.mark.parametrize("number", [torch.float32, torch.float64])
@pytest.mark.parametrize("bins", [1, 2, 3, 5, 7, 10, 20, 100])
def test_a_boundary_belongs_to_the_bin_above_and_1_to_the_last(bins, number, monkeypatch):
    monkeypatch.setattr(calibration, "BINS", bins)
    boundaries = torch.tensor([k / bins for k in range(bins + 1)], dtype=number)
    rows = reliability([0] * (bins + 1), boundaries)
    assert [row["n"] for row in rows] == [1] * (bins - 1) + [2], (
        "rounding: 0.29 * 100 is 28.999999999999996, and 0.7 is 0.69999999 in float32")
    assert [(row["low"], row["high"]) for row in rows] == [(k / bins, (k + 1) / bins) for k in range(bins)]


def test_what_lies_between_two_boundaries_is_counted_between_them():
    labels, p = np.arange(1000) % 3 % 2, np.random.default_rng(0).random(1000)
    rows = reliability(labels, p)
    assert sum(row["n"] for row in rows) == 1000, "a message is in one bin"
    for row in rows:
        inside = (row["low"] <= p) & (p < row["high"])
        assert row["n"] == inside.sum() and row["predicted"] == pytest.approx(p[inside].mean())
        assert row["observed"] == pytest.approx(labels[inside].mean())
        assert row["interval"] == list(wilson_interval(int(labels[inside].sum()), int(inside.sum())))


@pytest.mark.parametrize("function", ALL)
def test_lists_arrays_and_tensors_give_the_same(function):
    assert function(LABELS, SPAM) == function(np.array(LABELS), np.array(SPAM))
    assert function(LABELS, SPAM) == function(torch.tensor(LABELS), torch.tensor(SPAM, dtype=torch.float64))


# ---- the threshold ----------------------------------------------------------------------------------------------

@pytest.mark.exercise("E10.7")
@pytest.mark.parametrize("most_lost, threshold", [
    (0, 0.75), (0.16, 0.75),    # of 6 ham messages 16 % lets none go, and the highest has 0.7
    (1 / 6, 0.65),              # one may go: 0.7, and the next lower score of any message is 0.6
    (0.34, 0.45),               # two: 0.7 and 0.6; the next is 0.3
    (0.5, 0.25),                # three; the next is 0.2, which two of ham share
    (0.8, 0.25),                # the fourth would be allowed, but with it comes the fifth
    (0.84, 0.15),
    (1, 0.0),
])
def test_the_threshold_is_halfway_below_the_lowest_score_that_may_be_called_spam(most_lost, threshold):
    assert threshold_for(LABELS, SPAM, most_lost) == pytest.approx(threshold), (
        "halfway between scores of ham alone, on a message's score, or equal scores split?")


def by_trying(labels, scores, most_lost):
    """All the scores that may be called spam, found by drawing the line at each in turn."""
    return [s for s in sorted(set(scores.tolist()))
            if sum((labels == 0) & (scores >= s)) / sum(labels == 0) <= most_lost]


@pytest.mark.exercise("E10.7")
@pytest.mark.parametrize("most_lost", [0, 0.01, 0.1, 0.25, 0.29, 0.5, 0.99, 1])
def test_no_lower_threshold_would_keep_the_promise(most_lost, numbers):
    for seed in range(40):
        labels, scores = ties(numbers(seed), 5 + seed)
        threshold, may = threshold_for(labels, scores, most_lost), by_trying(labels, scores, most_lost)
        assert sorted({s for s in scores.tolist() if s >= threshold}) == may, "too much called spam, or too little"
        assert threshold not in scores or threshold == 0, "on a message's score rounding decides"


@pytest.mark.exercise("E10.7")
def test_a_share_that_is_just_reached_is_allowed():
    scores = np.arange(100) / 100
    for lost in range(1, 100):
        assert (scores >= threshold_for([0] * 100, scores, lost / 100)).sum() == lost, (
            "0.29 * 100 is 28.999999999999996: compare the shares, not the numbers of messages")
        barely_less = threshold_for([0] * 100, scores, math.nextafter(lost / 100, 0))
        assert (scores >= barely_less).sum() == lost - 1, "is the share in float32, whose digits end too early?"


@pytest.mark.exercise("E10.7")
def test_a_threshold_may_call_nothing_or_everything_spam():
    assert threshold_for([0, 1], [0.9, 0.8]) == math.inf, "the highest score is that of ham"
    assert threshold_for([0, 1], [0.9, 0.9]) == math.inf, "ham and spam that share a score fall together"
    assert threshold_for([0, 1], [0.3, 0.9], most_lost=1) == 0.0
    assert threshold_for([0, 1], [-3.0, 2.0], most_lost=1) == -3.0, "of logits, 0 would not call everything spam"
    assert threshold_for([0, 1], [-3.0, 2.0], most_lost=0) == -0.5


@pytest.mark.exercise("E10.7")
def test_between_two_neighbouring_numbers_the_upper_is_the_threshold():
    for below in (0.1, 0.3, 1 - 2**-52, 1 - 2**-53):
        above = math.nextafter(below, 2)
        assert threshold_for([0, 1], [below, above]) == above, "half of their sum is rounded to the lower one"


@pytest.mark.exercise("E10.7")
def test_without_ham_no_threshold_can_be_wrong_and_that_is_an_error():
    with pytest.raises(ValueError, match="0 of 2 messages are ham"):
        threshold_for([1, 1], [0.2, 0.3])
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=f"most_lost is {wrong}"):
            threshold_for([0, 1], [0.2, 0.3], wrong)


# ---- all at once ------------------------------------------------------------------------------------------------

def test_the_measures_agree_with_a_calculation_by_hand():
    found = measures(LABELS, SPAM)
    assert found == {"n": 10, "accuracy": 0.7, "precision": 3 / 5, "recall": 3 / 4, "f1": 6 / 9, "ham_lost": 2 / 6,
                     "roc_auc": 20 / 24, "average_precision": average_precision(LABELS, SPAM),
                     "brier": brier_score(LABELS, SPAM)}, "precision and ham_lost differ in what they are a share of"
    assert found == json.loads(json.dumps(found))


def test_the_threshold_moves_what_it_decides_and_nothing_else():
    strict, usual = measures(LABELS, SPAM, 0.75), measures(LABELS, SPAM)
    assert (strict["precision"], strict["recall"], strict["ham_lost"], strict["accuracy"]) == (1.0, 3 / 4, 0.0, 0.9)
    assert {key for key in usual if usual[key] != strict[key]} == {"accuracy", "precision", "f1", "ham_lost"}
    nothing = measures(LABELS, SPAM, math.inf)
    assert (nothing["precision"], nothing["recall"], nothing["ham_lost"], nothing["accuracy"]) == (None, 0.0, 0.0, 0.6)


def test_a_probability_on_the_threshold_is_called_class_1():
    assert measures([1, 0], [0.5, 0.5])["recall"] == 1.0, "is it > and not >=?"
    assert measures([1, 0], [0.5, 0.5])["ham_lost"] == 1.0


def test_measures_that_cannot_be_known_are_none():
    only_ham = measures([0, 0], [0.1, 0.2])
    assert [key for key, value in only_ham.items() if value is None] == [
        "precision", "recall", "f1", "roc_auc", "average_precision"]
    assert measures([1], [0.9])["ham_lost"] is None, "no ham, so none that could be lost"
    assert {key for key, value in measures([], []).items() if value is not None} == {"n"}


@pytest.mark.parametrize("function", ALL)
def test_numbers_that_do_not_fit_are_an_error(function):
    for labels, scores, reason in [
            ([0, 1, 0], [0.2, 0.3], r"labels \(3,\) and scores \(2,\)"),
            ([0, 1], [[0.8, 0.2], [0.7, 0.3]], r"labels \(2,\) and scores \(2, 2\)"),
            ([0, 1], [0.2, math.nan], "1 scores are NaN"),
            ([0, 1], [0.2, math.inf], "1 scores are NaN or infinite"),
            ([0, 2], [0.2, 0.3], "1 labels neither 0 nor 1, of 2")]:
        with pytest.raises(ValueError, match=reason):
            function(labels, scores)


@pytest.mark.parametrize("function", [BRIER, reliability, measures])
@pytest.mark.parametrize("probabilities, reason", [([-0.1, 1.0], "between -0.1 and 1"), ([2.5, 88], "2.5 and 88")])
def test_a_probability_outside_0_and_1_is_an_error(function, probabilities, reason):
    with pytest.raises(ValueError, match=f"{reason}, not 0 and 1"):
        function([0, 1], probabilities)
