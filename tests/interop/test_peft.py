"""gpt/interop/peft.py and its parts: PEFT's answers (golden files), our numbers there and back, and what is refused.

The golden files were made by the real libraries (tests/fixtures/write_peft.py); tests/peers asks the libraries themselves.
"""

import copy
import json
import math
import random
import shutil
import tempfile
import time

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file, save_file
from test_adapters import same, state

from gpt.classify import class_logits, swap_head
from gpt.config import GPT2_SIZES, GPTConfig
from gpt.interop.peft import OPENAI, Part, PeftConfig, exact_alpha, export_peft, import_peft, pack, unpack
from gpt.lora import LinearWithLoRA, LoRALayer, lora_layers, merge_lora, replace_linear_with_lora
from gpt.model import GPTModel
from gpt.storage.files import read_safetensors
from gpt.weights import load_openai

GOLDEN = {"text": 0, "classes": 3, "ours": 2}    # folder peft_tiny_<name> -> classes
LAYERS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def golden(name):
    return TINY.with_name(f"peft_tiny_{name}")


def wearing(base, K=0, seed=0, fresh=False, **options):
    """A copy of the base model with LoRA, and a head of K classes, as if trained: no number of it is zero."""
    model, generator = copy.deepcopy(base).requires_grad_(False), torch.Generator().manual_seed(seed)
    if K:
        swap_head(model, K)
    replace_linear_with_lora(model.trf_blocks, **{"rank": 4, "alpha": 6, "generator": generator} | options)
    for name, p in model.named_parameters():
        if p.requires_grad and not fresh and not name.endswith("lora.A"):
            p.data.normal_(0.0, 0.3, generator=generator)
    return model


def other_in_each_layer(base):
    """Ranks and alphas that are nowhere the same, and every fourth layer without LoRA."""
    model = wearing(base)
    for i, (name, layer) in enumerate(list(lora_layers(model))):
        parent, _, child = name.rpartition(".")
        other = LinearWithLoRA(layer.linear, 1 + i % 5, 4 * (1 + i % 5))    # of the same scale, 4
        other.lora.B.data.normal_(0.0, 0.3)
        setattr(model.get_submodule(parent), child, layer.linear if i % 4 == 3 else other)
    return model


OURS = {
    "all linear layers": wearing,
    "query and value": lambda base: wearing(base, targets=["W_query", "W_value"]),
    "key alone": lambda base: wearing(base, targets=["W_key"]),
    "feed-forward": lambda base: wearing(base, targets=["layers.0", "layers.2"]),
    "one A": lambda base: wearing(base, share_a=True),
    "one A for query and value": lambda base: wearing(base, share_a=True, targets=["W_query", "W_value"]),
    "alpha/sqrt(r)": lambda base: wearing(base, scale="alpha/sqrt(r)", rank=3),
    "unscaled alpha": lambda base: wearing(base, scale="alpha", alpha=0.7),
    "other in each layer": other_in_each_layer,
    "not trained yet": lambda base: wearing(base, fresh=True),
    "dropout": lambda base: wearing(base, dropout=0.25),
    "classes": lambda base: wearing(base, K=3),
    "classes, one A": lambda base: wearing(base, K=2, share_a=True),
    "classes, new head": lambda base: wearing(base, K=2, fresh=True),
}


@torch.no_grad()
def answers(model, ids=None, K=0):
    ids = torch.arange(14).view(2, 7) if ids is None else ids
    return class_logits(model, ids) if K else model(ids)


def assert_close(one, other):
    assert (one - other).abs().max() <= 1e-5 * other.abs().max(), "the logits differ by more than rounding"


# ---- PEFT's own answers ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", GOLDEN)
def test_our_model_answers_with_a_folder_of_peft_as_peft_did(name):
    model, oracle = load_openai(TINY), np.load(golden(name) / "oracle.npz")
    labels = import_peft(model, golden(name))
    assert labels == {"text": [], "classes": ["LABEL_0", "LABEL_1", "LABEL_2"], "ours": ["ham", "spam"]}[name]
    assert_close(answers(model, torch.from_numpy(oracle["tokens"]), GOLDEN[name]), torch.from_numpy(oracle["logits"]))


@pytest.mark.parametrize("name", GOLDEN)
def test_importing_leaves_the_base_weights_alone(name):
    model, base = load_openai(TINY), load_openai(TINY)
    import_peft(model, golden(name))
    weights = {n.replace(".linear.", "."): p for n, p in model.named_parameters() if ".lora." not in n}
    changed = [n for n, p in base.named_parameters() if not torch.equal(p, weights[n])]
    assert not changed, "the trained final norm belongs into the head: it is the base's, whatever adapter is worn"


