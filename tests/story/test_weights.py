"""gpt/weights.py: every kind of file gives the same model, and every kind of fault its own error."""

import json
import pickle
import shutil
import warnings

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file, save_file
from torch import nn

import gpt.weights
from gpt.config import GPT2_SIZES, GPTConfig
from gpt.download import DownloadError
from gpt.generate import generate
from gpt.model import GPTModel
from gpt.storage.openai_checkpoint import open_checkpoint
from gpt.weights import (
    MINI, NAMES, OPENAI_FILES, download_and_load_gpt2, load_book, load_gpt2, load_huggingface, load_model, load_openai,
    load_weights_into_gpt, nest, our_name, save_model,
)

HPARAMS = json.loads((TINY / "hparams.json").read_text(encoding="utf-8"))


@pytest.fixture
def arrays():
    return {name: np.array(array) for name, array in open_checkpoint(TINY).items()}


@pytest.fixture
def model():
    return load_openai(TINY)


def same(one, other):
    """Whether two models have the same parameters, bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def assert_ready(model):
    """What every loader promises of its model."""
    assert model.out_head.weight is model.tok_emb.weight, "the head is no longer tied"
    assert not model.training and not any(module.training for module in model.modules()), "not in eval mode"
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32 and parameter.is_contiguous() and parameter.requires_grad, name
        assert parameter.untyped_storage().nbytes() == 4 * parameter.numel(), f"{name} is a view of something else"


# ---- the files of others ----------------------------------------------------------------------------------------

def assert_gives_the_oracles_logits(model):
    assert_ready(model)
    with np.load(TINY / "oracle.npz") as oracle:
        tokens, logits = torch.from_numpy(oracle["tokens"]), torch.from_numpy(oracle["logits"])
    with torch.no_grad():
        assert (model(tokens) - logits).abs().max() < 1e-4, "a tensor is in the wrong place, or transposed"


def hugging_face_file(path, arrays, prefix="", **more):
    """The arrays as Hugging Face saves them: its names, linear weights (in, out), its masks."""
    names = {openai: theirs for openai, theirs, _ in NAMES}
    tensors = {}
    for name, array in arrays.items():
        *block, rest = name.removeprefix("model/").split("/", 1) if "/h" in name else [name.removeprefix("model/")]
        place = f"h.{block[0][1:]}." if block else ""
        tensors[prefix + place + names[rest]] = torch.tensor(array[0] if array.ndim == 3 else array)
    for i in range(3):
        tensors[f"{prefix}h.{i}.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.bool).tril()
        tensors[f"{prefix}h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors | more, path)
    return path


def book_file(path, model, **more):
    """The model as the book's code saves it: an untied state_dict with causal masks."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = {f"trf_blocks.{i}.att.mask": torch.ones(32, 32).triu(1) for i in range(3)}
    torch.save(state | masks | more, path)
    return path


def test_openais_files_give_hugging_faces_logits():
    assert_gives_the_oracles_logits(load_openai(TINY))


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_hugging_faces_file_gives_its_logits(tmp_path, arrays, prefix):
    file = hugging_face_file(tmp_path / "model.safetensors", arrays, prefix)
    assert_gives_the_oracles_logits(load_huggingface(file, n_heads=4))


def test_a_head_that_hugging_face_saved_too_is_the_embedding(tmp_path, arrays):
    head = torch.tensor(arrays["model/wte"])
    file = hugging_face_file(tmp_path / "model.safetensors", arrays, "transformer.", **{"lm_head.weight": head})
    assert_gives_the_oracles_logits(load_huggingface(file, n_heads=4))
    hugging_face_file(file, arrays, **{"lm_head.weight": head + 1})
    with pytest.raises(ValueError, match="model.safetensors: .*trained untied"):
        load_huggingface(file, n_heads=4)


def test_the_books_file_gives_the_same_model(tmp_path, model):
    assert_gives_the_oracles_logits(load_book(book_file(tmp_path / "model.pth", model), n_heads=4))


def test_the_books_file_may_hold_the_optimizer_too(tmp_path, model):
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 2, dtype=torch.long)).sum().backward()
    optimizer.step()
    both = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save(both, tmp_path / "both.pth")
    assert same(load_book(tmp_path / "both.pth", n_heads=4), model)


