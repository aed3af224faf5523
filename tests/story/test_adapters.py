"""gpt/adapters.py: what was saved comes back bit for bit; what is not whole is refused before it touches the model."""

import copy
import json
import random
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt.adapters import fingerprint, load_adapter, read_adapter, remove_adapter, save_adapter
from gpt.applications.switch_adapters import AdapterSwitch
from gpt.classify import classify, swap_head
from gpt.config import GPTConfig
from gpt.cost.precision import hold
from gpt.lora import lora_layers, merge_lora, replace_linear_with_lora
from gpt.model import GPTModel

KINDS = {    # labels, whether the head gets a LoRA too, and how
    "default": (["ham", "spam"], False, {}),
    "blog": (["ham", "spam", "eggs"], True, {"scale": "alpha", "init": "blog"}),
    "shared A": (["ham", "spam"], False, {"share_a": True, "scale": "alpha/sqrt(r)"}),
    "writer": ([], False, {"targets": ["W_query", "layers.2"]}),
}


def wearing(base, kind, seed=0):
    """A copy of the base model that wears an adapter of this kind, as if trained: no tensor of it is zero."""
    model, (labels, everywhere, options) = copy.deepcopy(base), KINDS[kind]
    model.requires_grad_(False)
    if labels:
        swap_head(model, len(labels))
    generator = torch.Generator().manual_seed(seed)
    replace_linear_with_lora(model if everywhere else model.trf_blocks, 4, 6, **options)
    for name, p in model.named_parameters():
        if ".lora." in name or name.startswith("out_head") and labels:
            p.data.normal_(0.0, 0.3, generator=generator)
    return model


def save(model, file, kind="default", **options):
    save_adapter(model, file, base="small", labels=KINDS[kind][0], **options)
    return file


def answers(model):
    with torch.no_grad():
        return model(torch.randint(101, (2, 7), generator=torch.Generator().manual_seed(1)))


def state(model):
    """Everything that an error must leave alone: bits, ties, what is trained, merged or in training mode."""
    tensors = {name: (p.clone(), p.requires_grad) for name, p in model.named_parameters(remove_duplicate=False)}
    ties = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        ties.setdefault(id(p), []).append(name)
    modules = [(name, type(module).__name__, module.training) for name, module in model.named_modules()]
    loras = [(name, layer.lora.scale, layer.lora.rank, layer.original is None) for name, layer in lora_layers(model)]
    return tensors, sorted(ties.values()), modules, loras


def same(one, other):
    return (one[1:] == other[1:] and one[0].keys() == other[0].keys() and
            all(torch.equal(p, other[0][name][0]) and grad == other[0][name][1] for name, (p, grad) in one[0].items()))


# ---- there and back -------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E6.7", "E6.8")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("merged", [False, True])
def test_an_adapter_comes_back_bit_for_bit(small_model, tmp_path, kind, merged):
    model = wearing(small_model, kind)
    before = state(model)
    if merged:
        merge_lora(model)
    save(model, tmp_path / "a", kind)
    adapter = load_adapter(small_model, tmp_path / "a")
    assert same(before, state(small_model)), "a tensor, a tie, a scale or what trains is not what it was when saved"
    assert adapter.labels == KINDS[kind][0] and adapter.base == "small"


@pytest.mark.exercise("E6.7")
@pytest.mark.parametrize("kind", KINDS)
def test_merging_before_saving_does_not_change_the_file(small_model, tmp_path, kind):
    model = wearing(small_model, kind)
    save(model, tmp_path / "plain", kind)
    merge_lora(model)
    save(model, tmp_path / "merged", kind)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "merged").read_bytes(), "merged weights were saved"


@pytest.mark.exercise("E6.7")
def test_saving_leaves_the_model_alone(small_model, tmp_path):
    model = wearing(small_model, "blog")
    merge_lora(model)
    before = state(model)
    save(model, tmp_path / "a", "blog")
    assert same(before, state(model)), "the model was unmerged, moved or frozen by saving"


