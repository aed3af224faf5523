"""gpt/evaluate/baselines.py against minima found in other ways: by hand, by finite differences, by scikit-learn.

Most tests read a letter as a token, so that what a message counts can be seen.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from gpt.batches import label_ids, message_texts
from gpt.download import fetch
from gpt.evaluate import baselines
from gpt.evaluate.baselines import PENALTY, LogisticRegression
from gpt.losses import class_weights
from gpt.spam import create_balanced_dataset, read_sms, split_without_leaks
from gpt.tokenizer import gpt2_tokenizer

LETTERS = SimpleNamespace(encode=lambda text: [*map(ord, text)])
TEXTS, TWO, THREE = ["aab", "abc", "b", "cca", "cc", "bca"], [0, 0, 0, 1, 1, 0], [0, 1, 0, 1, 2, 2]
ASKED = ["ac", "aaa", "bx", "", "cab"]


@pytest.fixture
def penalty(monkeypatch):
    """Sets the penalty; 0.1 if a test says nothing."""
    def penalty(value):
        monkeypatch.setattr(baselines, "PENALTY", value)

    penalty(0.1)
    return penalty


def probabilities(texts, labels, weights=None, asked=ASKED):
    weights = None if weights is None else torch.tensor(weights)
    return LogisticRegression(LETTERS).fit(texts, labels, weights).predict_proba(asked)


def same(one, other, tolerance=1e-7):
    one, other = (torch.as_tensor(values, dtype=torch.float64) for values in (one, other))
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=tolerance)


def objective_by_hand(texts, labels, weights, weight, bias):
    """What the docstring says is least, in plain Python: weight has a list for each letter of "abc"."""
    total = 0
    for text, label in zip(texts, labels):
        has = [float(letter in text) for letter in "abc"]
        scores = [b + sum(x * row[k] for x, row in zip(has, weight)) for k, b in enumerate(bias)]
        total += weights[label] * (math.log(sum(map(math.exp, scores))) - scores[label])
    return total / len(texts) + 0.1 / 2 * sum(w * w for row in weight for w in row)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]])
def test_at_the_solution_a_step_either_way_makes_nothing_better(penalty, weights):
    model = LogisticRegression(LETTERS).fit(TEXTS, THREE, None if weights is None else torch.tensor(weights))
    tables, step = (model.weight.tolist(), [model.bias.tolist()]), 1e-4

    def value():
        return objective_by_hand(TEXTS, THREE, weights or [1, 1, 1], tables[0], tables[1][0])

    for name, table in zip(("weight", "bias"), tables):
        for row in table:
            for k, at in enumerate(row):
                row[k] = at + step
                above = value()
                row[k] = at - step
                slope = (above - value()) / (2 * step)
                row[k] = at
                assert abs(slope) < 1e-6, (f"{name}, class {k}: the slope is {slope:.1e}. Least is to be the MEAN over "
                                           f"messages + penalty / 2 * squares of W, not of b; or it stopped too early")


def test_where_every_message_is_the_same_the_bias_alone_gives_the_classes_shares(penalty):
    asked, labels = ["a", "", "x"], [0, 1, 1, 1, 1]    # a word in all messages tells nothing: the penalty makes W 0
    assert same(probabilities(["a"] * 5, labels, asked=asked), [[0.2, 0.8]] * 3), (
        "P is the classes' shares, 1/5 and 4/5, however large the penalty: it does not pull the bias")
    penalty(7.0)
    weighted = probabilities(["a"] * 5, labels, [2.0, 1.0], asked)
    assert same(weighted, [[1 / 3, 2 / 3]] * 3), "shares of the weights: 1 x 2 against 4 x 1"


@pytest.mark.parametrize("value", [0.001, 0.05, 1.0])
def test_two_messages_of_one_token_each_give_the_root_of_one_equation(penalty, value):
    """W is t, -t at a and -t, t at b: log(1 + exp(-2t)) + 2 penalty t^2 is least at sigmoid(-2t) = 2 penalty t."""
    penalty(value)
    low, high = 0.0, 100.0
    for _ in range(100):
        t = (low + high) / 2
        low, high = (t, high) if 1 / (1 + math.exp(2 * t)) > 2 * value * t else (low, t)
    model = LogisticRegression(LETTERS).fit(["a", "b"], [0, 1])
    assert same(model.weight, [[t, -t], [-t, t]], 1e-6), "penalty / 2 times the squares of all four"
    assert same(model.bias, [0, 0]), "neither class is more frequent"


# scikit-learn 1.9.1: LogisticRegression(C=C, tol=1e-13, class_weight=...).fit(counts, labels).predict_proba of ac, aaa,
# bx, with C = 1 / (6 penalty). For two classes it has one weight a token, W_1 - W_0, and C is 2 / (6 penalty).
@pytest.mark.parametrize("labels, weights, expected", [
    (TWO, None, [[0.352514, 0.647486], [0.544676, 0.455324], [0.860481, 0.139519]]),
    (TWO, [0.5, 3.0], [[0.132557, 0.867443], [0.268942, 0.731058], [0.696612, 0.303388]]),
    (THREE, None,
     [[0.117952, 0.522844, 0.359203], [0.435045, 0.347213, 0.217742], [0.685562, 0.101465, 0.212974]]),
])
def test_scikit_learn_says_the_same(penalty, labels, weights, expected):
    found = probabilities(TEXTS, labels, weights, ASKED[:3])
    assert same(found, expected, 1e-6), f"{found}: another objective, or stopped too early"


def test_doubling_a_message_equals_weighting_it_twice(penalty):
    twice = probabilities([*TEXTS, "aab"], [2, 1, 0, 1, 0, 1, 2])              # of class 2 there is one message, "aab"
    weighted = probabilities(TEXTS, [2, 1, 0, 1, 0, 1], [6 / 7, 6 / 7, 12 / 7])    # their mean over the messages is 1
    assert same(twice, weighted), "weights multiply a message's loss; the mean is over messages, not over weights"
    assert same(probabilities(TEXTS * 3, THREE * 3), probabilities(TEXTS, THREE)), (
        "a mean, not a sum: three times the same messages say no more against the penalty")


def test_a_token_that_training_has_not_shown_is_skipped():
    model = LogisticRegression(LETTERS).fit(TEXTS, THREE)
    assert model.predict_proba(["aXcYY", "XYZ"]) == model.predict_proba(["ac", "X"])
    assert same(model.predict_proba(["", "X"]), model.bias.softmax(0).expand(2, 3)), (
        "without a known token the bias decides alone; is the next message's first token counted for an empty one?")
    assert model.predict_proba(["", "ac", "", "b", ""]) == [*model.predict_proba(["", "ac"]), *model.predict_proba(
        ["", "b", ""])], "where a message has no token, those after it must not move"
    assert model.predict([]) == [] and model.predict_proba([]) == []


def test_the_order_of_the_tokens_does_not_matter():
    model = LogisticRegression(LETTERS).fit(TEXTS, THREE)
    assert same(model.predict_proba(["aabc"]), model.predict_proba(["caba"]), 1e-12)
    assert same(probabilities([text[::-1] for text in TEXTS], THREE), probabilities(TEXTS, THREE)), (
        "nor does it in training")


def test_a_token_votes_once_however_often_it_comes():
    model = LogisticRegression(LETTERS).fit(TEXTS, THREE)
    logits = model.bias + model.weight[model.row_of[ord("a")]] + model.weight[model.row_of[ord("c")]]
    assert same(model.predict_proba(["aaac"])[0], logits.softmax(0)), "b + W_a + W_c: a token is there or it is not"


def test_it_takes_any_classes_and_answers_in_their_order():
    model = LogisticRegression(LETTERS).fit(["r", "g", "b", "gg"], [5, 0, 2, 0])
    assert model.classes == [0, 2, 5], "ascending, not in the order of the messages"
    assert model.predict(["r", "g", "b"]) == [5, 0, 2], "are classes and columns in the same order?"
    rows = model.predict_proba(["r", "b", "x"])
    assert [len(row) for row in rows] == [3, 3, 3] and [sum(row) for row in rows] == pytest.approx([1, 1, 1])
    assert rows[0][2] > 0.5 and rows[1][1] > 0.5, "a row has the order of classes: 0, 2, 5"
    assert LogisticRegression(LETTERS).fit(["r", "g"], [7, 3]).predict([""]) == [3], "of equals the lowest"
    assert LogisticRegression(LETTERS).fit(["r"], [4]).predict(["g"]) == [4]


def test_the_parameters_are_a_weight_for_each_token_and_class_and_a_bias_for_each_class():
    model = LogisticRegression(LETTERS).fit(TEXTS, THREE)
    assert model.parameters == 3 * 3 + 3 and list(model.row_of) == [97, 98, 99]
    assert model.weight.shape == (3, 3) and model.bias.shape == (3,)
    assert not model.weight.requires_grad and not model.bias.requires_grad, "trained, and done"
    assert model.fit(["ab", "z"], [0, 1]) is model, "fit returns the model itself"
    assert model.parameters == 3 * 2 + 2, "fitting again starts afresh: nothing is left of the first messages"
    assert model.predict_proba(["zc"]) == LogisticRegression(LETTERS).fit(["ab", "z"], [0, 1]).predict_proba(["z"])


def test_each_tokens_weights_sum_to_zero_over_the_classes(penalty):
    penalty(0.01)
    model = LogisticRegression(LETTERS).fit(TEXTS, THREE)
    assert model.weight.abs().max() > 0.1
    assert model.weight.sum(1).abs().max() < 1e-7, "a number added to all classes changes no P and costs a penalty"


@pytest.mark.parametrize("labels, weights, said", [
    ([0], None, "zip"), ([0, 1, 1], None, "zip"), ([0, 1], torch.ones(3), r"all 2 classes .* shape: .3."),
])
def test_texts_without_labels_and_classes_without_weights_are_refused(labels, weights, said):
    with pytest.raises((ValueError, RuntimeError), match=said):
        LogisticRegression(LETTERS).fit(["a", "b"], labels, weights)


def test_no_seed_matters_and_none_is_changed():
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(probabilities(TEXTS, THREE))
        assert torch.equal(torch.get_rng_state(), before), "something was drawn from torch's global generator"
    assert found[0] == found[1], "the start is zero, not random"


def test_the_default_dtype_is_neither_changed_nor_used():
    before = probabilities(TEXTS, THREE)
    torch.set_default_dtype(torch.float16)
    try:
        assert probabilities(TEXTS, THREE) == before and torch.get_default_dtype() == torch.float16
    finally:
        torch.set_default_dtype(torch.float32)
    model = LogisticRegression(LETTERS).fit(TEXTS, TWO, class_weights(torch.tensor(TWO), 2))
    assert model.weight.dtype == model.bias.dtype == torch.float64 and torch.get_default_dtype() == torch.float32
    with torch.no_grad():
        assert probabilities(TEXTS, THREE) == before, "the caller's no_grad must not stop the fitting"


@pytest.fixture(scope="module")
def splits():
    """Training and validation messages of three seeds; nothing here looks at a test message."""
    for_each = [(seed, create_balanced_dataset(read_sms(fetch("sms")), random_state=seed)) for seed in range(3)]
    return [split_without_leaks(balanced, seed=seed)[:2] for seed, balanced in for_each]


def validation(splits):
    """Loss in nats, accuracy in per cent, and parameters: a list of each, with a number for each seed."""
    rows = []
    for train, held_out in splits:
        model = LogisticRegression(gpt2_tokenizer())
        model.fit(message_texts(train), label_ids(train).tolist())
        texts, labels = message_texts(held_out), label_ids(held_out)
        logs = torch.tensor(model.predict_proba(texts), dtype=torch.float64).log()
        right = sum(a == b for a, b in zip(model.predict(texts), labels.tolist()))
        rows.append((F.nll_loss(logs, labels).item(), 100 * right / len(labels), model.parameters))
    return zip(*rows)


def test_the_penalty_is_what_validation_prefers(splits, monkeypatch):
    losses, accuracies, parameters = validation(splits)
    assert parameters[0] == 2 * (4743 + 1), "4,743 tokens of GPT-2's vocabulary occur in the training set of seed 0"
    assert accuracies == pytest.approx([97.99, 96.64, 97.32], abs=0.01)
    assert sum(losses) / 3 == pytest.approx(0.0971, abs=1e-4), "the table in gpt/evaluate/baselines.py says otherwise"
    for penalty, expected in ((3 * PENALTY, 0.1050), (0.3 * PENALTY, 0.0975)):
        monkeypatch.setattr(baselines, "PENALTY", penalty)
        others, *_ = validation(splits)
        assert sum(others) / 3 == pytest.approx(expected, abs=1e-4), f"{penalty}: the table says otherwise"