def test_what_the_books_code_has_trained_keeps_the_head_that_it_got(tmp_path, model):
    """The book does not tie the head to the embedding, so training moves the two apart."""
    head, ids = torch.randn(97, 48), torch.arange(9)[None]
    again = load_book(book_file(tmp_path / "model.pth", model, **{"out_head.weight": head}), n_heads=4)
    assert torch.equal(again.out_head.weight, head) and torch.equal(again.tok_emb.weight, model.tok_emb.weight)
    assert torch.equal(again(ids), model.hidden(ids) @ head.T) and not again.training
    assert generate(again, ids, 3).shape == (1, 12), "it is a language model"


def test_a_classifier_of_the_books_is_read_as_one(tmp_path, model):
    """What its chapter 6 saves as review_classifier.pth: model.out_head is a new nn.Linear for two classes."""
    head = nn.Linear(48, 2)
    file = book_file(tmp_path / "review_classifier.pth", model,
                     **{"out_head.weight": head.weight.data, "out_head.bias": head.bias.data})
    again = load_book(file, n_heads=4)
    ids = torch.arange(9)[None]
    assert torch.equal(again(ids), head(model.hidden(ids))) and again.out_head.bias.requires_grad
    with pytest.raises(ValueError, match="this model is a classifier"):
        generate(again, ids, 3)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_the_names_that_a_wrapper_gave_are_understood(tmp_path, model, arrays, prefix):
    torch.save({prefix + name: tensor for name, tensor in model.state_dict().items()}, tmp_path / "model.pth")
    assert same(load_book(tmp_path / "model.pth", n_heads=4), model)
    file = hugging_face_file(tmp_path / "model.safetensors", arrays, "transformer.")
    save_file({prefix + name: tensor for name, tensor in load_file(file).items()}, file)
    assert_gives_the_oracles_logits(load_huggingface(file, n_heads=4))


def test_heads_leave_no_trace_and_are_not_guessed(tmp_path):
    model = GPTModel(GPTConfig(vocab_size=11, context_length=32, emb_dim=128, n_heads=8, n_layers=2, qkv_bias=False))
    file = book_file(tmp_path / "model.pth", model)
    with pytest.raises(ValueError, match="2 blocks of 128 channels are no known GPT-2, .* give n_heads"):
        load_book(file)
    assert load_book(file, n_heads=8).config == model.config
    with pytest.raises(ValueError, match="at least 1, got 0"):
        load_book(file, n_heads=0)
    known = GPTModel(GPTConfig(vocab_size=11, context_length=32, emb_dim=128, n_heads=4, n_layers=4))
    assert load_book(book_file(file, known)).config == known.config, "mini has 4 heads, not 128 / 64"


def test_float32_is_float32_whatever_torchs_default_is():
    torch.set_default_dtype(torch.float64)
    try:
        assert {p.dtype for p in load_gpt2("mini").parameters()} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)


# ---- the settings beside the weights -------------------------------------------------------------------------------

CONFIG = dict(model_type="gpt2", vocab_size=97, n_positions=32, n_embd=48, n_head=4, n_layer=3, n_inner=None,
              activation_function="gelu_new", layer_norm_epsilon=1e-5)


