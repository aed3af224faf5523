"""gpt/interop/peft.py: PEFT's answers (golden files), our adapters there and back, and what is refused.

The golden files were made by the real libraries (tests/fixtures/write_peft.py); tests/peers asks the libraries
themselves. The header of peft_tiny_ours is that of an older version, which said more.
"""

import copy
import json
import math
import random
import shutil
import time

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file, save_file
from test_adapters import same, state

from gpt.adapters import fingerprint, is_tied, remove_adapter, save_adapter
from gpt.classify import class_logits, swap_head
from gpt.config import GPT2_SIZES, GPTConfig
from gpt.interop.peft import OPENAI, Part, export_peft, import_peft, lora_of, pack, read_settings, unpack
from gpt.lora import LinearWithLoRA, lora_layers, merge_lora, replace_linear_with_lora
from gpt.model import GPTModel
from gpt.storage.files import read_safetensors
from gpt.weights import load_openai

GOLDEN = {"text": [], "classes": ["LABEL_0", "LABEL_1", "LABEL_2"], "ours": ["ham", "spam"]}    # peft_tiny_<name>
LAYERS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def golden(name):
    return TINY.with_name(f"peft_tiny_{name}")


@pytest.fixture
def tiny():
    return load_openai(TINY)


@pytest.fixture
def folder(tmp_path):
    """A copy of what PEFT made, three classes, LoRA of rank 3 on attn.c_attn and mlp.c_fc."""
    return shutil.copytree(golden("classes"), tmp_path / "adapter")


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
        other = LinearWithLoRA(layer.linear, 1 + i % 5, 4 * (1 + i % 5))    # of the same scale, 4
        other.lora.B.data.normal_(0.0, 0.3)
        model.set_submodule(name, layer.linear if i % 4 == 3 else other)
    return model


def other_scale_for_the_key(base):
    model = wearing(base)
    for name, layer in list(lora_layers(model)):
        if name.endswith("W_key"):
            other = LinearWithLoRA(layer.linear, 2, 7, scale="alpha/sqrt(r)")
            other.lora.B.data.normal_(0.0, 0.3)
            model.set_submodule(name, other)
    return model


OURS = {
    "all linear layers": wearing,
    "query and value": lambda base: wearing(base, targets=["W_query", "W_value"]),
    "key alone": lambda base: wearing(base, targets=["W_key"]),
    "one A for query and value": lambda base: wearing(base, share_a=True, targets=["W_query", "W_value"]),
    "alpha/sqrt(r)": lambda base: wearing(base, scale="alpha/sqrt(r)", rank=3),
    "unscaled alpha": lambda base: wearing(base, scale="alpha", alpha=0.7),
    "other in each layer": other_in_each_layer,
    "dropout": lambda base: wearing(base, dropout=0.25),
    "classes, one A": lambda base: wearing(base, K=3, share_a=True),
}
ANSWERS_ONLY = {    # what comes back has other A's and B's, and says the same
    "other scale for the key": other_scale_for_the_key,
    "not trained yet": lambda base: wearing(base, fresh=True),
    "classes, not trained yet": lambda base: wearing(base, K=2, fresh=True),
}


@torch.no_grad()
def answers(model, ids=torch.arange(14).view(2, 7)):
    """The answers for some tokens: of a classifier those at the last one."""
    return model(ids) if is_tied(model) else class_logits(model, ids)


def assert_close(one, other):
    assert (one - other).abs().max() <= 1e-5 * other.abs().max(), "the logits differ by more than rounding"


def damage(folder, tensors=None, settings=None, notes=None):
    """Change a folder in place, as one without a checksum: tensors and header by functions, settings by a dict."""
    file = folder / "adapter_model.safetensors"
    found, header = read_safetensors(file)
    if "adapter" in header:
        in_header(lambda notes: notes.pop("sha256", None))(header)
    for change, what in ((tensors, found), (notes, header)):
        if change:
            change(what)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, file, header)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | (settings or {})), encoding="utf-8")


# ---- PEFT's own answers ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", GOLDEN)
def test_our_model_answers_with_a_folder_of_peft_as_peft_did(tiny, name):
    oracle, base = np.load(golden(name) / "oracle.npz"), dict(load_openai(TINY).named_parameters())
    labels = import_peft(tiny, golden(name))
    assert labels == GOLDEN[name]
    assert_close(answers(tiny, torch.from_numpy(oracle["tokens"])), torch.from_numpy(oracle["logits"]))
    weights = {n.replace(".linear.", "."): p for n, p in tiny.named_parameters() if ".lora." not in n}
    changed = [n for n, p in base.items() if not torch.equal(p, weights[n])]
    assert not changed, "the trained final norm belongs into the head: it is the base's, whatever adapter is worn"


