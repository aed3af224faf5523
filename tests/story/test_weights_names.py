"""gpt/weights.py: every name of the foreign files finds its parameter, and hparams.json is believed in nothing."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY

from gpt.config import GPTConfig
from gpt.storage.openai_checkpoint import open_checkpoint
from gpt.weights import NAMES, flatten, from_openai, nest, our_name, read_hparams

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


@pytest.mark.exercise("E4.6")
@pytest.mark.parametrize("layer, ours", [("attn/c_proj", "att.out_proj"), ("mlp/c_fc", "ff.layers.0"),
                                         ("mlp/c_proj", "ff.layers.2")])
@pytest.mark.parametrize("lead", [(1,), ()], ids=["OpenAI's axis of size 1", "Hugging Face's two axes"])
def test_a_linear_weight_is_turned_round_and_its_bias_is_not(layer, ours, lead, sizes):
    x, weight, bias = torch.randn(3, sizes.C), torch.randn(*lead, sizes.C, sizes.D), torch.randn(sizes.D)
    renamed = from_openai({f"model/h2/{layer}/w": weight, f"model/h2/{layer}/b": bias})
    assert renamed.keys() == {f"trf_blocks.2.{ours}.weight", f"trf_blocks.2.{ours}.bias"}
    theirs = x @ weight.reshape(sizes.C, sizes.D) + bias
    assert renamed[f"trf_blocks.2.{ours}.weight"].shape == (sizes.D, sizes.C), "(in, out) there, (out, in) here"
    answer = torch.nn.functional.linear(x, *renamed.values())
    assert torch.allclose(answer, theirs, atol=1e-5), "the same layer gives another answer: reshaped, not transposed?"


@pytest.mark.exercise("E4.6")
def test_a_square_weight_is_turned_round_too():
    weight = torch.randn(1, 6, 6)
    ours = from_openai({"model/h0/attn/c_proj/w": weight})["trf_blocks.0.att.out_proj.weight"]
    assert torch.equal(ours, weight[0].T), "its shape does not show it: this is the mistake that loads and babbles"


@pytest.mark.exercise("E4.6")
def test_embeddings_and_norms_stay_as_they_are(sizes):
    wte, g = torch.randn(sizes.V, sizes.C), torch.randn(sizes.C)
    ours = from_openai({"model/wte": wte, "model/h1/ln_2/g": g})
    assert ours.keys() == {"tok_emb.weight", "trf_blocks.1.norm2.scale"}
    assert torch.equal(ours["tok_emb.weight"], wte), "an embedding is no linear layer: it is (V, C) in both"
    assert torch.equal(ours["trf_blocks.1.norm2.scale"], g)


@pytest.mark.exercise("E4.6")
def test_query_key_and_value_stand_side_by_side_in_c_attn(sizes):
    C = sizes.C
    x = torch.randn(3, C)
    weight, bias = torch.randn(1, C, 3 * C), torch.randn(3 * C)
    ours = from_openai({"model/h0/attn/c_attn/w": weight, "model/h0/attn/c_attn/b": bias})
    assert len(ours) == 6 and {tensor.shape for tensor in ours.values()} == {(C, C), (C,)}, \
        "three weights (C, C) and three biases: along which axis is c_attn cut?"
    side_by_side = x @ weight[0] + bias                                               # (3, 3C)
    for i, which in enumerate(["W_query", "W_key", "W_value"]):
        place = f"trf_blocks.0.att.{which}"
        answer = torch.nn.functional.linear(x, ours[f"{place}.weight"], ours[f"{place}.bias"])
        assert torch.allclose(answer, side_by_side[:, i * C:(i + 1) * C], atol=1e-4), \
            f"{which} is not third number {i + 1}: query, key, value is the order"


@pytest.mark.exercise("E4.6")
def test_renaming_copies_no_number():
    weight = torch.randn(1, 4, 16)
    ours = from_openai({"model/h0/mlp/c_fc/w": weight})["trf_blocks.0.ff.layers.0.weight"]
    assert ours.shape == (16, 4) and ours.data_ptr() == weight.data_ptr(), "a view turns it round; a copy costs 500 MB"


@pytest.mark.exercise("E4.6")
def test_one_tensor_under_two_names_is_an_error():
    with pytest.raises(ValueError, match="tok_emb.weight"):    # not the last one, silently
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
