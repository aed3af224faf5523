"""gpt/layouts.py: every name of the foreign files finds its parameter, and hparams.json is believed in nothing."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY

from gpt.config import GPTConfig
from gpt.layouts import NAMES, flatten, from_openai, nest, our_name, read_hparams
from gpt.tf_checkpoint import open_checkpoint

HPARAMS = (TINY / "hparams.json").read_bytes()


@pytest.fixture
def read(tmp_path):
    """read_hparams of bytes."""
    def read(data):
        (tmp_path / "hparams.json").write_bytes(data)
        return read_hparams(tmp_path / "hparams.json")
    return read


# ---- names ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("theirs, ours", [
    ("model/wte", "tok_emb.weight"),
    ("wpe.weight", "pos_emb.weight"),
    ("transformer.ln_f.bias", "final_norm.shift"),
    ("model/h11/ln_1/g", "trf_blocks.11.norm1.scale"),
    ("h.11.ln_2.bias", "trf_blocks.11.norm2.shift"),
    ("transformer.h.0.mlp.c_fc.weight", "trf_blocks.0.ff.layers.0.weight"),
    ("model/h0/mlp/c_proj/b", "trf_blocks.0.ff.layers.2.bias"),
    ("h3/attn/c_proj/w", "trf_blocks.3.att.out_proj.weight"),
])
def test_a_foreign_name_finds_its_parameter(theirs, ours):
    assert our_name(theirs) == ours


@pytest.mark.parametrize("name", ["", "model/", "model/h0/", "h.0.attn.c_attn.lora_A", "trf_blocks.0.norm1.scale",
                                  "model/h0/ln_1/g/Adam", "score.weight", "model/h٣/ln_1/g"])
def test_a_name_that_no_gpt2_has_is_an_error(name):
    with pytest.raises(ValueError, match="no tensor of this name"):
        our_name(name)


def test_the_table_names_every_tensor_once():
    for column in zip(*NAMES):
        assert len(set(column)) == len(NAMES)


def test_query_key_and_value_stand_side_by_side_in_c_attn():
    C = 4
    x = torch.randn(3, C)
    weight, bias = torch.randn(1, C, 3 * C), torch.randn(3 * C)
    ours = from_openai({"model/h0/attn/c_attn/w": weight, "model/h0/attn/c_attn/b": bias})
    side_by_side = x @ weight[0] + bias                                               # (3, 3C)
    for i, which in enumerate(["W_query", "W_key", "W_value"]):
        place = f"trf_blocks.0.att.{which}"
        answer = torch.nn.functional.linear(x, ours[f"{place}.weight"], ours[f"{place}.bias"])
        assert torch.allclose(answer, side_by_side[:, i * C:(i + 1) * C], atol=1e-6), f"{which} is another third"


def test_renaming_copies_no_number():
    weight = torch.randn(1, 4, 16)
    ours = from_openai({"model/h0/mlp/c_fc/w": weight})["trf_blocks.0.ff.layers.0.weight"]
    assert ours.shape == (16, 4) and ours.data_ptr() == weight.data_ptr()


def test_one_tensor_under_two_names_is_an_error():
    with pytest.raises(ValueError, match="tok_emb.weight is there twice"):
        from_openai({"wte.weight": torch.ones(2, 2), "transformer.wte.weight": torch.zeros(2, 2)})


def test_params_are_nested_as_in_the_book_and_come_back_flat():
    arrays = open_checkpoint(TINY)
    params = nest(arrays)
    assert params.keys() == {"wte", "wpe", "g", "b", "blocks"} and len(params["blocks"]) == 3
    assert params["blocks"][0].keys() == {"attn", "mlp", "ln_1", "ln_2"}
    assert params["blocks"][0]["attn"]["c_attn"]["w"].shape == (48, 144), "the book's are (in, out), without the 1"
    assert np.array_equal(params["blocks"][2]["ln_2"]["b"], arrays["model/h2/ln_2/b"])
    assert np.array_equal(params["g"], arrays["model/ln_f/g"]), "params['g'] is the final norm's scale"
    assert {f"model/{name}": array.size for name, array in flatten(params).items()} == {
        name: array.size for name, array in arrays.items()}


# ---- hparams.json -----------------------------------------------------------------------------------------------

def test_hparams_make_the_config(read):
    hparams, config = read(HPARAMS)
    assert hparams == {"n_vocab": 97, "n_ctx": 32, "n_embd": 48, "n_head": 4, "n_layer": 3}
    assert config == GPTConfig(vocab_size=97, context_length=32, emb_dim=48, n_heads=4, n_layers=3)


@pytest.mark.parametrize("text", [
    b"", b"{}", b"[]", b"5", b"null", b"not json", b"\xff\xfe", b"\x00" * 70, b"[" * 4000, b'{"a":' * 800,
    b" " * 5000 + HPARAMS,
    HPARAMS.replace(b"}", b', "n_head": 4}'),               # twice
    HPARAMS.replace(b"}", b', "n_mels": 4}'),               # one more
    HPARAMS.replace(b', "n_layer": 3', b""),                # one less
    b"[" + HPARAMS + b"]",
    json.dumps([["n_vocab", 97], ["n_ctx", 32], ["n_embd", 48], ["n_head", 4], ["n_layer", 3]]).encode(),
    *(HPARAMS.replace(b" 4,", value) for value in (
        b" 0,", b" -4,", b" 5,", b" 4.0,", b' "4",', b" true,", b" null,", b" NaN,", b" 1e9,", b" [4],",
        b" {},", b" Infinity,", b" 04,", b" " + b"9" * 4000 + b",")),
])
def test_anything_but_five_whole_numbers_is_refused_with_the_files_name(read, text):
    with pytest.raises(ValueError, match="hparams.json: "):
        read(text)


@pytest.mark.parametrize("n_head, accepted", [(12, True), (16, False), (6, False)])
def test_the_heads_of_a_known_size_are_known(read, n_head, accepted):
    """768 channels can be cut into 12 or 16 heads, and no tensor tells into how many."""
    text = json.dumps({"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": n_head, "n_layer": 12}).encode()
    if accepted:
        assert read(text)[1] == GPTConfig()
    else:
        with pytest.raises(ValueError, match=f"n_head is {n_head}, but gpt2-small .* has 12"):
            read(text)