@pytest.mark.exercise("E6.7")
def test_the_file_holds_the_lora_the_head_and_what_is_needed_to_use_them(small_model, tmp_path):
    file = save(wearing(small_model, "shared A"), tmp_path / "a", pad_to=20)
    tensors = {name: tuple(tensor.shape) for name, tensor in load_file(file).items()}
    C = small_model.config.emb_dim
    block = {"att.W_query.lora.A": (C, 4), "att.out_proj.lora.A": (C, 4), "ff.layers.0.lora.A": (C, 4),
             "ff.layers.2.lora.A": (4 * C, 4), "att.W_query.lora.B": (4, C), "att.W_key.lora.B": (4, C),
             "att.W_value.lora.B": (4, C), "att.out_proj.lora.B": (4, C), "ff.layers.0.lora.B": (4, 4 * C),
             "ff.layers.2.lora.B": (4, C)}
    blocks = range(small_model.config.n_layers)
    assert tensors == {f"trf_blocks.{i}.{name}": shape for i in blocks for name, shape in block.items()} | {
        "out_head.weight": (2, C), "out_head.bias": (2,)}, "the base does not belong into it, and a shared A but once"
    adapter, _ = read_adapter(file)
    assert (adapter.base, adapter.labels, adapter.pad_to) == ("small", ["ham", "spam"], 20), "not what was handed in"
    assert adapter.fingerprint == fingerprint(small_model), "the fingerprint is that of the base model"
    plain = {"rank": 4, "alpha": 6, "scale": "alpha/sqrt(r)"}
    assert adapter.layers["trf_blocks.1.att.W_query"] == adapter.layers["trf_blocks.1.ff.layers.0"] == plain, (
        "a layer needs its rank, its alpha and the name of its scale")
    assert adapter.layers["trf_blocks.1.att.W_value"] == plain | {"shares_a": "trf_blocks.1.att.W_query"}, (
        "W_value uses the A of the first layer that has it, W_query")


@pytest.mark.exercise("E6.7", "E6.8")
def test_an_adapter_in_half_precision_comes_back_too(small_model, tmp_path):
    small_model.to(torch.bfloat16)
    model = wearing(small_model, "default")
    load_adapter(small_model, save(model, tmp_path / "a"))
    assert same(state(model), state(small_model)), "the tensors have another type, or other bits"


@pytest.mark.exercise("E6.8")
def test_a_loaded_adapter_trains_on_as_the_saved_one_would(small_model, tmp_path):
    model = wearing(small_model, "shared A")
    load_adapter(small_model, save(model, tmp_path / "a"))
    for each in (model, small_model):
        optimizer = torch.optim.SGD([p for p in each.parameters() if p.requires_grad], lr=0.1)
        each(torch.arange(12).view(2, 6)).square().sum().backward()
        optimizer.step()
    assert same(state(model), state(small_model)), "something else trains, or a shared A became three"


# ---- what is refused when saving ------------------------------------------------------------------------------------

@pytest.mark.exercise("E6.7")
@pytest.mark.parametrize("labels", [(), ["ham"], ["ham", "spam", "eggs"], [0, 1], ["ham", None]])
def test_labels_that_do_not_fit_the_head_are_refused_when_saving(small_model, tmp_path, labels):
    model = wearing(small_model, "default")
    with pytest.raises(ValueError, match="labels"):
        save_adapter(model, tmp_path / "a", base="small", labels=labels)
    assert not list(tmp_path.iterdir()), "a file that load_adapter would refuse was written"


@pytest.mark.exercise("E6.7")
def test_labels_for_a_language_model_are_refused_when_saving(small_model, tmp_path):
    with pytest.raises(ValueError, match="out_head.bias.*2 labels"):
        save_adapter(wearing(small_model, "writer"), tmp_path / "a", base="small", labels=["ham", "spam"])


@pytest.mark.exercise("E6.7")
def test_what_the_file_would_lose_is_an_error_that_names_it(small_model, tmp_path):
    model = wearing(small_model, "default")
    model.final_norm.shift.requires_grad_(True)
    with pytest.raises(ValueError, match="final_norm.shift"):
        save(model, tmp_path / "a")
    swap_head(small_model.requires_grad_(False), 2)
    with pytest.raises(ValueError, match="no LoRA layer"):
        save(small_model, tmp_path / "a")
    assert not list(tmp_path.iterdir())


