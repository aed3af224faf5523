"""gpt/cost/ledger.py: every tensor is in the ledger once, and no surgery goes unnoticed."""

import copy

import pytest
import torch

from gpt.classify import swap_head
from gpt.config import GPT2_SIZES
from gpt.cost.ledger import checksum, format_changes, format_ledger, ledger, ledger_changes
from gpt.lora import count_parameters, merge_lora, replace_linear_with_lora, unmerge_lora
from gpt.model import GPTModel


def changes(model, surgery):
    """{(name, what)} of what the surgery changes."""
    before = ledger(model)
    surgery(model)
    return {((c.after or c.before).name, c.what) for c in ledger_changes(before, ledger(model))}


def injected(size, rank, **options):
    with torch.device("meta"):
        model = GPTModel(GPT2_SIZES[size])
        model.requires_grad_(False)
        replace_linear_with_lora(model.trf_blocks, rank, 32, **options)
    return ledger(model)


@pytest.mark.parametrize("size, rank, options, trains, total", [
    ("gpt2-small (124M)", 4, dict(targets=("W_query", "W_value")), 147_456, 124_587_264),
    ("gpt2-medium (355M)", 8, dict(targets=("W_query", "W_key", "W_value"), share_a=True), 786_432, 355_609_600),
])
def test_the_ledger_counts_what_lora_trains(size, rank, options, trains, total):
    rows = injected(size, rank, **options)
    assert sum(row.count for row in rows if row.trainable) == trains, "is a shared A counted three times?"
    assert sum(row.count for row in rows) == total, "is the tied head counted beside the embedding?"
    assert sum(row.bytes for row in rows) == 4 * total


def test_a_ledger_has_each_tensor_once_and_says_its_other_names(small_model):
    rows = {row.name: row for row in ledger(small_model)}
    assert rows["tok_emb.weight"].also == ("out_head.weight",) and "out_head.weight" not in rows, (
        "the tied head is one tensor with the embedding")
    assert sum(row.count for row in rows.values()) == count_parameters(small_model)[1]
    replace_linear_with_lora(small_model.trf_blocks, 2, 2, share_a=True)
    rows = {row.name: row for row in ledger(small_model)}
    block = "trf_blocks.0.att"
    assert rows[f"{block}.W_query.lora.A"].also == (f"{block}.W_key.lora.A", f"{block}.W_value.lora.A")


@pytest.mark.exercise("E7.2")
def test_nothing_done_is_nothing_changed(small_model):
    assert changes(small_model, lambda model: model(torch.arange(5)[None])) == set(), "what is as it was is no change"
    assert changes(small_model, lambda model: model.eval()) == set(), "a mode is no tensor"


@pytest.mark.exercise("E7.2")
def test_freezing_is_seen_and_so_is_its_end(small_model):
    names = {row.name for row in ledger(small_model)}
    assert changes(small_model, lambda model: model.requires_grad_(False)) == {(name, "frozen") for name in names}
    assert changes(small_model, lambda model: model.trf_blocks[1].norm1.scale.requires_grad_(True)) == {
        ("trf_blocks.1.norm1.scale", "trains")}


@pytest.mark.exercise("E7.2")
def test_a_swapped_head_is_new_and_the_embedding_is_tied_to_nothing_any_more(small_model):
    found = changes(small_model, lambda model: swap_head(model, 2))
    assert found == {("tok_emb.weight", "ties"), ("out_head.weight", "appeared"), ("out_head.bias", "appeared")}
    assert changes(small_model, lambda model: swap_head(model, 4)) == {
        ("out_head.weight", "shape"), ("out_head.bias", "shape")}


@pytest.mark.exercise("E7.2")
def test_injecting_renames_a_layers_tensors_and_adds_two(small_model):
    found = changes(small_model, lambda model: replace_linear_with_lora(model.trf_blocks[:1], 2, 2, targets=["W_key"]))
    place = "trf_blocks.0.att.W_key"
    assert {(name, what) for name, what in found if place in name} == {
        (f"{place}.linear.weight", "renamed, frozen"), (f"{place}.linear.bias", "renamed, frozen"),
        (f"{place}.lora.A", "appeared"), (f"{place}.lora.B", "appeared")}, "the layer inside a LoRA was there before"
    assert {what for name, what in found if place not in name} == {"frozen"}


@pytest.mark.exercise("E7.2")
def test_merging_changes_numbers_alone_and_unmerging_leaves_no_trace(small_model):
    replace_linear_with_lora(small_model.trf_blocks, 2, 2, targets=["W_query"])
    for name, p in small_model.named_parameters():
        if name.endswith("lora.B"):
            p.data.fill_(0.01)
    before = ledger(small_model)
    found = changes(small_model, merge_lora)
    blocks = [f"trf_blocks.{i}.att.W_query" for i in range(small_model.config.n_layers)]
    assert found == {(f"{b}.linear.weight", "values") for b in blocks} | {(f"{b}.original", "appeared") for b in blocks}
    assert all(not row.is_parameter for row in ledger(small_model) if row.name.endswith("original"))
    lines = format_ledger(ledger(small_model)).splitlines()
    assert sum(line.endswith("buffer") for line in lines) == 1
    assert f" of {count_parameters(small_model)[1]:,} parameters" in lines[-1], "what merging keeps is no parameter"
    unmerge_lora(small_model)
    assert ledger_changes(before, ledger(small_model)) == [], "the weights are not back bit for bit"


