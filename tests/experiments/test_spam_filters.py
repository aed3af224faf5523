"""gpt/experiments/spam_filters.py: what trains in each method, and that chapters 5 and 6 have the same settings."""

import ast
import math
from dataclasses import asdict

import pytest
import torch
from conftest import ROOT

from gpt.experiments import spam_filters
from gpt.batches import pad
from gpt.classify import class_logits, swap_head
from gpt.config import GPT2_SIZES
from gpt.evaluate.baselines import LengthRule, LogisticRegression, Majority, NaiveBayes
from gpt.experiments.spam_filters import (
    ALPHA, METHODS, WARMUP, Method, counter, method_for, optimizer_for, prepare, schedule_for,
)
from gpt.lora import count_parameters, lora_layers
from gpt.losses import class_loss
from gpt.model import GPTModel
from gpt.train import warmup_then_cosine
from gpt.weights import load_gpt2

TRAINED = [name for name, method in METHODS.items() if method.epochs]
BLOG = "the blog's LoRA"


@pytest.fixture(scope="module")
def mini():
    """A prepared mini for a method and a seed."""
    def prepared(name, seed=1):
        model = load_gpt2("mini")
        prepare(model, METHODS[name], 2, seed)
        return model
    return prepared


@pytest.fixture
def prepared(small_model):
    """The small model, prepared for a method."""
    def make(name, seed=1):
        model = GPTModel(small_model.config, torch.Generator().manual_seed(0))
        prepare(model, METHODS[name], 2, seed)
        return model
    return make


def batch(V):
    return *pad([[1, 2, 3, 4, 5], [6, 7], [V - 1]], 0), torch.tensor([0, 1, 1])


# What trains

@pytest.mark.parametrize("name, trainable, total", [
    ("head", 258, 7_259_266), ("last block", 198_786, 7_259_266), ("everything", 7_259_266, 7_259_266),
    ("untrained, everything", 7_259_266, 7_259_266), ("LoRA, r = 16", 147_714, 7_406_722), (BLOG, 149_536, 7_408_802)])
def test_of_mini_as_much_trains_as_the_chapters_say(mini, name, trainable, total):
    assert count_parameters(mini(name)) == (trainable, total)


def test_the_counts_follow_from_the_sizes(mini):
    C, LAYERS, head = 128, 4, 2 * (128 + 1)
    block, every_linear = 12 * C * C + 13 * C, 4 * (C + C) + 2 * (C + 4 * C)    # every_linear: in + out, times r
    assert count_parameters(mini("last block"))[0] == block + 2 * C + head, "is the final norm left out?"
    for name, rank in (("LoRA, r = 4", 4), ("LoRA, r = 16", 16)):
        assert count_parameters(mini(name))[0] == LAYERS * every_linear * rank + head, f"{name}: has it another rank?"
    assert count_parameters(mini(BLOG))[0] == LAYERS * every_linear * 16 + 16 * (C + 2), "the head's LoRA, not the head"


@pytest.mark.parametrize("name, trains", [
    ("head", {"out_head"}), ("last block", {"out_head", "final_norm", "trf_blocks.2"}),
    ("everything", {"out_head", "final_norm", "tok_emb", "pos_emb", *(f"trf_blocks.{i}" for i in range(3))})])
def test_a_method_trains_what_its_name_says(prepared, name, trains):
    model = prepared(name)
    found = {".".join(parameter.split(".")[:2 if parameter.startswith("trf") else 1])
             for parameter, p in model.named_parameters() if p.requires_grad}
    assert found == trains
    for part in trains:
        assert all(p.requires_grad for p in model.get_submodule(part).parameters()), f"a part of {part} is frozen"


@pytest.mark.parametrize("name", ["LoRA, r = 4", "LoRA, r = 16", BLOG])
def test_a_lora_trains_A_and_B_and_ours_the_head_besides(prepared, name):
    model = prepared(name)
    besides = {parameter for parameter, p in model.named_parameters() if p.requires_grad and ".lora." not in parameter}
    assert besides == (set() if name == BLOG else {"out_head.weight", "out_head.bias"})
    wrapped = {layer for layer, _ in lora_layers(model)}
    assert len(wrapped) == 3 * 6 + (name == BLOG) and ("out_head" in wrapped) == (name == BLOG)
    assert all(p.requires_grad for _, layer in lora_layers(model) for p in layer.lora.parameters())


