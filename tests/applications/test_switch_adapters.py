"""After any switch of adapters the model is what a fresh base with a freshly loaded adapter would be."""

import copy

import pytest
import torch

from gpt.adapters import load_adapter, read_adapter, save_adapter
from gpt.applications.switch_adapters import AdapterSwitch
from gpt.classify import swap_head
from gpt.config import GPTConfig
from gpt.lora import lora_layers, merge_lora, replace_linear_with_lora
from gpt.model import GPTModel

KINDS = {    # labels, whether the head gets a LoRA too, rank, options
    "spam": (["ham", "spam"], False, 4, {}),
    "topics": (["a", "b", "c", "d", "e"], True, 3, {"scale": "alpha"}),
    "writer": ([], False, 2, {"targets": ["W_query", "W_key", "W_value"], "share_a": True}),
}


@pytest.fixture
def files(small_model, tmp_path):
    """{name: adapter file} of three adapters whose tensors are all different from zero, made on copies of the base."""
    for seed, (name, (labels, everywhere, rank, options)) in enumerate(KINDS.items()):
        model, generator = copy.deepcopy(small_model).requires_grad_(False), torch.Generator().manual_seed(seed)
        if labels:
            swap_head(model, len(labels))
        replace_linear_with_lora(model if everywhere else model.trf_blocks, rank, 6, **options)
        for place, p in model.named_parameters():
            if ".lora." in place or place.startswith("out_head") and labels:
                p.data.normal_(0.0, 0.3, generator=generator)
        save_adapter(model, tmp_path / name, base="small", labels=labels)
    return {name: tmp_path / name for name in KINDS}


@pytest.fixture
def switch(small_model, files):
    found = AdapterSwitch(small_model)
    for name, file in files.items():
        found.add(name, file)
    return found


def answers(model):
    with torch.no_grad():
        return model(torch.randint(101, (2, 7), generator=torch.Generator().manual_seed(1)))


def described(model):
    """What a model is: its tensors' names and bits, which of them train, its modules and their modes."""
    tensors = {name: (p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}
    return tensors, [(name, type(module), module.training) for name, module in model.named_modules()]


def same(one, other):
    return one[1] == other[1] and one[0].keys() == other[0].keys() and all(
        torch.equal(p, other[0][name][0]) and trains == other[0][name][1] for name, (p, trains) in one[0].items())


def test_after_any_switch_the_model_is_a_fresh_base_with_that_adapter(small_model, files):
    fresh = {None: copy.deepcopy(small_model).requires_grad_(False)}
    for name, file in files.items():
        load_adapter(fresh.setdefault(name, copy.deepcopy(small_model)), file)
    switch = AdapterSwitch(small_model)
    for name, file in files.items():
        switch.add(name, file)
    for name in ["spam", "topics", "spam", "writer", None, "topics", "topics", "writer", "spam", None, None]:
        assert switch.use(name) == switch.adapters.get(name) and switch.worn == name
        assert same(described(small_model), described(fresh[name])), f"after switching to {name} it is another model"
        assert torch.equal(answers(small_model), answers(fresh[name])), f"{name} answers otherwise than freshly loaded"
    assert small_model.out_head.weight is small_model.tok_emb.weight, "the base's head must be tied again"


def test_switching_reads_no_file_and_copies_no_number(switch, files, monkeypatch):
    for file in files.values():
        file.unlink()
    monkeypatch.setattr("gpt.adapters.fingerprint", lambda model: pytest.fail("the base was hashed at a switch"))
    before = {}
    for name in (*KINDS, *KINDS):
        switch.use(name)
        places = {place: p.data_ptr() for place, p in switch.model.named_parameters()}
        assert before.setdefault(name, places) == places, "a tensor has moved in memory"


def test_adding_leaves_on_what_is_worn(small_model, files):
    switch = AdapterSwitch(small_model)
    assert switch.add("spam", files["spam"]).labels == ["ham", "spam"] and switch.worn is None
    assert answers(small_model).shape[-1] == small_model.config.vocab_size, "the base model was on"
    switch.use("spam")
    expected = answers(small_model)
    switch.add("topics", files["topics"])
    assert switch.worn == "spam" and torch.equal(answers(small_model), expected)


def test_an_adapter_that_was_merged_leaves_nothing_in_the_base(switch):
    switch.use("writer")
    expected = answers(switch.model)
    switch.use("spam")
    merge_lora(switch.model)
    switch.use("writer")
    assert torch.equal(answers(switch.model), expected), "a merged update is still in the base's weights"
    switch.use("spam")
    assert all(layer.original is None for _, layer in lora_layers(switch.model))


def test_an_adapter_that_comes_on_has_the_models_mode(switch):
    switch.use("spam")
    switch.model.train()
    switch.use("topics")
    assert all(module.training for module in switch.model.modules()), "its layers were off when train() was called"
    switch.model.eval()
    switch.use("spam")
    assert not any(module.training for module in switch.model.modules())


def test_what_the_model_wore_before_is_taken_off(small_model, files):
    expected = answers(small_model)
    load_adapter(small_model, files["topics"])
    merge_lora(small_model)
    AdapterSwitch(small_model)
    assert torch.equal(answers(small_model), expected)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(switch, small_model):
    switch.use("spam")
    with pytest.raises(ValueError, match="no adapter 'spma'; known: spam, topics, writer"):
        switch.use("spma")
    assert switch.worn == "spam" and answers(small_model).shape[-1] == 2, "what is worn must stay on"


def test_a_name_that_is_taken_is_refused(switch, files):
    with pytest.raises(ValueError, match="an adapter 'spam' already"):
        switch.add("spam", files["topics"])
    assert switch.adapters["spam"].labels == ["ham", "spam"]


def test_an_adapter_of_another_base_is_refused_and_nothing_is_changed(small_model, files):
    other = GPTModel(GPTConfig(**vars(small_model.config)), torch.Generator().manual_seed(99)).eval()
    switch = AdapterSwitch(other)
    before = described(other)
    with pytest.raises(ValueError, match="load the same base first"):
        switch.add("spam", files["spam"])
    assert same(before, described(other)) and not switch.adapters and switch.worn is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_memory_of_adapters_is_predicted_to_the_byte(small_model, files, tmp_path, dtype):
    if dtype == torch.bfloat16:    # adapters of another base: these weights are rounded
        for name in files:
            model = copy.deepcopy(small_model)
            load_adapter(model, files[name])
            save_adapter(model.to(dtype), tmp_path / f"{name}-16", base="small", labels=KINDS[name][0])
            files[name] = tmp_path / f"{name}-16"
    switch = AdapterSwitch(small_model.to(dtype))
    predicted = 0
    for name, file in files.items():
        predicted += sum(tensor.nbytes for tensor in read_adapter(file)[1].values())
        switch.add(name, file)
        assert switch.bytes == predicted, f"{name}: is a shared A counted for each layer, or the base's own weight?"
    switch.use("writer")
    assert switch.bytes == predicted, "what an adapter holds does not depend on which one is on"
