"""Adapters that travel: a folder as PEFT, Hugging Face's library for adapters, writes and reads it.

    adapter_config.json          r, lora_alpha, target_modules, ...: gpt/peft_config.py
    adapter_model.safetensors    base_model.model.transformer.h.3.attn.c_attn.lora_A.weight (R, in), ...lora_B.weight
                                 (out, R): gpt/peft_layers.py; a classifier's score.weight (K, C): gpt/peft_head.py

What PEFT's settings have no place for, the base's fingerprint, the names of the classes, the head's bias and which
columns are whose, stands in the header of the safetensors file, where PEFT does not look.

Read along: chapters/07_lora_writer.py. Source: the files of peft 0.21.2.
"""

import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from gpt.adapter_file import Adapter
from gpt.adapters import fingerprint, remove_adapter, trained_besides
from gpt.classify import swap_head
from gpt.config import GPT2_SIZES
from gpt.files import written_whole_folder
from gpt.layouts import each_once
from gpt.lora import LinearWithLoRA, lora_layers
from gpt.peft_config import read_config
from gpt.peft_head import head_of, head_tensors
from gpt.peft_layers import PREFIX, pack_model, sort_tensors, unpack_model
from gpt.tensor_files import about, read_safetensors

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
OPENAI = {re.sub(r"-small|\s.*", "", name): sizes for name, sizes in GPT2_SIZES.items() if name != "mini"}    # gpt2, ...