def test_what_peft_has_read_is_what_we_write_today(tiny, tmp_path):
    labels = import_peft(tiny, golden("ours"))
    export_peft(tiny, tmp_path / "again", base="tiny", labels=labels)
    (old, _), (new, header) = (read_safetensors(folder / "adapter_model.safetensors")
                               for folder in (golden("ours"), tmp_path / "again"))
    assert old.keys() == new.keys(), "PEFT was shown other tensors"
    for name in old:
        assert torch.allclose(old[name], new[name], atol=1e-6), f"{name} is not what PEFT was shown"
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text(encoding="utf-8")) == json.loads(
        (golden("ours") / "adapter_config.json").read_text(encoding="utf-8")), "other settings than PEFT was shown"
    notes = {"base": "tiny", "labels": ["ham", "spam"], "fingerprint": fingerprint(tiny)}
    assert notes.items() <= json.loads(header["adapter"]).items()


def test_query_key_and_value_of_a_peft_adapter_share_one_A_and_train_on_together(tiny):
    import_peft(tiny, golden("classes"))
    loras = [getattr(tiny.trf_blocks[1].att, f"W_{which}").lora for which in ("query", "key", "value")]
    assert len({id(lora.A) for lora in loras}) == 1, "c_attn has one lora_A; three copies would train apart"
    training = {name for name, p in tiny.named_parameters() if p.requires_grad}
    assert "out_head.weight" in training and "trf_blocks.0.att.W_query.lora.A" in training
    assert all(".lora." in name or name.startswith("out_head") for name in training), "the base must stay frozen"


def test_alpha_and_its_rule_stay_those_of_peft(tiny):
    import_peft(tiny, golden("text"))
    loras = {name: (lora.lora.rank, lora.lora.alpha, lora.lora.rule) for name, lora in lora_layers(tiny)}
    assert loras["trf_blocks.0.att.W_key"] == (4, 6, "alpha/sqrt(r)")
    assert loras["trf_blocks.1.att.W_key"] == (2, 6, "alpha/sqrt(r)")
    assert loras["trf_blocks.2.ff.layers.2"] == (3, 5, "alpha/sqrt(r)")


# ---- there and back -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", OURS | ANSWERS_ONLY)
def test_our_adapter_answers_the_same_after_the_way_there_and_back(small_model, tmp_path, kind):
    model = (OURS | ANSWERS_ONLY)[kind](small_model)
    expected = answers(model)
    export_peft(model, tmp_path / "a")
    import_peft(small_model, tmp_path / "a")
    assert_close(answers(small_model), expected)


@pytest.mark.parametrize("kind", OURS)
def test_A_and_B_come_back_with_rank_scale_dropout_and_what_they_share(small_model, tmp_path, kind):
    model = OURS[kind](small_model)
    export_peft(model, tmp_path / "a")
    import_peft(small_model, tmp_path / "a")
    owners = [], []
    for (name, old), (its, new) in zip(lora_layers(model), lora_layers(small_model), strict=True):
        assert name == its and torch.equal(old.lora.A, new.lora.A) and torch.equal(old.lora.B, new.lora.B)
        assert new.lora.scale == pytest.approx(old.lora.scale), name
        assert new.lora.dropout.p == old.lora.dropout.p
        for layer, found in zip((old, new), owners, strict=True):
            found.append(id(layer.lora.A))
    assert [owners[0].index(A) for A in owners[0]] == [owners[1].index(A) for A in owners[1]], "other layers share an A"


def test_merging_before_writing_changes_no_byte_of_the_folder(small_model, tmp_path):
    model = wearing(small_model, 2)
    export_peft(model, tmp_path / "plain")
    merge_lora(model)
    before = state(model)
    export_peft(model, tmp_path / "merged")
    assert same(before, state(model)), "writing unmerged, moved or froze the model"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes(), "merged: " + name


def test_an_adapter_that_is_worn_is_taken_off_first(small_model, tmp_path):
    model, other = wearing(small_model, seed=1), wearing(small_model, K=2, seed=2)
    merge_lora(other)
    export_peft(model, tmp_path / "a")
    import_peft(other, tmp_path / "a")
    assert_close(answers(other), answers(model))


def test_importing_draws_from_no_generator_of_others(tiny):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    import_peft(tiny, golden("ours"))
    assert torch.equal(before, torch.get_rng_state()), "it changes the course of whatever draws afterwards"


def test_a_head_with_a_lora_goes_out_as_the_sum(small_model, tmp_path):
    model = copy.deepcopy(small_model).requires_grad_(False)
    swap_head(model, 2, zero=False)
    replace_linear_with_lora(model, 3, 5)
    for _, layer in lora_layers(model):
        layer.lora.B.data.normal_(0.0, 0.3)
    expected = answers(model)
    export_peft(model, tmp_path / "plain")
    merge_lora(model)
    export_peft(model, tmp_path / "merged")
    for name in ("plain", "merged"):
        import_peft(small_model, tmp_path / name)
        assert_close(answers(small_model), expected)