# ---- the right base -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_does_not_see_adapters_heads_merging_or_freezing(small_model, kind):
    model, expected = wearing(small_model, kind), fingerprint(small_model)
    assert fingerprint(model) == expected, "LoRA's layers or the head are counted in"
    merge_lora(model)
    assert fingerprint(model) == expected, "it sees the merged weights in place of the originals"
    remove_adapter(model)
    assert fingerprint(model.requires_grad_(True).train()) == expected


def test_the_fingerprint_sees_one_bit_and_a_swap_of_two_tensors_and_the_type(small_model):
    prints = {fingerprint(small_model)}
    weight = small_model.trf_blocks[2].ff.layers[0].weight.data
    weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(9.0))
    prints.add(fingerprint(small_model))
    attention = small_model.trf_blocks[1].att
    attention.W_query.weight, attention.W_key.weight = attention.W_key.weight, attention.W_query.weight
    prints.add(fingerprint(small_model))
    prints.add(fingerprint(small_model.half()))
    for p in small_model.parameters():
        p.data = p.data.view(torch.bfloat16)    # the same bytes mean other numbers
    prints.add(fingerprint(small_model))
    assert len(prints) == 5, "it does not see a small change, the names, or the type"


def test_the_fingerprint_is_of_the_numbers_and_not_of_how_they_lie_in_memory(small_model):
    expected = fingerprint(small_model)
    weight = small_model.trf_blocks[0].ff.layers[0].weight
    weight.data = weight.data.T.contiguous().T
    assert not weight.is_contiguous() and fingerprint(small_model) == expected


@pytest.mark.exercise("E6.8")
@pytest.mark.parametrize("config", [
    GPTConfig(vocab_size=101, context_length=24, emb_dim=30, n_heads=5, n_layers=3),    # the same sizes, other weights
    GPTConfig(vocab_size=101, context_length=24, emb_dim=40, n_heads=5, n_layers=3),
    GPTConfig(vocab_size=101, context_length=24, emb_dim=30, n_heads=5, n_layers=2),
])
def test_another_base_model_is_refused(small_model, tmp_path, config):
    file = save(wearing(small_model, "default"), tmp_path / "a")
    other = wearing(GPTModel(config, torch.Generator().manual_seed(1)), "blog")
    before = state(other)
    with pytest.raises(ValueError, match=r"a was trained on 'small' with weights .*load the same base first"):
        load_adapter(other, file)
    assert same(before, state(other)), "the model was changed before the fingerprints were compared"


# ---- switching ------------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E6.8")
@pytest.mark.parametrize("merged", [False, True])
def test_adapters_are_switched_without_a_trace_of_the_one_before(small_model, tmp_path, merged):
    base, expected = state(small_model), {}
    for seed, kind in enumerate(KINDS):
        model = wearing(small_model, kind, seed)
        expected[kind] = state(model), answers(model)
        save(model, tmp_path / kind, kind)
    for kind in ["default", "blog", "writer", "shared A", "default", "default"]:
        load_adapter(small_model, tmp_path / kind)
        assert same(state(small_model), expected[kind][0]), f"something of the adapter before {kind} is left"
        assert torch.equal(answers(small_model), expected[kind][1])
        if merged:
            merge_lora(small_model)
    remove_adapter(small_model)
    assert same(state(small_model.requires_grad_(True)), base), "the base model was changed by switching"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("merged", [False, True])
def test_removing_an_adapter_gives_the_base_model_back_bit_for_bit(small_model, kind, merged):
    model = wearing(small_model, kind)
    if merged:
        merge_lora(model)
    remove_adapter(model)
    assert same(state(model), state(small_model.requires_grad_(False)))
    assert model.out_head.weight is model.tok_emb.weight, "the head must be the token embedding, not a copy of it"
    remove_adapter(model)
    assert torch.equal(answers(model), answers(small_model)), "removing what is not there must change nothing"


# ---- damage ---------------------------------------------------------------------------------------------------------

Q, V, OUT = (f"trf_blocks.0.att.{name}" for name in ("W_query", "W_value", "out_proj"))    # Q's A is V's too


def drop(tensors, metadata):
    del tensors[f"{Q}.lora.B"]


def drop_shared(tensors, metadata):
    del tensors[f"{Q}.lora.A"]