def test_the_folder_that_peft_has_read_is_written_again_byte_for_byte(tmp_path):
    model = load_openai(TINY)
    labels = import_peft(model, golden("ours"))
    export_peft(model, tmp_path / "again", base="tiny", labels=labels)
    (old, old_notes), (new, new_notes) = (read_safetensors(folder / "adapter_model.safetensors")
                                          for folder in (golden("ours"), tmp_path / "again"))
    assert old.keys() == new.keys() and old_notes == new_notes, "other tensors or another header than PEFT was shown"
    for name in old:
        if "ln_f.bias" in name:    # comes from a float64 solver, which may round differently elsewhere
            assert torch.allclose(old[name], new[name], atol=1e-6)
        else:
            assert torch.equal(old[name], new[name]), f"{name} is not what PEFT was shown"
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text(encoding="utf-8")) == json.loads(
        (golden("ours") / "adapter_config.json").read_text(encoding="utf-8")), "other settings than PEFT was shown"


# ---- there and back -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("merged", [False, True])
def test_our_adapter_comes_back_bit_for_bit(small_model, tmp_path, kind, merged):
    model = OURS[kind](small_model)
    before = state(model)
    if merged:
        merge_lora(model)
        assert not same(before, state(model))
    export_peft(model, tmp_path / "a")
    import_peft(small_model, tmp_path / "a")
    assert same(before, state(small_model)), "a tensor, a tie, a scale or what trains is not what it was when written"
    for (_, old), (name, new) in zip(lora_layers(model), lora_layers(small_model), strict=True):
        was, now = ((lora.alpha, lora.rule, lora.dropout.p) for lora in (old.lora, new.lora))
        assert was == now, f"{name} has the same scale, but not by the same rule"


def test_merging_before_writing_changes_no_byte_of_the_folder(small_model, tmp_path):
    model = wearing(small_model, 2)
    export_peft(model, tmp_path / "plain")
    merge_lora(model)
    before = state(model)
    export_peft(model, tmp_path / "merged")
    assert same(before, state(model)), "writing unmerged, moved or froze the model"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes(), "merged: " + name


def test_query_key_and_value_of_a_peft_adapter_share_one_A_and_train_on_together():
    model = load_openai(TINY)
    import_peft(model, golden("classes"))
    loras = [getattr(model.trf_blocks[1].att, f"W_{which}").lora for which in ("query", "key", "value")]
    assert len({id(lora.A) for lora in loras}) == 1, "c_attn has one lora_A; three copies would train apart"
    training = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "out_head.weight" in training and "trf_blocks.0.att.W_query.lora.A" in training
    assert all(".lora." in name or name.startswith("out_head") for name in training), "the base must stay frozen"


def test_importing_draws_from_no_generator_of_others():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    import_peft(load_openai(TINY), golden("ours"))
    assert torch.equal(before, torch.get_rng_state()), "it changes the course of whatever draws afterwards"


