"""Adapters that travel: a folder as PEFT, Hugging Face's library for adapters, writes and reads it, both ways.

    adapter_config.json          r, lora_alpha, target_modules, ...
    adapter_model.safetensors    base_model.model.transformer.h.3.attn.c_attn.lora_A.weight (R, in), ...lora_B.weight
                                 (out, R); a classifier's score.weight (K, C), ln_f.weight and ln_f.bias (C,)

PEFT's A and B are ours transposed, and its linear layers are ours but for one: c_attn is our query, key and value side
by side, with one update for all three. There the three A's are stacked, and each part has columns of its own in lora_B:

    lora_A    A_query^T  (r, in)      lora_B    B_query^T  0        0            (out, 3 r)
              A_key^T    (r, in)                0          B_key^T  0
              A_value^T  (r, in)                0          0        B_value^T

PEFT's settings have no place for the base's fingerprint, the names of the classes or a checksum. They stand in the
header of the safetensors file, where PEFT does not look. Logits there and here agree to 1e-5 of the largest.

Read along: chapters/07_lora_writer.py. Source: the files of peft 0.21.2.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import nn

from gpt.adapters import fingerprint, refuse_to_lose_head, remove_adapter, trained_besides
from gpt.classify import swap_head
from gpt.config import GPT2_SIZES
from gpt.interop.hugging_face import fold_bias, hf_config, merged_weights
from gpt.lora import SCALES, LinearWithLoRA, lora_layers
from gpt.model import scores_tokens, unwrapped
from gpt.storage.files import naming_file, read_json, read_safetensors, sha256_of, written_whole_folder
from gpt.weights import check_tensors, from_openai

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."    # PEFT's wrapper, and Hugging Face's model in it
OPENAI = {name.partition(" ")[0].replace("-small", ""): sizes    # gpt2, gpt2-medium, ...
          for name, sizes in GPT2_SIZES.items() if name != "mini"}


def export_peft(model, folder, *, base=None, labels=()):
    """Write the model's LoRA, and its head if it was swapped, as a folder for PEFT. The model stays as it is.

    It does not matter whether the LoRA is merged. PEFT saves a head whole, so of a head with a LoRA the sum is written.
    Tell Hugging Face's classifier pad_token_id = 50256 and, by id2label, the names of its classes. A classifier that
    was trained the blog's way, to be read at its padding, answers differently there: see `export_hf`.

    Input: base, where Hugging Face finds the base model: a name or a folder of `export_hf`. None stands for OpenAI's
        model of the same sizes; if there is none, PEFT takes the model that it is given; labels, the names of the
        classes in the head's order, or () for LABEL_0, LABEL_1, ...
    Raises: ValueError, before anything is written, if something trains that the folder would lose; if no LoRA is in the
        blocks, or one is outside of blocks and head; if dropouts differ, labels do not fit the head or numbers are not
        finite; for a model that `hf_config` refuses; and what `fold_bias` refuses. FileExistsError: see
        `gpt.storage.files.written_whole_folder`
    """
    model = unwrapped(model)
    base = base or next((name for name, sizes in OPENAI.items() if sizes == model.config), None)
    with naming_file(f"{folder} was not written"):
        if lost := trained_besides(model):
            raise ValueError(f"it would hold only LoRA layers and a head, but this model trains or has changed {lost}: "
                             f"export_hf writes all of it")
        labels = list(hf_config(model, list(labels)).get("id2label", {}).values())
        modules, head = pack_model(model), head_tensors(model)
        tensors = {PREFIX + name: tensor for name, tensor in head.items()}
        for name, packed in modules.items():
            tensors |= {f"{PREFIX}{name}.lora_A.weight": packed.A, f"{PREFIX}{name}.lora_B.weight": packed.B}
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} holds numbers that are not finite: did the training diverge?")
        settings = settings_of(model, modules, head, base)
        notes = {"base": base or "a base without name", "fingerprint": fingerprint(model), "labels": labels}
        notes["sha256"] = sha256_of(tensors, text_to_hash(settings, notes))
    with written_whole_folder(folder) as temporary:
        (temporary / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                  temporary / TENSORS, metadata={"adapter": json.dumps(notes)})


def import_peft(model, folder):
    """Lay PEFT's adapter over a model, in place. Afterwards everything is frozen but each A and B and the head.

    An adapter that the model wears is taken off first. Tensors are converted to the model's type. Query, key and value
    share an A, as they do in c_attn, unless zeros in lora_B tell them apart (`unpack`). A classifier's final norm that
    was trained goes into the head (`head_of`). Other norms and biases that were trained take the place of the base's
    until `remove_adapter` puts those back; only `export_hf` can save such a model. wte and lm_head may be in the file
    if they equal this base's. Rows beyond this model's vocabulary, of tokens such as [PAD], are left out. Only a folder
    of `export_peft` says which weights it was trained on, and has a checksum; for any other, giving the right base is
    up to you.

    Output: the names of the classes, LABEL_0, LABEL_1, ... if the folder has none; [] for a language model
    Raises: ValueError that begins with the folder's or file's name, before anything is changed, for a damaged file, a
        pickle, a setting that is not a plain LoRA's (`read_settings`), another base, wte or lm_head with other numbers
        than this base's, and tensors that are missing, left over, of another shape than settings and model want, or not
        finite. OSError if there is no file
    """
    model, folder = unwrapped(model), Path(folder)
    if not (folder / TENSORS).exists() and (folder / "adapter_model.bin").exists():
        raise ValueError(f"{folder}: adapter_model.bin is a pickle, which can run any program when it is read: let "
                         f"PEFT load it and save it again, as {TENSORS}")
    settings = read_settings(folder / CONFIG)
    with naming_file(folder / TENSORS):
        tensors, header = read_safetensors(folder / TENSORS)
        notes = read_notes(header, tensors, read_json(folder / CONFIG))
        modules, rest = sort_tensors(model, settings, tensors)
        head = head_of(model, rest)
        if head is not None:
            refuse_to_lose_head(model)
        changed = from_openai({name: tensor for name, tensor in rest.items()
                               if name != "score.weight" and (head is None or ".ln_f." not in name)})
        labels = read_labels(model, notes, 0 if head is None else len(head[1]))
    with torch.random.fork_rng(devices=[]):    # what new layers draw is overwritten
        wear(model, modules, head, changed, settings["lora_dropout"])
    return labels


@torch.no_grad()
def wear(model, modules, head, changed, dropout):
    """Put on the model, in place of any adapter: modules, {PEFT's layer: Packed}; the head; and changed, the base's
    norms and biases that were trained, {our name: tensor}.
    """
    remove_adapter(model)
    for name, tensor in changed.items():
        parameter = model.get_parameter(name)
        model.original_base[name] = parameter.data
        parameter.data = tensor.to(parameter.device, parameter.dtype, copy=True)
    model.requires_grad_(False)
    if head is not None:
        weight, bias = head
        swap_head(model, len(weight))
        model.out_head.weight.copy_(weight)
        model.out_head.bias.copy_(bias)
    ours = places(model.config.n_layers)
    for theirs, packed in modules.items():
        shared = {}
        for name, part in zip(ours[theirs], unpack(packed, len(ours[theirs])), strict=True):
            if part is None:
                continue
            linear = model.get_submodule(name)
            layer = LinearWithLoRA(linear, len(part.B), part.alpha, scale=part.rule, dropout=dropout)
            layer.lora.A = shared.setdefault(id(part.A), layer.lora.A)
            layer.lora.A.copy_(part.A)
            layer.lora.B.copy_(part.B)
            model.set_submodule(name, layer)


# ---- The linear layers: PEFT's and ours ------------------------------------------------------------------------------

PARTS = {    # PEFT's layer in block h.{i} -> ours in trf_blocks.{i}, in the order of its outputs
    "attn.c_attn": ("att.W_query", "att.W_key", "att.W_value"),
    "attn.c_proj": ("att.out_proj",),
    "mlp.c_fc": ("ff.layers.0",),
    "mlp.c_proj": ("ff.layers.2",),
}


class Packed(NamedTuple):
    """One update as PEFT has it: A (R, in), B (out, R)."""

    A: torch.Tensor
    B: torch.Tensor
    alpha: float
    rule: str    # a name of SCALES: "alpha/r", or "alpha/sqrt(r)" if the file says use_rslora

    @property
    def scale(self):
        return SCALES[self.rule](self.alpha, len(self.A))


class Part(NamedTuple):
    """The LoRA of one of our layers: A (in, r), B (r, out). Layers that share an A hold the same tensor."""

    A: torch.Tensor
    B: torch.Tensor
    alpha: float
    rule: str    # a name of SCALES

    @property
    def scale(self):
        return SCALES[self.rule](self.alpha, len(self.B))


@torch.no_grad()
def pack(parts):
    """Put the LoRAs of query, key and value into the one update that PEFT has for all three.

    Each A that differs stands in lora_A once, below those before it. A part owns the columns of lora_B that meet its A,
    in the rows that are its outputs; what nobody owns is zero (see the drawing at the top of this file). PEFT has one
    scale for all of c_attn. It is that of the part whose scale is the largest in size; a part with another scale has
    its B multiplied by the ratio of the two.

    Input: parts, a list of Part in the order of PARTS, None for a layer without LoRA; at least one has a LoRA
    Output: Packed, A (R, in) and B (out of all parts, R), with the rule "alpha/r"; the columns of each part, a range,
        or None for a layer without LoRA
    """
    present = [part for part in parts if part is not None]
    scale = max((part.scale for part in present), key=abs)
    As, columns = [], []
    for part in parts:
        if part is None:
            columns.append(None)
            continue
        place = next((i for i, A in enumerate(As) if torch.equal(A, part.A)), len(As))
        if place == len(As):
            As.append(part.A)
        first = sum(A.shape[1] for A in As[:place])    # where its columns begin
        columns.append(range(first, first + len(part.B)))
    A = torch.cat(As, dim=1).T                                                        # (R, in)
    B = A.new_zeros(len(parts) * present[0].B.shape[1], len(A))
    for rows, part, its in zip(B.tensor_split(len(parts)), parts, columns, strict=True):
        if part is not None:
            ratio = part.scale / scale if part.scale != scale else 1.0    # all scales can be 0
            rows[:, its.start:its.stop] = (part.B.double() * ratio).T                 # (out, r)
    return Packed(A, B, scale * len(A), "alpha/r"), columns


@torch.no_grad()
def unpack(packed, n_parts):
    """Packed -> a list of Part, None for a layer without LoRA: the inverse of `pack`, told by the zeros in B.

    A part owns the columns that are not all zero in its rows of B, and the rows of A that they meet; if there are none,
    it has no LoRA. Two cases leave every part every column: a single part, and a B of zeros, which was not trained yet.
    Parts with the same columns share one A, as they did in c_attn.
    """
    rule, every = SCALES[packed.rule], list(range(len(packed.A)))
    whole = n_parts == 1 or not packed.B.any()
    shared, parts = {}, []
    for rows in packed.B.tensor_split(n_parts):
        its = every if whole else rows.any(dim=0).nonzero()[:, 0].tolist()
        if not its:
            parts.append(None)
            continue
        if tuple(its) not in shared:
            shared[tuple(its)] = packed.A[its].T.contiguous()                         # (in, r)
        alpha = packed.alpha * (rule(1, len(every)) / rule(1, len(its)))    # the same scale with another rank
        parts.append(Part(shared[tuple(its)], rows[:, its].T.contiguous(), alpha, packed.rule))
    return parts


def places(n_layers):
    """{PEFT's linear layer: the names of ours that it stands for}, such as "transformer.h.0.attn.c_attn" for three."""
    found = {}
    for i in range(n_layers):
        for kind, parts in PARTS.items():
            found[f"transformer.h.{i}.{kind}"] = [f"trf_blocks.{i}.{part}" for part in parts]
    return found


def pack_model(model):
    """The LoRAs of the blocks, {PEFT's layer: Packed}. Raises: ValueError for none, or one outside blocks and head."""
    loras = {name: layer.lora for name, layer in lora_layers(model) if name != "out_head"}
    modules = {}
    for theirs, ours in places(model.config.n_layers).items():
        layers = [loras.pop(name, None) for name in ours]
        if any(layers):
            parts = [lora and Part(lora.A.detach(), lora.B.detach(), lora.alpha, lora.rule) for lora in layers]
            modules[theirs], _ = pack(parts)
    if loras or not modules:
        raise ValueError(f"it would hold the LoRA layers of the blocks, but this model has {list(loras) or 'none'}")
    return modules


# ---- The head --------------------------------------------------------------------------------------------------------

@torch.no_grad()
def head_tensors(model):
    """A classifier's head in PEFT's file, {name: tensor}; {} of a language model. Raises: what `fold_bias` refuses.

    Their head has no bias. Ours goes into the shift of the final norm, which is then saved with the head.
    """
    if scores_tokens(model):
        return {}
    merged, norm = merged_weights(nn.ModuleDict({"out_head": model.out_head})), model.final_norm
    weight, bias = merged["out_head.weight"], merged["out_head.bias"]                 # (K, C), (K,)
    if not bias.any():
        return {"score.weight": weight}
    shift = fold_bias(weight, bias, norm.shift.float())    # among the digits of a bfloat16 shift it would be lost
    return {"score.weight": weight, "transformer.ln_f.weight": norm.scale, "transformer.ln_f.bias": shift}


@torch.no_grad()
def head_of(model, tensors):
    """The head that says through the model's final norm what the file's head W says through the file's norm.

    Ours makes z = scale n + shift of the normalised channels n, the file's makes scale' n + shift', and

        W (scale' n + shift') = W' z + b     with W' = W scale' / scale, b = W shift' - W' shift

    Input: tensors, {} or "score.weight" (K, C) and perhaps "transformer.ln_f.weight" and "transformer.ln_f.bias" (C,)
    Output: W' (K, C), b (K,) in the model's type; None for a language model, which has no score.weight
    Raises: ValueError for a channel that our norm multiplies by 0 and the file's does not, and for a head that is too
        large for the model's type
    """
    if "score.weight" not in tensors:
        return None
    norm, dtype = model.final_norm, model.tok_emb.weight.dtype
    scale, shift = norm.scale.cpu().double(), norm.shift.cpu().double()               # (C,), (C,)
    their_scale = tensors.get("transformer.ln_f.weight", scale).double()
    their_shift = tensors.get("transformer.ln_f.bias", shift).double()
    if their_scale[scale == 0].any():
        raise ValueError("its ln_f uses a channel that this model's final norm multiplies by 0")
    W = tensors["score.weight"].double()
    weight = W * torch.where(scale == 0, 1.0, their_scale / scale)                    # (K, C)
    bias = W @ their_shift - weight @ shift                                           # (K,)
    weight, bias = weight.to(dtype), bias.to(dtype)
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise ValueError(f"score.weight and ln_f make a head whose numbers are too large for {dtype}")
    return weight, bias


# ---- Reading the tensors ---------------------------------------------------------------------------------------------

def sort_tensors(model, settings, tensors):
    """A file's tensors, in the model's type. They must be those that settings and model want, and no others.

    Output: {PEFT's layer: Packed}; what is saved whole, {"score.weight": (K, C), ...}. A final norm keeps its type
    Raises: ValueError, see `import_peft`
    """
    tensors = {name.replace(".base_layer.", "."): tensor for name, tensor in tensors.items()}
    for name in ("transformer.wte.weight", "lm_head.weight"):
        check_embedding(model, name, tensors.pop(PREFIX + name, None))
    wanted, alphas = saved_shapes(model, settings, tensors), {}
    for theirs, ours in places(model.config.n_layers).items():
        lora = lora_of(settings, theirs)
        if lora is not None:
            rank, alphas[theirs] = lora
            layer = model.get_submodule(ours[0])
            linear = getattr(layer, "linear", layer)    # without the LoRA that it may wear
            wanted[f"{PREFIX}{theirs}.lora_A.weight"] = (rank, linear.in_features)
            wanted[f"{PREFIX}{theirs}.lora_B.weight"] = (len(ours) * linear.out_features, rank)
    if not alphas:
        raise ValueError("by its settings no linear layer in the blocks of this model has a LoRA")
    with naming_file("these are not the tensors that its settings and this model want"):
        check_tensors({name: torch.empty(shape, device="meta") for name, shape in wanted.items()}, tensors)
    found, dtype = {}, model.tok_emb.weight.dtype
    for name, tensor in tensors.items():
        tensor = tensor if ".ln_f." in name else tensor.to(dtype)
        found[name.removeprefix(PREFIX)] = tensor
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite, or too large for {dtype}")
    modules, rule = {}, "alpha/sqrt(r)" if settings["use_rslora"] else "alpha/r"
    for name, alpha in alphas.items():
        modules[name] = Packed(found.pop(f"{name}.lora_A.weight"), found.pop(f"{name}.lora_B.weight"), alpha, rule)
    return modules, found


def check_embedding(model, name, tensor):
    """Refuse an embedding, (V, C) or with rows for more tokens, that is not this base's."""
    ours = model.tok_emb.weight.detach().cpu()
    if tensor is not None and (tensor.ndim != 2 or not torch.equal(tensor[:len(ours)], ours.to(tensor.dtype))):
        raise ValueError(f"{name} has other numbers than this model's embedding: was it trained, or is this another "
                         f"base? {WAY_OUT}")


def saved_shapes(model, settings, tensors):
    """{name in the file: shape} of what is saved whole: a head of as many classes as the file's has, norms, biases."""
    C, saved, wanted = model.config.emb_dim, settings["modules_to_save"] or (), {}
    if "score" in saved or settings["task_type"] == "SEQ_CLS":    # PEFT adds a classifier's head by itself
        score = tensors.get(f"{PREFIX}score.weight")
        wanted["score.weight"] = (1 if score is None or score.ndim == 0 else max(1, len(score)), C)
    widths = {"ln_1": C, "attn.c_attn": 3 * C, "attn.c_proj": C, "ln_2": C, "mlp.c_fc": 4 * C, "mlp.c_proj": C}
    modules = {f"transformer.h.{i}.{part}": n for i in range(model.config.n_layers) for part, n in widths.items()}
    for name, n in (modules | {"transformer.ln_f": C}).items():
        norm = ".ln_" in name
        if norm and is_meant(saved, name):
            wanted |= {f"{name}.weight": (n,), f"{name}.bias": (n,)}
        elif settings["bias"] == "all" or (settings["bias"] == "lora_only" and not norm and lora_of(settings, name)):
            wanted[f"{name}.bias"] = (n,)
    if not model.config.qkv_bias and any(name.endswith("c_attn.bias") for name in wanted):
        raise ValueError("its biases were trained, and query, key and value of this model have none")
    return {PREFIX + name: shape for name, shape in wanted.items()}


def text_to_hash(settings, notes):
    """What a folder's checksum covers besides the tensors, as one text: the settings that matter, and the notes."""
    return json.dumps([{name: value for name, value in settings.items() if name not in NO_MATTER},
                       {name: value for name, value in notes.items() if name != "sha256"}], sort_keys=True)


def read_notes(header, tensors, settings):
    """What `export_peft` noted in a file's header, as a dict, {} in a file of PEFT's own.

    Raises: ValueError for notes that are not an adapter's, and for a sha256 that is not that of the content
    """
    if header.keys() - {"adapter", "format"}:    # PEFT writes "format" alone; another key may be a damaged "adapter"
        raise ValueError(f"its header holds {sorted(header)}: is it damaged?")
    if "adapter" not in header:
        return {}
    try:
        notes = json.loads(header["adapter"])
        notes["base"], notes["fingerprint"], notes["labels"]    # a KeyError if one is missing
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its header is not that of an adapter ({type(error).__name__}: {error})") from error
    older = notes.keys() <= {"base", "fingerprint", "labels", "pad_to", "layers", "bias"}    # without sha256
    if not older and notes.get("sha256") != sha256_of(tensors, text_to_hash(settings, notes)):
        raise ValueError("its sha256 is not that of its content: it is damaged, or was changed by hand")
    return notes


def read_labels(model, notes, K):
    """The names of the K classes in a folder's notes.

    Raises: ValueError for another base and another number of classes
    """
    if not notes:
        return [f"LABEL_{i}" for i in range(K)]
    base, wanted, labels = str(notes["base"]), str(notes["fingerprint"]), notes["labels"]
    if wanted != (here := fingerprint(model)):
        raise ValueError(f"it was trained on {base!r} with weights {wanted[:12]}..., this model's are {here[:12]}...: "
                         f"load the same base first")
    if not is_list(labels, str) or len(labels) != K:
        raise ValueError(f"its labels are {labels!r:.60}, but the head has {K} outputs: each needs a name")
    return labels


# ---- The settings ----------------------------------------------------------------------------------------------------

def is_number(value):
    return type(value) in (int, float) and abs(value) < 1e30    # which a NaN is not


def is_rank(value):
    return type(value) is int and 1 <= value < 1 << 31


def is_list(value, kind):
    return type(value) is list and all(type(item) is kind for item in value)


def is_targets(value):
    return value is None or type(value) is str or is_list(value, str)


def is_pattern(value, right):
    return type(value) is dict and len(value) <= 256 and all(map(right, value.values()))    # gpt2-xl has 192 layers


WAY_OUT = ("If PEFT can load it: merge_and_unload, then save_pretrained, and load that folder with load_huggingface")
PLAIN = ("true", "false", "gaussian", "eva", "orthogonal", "mica")
SAVED = re.compile(r"score|classifier|lm_head|(transformer\.)?(wte|ln_f|h\.\d+\.ln_[12])|ln_[12]")
NO_MATTER = {"auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "fan_in_fan_out",
             "megatron_core", "qalora_group_size", "eva_config", "runtime_config"}    # they change no answer
SETTINGS = {    # name: PEFT's default, whether a value can be taken here, and which values can
    "peft_type": (None, lambda value: value == "LORA", "LORA"),
    "task_type": (None, lambda value: value in (None, "CAUSAL_LM", "SEQ_CLS"), "CAUSAL_LM, SEQ_CLS or null"),
    "r": (8, is_rank, "a whole number above 0"),
    "lora_alpha": (8, is_number, "a finite number"),
    "lora_dropout": (0.0, lambda value: is_number(value) and 0 <= value < 1, "a probability below 1"),
    "use_rslora": (False, lambda value: type(value) is bool, "true or false"),
    "bias": ("none", lambda value: value in ("none", "all", "lora_only"), "none, all or lora_only"),
    "init_lora_weights": (True, lambda value: str(value).lower() in PLAIN, f"one of {PLAIN}: others change the base"),
    "target_modules": (None, is_targets, "a pattern or a list of names"),
    "exclude_modules": (None, is_targets, "a pattern or a list of names"),
    "layers_to_transform": (None, lambda value: value is None or type(value) is int or is_list(value, int),
                            "the number of a block or a list of them"),
    "layers_pattern": (None, lambda value: value in (None, "", [], "h", ["h"]), "h, where GPT-2 has its blocks"),
    "modules_to_save": (None, lambda value: value is None or is_list(value, str) and all(map(SAVED.fullmatch, value)),
                        "a list of no other names than score, classifier, wte, lm_head, ln_f, ln_1 and ln_2"),
    "rank_pattern": ({}, lambda value: is_pattern(value, is_rank), "up to 256 patterns, each with a rank"),
    "alpha_pattern": ({}, lambda value: is_pattern(value, is_number), "up to 256 patterns, each with an alpha"),
}


def settings_of(model, modules, head, base):
    """The settings to write, for {PEFT's layer: Packed}, the head's {name: tensor} and the base's name or None."""
    dropouts = {layer.lora.dropout.p for name, layer in lora_layers(model) if name != "out_head"}
    if len(dropouts) > 1:
        raise ValueError(f"PEFT has one dropout for all layers, these have {sorted(dropouts)}")
    loras = {name: (len(packed.A), packed.alpha) for name, packed in modules.items()}
    for name, (_, alpha) in loras.items():
        if not is_number(alpha):
            raise ValueError(f"{name} has an alpha of {alpha}, with which nobody can compute")
    (rank, alpha), _ = Counter(loras.values()).most_common(1)[0]
    kinds = Counter(name.split(".", 3)[3] for name in loras)
    in_every_block = set(kinds.values()) == {model.config.n_layers}
    pattern = {name: "^" + name.replace(".", r"\.") + "$" for name in loras}
    saved = [name for name, key in (("score", "score.weight"), ("ln_f", "transformer.ln_f.weight")) if key in head]
    return {"peft_type": "LORA", "task_type": "SEQ_CLS" if head else "CAUSAL_LM", "base_model_name_or_path": base,
            "r": rank, "lora_alpha": alpha, "lora_dropout": max(dropouts), "bias": "none", "fan_in_fan_out": True,
            "inference_mode": True, "init_lora_weights": True, "use_rslora": False, "modules_to_save": saved or None,
            "target_modules": sorted(kinds if in_every_block else loras),
            "rank_pattern": {pattern[name]: r for name, (r, _) in loras.items() if r != rank},
            "alpha_pattern": {pattern[name]: a for name, (_, a) in loras.items() if a != alpha}}


def read_settings(file):
    """adapter_config.json -> {name: value} for all of SETTINGS, with PEFT's defaults, every pattern compiled.

    Raises: ValueError with the file's name for a damaged file and a pattern that `compiled` refuses; with the setting's
        name, too, for a value that SETTINGS does not take and for an unknown setting that is switched on, because that
        would change the answers, and nobody would be told
    """
    given = read_json(file)
    with naming_file(file):
        if type(given) is not dict:
            raise ValueError("these are no settings of an adapter, which are a JSON object")
        settings = {name: default for name, (default, _, _) in SETTINGS.items()} | given
        unknown = (None, lambda value: not value, "off, because a plain LoRA is read here")
        for name in sorted(settings.keys() - NO_MATTER):
            _, right, what = SETTINGS.get(name, unknown)
            if not right(settings[name]):
                raise ValueError(f"{name:.60} is {settings[name]!r:.60}, and must be {what}. {WAY_OUT}")
        for name in ("target_modules", "exclude_modules"):
            text = settings[name]
            if type(text) is str:
                settings[name] = compiled(".*" if text.lower() == "all-linear" else text)
        for name in ("rank_pattern", "alpha_pattern"):    # what PEFT puts around these
            settings[name] = {compiled(text, r"(.*\.)?({})$"): value for text, value in settings[name].items()}
    return settings


def compiled(text, around="{}"):
    """The regular expression of a text. Raises: ValueError for one that is none, or that could take years to match."""
    repeated_group = re.search(r"\)[*+{]|\(\?[a-zA-Z]*x", text)    # or the flag x, which hides one
    if repeated_group or len(text) > 120 or len(re.findall(r"[*+?{(]", text)) > 4:
        raise ValueError(f"the pattern {text!r:.60} may take very long to match: it must not repeat a group, nor have "
                         f"more than 120 characters or 4 groups and repetitions. Name the layers in full instead")
    try:
        return re.compile(around.format(text))
    except (re.error, OverflowError) as error:
        raise ValueError(f"the pattern {text!r} is no regular expression ({error})") from None


def lora_of(settings, name):
    """(rank, alpha) of PEFT's layer "transformer.h.<i>. ...", or None. PEFT: check_target_module_exists."""
    targets, blocks = settings["target_modules"], settings["layers_to_transform"]
    targets = ["c_attn"] if targets is None else targets    # what PEFT takes for a GPT-2
    if is_meant(settings["exclude_modules"], name) or not is_meant(targets, name):
        return None
    if blocks not in (None, []) and not (type(targets) is list and name in targets):    # a full name needs no number
        if int(name.split(".")[2]) not in (blocks if type(blocks) is list else [blocks]):
            return None
    ranks = [rank for pattern, rank in settings["rank_pattern"].items() if pattern.match(name)]
    alphas = [alpha for pattern, alpha in settings["alpha_pattern"].items() if pattern.match(name)]
    return (*ranks, settings["r"])[0], (*alphas, settings["lora_alpha"])[0]    # the first pattern that fits counts


def is_meant(targets, name):
    """Whether targets mean the name: a pattern must fit all of it, a list must hold it or its last parts."""
    if isinstance(targets, re.Pattern):
        return targets.fullmatch(name) is not None
    return any(f".{name}".endswith(f".{target}") for target in targets or ())