@pytest.mark.parametrize("name", [name for name in TRAINED if name != BLOG])
def test_the_first_loss_is_ln_2(prepared, name):
    model = prepared(name)
    ids, lengths, labels = batch(model.config.vocab_size)
    loss = class_loss(class_logits(model, ids, lengths), labels).item()
    assert math.isclose(loss, math.log(2), rel_tol=1e-6), "does the head start at zero, and B?"


def test_the_blogs_lora_is_chapter_6s_recipe(prepared):
    model, seed = prepared(BLOG, seed=5), 5
    layers = dict(lora_layers(model))
    assert {layer.lora.scale for layer in layers.values()} == {ALPHA} == {16}, "unscaled: alpha itself, not alpha / r"
    for name, layer in layers.items():
        bound, largest = 1 / 16**0.5, layer.lora.A.abs().max().item()
        assert 0.8 * bound < largest <= bound, f"{name}: A is drawn up to 1 / sqrt(r), whatever the layer has of inputs"
        assert not layer.lora.B.any()
    torch.manual_seed(seed)    # as chapter 6 does it
    chapters = GPTModel(model.config)
    torch.manual_seed(seed)
    swap_head(chapters, 2, zero=False)
    assert torch.equal(model.out_head.linear.weight, chapters.out_head.weight), "another head than chapter 6's"
    A = torch.empty(30, 16).uniform_(-0.25, 0.25, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(next(iter(layers.values())).lora.A, A), "another A than chapter 6's"


@pytest.mark.parametrize("name", TRAINED)
def test_the_seed_decides_all_that_is_drawn(prepared, name):
    torch.manual_seed(0)
    first = dict(prepared(name, seed=1).named_parameters())
    torch.manual_seed(9)
    again, other = (dict(prepared(name, seed=seed).named_parameters()) for seed in (1, 2))
    assert all(torch.equal(p, again[key]) for key, p in first.items()), "torch's global state decides"
    drawn = {key for key, p in first.items() if not torch.equal(p, other[key])}
    expected = {key for key in first if key.endswith("lora.A") or name == BLOG and key.startswith("out_head.linear")}
    assert drawn == expected, "another seed must draw another A, and the blog's head, and change nothing else"


@pytest.mark.parametrize("name", TRAINED)
def test_torchs_random_state_is_left_alone(small_model, name):
    state = torch.get_rng_state()
    prepare(small_model, METHODS[name], 2, seed=1)
    assert torch.equal(torch.get_rng_state(), state), "nn.Linear draws from the global state, zeroed or not"


# How it trains

@pytest.mark.parametrize("name", TRAINED)
def test_the_optimizer_has_what_trains_and_no_more(prepared, name):
    model, method = prepared(name), METHODS[name]
    group, = optimizer_for(model, method).param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in model.parameters() if p.requires_grad}
    assert (group["lr"], group["weight_decay"]) == (method.rate, 0.1 if name == BLOG else 0.0)


def test_the_rate_warms_up_in_20_steps_or_a_fifth_of_few_but_the_blogs_never_moves():
    for steps, warmup in ((393, 20), (100, 20), (99, 19), (8, 1), (3, 0)):
        ours, expected = schedule_for(METHODS["head"], steps), warmup_then_cosine(warmup, steps)
        assert [ours(i) for i in range(steps)] == [expected(i) for i in range(steps)], f"{steps} steps"
    assert schedule_for(METHODS[BLOG], 100) is None


def test_a_larger_model_trains_plainly_at_the_books_rate():
    for name in METHODS:
        on_mini, on_124M = method_for(name, "mini"), method_for(name, "gpt2-small (124M)")
        assert on_mini == METHODS[name]
        plain = METHODS[name].trains in ("head", "last block", "everything")
        assert on_124M.rate == (5e-5 if plain else on_mini.rate), f"{name}: mini's rate was tried on mini alone"
        assert asdict(on_124M) | {"rate": 0} == asdict(on_mini) | {"rate": 0}