def drop_head(tensors, metadata):
    del tensors["out_head.bias"]


def add(tensors, metadata):
    tensors["trf_blocks.0.norm1.scale"] = torch.ones(30)


def add_an_unused_A(tensors, metadata):
    tensors[f"{V}.lora.A"] = torch.zeros(30, 4)


def transpose(tensors, metadata):
    tensors[f"{Q}.lora.A"] = tensors[f"{Q}.lora.A"].T.contiguous()


def widen(tensors, metadata):
    tensors[f"{Q}.lora.B"] = torch.zeros(4, 31)


def no_rows(tensors, metadata):
    tensors["out_head.weight"] = torch.tensor(1.0)


def double(tensors, metadata):
    tensors[f"{Q}.lora.A"] = tensors[f"{Q}.lora.A"].double()


def whole_numbers(tensors, metadata):
    tensors["out_head.bias"] = torch.zeros(2, dtype=torch.long)


def metadata(**changes):
    return lambda tensors, metadata: metadata.update(changes)


def layer(name=Q, **changes):
    return lambda tensors, metadata: metadata["layers"][name].update(changes)


def without(key):
    return lambda tensors, metadata: metadata.pop(key)


def layer_without(key):
    return lambda tensors, metadata: metadata["layers"][Q].pop(key)


def renamed(new, old=V):
    """The layer `old` is called `new`, in the metadata and in its tensors."""
    def change(tensors, metadata):
        metadata["layers"][new] = metadata["layers"].pop(old)
        for name in [name for name in tensors if name.startswith(f"{old}.")]:
            tensors[new + name.removeprefix(old)] = tensors.pop(name)
    return change


def shares_with_a_stranger(tensors, metadata):
    metadata["layers"][V]["shares_a"] = "nowhere"
    tensors["nowhere.lora.A"] = torch.zeros(30, 4)


def shares_with_another_rank(tensors, metadata):
    metadata["layers"][V]["rank"] = 2
    tensors[f"{V}.lora.B"] = torch.zeros(2, 30)


def shares_with_other_inputs(tensors, metadata):
    metadata["layers"][V]["shares_a"] = "trf_blocks.0.ff.layers.2"


