"""An adapter is all that LoRA training made: a file of a few megabytes to lay over a base model of any size.

Read along: chapters/06_lora_spam.py. The file is safetensors: `<layer>.lora.A`, `<layer>.lora.B`, `out_head.weight` and
`out_head.bias`, and one JSON text of metadata that says how to put them to use.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from gpt.classify import swap_head
from gpt.files import written_whole
from gpt.lora import LinearWithLoRA, lora_layers


@dataclass(frozen=True)
class Adapter:
    """What a reader of an adapter has to know besides its tensors."""

    base: str             # the name of the base model, such as "mini"
    fingerprint: str      # of the base model's weights: see `fingerprint`
    labels: list          # the classes' names, [] for a language model
    pad_to: int | None    # None: read at the last real token; a number: padded to it and read at the last position
    layers: dict          # name of a layer -> {"rank", "alpha", "scale"}; "shares_a" names the layer whose A it uses


def fingerprint(model):
    """sha256 over the base model's weights as they were before any adapter: other weights, other fingerprint.

    LoRA layers, a merged update and the head are left out; names and shapes count.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_base_tensors(model).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _base_tensors(model):
    tensors = {name: p for name, p in model.named_parameters() if ".lora." not in name and not name.startswith("out_head")}
    for name, layer in lora_layers(model):
        if layer.original is not None:
            tensors[f"{name}.linear.weight"] = layer.original
    return {name.replace(".linear.", "."): tensor for name, tensor in tensors.items()}


def save_adapter(model, file, *, base, labels=(), pad_to=None):
    """Write the model's LoRA tensors, its head (if it was swapped) and what is needed to use them.

    Input: base, the name of the base model; labels, the classes' names; pad_to: see Adapter
    Raises: ValueError where something else was trained too, which the file would lose
    """
    layers, tensors, owners = {}, {}, {}
    for name, layer in lora_layers(model):
        layers[name] = {"rank": layer.lora.rank, "alpha": layer.lora.alpha, "scale": layer.lora.rule}
        owner = owners.setdefault(id(layer.lora.A), name)
        if owner != name:
            layers[name]["shares_a"] = owner
        tensors |= {f"{owner}.lora.A": layer.lora.A, f"{name}.lora.B": layer.lora.B}
    head = _plain_head(model)
    if head.weight is not model.tok_emb.weight:
        tensors |= {f"out_head.{name}": p for name, p in head.named_parameters()}
    kept = {id(tensor) for tensor in tensors.values()}
    lost = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in kept]
    if lost or not layers:
        raise ValueError(f"an adapter holds LoRA layers and a head, this model trains {lost or 'no LoRA layer'}")
    adapter = Adapter(base, fingerprint(model), list(labels), pad_to, layers)
    with written_whole(file) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary,
                  metadata={"adapter": json.dumps(asdict(adapter))})


def load_adapter(model, file):
    """Lay an adapter over a model, in place, taking off the one that it wears; the base weights are not read again.

    Output: Adapter, the metadata
    Raises: ValueError, before anything is changed, for a damaged file, another base model, and tensors that are
        missing, left over, or of another shape than the model wants
    """
    adapter, tensors = read_adapter(file)
    if adapter.fingerprint != (here := fingerprint(model)):
        raise ValueError(f"{file} was trained on {adapter.base!r} with weights {adapter.fingerprint[:12]}..., "
                         f"this model's are {here[:12]}...: load the same base first")
    _check_tensors(model, adapter, tensors, file)
    remove_adapter(model)
    model.requires_grad_(False)
    if "out_head.weight" in tensors:
        swap_head(model, len(tensors["out_head.weight"]))
    for name, options in adapter.layers.items():
        parent, _, child = name.rpartition(".")
        layer = LinearWithLoRA(model.get_submodule(name), options["rank"], options["alpha"], scale=options["scale"])
        if "shares_a" in options:
            layer.lora.A = model.get_submodule(options["shares_a"]).lora.A
        setattr(model.get_submodule(parent), child, layer)
    with torch.no_grad():
        for name, tensor in tensors.items():
            module, _, parameter = name.rpartition(".")
            module = _plain_head(model) if module == "out_head" else model.get_submodule(module)
            getattr(module, parameter).copy_(tensor)
    _plain_head(model).requires_grad_("out_head" not in adapter.layers and "out_head.weight" in tensors)
    return adapter


def remove_adapter(model):
    """The base language model again, in place: no LoRA, weights unmerged, the head tied to the token embedding."""
    for name, layer in list(lora_layers(model)):
        if layer.original is not None:
            layer.unmerge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.linear)
    if model.out_head.weight is not model.tok_emb.weight:
        weight = model.tok_emb.weight
        model.out_head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        model.out_head.weight = weight


def read_adapter(file):
    """The metadata and the tensors of an adapter file: (Adapter, {name: tensor}). Raises: ValueError if it is damaged."""
    try:
        with safe_open(file, framework="pt") as opened:
            adapter = Adapter(**json.loads((opened.metadata() or {})["adapter"]))
            return adapter, {name: opened.get_tensor(name) for name in opened.keys()}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a whole adapter file ({type(error).__name__}: {error})") from error


def _check_tensors(model, adapter, tensors, file):
    """Compare names and shapes of a file's tensors with what the adapter's layers want of this model."""
    C, K = model.config.emb_dim, len(adapter.labels)
    wanted = {"out_head.weight": (K, C), "out_head.bias": (K,)} if K else {}
    for name, options in adapter.layers.items():
        try:
            layer = model.get_submodule(name)
        except AttributeError:
            raise ValueError(f"{file}: this model has no layer {name}") from None
        layer = getattr(layer, "linear", layer)
        out = K if name == "out_head" and K else layer.out_features
        wanted[f"{options.get('shares_a', name)}.lora.A"] = (layer.in_features, options["rank"])
        wanted[f"{name}.lora.B"] = (options["rank"], out)
    for name in sorted(wanted.keys() | tensors.keys()):
        there = tuple(tensors[name].shape) if name in tensors else "nothing"
        if there != wanted.get(name, "nothing"):
            raise ValueError(f"{file}: {name}: the model wants {wanted.get(name, 'nothing')}, the file has {there}")


def _plain_head(model):
    """The head's linear layer, whether or not a LoRA is around it."""
    return getattr(model.out_head, "linear", model.out_head)
