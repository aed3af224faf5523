"""gpt/experiments/spam_filters.py: which messages each of the three tests asks about, on the real file."""

import pandas as pd
import pytest

from gpt.download import fetch
from gpt.experiments.spam_filters import first_of_each, near_copies, splits_of, with_the_rest
from gpt.spam import create_balanced_dataset, normalised, random_split, read_sms, split_without_leaks

SEEDS = (123, 7)


@pytest.fixture(scope="module")
def path():
    return fetch("sms")


def letters(splits):
    return [set(map(normalised, split["Text"])) for split in splits]


def test_the_blogs_condition_with_its_seed_is_the_blogs_split(path):
    published = random_split(create_balanced_dataset(read_sms(path, blog=True)), 0.7, 0.1)
    for ours, theirs in zip(splits_of("blog", path, 123), published):
        assert ours["Text"].tolist() == theirs["Text"].tolist() and ours["Label"].tolist() == theirs["Label"].tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_balanced_condition_is_chapter_6s_default(path, seed):
    table = create_balanced_dataset(read_sms(path), random_state=seed)
    for ours, chapters in zip(splits_of("balanced", path, seed), split_without_leaks(table, 0.7, 0.1, seed=seed)):
        assert ours["Text"].tolist() == chapters["Text"].tolist()


@pytest.mark.parametrize("condition", [
    "blog", "balanced", pytest.param("natural", marks=pytest.mark.exercise("E10.2"))])
def test_a_row_says_which_message_of_the_file_it_is(path, condition):
    file = read_sms(path, blog=condition == "blog")
    for split in splits_of(condition, path, 123):
        assert split["Text"].tolist() == file["Text"].iloc[split["Row"]].tolist(), "were the rows numbered anew?"
        assert split.index.tolist() == list(range(len(split)))


@pytest.mark.exercise("E10.2")
@pytest.mark.parametrize("seed", SEEDS)
def test_the_natural_splits_hold_every_message_once_and_share_none(path, seed):
    natural = splits_of("natural", path, seed)
    assert sorted(row for split in natural for row in split["Row"]) == list(range(5574)), "one is lost or twice there"
    shared = sum(map(len, letters(natural))) - len(set.union(*letters(natural)))
    assert shared == 0, "a ham that balancing left out lies in another split than its near-copy"


@pytest.mark.exercise("E10.2")
@pytest.mark.parametrize("seed", SEEDS)
def test_the_balanced_messages_are_the_first_of_the_natural_ones_and_all_spam_is_among_them(path, seed):
    for small, large in zip(splits_of("balanced", path, seed), splits_of("natural", path, seed)):
        assert large["Row"][:len(small)].tolist() == small["Row"].tolist()
        assert set(large["Label"][len(small):]) == {"ham"}, "spam that the balanced split has not"


@pytest.mark.exercise("E10.2")
@pytest.mark.parametrize("seed", SEEDS)
def test_the_natural_test_is_as_unequal_as_the_file(path, seed):
    for split, size in zip(splits_of("natural", path, seed), (3902, 557, 1115)):
        assert abs(len(split) - size) < 0.03 * 5574 * 0.2 and abs((split["Label"] == "spam").mean() - 747 / 5574) < 0.005


@pytest.mark.exercise("E10.2")
def test_a_ham_that_resembles_a_message_of_a_split_joins_it():
    messages = pd.DataFrame({"Label": ["ham"] * 12, "Text": ["call me at 5", "see you", "good night", "Call me at 6!",
                                                             "SEE you??", "good  night 2", *(f"word {c}" for c in "abcdef")]})
    messages = messages.assign(Row=range(12))
    splits = tuple(messages.iloc[[i]].reset_index(drop=True) for i in (2, 0, 1))
    train, validation, test = with_the_rest(messages, splits, seed=0)
    assert {5} <= set(train["Row"]) and {3} <= set(validation["Row"]) and {4} <= set(test["Row"])
    assert sum(map(len, (train, validation, test))) == 12
    for split, joined in ((train, 5), (validation, 3), (test, 4)):
        assert split["Row"].tolist()[1] == joined, "a split's own messages, then those that join it, then the drawn"


@pytest.mark.exercise("E10.2")
def test_the_rest_is_told_by_the_column_row_and_may_be_of_any_class():
    texts = [f"word {letter}" for letter in "abcdefghijklmnopqrst"]
    messages = pd.DataFrame({"Label": ["ham", "spam"] * 10, "Text": texts, "Row": range(20, 0, -1)})
    before = messages.copy()
    splits = tuple(messages.iloc[[i]].reset_index(drop=True) for i in (0, 1, 2))
    with_all = with_the_rest(messages, splits, seed=0)
    assert sorted(pd.concat(with_all)["Row"]) == list(range(1, 21)), \
        "each message once: what a split has already is told by Row, not by the index, and spam can be left over"
    assert messages.equals(before), "the caller's table has lost rows"
    others = {tuple(with_the_rest(messages, splits, seed)[0]["Row"]) for seed in range(10)}
    assert len(others) > 5, "is the seed handed on to split_without_leaks?"


@pytest.mark.exercise("E10.2")
def test_another_seed_draws_other_messages(path):
    first, second = (set(splits_of("natural", path, seed)[2]["Row"]) for seed in SEEDS)
    assert 0.1 < len(first & second) / len(first) < 0.35, "two tests of a fifth each should share about a fifth"


def test_few_messages_are_half_of_each_and_among_the_many(path):
    train = splits_of("balanced", path, 123)[0]
    smaller, larger = first_of_each(train, 16), first_of_each(train, 64)
    assert smaller["Label"].value_counts().to_dict() == {"ham": 8, "spam": 8}
    assert set(smaller["Row"]) < set(larger["Row"]), "each size would have messages of its own: luck of another draw"


def test_near_copies_tell_exact_ones_apart(path):
    found = near_copies(*splits_of("blog", path, 123)[::2])
    assert (len(found), int(found["exact"].sum())) == (51, 37), "DESIGN: 37 of 300 are exact copies"
    assert all(normalised(a) == normalised(b) for a, b in zip(found["test"], found["training"]))
    mine = near_copies(pd.DataFrame({"Text": ["Win 1!", "win 2", "no"]}), pd.DataFrame({"Text": ["win 2", "WIN", "yes"]}))
    assert mine.values.tolist() == [["win 2", "Win 1!", True], ["WIN", "Win 1!", False]], (
        "is an exact copy behind a near one missed?")


def test_an_unknown_condition_is_named(path):
    with pytest.raises(ValueError, match="no condition 'fair': there are blog, balanced, natural"):
        splits_of("fair", path, 1)
