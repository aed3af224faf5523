"""Adapters that travel: a folder as PEFT, Hugging Face's library for adapters, writes and reads it.

    adapter_config.json          r, lora_alpha, target_modules, ...: gpt/interop/peft.py
    adapter_model.safetensors    base_model.model.transformer.h.3.attn.c_attn.lora_A.weight (R, in), ...lora_B.weight
                                 (out, R): gpt/interop/peft.py; a classifier's score.weight (K, C): gpt/interop/peft.py

What PEFT's settings have no place for, the base's fingerprint, the names of the classes, the head's bias and which
columns are whose, stands in the header of the safetensors file, where PEFT does not look.

Read along: chapters/07_lora_writer.py. Source: the files of peft 0.21.2.
"""

import json
import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from gpt.adapters import Adapter, fingerprint, is_tied, remove_adapter, trained_besides
from gpt.classify import swap_head
from gpt.config import GPT2_SIZES
from gpt.interop.hugging_face import fold_bias
from gpt.lora import SCALES, LinearWithLoRA, lora_layers
from gpt.storage.files import naming_file, read_safetensors, written_whole_folder

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
OPENAI = {re.sub(r"-small|\s.*", "", name): sizes    # gpt2, gpt2-medium, ...
          for name, sizes in GPT2_SIZES.items() if name != "mini"}


