"""gpt/experiments/comparison.py on records made by hand, small enough to be counted on fingers."""

import json

import pytest

from gpt.evaluate.calibration import average_precision, brier_score, measures
from gpt.evaluate.significance import holm, mcnemar, resampled_interval, spread
from gpt.experiments.comparison import all_pairs, answers, cell, right, seen_from, summary, tests_of

tests_of.__test__ = False    # it is no test, whatever pytest thinks of its name
TEXTS = [f"message {row}" for row in range(10)] + ["message 3"]    # row 10 is a copy of row 3


def record(seed, validation, test, **facts):
    """Input: validation, test: tuples (labels, P(spam), rows, how many of them are balanced)"""
    parts = {name: dict(zip(("labels", "spam", "rows", "n_balanced"), part))
             for name, part in (("validation", validation), ("test", test))}
    return {"seed": seed, "n_train": 20, "trainable_parameters": 258, "seconds_training": 2.0,
            "peak_memory_bytes": 1000, **parts, **facts}


# Balanced: the first two of validation and the first four of test. At 1/2 seed 1 gets all but row 3 right, of its
# balanced test messages three of four; seed 2 all four.
FIRST = record(1, ([1, 0, 0, 0], [0.9, 0.6, 0.2, 0.1], [6, 7, 8, 9], 2),
               ([1, 1, 0, 0, 0, 0], [0.9, 0.7, 0.2, 0.6, 0.1, 0.3], [0, 1, 2, 3, 4, 5], 4))
SECOND = record(2, ([1, 0, 0, 0], [0.8, 0.1, 0.3, 0.2], [0, 1, 2, 3], 2),
                ([1, 1, 0, 0, 0, 0], [0.9, 0.6, 0.2, 0.4, 0.1, 0.7], [6, 7, 10, 2, 8, 9], 4),
                n_train=22, seconds_training=4.0, peak_memory_bytes=3000)
NOTHING = record(1, ([1, 0], [0.5, 0.5], [6, 7], 2), ([1, 0], [0.5, 0.5], [0, 2], 2))    # the same for all
HAM = record(1, ([1, 0], [0.0, 0.0], [6, 7], 2), ([1, 0], [0.0, 0.0], [0, 2], 2))


# Which answers

def test_a_test_asks_about_the_balanced_messages_or_about_all():
    assert answers(FIRST, "balanced") == ([1, 1, 0, 0], [0.9, 0.7, 0.2, 0.6], [0, 1, 2, 3])
    assert answers(FIRST, "natural") == tuple(FIRST["test"][key] for key in ("labels", "spam", "rows"))
    assert answers(FIRST, "balanced", "validation") == ([1, 0], [0.9, 0.6], [6, 7])
    assert answers(NOTHING, "blog")[0] == [1, 0], "the blog's messages are all its own"


def test_what_trained_on_the_blogs_messages_is_asked_about_those_alone():
    assert [tests_of(condition) for condition in ("blog", "balanced", "natural")] == \
        [("blog",), ("balanced", "natural"), ("balanced", "natural")]


# Means and intervals

def test_a_spread_has_the_interval_for_seeds_that_share_their_messages():
    values = [0.97, 0.98, 0.96]
    found = spread(values)
    assert list(found.values()) == [values, *resampled_interval(values)] and found["mean"] == pytest.approx(0.97)
    assert found["high"] - 0.97 == pytest.approx(4.303 * 0.01 * (1 / 3 + 0.2 / 0.8)**0.5), "are seeds independent here?"
    unknown = spread([0.5, None, 0.7])
    assert unknown == dict(values=[0.5, None, 0.7], mean=None, sd=None, low=None, high=None), "a mean of those known?"


def test_a_cell_is_mean_and_reach_in_per_cent():
    assert cell(dict(mean=0.9744, high=0.9866, low=0.9622)) == "97.4 -+ 1.2"
    assert cell(spread([0.5, 0.5])) == "50.0 -+ 0.0"
    assert cell(spread([0.5, None])) == "-", "of what is unknown nothing can be said"


def test_a_summary_is_what_can_be_counted_by_hand():
    of = summary([FIRST, SECOND], "balanced")
    assert of["accuracy"]["values"] == [3 / 4, 1.0] and of["recall"]["values"] == [1.0, 1.0]
    assert of["precision"]["values"] == [2 / 3, 1.0] and of["ham_lost"]["values"] == [1 / 2, 0.0]
    assert of["roc_auc"]["values"] == [1.0, 1.0], "each spam scores above each ham"
    assert of["brier"]["values"][0] == pytest.approx((0.1**2 + 0.3**2 + 0.2**2 + 0.6**2) / 4)
    assert (of["n_test"], of["n_train"], of["trainable_parameters"], of["seeds"]) == (4, 20, 258, [1, 2])
    assert of["seconds_training"]["values"] == [2.0, 4.0] and of["peak_memory_bytes"]["mean"] == 2000
    natural = summary([FIRST, SECOND], "natural")
    assert natural["n_test"] == 6 and natural["accuracy"]["values"] == [5 / 6, 5 / 6]
    for key, function in (("average_precision", average_precision), ("brier", brier_score)):
        assert natural[key]["values"] == [function(*answers(one, "natural")[:2]) for one in (FIRST, SECOND)]
    assert measures([0, 1], [0.1, 0.9]).keys() - {"n"} <= of.keys(), "a measure is missing"


