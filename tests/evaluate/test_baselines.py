"""The baselines that count against the numbers that GPT-2 has to beat, and probabilities worked out by hand."""

import math

import pytest

from gpt.download import fetch
from gpt.evaluate.baselines import LengthRule, Majority, NaiveBayes, baseline_table, words
from gpt.spam import create_balanced_dataset, random_split, read_sms, split_without_leaks

TEXTS, CLASSES = ["win win", "win now", "see you"], [1, 1, 0]


@pytest.fixture(scope="module")
def blog_table():
    splits = random_split(create_balanced_dataset(read_sms(fetch("sms"), blog=True)), 0.7, 0.1)
    return {row["name"]: row for row in baseline_table(*splits)}


def percent(row):
    return [round(100 * row[split], 2) for split in ("train", "validation", "test")]


@pytest.mark.exercise("E5.10")
def test_fitting_counts_words_and_messages_class_by_class():
    model = NaiveBayes()    # 3 of 4 messages are of class 1, and 5 of 7 words
    assert model.fit([*TEXTS, "now"], [*CLASSES, 1]) is model, "fit returns the model itself"
    assert model.classes == [0, 1], "the classes, ascending, not in the order of the messages"
    assert model.log_prior == pytest.approx([math.log(1 / 4), math.log(3 / 4)]), "P(k) is a share of the messages"
    assert set(model.log_likelihood) == {"win", "now", "see", "you"}
    for word, (ham, spam) in {"win": (1 / 6, 4 / 9), "now": (1 / 6, 3 / 9), "see": (2 / 6, 1 / 9)}.items():
        assert model.log_likelihood[word] == pytest.approx([math.log(ham), math.log(spam)]), (
            f"{word}: (its count in the class + 1) / (all words of the class + V); a word that comes twice counts "
            f"twice, and V = 4 is the number of different words of all classes together")


@pytest.mark.exercise("E5.10")
def test_naive_bayes_answers_95_per_cent_of_the_blogs_test_messages_rightly(blog_table):
    assert percent(blog_table["naive Bayes"]) == [98.95, 97.99, 95.00], "another tokenisation or smoothing?"


def test_balancing_leaves_the_majority_at_a_coins_chance_and_the_length_alone_beats_it(blog_table):
    assert percent(blog_table["majority"]) == [50.53, 46.98, 49.67]
    assert percent(blog_table["length"]) == [83.92, 83.89, 83.33]


def test_without_leaks_naive_bayes_still_beats_the_length():
    balanced = create_balanced_dataset(read_sms(fetch("sms")))
    for seed in range(5):
        majority, length, bayes = baseline_table(*split_without_leaks(balanced, seed=seed))
        assert abs(majority["test"] - 0.5) < 0.01 and abs(length["test"] - 0.82) < 0.05
        assert 0.94 < bayes["test"] < bayes["train"] < 0.99


def test_the_majority_is_of_the_training_set_and_of_equals_the_lowest():
    assert Majority().fit(["a", "b", "c"], [2, 1, 2]).predict(["x", "y"]) == [2, 2]
    assert Majority().fit(["a", "b"], [2, 1]).predict(["x"]) == [1]


def test_the_length_rule_takes_the_threshold_with_the_most_right_answers():
    rule = LengthRule().fit(["a", "bb", "ccc", "dddd", "eeeee"], [0, 0, 1, 0, 1])
    assert (rule.threshold, rule.classes) == (2, (0, 1)), "4 of 5 are right at 2, as at 4: the lowest counts"
    assert rule.predict(["zz", "zzz", ""]) == [0, 1, 0]


def test_the_length_rule_works_the_other_way_round_and_for_one_class_alone():
    assert LengthRule().fit(["a", "bbb"], [1, 0]).predict(["x", "xxxx"]) == [1, 0]
    assert LengthRule().fit(["a", "bbb"], [1, 1]).predict(["", "x", "xxxx"]) == [1, 1, 1]
    assert LengthRule().fit(["a", "b"], [1, 1]).predict(["xx"]) == [1]
    assert LengthRule().fit(["a", "b"], [0, 1]).predict(["xx"]) == [0], "one length cannot tell two classes apart"


def test_words_are_lower_case_and_signs_stand_alone():
    assert words("Win £500!! U_2") == ["win", "£", "500", "!", "!", "u_2"]


@pytest.mark.exercise("E5.10")
def test_naive_bayes_gives_the_probabilities_of_a_calculation_by_hand():
    model = NaiveBayes().fit(TEXTS, CLASSES)    # vocabulary: win, now, see, you; 4 words in class 1, 2 in class 0
    ham, spam = 1 / 3 * 1 / 6 * 2 / 6, 2 / 3 * 4 / 8 * 1 / 8
    assert model.predict_proba(["Win you"])[0] == pytest.approx([ham / (ham + spam), spam / (ham + spam)])
    assert model.predict(["Win you", "you see"]) == [1, 0], "smoothed counts and the classes' shares both count"


@pytest.mark.exercise("E5.10")
def test_a_word_that_training_has_not_shown_changes_nothing():
    model = NaiveBayes().fit(TEXTS, CLASSES)
    assert model.predict_proba(["win zebra"]) == model.predict_proba(["win"])
    for probabilities in model.predict_proba(["zebra", ""]):
        assert probabilities == pytest.approx([1 / 3, 2 / 3]), "without a known word the classes' shares decide"


def test_probabilities_of_a_very_long_message_are_finite():
    (ham, spam), = NaiveBayes().fit(TEXTS, CLASSES).predict_proba(["win " * 5000])
    assert math.isfinite(ham) and ham + spam == pytest.approx(1) and spam > 0.999, "every P underflowed to 0"


@pytest.mark.exercise("E5.10")
def test_naive_bayes_takes_any_number_of_classes():
    model = NaiveBayes().fit(["red", "green", "blue"], [0, 1, 5])
    assert model.predict(["blue", "green green", "red"]) == [5, 1, 0], "are classes and numbers in the same order?"
    assert [sum(row) for row in model.predict_proba(["blue", "x"])] == pytest.approx([1, 1])


@pytest.mark.exercise("E5.10")
def test_classes_rise_as_numbers_and_a_second_fit_forgets_the_first():
    model = NaiveBayes().fit(["red", "green", "blue"], [10, 2, 9])
    assert model.classes == [2, 9, 10], "9 comes before 10: are they sorted as texts?"
    again, fresh = model.fit(TEXTS, CLASSES), NaiveBayes().fit(TEXTS, CLASSES)
    assert (again.classes, again.log_prior, again.log_likelihood) == (
        fresh.classes, fresh.log_prior, fresh.log_likelihood), "what the first fit counted is still there"


@pytest.mark.exercise("E5.10")
def test_texts_without_labels_are_refused():
    for model in (LengthRule(), NaiveBayes()):
        with pytest.raises(ValueError):
            model.fit(["a", "b"], [0])