def test_a_method_may_begin_untrained():
    assert not METHODS["untrained, everything"].pretrained and method_for("head", "mini").pretrained
    assert method_for("head", "mini", pretrained=False) == Method("head", 30, 1e-3, pretrained=False)
    assert not method_for("untrained, everything", "mini", None).pretrained, "None leaves it as it is"


def test_an_unknown_method_is_named_beside_those_there_are():
    with pytest.raises(ValueError, match="no method 'LoRA': there are majority, .*LoRA, r = 16, the blog's LoRA"):
        method_for("LoRA", "mini")


def test_a_counter_is_new_each_time_and_a_model_that_trains_is_none():
    kinds = dict(zip(METHODS, (Majority, LengthRule, NaiveBayes, LogisticRegression)))
    for name, method in METHODS.items():
        made = counter(method.trains, tokenizer := object())
        assert type(made) is kinds.get(name, type(None)), name
        if made:
            assert made is not counter(method.trains, tokenizer) and getattr(made, "tokenizer", tokenizer) is tokenizer


# The chapters' settings

def settings_of(chapter):
    """A chapter's constants, what is assigned at top level and needs no name but dict, as {name: value}; its source."""
    source, found = (ROOT / "chapters" / chapter).read_text(encoding="utf-8"), {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            names = [getattr(name, "id", None) for name in getattr(node.targets[0], "elts", node.targets)]
            values = getattr(node.value, "elts", [node.value]) if len(names) > 1 else [node.value]
            for name, value in zip(names, values):
                try:
                    found.setdefault(name, eval(ast.unparse(value), {"__builtins__": {"dict": dict}}))
                except Exception:
                    continue    # it needs what the chapter has computed
    return found, source


def test_chapter_5_trains_with_the_same_settings():
    chapter, source = settings_of("05_spam_classifier.py")
    assert chapter["FULL"]["rounds"] == {way: METHODS[way].epochs for way in ("head", "last block", "everything")}
    assert (chapter["BATCH_SIZE"], chapter["CONTEXT"]) == (spam_filters.BATCH_SIZE, spam_filters.CONTEXT)
    rates = {METHODS[way].rate for way in chapter["FULL"]["rounds"]}, method_for("head", "gpt2-small (124M)").rate
    assert rates == ({1e-3}, 5e-5) and '\nrate = 1e-3 if args.model == "mini" else 5e-5\n' in source
    assert f"schedule=warmup_then_cosine({WARMUP}, epochs * " in source, "chapter 5 warms up in other steps"
    assert ", rate, weight_decay=0.0, fused=True)" in source, "chapter 5 has another optimizer"


def test_chapter_6_trains_with_the_same_settings():
    chapter, source = settings_of("06_lora_spam.py")
    assert (chapter["RANK"], chapter["ALPHA"], chapter["BATCH_SIZE"], chapter["CONTEXT"]) == \
        (METHODS["LoRA, r = 16"].rank, ALPHA, spam_filters.BATCH_SIZE, spam_filters.CONTEXT)
    recipe, ours = chapter["RECIPE"], METHODS["LoRA, r = 16"]
    group, = optimizer_for(GPTModel(GPT2_SIZES["mini"]), ours).param_groups
    assert (chapter["FULL"]["epochs"], recipe["learning_rate"], recipe["weight_decay"], recipe["warmup"]) == \
        (ours.epochs, ours.rate, group["weight_decay"], WARMUP)
    assert (recipe["scale"], recipe["init"]) == ("alpha/r", None) and "fused=True" in source, "see prepare"


def test_chapter_6b_trains_with_the_blogs_settings():
    chapter, source = settings_of("06b_as_published.py")
    assert (chapter["FULL"]["epochs"], schedule_for(METHODS[BLOG], 780)) == (METHODS[BLOG].epochs, None)
    assert f"lr={METHODS[BLOG].rate:.0e}".replace("e-05", "e-5") + ", weight_decay=0.1, fused=True)" in source
    assert 'alpha=16, scale="alpha", init="blog"' in source and "zero=False" in source, "see prepare"