def test_query_key_and_value_of_different_scales_answer_the_same(small_model, tmp_path):
    model = wearing(small_model)
    for name, layer in list(lora_layers(model)):
        if name.endswith("W_key"):
            parent, _, child = name.rpartition(".")
            other = LinearWithLoRA(layer.linear, 2, 7, scale="alpha/sqrt(r)")
            other.lora.B.data.normal_(0.0, 0.3)
            setattr(model.get_submodule(parent), child, other)
    export_peft(model, tmp_path / "a")
    import_peft(small_model, tmp_path / "a")
    assert_close(answers(small_model), answers(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bias_of_a_head_comes_back_to_the_last_bit(dtype):
    base = load_openai(TINY).to(dtype)    # its final norm has a shift, in which a small bias drowns
    for seed in range(5):
        model = wearing(base, K=5, seed=seed)
        model.out_head.bias.data *= 0.01
        with tempfile.TemporaryDirectory() as folder:
            export_peft(model, f"{folder}/a")
            other = copy.deepcopy(base)
            import_peft(other, f"{folder}/a")
        assert torch.equal(other.out_head.bias, model.out_head.bias), "it was worked out from the shift, which rounds"
        assert torch.equal(other.final_norm.shift, base.final_norm.shift)


def test_alpha_and_its_rule_stay_those_of_peft(tiny):
    import_peft(tiny, golden("text"))
    loras = {name: (lora.lora.rank, lora.lora.alpha, lora.lora.rule) for name, lora in lora_layers(tiny)}
    assert loras["trf_blocks.0.att.W_key"] == (4, 6, "alpha/sqrt(r)")
    assert loras["trf_blocks.1.att.W_key"] == (2, 6, "alpha/sqrt(r)")
    assert loras["trf_blocks.2.ff.layers.2"] == (3, 5, "alpha/sqrt(r)")


def test_a_head_with_a_lora_goes_out_as_the_sum(small_model, tmp_path):
    model = copy.deepcopy(small_model).requires_grad_(False)
    swap_head(model, 2, zero=False)
    replace_linear_with_lora(model, 3, 5)
    for _, layer in lora_layers(model):
        layer.lora.B.data.normal_(0.0, 0.3)
    expected = answers(model, K=2)
    export_peft(model, tmp_path / "plain")
    merge_lora(model)
    export_peft(model, tmp_path / "merged")
    for name in ("plain", "merged"):
        import_peft(small_model, tmp_path / name)
        assert_close(answers(small_model, K=2), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_another_type_become_the_models(small_model, tmp_path, dtype):
    model = wearing(small_model, targets=["out_proj"])
    export_peft(model, tmp_path / "a")
    damage(tmp_path / "a", lambda tensors: tensors.update({n: t.to(dtype) for n, t in tensors.items()}))
    import_peft(small_model, tmp_path / "a")
    for (_, old), (_, new) in zip(lora_layers(model), lora_layers(small_model), strict=True):
        assert torch.equal(new.lora.B, old.lora.B.to(dtype).float()) and new.lora.B.dtype == torch.float32


# ---- the layout -----------------------------------------------------------------------------------------------------

def part(r, size_in=6, out=5, alpha=3.0, rule="alpha/r", A=None):
    return Part(torch.randn(size_in, r) if A is None else A, torch.randn(r, out), alpha, rule)


def by_hand(parts, out=5):
    """What all of c_attn adds to x W, (in, 3 out): scale A B of each part, side by side, zeros for none."""
    return torch.cat([torch.zeros(6, out) if p is None else p.scale * (p.A @ p.B) for p in parts], dim=1)


A4 = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.exercise("7.8")
@pytest.mark.parametrize("parts, rank", [
    ([part(4), part(2), part(3, alpha=4.5)], 9),
    ([part(4), None, part(1)], 5),
    ([None, part(2), None], 2),
    ([part(4, A=A4), part(4, A=A4.clone()), part(4, A=A4)], 4),
    ([part(4, A=A4), None, part(4, A=A4)], 4),
    ([part(4, A=A4), part(2), part(4, A=A4)], 6),
    ([part(4, alpha=8.0), part(2, alpha=1.0), part(3, rule="alpha/sqrt(r)")], 9),
    ([part(4, alpha=0.0), part(2, alpha=0.0), None], 6),
    ([part(4, alpha=0.0), part(2, alpha=1.0), None], 6),
    ([part(4, alpha=-8.0), part(2, alpha=1.0), None], 6),
])
def test_the_packed_update_adds_what_its_parts_add(parts, rank):
    packed, _ = pack(parts)
    update = packed.scale * (packed.B @ packed.A).T
    assert torch.allclose(update, by_hand(parts), atol=1e-5), "rows, columns, scale or transposition of c_attn is wrong"
    assert len(packed.A) in (rank, rank + 1), "equal A's must be there once, others each"
    assert torch.allclose(by_hand(unpack(packed, 3)), by_hand(parts), atol=1e-5), "unpack is not the inverse"


@pytest.mark.exercise("7.8")
def test_zeros_in_lora_B_tell_parts_apart():
    parts = [part(4), None, part(3, alpha=2.25)]    # the same scale
    back = unpack(pack(parts)[0], 3)
    assert back[1] is None, "the key had no LoRA"
    for old, new in zip(parts[::2], back[::2], strict=True):
        assert torch.equal(old.A, new.A) and torch.equal(old.B, new.B) and old.scale == new.scale


def test_an_update_that_was_not_trained_stays_whole():
    q, k, v = unpack(pack([part(4)._replace(B=torch.zeros(4, 5))] * 3)[0], 3)
    assert q.B.shape == (4, 5) and q.A is k.A is v.A, "zeros tell nothing apart where all of B is zero"
    one = part(4)
    one.B[2] = 0.0
    assert unpack(pack([one])[0], 1)[0].B.shape == (4, 5), "a layer of one part keeps its rank, whatever is zero"


@pytest.mark.exercise("7.8")
def test_the_scale_survives_whatever_columns_go():
    for seed in range(200):
        alpha, ranks = random.Random(seed).uniform(0.1, 3), (3, 5, 7)
        parts = [part(r, alpha=alpha, rule="alpha") for r in ranks]
        for old, new in zip(parts, unpack(pack(parts)[0], 3), strict=True):
            assert new.scale == old.scale, "alpha / r has another last bit"


@pytest.mark.exercise("7.8")
def test_a_part_of_another_scale_is_exact_where_the_ratio_is_a_power_of_two():
    parts = [part(4, alpha=6.0), part(2, alpha=0.75), None]    # scales 1.5 and 0.375
    back = unpack(pack(parts)[0], 3)
    assert torch.equal(back[1].B * back[1].scale, parts[1].B * parts[1].scale), "B must take up 1/4"
    assert torch.equal(back[0].B, parts[0].B) and back[0].scale == parts[0].scale


def test_alpha_over_rank_is_the_scale_to_the_last_bit():
    draw, longer = random.Random(0), 0
    for _ in range(5000):
        scale, rank = draw.choice([draw.uniform(-3, 3), 16 / draw.randint(1, 64) ** 0.5]), draw.randint(1, 200)
        alpha, R = exact_alpha(scale, rank)
        assert alpha / R == scale and rank <= R <= 2 * rank, f"{alpha} / {R} is {alpha / R}, not {scale}"
        longer += R > rank
    assert 0 < longer < 600, "most ranks will do, some will not"
    for scale in (1e308, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="no alpha"):
            exact_alpha(scale, 16)


# ---- the head -------------------------------------------------------------------------------------------------------

def test_the_bias_of_the_head_is_in_the_final_norm_of_the_file(small_model, tmp_path):
    model = wearing(small_model, 3)
    small_model.final_norm.shift.data.normal_(0.0, 0.5)
    model.final_norm.load_state_dict(small_model.final_norm.state_dict())
    export_peft(model, tmp_path / "a")
    file = load_file(tmp_path / "a" / "adapter_model.safetensors")
    z, W = model.hidden(torch.arange(7)[None]), file["base_model.model.score.weight"]
    moved = z + file["base_model.model.transformer.ln_f.bias"] - model.final_norm.shift
    assert_close(moved @ W.T, model.out_head(z))
    settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["modules_to_save"] == ["score", "ln_f"] and settings["task_type"] == "SEQ_CLS"


def test_a_head_without_bias_leaves_the_final_norm_out(small_model, tmp_path):
    export_peft(wearing(small_model, 2, fresh=True), tmp_path / "a")
    assert not [name for name in load_file(tmp_path / "a" / "adapter_model.safetensors") if "ln_f" in name]


@pytest.mark.parametrize("rows", [lambda W: W.zero_(), lambda W: W[1].copy_(W[0])])
def test_a_bias_that_no_shift_can_stand_for_is_refused(small_model, tmp_path, rows):
    model = wearing(small_model, 2)
    rows(model.out_head.weight.data)
    with pytest.raises(ValueError, match="a was not written: .*bias"):
        export_peft(model, tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trained_final_norm_goes_into_the_head(small_model, tmp_path, dtype):
    model, trained = wearing(small_model, 3, fresh=True), torch.Generator().manual_seed(3)
    model.out_head.weight.data.normal_(generator=trained)
    export_peft(model, tmp_path / "a")
    norm = {f"base_model.model.transformer.ln_f.{name}": torch.randn(model.config.emb_dim, generator=trained).to(dtype)
            for name in ("weight", "bias")}
    damage(tmp_path / "a", lambda tensors: tensors.update(norm), notes=lambda notes: notes.clear(),
           settings={"modules_to_save": ["score", "ln_f"]})
    model.final_norm.scale.data, model.final_norm.shift.data = (tensor.float() for tensor in norm.values())
    import_peft(small_model, tmp_path / "a")
    assert_close(answers(small_model, K=3), answers(model, K=3))


# ---- what is refused when writing -----------------------------------------------------------------------------------

@pytest.mark.parametrize("labels", [["ham"], ["ham", "spam", "eggs"], [0, 1], ["ham", None]])
def test_labels_that_do_not_fit_are_refused(small_model, tmp_path, labels):
    with pytest.raises(ValueError, match="label"):
        export_peft(wearing(small_model, 2), tmp_path / "a", labels=labels)
    with pytest.raises(ValueError, match="label"):
        export_peft(wearing(small_model), tmp_path / "a", labels=labels)
    assert not list(tmp_path.iterdir())


def test_what_the_folder_would_lose_is_refused(small_model, tmp_path):
    def refused(match, change):
        model = wearing(small_model)
        change(model)
        with pytest.raises(ValueError, match=f"a was not written: .*{match}"):
            export_peft(model, tmp_path / "a")
        assert not list(tmp_path.iterdir())

    refused("pos_emb", lambda model: model.pos_emb.requires_grad_(True))
    refused("final_norm.extra", lambda model: setattr(
        model.final_norm, "extra", LinearWithLoRA(torch.nn.Linear(3, 3).requires_grad_(False), 1, 1)))
    refused("dropout", lambda model: setattr(model.trf_blocks[0].att.W_key.lora.dropout, "p", 0.5))
    refused("c_fc.lora_B.* finite", lambda model: model.trf_blocks[1].ff.layers[0].lora.B.data.fill_(float("nan")))
    with pytest.raises(ValueError, match="LoRA"):
        export_peft(small_model.requires_grad_(False), tmp_path / "a")


def test_a_folder_of_other_things_is_not_overwritten_and_an_older_adapter_is(small_model, tmp_path):
    export_peft(wearing(small_model, seed=1), tmp_path / "a")
    export_peft(wearing(small_model, seed=2), tmp_path / "a")
    import_peft(small_model, tmp_path / "a")
    assert same(state(wearing(small_model_of(small_model), seed=2)), state(small_model)), "the older one is still there"
    (tmp_path / "a" / "thesis.txt").write_text("ten years", encoding="utf-8")
    with pytest.raises(FileExistsError, match="thesis.txt"):
        export_peft(wearing(small_model_of(small_model)), tmp_path / "a")
    assert (tmp_path / "a" / "thesis.txt").exists() and (tmp_path / "a" / "adapter_config.json").exists()


def small_model_of(model):
    """The base that a model wearing an adapter has, as a copy."""
    from gpt.adapters import remove_adapter
    base = copy.deepcopy(model)
    remove_adapter(base)
    return base


# ---- what is refused when reading -----------------------------------------------------------------------------------

def damage(folder, tensors=None, settings=None, notes=None):
    """Change a folder in place: its tensors and header by functions, its settings by a dict."""
    file = folder / "adapter_model.safetensors"
    found, header = read_safetensors(file)
    for change, what in ((tensors, found), (notes, header)):
        if change:
            change(what)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, file, header)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | (settings or {})), encoding="utf-8")


C_ATTN = "base_model.model.transformer.h.1.attn.c_attn.lora_"

SETTINGS = [    # what PEFT's settings may say, and we do not take
    {"use_dora": True}, {"bias": "all"}, {"bias": "lora_only"}, {"lora_bias": True}, {"layer_replication": [[0, 2]]},
    {"init_lora_weights": "pissa"}, {"init_lora_weights": "pissa_niter_16"}, {"init_lora_weights": "olora"},
    {"init_lora_weights": "corda"}, {"init_lora_weights": "loftq"}, {"init_lora_weights": "lora_ga"},
    {"init_lora_weights": None}, {"init_lora_weights": [True]}, {"init_lora_weights": "a start of next year"},
    {"peft_type": "IA3"}, {"peft_type": None}, {"peft_type": ["LORA"]}, {"task_type": "TOKEN_CLS"}, {"task_type": 3},
    {"modules_to_save": ["wte"]}, {"modules_to_save": ["lm_head"]}, {"modules_to_save": "score"},
    {"modules_to_save": [["score"]]}, {"modules_to_save": ["h.0.ln_1"]}, {"trainable_token_indices": [3]},
    {"target_parameters": ["transformer.wte.weight"]}, {"alora_invocation_tokens": [1]}, {"use_qalora": True},
    {"kasa_config": {"beta": 1}}, {"velora_config": {"a": 1}}, {"arrow_config": {"a": 1}}, {"use_bdlora": {"a": 1}},
    {"monteclora_config": {"a": 1}}, {"megatron_config": {"a": 1}}, {"a_setting_of_next_year": 0.5},
    {"r": 0}, {"r": -1}, {"r": 10**9}, {"r": 2.0}, {"r": True}, {"r": "3"}, {"r": None}, {"r": 10**400},
    {"lora_alpha": float("nan")}, {"lora_alpha": float("inf")}, {"lora_alpha": 10**400}, {"lora_alpha": "7"},
    {"lora_alpha": True}, {"lora_alpha": None}, {"lora_alpha": [7]}, {"lora_dropout": 1}, {"lora_dropout": -0.1},
    {"lora_dropout": float("nan")}, {"lora_dropout": None}, {"use_rslora": 1}, {"use_rslora": "no"},
    {"rank_pattern": None}, {"rank_pattern": []}, {"rank_pattern": {"c_attn": 0}}, {"rank_pattern": {"c_attn": 7}},
    {"rank_pattern": {"c_attn": 10**9}}, {"rank_pattern": {"(": 3}}, {"alpha_pattern": {"c_attn": None}},
    {"alpha_pattern": {"c_attn": float("nan")}}, {"alpha_pattern": {"(a+)+": 3}},
    {"alpha_pattern": {f"h.{i}": 1 for i in range(300)}}, {"target_modules": 3}, {"target_modules": {"c_attn": 1}},
    {"target_modules": [3]}, {"target_modules": []}, {"target_modules": ["q_proj"]}, {"target_modules": "["},
    {"target_modules": ["c_attn"]}, {"target_modules": ["c_attn", "c_fc", "c_proj"]}, {"exclude_modules": ["c_fc"]},
    {"exclude_modules": ".*"}, {"exclude_modules": 0.5}, {"layers_to_transform": [0, 2]}, {"layers_to_transform": "0"},
    {"layers_to_transform": [0.0]}, {"layers_to_transform": True}, {"layers_pattern": ["layers"]},
    {"layers_pattern": 3},
]


def refused(model, folder, match=None):
    """import_peft says no, in one sentence that begins with the folder's or file's name, and has changed nothing."""
    before = state(model)
    with pytest.raises(ValueError, match=match) as error:
        import_peft(model, folder)
    assert str(error.value).startswith(str(folder)), "which file is it?"
    assert same(before, state(model)), "the model was changed before all was checked"


@pytest.fixture
def tiny():
    return load_openai(TINY)


@pytest.fixture
def folder(tmp_path):
    """A copy of what PEFT made, three classes, LoRA of rank 3 on attn.c_attn and mlp.c_fc."""
    return shutil.copytree(golden("classes"), tmp_path / "adapter")


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: str(settings)[:50])
def test_settings_that_cannot_be_told_exactly_are_refused(tiny, folder, settings):
    damage(folder, settings=settings)
    refused(tiny, folder)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{}", '{"r": 3}', "[" * 20000, "\x00",
                                  '{"peft_type": "LORA", "r": 3, "r": 4}', '"LORA"', "NaN",
                                  (golden("classes") / "adapter_config.json").read_text("utf-8") + " " * 70000],
                         ids=lambda text: text[:20])
