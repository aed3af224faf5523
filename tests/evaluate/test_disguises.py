"""gpt/evaluate/disguises.py: each disguise does what it says, touches nothing else, and is the same each time."""

import re
import unicodedata

import numpy as np
import pytest
import torch

from gpt.batches import encode
from gpt.evaluate.disguises import DISGUISES, disguised, withstood
from gpt.tokenizer import gpt2_tokenizer

SPAM = ["WINNER!! As a valued customer you have been selected to receive a £900 prize reward. Call 09061701461",
        "Free entry in a weekly competition to win cup final tickets. Text WIN to 87121 to receive entry",
        "Urgent! Your mobile number has been awarded a cash prize, call 08000930705 from a land line now",
        "Had your mobile 11 months or more? You are entitled to update to the latest colour mobiles for free"]
TEXTS = [*SPAM, "", "ok", "Café naïve_word x2y 日本 9\t8\nЖена said: it's 20:30 – I'm so soaked, see u @ Oslo :-) 😀"]


def changes(before, after):
    """The pairs of characters that differ."""
    assert len(before) == len(after), "a character was added or lost"
    return [(old, new) for old, new in zip(before, after) if old != new]


# ---- each of them ---------------------------------------------------------------------------------------------------

def test_the_disguises_come_in_this_order_and_the_first_changes_nothing():
    assert list(DISGUISES) == ["as it is", "spaces at the end", "upper case", "lower case", "other digits",
                               "letters as digits", "invisible signs", "look-alike letters"]
    assert disguised(TEXTS, "as it is", 1) == TEXTS, "a table's row of reference"


def test_ten_spaces_come_at_the_end():
    assert disguised(TEXTS, "spaces at the end", 1) == [text + "          " for text in TEXTS]


def test_upper_and_lower_case():
    assert disguised(["Win £5 naïve!"], "upper case", 1) == ["WIN £5 NAÏVE!"]
    assert disguised(["WIN £5 Naïve!"], "lower case", 1) == ["win £5 naïve!"]


def test_no_digit_stays_and_nothing_but_digits_changes():
    for seed in range(20):
        for text, other in zip(TEXTS, disguised(TEXTS, "other digits", seed)):
            assert len(changes(text, other)) == len(re.findall("[0-9]", text)), "a digit stayed, or a letter changed"
            assert all(old in "0123456789" and new in "0123456789" for old, new in changes(text, other))


def test_a_digit_becomes_each_of_the_nine_others_equally_often():
    others = disguised(["7" * 9000], "other digits", 3)[0]
    counts = {digit: others.count(digit) for digit in "012345689"}
    assert sum(counts.values()) == 9000 and all(850 < count < 1150 for count in counts.values()), counts


def test_letters_become_the_digits_that_look_like_them_behind_another_letter():
    pairs = {*zip("aeiosAEIOS", "4310543105")}
    for seed in range(20):
        for text, other in zip(TEXTS, disguised(TEXTS, "letters as digits", seed)):
            assert set(changes(text, other)) <= pairs, "another letter, or another digit for it"
            first = re.compile(r"(?<![^\W\d_])[^\W\d_]")    # a letter without a letter before it
            assert all(other[m.start()] == m[0] for m in first.finditer(text)), '"is" would become 15'


def test_each_such_letter_changes_by_itself_with_probability_one_half():
    words = disguised(["xaeios XAEIOS " * 200], "letters as digits", 5)[0].split()
    for place, letter in enumerate("aeios", start=1):
        kept = sum(word[place].lower() == letter for word in words)
        assert 150 < kept < 250, f"{kept} of 400 {letter} stayed"
    assert len({word.lower() for word in words}) == 2**5, "a word should have all its spellings: none can be forbidden"


def test_an_invisible_sign_splits_each_word_of_four_letters_or_more():
    assert disguised(["Win free prize, now_then x2abcd naïve competition"], "invisible signs", 1) == [
        "Win fr\u200bee pr\u200bize, now_th\u200ben x2ab\u200bcd na\u200bïve compe\u200btition"], "one, in the middle"
    for text, other in zip(TEXTS, disguised(TEXTS, "invisible signs", 1)):
        assert other.replace("\u200b", "") == text, "more than the invisible signs has changed"
        words = [set(re.findall(r"[^\W\d_]{4,}", each)) for each in (text, other)]
        assert not words[0] & words[1], "a word can still be found"


def test_small_letters_become_cyrillic_ones_that_look_alike():
    pairs = {(latin, unicodedata.lookup(f"CYRILLIC SMALL LETTER {name}"))
             for latin, name in zip("aeopcx", ("A", "IE", "O", "ER", "ES", "HA"))}
    for text, other in zip(TEXTS, disguised(TEXTS, "look-alike letters", 1)):
        assert set(changes(text, other)) <= pairs, "another letter, or another one for it"
        assert not set("aeopcx") & set(other), "one of them stayed"