DAMAGE = {
    "a LoRA tensor is missing": (drop, r"W_query.lora.B: .* wants \(4, 30\) torch.float32, the adapter has nothing"),
    "a shared A is missing": (drop_shared, "W_query.lora.A: .*has nothing"),
    "a head tensor is missing": (drop_head, "out_head.bias: .*has nothing"),
    "a tensor too many": (add, "norm1.scale: .*wants nothing"),
    "an A where one is shared": (add_an_unused_A, "W_value.lora.A: .*wants nothing"),
    "a transposed tensor": (transpose, r"W_query.lora.A: .*wants \(30, 4\) torch.float32, the adapter has \(4, 30\)"),
    "a tensor too wide": (widen, r"W_query.lora.B: .*\(4, 30\).*\(4, 31\)"),
    "a head without rows": (no_rows, r"out_head.weight: .*\(2, 30\).* has \(\)"),
    "another type of numbers": (double, "W_query.lora.A: .*float32.*float64"),
    "whole numbers": (whole_numbers, "out_head.bias: .*float32.*int64"),
    "no base": (without("base"), "base"),
    "no fingerprint": (without("fingerprint"), "fingerprint"),
    "no labels": (without("labels"), "labels"),
    "no read-out": (without("pad_to"), "pad_to"),
    "no layers": (without("layers"), "layers"),
    "a key too many": (metadata(format="2"), "format"),
    "a base that is no text": (metadata(base=7), "must be a text"),
    "a fingerprint that is no text": (metadata(fingerprint=7), "must be a text"),
    "labels that are a text": (metadata(labels="ab"), "labels"),
    "labels that are a number": (metadata(labels=2), "metadata"),
    "a label that is no text": (metadata(labels=["ham", 1]), "must be a text"),
    "labels missing": (metadata(labels=["ham"]), r"out_head.bias: .* 1 labels wants \(1,\).* has \(2,\)"),
    "labels too many": (metadata(labels=["a", "b", "c"]), r"out_head.bias: .* 3 labels wants \(3,\).* has \(2,\)"),
    "a head and no labels": (metadata(labels=[]), "out_head.bias: .* 0 labels wants nothing"),
    "a read-out of zero": (metadata(pad_to=0), "pad_to"),
    "a read-out that is no number": (metadata(pad_to="20"), "pad_to"),
    "a read-out that is a truth": (metadata(pad_to=True), "pad_to"),
    "layers that are a list": (metadata(layers=[Q]), "metadata"),
    "layers that are a text": (metadata(layers=Q), "metadata"),
    "a layer that is a list": (metadata(layers={Q: [4, 6, "alpha/r"]}), "metadata"),
    "a layer without rank": (layer_without("rank"), "rank"),
    "a layer without alpha": (layer_without("alpha"), "alpha"),
    "a layer without scale": (layer_without("scale"), "scale"),
    "a layer's key too many": (layer(dora=True), "dora"),
    "a layer's key of Python's own": (layer(self=1), "self"),
    "rank 0": (layer(rank=0), "rank 0"),
    "a negative rank": (layer(rank=-4), "rank -4"),
    "a rank that is a text": (layer(rank="4"), "rank '4'"),
    "a rank of four and a half": (layer(rank=4.5), "rank 4.5"),
    "a rank beyond all memory": (layer(OUT, rank=10**15), r"out_proj.lora.A: .*\(30, 1000000000000000\)"),
    "another rank": (layer(OUT, rank=5), r"out_proj.lora.A: .*\(30, 5\).*\(30, 4\)"),
    "an alpha that is a text": (layer(alpha="6"), "metadata"),
    "an alpha that is not finite": (layer(alpha=float("nan")), "alpha nan"),
    "an alpha beyond all floats": (layer(alpha=10**400), "metadata"),
    "an unknown scale": (layer(scale="r/alpha"), "'r/alpha'"),
    "a scale that is a list": (layer(scale=["alpha"]), "metadata"),
    "a layer that does not exist": (renamed("trf_blocks.9.att.W_value"), "no linear layer 'trf_blocks.9.att.W_value'"),
    "a layer that is a norm": (renamed("final_norm"), "no linear layer 'final_norm'"),
    "a layer that is the model": (renamed(""), "no linear layer ''"),
    "a layer inside a LoRA": (renamed(f"{V}.linear"), "no linear layer 'trf_blocks.0.att.W_value.linear'"),
    "a layer inside another": (renamed(f"{Q}.lora"), "no linear layer 'trf_blocks.0.att.W_query.lora'"),
    "a layer that is a tensor": (renamed("tok_emb.weight"), "no linear layer 'tok_emb.weight'"),
    "an A shared with nobody": (layer(V, shares_a="nowhere"), "shares the A of 'nowhere'"),
    "an A shared with a stranger in the file": (shares_with_a_stranger, "shares the A of 'nowhere'"),
    "an A shared with itself": (layer(V, shares_a=V), "shares the A of"),
    "an A shared in a circle": (layer(Q, shares_a=V), "shares the A of"),
    "an A shared with a number": (layer(V, shares_a=7), "shares the A of 7"),
    "an A shared with a list": (layer(V, shares_a=[Q]), "metadata"),
    "an A shared with nothing": (layer(V, shares_a=None), "W_value.lora.A: .*has nothing"),
    "an A shared with another rank": (shares_with_another_rank, r"W_value wants an A of \(30, 2\)"),
    "an A shared over other inputs": (shares_with_other_inputs, r"wants an A of \(.*shares one of \("),
}


@pytest.fixture
def dressed(small_model, tmp_path):
    """A model that wears an adapter and is in training, the file of another one, and what must not change."""
    file = save(wearing(small_model, "shared A"), tmp_path / "adapter")
    model = wearing(small_model, "blog", seed=1).train()
    return model, file, state(model)


def rewrite(file, change):
    tensors, (adapter, _) = load_file(file), read_adapter(file)
    values = asdict(adapter)
    change(tensors, values)
    save_file(tensors, file, metadata={"adapter": json.dumps(values)})


def assert_refused(dressed, reason=None):
    model, file, before = dressed
    with pytest.raises(ValueError, match=reason) as error:
        load_adapter(model, file)
    assert str(error.value).startswith(f"{file}"), "the message does not say which file"
    assert same(before, state(model)), "the model was changed before the damage was found"


