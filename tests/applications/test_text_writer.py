"""gpt/applications/text_writer.py: rows, loss and accuracy against loops, parts against the whole batch."""

import math
from functools import partial

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from gpt.applications import text_writer
from gpt.adapters import load_adapter
from gpt.applications.text_writer import (
    TextBatches, fine_tune, read_documents, step_in_parts, text_scores, titled,
)
from gpt.config import GPT2_SIZES, GPTConfig
from gpt.lora import lora_layers, replace_linear_with_lora
from gpt.losses import hidden_and_targets, next_token_loss, real_tokens
from gpt.model import GPTModel
from gpt.tokenizer import END_OF_TEXT
from gpt.train import parameter_groups, train, training_step


class Letters:
    """A tokenizer that needs no file: one token a character."""

    def encode_ordinary(self, text):
        return [ord(letter) - 32 for letter in text]


@pytest.fixture
def batch(sizes):
    """Four rows of 3, 5, 9 and 12 real tokens; what fills the rows is random, so that it shows where it is read."""
    ids = torch.randint(sizes.V, (4, 12), generator=torch.Generator().manual_seed(0))
    return ids, torch.tensor([3, 5, 9, 12])


def each_row(model, batch):
    """(loss, first choice is right) of each real token, row by row without padding."""
    for row, length in zip(*batch, strict=True):
        logits, targets = model(row[None, :length - 1])[0], row[1:length]
        yield from zip(F.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets, strict=True)


# Texts and rows

def test_documents_stand_between_empty_lines_and_else_on_lines(tmp_path):
    file = tmp_path / "a text.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\nstill one\r\n \t\r\n\r\ntwo\n\n\n")
    assert read_documents(file) == ["one\nstill one", "two"], "a BOM, line ends of Windows, or a line of spaces"
    file.write_text("one\ntwo\nthree\n", encoding="utf-8")
    assert read_documents(file) == ["one", "two", "three"]
    file.write_text(" \n\n", encoding="utf-8")
    with pytest.raises(ValueError, match="a text.txt.*no text"):
        read_documents(file)


def test_a_table_of_titles_becomes_one_text_a_row():
    table = pd.DataFrame({"description": ["b", "d"], "other": ["x", "y"], "title": ["a", "c"]})
    assert titled(table) == ["TITLE: a DESCRIPTION: b", "TITLE: c DESCRIPTION: d"]


def test_a_row_is_a_text_between_two_ends_and_its_length_counts_both():
    (ids, lengths), = TextBatches(["ab", "abcd"], Letters(), 2)
    E, (a, b, c, d) = END_OF_TEXT, Letters().encode_ordinary("abcd")
    assert ids.tolist() == [[E, a, b, E, E, E], [E, a, b, c, d, E]]
    assert lengths.tolist() == [4, 6], "the end of a text is real, the padding behind it is not"
    assert real_tokens((ids, lengths)) == 3 + 5


@pytest.mark.parametrize("letters", range(1, 30))
def test_a_long_text_is_cut_so_that_each_token_is_predicted_once(letters):
    text = "".join(chr(40 + i) for i in range(letters))
    rows = TextBatches([text], Letters(), 1, context_length=7).token_ids
    assert max(map(len, rows)) <= 8, "7 tokens to read and one more to predict"
    assert min(map(len, rows)) >= 2, "a row of one token has nothing to predict"
    predicted = [token for row in rows for token in row[1:]]
    assert predicted == [*Letters().encode_ordinary(text), END_OF_TEXT], "a token is lost, or predicted twice"
    assert all(row[0] == before[-1] for before, row in zip(rows, rows[1:])), "a row begins with nothing before it"


def test_every_text_comes_once_an_epoch_in_an_order_of_its_own():
    texts = [chr(40 + i) * (1 + i % 9) for i in range(50)]
    loader, orders = TextBatches(texts, Letters(), 8, seed=1), []
    for epoch in range(2):
        loader.set_epoch(epoch)
        orders.append([row for rows in loader.rows for row in rows])
        assert sorted(orders[-1]) == list(range(50)) and len(loader) == len(loader.rows) == 7
    assert orders[0] != orders[1]
    assert sum(real_tokens(batch) for batch in loader) == sum(len(text) + 1 for text in texts)


# Loss and accuracy

