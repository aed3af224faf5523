"""gpt/evaluate/significance.py against simulated seeds, numbers worked out by hand, scipy's and statsmodels'."""

import itertools
import random

import pytest

from gpt.evaluate.significance import compare, counted_once, holm, mcnemar, mean_interval, resampled_interval, verdict

FIVE = [0.962, 0.951, 0.970, 0.958, 0.966]


# ---- the interval -----------------------------------------------------------------------------------------------

def covered(draws, interval):
    return sum(low <= 5.0 <= high for *_, low, high in map(interval, draws)) / len(draws)


@pytest.mark.exercise("E10.1")
@pytest.mark.parametrize("n, shared", [(10, 0.2), (5, 0.2), (5, 0.5)])
def test_the_interval_holds_the_true_mean_19_times_in_20_though_the_seeds_share_messages(n, shared, numbers):
    """Results of which a part is the same for all n seeds, so that any two have the correlation `shared`."""
    rng = numbers(0)
    common, own = rng.normal(size=(4000, 1)), rng.normal(size=(4000, n))
    draws = (5.0 + 2.0 * (shared**0.5 * common + (1 - shared) ** 0.5 * own)).tolist()
    right, naive = covered(draws, lambda values: resampled_interval(values, shared)), covered(draws, mean_interval)
    assert 0.93 < right < 0.97, f"{right:.1%}: is it 1/n + shared/(1 - shared), under the root?"
    assert naive < 0.9, f"{naive:.1%}: s / sqrt(n) takes the seeds for independent"


@pytest.mark.exercise("E10.1")
def test_the_interval_is_the_one_worked_out_by_hand():
    # scipy 1.17.1: t.interval(0.95, 4, loc=mean, scale=s * sqrt(1/5 + 0.2/0.8))
    mean, sd, low, high = resampled_interval(FIVE)
    assert (mean, sd) == pytest.approx((0.9614, 0.007334848328356906)), "s divides by n - 1, and no root of n is in it"
    assert (low, high) == pytest.approx((0.9477388743475913, 0.9750611256524088), abs=1e-5)
    mean, sd, low, high = resampled_interval([96.0, 97.0, 98.0], shared=0.5)
    assert (mean, sd, low, high) == pytest.approx((97, 1, 97 - 4.303 * (4 / 3) ** 0.5, 97 + 4.303 * (4 / 3) ** 0.5))


@pytest.mark.exercise("E10.1")
def test_large_results_that_differ_little_have_a_spread_and_keep_their_order():
    values = [1e9 + 2, 1e9, 1e9 + 1]
    mean, sd, low, high = resampled_interval(values, shared=0.5)
    assert (mean - 1e9, sd, high - low) == pytest.approx((1, 1, 2 * 4.303 * (4 / 3) ** 0.5), rel=1e-4), \
        "the mean of the squares minus the square of the mean loses all digits"
    assert values == [1e9 + 2, 1e9, 1e9 + 1], "the caller's list was sorted: a value's place says of which seed it is"


@pytest.mark.exercise("E10.1")
@pytest.mark.parametrize("n", range(2, 11))
def test_with_nothing_shared_it_is_the_plain_interval(n, numbers):
    values = numbers(n).normal(size=n).tolist()
    mean, _, low, high = resampled_interval(values, shared=0)
    assert (mean, low, high) == pytest.approx(mean_interval(values))