@pytest.mark.exercise("E7.2")
def test_what_disappears_is_said(small_model):
    def take_out(model):
        model.trf_blocks = model.trf_blocks[:-1]
    gone = changes(small_model, take_out)
    assert len(gone) == 16 and {what for _, what in gone} == {"disappeared"}, "the names of before must be looked for"


@pytest.mark.exercise("E7.2")
def test_changes_tell_before_and_after_in_the_order_of_the_ledger_after_and_first_what_is_gone():
    linear = torch.nn.Linear(2, 2)
    before = ledger(torch.nn.ModuleDict({"z": linear, "a": torch.nn.Linear(3, 3), "linear": torch.nn.Linear(4, 4)}))
    linear.requires_grad_(False)
    after = ledger(torch.nn.ModuleDict({"z": linear, "m": torch.nn.Linear(5, 5), "b": torch.nn.Linear(6, 6)}))
    found = ledger_changes(before, after)
    assert [(c.what, (c.before or c.after).name) for c in found] == [
        ("disappeared", "a.weight"), ("disappeared", "a.bias"), ("disappeared", "linear.weight"),
        ("disappeared", "linear.bias"), ("frozen", "z.weight"), ("frozen", "z.bias"), ("appeared", "m.weight"),
        ("appeared", "m.bias"), ("appeared", "b.weight"), ("appeared", "b.bias")], "not sorted, and not turned round"
    frozen = found[4]
    assert (frozen.before, frozen.after) == (before[0], after[0]), "a change holds the row before, then the row after"
    assert found[0].after is None and found[-1].before is None, "what is gone has no row after, what is new none before"


@pytest.mark.exercise("E7.2")
def test_half_precision_is_another_type(small_model):
    assert {what for _, what in changes(small_model, lambda model: model.bfloat16())} == {"dtype"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_checksum_sees_one_bit_and_the_order_and_not_how_numbers_lie_in_memory(dtype):
    tensor = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    turned, other, swapped = tensor.t().contiguous().t(), tensor.clone(), tensor.clone()
    assert checksum(turned) == checksum(tensor), "strides are no numbers"
    other.view(torch.uint8)[2, 3] ^= 1
    swapped[[0, 1]] = swapped[[1, 0]]
    assert len({checksum(tensor), checksum(other), checksum(swapped)}) == 3, "a sum would not see the order"
    assert checksum(tensor.to("meta")) is None and isinstance(checksum(torch.tensor(1.0)), int)


def test_a_ledger_holds_no_tensor_and_changes_nothing(small_model):
    state = copy.deepcopy(small_model.state_dict())
    rows = ledger(small_model)
    assert not any(torch.is_tensor(value) for row in rows for value in vars(row).values())
    assert all(torch.equal(state[name], tensor) for name, tensor in small_model.state_dict().items())


def test_the_text_folds_the_blocks_and_counts_all_of_them():
    lines = format_ledger(injected("gpt2-small (124M)", 4, targets=("W_query", "W_value"))).splitlines()
    assert len(lines) == 25, "a line for each tensor that blocks have in common, and one for the sum"
    assert lines[0].split() == ["tok_emb.weight", "(50257,", "768)", "x", "1", "38,597,376", "also", "out_head.weight"]
    assert lines[4].split() == ["trf_blocks.0-11.att.W_query.lora.A", "(768,", "4)", "x", "12", "36,864", "trains"]
    assert lines[-1] == "147,456 of 124,587,264 parameters train; all tensors 498.3 MB"


def test_the_text_keeps_apart_what_differs_between_blocks(small_model):
    small_model.requires_grad_(False)
    small_model.trf_blocks[1].att.W_key.bias.requires_grad_(True)
    found = [line.split() for line in format_ledger(ledger(small_model)).splitlines() if "W_key.bias" in line]
    last = small_model.config.n_layers - 1
    C = small_model.config.emb_dim
    rest = "0,2" if last == 2 else f"0,2-{last}"
    assert [[words[0], words[3], words[-1]] for words in found] == [
        [f"trf_blocks.{rest}.att.W_key.bias", f"{last}", f"{C * last}"],
        ["trf_blocks.1.att.W_key.bias", "1", "trains"]]


def test_the_text_of_the_changes_is_folded_too(small_model):
    before, n = ledger(small_model), small_model.config.n_layers
    small_model.trf_blocks.requires_grad_(False)
    swap_head(small_model, 2)
    lines = format_changes(ledger_changes(before, ledger(small_model))).splitlines()
    assert len(lines) == 16 + 3 and lines[0].split()[:2] == ["ties", "tok_emb.weight"]
    C = small_model.config.emb_dim
    assert lines[1].split() == ["frozen", f"trf_blocks.0-{n - 1}.att.W_query.weight", f"({C},", f"{C})", "x", f"{n}"]
    assert format_changes([]) == ""
