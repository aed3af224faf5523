"""gpt/experiments/lora_trials.py: what is remembered is what was measured, and one setting at a time decides."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from gpt.config import GPTConfig
from gpt.evaluate.significance import STUDENT_T, beside, mean_interval
from gpt.experiments.lora_trials import SpamTask, TextTask, Trial, run_trial, train_trial, trial_over_seeds
from gpt.experiments.run_records import remembered
from gpt.lora import lora_layers
from gpt.model import GPTModel

WORDS = "ham and eggs for you at noon, win cash now or call me back soon my love".split()
SHORT = Trial(rank=2, targets=("W_query", "W_value"), learning_rate=0.01, epochs=1, seed=3)


class Letters:
    """A tokenizer: each letter is a token."""

    def encode(self, text):
        return [ord(letter) - 32 for letter in text]

    encode_ordinary = encode

    def encode_ordinary_batch(self, texts, num_threads):
        return [self.encode_ordinary(text) for text in texts]


@pytest.fixture(scope="module")
def messages():
    """60 messages of three or four words, half of them "spam", which has more "cash"."""
    rng = np.random.default_rng(0)
    texts = [" ".join([*rng.choice(WORDS, 3), *["cash"] * (row % 2)]) for row in range(60)]
    return pd.DataFrame({"Label": ["ham", "spam"] * 30, "Text": texts})


@pytest.fixture(scope="module")
def base():
    config = GPTConfig(context_length=24, emb_dim=12, n_heads=3, n_layers=2)
    return GPTModel(config, torch.Generator().manual_seed(0)).eval()


@pytest.fixture(scope="module")
def spam(messages):
    return SpamTask(messages, Letters(), 24)


# ---- remembered -------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E8.1")
def test_nothing_is_computed_twice(tmp_path):
    runs = []

    def run():
        runs.append(1)
        return {"loss": 0.1 + len(runs), "of": [1, None, "x"]}

    first = remembered(tmp_path, {"rank": 1, "seed": 2}, run)
    again = remembered(tmp_path, {"seed": 2, "rank": 1}, run)    # in another order the settings are the same
    assert first == again == {"loss": 1.1, "of": [1, None, "x"]} and len(runs) == 1, "it was computed again"
    assert remembered(tmp_path, {"rank": 2, "seed": 2}, run)["loss"] == 2.1, "other settings, the same result"
    assert remembered(tmp_path / "b", {"rank": 1, "seed": 2}, run)["loss"] == 3.1, "another folder has other results"
    file, = (path for path in tmp_path.glob("*.json") if json.loads(path.read_text())["settings"]["rank"] == 1)
    assert json.loads(file.read_text())["result"] == first, "the file does not say what was measured with what"


@pytest.mark.exercise("E8.1")
@pytest.mark.parametrize("result", [None, {}, {"loss": 0.0}])
@pytest.mark.parametrize("settings", [{}, {"rank": None}])
def test_an_empty_result_of_no_settings_is_remembered_like_any_other(tmp_path, result, settings):
    runs = []
    for _ in range(2):
        assert remembered(tmp_path, settings, lambda: runs.append(1) or result) == result
    assert len(runs) == 1, "it was computed again: ask whether the file is there, not whether the result is true"


@pytest.mark.exercise("E8.1")
def test_many_settings_have_as_many_results(tmp_path):
    for seed in [*range(50), *range(50)]:
        assert remembered(tmp_path, {"seed": seed}, lambda: {"loss": seed}) == {"loss": seed}, \
            "two settings have one file: is its name made of too little of the digest?"


@pytest.mark.exercise("E8.1")
def test_an_interrupted_run_leaves_nothing_that_could_be_taken_for_a_result(tmp_path):
    def broken():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remembered(tmp_path, {"rank": 1}, broken)
    assert not list(tmp_path.iterdir()), "a run that never ended left a file"
    assert remembered(tmp_path, {"rank": 1}, lambda: {"loss": 1.0}) == {"loss": 1.0}


# ---- a trial ----------------------------------------------------------------------------------------------------

def changed(base, model):
    """The names of the tensors that training moved, LoRA's among them."""
    before = dict(base.named_parameters())
    return {name.replace(".linear", "") for name, p in model.named_parameters()
            if "lora" not in name and not torch.equal(p, before.get(name.replace(".linear", ""), p[:0]))}


def test_a_lora_trial_trains_its_targets_and_the_new_head_and_leaves_the_base_alone(base, spam):
    before = {name: p.clone() for name, p in base.named_parameters()}
    model, result = train_trial(base, spam, SHORT)
    assert all(torch.equal(p, before[name]) for name, p in base.named_parameters()), "the base itself was trained"
    assert {name.rpartition(".")[2] for name, _ in lora_layers(model)} == {"W_query", "W_value"}
    assert changed(base, model) == {"out_head.weight", "out_head.bias"}, "a frozen tensor moved, or the head did not"
    assert all(layer.lora.B.any() for _, layer in lora_layers(model)), "a B is still zero: LoRA did not train"
    assert not model.training and set(result) == {"validation", "test"}