@pytest.mark.exercise("E7.1")
def test_what_is_predicted_is_every_real_token_but_the_first_row_after_row(small_model, batch):
    hidden, targets = hidden_and_targets(small_model, batch)
    rows = [(row, length) for row, length in zip(*batch, strict=True)]
    assert targets.tolist() == [token for row, length in rows for token in row[1:length].tolist()], (
        "is padding predicted, the first token, or the last one of a row left out?")
    expected = torch.cat([small_model.hidden(row[None, :length - 1])[0] for row, length in rows])
    assert torch.allclose(hidden, expected, atol=1e-5), "what is known before a token: one position before it"


@pytest.mark.exercise("E7.1")
def test_a_row_of_one_token_more_than_the_model_reads_can_be_learnt_from(small_model, sizes):
    ids = torch.randint(sizes.V, (2, sizes.context + 1), generator=torch.Generator().manual_seed(0))
    hidden, targets = hidden_and_targets(small_model, (ids, torch.tensor([sizes.context + 1, 5])))
    assert len(hidden) == len(targets) == sizes.context + 4, "the last token of a row is predicted and never read"


@pytest.mark.exercise("E7.1")
def test_the_loss_is_the_mean_over_real_tokens(small_model, batch):
    by_hand = torch.stack([loss for loss, _ in each_row(small_model, batch)])
    assert len(by_hand) == real_tokens(batch) == 25
    loss = next_token_loss(small_model, batch, chunk=4)
    assert torch.allclose(loss, by_hand.mean(), atol=1e-6), "padding counts, or short rows count as much as long ones"
    ids, lengths = batch
    filled = torch.where(torch.arange(12) < lengths[:, None], ids, 0)
    assert torch.allclose(next_token_loss(small_model, (filled, lengths)), loss, atol=1e-6), "what fills a row is read"
    whole = ids, torch.full((4,), 12)
    assert torch.allclose(next_token_loss(small_model, whole), next_token_loss(small_model, ids), atol=1e-6)


@pytest.mark.exercise("E7.1")
def test_the_gradients_are_those_of_the_loss_in_one_piece(small_model, batch):
    parameters = list(small_model.parameters())
    chunked = torch.autograd.grad(next_token_loss(small_model, batch, chunk=4), parameters)
    hidden, targets = hidden_and_targets(small_model, batch)
    assert hidden.requires_grad, "detached, what the model knows could not become better"
    whole = torch.autograd.grad(F.cross_entropy(small_model.out_head(hidden), targets), parameters)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(chunked, whole, strict=True))


def test_scores_count_each_real_token_once_whatever_its_batch(small_model, batch):
    ids, lengths = batch
    best = small_model(ids[3:, :-1]).argmax(-1)[0]
    ids[3, 5] = best[4]    # at least one token that is the first choice
    tokens = list(each_row(small_model, batch))
    batches = [(ids[:1], lengths[:1]), (ids[1:], lengths[1:])]
    small_model.train()
    scores = text_scores(small_model, batches, "cpu", chunk=5)
    assert math.isclose(scores["loss"], sum(loss.item() for loss, _ in tokens) / 25, rel_tol=1e-5)
    assert scores["accuracy"] == sum(right.item() for _, right in tokens) / 25 > 0
    assert small_model.training, "looking changes the model's mode"
    with pytest.raises(ValueError, match="no token to score"):
        text_scores(small_model, [], "cpu")


# In parts