def test_numbers_of_another_type_become_the_models(small_model, tmp_path):
    model = wearing(small_model, targets=["out_proj"])
    export_peft(model, tmp_path / "a")
    damage(tmp_path / "a", lambda tensors: tensors.update({n: t.bfloat16() for n, t in tensors.items()}))
    import_peft(small_model, tmp_path / "a")
    for (_, old), (_, new) in zip(lora_layers(model), lora_layers(small_model), strict=True):
        assert torch.equal(new.lora.B, old.lora.B.bfloat16().float()) and new.lora.B.dtype == torch.float32


# ---- the layout -----------------------------------------------------------------------------------------------------

def part(r, size_in=6, out=5, alpha=3.0, rule="alpha/r", A=None):
    return Part(torch.randn(size_in, r) if A is None else A, torch.randn(r, out), alpha, rule)


def by_hand(parts, out=5):
    """What all of c_attn adds to x W, (in, 3 out): scale A B of each part, side by side, zeros for none."""
    return torch.cat([torch.zeros(6, out) if p is None else p.scale * (p.A @ p.B) for p in parts], dim=1)


A4 = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.exercise("E7.8")
@pytest.mark.parametrize("parts, columns", [
    ([part(4), part(2), part(3, alpha=4.5)], [(0, 4), (4, 6), (6, 9)]),
    ([part(4), None, part(1)], [(0, 4), None, (4, 5)]),
    ([None, part(2), None], [None, (0, 2), None]),
    ([part(4, A=A4), part(4, A=A4.clone()), part(4, A=A4)], [(0, 4)] * 3),
    ([part(4, A=A4), None, part(4, A=A4)], [(0, 4), None, (0, 4)]),
    ([part(4, A=A4), part(2), part(4, A=A4)], [(0, 4), (4, 6), (0, 4)]),
    ([part(4, alpha=8.0), part(2, alpha=1.0), part(3, rule="alpha/sqrt(r)")], [(0, 4), (4, 6), (6, 9)]),
    ([part(4, alpha=0.0), part(2, alpha=0.0), None], [(0, 4), (4, 6), None]),
    ([part(4, alpha=0.0), part(2, alpha=1.0), None], [(0, 4), (4, 6), None]),
    ([part(4, alpha=-8.0), part(2, alpha=1.0), None], [(0, 4), (4, 6), None]),
])
def test_the_packed_update_adds_what_its_parts_add(parts, columns):
    packed, found = pack(parts)
    update = packed.scale * (packed.B @ packed.A).T
    assert torch.allclose(update, by_hand(parts), atol=1e-5), "rows, columns, scale or transposition of c_attn is wrong"
    assert len(packed.A) == max(end for _, end in filter(None, columns)), "equal A's must be there once, others each"
    assert [its and (its.start, its.stop) for its in found] == columns, "these are not the columns of the parts"
    assert torch.allclose(by_hand(unpack(packed, 3)), by_hand(parts), atol=1e-5), "unpack is not the inverse"


@pytest.mark.exercise("E7.8")
def test_zeros_in_lora_B_tell_parts_apart():
    parts = [part(4), None, part(3, alpha=2.25)]    # the same scale
    back = unpack(pack(parts)[0], 3)
    assert back[1] is None, "the key had no LoRA"
    for old, new in zip(parts[::2], back[::2], strict=True):
        assert torch.equal(old.A, new.A) and torch.equal(old.B, new.B) and new.scale == pytest.approx(old.scale)


def test_a_rank_that_was_filled_up_with_zeros_is_what_it_was_before():
    """Older versions made R larger until alpha / R was the scale to the last bit."""
    parts = [part(4), part(2, alpha=1.5), None]
    packed, _ = pack(parts)
    longer = packed._replace(A=torch.cat([packed.A, torch.zeros(1, 6)]), alpha=packed.alpha * 7 / 6,
                             B=torch.cat([packed.B, torch.zeros(15, 1)], dim=1))
    back = unpack(longer, 3)
    assert [len(new.B) for new in back[:2]] == [4, 2] and torch.allclose(by_hand(back), by_hand(parts), atol=1e-5)


@pytest.mark.exercise("E7.8")
def test_a_part_of_another_scale_takes_the_ratio_into_its_B():
    parts = [part(4, alpha=6.0), part(2, alpha=0.75), None]    # scales 1.5 and 0.375
    back = unpack(pack(parts)[0], 3)
    assert torch.allclose(back[1].B * back[1].scale, parts[1].B * parts[1].scale), "B must take up 1/4"
    assert torch.equal(back[0].B, parts[0].B) and back[0].scale == 1.5, "the largest scale is that of all"
    packed, _ = pack([part(4, alpha=-6.0), part(2, alpha=0.75), None])
    assert packed.alpha / len(packed.A) == -1.5, "largest in size, whatever its sign: no B becomes larger then"