def hugging_face_folder(folder, arrays, shards=(), weights="model.safetensors", tensors=None, **settings):
    """A folder as save_pretrained writes it: config.json beside the weights, in one file or in several."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | settings), encoding="utf-8")
    tensors = load_file(hugging_face_file(folder / weights, arrays, "transformer.")) | (tensors or {})
    save_file(tensors, folder / weights)
    if shards:
        (folder / weights).unlink()
        places = {name: shards[i % len(shards)] for i, name in enumerate(tensors)}
        for shard in shards:
            save_file({name: tensors[name] for name in tensors if places[name] == shard}, folder / shard)
        (folder / f"{weights}.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    return folder


def test_the_number_of_heads_is_read_from_the_config_beside_the_weights(tmp_path, arrays):
    folder = hugging_face_folder(tmp_path / "hf", arrays)
    assert_gives_the_oracles_logits(load_huggingface(folder))
    assert_gives_the_oracles_logits(load_huggingface(folder / "model.safetensors"))
    hugging_face_folder(folder, arrays, n_head=8)
    assert load_huggingface(folder).config.n_heads == 8
    with pytest.raises(ValueError, match="n_heads is 4, config.json says 8"):
        load_huggingface(folder, n_heads=4)


@pytest.mark.parametrize("settings, reason", [
    (dict(layer_norm_epsilon=1e-6), "layer_norm_epsilon is 1e-06, here it must be 1e-05"),
    (dict(activation_function="relu"), "activation_function is 'relu'"),
    (dict(activation_function="gelu"), "activation_function is 'gelu'"),
    (dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx is True"),
    (dict(scale_attn_weights=False), "scale_attn_weights is False"),
    (dict(add_cross_attention=True), "add_cross_attention is True"),
    (dict(n_inner=100), "n_inner is 100, here it must be 192 or None"), (dict(model_type="gpt_neo"), "model_type is 'gpt_neo'"),
    (dict(problem_type="regression"), "problem_type is 'regression'"), (dict(model_type="bert", vocab_size=None), "model_type"),
    (dict(n_layer=2), "n_layers is said to be 2, the tensors make it 3"), (dict(n_head=0), "at least 1, got 0"),
    (dict(n_head=None), "at least 1, got None")])
def test_settings_that_are_not_gpt2s_are_refused_by_name(tmp_path, arrays, settings, reason):
    with pytest.raises(ValueError, match=reason):
        load_huggingface(hugging_face_folder(tmp_path / "hf", arrays, **settings))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", "{}", "[" * 100_000])
def test_a_damaged_config_is_an_error_with_its_name(tmp_path, arrays, text):
    folder = hugging_face_folder(tmp_path / "hf", arrays)
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="config.json: "):
        load_huggingface(folder)


def test_settings_that_change_no_answer_are_no_obstacle(tmp_path, arrays):
    folder = hugging_face_folder(tmp_path / "hf", arrays, activation_function="gelu_pytorch_tanh", n_inner=192,
                                 reorder_and_upcast_attn=True, resid_pdrop=0.1)
    assert_gives_the_oracles_logits(load_huggingface(folder))


def test_weights_in_several_files_are_read_together(tmp_path, arrays):
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    folder = hugging_face_folder(tmp_path / "hf", arrays, shards)
    assert_gives_the_oracles_logits(load_huggingface(folder))
    assert_gives_the_oracles_logits(load_huggingface(folder / "model.safetensors.index.json"))
    (folder / shards[1]).unlink()
    with pytest.raises(FileNotFoundError, match=shards[1]):
        load_huggingface(folder)
    (folder / "model.safetensors.index.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="no index of the files of a model"):
        load_huggingface(folder)


def test_weights_in_a_pickle_are_read_without_running_it(tmp_path, arrays):
    folder = hugging_face_folder(tmp_path / "hf", arrays)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert_gives_the_oracles_logits(load_huggingface(folder))


def test_a_folder_without_weights_says_what_is_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        load_huggingface(tmp_path)


def test_a_head_of_its_own_is_kept_where_the_config_says_so(tmp_path, arrays):
    head = {"lm_head.weight": torch.randn(97, 48)}
    untied = load_huggingface(hugging_face_folder(tmp_path / "hf", arrays, tensors=head, tie_word_embeddings=False))
    assert torch.equal(untied.out_head.weight, head["lm_head.weight"])
    with pytest.raises(ValueError, match="lm_head.weight differs from wte.weight, .* trained untied"):
        load_huggingface(hugging_face_folder(tmp_path / "hf", arrays, tensors=head))


def test_a_classifier_of_hugging_faces_is_read_as_one(tmp_path, arrays, model):
    score = torch.randn(3, 48)
    folder = hugging_face_folder(tmp_path / "hf", arrays, tensors={"score.weight": score})
    ids = torch.arange(9)[None]
    assert torch.allclose(load_huggingface(folder)(ids), model.hidden(ids) @ score.T, atol=1e-5)


def test_a_flipped_bit_in_our_own_files_is_found(tmp_path, small_model, monkeypatch):
    save_model(small_model, tmp_path / "model.safetensors")
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="its sha256 is not that of its content"):
        load_model(tmp_path / "model.safetensors")
    content = bytearray(MINI.read_bytes())
    content[9_000_001] ^= 1
    (tmp_path / "mini.safetensors").write_bytes(content)
    monkeypatch.setattr(gpt.weights, "MINI", tmp_path / "mini.safetensors")
    with pytest.raises(ValueError, match="mini.safetensors: its sha256 is not that of its content"):
        load_gpt2("mini")


# ---- files that are no model, or worse --------------------------------------------------------------------------

class Program:
    """A pickle that runs a program when it is opened in the usual way."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return open, (str(self.witness), "w")


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))])
def test_a_program_in_a_pickle_is_not_run(tmp_path, save):
    save({"tok_emb.weight": Program(tmp_path / "witness")}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="model.pth: refused .*weights_only=True"):
        load_book(tmp_path / "model.pth")
    assert not (tmp_path / "witness").exists(), "the program was run"


