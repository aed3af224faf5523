"""One run of a spam filter: whose answer is whose, what is trained on, and that it does what chapters 5 and 6 do."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from tiny_filter import TINY, Letters, make_tiny, one_core

from gpt.experiments import spam_filters
from gpt.adapters import load_adapter, read_adapter
from gpt.batches import label_ids, pad
from gpt.classify import class_logits, swap_head
from gpt.evaluate.baselines import LengthRule, LogisticRegression, NaiveBayes
from gpt.evaluate.metrics import confusion_matrix, roc_auc
from gpt.experiments.comparison import record_of, settings_for
from gpt.experiments.spam_filters import CONDITIONS, METHODS, first_of_each, run_filter, spam_probabilities, splits_of
from gpt.lora import count_parameters
from gpt.losses import class_weights
from gpt.model import GPTModel
from gpt.spam import SpamDataset, read_sms

LORA, BLOG = "LoRA, r = 16", "the blog's LoRA"
HELD_OUT = ("validation", "test")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Runs a method on made-up messages with a tiny model. Output of a call: what `run_filter` gives"""
    make_tiny(monkeypatch.setattr, tmp_path)
    monkeypatch.setitem(spam_filters.GPT2_SIZES, "tiny", TINY)

    def call(name, condition, seed=1, folder=tmp_path / "run", **options):
        settings = settings_for(name, condition, seed, "tiny", **options)
        settings["method"]["rate"] = 0.01    # a rate for 124M would teach so small a model nothing
        folder.mkdir(exist_ok=True)
        found = run_filter(settings, folder, "cpu")
        (folder / "checkpoint.pt").unlink(missing_ok=True)    # or the next run of these settings would go on from it
        return found

    with one_core():
        yield call


@pytest.fixture
def file(tiny, tmp_path):
    return tmp_path / "messages"


def spy(monkeypatch, name):
    """The list in which the arguments come to stand whenever gpt.experiments.spam_filters calls the function."""
    seen, function = [], getattr(spam_filters, name)
    monkeypatch.setattr(spam_filters, name, lambda *given: (seen.append(given), function(*given))[1])
    return seen


def answers(found):
    """Without the times."""
    return {key: value for key, value in found.items() if not key.startswith("seconds")}


# Whose answer is whose

@pytest.mark.parametrize("pad_to", [None, 20])
def test_answers_come_in_the_tables_order_whatever_the_batches(file, pad_to):
    table, model = splits_of("natural", file, 1)[2], GPTModel(TINY, torch.Generator().manual_seed(0)).eval()
    torch.manual_seed(0)
    swap_head(model, 2, zero=False)
    assert table["Text"].str.len().is_monotonic_increasing is False and len(table) % 8, "this table proves nothing"
    found, alone = spam_probabilities(model, table, Letters(), torch.device("cpu"), pad_to), []
    for text in table["Text"]:
        row = Letters().encode(text)[:pad_to or TINY.context_length]
        ids, lengths = pad([row], width=pad_to)
        with torch.no_grad():
            logits = class_logits(model, ids, None if pad_to else lengths)
        alone.append(logits.softmax(dim=-1)[0, 1].item())
    assert len(set(alone)) > 0.9 * len(alone), "messages that get the same answer cannot be told apart"
    assert found == pytest.approx(alone, abs=1e-5), "the loader's order, or the other class's probability?"


@pytest.mark.parametrize("condition, asked, balanced", [("blog", "blog", "blog"), ("balanced", "natural", "balanced"),
                                                        ("natural", "natural", "balanced")])
def test_every_message_that_was_kept_aside_is_answered_the_balanced_ones_first(tiny, file, condition, asked, balanced):
    found, lines = tiny("length", condition), read_sms(file)
    training, *tables = splits_of(condition, file, 1)
    assert found["n_train"] == len(training)
    for name, table, first in zip(HELD_OUT, splits_of(asked, file, 1)[1:], splits_of(balanced, file, 1)[1:]):
        kept = found[name]
        assert kept["rows"] == table["Row"].tolist() and kept["n_balanced"] == len(first)
        assert kept["rows"][:kept["n_balanced"]] == first["Row"].tolist(), "the balanced messages are not the first"
        assert [lines["Label"][row] for row in kept["rows"]] == [("ham", "spam")[label] for label in kept["labels"]]
        assert len(kept["spam"]) == len(kept["labels"])
        assert not set(kept["rows"]) & set(training["Row"]), "it is asked about what it was trained on"