def test_an_update_that_was_not_trained_stays_whole():
    q, k, v = unpack(pack([part(4)._replace(B=torch.zeros(4, 5))] * 3)[0], 3)
    assert q.B.shape == (4, 5) and q.A is k.A is v.A, "zeros tell nothing apart where all of B is zero"
    one = part(4)
    one.B[2] = 0.0
    assert unpack(pack([one])[0], 1)[0].B.shape == (4, 5), "a layer of one part keeps its rank, whatever is zero"


# ---- the head -------------------------------------------------------------------------------------------------------

def test_the_bias_of_the_head_is_in_the_final_norm_of_the_file(small_model, tmp_path):
    small_model.final_norm.shift.data.normal_(0.0, 0.5)
    model = wearing(small_model, 3)
    export_peft(model, tmp_path / "a")
    file = load_file(tmp_path / "a" / "adapter_model.safetensors")
    z, W = model.hidden(torch.arange(7)[None]), file["base_model.model.score.weight"]
    moved = z + file["base_model.model.transformer.ln_f.bias"] - model.final_norm.shift
    assert_close(moved @ W.T, model.out_head(z))
    settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["modules_to_save"] == ["score", "ln_f"] and settings["task_type"] == "SEQ_CLS"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bias_of_a_head_comes_back_from_the_final_norm(tmp_path, dtype):
    base = load_openai(TINY).to(dtype)    # its final norm has a shift, in which a small bias drowns
    model, other = wearing(base, K=5), copy.deepcopy(base)
    model.out_head.bias.data *= 0.01
    export_peft(model, tmp_path / "a")
    import_peft(other, tmp_path / "a")
    # what float32 leaves of a bias that was added to a shift
    rounding = 1e-6 * (model.out_head.weight.abs() @ base.final_norm.shift.abs()).max()
    away = (other.out_head.bias - model.out_head.bias).abs().max()
    assert away <= rounding + torch.finfo(dtype).eps * model.out_head.bias.abs().max(), "it was rounded to the shift"
    assert torch.equal(other.final_norm.shift, base.final_norm.shift)


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
    assert_close(answers(small_model), answers(model))


# ---- what is refused when writing -----------------------------------------------------------------------------------

@pytest.mark.parametrize("labels", [["ham"], ["ham", "spam", "eggs"], [0, 1], ["ham", None]])
def test_labels_that_do_not_fit_are_refused(small_model, tmp_path, labels):
    for K in (2, 0):
        with pytest.raises(ValueError, match="a was not written: .*label"):
            export_peft(wearing(small_model, K), tmp_path / "a", labels=labels)
    assert not list(tmp_path.iterdir())


def test_what_the_folder_would_lose_is_refused(small_model, tmp_path):
    def refused(match, change):
        model = wearing(small_model)
        change(model)
        with pytest.raises(ValueError, match=f"a was not written: .*{match}"):
            export_peft(model, tmp_path / "a")
        assert not list(tmp_path.iterdir())

    lora = "trf_blocks.1.ff.layers.0.lora"
    refused("pos_emb", lambda model: model.pos_emb.requires_grad_(True))
    refused("final_norm.extra", lambda model: setattr(
        model.final_norm, "extra", LinearWithLoRA(torch.nn.Linear(3, 3).requires_grad_(False), 1, 1)))
    refused("dropout", lambda model: setattr(model.trf_blocks[0].att.W_key.lora.dropout, "p", 0.5))
    refused("c_fc.lora_B.* finite", lambda model: model.get_parameter(f"{lora}.B").data.fill_(float("nan")))
    refused("finite", lambda model: setattr(model.get_submodule(lora), "alpha", float("nan")))
    refused("alpha", lambda model: setattr(model.get_submodule(lora), "alpha", 1e308))
    with pytest.raises(ValueError, match="a was not written: .*LoRA"):
        export_peft(small_model.requires_grad_(False), tmp_path / "a")


def test_a_folder_of_other_things_is_not_overwritten_and_an_older_adapter_is(small_model, tmp_path):
    export_peft(wearing(small_model, seed=1), tmp_path / "a")
    export_peft(wearing(small_model, seed=2), tmp_path / "a")
    import_peft(small_model, tmp_path / "a")
    base = copy.deepcopy(small_model)
    remove_adapter(base)
    assert_close(answers(small_model), answers(wearing(base, seed=2)))
    (tmp_path / "a" / "thesis.txt").write_text("ten years", encoding="utf-8")
    with pytest.raises(FileExistsError, match="thesis.txt"):
        export_peft(small_model, tmp_path / "a")
    assert (tmp_path / "a" / "thesis.txt").exists() and (tmp_path / "a" / "adapter_config.json").exists()


