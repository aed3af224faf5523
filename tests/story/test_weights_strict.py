"""gpt/weights.py: every parameter exactly once; an error names the tensor, both shapes and the likely cause."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY
from write_openai import write_checkpoint

from gpt.config import GPT2_SIZES, GPTConfig
from gpt.model import GPTModel
from gpt.storage.openai_checkpoint import open_checkpoint
from gpt.weights import assemble, blank, check_tensors, config_of, load_openai, load_weights_into_gpt, nest

HPARAMS = json.loads((TINY / "hparams.json").read_text(encoding="utf-8"))


@pytest.fixture
def arrays():
    return {name: np.array(array) for name, array in open_checkpoint(TINY).items()}


def openai_folder(folder, arrays, **hparams):
    """OpenAI's three files, made of these arrays and of the fixture's hparams but for the changes."""
    return write_checkpoint(folder, arrays, HPARAMS | hparams)


def test_a_missing_tensor_is_named(tmp_path, arrays):
    del arrays["model/h1/mlp/c_fc/b"]
    with pytest.raises(ValueError, match=r"1.ff.layers.0.bias: the model wants \(192,\), the file has none"):
        load_openai(openai_folder(tmp_path, arrays))


@pytest.mark.parametrize("name", ["model/h1/mlp/c_fc/b/Adam", "global_step"])
def test_a_surplus_tensor_is_named(tmp_path, arrays, name):
    arrays[name] = np.ones(3)
    with pytest.raises(ValueError, match=f"{name}: a GPT-2 has no tensor of this name"):
        load_openai(openai_folder(tmp_path, arrays))


def test_a_tensor_in_the_wrong_place_is_named(tmp_path, arrays):
    arrays["model/h2/wpe"] = np.ones(3)
    with pytest.raises(ValueError, match=r"blocks.2.pos_emb.weight: the model wants no such tensor, .* \(3,\)"):
        load_openai(openai_folder(tmp_path, arrays))


@pytest.mark.parametrize("shape, found, cause", [
    ((1, 48, 1024), r"\(1024, 48\)", "355M"),
    ((1, 192, 48), r"\(48, 192\)", "transposed"),
    ((1, 48, 191), r"\(191, 48\)", "another size"),
    ((2, 48, 96), r"\(2, 48, 96\)", "another size"),
    ((192,), r"\(192,\)", "another size"),
])
def test_a_misshapen_tensor_is_named_with_both_shapes_and_the_likely_cause(tmp_path, arrays, shape, found, cause):
    arrays["model/h1/mlp/c_fc/w"] = np.ones(shape)
    wrong = rf"trf_blocks.1.ff.layers.0.weight: the model wants \(192, 48\), the file has {found}: .*{cause}"
    with pytest.raises(ValueError, match=wrong):
        load_openai(openai_folder(tmp_path, arrays))


def test_c_attn_of_a_shape_that_has_no_thirds_is_an_error(tmp_path, arrays):
    arrays["model/h1/attn/c_attn/w"] = np.ones((1, 48, 145))
    with pytest.raises(ValueError, match=r"W_query.weight: the model wants \(48, 48\), the file has \(49, 48\)"):
        load_openai(openai_folder(tmp_path, arrays))


def test_many_faults_are_counted_and_ten_are_shown(tmp_path, arrays):
    for name in list(arrays):
        if "/h0/" in name:
            del arrays[name]
    with pytest.raises(ValueError) as caught:
        load_openai(openai_folder(tmp_path, arrays, n_layer=2))
    lines = str(caught.value).splitlines()
    assert len(lines) == 11 and lines[-1] == "and 22 more", "block 0 is missing, block 2 is left over: 16 each"


@pytest.mark.parametrize("name, value", [("n_layer", 2), ("n_layer", 10**9), ("n_embd", 96), ("n_vocab", 96),
                                         ("n_ctx", 33)])
def test_hparams_that_the_tensors_contradict_build_no_model(tmp_path, arrays, monkeypatch, name, value):
    folder = openai_folder(tmp_path, arrays, **{name: value})
    monkeypatch.setattr("gpt.weights.GPTModel", lambda config: pytest.fail("a model was built"))
    with pytest.raises(ValueError, match="is said to be"):
        load_openai(folder)


def test_a_changed_byte_of_hparams_is_noticed_or_harmless(tmp_path):
    """But for the heads: nobody released a model of this size, so no other number tells how many it has."""
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    file, whole = tmp_path / "hparams.json", (TINY / "hparams.json").read_bytes()
    changes = [whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1:]
               for at in range(len(whole)) for flip in (0x01, 0x02, 0x04, 0x10, 0x2A, 0x80, 0xFF)]
    for changed in changes + [whole[:length] for length in range(len(whole))]:
        file.write_bytes(changed)
        try:
            load_openai(tmp_path)
        except ValueError:
            continue
        assert json.loads(changed) | {"n_head": 4} == HPARAMS, f"{changed} passes"


def test_a_model_whose_biases_were_left_out_says_so(arrays):
    model = GPTModel(GPTConfig(97, 32, 48, 4, 3, qkv_bias=False))
    with pytest.raises(ValueError, match="qkv_bias=False"):
        load_weights_into_gpt(model, nest(arrays))


@pytest.mark.parametrize("name", GPT2_SIZES)
def test_a_blank_model_has_every_shape_and_no_memory(name):
    parameters = dict(blank(GPT2_SIZES[name]).named_parameters())
    assert all(parameter.is_meta for parameter in parameters.values())
    assert config_of(parameters, GPT2_SIZES[name].n_heads) == GPT2_SIZES[name]


def test_another_size_of_gpt2_is_recognised():
    wanted = dict(blank(GPT2_SIZES["gpt2-small (124M)"]).named_parameters())
    found = dict(blank(GPT2_SIZES["gpt2-xl (1558M)"]).named_parameters())
    wrong = r"trf_blocks.3.ff.layers.0.weight: the model wants \(3072, 768\), the file has \(6400, 1600\): .*1558M"
    with pytest.raises(ValueError, match=wrong):
        check_tensors({name: wanted[name] for name in list(wanted) if "blocks.3." in name},
                      {name: found[name] for name in list(found) if "blocks.3." in name})


def test_positions_for_another_length_are_not_taken_for_another_gpt2():
    mini, small = (dict(blank(GPT2_SIZES[name]).named_parameters()) for name in ("mini", "gpt2-small (124M)"))
    for model, has in ((mini, torch.ones(1024, 128)), (small, torch.ones(256, 768))):
        with pytest.raises(ValueError, match="was the model built with another context_length"):
            check_tensors({"pos_emb.weight": model["pos_emb.weight"]}, {"pos_emb.weight": has})
    with pytest.raises(ValueError, match="is this the gpt2-small .124M. checkpoint"):
        check_tensors({"pos_emb.weight": mini["pos_emb.weight"]}, {"pos_emb.weight": torch.ones(1024, 768)})


def test_the_model_owns_its_numbers(small_model):
    tensors = {name: parameter.detach() for name, parameter in small_model.named_parameters()}
    model = assemble(small_model.config, tensors)
    before = model.pos_emb.weight.clone()
    tensors["pos_emb.weight"].zero_()
    assert torch.equal(model.pos_emb.weight, before), "the model shares its memory with what it was made from"