def test_a_rule_is_sure_and_those_that_count_say_how_sure(tiny, file):
    training, _, test = splits_of("natural", file, 1)
    texts, labels = training["Text"].tolist(), label_ids(training).tolist()
    rule, bayes = tiny("length", "natural"), tiny("naive Bayes", "natural")
    length = LengthRule().fit(texts, labels)
    assert rule["test"]["spam"] == length.predict(test["Text"]) and set(rule["test"]["spam"]) <= {0, 1}
    assert rule["train_accuracy"] == sum(p == y for p, y in zip(length.predict(texts), labels)) / len(labels)
    by_hand = NaiveBayes().fit(texts, labels)
    assert bayes["test"]["spam"] == [row[1] for row in by_hand.predict_proba(test["Text"])]
    assert set(tiny("majority", "natural")["test"]["spam"]) == {0.0}, "most messages are ham"
    assert (rule["trainable_parameters"], bayes["trainable_parameters"]) == (3, by_hand.parameters)


# What is trained on

def test_on_unequal_classes_logistic_regression_gets_their_weights(tiny, file):
    training, _, test = splits_of("natural", file, 1)
    texts, labels = training["Text"].tolist(), label_ids(training)
    weighted, plain = ([row[1] for row in LogisticRegression(Letters()).fit(texts, labels.tolist(), weights)
                        .predict_proba(test["Text"])] for weights in (class_weights(labels, 2), None))
    found = tiny("logistic regression", "natural")["test"]["spam"]
    assert found == pytest.approx(weighted, abs=1e-9) and found != pytest.approx(plain, abs=1e-2), "they did not arrive"


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_model_that_trains_gets_class_weights_on_natural_messages_alone(tiny, file, condition, monkeypatch):
    calls = spy(monkeypatch, "class_loss")
    tiny("head", condition, epochs=1)
    seen = [weights for _, _, weights in calls]
    expected = class_weights(label_ids(splits_of("natural", file, 1)[0]), 2) if condition == "natural" else None
    assert seen and all(weights is None if expected is None else torch.equal(weights, expected) for weights in seen)


@pytest.mark.parametrize("name", ["naive Bayes", "head"])
def test_few_messages_are_the_first_of_each_class(tiny, file, name, monkeypatch):
    loaders, training = spy(monkeypatch, "BatchesByLength"), splits_of("balanced", file, 2)[0]
    found, few = tiny(name, "balanced", seed=2, n_train=16, epochs=1), first_of_each(training, 16)
    assert found["n_train"] == len(few) == 16 and few["Row"].tolist() != training["Row"][:16].tolist(), "proves nothing"
    if name == "naive Bayes":
        by_hand = NaiveBayes().fit(few["Text"].tolist(), label_ids(few).tolist())
        texts = [read_sms(file)["Text"][row] for row in found["test"]["rows"]]
        assert found["test"]["spam"] == [row[1] for row in by_hand.predict_proba(texts)]
    else:
        trained, *_, seed = loaders[0]
        assert trained["Row"].tolist() == few["Row"].tolist() and seed == 2, "the seed decides the order too"


def test_the_blogs_lora_is_trained_and_read_at_padding(tiny, file, tmp_path):
    found = tiny(BLOG, "blog", epochs=1)
    training, _, test = splits_of("blog", file, 1)
    longest = SpamDataset(training, Letters()).max_length
    model = GPTModel(TINY, torch.Generator().manual_seed(0))
    adapter = load_adapter(model, tmp_path / "run" / "adapter.safetensors")
    assert adapter.pad_to == longest == training["Text"].str.len().max()
    at_padding, at_last_token = (spam_probabilities(model.eval(), test, Letters(), torch.device("cpu"), pad_to)
                                 for pad_to in (longest, None))
    assert found["test"]["spam"] == at_padding and at_padding != pytest.approx(at_last_token, abs=1e-3)


# How it is trained

@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].epochs])
def test_a_run_can_be_repeated_and_another_seed_is_another_run(tiny, tmp_path, name):
    condition = "blog" if name == BLOG else "balanced"
    torch.manual_seed(0)
    first = answers(tiny(name, condition, epochs=1, folder=tmp_path / "a"))
    torch.manual_seed(9)
    assert answers(tiny(name, condition, epochs=1, folder=tmp_path / "b")) == first
    files = [tmp_path / folder / "adapter.safetensors" for folder in "ab"]
    assert [file.exists() for file in files] == [bool(METHODS[name].rank)] * 2, "an adapter holds a LoRA, nothing else"
    if METHODS[name].rank:
        assert files[0].read_bytes() == files[1].read_bytes() and read_adapter(files[0])[0].labels == ["ham", "spam"]
    other = tiny(name, condition, seed=2, epochs=1)
    assert other["test"]["rows"] != first["test"]["rows"] and other["test"]["spam"] != first["test"]["spam"]