def test_the_base_is_named_where_it_is_openais_and_nowhere_else(small_model, tmp_path):
    for base in (None, "folder/base"):
        export_peft(wearing(small_model), tmp_path / "a", base=base)
        settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8"))
        assert settings["base_model_name_or_path"] == base, "PEFT would fetch a model of other sizes"
    assert OPENAI.keys() == {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}
    assert OPENAI["gpt2"] == GPT2_SIZES["gpt2-small (124M)"]


# ---- what is refused when reading -----------------------------------------------------------------------------------

def refused(model, folder, match=None):
    """import_peft says no, in one sentence that begins with the folder's or file's name, and has changed nothing."""
    before = state(model)
    with pytest.raises(ValueError, match=match) as error:
        import_peft(model, folder)
    assert str(error.value).startswith(str(folder)), "which file is it?"
    assert same(before, state(model)), "the model was changed before all was checked"


WRONG = {    # what PEFT's settings may say, and we do not take
    "peft_type": ["IA3", None, ["LORA"]],
    "task_type": ["TOKEN_CLS", 3],
    "r": [0, -1, 2.0, True, "3", None, 10**400],
    "lora_alpha": [math.nan, math.inf, 10**400, "7", True, None, [7]],
    "lora_dropout": [1, -0.1, math.nan, None],
    "use_rslora": [1, "no"],
    "bias": ["some", True, None],
    "init_lora_weights": ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", None, [True], "new"],
    "target_modules": [3, {"c_attn": 1}, [3]],
    "exclude_modules": [0.5],
    "layers_to_transform": ["0", [0.0], True],
    "layers_pattern": [["layers"], 3],
    "modules_to_save": [["wpe"], ["c_attn"], "score", [["score"]], ["h.0.ln_3"], ["h.0.attn"]],
    "rank_pattern": [None, [], {"c_attn": 0}],
    "alpha_pattern": [None, {"c_attn": None}, {"c_attn": math.nan}, {f"h.{i}": 1 for i in range(300)}],
    "use_dora": [True],
    "lora_bias": [True],
    "layer_replication": [[[0, 2]]],
    "trainable_token_indices": [[3]],
    "target_parameters": [["transformer.wte.weight"]],
    "a_setting_of_next_year": [0.5, {"a": 1}],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_setting_that_would_change_the_answers_is_refused_by_its_name(tiny, folder, name):
    for value in WRONG[name]:
        damage(folder, settings={name: value})
        refused(tiny, folder, f"adapter_config.json: {name} is ")


@pytest.mark.parametrize("settings", [
    {"r": 10**9}, {"target_modules": []}, {"target_modules": ["c_attn"]}, {"exclude_modules": ".*"},
    {"target_modules": ["c_attn", "c_fc", "c_proj"]}, {"layers_to_transform": [0, 2]}, {"rank_pattern": {"c_attn": 7}},
    {"modules_to_save": ["score"]},
], ids=str)
def test_settings_that_are_not_those_of_the_tensors_are_refused(tiny, folder, settings):
    damage(folder, settings=settings)
    refused(tiny, folder, "adapter_model.safetensors: ")


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{}", '{"r": 3}', "[" * 20000, "\x00",
                                  '"LORA"', "NaN"],
                         ids=lambda text: text[:20])
def test_what_is_no_settings_file_is_refused(tiny, folder, text):
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    refused(tiny, folder)


PATTERNS = ["(a+)+$", "(.*)*x", "(?:.+.+)+x", "(.{1,9}){1,9}x", "(?x)([a-z.0-9_]+) +Z", "(?ix)(..+) {2}Z",    # nested
            "(.|.)" * 30 + "x", ".?" * 40 + "x", ".*" * 12 + "x",                                         # too many
            "x" * 121, "(" * 3000,                                                                          # too long
            "(", "[", "*c_attn"]                                                           # no regular expressions


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern[:20])
def test_a_pattern_that_may_take_years_or_is_none_is_refused(tiny, folder, pattern):
    for settings in ({"target_modules": pattern}, {"exclude_modules": pattern}, {"rank_pattern": {pattern: 3}},
                     {"alpha_pattern": {pattern: 3}}):
        damage(shutil.copytree(golden("classes"), folder, dirs_exist_ok=True), settings=settings)
        refused(tiny, folder, "adapter_config.json: the pattern ")


def test_a_pattern_that_is_taken_is_quick(tiny, folder):
    started = time.process_time()
    for pattern in (".*.*.*.*x", ".?.?.?.?x", "(" + "|" * 26 + ")" + ("(" + "|" * 26 + ")") * 3 + "x"):
        damage(folder, settings={"alpha_pattern": {pattern: 3}})
        import_peft(tiny, folder)
    assert time.process_time() - started < 20, "a regular expression from a file can take years"