def test_a_trial_without_a_rank_trains_everything(base, spam):
    model, _ = train_trial(base, spam, Trial(rank=None, learning_rate=0.01, epochs=1))
    unmoved = {name for name, _ in model.named_parameters()} - changed(base, model)
    assert not unmoved, f"these did not train: {unmoved}"


def test_the_learning_rate_of_a_trial_is_not_that_of_the_head(base, spam):
    """Else a change of LoRA's rate would change the head's too, and nobody could tell which of the two it was."""
    model, _ = train_trial(base, spam, Trial(rank=2, learning_rate=0.0, epochs=1))
    assert not any(layer.lora.B.any() for _, layer in lora_layers(model)), "B moved at a learning rate of 0"
    assert model.out_head.weight.any(), "the head has LoRA's learning rate"


def test_the_scale_rule_reaches_the_layers(base, spam):
    for rule, scale in (("alpha/r", 4.0), ("alpha/sqrt(r)", 8.0), ("alpha", 16.0)):
        model, _ = train_trial(base, spam, Trial(rank=4, scale=rule, epochs=1))
        assert {layer.lora.scale for _, layer in lora_layers(model)} == {scale}


def test_the_seed_decides_everything_that_is_luck(base, spam):
    first, again, other = (train_trial(base, spam, Trial(rank=2, epochs=1, seed=seed))[0] for seed in (3, 3, 4))
    A = [next(layer for _, layer in lora_layers(model)).lora.A for model in (first, again, other)]
    assert torch.equal(A[0], A[1]) and torch.equal(first.out_head.weight, again.out_head.weight), "it is not repeatable"
    assert not torch.equal(A[0], A[2]), "another seed has the same A"
    assert spam.data(3)[0].token_ids != spam.data(4)[0].token_ids, "another seed has the same split"


def test_a_trial_that_diverges_is_remembered_as_none_and_named(base, spam, tmp_path):
    wild = Trial(rank=2, learning_rate=1e30, epochs=1, seed=3)
    assert run_trial(tmp_path, base, "tiny", spam, wild) is None
    file, = tmp_path.glob("*.json")
    assert json.loads(file.read_text())["result"] is None
    with pytest.raises(FloatingPointError, match=r"seed 3 .*learning_rate=1e\+30.* not finite"):
        trial_over_seeds(tmp_path, base, "tiny", spam, wild, [3])


def test_what_is_remembered_is_told_apart_by_base_task_and_every_setting(base, spam, messages, tmp_path):
    run_trial(tmp_path, base, "tiny", spam, SHORT)
    run_trial(tmp_path, base, "another", spam, SHORT)
    run_trial(tmp_path, base, "tiny", SpamTask(messages[:40], Letters(), 24), SHORT)
    run_trial(tmp_path, base, "tiny", TextTask(messages, Letters(), 24, windows=1, batches=1), SHORT)
    run_trial(tmp_path, base, "tiny", TextTask(messages, Letters(), 24, windows=2, batches=1), SHORT)
    assert len(list(tmp_path.glob("*.json"))) == 5, "two runs that differ have one file"
    settings = [json.loads(path.read_text())["settings"] for path in tmp_path.glob("*.json")]
    assert all(set(SHORT.__dataclass_fields__) <= set(each) for each in settings), "a setting is not in the key"


def test_over_seeds_gives_one_number_for_each_seed_in_their_order(base, spam, tmp_path):
    found = trial_over_seeds(tmp_path, base, "tiny", spam, SHORT, [5, 4])
    alone = [run_trial(tmp_path, base, "tiny", spam, Trial(**{**SHORT.__dict__, "seed": seed})) for seed in (5, 4)]
    assert found == {key: [result["test"][key] for result in alone] for key in ("accuracy", "loss")}
    assert found["loss"][0] != found["loss"][1], "two seeds gave one result"


# ---- the tasks --------------------------------------------------------------------------------------------------

def test_trials_of_one_seed_share_their_encoded_messages(spam):
    assert spam.data(3)[0] is spam.data(3)[0], "every trial encodes all messages again"
    training, validation, test = spam.data(3)
    assert sum(len(loader.labels) for loader in (training, validation, test)) == 60
    assert (training.seed, validation.seed, test.seed) == (3, None, None), "what is measured must not be shuffled"


def test_text_is_measured_on_messages_that_it_was_not_trained_on(base, messages):
    task = TextTask(messages, Letters(), 24, windows=2)
    training, validation, test = task.data(3)
    lengths = [len(Letters().encode_ordinary(text)) + 1 for text in messages["Text"]]    # with <|endoftext|>
    assert len(training.tokens) + len(validation) + len(test) == sum(lengths), "messages are lost or counted twice"
    batch = next(iter(training))
    assert batch.shape == (2, 25), "windows are not as long as the context, and one token more to predict"