def test_the_file_that_the_next_tests_damage_is_whole_when_rewritten(dressed):
    model, file, before = dressed
    rewrite(file, lambda tensors, metadata: None)
    load_adapter(model, file)
    assert not same(before, state(model))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_adapter_is_refused_and_the_model_stays_as_it_was(dressed, damage):
    change, reason = DAMAGE[damage]
    rewrite(dressed[1], change)
    assert_refused(dressed, reason)


@pytest.mark.exercise("E6.8")
@pytest.mark.parametrize("damage", [
    "a LoRA tensor is missing", "a head tensor is missing", "a tensor too many", "a transposed tensor",
    "labels too many", "a layer that does not exist", "an A shared in a circle", "rank 0",
])
def test_loading_looks_at_the_whole_file_before_it_touches_the_model(dressed, damage):
    change, _ = DAMAGE[damage]
    rewrite(dressed[1], change)
    assert_refused(dressed)


def test_a_lora_on_a_tied_head_is_refused(small_model, tmp_path):
    file = save(wearing(small_model, "writer"), tmp_path / "adapter", "writer")
    rewrite(file, renamed("out_head", Q))
    model = wearing(small_model, "default")
    assert_refused((model, file, state(model)), "no linear layer 'out_head'")


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "7", '"text"', "[" * 100_000, '{"base": "small"}', "\0"])
def test_metadata_that_are_no_adapters_are_refused(dressed, text):
    _, file, _ = dressed
    save_file(load_file(file), file, metadata={"adapter": text})
    assert_refused(dressed)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_a_safetensors_file_that_is_no_adapter_is_refused(dressed, metadata):
    _, file, _ = dressed
    save_file(load_file(file), file, metadata=metadata)
    assert_refused(dressed, "metadata")


@pytest.mark.exercise("E6.8")
@pytest.mark.parametrize("length", [0, 4, 8, 100, -100, -1])
def test_a_cut_file_is_refused(dressed, length):
    _, file, _ = dressed
    file.write_bytes(file.read_bytes()[:length])
    assert_refused(dressed)


def test_a_file_that_was_appended_to_is_refused(dressed):
    _, file, _ = dressed
    file.write_bytes(file.read_bytes() + b"\0")
    assert_refused(dressed)


def test_a_flipped_byte_anywhere_in_the_header_is_refused(dressed):
    _, file, _ = dressed
    whole = file.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    for place in [*range(8), *random.Random(0).sample(range(8, end), 60), end - 1]:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xff]) + whole[place + 1:])
        assert_refused(dressed)


def test_a_flipped_bit_in_the_header_is_refused_or_leaves_a_well_formed_adapter(dressed):
    """A 6 may become a 7: such a file cannot be told from a whole one. But no other error may come of it."""
    model, file, before = dressed
    whole, rng, refused = file.read_bytes(), random.Random(0), 0
    end = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(100):
        place = rng.randrange(end)
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1:])
        try:
            load_adapter(model, file)
            before = state(model)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"{file}") and same(before, state(model)), place
    assert refused > 80