@pytest.mark.parametrize("name, text", [
    ("upper case", "OK! 123 日本"), ("lower case", "ok! 123 日本"), ("other digits", "no digit: ½ x² ٣ 日本"),
    ("letters as digits", "I fly by a U2, a-e-i-o-s 8 äéu"), ("invisible signs", "You can win 1234 now"),
    ("look-alike letters", "Win big, BUY it! AEOPCX äé"),
])
def test_a_text_without_what_a_disguise_changes_comes_back_as_it_was(name, text):
    assert disguised([text, ""], name, 1) == [text, ""]


# ---- all of them ----------------------------------------------------------------------------------------------------

RANDOM = ["other digits", "letters as digits"]


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguise_is_the_same_each_time_whatever_else_was_disguised(name):
    expected, texts = disguised(TEXTS, name, 1), list(TEXTS)
    np.random.seed(8)
    for other in DISGUISES:
        disguised(TEXTS, other, 1)
    assert disguised(texts, name, 1) == expected and texts == TEXTS, "it depends on what was drawn before"
    assert disguised(["no text at all 123", *TEXTS[1:4]], name, 1)[1:] == expected[1:4], (
        "what becomes of a text depends on those around it")


@pytest.mark.parametrize("name", RANDOM)
def test_another_seed_or_place_draws_other_numbers(name):
    assert disguised(SPAM, name, 1) != disguised(SPAM, name, 2)
    assert len(set(disguised(SPAM[:1] * 5, name, 1))) == 5, "copies of a message would all have the same disguise"


def test_a_text_draws_from_a_generator_of_its_seed_its_disguise_and_its_place():
    rng = np.random.default_rng([7, 4, 2])
    expected = "".join(str((int(digit) + rng.integers(1, 10)) % 10) for digit in "2468")
    assert disguised(["1", "1", "2468"], "other digits", 7)[2] == expected


def test_a_name_that_is_no_disguise_and_a_text_that_is_no_list_are_errors():
    with pytest.raises(ValueError, match="no disguise 'uppercase': there are as it is, .*, look-alike letters"):
        disguised(TEXTS, "uppercase", 1)
    with pytest.raises(ValueError, match="write .text."):
        disguised("one text", "upper case", 1)
    assert disguised([], "upper case", 1) == []


def test_gpt2_needs_more_tokens_for_a_disguise_than_for_the_message():
    """What it has merged into one token it knows only in the spelling that it has read."""
    def lengths(texts):
        return np.array([len(ids) for ids in encode(texts, gpt2_tokenizer())])

    for name in ("upper case", "letters as digits", "invisible signs", "look-alike letters"):
        more = lengths(disguised(SPAM, name, 1)) / lengths(SPAM)
        assert (more > 1.15).all(), f"{name}: {more} times as many tokens"
    assert (lengths(disguised(SPAM, "lower case", 1)) <= 1.1 * lengths(SPAM)).all(), "small letters are what it knows"
    spaces = lengths(disguised(SPAM, "spaces at the end", 1)) - lengths(SPAM)
    assert (spaces == 10).all(), "no merge joins spaces: the class is read ten tokens later"


# ---- what is withstood ----------------------------------------------------------------------------------------------

LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 1, 0]
BEFORE = [0, 0, 0, 1, 1, 1, 1, 1, 0, 0]
AFTER = [0, 1, 1, 0, 1, 0, 0, 1, 1, 0]    # 6 of ten changed; spam: 3 of 5 found; ham: 2 of 5 lost; right: 6 of ten


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_what_is_withstood_counted_by_hand(kind):
    assert withstood(kind(BEFORE), kind(AFTER), kind(LABELS)) == pytest.approx(
        {"changed": 6 / 10, "recall": 3 / 5, "ham_lost": 2 / 5, "accuracy": 6 / 10})


def test_answers_that_stay_are_all_withstood_right_or_wrong():
    assert withstood(BEFORE, BEFORE, LABELS) == pytest.approx(
        {"changed": 0, "recall": 4 / 5, "ham_lost": 1 / 5, "accuracy": 8 / 10})


def test_who_answers_spam_to_everything_has_all_the_recall_and_loses_all_ham():
    assert withstood(BEFORE, [1] * 10, LABELS) == pytest.approx(
        {"changed": 5 / 10, "recall": 1, "ham_lost": 1, "accuracy": 5 / 10})


def test_a_share_of_nothing_is_unknown_and_not_0():
    assert withstood([0], [1], [0]) == {"changed": 1, "recall": None, "ham_lost": 1, "accuracy": 0}
    assert withstood([0], [1], [1]) == {"changed": 1, "recall": 1, "ham_lost": None, "accuracy": 1}
    assert set(withstood([], [], []).values()) == {None}


def test_answers_that_do_not_fit_together_are_an_error():
    for before, after, labels in (([0], [0, 1], [0, 1]), ([0, 1], [0], [0, 1]), ([0, 1], [0, 1], [0])):
        with pytest.raises(ValueError, match="labels (but|.1,. and scores)"):
            withstood(before, after, labels)
    with pytest.raises(ValueError, match="between 0 and 2"):
        withstood([0, 1], [0, 2], [0, 1])