C_ATTN = "base_model.model.transformer.h.1.attn.c_attn.lora_"
TENSORS = {
    "A missing": (lambda t: t.pop(C_ATTN + "A.weight"), r"c_attn.lora_A.weight: the model wants \(3, 48\).* has none"),
    "left over": (lambda t: t.update({C_ATTN + "A.bias": torch.zeros(3)}), "lora_A.bias: the model wants no such"),
    "DoRA's": (lambda t: t.update({C_ATTN[:-5] + "lora_magnitude_vector": torch.zeros(144)}), "magnitude_vector"),
    "another block": (lambda t: t.update({C_ATTN.replace("h.1", "h.3") + "A.weight": torch.zeros(3, 48)}), "h.3.attn"),
    "no prefix": (lambda t: t.update({C_ATTN[17:] + "A.weight": t.pop(C_ATTN + "A.weight")}), "c_attn.lora_A"),
    "misshapen": (lambda t: t.update({C_ATTN + "B.weight": torch.zeros(3, 144)}), r"\(144, 3\).* has \(3, 144\)"),
    "a number": (lambda t: t.update({C_ATTN + "A.weight": torch.tensor(1.0)}), r"has \(\)"),
    "whole numbers": (lambda t: t.update({C_ATTN + "A.weight": torch.zeros(3, 48, dtype=torch.int8)}), "int8"),
    "not a number": (lambda t: t[C_ATTN + "A.weight"].fill_(float("nan")), "c_attn.lora_A.weight .*finite"),
    "infinite": (lambda t: t["base_model.model.score.weight"].fill_(float("inf")), "score.weight .*finite"),
    "no head": (lambda t: t.pop("base_model.model.score.weight"), "score.weight.* has none"),
    "a head of none": (lambda t: t.update({"base_model.model.score.weight": torch.zeros(0, 48)}), "score.weight"),
    "a head without axes": (lambda t: t.update({"base_model.model.score.weight": torch.tensor(1.0)}), "score.weight"),
    "a head with bias": (lambda t: t.update({"base_model.model.score.bias": torch.zeros(3)}), "score.bias"),
    "half a norm": (lambda t: t.pop("base_model.model.transformer.ln_f.bias"), "ln_f.bias.* has none"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_are_missing_left_over_or_wrong_are_refused(tiny, folder, kind):
    damage(folder, TENSORS[kind][0])
    refused(tiny, folder, TENSORS[kind][1])


def test_numbers_too_large_for_the_models_type_are_refused(tmp_path):
    for name, value in ((C_ATTN + "A.weight", 1e6), ("base_model.model.transformer.ln_f.weight", 1e7)):
        folder = shutil.copytree(golden("classes"), tmp_path / name)
        damage(folder, lambda tensors: tensors[name].fill_(value))
        refused(load_openai(TINY).half(), folder, "too large for torch.float16")


def test_a_trained_norm_of_a_language_model_takes_the_place_of_the_bases_until_the_adapter_is_off(tiny, folder):
    damage(folder, lambda tensors: tensors.pop("base_model.model.score.weight"),
           settings={"task_type": "CAUSAL_LM", "modules_to_save": ["ln_f"]})
    before, base, theirs = copy.deepcopy(tiny), fingerprint(tiny), read_safetensors(folder / "adapter_model.safetensors")[0]
    import_peft(tiny, folder)
    assert torch.equal(tiny.final_norm.scale, theirs["base_model.model.transformer.ln_f.weight"])
    assert fingerprint(tiny) == base, "the fingerprint is that of the base below"
    for save in (lambda: save_adapter(tiny, folder / "new", base="tiny"), lambda: export_peft(tiny, folder / "new")):
        with pytest.raises(ValueError, match="final_norm.scale"):
            save()
    remove_adapter(tiny)
    assert same(state(before.requires_grad_(False)), state(tiny)), "the base is no longer what it was"


def with_biases(tensors, which, C=48):
    """What PEFT saves with bias="all" or "lora_only"; LoRA layers have a base_layer in their names."""
    widths = {"attn.c_attn.base_layer": 3 * C, "mlp.c_fc.base_layer": 4 * C}
    if which == "all":
        widths |= {"ln_1": C, "attn.c_proj": C, "ln_2": C, "mlp.c_proj": C}
    tensors |= {f"base_model.model.transformer.h.{i}.{name}.bias": torch.full((n,), 0.01 * i)
                for i in range(3) for name, n in widths.items()}


@pytest.mark.parametrize("which", ["all", "lora_only"])
def test_biases_that_were_trained_are_taken_where_the_model_has_them(tiny, folder, which):
    base = tiny.trf_blocks[1].norm1.shift.clone()
    damage(folder, lambda tensors: with_biases(tensors, which), settings={"bias": which})
    import_peft(tiny, folder)
    block = tiny.trf_blocks[2]
    assert (block.att.W_value.linear.bias == 0.02).all() and (block.ff.layers[0].linear.bias == 0.02).all()
    assert torch.equal(tiny.trf_blocks[1].norm1.shift, base) is (which == "lora_only")
    remove_adapter(tiny)
    assert all(torch.equal(p, q) for p, q in zip(tiny.parameters(), load_openai(TINY).parameters(), strict=True))
    without = GPTModel(GPTConfig(97, 32, 48, 4, 3, qkv_bias=False))
    refused(without, folder, "query, key and value of this model have none")


def test_norms_of_the_blocks_that_were_trained_are_taken(tiny, folder):
    norms = {f"base_model.model.transformer.h.{i}.ln_1.{part}": torch.full((48,), 1.0 + i)
             for i in range(3) for part in ("weight", "bias")}
    damage(folder, lambda tensors: tensors.update(norms), settings={"modules_to_save": ["ln_f", "ln_1", "score"]})
    import_peft(tiny, folder)
    assert (tiny.trf_blocks[2].norm1.scale == 3).all() and (tiny.trf_blocks[2].norm1.shift == 3).all()
    assert torch.equal(tiny.final_norm.scale, load_openai(TINY).final_norm.scale), "a classifier's goes into its head"


@pytest.mark.parametrize("more", [0, 1, 7])
def test_an_embedding_that_was_only_carried_along_is_no_obstacle(tiny, folder, more):
    """Whoever adds a [PAD] token gets the whole embedding into the file, though only LoRA was trained."""
    expected = copy.deepcopy(tiny)
    import_peft(expected, folder)
    wte = torch.cat([tiny.tok_emb.weight.detach(), torch.randn(more, 48)])
    names = ["base_model.model.transformer.wte.weight", "base_model.model.lm_head.weight"]
    damage(folder, lambda tensors: tensors.update({name: wte.clone() for name in names}))
    import_peft(tiny, folder)
    assert torch.equal(answers(tiny), answers(expected))
    for name in names:
        damage(folder, lambda tensors: tensors.update({name: wte + (torch.arange(len(wte)) == 3)[:, None]}))
        refused(tiny, folder, f"{name.removeprefix('base_model.model.')} has other numbers than this model's embedding")
        damage(folder, lambda tensors: tensors.update({name: wte}))


def test_what_is_refused_comes_with_the_way_out(tiny, folder):
    damage(folder, settings={"use_dora": True})
    refused(tiny, folder, "use_dora is True, .*merge_and_unload, then save_pretrained, and load")


def test_a_byte_order_mark_is_no_part_of_the_settings(tiny, folder):
    file = folder / "adapter_config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert import_peft(tiny, folder) == GOLDEN["classes"]


def test_of_a_thousand_damaged_folders_none_is_taken_with_other_numbers(tiny, tmp_path):
    export_peft(wearing(tiny, 2), tmp_path / "a", base="tiny", labels=["ham", "spam"])
    import_peft(tiny, tmp_path / "a")
    right = {name: p.clone() for name, p in tiny.named_parameters()}
    whole, draw, taken = {file: file.read_bytes() for file in (tmp_path / "a").iterdir()}, random.Random(0), 0
    for number in range(1000):
        file, content = list(whole.items())[number % 2]
        damaged = bytearray(content)
        end = 8 + int.from_bytes(content[:8], "little") if file.suffix == ".safetensors" and number % 3 else len(content)
        for _ in range(draw.choice((1, 1, 1, 2, 20))):
            place = draw.randrange(end)
            damaged[place] = draw.choice((damaged[place] ^ 1 << draw.randrange(8), draw.randrange(256)))
        file.write_bytes(damaged)
        try:
            assert import_peft(tiny, tmp_path / "a") == ["ham", "spam"]
            taken += 1
            assert all(torch.equal(p, right[name]) for name, p in tiny.named_parameters()), "other numbers, and no word"
        except (ValueError, OSError):
            pass
        file.write_bytes(content)
    assert taken < 200, "a damaged folder can be taken only where the damage means nothing"


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
    for sizes, match in (({"n_layers": 2}, "h.2.* wants no such tensor"), ({"n_layers": 4}, r"h.3.* wants \(3, 48\)"),
                         ({"emb_dim": 40}, r"wants \(3, 40\), the file has \(3, 48\)")):
        config = dict(vocab_size=97, context_length=32, emb_dim=48, n_heads=4, n_layers=3) | sizes
        refused(GPTModel(GPTConfig(**config), torch.Generator().manual_seed(0)), folder, match)


def test_our_own_folder_knows_its_base(small_model, tmp_path):
    export_peft(wearing(small_model), tmp_path / "a", base="small")
    small_model.tok_emb.weight.data[3, 4] += 1
    refused(small_model, tmp_path / "a", "trained on 'small' .*load the same base first")


def in_header(change):
    def apply(header):
        notes = json.loads(header["adapter"])
        change(notes)
        header["adapter"] = json.dumps(notes)
    return apply


@pytest.mark.parametrize("notes", [
    lambda header: header.update(adapter="[]"),
    lambda header: header.update(adapter="{"),
    lambda header: header.update(adapter="[" * 20000),
    in_header(lambda notes: notes.pop("fingerprint")),
    in_header(lambda notes: notes.update(labels=["ham"])),
    in_header(lambda notes: notes.update(labels=["ham", 2])),
    in_header(lambda notes: notes.update(labels=2)),
])
def test_a_header_that_is_not_its_tensors_is_refused(small_model, tmp_path, notes):
    export_peft(wearing(small_model, 2), tmp_path / "a")
    damage(tmp_path / "a", notes=notes)
    refused(small_model, tmp_path / "a", "adapter_model.safetensors: ")


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_that_was_cut_or_changed_never_leaves_a_changed_model(tmp_path, file):
    folder, model = shutil.copytree(golden("ours"), tmp_path / "a"), load_openai(TINY)
    whole, before, refusals = (folder / file).read_bytes(), state(model), 0
    head = len(whole) if file.endswith("json") else int.from_bytes(whole[:8], "little") + 8
    damaged = [whole[:end] for end in (0, 1, 7, 8, head // 2, head - 1, len(whole) - 1)]
    for i, byte in enumerate(b"09-e.,:[]{}\"\x00\xff" * 2):
        place = head * (2 * i + 1) // 60
        damaged.append(whole[:place] + bytes([byte]) + whole[place + 1:])
    for content in damaged:
        (folder / file).write_bytes(content)
        try:
            import_peft(model, folder)
        except ValueError as error:
            refusals += 1
            assert str(error).startswith(str(folder))
            assert same(before, state(model)), "the model was changed before the file was refused"
        else:
            model = load_openai(TINY)    # what was changed was a name that does not matter, or a digit
    assert refusals > 20


# ---- which layers are meant -----------------------------------------------------------------------------------------

def settings_with(folder, **settings):
    """PEFT's defaults, these settings and nothing else, as they are read."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA"} | settings), encoding="utf-8")
    return read_settings(file)


@pytest.mark.parametrize("settings, expected", [
    ({}, ["0.attn.c_attn", "1.attn.c_attn", "2.attn.c_attn"]),
    ({"target_modules": ["mlp.c_proj"]}, ["0.mlp.c_proj", "1.mlp.c_proj", "2.mlp.c_proj"]),
    ({"target_modules": ["c_proj"], "layers_to_transform": 1}, ["1.attn.c_proj", "1.mlp.c_proj"]),
    ({"target_modules": ["c_proj"], "layers_to_transform": [0, 2], "layers_pattern": "h",
      "exclude_modules": ["mlp.c_proj"]}, ["0.attn.c_proj", "2.attn.c_proj"]),
    ({"target_modules": ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"], "layers_to_transform": [0]},
     ["0.attn.c_attn", "1.attn.c_attn"]),    # a layer that is named in full needs no number
    ({"target_modules": ["proj", "attn"]}, []),
    ({"target_modules": ["transformer.h.1.mlp.c_fc"]}, ["1.mlp.c_fc"]),
    ({"target_modules": r".*\.h\.[12]\.(attn|mlp)\.c_(attn|fc)"},
     ["1.attn.c_attn", "1.mlp.c_fc", "2.attn.c_attn", "2.mlp.c_fc"]),
    ({"target_modules": r"h\.1\..*"}, []),    # must fit all of the name
    ({"target_modules": "All-Linear", "exclude_modules": r".*\.(0|2)\..*"}, [f"1.{kind}" for kind in LAYERS]),
])
def test_targets_mean_the_layers_that_peft_means(tmp_path, settings, expected):
    settings, names = settings_with(tmp_path, **settings), [f"{i}.{kind}" for i in range(3) for kind in LAYERS]
    assert [name for name in names if lora_of(settings, f"transformer.h.{name}")] == expected


def test_the_first_pattern_that_fits_gives_rank_and_alpha(tmp_path):
    settings = settings_with(
        tmp_path, target_modules="all-linear", r=4, lora_alpha=5, alpha_pattern={r"h\.1\..*": 0.5},
        rank_pattern={"c_proj": 1, "mlp.c_proj": 2, r"^transformer\.h\.1\.attn\.c_attn$": 3})
    names = "0.attn.c_attn", "1.attn.c_attn", "1.mlp.c_proj"
    assert [lora_of(settings, f"transformer.h.{name}") for name in names] == [(4, 5), (3, 0.5), (1, 0.5)]


def test_a_damaged_key_of_the_header_is_not_a_folder_of_pefts_own(small_model, tmp_path):
    export_peft(wearing(small_model, 2), tmp_path / "a", base="small", labels=["ham", "spam"])
    file = tmp_path / "a" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"adapter":', b'"adapte2":', 1))
    refused(small_model, tmp_path / "a", "its header holds .'adapte2'.: is it damaged")


def test_a_classifier_takes_no_head_that_could_not_come_back(tiny, folder):
    tiny.out_head = torch.nn.Linear(48, 97, bias=False)
    refused(tiny, folder, "head is a matrix of its own")