def export_peft(model, folder, *, base=None, labels=()):
    """Write the model's LoRA, and its head if swapped, as PEFT's folder; the model stays as it is, merged or not.

    The answers are the same there, but of a classifier that was trained the blog's way, to be read at its padding, as
    `gpt.hugging_face.export_hf` says. `import_peft` gives A, B, their scales, the head and the labels back bit for bit,
    but for two things. Where the query, key and value of a block have different scales, B takes up the ratio, and
    rounds unless it is a power of two. And PEFT has no LoRA on what it saves whole: of a head with a LoRA the sum is
    written. Hugging Face's classifier has to be told pad_token_id = 50256, and by id2label what the labels are called.

    Input: base, where Hugging Face finds the base model, a name or a folder of `export_hf`; None: for a model of the
        size of one of OpenAI's that one, else nothing, and PEFT takes the model that it is given; labels, the names of
        the classes (without any they are called LABEL_0, LABEL_1, ..., as there)
    Raises: ValueError, before anything is written, where something else trains, which the folder would lose; for a LoRA
        outside the blocks and the head, or none in the blocks; for dropouts that differ, labels that do not fit the
        head, numbers that are not finite, and what `gpt.hugging_face.fold_bias` refuses. FileExistsError: see
        `gpt.files.written_whole_folder`
    """
    base = base or next((name for name, sizes in OPENAI.items() if sizes == model.config), None)
    with about(f"{folder} was not written"):
        if lost := trained_besides(model):
            raise ValueError(f"it would hold LoRA layers and a head, but this model trains {lost}")
        modules, layers = pack_model(model)
        tensors, labels, bias = head_tensors(model, list(labels))
        for name, packed in modules.items():
            tensors |= {f"{name}.lora_A.weight": packed.A, f"{name}.lora_B.weight": packed.B}
        if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise ValueError(f"{broken[0]} holds numbers that are not finite")
        dropouts = {layer.lora.dropout.p for name, layer in lora_layers(model) if name != "out_head"}
        config = settings_of(modules, model.config.n_layers, base, dropouts, tensors)
        notes = asdict(Adapter(base or "a base without name", fingerprint(model), labels, None, layers)) | {"bias": bias}
    with written_whole_folder(folder) as temporary:
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file({PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                  temporary / TENSORS, metadata={"adapter": json.dumps(notes)})


def import_peft(model, folder):
    """Lay PEFT's adapter over a model, in place, taking off what it wears; afterwards all is frozen but A, B and head.

    Numbers of another type become the model's. Query, key and value share an A, as they do in c_attn, unless zeros in
    lora_B tell them apart (`gpt.peft_layout.unpack`). A final norm that was trained goes into the head (`head_of`), so
    that the base stays what it was. Whether it is the right base is known only where `export_peft` wrote the folder.

    Output: the names of the classes, LABEL_0, LABEL_1, ... where the folder has none; [] for a language model
    Raises: ValueError that begins with the folder's or file's name, before anything is changed: for a damaged file, a
        setting that is no plain LoRA's (`read_config`), a pickle, another base, and tensors that are missing, left
        over, of another shape than settings and model want, or not finite. OSError where there is no file
    """
    folder = Path(folder)
    if not (folder / TENSORS).exists() and (folder / "adapter_model.bin").exists():
        raise ValueError(f"{folder}: adapter_model.bin is a pickle, which can run any program when it is read: let "
                         f"PEFT load it and save it again, as {TENSORS}")
    with about(folder / CONFIG):
        config = read_config(folder / CONFIG)
    with about(folder / TENSORS):
        tensors, notes = read_safetensors(folder / TENSORS)
        adapter, bias = read_notes(notes["adapter"]) if "adapter" in notes else (None, None)
        if adapter and adapter.fingerprint != (here := fingerprint(model)):
            raise ValueError(f"it was trained on {adapter.base!r} with weights {adapter.fingerprint[:12]}..., this "
                             f"model's are {here[:12]}...: load the same base first")
        modules, rest = sort_tensors(model, config, tensors)
        parts = unpack_model(modules, adapter and adapter.layers)
        head = head_of(model, rest, bias)
        K = 0 if head is None else len(head[1])
        labels = adapter.labels if adapter else [f"LABEL_{i}" for i in range(K)]
        if len(labels) != K:
            raise ValueError(f"{len(labels)} labels, but the head has {K} outputs")
    with torch.random.fork_rng(devices=[]):    # what new layers draw is overwritten
        put_on(model, parts, head, config.lora_dropout)
    return labels


def read_notes(text):
    """What `export_peft` wrote into the header: an Adapter, and the head's bias (K,), which is [] without a head."""
    try:
        notes = json.loads(text, object_pairs_hook=each_once)
        bias = torch.tensor(notes.pop("bias"), dtype=torch.float64)
        return Adapter(**notes), bias
    except (AttributeError, KeyError, TypeError, OverflowError, RecursionError, RuntimeError) as error:
        raise ValueError(f"its header is not that of an adapter ({type(error).__name__}: {error})") from error


@torch.no_grad()
def put_on(model, parts, head, dropout):
    """Take off the adapter that the model wears and put on these LoRAs, {our layer: Part}, and this head, in place."""
    remove_adapter(model)
    model.requires_grad_(False)
    if head is not None:
        swap_head(model, len(head[1]))
        model.out_head.weight.copy_(head[0])
        model.out_head.bias.copy_(head[1])
    shared = {}
    for name, part in parts.items():
        parent, _, child = name.rpartition(".")
        layer = LinearWithLoRA(model.get_submodule(name), len(part.B), part.alpha, scale=part.rule, dropout=dropout)
        layer.lora.A = shared.setdefault(id(part.A), layer.lora.A)
        layer.lora.A.copy_(part.A)
        layer.lora.B.copy_(part.B)
        setattr(model.get_submodule(parent), child, layer)


def settings_of(modules, n_layers, base, dropouts, tensors):
    """The settings to write, for {their layer: Packed}, the layers' dropouts and the names of the file's tensors."""
    if len(dropouts) > 1:
        raise ValueError(f"PEFT has one dropout for all layers, these have {sorted(dropouts)}")
    loras = {name: (len(packed.A), packed.alpha) for name, packed in modules.items()}
    (rank, alpha), _ = Counter(loras.values()).most_common(1)[0]
    kinds = Counter(name.split(".", 3)[3] for name in loras)
    pattern = {name: "^" + name.replace(".", r"\.") + "$" for name in loras}
    head = [name for name, key in (("score", "score.weight"), ("ln_f", "transformer.ln_f.weight")) if key in tensors]
    return {"peft_type": "LORA", "task_type": "SEQ_CLS" if head else "CAUSAL_LM", "base_model_name_or_path": base,
            "r": rank, "lora_alpha": alpha, "lora_dropout": max(dropouts), "bias": "none", "fan_in_fan_out": True,
            "inference_mode": True, "init_lora_weights": True, "use_rslora": False, "modules_to_save": head or None,
            "target_modules": sorted(kinds) if set(kinds.values()) == {n_layers} else sorted(loras),
            "rank_pattern": {pattern[name]: r for name, (r, _) in loras.items() if r != rank},
            "alpha_pattern": {pattern[name]: a for name, (_, a) in loras.items() if a != alpha}}