@pytest.mark.parametrize("value", [[1, 2], {}, {"a": 1}, {1: torch.zeros(1)}, torch.zeros(3), None,
                                   {"model_state_dict": [1]}, {"a": torch.zeros(3).to_sparse()},
                                   {"tok_emb.weight": torch.zeros(3, 4, device="meta")}])
def test_a_pth_of_something_else_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="model.pth: .*(no state_dict|is this a GPT-2)"):
        load_book(tmp_path / "model.pth")


@pytest.mark.parametrize("load", [load_book, load_huggingface, load_model])
def test_a_cut_file_is_a_value_error_and_a_missing_one_is_not(tmp_path, model, arrays, load):
    file = tmp_path / "file"
    {load_book: lambda: book_file(file, model), load_huggingface: lambda: hugging_face_file(file, arrays),
     load_model: lambda: save_model(model, file)}[load]()
    whole = file.read_bytes()
    for length in [*range(0, 100, 7), len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="file: "):
            load(file)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent")


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64, torch.bool])
def test_a_tensor_of_another_kind_of_number_is_refused(tmp_path, model, dtype):
    file = book_file(tmp_path / "model.pth", model, **{"final_norm.scale": torch.ones(48, dtype=dtype)})
    with pytest.raises(ValueError, match=f"final_norm.scale: the file has {dtype}"):
        load_book(file, n_heads=4)


# ---- our own files ----------------------------------------------------------------------------------------------

def test_what_is_saved_comes_back_bit_for_bit(tmp_path, small_model):
    save_model(small_model, tmp_path / "model.safetensors", trained_on="nothing", steps=0)
    loaded = load_model(tmp_path / "model.safetensors")
    assert same(loaded, small_model) and loaded.config == small_model.config
    assert_ready(loaded)


def test_the_tied_head_is_stored_once(tmp_path, small_model):
    save_model(small_model, tmp_path / "model.safetensors")
    assert load_file(tmp_path / "model.safetensors").keys() == dict(small_model.named_parameters()).keys()


def test_a_float16_file_has_half_the_size_and_gives_a_float32_model(tmp_path, small_model):
    save_model(small_model, tmp_path / "half.safetensors", torch.float16)
    save_model(small_model, tmp_path / "whole.safetensors")
    half, whole = (tmp_path / f"{name}.safetensors" for name in ("half", "whole"))
    loaded = load_model(half)
    assert_ready(loaded)
    assert same(loaded, small_model.half().float())
    assert 0.5 < half.stat().st_size / whole.stat().st_size < 0.6