def test_what_is_no_settings_file_is_refused(tiny, folder, text):
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    refused(tiny, folder)


TENSORS = {
    "A missing": (lambda t: t.pop(C_ATTN + "A.weight"), r"c_attn.lora_A.weight.* want \(3, 48\).* has nothing"),
    "left over": (lambda t: t.update({C_ATTN + "A.bias": torch.zeros(3)}), "lora_A.bias.* want nothing"),
    "DoRA's": (lambda t: t.update({C_ATTN[:-5] + "lora_magnitude_vector": torch.zeros(144)}), "magnitude.* want noth"),
    "another block": (lambda t: t.update({C_ATTN.replace("h.1", "h.3") + "A.weight": torch.zeros(3, 48)}),
                      "h.3.attn.* of 3 blocks want nothing"),
    "a changed base": (lambda t: t.update({"base_model.model.transformer.wte.weight": torch.zeros(97, 48)}), "wte"),
    "no prefix": (lambda t: t.update({C_ATTN[17:] + "A.weight": t.pop(C_ATTN + "A.weight")}), "c_attn.lora_A"),
    "misshapen": (lambda t: t.update({C_ATTN + "B.weight": torch.zeros(3, 144)}), r"\(144, 3\).* has \(3, 144\)"),
    "another rank": (lambda t: t.update({C_ATTN + "A.weight": torch.zeros(2, 48)}), r"\(3, 48\).* has \(2, 48\)"),
    "a number": (lambda t: t.update({C_ATTN + "A.weight": torch.tensor(1.0)}), r"has \(\)"),
    "whole numbers": (lambda t: t.update({C_ATTN + "A.weight": torch.zeros(3, 48, dtype=torch.int8)}), "int8"),
    "doubles": (lambda t: t.update({C_ATTN + "A.weight": torch.zeros(3, 48).double()}), "float64"),
    "not a number": (lambda t: t[C_ATTN + "A.weight"].fill_(float("nan")), "c_attn.lora_A.weight .*finite"),
    "infinite": (lambda t: t["base_model.model.score.weight"].fill_(float("inf")), "score.weight .*finite"),
    "no head": (lambda t: t.pop("base_model.model.score.weight"), r"score.weight.* has nothing"),
    "a head of none": (lambda t: t.update({"base_model.model.score.weight": torch.zeros(0, 48)}), "score.weight"),
    "a head of 47": (lambda t: t.update({"base_model.model.score.weight": torch.zeros(3, 47)}), r"\(3, 47\)"),
    "a flat head": (lambda t: t.update({"base_model.model.score.weight": torch.zeros(48)}), "score.weight"),
    "a head with bias": (lambda t: t.update({"base_model.model.score.bias": torch.zeros(3)}), "score.bias"),
    "half a norm": (lambda t: t.pop("base_model.model.transformer.ln_f.bias"), "ln_f.bias.* has nothing"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_are_missing_left_over_or_wrong_are_refused(tiny, folder, kind):
    damage(folder, TENSORS[kind][0])
    refused(tiny, folder, TENSORS[kind][1])


def test_numbers_too_large_for_the_models_type_are_refused(folder):
    damage(folder, lambda tensors: tensors[C_ATTN + "A.weight"].fill_(1e6))
    refused(load_openai(TINY).half(), folder, "too large for torch.float16")


def test_a_trained_norm_of_a_language_model_is_refused(tiny, folder):
    damage(folder, lambda tensors: tensors.pop("base_model.model.score.weight"),
           settings={"task_type": "CAUSAL_LM", "modules_to_save": ["ln_f"]})
    refused(tiny, folder, "ln_f was trained")


def test_a_channel_that_our_norm_silences_cannot_be_made_louder(tiny, folder):
    tiny.final_norm.scale.data[5] = 0.0
    refused(tiny, folder, "multiplies by 0")


def test_a_pickle_is_not_read(tiny, folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    refused(tiny, folder, "pickle, which can run any program")


def test_a_folder_or_file_that_is_not_there_is_an_os_error(tiny, folder):
    before = state(tiny)
    with pytest.raises(FileNotFoundError, match="adapter_config"):
        import_peft(tiny, folder / "nowhere")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        import_peft(tiny, folder)
    assert same(before, state(tiny))


def test_a_model_of_other_sizes_is_refused(folder):
    def model(**sizes):
        config = dict(vocab_size=97, context_length=32, emb_dim=48, n_heads=4, n_layers=3) | sizes
        return GPTModel(GPTConfig(**config), torch.Generator().manual_seed(0))

    refused(model(n_layers=2), folder, "of 2 blocks want nothing")
    refused(model(n_layers=4), folder, r"of 4 blocks want \(3, 48\), the adapter has nothing")
    refused(model(emb_dim=40), folder, r"want \(3, 40\)")


def test_our_own_folder_knows_its_base(small_model, tmp_path):
    export_peft(wearing(small_model), tmp_path / "a", base="small")
    small_model.tok_emb.weight.data[3, 4] += 1
    refused(small_model, tmp_path / "a", "trained on 'small' .*load the same base first")


def change(**values):
    return lambda notes: notes.update(adapter=json.dumps(json.loads(notes["adapter"]) | values))


def change_layer(name="trf_blocks.1.att.W_key", **values):
    def apply(notes):
        adapter = json.loads(notes["adapter"])
        adapter["layers"].setdefault(name, {}).update(values)
        notes["adapter"] = json.dumps(adapter)
    return apply


NOTES = {
    "another bias": change(bias=[0.5, -7]),
    "fewer biases": change(bias=[]),
    "no biases": change(bias=None),
    "a bias that is none": change(bias=["a"]),
    "biases with holes": change(bias=[[1], [2, 3]]),
    "not a number": change(bias=[float("nan"), 0]),
    "a bias too large": change(bias=[10**400, 0]),
    "a list": lambda notes: notes.update(adapter="[]"),
    "no JSON": lambda notes: notes.update(adapter="{"),
    "deep": lambda notes: notes.update(adapter="[" * 20000),
    "one label": change(labels=["ham"]),
    "labels for nobody": change(labels=["ham", 2]),
    "no layers": change(layers={}),
    "layers in a list": change(layers=["trf_blocks.1.att.W_key"]),
    "more than an adapter has": change(program="rm"),
    "another scale": change_layer(alpha=7),
    "another rank": change_layer(rank=3),
    "a rank without end": change_layer(rank=10**12),
    "an A of others": change_layer(shares_a="trf_blocks.1.att.W_query"),
    "an A of another block": change_layer(shares_a="trf_blocks.0.att.W_query"),
    "an A that is a list": change_layer(shares_a=["trf_blocks.0.att.W_query"]),
    "a layer that is not there": change_layer("trf_blocks.7.att.W_key", rank=4, alpha=6, scale="alpha/r"),
    "a place outside": change_layer("../../etc/passwd", rank=4, alpha=6, scale="alpha/r"),
}


@pytest.mark.parametrize("kind", NOTES)
def test_a_header_that_is_not_its_tensors_is_refused(small_model, tmp_path, kind):
    export_peft(wearing(small_model, 2), tmp_path / "a")
    damage(tmp_path / "a", notes=NOTES[kind])
    refused(small_model, tmp_path / "a")


def test_no_pattern_keeps_the_reader_busy(tiny, folder):
    started = time.process_time()
    for pattern in ("(a+)+$", "(.*)*x", "(.|.)" * 30 + "x", ".?" * 40 + "x", ".*" * 12 + "x", "(?:.+.+)+x",
                    "(a|a)+" * 9, "(.{1,9}){1,9}x", ".*.*.*.*x", "(" * 3000,
                    "(?x)([a-z.0-9_]+) +Z", "(?x:(..+) +Z)", "(?ix)(..+) {2}Z"):
        for settings in ({"target_modules": pattern}, {"exclude_modules": pattern}, {"rank_pattern": {pattern: 3}},
                         {"alpha_pattern": {pattern: 3}}, {"alpha_pattern": {f"{pattern}{i}": 3 for i in range(200)}}):
            damage(folder, settings=settings)
            try:
                import_peft(load_openai(TINY) if pattern == ".*.*.*.*x" else tiny, folder)
            except ValueError:
                pass
    assert time.process_time() - started < 20, "a regular expression from a file can take years"


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("name", ["classes", "ours"])
def test_a_damaged_folder_never_stumbles_and_never_leaves_a_changed_model(tmp_path, file, name):
    folder, model, draw = shutil.copytree(golden(name), tmp_path / "a"), load_openai(TINY), random.Random(0)
    whole, before, refusals = (folder / file).read_bytes(), state(model), 0
    head = len(whole) if file.endswith("json") else int.from_bytes(whole[:8], "little") + 8
    for trial in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 8])):
            damaged[draw.randrange(head)] = draw.choice([draw.randrange(256), ord(draw.choice('0123456789[]{}",:-e'))])
        if trial % 5 == 4:
            damaged = damaged[:draw.randrange(len(whole))]
        (folder / file).write_bytes(damaged)
        try:
            import_peft(model, folder)
        except (ValueError, OSError) as error:
            refusals += 1
            assert str(folder) in str(error)
            assert same(before, state(model)), f"damage number {trial} changed the model before it was refused"
        else:
            model = load_openai(TINY)
    assert refusals > 60


