"""export_hf: the folder holds the merged model and says what it is. (transformers itself: tests/peers.)"""

import copy
import json

import pytest
import torch
from conftest import TINY
from safetensors import safe_open
from safetensors.torch import load_file

from gpt.classify import swap_head
from gpt.config import GPTConfig
from gpt.interop.hugging_face import export_hf, fold_bias, hf_config
from gpt.interop.peft import export_peft
from gpt.lora import merge_lora, replace_linear_with_lora
from gpt.model import GPTModel
from gpt.weights import load_gpt2, load_huggingface, load_openai


def trained(model, K=None, rank=3, everywhere=False):
    """The model with a head of K classes and LoRA, as if trained: no tensor of these is zero."""
    generator = torch.Generator().manual_seed(1)
    if K:
        swap_head(model, K)
    replace_linear_with_lora(model if everywhere else model.trf_blocks, rank, 2 * rank)
    for name, p in model.named_parameters():
        if ".lora." in name or K and name.startswith("out_head"):
            p.data.normal_(0.0, 0.2, generator=generator)
    return model


def read(folder):
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("merged", [False, True])
def test_the_merged_weights_come_back_bit_for_bit_and_the_model_stays(small_model, sizes, tmp_path, merged):
    model = trained(small_model)
    if merged:
        merge_lora(model)
    before = copy.deepcopy(dict(model.named_parameters()))
    export_hf(model, tmp_path / "out")
    state = dict(model.named_parameters())
    assert state.keys() == before.keys() and all(torch.equal(state[name], before[name]) for name in before), (
        "exporting has changed the model")
    if not merged:
        merge_lora(model)
    back = dict(load_huggingface(tmp_path / "out" / "model.safetensors", sizes.H).named_parameters())
    own = {name.replace(".linear.", "."): p for name, p in model.named_parameters() if ".lora." not in name}
    assert back.keys() == own.keys() and all(torch.equal(back[name], own[name]) for name in own), (
        "the file holds something else than what merging makes")


def test_theirs_is_in_out_and_query_key_and_value_stand_side_by_side(small_model, tmp_path):
    export_hf(small_model, tmp_path / "out")
    tensors, _ = read(tmp_path / "out")
    C, att = small_model.config.emb_dim, small_model.trf_blocks[1].att
    c_attn = tensors["transformer.h.1.attn.c_attn.weight"]
    assert c_attn.shape == (C, 3 * C) and torch.equal(c_attn[:, C:2 * C], att.W_key.weight.T)
    assert torch.equal(tensors["transformer.h.1.attn.c_attn.bias"][2 * C:], att.W_value.bias)
    assert tensors["transformer.h.0.mlp.c_fc.weight"].shape == (C, 4 * C), "a linear weight of theirs is (in, out)"
    assert tensors["transformer.wte.weight"].shape == (small_model.config.vocab_size, C), "an embedding is not turned"
    assert not [name for name in tensors if "lm_head" in name], "the tied head is the embedding and stands once"
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}, "transformers refuses a file that does not say this"


def test_the_config_of_a_language_model(tmp_path):
    export_hf(load_openai(TINY), tmp_path / "out")
    _, config = read(tmp_path / "out")
    hparams = json.loads((TINY / "hparams.json").read_text(encoding="utf-8"))
    assert hparams.items() <= (config | {"n_vocab": config["vocab_size"], "n_ctx": config["n_positions"]}).items()
    assert config["architectures"] == ["GPT2LMHeadModel"] and config["model_type"] == "gpt2"
    assert config["activation_function"] == "gelu_new", "theirs called gelu is not GPT-2's"
    assert config["layer_norm_epsilon"] == 1e-5 and config["tie_word_embeddings"] and config["n_inner"] is None
    assert "id2label" not in config and config["torch_dtype"] == "float32"


@pytest.mark.parametrize("labels", [(), ["ham", "spam", "eggs"]])
def test_the_config_of_a_classifier_names_its_classes(small_model, tmp_path, labels):
    export_hf(trained(small_model, 3), tmp_path / "out", labels=labels)
    _, config = read(tmp_path / "out")
    names = labels or ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert config["architectures"] == ["GPT2ForSequenceClassification"]
    assert config["id2label"] == {str(i): name for i, name in enumerate(names)}, "they count the classes from this"
    assert config["label2id"] == {name: i for i, name in enumerate(names)}
    assert config["pad_token_id"] == small_model.config.vocab_size - 1, "without it they read no batch"


def test_gpt2s_padding_token_is_50256(tmp_path):
    model = GPTModel(GPTConfig(context_length=4, emb_dim=8, n_heads=2, n_layers=1))
    export_hf(model, tmp_path / "out")
    _, config = read(tmp_path / "out")
    assert {config[f"{which}_token_id"] for which in ("pad", "eos", "bos")} == {50256}