@pytest.mark.parametrize("name", ["head", "last block"])
def test_what_is_computed_once_gives_the_answers_of_plain_training(tiny, tmp_path, name, monkeypatch):
    tails = spy(monkeypatch, "Tail")
    kept = tiny(name, "balanced", epochs=2, folder=tmp_path / "kept")
    assert [first for _, first in tails] == [{"head": 3, "last block": 2}[name]], "of three blocks as many are frozen"
    monkeypatch.setattr(spam_filters, "frozen_blocks", lambda model: 0)
    monkeypatch.setattr(spam_filters, "Tail", None)    # must not be called
    plain = tiny(name, "balanced", epochs=2, folder=tmp_path / "plain")
    for part in HELD_OUT:
        assert kept[part]["spam"] == pytest.approx(plain[part]["spam"], abs=1e-5)
        assert max(abs(p - 0.5) for p in kept[part]["spam"]) > 0.01, "nothing was learnt: this proves nothing"


def test_training_teaches_and_says_what_it_costs(tiny):
    found = tiny("everything", "balanced", epochs=4)
    assert found["train_accuracy"] > 0.9 and found["seconds_training"] > 0 < found["seconds_evaluating"]
    model = GPTModel(TINY)
    swap_head(model, 2)
    assert (found["trainable_parameters"], found["total_parameters"]) == count_parameters(model)


def test_an_untrained_model_is_the_seeds_own_and_its_adapter_says_so(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(spam_filters, "load_gpt2", None)    # must not be called
    tiny(LORA, "balanced", seed=3, epochs=1, pretrained=False)
    file = tmp_path / "run" / "adapter.safetensors"
    assert read_adapter(file)[0].base == "tiny, untrained (seed 3)", "who loads it would lay it over trained weights"
    load_adapter(GPTModel(TINY, torch.Generator().manual_seed(3)), file)    # which compares the weights


# The runner repeats what the chapters teach

AGREEMENT = [("06_lora_spam.py", [], {LORA: 3}, "balanced"),
             ("06b_as_published.py", ["--epochs", "1"], {BLOG: 1}, "blog"),
             ("05_spam_classifier.py", ["--epochs", "1"], {"head": 1, "last block": 1, "everything": 1}, "balanced")]


@pytest.mark.chapters
@pytest.mark.parametrize("chapter, words, methods, condition", AGREEMENT)
def test_the_runner_repeats_what_the_chapters_teach(tmp_path, monkeypatch, chapter, words, methods, condition):
    """To the last bit: the same confusion, the same order of all messages, and the same adapter.

    On one core, as gpt.experiments.spam_filters has it: two add up in another order, and the last bits differ.
    """
    for name in ("sms", "vocab.bpe"):
        shutil.copy(spam_filters.fetch(name), tmp_path)
    monkeypatch.setenv("GPT_DATA_DIR", str(tmp_path))
    words = ["--model", "mini", "--seed", "123", "--device", "cpu", *words]
    subprocess.run([sys.executable, str(ROOT / "chapters" / chapter), *words], check=True, capture_output=True,
                   env=os.environ | {"OMP_NUM_THREADS": "1"})
    folder = next((tmp_path / "runs" / chapter[:-3]).iterdir())
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for name, epochs in methods.items():
        theirs = results["results"][f"GPT-2 mini, {name}"] if "results" in results else results
        record = record_of(name, settings_for(name, condition, 123, epochs=epochs))
        n = record["test"]["n_balanced"]
        labels, spam = record["test"]["labels"][:n], record["test"]["spam"][:n]
        assert confusion_matrix(labels, [p >= 0.5 for p in spam], 2).tolist() == theirs["test"]["confusion"], name
        assert roc_auc(labels, spam) == theirs["test"]["roc_auc"], f"{name}: other training, or another read-out"
        if theirs.get("train_accuracy_of", record["n_train"]) == record["n_train"]:    # chapter 6 asks fewer
            assert record["train_accuracy"] == pytest.approx(theirs["train_accuracy"], abs=1e-6)
        assert record["trainable_parameters"] == theirs["trainable_parameters"]
    if (folder / "adapter.safetensors").exists():
        ours, = (tmp_path / "runs" / "experiment").glob("*/adapter.safetensors")
        assert ours.read_bytes() == (folder / "adapter.safetensors").read_bytes(), "another adapter came out"