@pytest.mark.exercise("E10.1")
def test_more_seeds_do_not_average_away_what_they_share():
    def reach(n, shared):
        mean, sd, _, high = resampled_interval([0.0, 1.0] * (n // 2), shared)
        return (high - mean) / sd

    assert reach(10, 0.2) > 2.262 * 0.5, "however many seeds, sqrt(0.2 / 0.8) = 0.5 remains"
    assert reach(4, 0.1) < reach(4, 0.2) < reach(4, 0.5), "the more is shared, the less the seeds say"


@pytest.mark.exercise("E10.1")
def test_one_seed_has_no_interval_and_a_test_set_is_not_everything():
    for count in (0, 1, 11):
        with pytest.raises(ValueError, match=rf"\b{count} values\b"):
            resampled_interval([1.0] * count)
    for shared in (1, 20, -0.1):
        with pytest.raises(ValueError, match=f"holds {shared} of all"):
            resampled_interval(FIVE, shared)


# ---- two methods ------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E10.5")
def test_a_message_counts_once_with_the_first_seed_that_tested_it():
    outcomes = [{"a": True, "b": False}, {"b": True, "c": False}, {"c": True, "a": False, "d": True}]
    once = counted_once(outcomes)
    assert once == {"a": True, "b": False, "c": False, "d": True}, "is a later seed written over an earlier one?"
    assert outcomes[0] == {"a": True, "b": False}, "the first seed's outcome was changed"
    assert counted_once([]) == {}
    seeds = [{"a": 1, "b": 1, "c": 1}, {"a": 0}]
    assert counted_once(seeds) == {"a": 1, "b": 1, "c": 1} and len(seeds[0]) == 3, \
        "the first seed is the first in the list, not the one with the fewest messages"
    answers = [{1: (0, 0.25), 2: None}, {2: (1, 0.5), 1: (0, 0.75)}]    # label and probability; not known
    assert counted_once(answers) == {1: (0, 0.25), 2: None}, "an outcome is handed on as it is, whatever it is"


@pytest.mark.exercise("E10.5")
def test_two_witnesses_of_one_message_would_make_equals_differ():
    """Of 40 messages the first method has 3 wrong, the second 9 others, and five seeds test the same 40."""
    first, second = {i: i >= 3 for i in range(40)}, {i: i < 31 for i in range(40)}
    copies = [compare({(s, i): ok for s in range(seeds) for i, ok in first.items()},
                      {(s, i): ok for s in range(seeds) for i, ok in second.items()})["p"] for seeds in (1, 5)]
    honest = compare(counted_once([first] * 5), counted_once([second] * 5))["p"]
    assert honest == copies[0] > 0.05 > copies[1], "five seeds that say the same are not five times the evidence"


def test_only_the_messages_that_one_alone_has_right_are_counted():
    first = {"a": True, "b": True, "c": True, "d": False, "e": False, "f": True}
    second = {"f": True, "e": False, "d": True, "c": False, "b": False, "a": False}    # in another order
    assert compare(first, second) == {"messages": 6, "only_first": 3, "only_second": 1, "p": mcnemar(3, 1)}, (
        "are the dicts read in their order, and not by message?")
    assert compare(second, first) == {"messages": 6, "only_first": 1, "only_second": 3, "p": mcnemar(3, 1)}
    assert compare({}, {}) == {"messages": 0, "only_first": 0, "only_second": 0, "p": 1.0}


@pytest.mark.parametrize("only_first, only_second, p", [    # mcnemar(exact=True) of statsmodels 0.15.0
    (1, 9, 0.021484375), (24, 42, 0.03558272445223169), (3, 12, 0.03515625)])
def test_p_is_statsmodels(only_first, only_second, p):
    right = [(True, False)] * only_first + [(False, True)] * only_second + [(True, True)] * 5 + [(False, False)] * 7
    random.Random(0).shuffle(right)
    found = compare({i: a for i, (a, _) in enumerate(right)}, {i: b for i, (_, b) in enumerate(right)})
    assert found["messages"] == only_first + only_second + 12
    assert found["p"] == pytest.approx(p, abs=1e-12), "mcnemar of what one alone has right, not of all that it has"


def test_methods_that_were_tested_on_other_messages_cannot_be_compared():
    with pytest.raises(ValueError, match="3 ids are in one result only, of 3 and 2 messages"):
        compare({"a": True, "b": True, "c": False}, {"a": True, "d": True})
    with pytest.raises(ValueError, match="1 ids"):
        compare({"a": True}, {"a": True, "d": True})


# ---- many comparisons -------------------------------------------------------------------------------------------

@pytest.mark.exercise("E10.6")
@pytest.mark.parametrize("p_values, adjusted", [    # multipletests(method="holm") of statsmodels 0.15.0
    ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
    ([0.021, 0.004, 0.9, 0.0125, 0.021, 0.6, 0.05], [0.105, 0.028, 1.0, 0.075, 0.105, 1.0, 0.15]),
])
def test_holm_is_statsmodels(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted), (
        "each times m is Bonferroni; is the largest so far kept, and the order that of the input?")


@pytest.mark.exercise("E10.6")
def test_a_tiny_p_value_stays_tiny_and_the_list_as_it_was():
    p_values = [0.5, 1e-9, 1e-6]
    assert holm(p_values) == pytest.approx([0.5, 3e-9, 2e-6], rel=1e-9), "were the results rounded?"
    assert p_values == [0.5, 1e-9, 1e-6], "the caller's list was changed"


@pytest.mark.exercise("E10.6")
def test_the_next_p_value_is_never_adjusted_below_a_smaller_one(numbers):
    assert holm([0.03, 0.04]) == pytest.approx([0.06, 0.06]), "2 * 0.03 stands above 1 * 0.04"
    for seed in range(50):
        p_values = numbers(seed).random(8).round(2).tolist()
        adjusted = holm(p_values)
        assert all(p <= a <= 1 for p, a in zip(p_values, adjusted)), "no p value gets smaller, and none exceeds 1"
        for (p, a), (q, b) in itertools.product(zip(p_values, adjusted), repeat=2):
            assert a <= b if p < q else a == b if p == q else True, "the order of the p values has changed"


@pytest.mark.exercise("E10.6")
def test_holm_is_a_step_down_from_the_smallest(numbers):
    """The definition: reject from the smallest on, as long as p_(i) <= level / (m - i + 1); adjusted: p <= level."""
    for seed, level in itertools.product(range(30), (0.01, 0.05, 0.2)):
        p_values = (numbers(seed).random(6) ** 3).tolist()
        rejected = []
        for left, p in zip(range(6, 0, -1), sorted(p_values)):
            if p > level / left:
                break
            rejected.append(p)
        assert {p for p, a in zip(p_values, holm(p_values)) if a <= level} == set(rejected)


@pytest.mark.exercise("E10.6")
def test_among_many_comparisons_of_equals_one_falls_below_5_per_cent_in_1_of_20_families(numbers):
    families = numbers(0).random((4000, 20)).tolist()    # p of two equals is spread evenly over 0..1
    plain = sum(min(family) < 0.05 for family in families) / 4000
    held = sum(min(holm(family)) < 0.05 for family in families) / 4000
    assert plain == pytest.approx(1 - 0.95**20, abs=0.03)
    assert 0.035 < held < 0.065, f"{held:.1%} of the families have a difference that is none"


@pytest.mark.exercise("E10.6")
def test_holm_changes_no_single_p_value_and_no_argument():
    p_values = [0.5, 0.01]
    assert holm([0.04]) == [0.04] and holm([]) == [] and holm([0.9, 0.8, 0.7]) == [1.0, 1.0, 1.0]
    assert holm(p_values) == [0.5, 0.02] and p_values == [0.5, 0.01]
    for wrong in (1.2, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"p value 1 of 3, counted from 0, is {wrong}"):
            holm([0.1, wrong, 0.2])


@pytest.mark.parametrize("only_first, only_second, p_adjusted, said", [
    (12, 2, 0.013, "better"), (2, 12, 0.013, "worse"), (12, 2, 0.05, "not told apart"), (2, 12, 0.3, "not told apart"),
    (4, 4, 1.0, "not told apart"), (0, 0, 0.01, "not told apart"), (9, 1, float("nan"), "not told apart"),
])
def test_a_verdict_speaks_of_the_first_and_only_below_the_level(only_first, only_second, p_adjusted, said):
    row = {"only_first": only_first, "only_second": only_second, "p": 0.001, "p_adjusted": p_adjusted}
    assert verdict(row) == said, "the p that is not adjusted, or <=, or who is first?"