def test_dropout_goes_along(tmp_path):
    export_hf(GPTModel(GPTConfig(50, 4, 8, 2, 1, drop_rate=0.3)), tmp_path / "out")
    _, config = read(tmp_path / "out")
    assert [config[f"{where}_pdrop"] for where in ("embd", "attn", "resid")] == [0.3] * 3


def test_a_model_without_query_key_and_value_biases_gets_zeros(tmp_path):
    model = GPTModel(GPTConfig(50, 4, 8, 2, 2, qkv_bias=False), torch.Generator().manual_seed(0)).eval()
    export_hf(model, tmp_path / "out")
    tensors, _ = read(tmp_path / "out")
    assert torch.equal(tensors["transformer.h.1.attn.c_attn.bias"], torch.zeros(24))
    back, ids = load_huggingface(tmp_path / "out" / "model.safetensors", 2), torch.arange(4)[None]
    assert torch.equal(back.eval()(ids), model(ids))


@pytest.mark.parametrize("K, labels", [(2, ["ham"]), (2, ["a", "b", "c"]), (None, ["ham", "spam"]), (2, ["a", "a"]),
                                       (2, [0, 1])])
def test_labels_that_do_not_fit_the_head_are_refused(small_model, tmp_path, K, labels):
    with pytest.raises(ValueError, match=f"{len(labels)} labels for a head of {K or 'no'} classes"):
        export_hf(trained(small_model, K), tmp_path / "out", labels=labels)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_else_is_left_alone(small_model, tmp_path):
    export_hf(small_model, tmp_path / "out")
    export_hf(small_model, tmp_path / "out")    # an older export is replaced
    (tmp_path / "out" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(FileExistsError, match="holds thesis.tex, which would be lost"):
        export_hf(small_model, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").exists() and len(list(tmp_path.iterdir())) == 1


# ---- a head's bias -----------------------------------------------------------------------------------------------

def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("K, everywhere", [(2, False), (5, True)])
def test_a_folded_bias_gives_the_same_answers(small_model, tmp_path, K, everywhere):
    model = trained(small_model, K, everywhere=everywhere)
    ids = torch.arange(7)[None]
    expected = model(ids)
    export_hf(model, tmp_path / "out")
    tensors, _ = read(tmp_path / "out")
    merge_lora(model)
    assert "score.bias" not in tensors and tensors["score.weight"].shape == (K, model.config.emb_dim)
    hidden = (model.hidden(ids) - model.final_norm.shift) + tensors["transformer.ln_f.bias"]
    found = hidden @ tensors["score.weight"].T
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max(), "the bias is lost, or the LoRA of the head is"


@pytest.mark.exercise("E7.7")
def test_the_fold_is_the_smallest_change_that_does_it():
    W, b, shift = normal(3, 16), normal(3, seed=1), normal(16, seed=2)
    change = fold_bias(W, b, shift) - shift
    assert torch.allclose(W @ change, b, atol=1e-5), "W shift' is not W shift + b: the bias is lost"
    outside = normal(16, seed=3)
    outside -= torch.linalg.pinv(W) @ (W @ outside)    # what W does not see
    assert abs(change @ outside) < 1e-5, "it moves in directions that the head does not read"


@pytest.mark.exercise("E7.7")
def test_no_bias_changes_nothing_and_gives_a_tensor_of_its_own():
    shift = normal(16)
    folded = fold_bias(torch.zeros(2, 16), torch.zeros(2), shift)
    assert torch.equal(folded, shift) and folded.data_ptr() != shift.data_ptr(), "a head of zeros has no inverse"


@pytest.mark.exercise("E7.7")
@pytest.mark.parametrize("noise, of_bias", [(0.0, 0.0), (1e-7, 1e-6), (1e-5, 1e-5), (1e-3, 1e-3)])
def test_a_head_whose_rows_add_up_to_almost_nothing_folds(noise, of_bias):
    """As after training from zero: what one class gains the other loses, to rounding. W W^T has almost no inverse."""
    row, b, shift = normal(16), torch.tensor([0.3, -0.3]), normal(16, seed=2)
    W = torch.stack([row, -row]) + noise * normal(2, 16, seed=3)
    b = b + of_bias * normal(2, seed=4)
    folded = fold_bias(W, b, shift)
    assert torch.allclose(W @ (folded - shift), b, atol=1e-5), "W W^T has almost no inverse: was it taken in float32?"
    assert (folded - shift).abs().max() < 1, "rounding was taken for a direction of its own: it needs a threshold"


@pytest.mark.exercise("E7.7")
@pytest.mark.parametrize("W, b", [
    (torch.zeros(2, 16), torch.tensor([0.1, -0.1])),
    (torch.ones(2, 16), torch.tensor([0.1, -0.1])),
    (normal(5, 3), normal(5, seed=1)),
    (normal(2, 16) * torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, 1.0])),
])
def test_a_bias_that_no_shift_can_stand_for_is_refused(W, b):
    with pytest.raises(ValueError):    # and no shift that answers otherwise
        fold_bias(W, b, torch.ones(W.shape[1]))