def one_step(model, step, batch):
    """A step of SGD from the model's weights, undone at once. Output: loss, how far each weight went."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss = step(model, batch, next_token_loss, torch.optim.SGD(model.parameters(), lr=1.0), 0.5)
    moved = {name: before[name] - p.detach() for name, p in model.named_parameters()}
    model.load_state_dict(before, strict=False)
    return loss, moved


@pytest.mark.exercise("E7.5")
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 9])
def test_a_batch_in_parts_gives_the_step_of_the_whole_batch(small_model, batch, parts):
    loss, moved = one_step(small_model, training_step, batch)
    for p in small_model.parameters():
        p.grad = torch.full_like(p, 100.0)    # left by whatever was computed before
    loss_in_parts, moved_in_parts = one_step(small_model, partial(step_in_parts, parts=parts, size=real_tokens), batch)
    assert math.isclose(loss, loss_in_parts, rel_tol=1e-5), "a part counts n of all: by rows, or all parts alike?"
    assert math.isclose(sum(d.square().sum().item() for d in moved.values()), 0.25, rel_tol=1e-3), "nothing was clipped"
    for name, distance in moved.items():
        assert torch.allclose(distance, moved_in_parts[name], atol=1e-5), \
            f"{name}: are parts weighed by their tokens, gradients cleared once, and all of them clipped together?"


@pytest.mark.exercise("E7.5")
def test_parts_of_different_sizes_must_not_count_the_same(small_model, batch):
    _, moved = one_step(small_model, training_step, batch)
    _, by_rows = one_step(small_model, partial(step_in_parts, parts=2), batch)
    assert not torch.allclose(moved["tok_emb.weight"], by_rows["tok_emb.weight"], atol=1e-4), \
        "this batch cannot tell the two apart"


@pytest.mark.exercise("E7.5")
def test_a_tensor_is_cut_by_rows(small_model, sizes):
    ids = torch.randint(sizes.V, (5, 6), generator=torch.Generator().manual_seed(0))
    seen = []

    def loss_fn(model, part):
        seen.append(part.shape)
        return next_token_loss(model, part)

    optimizer = torch.optim.SGD(small_model.parameters(), lr=0.0)
    loss = step_in_parts(small_model, ids, loss_fn, optimizer, parts=2)
    assert seen == [(3, 6), (2, 6)] and math.isclose(loss, next_token_loss(small_model, ids).item(), rel_tol=1e-5)


@pytest.mark.exercise("E7.5")
@pytest.mark.parametrize("bad", [0, 1])
def test_a_loss_that_is_not_finite_in_any_part_changes_nothing(small_model, batch, bad):
    before, calls = {name: p.detach().clone() for name, p in small_model.named_parameters()}, []

    def loss_fn(model, part):
        calls.append(part)
        return next_token_loss(model, part) * (math.nan if len(calls) - 1 == bad else 1.0)

    loss = step_in_parts(small_model, batch, loss_fn, torch.optim.SGD(small_model.parameters(), lr=1.0), parts=2)
    assert math.isnan(loss), "the caller must see it"
    assert all(torch.equal(p, before[name]) for name, p in small_model.named_parameters()), "a step was taken"


@pytest.mark.exercise("E7.5")
def test_a_scaled_loss_in_parts_gives_the_step_of_a_plain_one(small_model, batch):
    moved = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        def step(model, batch, loss_fn, optimizer, clip):
            loss = step_in_parts(model, batch, loss_fn, optimizer, clip, scaler, parts=2, size=real_tokens)
            assert not loss.requires_grad, "with a gradient the loss holds on to what all parts kept"
            return loss
        moved.append(one_step(small_model, step, batch)[1])
    for name, distance in moved[0].items():
        assert torch.allclose(distance, moved[1][name], atol=1e-5), \
            f"{name}: are the gradients of all parts scaled back, once, before they are clipped?"


@pytest.mark.exercise("E7.5")
def test_a_step_in_parts_whose_gradients_are_not_finite_is_left_out(small_model, batch):
    def loss_fn(model, part):
        return sum((0 * p).sum() for p in model.parameters()).sqrt() + 1.0    # 1, with a slope of infinity times 0

    before = {name: p.detach().clone() for name, p in small_model.named_parameters()}
    optimizer, scaler = torch.optim.SGD(small_model.parameters(), lr=1.0), torch.amp.GradScaler("cpu", init_scale=64.0)
    loss = step_in_parts(small_model, batch, loss_fn, optimizer, scaler=scaler, parts=2)
    assert loss == 1.0 and all(torch.equal(p, before[name]) for name, p in small_model.named_parameters()), \
        "scaler.step leaves such a step out, optimizer.step takes it"
    assert scaler.get_scale() == 32.0, "scaler.update halves the scale, once for all parts"


def test_the_loop_takes_a_step_of_another_kind(small_model, batch):
    taken = []

    def step(*arguments):
        taken.append(arguments)
        return step_in_parts(*arguments, parts=2, size=real_tokens)

    optimizer = torch.optim.SGD(small_model.parameters(), lr=0.1)
    progress = train(small_model, [batch, batch], next_token_loss, optimizer, 1, clip=1.0, step=step)
    assert progress.step == 2 and len(taken) == 2 and taken[0][2:5] == (next_token_loss, optimizer, 1.0)


# AdamW's groups

@pytest.mark.exercise("E7.3")
def test_biases_and_norms_are_not_decayed_and_nothing_is_left_out(small_model):
    decayed, plain = parameter_groups(small_model, 0.01)
    names = {id(p): name for name, p in small_model.named_parameters()}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0), "first what is decayed, then the rest"
    assert {names[id(p)].rsplit(".")[-1] for p in plain["params"]} == {"bias", "scale", "shift"}, "they are not decayed"
    assert {names[id(p)].rsplit(".")[-1] for p in decayed["params"]} == {"weight"}, "matrices are, and nothing else"
    assert len(decayed["params"]) + len(plain["params"]) == len(names), "left out it would not train, twice is an error"


@pytest.mark.exercise("E7.3")
@pytest.mark.parametrize("decay_lora", [True, False])
def test_only_what_trains_is_in_a_group_and_A_and_B_where_the_switch_says(small_model, decay_lora):
    replace_linear_with_lora(small_model, 4, 32, targets=("W_query", "W_value"))
    small_model.final_norm.requires_grad_(True)
    loras = {id(p) for _, layer in lora_layers(small_model) for p in (layer.lora.A, layer.lora.B)}
    norm = {id(p) for p in small_model.final_norm.parameters()}
    decayed, plain = ({id(p) for p in group["params"]} for group in parameter_groups(small_model, 0.01, decay_lora))
    assert (decayed, plain) == ((loras, norm) if decay_lora else (set(), loras | norm)), (
        "is a frozen parameter in a group, or A and B in the other one?")


@pytest.mark.exercise("E7.3")
def test_what_has_one_axis_is_not_decayed_whatever_its_name_and_the_decay_is_the_one_asked_for():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Embedding(5, 4))
    decayed, plain = parameter_groups(model, 0.3)
    assert [p.shape for p in decayed["params"]] == [(4, 3), (5, 4)], "matrices are decayed, an embedding too"
    assert [p.shape for p in plain["params"]] == [(4,)] * 3, "a norm's weight is a scale, though its name is weight"
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0), "the decay is the caller's"


# The whole run

@pytest.fixture
def tiny_gpt2(monkeypatch):
    monkeypatch.setitem(GPT2_SIZES, "tiny", GPTConfig(50257, 16, 12, 2, 2))
    monkeypatch.setattr(text_writer, "gpt2_tokenizer", Letters)
    return "tiny"


TEXTS = {"train": [letter * n for letter in "ab" for n in range(1, 9)], "validation": ["aa", "bbb"], "test": ["aaaa"]}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_says_what_it_cost_and_learnt(tiny_gpt2, tmp_path, method, monkeypatch):
    rates, clips = [], []
    monkeypatch.setattr(text_writer, "warmup_then_linear", lambda *steps: rates.append(steps) or (lambda step: 1.0))
    monkeypatch.setattr(text_writer.torch.nn.utils, "clip_grad_norm_", lambda parameters, clip: clips.append(clip))
    state, file = torch.get_rng_state(), tmp_path / "a.safetensors"
    run = fine_tune(model=tiny_gpt2, base="tiny, untrained", seed=1, texts=TEXTS, method=method, learning_rate=0.02,
                    untrained=True, batch_size=4, epochs=3, parts=2, looks=4,
                    adapter_file=str(file) if method == "lora" else None)
    total = sum(p.numel() for p in GPTModel(GPT2_SIZES["tiny"], torch.Generator()).parameters())
    lora = 2 * 2 * 4 * (12 + 12)    # blocks, query and value, r, in + out
    assert (run["trainable_parameters"], run["total_parameters"]) == \
        ((total, total) if method == "full" else (lora, total + lora))
    assert run["steps"] == 12 and [look["step"] for look in run["history"]] == [3, 6, 9, 12]
    assert rates == [(20, 12)] and set(clips) == {1.0} and len(clips) == 12
    assert run["after"]["validation"]["loss"] < run["before"]["validation"]["loss"], "nothing is learnt"
    assert {name: set(scores) for name, scores in run["after"].items()} == \
        {name: {"loss", "accuracy"} for name in ("validation", "test")}
    assert run["history"][-1]["loss"] == pytest.approx(run["after"]["validation"]["loss"])
    assert math.isclose(run["before"]["test"]["loss"], math.log(50257), rel_tol=0.02)
    assert torch.equal(torch.get_rng_state(), state), "it draws from torch's global generator"
    if method == "lora":
        model = GPTModel(GPT2_SIZES["tiny"], torch.Generator().manual_seed(1))
        assert load_adapter(model, file).base == "tiny, untrained"
        again = text_scores(model, TextBatches(TEXTS["test"], Letters(), 4, 16), "cpu")
        assert again["loss"] == pytest.approx(run["after"]["test"]["loss"]), "the file holds another LoRA"