def test_text_has_the_loss_of_an_even_guess_before_training_and_less_after(base, messages):
    task = TextTask(messages, Letters(), 24, windows=2)
    guess = task.measure(base, task.data(3)[2])["loss"]
    assert math.isclose(guess, math.log(50257), rel_tol=0.02), "it is not nats per token, over all words"
    model, result = train_trial(base, task, Trial(rank=None, learning_rate=0.01, epochs=5, seed=3))
    assert result["test"]["loss"] < guess - 0.5, "training taught nothing"
    assert model.out_head.weight is model.tok_emb.weight, "text needs no new head"


def test_the_words_of_the_sampled_loss_are_drawn_from_the_seed(base, messages):
    task = TextTask(messages, Letters(), 24, windows=1)
    ids = next(iter(task.data(3)[0]))
    once, again = (task.prepare(base, 3)(base, ids).item() for _ in range(2))
    assert once == again, "a trial with the same seed has another loss"


# ---- intervals --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("freedom, t", list(enumerate(STUDENT_T, start=1)))
def test_the_table_of_student_holds_95_per_cent(freedom, t):
    """By the density of the t distribution, summed up in thin strips."""
    x = np.linspace(0, t, 200_001)
    height = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
    density = height * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    assert abs(np.trapezoid(density, x) - 0.475) < 2e-5, "the table has 3 digits, and one is wrong"


@pytest.mark.exercise("E8.2")
def test_the_interval_holds_the_true_mean_19_times_in_20():
    draws = np.random.default_rng(0).normal(5.0, 2.0, (4000, 3)).tolist()
    share = sum(low <= 5.0 <= high for _, low, high in map(mean_interval, draws)) / 4000
    assert abs(share - 0.95) < 0.012, f"{share:.1%}: is s divided by n, or t taken for another number of values?"


@pytest.mark.exercise("E8.2")
@pytest.mark.parametrize("values, reach", [
    ([96.0, 97.0, 98.0], 4.303 / 3**0.5), ([0.0, 1.0], 12.706 * 0.5), ([1.0, 1.0, 3.0, 3.0], 3.182 / 3**0.5),
    (list(range(10)), 2.262 * (55 / 6 / 10) ** 0.5),
])
def test_an_interval_reaches_t_times_s_over_the_root_of_n(values, reach):
    mean, low, high = mean_interval(values)
    assert mean == pytest.approx(sum(values) / len(values)), "the mean comes first"
    assert (low, high) == pytest.approx((mean - reach, mean + reach)), (
        "is s^2 divided by n and not by n - 1, t taken for another number of values, or the root of n forgotten?")


@pytest.mark.exercise("E8.2")
def test_large_values_that_differ_little_have_a_narrow_interval_and_keep_their_order():
    values = [1e9 + 2, 1e9, 1e9 + 1]
    mean, low, high = mean_interval(values)
    assert (mean - 1e9, high - mean, mean - low) == pytest.approx((1.0, 4.303 / 3**0.5, 4.303 / 3**0.5), rel=1e-4), \
        "s is 1: the mean of the squares minus the square of the mean loses all digits"
    assert values == [1e9 + 2, 1e9, 1e9 + 1], "the caller's list was sorted: seeds no longer meet in their order"


@pytest.mark.exercise("E8.2")
@pytest.mark.parametrize("count", [0, 1, 11])
def test_one_run_has_no_interval(count):
    with pytest.raises(ValueError, match=rf"\b{count}\b"):
        mean_interval([1.0] * count)


@pytest.mark.exercise("E8.3")
def test_a_difference_is_judged_seed_by_seed():
    values = [96.0, 97.0, 98.5]
    assert beside(values, [97.0, 98.1, 99.4]) == "97.167 -+ 3.126 <", "the luck that two settings share must cancel"
    assert beside(values, [95.0, 96.1, 97.4]).endswith(">"), "> says that the first is higher"
    assert beside(values, [99.4, 97.0, 98.1]).endswith("~"), "the same numbers in another order are other seeds"
    with pytest.raises(ValueError):
        beside(values, values[:2])


@pytest.mark.exercise("E8.3")
def test_what_is_printed_is_the_mean_of_the_first_how_far_its_interval_reaches_and_one_sign():
    values = [96.0, 97.0, 98.5]
    assert beside(values, [95.0, 98.0, 98.4]) == "97.167 -+ 3.126 ~", "some up, some down: nothing is known"
    assert beside(values, list(values)) == "97.167 -+ 3.126 =", "the same values: that is more than ~ says"
    assert beside(values, values[::-1]).endswith("~"), "equal means are not the same values"
    assert beside([2.0, 2.0001, 1.9999], [2.0002, 2.0003, 2.0001]) == "2.000 -+ 0.000 <", \
        "a small difference that every seed shows is known: = is for the same values alone"