@pytest.mark.exercise("E7.7")
def test_a_bias_that_is_not_finite_is_refused():
    with pytest.raises(ValueError):    # any comparison with nan is False
        fold_bias(normal(2, 16), torch.tensor([float("nan"), 0.0]), normal(16))


@pytest.mark.parametrize("where", ["trf_blocks.1.ff.layers.0.weight", "out_head.weight", "out_head.bias"])
def test_a_model_that_diverged_is_not_exported(small_model, tmp_path, where):
    model = swap(small_model)
    model.get_parameter(where).data.view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        export_hf(model, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def swap(model):
    swap_head(model, 2, zero=False)
    return model


# What is read back, and what is refused

def test_a_folder_is_read_back_with_its_heads_and_its_classes(small_model, sizes, tmp_path):
    ids = torch.arange(6)[None]
    export_hf(small_model, tmp_path / "writer")
    back = load_huggingface(tmp_path / "writer")
    assert back.config == small_model.config and torch.equal(back(ids), small_model(ids))
    classifier = trained(small_model, 3)
    export_hf(classifier, tmp_path / "classifier", labels=["a", "b", "c"])
    back = load_huggingface(tmp_path / "classifier")
    assert torch.allclose(back(ids)[:, -1], classifier(ids)[:, -1], atol=1e-5)


def test_minis_heads_survive_the_journey_with_and_without_the_config(tmp_path):
    model, ids = load_gpt2("mini"), torch.arange(9)[None]
    export_hf(model, tmp_path / "mini")
    assert torch.equal(load_huggingface(tmp_path / "mini" / "model.safetensors")(ids), model(ids))
    (tmp_path / "mini" / "config.json").unlink()
    assert load_huggingface(tmp_path / "mini" / "model.safetensors").config.n_heads == 4


def test_a_language_model_with_a_head_of_its_own_keeps_it(small_model, tmp_path):
    small_model.out_head = torch.nn.Linear(small_model.config.emb_dim, small_model.config.vocab_size, bias=False)
    export_hf(small_model, tmp_path / "out")
    tensors, config = read(tmp_path / "out")
    assert config["architectures"] == ["GPT2LMHeadModel"] and config["tie_word_embeddings"] is False
    assert torch.equal(tensors["lm_head.weight"], small_model.out_head.weight)
    assert torch.equal(load_huggingface(tmp_path / "out").out_head.weight, small_model.out_head.weight)


@pytest.mark.parametrize("size, end", [(50257, 50256), (50258, 50256), (50304, 50256)])
def test_the_end_of_a_text_is_50256_however_large_the_vocabulary_is(size, end):
    model = GPTModel(GPTConfig(vocab_size=size, context_length=4, emb_dim=8, n_heads=2, n_layers=1))
    assert {hf_config(model)[f"{which}_token_id"] for which in ("pad", "eos", "bos")} == {end}


def test_gpt2s_tokenizer_is_written_beside_a_model_of_its_vocabulary(small_model, tmp_path):
    export_hf(GPTModel(GPTConfig(context_length=4, emb_dim=8, n_heads=2, n_layers=1)), tmp_path / "out")
    tokens = json.loads((tmp_path / "out" / "vocab.json").read_text(encoding="utf-8"))
    assert len(tokens) == 50257 and tokens["<|endoftext|>"] == 50256
    assert [tokens[word] for word in ("!", "\u0120the", "\u0120")] == [0, 262, 220]
    assert (tmp_path / "out" / "merges.txt").read_text(encoding="utf-8").startswith("#version: 0.2\n\u0120 t\n")
    export_hf(small_model, tmp_path / "small")
    assert sorted(file.name for file in (tmp_path / "small").iterdir()) == ["config.json", "model.safetensors"]


def test_a_classifier_that_is_read_at_its_padding_is_refused(small_model, tmp_path):
    model = trained(small_model.requires_grad_(False), 2)
    model.pad_to = 24    # as load_adapter notes it
    for export in (export_hf, export_peft):
        with pytest.raises(ValueError, match=r"read at its padding \(pad_to 24\)"):
            export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_compiled_model_is_exported_as_the_model_in_it(small_model, tmp_path):
    export_hf(small_model, tmp_path / "plain")
    export_hf(torch.compile(small_model), tmp_path / "compiled")
    assert (tmp_path / "plain" / "model.safetensors").read_bytes() == \
        (tmp_path / "compiled" / "model.safetensors").read_bytes()