def test_the_line_is_drawn_on_validation_messages_and_tested_on_others(monkeypatch):
    of = summary([FIRST, SECOND], "natural")
    # Seed 1: the highest ham of validation has 0.6, the next score is 0.9; of the test's spam 0.9 is above and 0.7 not.
    # Seed 2: between 0.3 and 0.8; of the test's spam 0.9 and 0.6 are above, and so is one of its four ham, 0.7.
    assert of["threshold"] == pytest.approx([0.75, 0.55])
    assert of["kept_recall"]["values"] == [1 / 2, 1.0], "was the line drawn on the test messages, or left at 1/2?"
    assert of["kept_ham_lost"]["values"] == [0.0, 1 / 4], "the test may lose more than was allowed: that is its point"
    assert summary([FIRST, SECOND], "balanced")["threshold"] == pytest.approx([0.75, 0.45]), "the balanced ones alone"
    monkeypatch.setattr("gpt.experiments.comparison.MOST_LOST", 0.5)    # one of three ham may go: 0.6, and 0.3
    assert summary([FIRST, SECOND], "natural")["threshold"] == pytest.approx([0.4, 0.25])


@pytest.mark.parametrize("one", [NOTHING, HAM])
def test_where_nothing_may_be_called_spam_there_is_no_threshold_and_all_is_json(one):
    of = summary([one, one], "balanced")
    assert of["threshold"] == [None, None] and of["kept_recall"]["values"] == [0.0, 0.0]
    assert of["kept_ham_lost"]["mean"] == 0.0 and of["roc_auc"]["mean"] == 0.5
    assert (of["precision"]["mean"] is None) == (one is HAM), "a share of nothing is unknown"
    assert json.loads(json.dumps(of, allow_nan=False)) == of
    unknown = summary([one | {"peak_memory_bytes": None}] * 2, "balanced")["peak_memory_bytes"]
    assert unknown["mean"] is None, "where the system does not say (Windows)"


# Better, or luckier

def test_each_text_counts_once_with_the_seed_that_tested_it_first():
    found = right([FIRST, SECOND], "natural", TEXTS)
    assert found == {**{f"message {row}": row != 3 for row in (0, 1, 2, 3, 4, 5, 6, 7, 8)}, "message 9": False}
    assert len(found) == 10, "row 10 is message 3 again, and row 2 was tested twice"
    assert right([SECOND, FIRST], "natural", TEXTS)["message 3"], "the first seed's answer counts"
    assert len(right([FIRST, SECOND], "balanced", TEXTS)) == 4 + 2


def flipped(one, *rows):
    """The record of a method that answers the other way on these rows of the file."""
    test = one["test"]
    spam = [1 - p if row in rows else p for p, row in zip(test["spam"], test["rows"])]
    return one | {"test": test | {"spam": spam}}


def test_every_two_methods_are_compared_and_their_number_is_corrected_for():
    groups = {"a": [FIRST, SECOND], "b": [flipped(FIRST, 0, 1, 2), flipped(SECOND, 6)],
              "c": [flipped(FIRST, 3), SECOND]}
    rows = all_pairs(groups, "natural", TEXTS)
    assert [(row["first"], row["second"], row["messages"]) for row in rows] == \
        [("a", "b", 10), ("a", "c", 10), ("b", "c", 10)]
    assert [(row["only_first"], row["only_second"]) for row in rows] == [(4, 0), (0, 1), (0, 5)]
    p = [mcnemar(4, 0), mcnemar(0, 1), mcnemar(0, 5)]
    assert [row["p"] for row in rows] == p == [1 / 8, 1.0, 1 / 16]
    assert [row["p_adjusted"] for row in rows] == holm(p) == [2 / 8, 1.0, 3 / 16], "over all pairs, not each alone"


def test_who_is_named_first_does_not_matter():
    groups = {"a": [FIRST, SECOND], "b": [flipped(FIRST, 0, 1, 3), SECOND], "c": [flipped(FIRST, 4), SECOND]}
    there, back = (all_pairs(dict(order), "natural", TEXTS) for order in (groups.items(), reversed(groups.items())))
    for name in groups:
        others = [{row["second"]: row for row in seen_from(name, rows)} for rows in (there, back)]
        assert others[0] == others[1] and others[0].keys() == groups.keys() - {name}
    a, b = ([(row["only_first"], row["only_second"]) for row in seen_from(name, there) if row["second"] in "ab"]
            for name in "ab")
    assert a == [(2, 1)] and b == [(1, 2)], "turned round without its numbers"


def test_methods_with_other_seeds_cannot_be_compared():
    with pytest.raises(ValueError, match="same seeds"):
        all_pairs({"a": [FIRST, SECOND], "b": [FIRST, record(3, ([1, 0], [1, 0], [0, 1], 2), ([1], [1], [9], 1))]},
                  "natural", TEXTS)