# ---- which layers are meant -----------------------------------------------------------------------------------------

def meant(n_layers=3, **settings):
    config = PeftConfig("LORA", **settings)
    return [f"{i}.{kind}" for i in range(n_layers) for kind in LAYERS if config.lora_of(f"transformer.h.{i}.{kind}")]


@pytest.mark.parametrize("settings, expected", [
    ({}, ["0.attn.c_attn", "1.attn.c_attn", "2.attn.c_attn"]),
    ({"target_modules": ["mlp.c_proj"]}, ["0.mlp.c_proj", "1.mlp.c_proj", "2.mlp.c_proj"]),
    ({"target_modules": ["c_proj"], "layers_to_transform": 1}, ["1.attn.c_proj", "1.mlp.c_proj"]),
    ({"target_modules": ["c_proj"], "layers_to_transform": [0, 2], "layers_pattern": "h",
      "exclude_modules": ["mlp.c_proj"]}, ["0.attn.c_proj", "2.attn.c_proj"]),
    ({"target_modules": ["proj", "attn"]}, []),
    ({"target_modules": ["transformer.h.1.mlp.c_fc"]}, ["1.mlp.c_fc"]),
    ({"target_modules": r".*\.h\.[12]\.(attn|mlp)\.c_(attn|fc)"},
     ["1.attn.c_attn", "1.mlp.c_fc", "2.attn.c_attn", "2.mlp.c_fc"]),
    ({"target_modules": r"h\.1\..*"}, []),    # must fit all of the name
    ({"target_modules": "All-Linear", "exclude_modules": r".*\.(0|2)\..*"}, [f"1.{kind}" for kind in LAYERS]),
])
def test_targets_mean_the_layers_that_peft_means(settings, expected):
    assert meant(**settings) == expected