def export_peft(model, folder, *, base=None, labels=()):
    """Write the model's LoRA, and its head if swapped, as PEFT's folder; the model stays as it is, merged or not.

    The answers are the same there, but of a classifier that was trained the blog's way, to be read at its padding, as
    `gpt.interop.hugging_face.export_hf` says. `import_peft` gives A, B, their scales, the head and the labels back bit
    for bit, but for two things. Where the query, key and value of a block have different scales, B takes up the ratio, and
    rounds unless it is a power of two. And PEFT has no LoRA on what it saves whole: of a head with a LoRA the sum is
    written. Hugging Face's classifier has to be told pad_token_id = 50256, and by id2label what the labels are called.

    Input: base, where Hugging Face finds the base model, a name or a folder of `export_hf`; None: for a model of the
        size of one of OpenAI's that one, else nothing, and PEFT takes the model that it is given; labels, the names of
        the classes (without any they are called LABEL_0, LABEL_1, ..., as there)
    Raises: ValueError, before anything is written, where something else trains, which the folder would lose; for a LoRA
        outside the blocks and the head, or none in the blocks; for dropouts that differ, labels that do not fit the
        head, numbers that are not finite, and what `gpt.interop.hugging_face.fold_bias` refuses. FileExistsError: see
        `gpt.storage.files.written_whole_folder`
    """
    base = base or next((name for name, sizes in OPENAI.items() if sizes == model.config), None)
    with naming_file(f"{folder} was not written"):
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
        notes = asdict(Adapter(base or "a base without name", fingerprint(model), labels, None, layers))
        notes["bias"] = bias
    with written_whole_folder(folder) as temporary:
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file({PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                  temporary / TENSORS, metadata={"adapter": json.dumps(notes)})


def import_peft(model, folder):
    """Lay PEFT's adapter over a model, in place, taking off what it wears; afterwards all is frozen but A, B and head.

    Numbers of another type become the model's. Query, key and value share an A, as they do in c_attn, unless zeros in
    lora_B tell them apart (`gpt.interop.peft.unpack`). A final norm that was trained goes into the head (`head_of`), so
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
    with naming_file(folder / CONFIG):
        config = read_config(folder / CONFIG)
    with naming_file(folder / TENSORS):
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
        notes = json.loads(text)
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


# ---- All LoRA layers of a model in PEFT's layout, and back -----------------------------------------------------------

PREFIX = "base_model.model."    # PEFT's wrapper, and Hugging Face's model in it
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def places(n_layers):
    """Each layer of theirs and the list of those of ours that it stands for: "transformer.h.0.attn.c_attn", three."""
    for i in range(n_layers):
        for kind, parts in PARTS.items():
            yield f"transformer.h.{i}.{kind}", [f"trf_blocks.{i}.{part}" for part in parts]


def pack_model(model):
    """The LoRAs of the blocks: {their layer: Packed}, and {our layer: its options in an Adapter, as it will come back}.

    Raises: ValueError for a LoRA outside blocks and head, for none in the blocks, and what `exact_alpha` refuses
    """
    own = {name: layer.lora for name, layer in lora_layers(model) if name != "out_head"}
    modules, layers = {}, {}
    for theirs, ours in places(model.config.n_layers):
        loras = [own.pop(name, None) for name in ours]
        if any(loras):
            parts = [lora and Part(lora.A.detach(), lora.B.detach(), lora.alpha, lora.rule) for lora in loras]
            modules[theirs], columns = pack(parts)
            layers |= options_of(ours, parts, columns, modules[theirs].scale)
    if own or not modules:
        raise ValueError(f"PEFT's file takes LoRA layers in the blocks, and this model has {list(own) or 'none'}")
    return modules, layers


def options_of(ours, parts, columns, scale):
    """The options of these layers: rank, alpha, scale, shares_a. Where B takes up a scale, that is the others' then."""
    owners, layers = {}, {}
    for name, part, its in zip(ours, parts, columns, strict=True):
        if part is not None:
            alpha, rule = (part.alpha, part.rule) if part.scale == scale else (scale, "alpha")
            layers[name] = {"rank": len(its), "alpha": alpha, "scale": rule}
            if (owner := owners.setdefault(its.start, name)) != name:
                layers[name]["shares_a"] = owner
    return layers


def unpack_model(modules, layers=None):
    """{their layer: Packed} -> {our layer: Part}. layers: the options that `pack_model` gave, where they are known.

    Raises: ValueError where options and tensors are not of one adapter
    """
    left, parts = dict(layers or {}), {}
    here = {theirs: ours for theirs, ours in places(1 + max(int(name.split(".")[2]) for name in modules))}
    for theirs, packed in modules.items():
        columns = layers and columns_of(here[theirs], left, len(packed.A))
        for name, part in zip(here[theirs], unpack(packed, len(here[theirs]), columns), strict=True):
            if options := left.pop(name, None):
                part = part._replace(alpha=options["alpha"], rule=options["scale"])
                if part.scale != packed.scale:
                    raise ValueError(f"{name}: {packed.scale} is its scale in the settings, {part.scale} in the header")
            if part is not None:
                parts[name] = part
    if left:
        raise ValueError(f"the header speaks of {min(left)}, and there is no such LoRA")
    return parts


def columns_of(ours, layers, R):
    """Which of R columns belong to each of these layers, by their options: a range, or None where it has none."""
    starts, columns, end = {}, [], 0
    for name in ours:
        if (options := layers.get(name)) is None:
            columns.append(None)
            continue
        owner = options.get("shares_a")
        start = starts[name] = end if owner is None else starts.get(owner, R)
        columns.append(range(start, start + options["rank"]))
        end = max(end, columns[-1].stop)
    if end > R:
        raise ValueError(f"the header wants more than the {R} columns of lora_B that there are for {ours[0]}")
    return columns


def sort_tensors(model, config, tensors):
    """A file's tensors, which must be all that settings and model want and no other, in the model's type.

    Output: {their layer: Packed}, {"score.weight", ...: the tensor}; the final norm's keep their type
    Raises: ValueError, see `gpt.interop.peft.import_peft`
    """
    loras = {name: lora for name, _ in places(model.config.n_layers) if (lora := config.lora_of(name))}
    if not loras:
        raise ValueError("by its settings no linear layer in the blocks of this model has a LoRA")
    wanted, dtype = wanted_shapes(model.config.emb_dim, loras, config.saved, tensors), model.tok_emb.weight.dtype
    found = {}
    for name in sorted(wanted.keys() | tensors.keys()):
        tensor = tensors.get(name)
        want, have = wanted.get(name, "nothing"), "nothing" if tensor is None else tuple(tensor.shape)
        if want != have:
            raise ValueError(f"{name:.100}: the settings and this model of {model.config.n_layers} blocks want {want}, "
                             f"the adapter has {have}")
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{name} is of type {tensor.dtype}, not one of {FLOATS}")
        found[name.removeprefix(PREFIX)] = tensor = tensor if ".ln_f." in name else tensor.to(dtype)
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite, or too large for {dtype}")
    return {name: Packed(found.pop(f"{name}.lora_A.weight"), found.pop(f"{name}.lora_B.weight"), alpha, config.rule)
            for name, (_, alpha) in loras.items()}, found


def wanted_shapes(C, loras, saved, tensors):
    """{name in the file: shape}: of these LoRAs, {their layer: (rank, alpha)}, and of what is saved whole."""
    sizes = {"attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "mlp.c_fc": (C, 4 * C), "mlp.c_proj": (4 * C, C)}
    wanted = {}
    for name, (rank, _) in loras.items():
        size_in, size_out = sizes[name.split(".", 3)[3]]
        wanted |= {f"{PREFIX}{name}.lora_A.weight": (rank, size_in), f"{PREFIX}{name}.lora_B.weight": (size_out, rank)}
    if "score" in saved:
        score = tensors.get(f"{PREFIX}score.weight")
        wanted[f"{PREFIX}score.weight"] = (1 if score is None else max(1, 1, *score.shape[:1]), C)
    if "ln_f" in saved:
        wanted |= {f"{PREFIX}transformer.ln_f.{name}": (C,) for name in ("weight", "bias")}
    return wanted


# ---- One update ------------------------------------------------------------------------------------------------------

PARTS = {    # their layer in block h.{i} -> ours in trf_blocks.{i}, in the order of its outputs
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
    rule: str    # of SCALES: "alpha/r", or "alpha/sqrt(r)" where the file says use_rslora

    @property
    def scale(self):
        return SCALES[self.rule](self.alpha, len(self.A))


class Part(NamedTuple):
    """The LoRA of one of our layers: A (in, r), B (r, out). Layers that share an A hold the same tensor."""

    A: torch.Tensor
    B: torch.Tensor
    alpha: float
    rule: str    # of SCALES

    @property
    def scale(self):
        return SCALES[self.rule](self.alpha, len(self.B))


@torch.no_grad()
def pack(parts):
    """Our Parts, in the order of PARTS and None where a layer has no LoRA -> Packed, and the columns of each part.

    PEFT knows one scale for all of c_attn: the largest in size. A part with another is multiplied by the ratio, which
    rounds, unless it is a power of two. So that alpha / R is the scale to the last bit, R can be larger than it must be
    (`exact_alpha`): rows and columns of zeros are added.

    Output: Packed, with the rule alpha/r; columns, a range for each part, None where there is none
    """
    present = [part for part in parts if part is not None]
    scale = max((part.scale for part in present), key=abs)
    As, columns, out = [], [], present[0].B.shape[1]
    for part in parts:
        if part is not None and not any(torch.equal(A, part.A) for A in As):
            As.append(part.A)
        before = [] if part is None else As[:[torch.equal(A, part.A) for A in As].index(True)]
        first = sum(A.shape[1] for A in before)
        columns.append(None if part is None else range(first, first + len(part.B)))
    needed = sum(A.shape[1] for A in As)
    alpha, R = exact_alpha(scale, needed)
    packed = Packed(As[0].new_zeros(R, len(As[0])), As[0].new_zeros(len(parts) * out, R), alpha, "alpha/r")
    packed.A[:needed] = torch.cat(As, dim=1).T                                        # (needed, in)
    for rows, part, its in zip(packed.B.tensor_split(len(parts)), parts, columns, strict=True):
        if part is not None:
            ratio = part.scale / scale if part.scale != scale else 1.0
            rows[:, its.start:its.stop] = (part.B.double() * ratio).T                 # (out, r)
    return packed, columns


def exact_alpha(scale, rank):
    """The alpha and the smallest rank, not below `rank`, for which alpha / rank is `scale` to the last bit.

    With 3 or 24 as rank some scales cannot be had: scale * rank was rounded, and divided by rank it misses by a bit. A
    power of two never misses. Raises: ValueError for a scale that is not finite or too near the ends of the numbers
    """
    for r in range(rank, 2 * rank + 1):    # there is a power of two in it
        alpha = scale * r
        if math.isfinite(alpha) and alpha / r == scale:
            return int(alpha) if alpha == round(alpha) else alpha, r
    raise ValueError(f"no alpha gives a LoRA of rank {rank} the scale {scale!r}")


@torch.no_grad()
def unpack(packed, n_parts, columns=None):
    """Packed -> our Parts, None where there is none: the inverse of `pack`.

    A part's columns are those that are not all zero in its rows of B, and it gets the rows of A that they meet; a part
    of zeros alone has no LoRA. Where all of B is zero (an update that was not trained yet), and where there is but one
    part, they are all. Parts with the same columns share one A, as they did in c_attn.

    Input: columns: for each part a range, or None, where it is known better
    Raises: ValueError where B has a number other than 0 outside the columns given
    """
    every, rows, made, parts = range(len(packed.A)), packed.B.tensor_split(n_parts), {}, []
    if columns is None:
        whole = n_parts == 1 or not packed.B.any()
        columns = [every if whole else B.any(dim=0).nonzero()[:, 0].tolist() for B in rows]
    for B, its in zip(rows, columns, strict=True):
        its = list(its or ())
        if B[:, sorted(set(every) - set(its))].any():
            raise ValueError(f"lora_B has numbers in other columns than {its or 'none'}")
        if its and tuple(its) not in made:
            made[tuple(its)] = packed.A[its].T.contiguous()                           # (in, r)
        parts.append(Part(made[tuple(its)], B[:, its].T.contiguous(), *same_scale(packed, len(its))) if its else None)
    return parts


def same_scale(packed, rank):
    """alpha and rule that give a LoRA of another rank the scale of `packed`, to the last bit."""
    alpha = packed.alpha * rank / len(packed.A)
    alpha = int(alpha) if alpha == round(alpha) else alpha
    if rank == len(packed.A):
        return packed.alpha, packed.rule
    return (alpha, "alpha/r") if SCALES["alpha/r"](alpha, rank) == packed.scale else (packed.scale, "alpha")


# ---- The head --------------------------------------------------------------------------------------------------------

@torch.no_grad()
def head_tensors(model, labels):
    """What the head is in PEFT's file: {name: tensor}, the labels, the bias as a list; {}, [], [] of a language model.

    Raises: ValueError for labels that do not fit, and what `fold_bias` refuses
    """
    head, norm = model.out_head, model.final_norm
    if is_tied(model):
        if labels:
            raise ValueError(f"{len(labels)} labels, but the head is the language model's")
        return {}, [], []
    if isinstance(head, LinearWithLoRA):
        base = head.linear.weight if head.original is None else head.original
        weight, bias = base + head.lora.scale * (head.lora.A @ head.lora.B).T, head.linear.bias    # (K, C), (K,)
    else:
        weight, bias = head.weight, head.bias
    tensors = {"score.weight": weight}
    if labels and len(labels) != len(weight):
        raise ValueError(f"{len(labels)} labels, but the head has {len(weight)} outputs")
    if bias.any():    # in float32: among the digits of a bfloat16 shift the bias would be lost
        tensors["transformer.ln_f.weight"] = norm.scale
        tensors["transformer.ln_f.bias"] = fold_bias(weight, bias, norm.shift.float())
    return tensors, labels or [f"LABEL_{i}" for i in range(len(weight))], bias.tolist()


@torch.no_grad()
def head_of(model, tensors, noted):
    """The head (weight (K, C), bias (K,)) that says with the model's final norm what the file's says with its own.

    Input: tensors, {} or "score.weight" and perhaps "transformer.ln_f.weight" and "....bias"; noted: the bias that
        `head_tensors` gave, or None
    Output: weight (K, C), bias (K,), or None where there is no head
    Raises: ValueError for a norm without a head, one that no head can stand for, and a noted bias that is not its own
    """
    norm, weight = model.final_norm, tensors.get("score.weight")
    if weight is None:
        if tensors:
            raise ValueError("ln_f was trained, and the head of a language model, its embedding, cannot take that up")
        return None
    scale = tensors.get("transformer.ln_f.weight", norm.scale).cpu().double()
    shift = tensors.get("transformer.ln_f.bias", norm.shift).cpu().double()
    weight = weight.double()
    merged, bias = norm_into_head(weight, scale, shift, norm)
    if noted is not None:
        if noted.shape != bias.shape or not noted.isfinite().all():
            raise ValueError(f"the header has {tuple(noted.shape)} biases, finite or not, and the head wants "
                             f"{tuple(bias.shape)} finite ones")
        # what float32 leaves of a bias that was added to a shift; an edited header would be off by more
        rounding = 1e-4 * noted.abs().max() + 1e-5 * (weight.abs() @ shift.abs()).max()
        if not (noted - bias).abs().max() <= rounding:
            raise ValueError(f"the bias in the header, {noted.tolist()}, is not that in ln_f, {bias.tolist()}")
        bias = noted
    return merged, bias


def norm_into_head(weight, scale, shift, norm):
    """A head W that reads through another final norm, told as one that reads through ours.

    Ours makes z = scale n + shift of the normalised channels n, the other scale' n + shift', and

        W (scale' n + shift') = W' z + b     with W' = W scale'/scale, b = W shift' - W' shift

    Input: weight (K, C), scale' (C,), shift' (C,), in float64; norm, ours
    Output: W' (K, C), b (K,), in float64
    Raises: ValueError for a channel that our norm multiplies by 0 and the other does not
    """
    ours, W = norm.scale.detach().cpu().double(), weight
    if not torch.equal(scale, ours):
        if scale[ours == 0].any():
            raise ValueError("its ln_f uses a channel that this model's final norm multiplies by 0")
        W = weight * (scale / torch.where(ours == 0, 1.0, ours))                      # (K, C)
    return W, weight @ shift - W @ norm.shift.detach().cpu().double()                 # (K, C), (K,)


# ---- The settings ----------------------------------------------------------------------------------------------------

LARGEST = 1 << 16    # bytes; the settings for gpt2-xl have 25,000 if each of the 192 layers is named three times
PLAIN = ("true", "false", "gaussian", "eva", "orthogonal", "mica")    # starts that leave the base's weights alone
TARGETS = ("target_modules", "exclude_modules")
SAVED = {"score": "score", "classifier": None, "ln_f": "ln_f", "transformer.ln_f": "ln_f"}    # None: GPT-2 has no such
NO_MATTER = {"auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "fan_in_fan_out",
             "megatron_core", "qalora_group_size", "eva_config", "runtime_config"}    # they change no answer


@dataclass(frozen=True)
class PeftConfig:
    """The settings of PEFT's LoraConfig that matter here, its names and its defaults. ValueError for a wrong one."""

    peft_type: str
    task_type: str | None = None
    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    use_rslora: bool = False
    bias: str = "none"
    init_lora_weights: Any = True
    target_modules: Any = None
    exclude_modules: Any = None
    layers_to_transform: Any = None
    layers_pattern: Any = None
    modules_to_save: Any = None
    rank_pattern: dict = field(default_factory=dict)
    alpha_pattern: dict = field(default_factory=dict)

    def __post_init__(self):
        layers = self.layers_to_transform
        right = {key: isinstance(value := getattr(self, key), str | None) or is_list(value, str) for key in TARGETS} | {
            "peft_type": self.peft_type == "LORA",
            "task_type": self.task_type in (None, "CAUSAL_LM", "SEQ_CLS"),
            "r": is_rank(self.r),
            "lora_alpha": is_number(self.lora_alpha),
            "lora_dropout": is_number(self.lora_dropout) and 0 <= self.lora_dropout < 1,
            "use_rslora": type(self.use_rslora) is bool,
            "bias": self.bias == "none",
            "init_lora_weights (others change the base)": str(self.init_lora_weights).lower() in PLAIN,
            "layers_to_transform": layers is None or type(layers) is int or is_list(layers, int),
            "layers_pattern": self.layers_pattern in (None, "", [], "h", ["h"]),
            "modules_to_save (only score and ln_f can be)": self.modules_to_save is None or (
                is_list(self.modules_to_save, str) and set(self.modules_to_save) <= SAVED.keys()),
            "rank_pattern": is_pattern(self.rank_pattern, is_rank),
            "alpha_pattern": is_pattern(self.alpha_pattern, is_number),
        }
        for key in (key for key in right if not right[key]):
            value = getattr(self, key.partition(" ")[0])
            raise ValueError(f"a plain LoRA that can be told in our model has no {key} of {value!r:.60}")
        texts = {key: getattr(self, key) for key in TARGETS if isinstance(getattr(self, key), str)}
        texts |= {("pattern", text): text for text in [*self.rank_pattern, *self.alpha_pattern]}
        object.__setattr__(self, "_expressions", compiled(texts))

    @property
    def rule(self):
        """The name in gpt.lora.SCALES."""
        return "alpha/sqrt(r)" if self.use_rslora else "alpha/r"

    @property
    def saved(self):
        """Which of "score" and "ln_f" the adapter brings whole; PEFT adds the head for a classifier."""
        named = {SAVED[name] for name in self.modules_to_save or ()} - {None}
        return named | ({"score"} if self.task_type == "SEQ_CLS" else set())

    def lora_of(self, name):
        """(rank, alpha) of the linear layer "transformer.h.<i>. ...", or None. PEFT: check_target_module_exists."""
        layers, block = self.layers_to_transform, int(name.split(".")[2])
        targets = ["c_attn"] if self.target_modules is None else self.target_modules    # what PEFT takes for a gpt2
        every = isinstance(targets, str) and targets.lower() == "all-linear"
        if self._meant("exclude_modules", self.exclude_modules, name) or not (
                every or self._meant("target_modules", targets, name)):
            return None
        if name in (targets if isinstance(targets, list) else ()):    # named in full: PEFT asks for no number then
            layers = None
        if layers not in (None, []) and block not in (layers if isinstance(layers, list) else [layers]):
            return None
        return self._first(self.rank_pattern, name, self.r), self._first(self.alpha_pattern, name, self.lora_alpha)

    def _meant(self, key, targets, name):
        """Whether the name is meant by a regular expression, which must fit all of it, or by a list of last parts."""
        if isinstance(targets, str):
            return self._expressions[key].fullmatch(name) is not None
        return any(name == target or name.endswith(f".{target}") for target in targets or ())

    def _first(self, pattern, name, default):
        """The value of the first regular expression that fits. PEFT: get_pattern_key."""
        return next((value for text, value in pattern.items()
                     if self._expressions["pattern", text].match(name)), default)


def read_config(file):
    """adapter_config.json -> PeftConfig. Raises: ValueError for what is damaged, or more than a plain LoRA."""
    with open(file, "rb") as opened:
        text = opened.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"more than {LARGEST:,} bytes for the settings of an adapter")
    try:
        settings = json.loads(text.decode("utf-8"))
        if not isinstance(settings, dict) or "peft_type" not in settings:
            raise ValueError("these are no settings of an adapter: there is no peft_type")
        known = {part.name for part in fields(PeftConfig)}
        for key in sorted(settings.keys() - known - NO_MATTER):
            if settings[key]:    # null, false and the like: switched off
                raise ValueError(f"{key} is {settings[key]!r:.60}: that is more than a plain LoRA")
        return PeftConfig(**{key: settings[key] for key in settings.keys() & known})
    except (RecursionError, TypeError) as error:    # [[[[ and so on; a list in a place that must be hashed
        raise ValueError(f"these are no settings of an adapter ({error})") from None


def is_rank(value):
    return type(value) is int and value >= 1


def is_number(value):
    return type(value) in (int, float) and abs(value) < 1e30    # which a NaN is not


def is_list(value, kind):
    return type(value) is list and all(type(item) is kind for item in value)


def is_pattern(value, right):
    return type(value) is dict and len(value) <= 256 and all(map(right, value.values()))    # gpt2-xl has 192 layers


def compiled(patterns):
    """The regular expressions of {key: text}. ValueError for one that is none, and if they are not sure to be quick.

    Years are what a repetition in a repetition takes, (a+)+, so none may follow a group, and (?x), which lets a space
    stand between the two, is refused. What is left tries each place in a name for each repetition, and both ways for
    each alternative, at the most: the product is kept small.
    """
    ways = [30 ** len(re.findall(r"[*+{]", text)) * 2 ** len(re.findall(r"[|?]", text.replace("(?:", "(")))
            for text in patterns.values()]
    if sum(ways) > 2_000_000 or any(re.search(r"\)[*+{]|\(\?[a-zA-Z]*x", text) for text in patterns.values()):
        raise ValueError("its patterns could take very long to match: write the names of the layers in full")
    try:
        return {key: re.compile(text if key in TARGETS else rf"(.*\.)?({text})$") for key, text in patterns.items()}
    except (re.error, OverflowError) as error:
        raise ValueError(f"one of its patterns is no regular expression ({error})") from None