def test_numbers_that_float16_cannot_hold_are_not_saved_as_infinite(tmp_path, small_model):
    with torch.no_grad():
        small_model.final_norm.scale[3] = 1e6
    with pytest.raises(ValueError, match="final_norm.scale holds numbers that are too large for torch.float16"):
        save_model(small_model, tmp_path / "model.safetensors", torch.float16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [
    lambda model: setattr(model, "out_head", nn.Linear(30, 2)),
    lambda model: setattr(model.out_head, "weight", nn.Parameter(model.tok_emb.weight.detach().clone())),
    lambda model: setattr(model.trf_blocks[0].att, "W_query", nn.Sequential(model.trf_blocks[0].att.W_query)),
], ids=["swapped head", "untied head", "wrapped layer"])
def test_what_is_no_gpt2_any_more_is_not_saved_as_one(tmp_path, small_model, change):
    change(small_model)
    with pytest.raises(ValueError, match="was not written"):
        save_model(small_model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_save_leaves_the_old_file_and_nothing_else(tmp_path, small_model, model, monkeypatch):
    file = tmp_path / "model.safetensors"
    save_model(small_model, file)

    def interrupted(tensors, path, metadata):
        path.write_bytes(b"half a f")
        raise KeyboardInterrupt
    monkeypatch.setattr(gpt.weights, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, file)
    assert list(tmp_path.iterdir()) == [file] and same(load_model(file), small_model)


@pytest.mark.parametrize("config", [None, "[]", "{", '{"n_layers": 0}', '{"depth": 3}', "[" * 100_000,
                                    '{"n_layers": 1000000000}', "{}"])
def test_a_file_whose_config_is_missing_or_wrong_is_refused(tmp_path, small_model, config):
    tensors = {name: parameter.detach() for name, parameter in small_model.named_parameters()}
    save_file(tensors, tmp_path / "model.safetensors", {"config": config} if config else {"format": "pt"})
    with pytest.raises(ValueError, match="model.safetensors: .*(no GPTConfig|is said to be)"):
        load_model(tmp_path / "model.safetensors")


# ---- loading leaves the rest alone ------------------------------------------------------------------------------

def test_loading_draws_no_random_number_and_warns_of_nothing():
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_openai(TINY)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_model_does_not_need_its_file_any_more(tmp_path, model):
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    with torch.no_grad():
        loaded.pos_emb.weight.zero_()
    assert same(load_model(tmp_path / "model.safetensors"), model), "writing to the model wrote to the file"


# ---- by name, and as in the book --------------------------------------------------------------------------------

def test_params_as_in_the_book_fill_a_model_in_place(tmp_path, model):
    shutil.copytree(TINY, tmp_path / "124M")
    settings, params = download_and_load_gpt2("124M", tmp_path)
    assert settings == HPARAMS
    fresh = GPTModel(model.config).double()
    embedding = fresh.tok_emb.weight
    load_weights_into_gpt(fresh, params)
    assert fresh.training and fresh.out_head.weight is fresh.tok_emb.weight is embedding
    assert same(fresh.float(), model)


def test_params_that_do_not_fit_change_nothing(arrays):
    model = GPTModel(GPTConfig(97, 32, 48, 4, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    params = nest(arrays)
    params["blocks"][2]["ln_2"]["b"] = np.zeros(47, np.float32)
    with pytest.raises(ValueError, match=r"blocks.2.norm2.shift: the model wants \(48,\), the file has \(47,\)"):
        load_weights_into_gpt(model, params)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.fixture
def sources(monkeypatch, tmp_path, arrays):
    """A world in which 124M is tiny. sources["OpenAI"] = False cuts it off; sources["asked"]: what fetch saw."""
    sources = {"OpenAI": True, "Hugging Face": True, "asked": []}
    data = tmp_path / "data"
    shutil.copytree(TINY, tmp_path / "site")
    hugging_face_file(tmp_path / "site" / "model.safetensors", arrays)
    (data / "gpt2-124M").mkdir(parents=True)

    def fetch(name):
        sources["asked"].append(name)
        file = name.split("/")[1]
        source = "Hugging Face" if file == "model.safetensors" else "OpenAI"
        if not (data / name).exists():
            if not sources[source]:
                raise DownloadError(f"{source} cannot be reached")
            shutil.copy(tmp_path / "site" / file, data / name)
        return data / name
    monkeypatch.setattr(gpt.weights, "fetch", fetch)
    monkeypatch.setattr(gpt.weights, "data_dir", lambda: data)
    monkeypatch.setitem(GPT2_SIZES, "gpt2-small (124M)", GPTConfig(97, 32, 48, 4, 3))
    monkeypatch.setattr(gpt.weights, "load_huggingface", lambda file: load_huggingface(file, n_heads=4))
    return sources


def test_gpt2_comes_from_openai_first(sources, model):
    assert same(load_gpt2("gpt2-small (124M)"), model)
    assert sources["asked"] == [f"gpt2-124M/{file}" for file in OPENAI_FILES]


def test_gpt2_comes_from_hugging_face_when_openai_is_out_of_reach(sources, model):
    sources["OpenAI"] = False
    assert same(load_gpt2("gpt2-small (124M)"), model)
    sources["asked"].clear()
    load_gpt2("gpt2-small (124M)")
    assert sources["asked"] == ["gpt2-124M/model.safetensors"], "a file that lies in data/ was not taken first"


def test_when_no_source_delivers_the_error_names_them_all(sources):
    sources["OpenAI"] = sources["Hugging Face"] = False
    with pytest.raises(DownloadError, match="(?s)OpenAI cannot be reached.*Hugging Face cannot be reached"):
        load_gpt2("gpt2-small (124M)")


def test_another_model_under_a_known_name_is_refused(sources, monkeypatch):
    monkeypatch.setitem(GPT2_SIZES, "gpt2-small (124M)", GPTConfig(97, 32, 48, 4, 2))
    with pytest.raises(ValueError, match="gpt2-124M holds a model with .*n_layers=3.* has .*n_layers=2"):
        load_gpt2("gpt2-small (124M)")


def test_the_books_function_fetches_what_its_folder_lacks(sources, tmp_path):
    download_and_load_gpt2("124M", tmp_path / "models")
    assert sorted(path.name for path in (tmp_path / "models" / "124M").iterdir()) == sorted(OPENAI_FILES)
    sources["asked"].clear()
    download_and_load_gpt2("124M", tmp_path / "models")
    assert not sources["asked"], "it fetched again what was there"


def test_mini_is_in_the_repository_whatever_the_network(monkeypatch):
    monkeypatch.setattr(gpt.weights, "fetch", lambda name: pytest.fail(f"{name} was asked for"))
    mini = load_gpt2("mini")
    assert_ready(mini)
    assert mini.config == GPT2_SIZES["mini"]


def test_unknown_names_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="gpt2-small"):
        load_gpt2("gpt2-tiny")
    with pytest.raises(ValueError, match="355M"):
        download_and_load_gpt2("125M", tmp_path)


def test_every_name_in_the_table_of_names_is_a_parameter_of_gpt2(model):
    places = {name.replace("W_query", "c_attn") for name, _ in model.named_parameters()} | {"out_head.weight"}
    for _, hugging_face, ours in NAMES:
        assert our_name(hugging_face) == ours
        assert ours in places or f"trf_blocks.2.{ours}" in places


def test_a_head_with_one_output_is_no_classifier(tmp_path, arrays):
    with pytest.raises(ValueError, match="score.weight has one output"):
        load_huggingface(hugging_face_folder(tmp_path / "hf", arrays, tensors={"score.weight": torch.randn(1, 48)}))


@pytest.mark.parametrize("score", [torch.tensor(1.0), torch.randn(48), torch.randn(3, 48, 1)])
def test_a_head_of_another_shape_is_an_error_that_names_it(tmp_path, arrays, score):
    with pytest.raises(ValueError, match="out_head.weight: the model wants"):
        load_huggingface(hugging_face_folder(tmp_path / "hf", arrays, tensors={"score.weight": score}))


@pytest.mark.parametrize("name", ["weights", "model.safetensors.old", "model.pth"])
def test_a_file_of_weights_may_have_any_name(tmp_path, arrays, name):
    file = hugging_face_file(tmp_path / "model.safetensors", arrays)
    if name.endswith(".pth"):
        torch.save(load_file(file), tmp_path / name)
    else:
        file.rename(tmp_path / name)
    assert_gives_the_oracles_logits(load_huggingface(tmp_path / name, n_heads=4))


@pytest.mark.parametrize("names", [{}, {"a": "x/y.safetensors"}, {"a": 1}])
def test_an_index_of_nothing_is_an_error_with_its_name(tmp_path, names):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}), encoding="utf-8")
    with pytest.raises(ValueError, match="model.safetensors.index.json: it is no index"):
        load_huggingface(tmp_path)


def test_a_compiled_model_is_saved_as_the_model_in_it(tmp_path, small_model):
    save_model(torch.compile(small_model), tmp_path / "model.safetensors")
    assert same(load_model(tmp_path / "model.safetensors"), small_model)