def test_the_first_pattern_that_fits_gives_rank_and_alpha():
    config = PeftConfig("LORA", target_modules="all-linear", r=4, lora_alpha=5, use_rslora=True,
                        rank_pattern={"c_proj": 1, "mlp.c_proj": 2, r"^transformer\.h\.1\.attn\.c_attn$": 3},
                        alpha_pattern={r"h\.1\..*": 0.5})
    found = [config.lora_of(f"transformer.h.{name}") for name in ("0.attn.c_attn", "1.attn.c_attn", "1.mlp.c_proj")]
    assert found == [(4, 5), (3, 0.5), (1, 0.5)]
    assert config.rule == "alpha/sqrt(r)" and LoRALayer(3, 3, 4, 5, scale=config.rule).scale == 2.5


def test_a_bias_in_the_header_that_is_not_finite_is_refused(small_model, tmp_path):
    export_peft(wearing(small_model, 2), tmp_path / "a")
    damage(tmp_path / "a", notes=lambda notes: notes.update(
        adapter=json.dumps(json.loads(notes["adapter"]) | {"bias": [math.inf, 0.0]})))
    refused(small_model, tmp_path / "a")


def test_a_score_without_axes_is_refused(small_model, tmp_path):
    export_peft(wearing(small_model, 2), tmp_path / "a")
    damage(tmp_path / "a", tensors=lambda tensors: tensors.update(
        {"base_model.model.score.weight": torch.tensor(1.0)}))
    refused(small_model, tmp_path / "a")


def test_the_base_is_named_where_it_is_openais_and_nowhere_else(small_model, tmp_path):
    export_peft(wearing(small_model), tmp_path / "a")
    settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["base_model_name_or_path"] is None, "PEFT would fetch a model of other sizes"
    assert OPENAI.keys() == {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}
    assert OPENAI["gpt2"] == GPT2_SIZES["gpt2-small (124M)"]
    export_peft(wearing(small_model), tmp_path / "b", base="folder/base")
    settings = json.loads((tmp_path / "b" / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["base_model_name_or_path"] == "folder/base"


def test_a_layer_that_is_named_in_full_needs_no_number():
    """PEFT: layers_to_transform counts only for targets that are named by their last part."""
    named = ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]
    config = PeftConfig(peft_type="LORA", r=2, lora_alpha=2, target_modules=named, layers_to_transform=[0])
    assert all(config.lora_of(name) for name in named)