def test_a_file_that_is_not_there_is_said_to_be_missing_and_not_damaged(small_model, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_adapter(small_model, tmp_path / "nowhere")


# What is damaged, and what is left out

def test_of_a_thousand_damaged_files_none_is_taken_with_other_numbers(dressed):
    model, file, _ = dressed
    whole, draw, taken = file.read_bytes(), random.Random(0), 0
    load_adapter(model, file)
    right = {name: p.clone() for name, p in model.named_parameters()}
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(1000):
        damaged = bytearray(whole)
        end = header if draw.random() < 0.7 else len(whole)
        for _ in range(draw.choice((1, 1, 1, 2, 20))):
            place = draw.randrange(end)
            damaged[place] = draw.choice((damaged[place] ^ 1 << draw.randrange(8), draw.randrange(256)))
        if draw.random() < 0.1:
            del damaged[draw.randrange(len(damaged)):]
        file.write_bytes(damaged)
        try:
            load_adapter(model, file)
        except (ValueError, OSError):
            continue
        taken += 1
        assert all(torch.equal(p, right[name]) for name, p in model.named_parameters()), "other numbers, and no word said"
    assert taken < 50, "a damaged file can be taken only where the damage means nothing"


def test_one_flipped_bit_in_a_head_is_found(dressed):
    _, file, _ = dressed
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert_refused(dressed, "its sha256 is not that of its content")


def test_the_same_adapter_makes_the_same_bytes(small_model, tmp_path):
    model = wearing(small_model, "default")
    assert save(model, tmp_path / "a").read_bytes() == save(model, tmp_path / "b").read_bytes()


def test_a_file_without_a_checksum_as_older_versions_wrote_it_is_read(dressed):
    model, file, before = dressed
    rewrite(file, lambda tensors, metadata: None)
    load_adapter(model, file)
    assert not same(before, state(model))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_neither_written_nor_read(small_model, dressed, tmp_path, number):
    model = wearing(small_model, "default")
    model.out_head.bias.data[1] = number
    with pytest.raises(ValueError, match="out_head.bias holds numbers that are not finite"):
        save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()

    def damage(tensors, metadata):
        tensors["trf_blocks.0.att.W_query.lora.B"][0, 0] = number

    rewrite(dressed[1], damage)
    assert_refused(dressed, "holds numbers that are not finite")


@pytest.mark.exercise("E6.7", "E6.8")
def test_dropout_is_what_it_was_in_training(small_model, tmp_path):
    """Training on without it would be another training, and nobody would be told."""
    model = copy.deepcopy(small_model).requires_grad_(False)
    replace_linear_with_lora(model.trf_blocks, 2, 4, dropout=0.25)
    save_adapter(model, tmp_path / "adapter", base="small")
    load_adapter(small_model, tmp_path / "adapter")
    assert {layer.lora.dropout.p for _, layer in lora_layers(small_model)} == {0.25}


def test_labels_that_a_terminal_would_obey_are_refused(small_model, tmp_path):
    with pytest.raises(ValueError, match="a label holds a control character"):
        save_adapter(wearing(small_model, "default"), tmp_path / "new", base="small", labels=["ham", "\x1b[2Jspam"])


# How the model is read travels with the adapter

class Letters:
    """A tokenizer that needs no file."""

    def encode(self, text):
        return [ord(letter) - 97 for letter in text]


@pytest.mark.exercise("E6.8")
def test_whoever_passes_the_labels_alone_gets_the_same_answers(tmp_path):
    config = GPTConfig(vocab_size=50257, context_length=24, emb_dim=30, n_heads=5, n_layers=1)
    base = GPTModel(config, torch.Generator().manual_seed(0)).eval()    # with room for the padding token
    file = save(wearing(base, "default"), tmp_path / "adapter", pad_to=9)
    plain = save(wearing(base, "default"), tmp_path / "plain")
    texts = ["abc", "q", "zyxwvut"]
    adapter = load_adapter(base, file)
    with_adapter = classify(base, texts, Letters(), adapter)
    assert with_adapter == classify(base, texts, Letters(), ["ham", "spam"], pad_to=9)
    assert with_adapter == classify(base, texts, Letters(), adapter.labels), "read at other positions, silently"
    unpadded = classify(base, texts, Letters(), load_adapter(base, plain))
    assert np.ptp([a.probability - b.probability for a, b in zip(with_adapter, unpadded)]) > 1e-4, "pad_to stayed"
    switch = AdapterSwitch(base)
    switch.add("padded", file)
    switch.add("plain", plain)
    for name, answers in (("padded", with_adapter), ("plain", unpadded)):
        assert classify(base, texts, Letters(), switch.use(name).labels) == answers


def test_padding_to_more_than_the_model_reads_is_refused(small_model, sizes, tmp_path):
    with pytest.raises(ValueError, match=f"pad_to is 1000000, and this model reads {sizes.context} tokens"):
        save(wearing(small_model, "default"), tmp_path / "adapter", pad_to=10 ** 6)


# The base in other clothes

@pytest.mark.exercise("E6.7", "E6.8")
def test_a_compiled_or_distributed_model_is_saved_as_the_model_in_it(small_model, tmp_path):
    model = wearing(small_model, "default")
    plain = save(model, tmp_path / "plain").read_bytes()
    for wrapped in (torch.compile(model), torch.nn.ModuleDict({"module": model})):
        assert save(wrapped, tmp_path / "wrapped").read_bytes() == plain, "its names begin with the wrapper's"
    load_adapter(torch.compile(small_model), tmp_path / "plain")
    assert torch.equal(answers(small_model), answers(model))


def test_a_base_in_another_type_is_told_what_to_do(small_model, tmp_path):
    file = save(wearing(small_model, "default"), tmp_path / "adapter")
    with pytest.raises(ValueError, match="load the same base first, in the type that it had in training"):
        load_adapter(small_model.bfloat16(), file)


def untied(model):
    model.out_head = torch.nn.Linear(model.config.emb_dim, model.config.vocab_size, bias=False)
    return model


@pytest.mark.exercise("E6.7", "E6.8")
def test_a_language_model_with_a_head_of_its_own_does_not_lose_it(small_model, tmp_path):
    classifier = save(wearing(small_model, "default"), tmp_path / "classifier")
    base, head = untied(small_model), small_model.out_head
    before = answers(base)
    with pytest.raises(ValueError, match="classifier: this language model's head is a matrix of its own"):
        load_adapter(base, classifier)
    remove_adapter(base)
    AdapterSwitch(base)
    assert base.out_head is head and torch.equal(answers(base), before)
    writer = copy.deepcopy(base).requires_grad_(False)
    replace_linear_with_lora(writer.trf_blocks, 2, 4)
    for _, layer in lora_layers(writer):
        layer.lora.B.data.normal_(0.0, 0.3)
    save_adapter(writer, tmp_path / "writer", base="small")
    load_adapter(base, tmp_path / "writer")
    assert torch.equal(answers(base), answers(writer))
    remove_adapter(base)
    assert torch.equal(answers(base), before)


@pytest.mark.exercise("E6.7")
def test_pad_to_stays_with_a_model_that_is_saved_again(small_model, tmp_path):
    load_adapter(small_model, save(wearing(small_model, "default"), tmp_path / "a", pad_to=9))
    save_adapter(small_model, tmp_path / "b", base="small", labels=["ham", "spam"])
    assert read_adapter(tmp_path / "b")[0].pad_to == 9


@pytest.mark.parametrize("labels", [["ham", "ham"], ["ham", ""]])
def test_each_class_has_a_label_of_its_own(small_model, tmp_path, labels):
    with pytest.raises(ValueError, match="label"):
        save_adapter(wearing(small_model, "default"), tmp_path / "new", base="small", labels=labels)


def test_numbers_of_numpy_are_numbers(small_model, tmp_path):
    """As they come out of a sweep over ranks."""
    model = copy.deepcopy(small_model).requires_grad_(False)
    replace_linear_with_lora(model.trf_blocks, np.int64(2), np.float64(4.0), dropout=np.float32(0.5))
    save_adapter(model, tmp_path / "adapter", base="small")
    assert load_adapter(small_model, tmp_path / "adapter").layers["trf_blocks.0.att.W_query"]["rank"] == 2


def test_a_compiled_base_that_is_held_in_fewer_bytes_has_the_fingerprint_of_the_model_in_it(small_model):
    expected = fingerprint(small_model)
    wrapped = torch.nn.ModuleDict({"module": small_model.requires_grad_(False)})
    hold(wrapped, torch.bfloat16)
    assert fingerprint(wrapped) == fingerprint(small_model) == expected


@pytest.mark.parametrize("dropout", [1.5, -0.1, float("nan")])
def test_a_dropout_that_is_none_is_refused_with_the_files_name(dressed, dropout):
    rewrite(dressed[1], lambda tensors, values: values["layers"]["trf_blocks.0.att.W_query"].update(dropout=dropout))
    assert_refused(dressed, "dropout")


def test_a_tensor_without_axes_is_refused(dressed):
    rewrite(dressed[1], lambda tensors, values: tensors.update({"out_head.bias": torch.tensor(1.0)}))
    assert_refused(dressed, "out_head.bias")
    tensors = load_file(dressed[1])
    save_file(tensors, dressed[1], metadata={"adapter": json.dumps({"sha256": "0", "base": "small"})})
    assert_refused(dressed, "its sha256")
