"""An adapter is a small file of all that LoRA training made, to lay over its base model (11 MB for 124M at rank 16).

The file is safetensors: `<layer>.lora.A` (in, r) and `<layer>.lora.B` (r, out) for each layer, `out_head.weight` and
`out_head.bias` where the model has classes, a JSON text that says how to use them (`Adapter`), and the sha256 of all
this, because one flipped bit would give other labels without a word.

Read along: chapters/06_lora_spam.py.
"""

import json
import math
import unicodedata
from dataclasses import asdict, dataclass

import torch
from safetensors.torch import save_file
from torch import nn

from gpt.classify import swap_head
from gpt.lora import SCALES, LinearWithLoRA, lora_layers
from gpt.model import scores_tokens, unwrapped
from gpt.storage.files import BadFile, naming_file, read_safetensors, sha256_of, written_whole


@dataclass(frozen=True)
class Adapter:
    """What a reader of an adapter has to know besides its tensors."""

    base: str             # the name of the base model, such as "mini"
    fingerprint: str      # of the base model's weights: see the function `fingerprint`
    labels: list          # the classes' names, [] for a language model
    pad_to: int | None    # None: read at the last real token; a number: padded to it and read at the last position
    layers: dict          # layer's name -> its rank, alpha, scale; perhaps dropout; perhaps shares_a, whose A it uses

    def __post_init__(self):
        texts = [self.base, self.fingerprint, *self.labels]
        if not all(isinstance(text, str) and text for text in texts) or not isinstance(self.labels, list):
            raise ValueError(f"base and fingerprint must be a text and labels a list of texts, got {texts}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"each class needs a label of its own, got {self.labels}")
        if any(unicodedata.category(character) == "Cc" for character in "".join(self.labels)):
            raise ValueError(f"a label holds a control character, which a terminal would obey: {self.labels}")
        if not (self.pad_to is None or type(self.pad_to) is int and self.pad_to > 0):
            raise ValueError(f"pad_to must be a number of tokens or null, got {self.pad_to!r}")
        for name, options in self.layers.items():
            self._check_layer(name, **options)

    def _check_layer(self, name, rank, alpha, scale, shares_a=None, dropout=0.0):
        if (type(rank) is not int or rank < 1 or not math.isfinite(alpha) or scale not in SCALES
                or not 0 <= dropout <= 1):
            raise ValueError(f"{name}: no LoRA has the rank {rank!r}, the alpha {alpha!r}, the scale {scale!r} and the "
                             f"dropout {dropout!r}")
        if shares_a is not None and "shares_a" in self.layers.get(shares_a, {"shares_a": None}):
            raise ValueError(f"{name} shares the A of {shares_a!r}, which has none of its own")


def save_adapter(model, file, *, base, labels=(), pad_to=None):
    """Write a model's LoRA tensors, its head (if it was swapped) and what is needed to use them.

    The model, merged or not, stays as it is. The top of gpt/adapters.py describes tensors and metadata. Layers have
    their names without LoRA. A head that has a LoRA goes into the file as it was before merging (`_plain_tensors` gives
    it). An A that several layers share is written once, for the first of them; the others, and only they, say in
    "shares_a" whose it is.

    Input: base, the name of the base model; labels, the classes' names; pad_to: see Adapter (None: model.pad_to)
    Raises: ValueError, with the names, where something else trains too (`trained_besides`), because the file would lose
        it; where there is no LoRA layer; for what an Adapter and `_check_tensors` refuse: labels that do not fit the
        head, a pad_to that is too large, numbers that are not finite
    """
    model = unwrapped(model)
    layers = {}
    owners = {}
    tensors = {} if scores_tokens(model) else {
        name: tensor for name, tensor in _plain_tensors(model).items() if name.startswith("out_head")}
    for name, layer in lora_layers(model):
        layers[name] = {"rank": layer.lora.rank, "alpha": layer.lora.alpha, "scale": layer.lora.rule}
        if layer.lora.dropout.p:
            layers[name]["dropout"] = layer.lora.dropout.p
        owner = owners.setdefault(id(layer.lora.A), name)
        if owner != name:
            layers[name]["shares_a"] = owner
        tensors |= {f"{owner}.lora.A": layer.lora.A, f"{name}.lora.B": layer.lora.B}
    lost = trained_besides(model)
    if lost or not layers:
        what = f"trains or has changed {lost}" if lost else "has no LoRA layer"
        raise ValueError(f"an adapter holds only LoRA layers and a head, but this model {what}")
    adapter = Adapter(base, fingerprint(model), list(labels), pad_to or getattr(model, "pad_to", None), layers)
    _check_tensors(model, adapter, tensors, file)
    write_adapter(file, adapter, tensors)


def load_adapter(model, file):
    """Lay an adapter over a model, in place, and take off the one that it has; the base weights are not read again.

    Each layer gets its LoRA with the rank, alpha, scale and dropout of the file; layers that shared an A share one
    again, the same Parameter. Where the file has labels, the model gets a head for as many classes. Afterwards
    everything is frozen except each A and B, and a head of classes that has no LoRA. pad_to becomes model.pad_to, which
    `gpt.classify.classify` uses, and which the exports refuse, because their formats have no place for it.

    Output: Adapter, the metadata
    Raises: ValueError that begins with the file's name, before anything is changed, for a damaged file (`read_adapter`
        finds that), another base model (one with another `fingerprint`; the message says "load the same base first"),
        a language model whose head is not its embedding, and tensors that are missing, left over, not finite, or not of
        the shape and type that the model wants (`_check_tensors`)
    """
    model = unwrapped(model)
    adapter, tensors = read_adapter(file)
    here = fingerprint(model)
    if adapter.fingerprint != here:
        raise BadFile(f"{file} was trained on {adapter.base!r} with weights {adapter.fingerprint[:12]}..., this "
                      f"model's are {here[:12]}...: load the same base first, in the type that it had in training, as "
                      f"a rule float32, and convert it afterwards (gpt.cost.precision.hold)")
    if adapter.labels:
        with naming_file(file):
            refuse_to_lose_head(model)
    _check_tensors(model, adapter, tensors, file)
    remove_adapter(model)
    model.requires_grad_(False)
    if adapter.labels:
        swap_head(model, len(adapter.labels))
    for name, options in adapter.layers.items():
        layer = LinearWithLoRA(model.get_submodule(name), options["rank"], options["alpha"], scale=options["scale"],
                               dropout=options.get("dropout", 0.0))
        model.set_submodule(name, layer)
    for name, options in adapter.layers.items():
        if options.get("shares_a") is not None:
            model.get_submodule(name).lora.A = model.get_submodule(options["shares_a"]).lora.A
    for name, tensor in tensors.items():
        module, _, parameter = name.rpartition(".")
        module = plain_head(model) if module == "out_head" else model.get_submodule(module)
        parameter = getattr(module, parameter)
        parameter.data = tensor.to(parameter.device, copy=True)    # in its own type, whatever the base is held in
    plain_head(model).requires_grad_(bool(adapter.labels) and "out_head" not in adapter.layers)
    model.pad_to = adapter.pad_to
    return adapter


def remove_adapter(model):
    """Make the base language model again, in place: without LoRA, unmerged, a head for classes gone.

    Norms and biases that `import_peft` replaced are put back. What was frozen stays frozen.
    """
    model = unwrapped(model)
    model.pad_to = None
    for name, layer in lora_layers(model):
        if layer.original is not None:
            layer.unmerge()
        model.set_submodule(name, layer.linear)
    for name, tensor in getattr(model, "original_base", {}).items():
        parameter = model.get_parameter(name)
        parameter.data = tensor.to(parameter.device, parameter.dtype)
    model.original_base = {}    # {name: the base's tensor} of those that import_peft replaces
    if not scores_tokens(model):    # tie it again
        weight = model.tok_emb.weight
        model.out_head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        model.out_head.weight = weight
        model.out_head.train(model.training)


def write_adapter(file, adapter, tensors):
    """Write the metadata and {name: tensor}, whole or not at all."""
    notes = asdict(adapter)
    notes["sha256"] = sha256_of(tensors, json.dumps(notes))
    with written_whole(file) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary,
                  metadata={"adapter": json.dumps(notes)})


def read_adapter(file):
    """The metadata and tensors of an adapter file: (Adapter, {name: tensor}). Raises: ValueError if it is damaged."""
    with naming_file(file):
        tensors, metadata = read_safetensors(file)
        try:
            notes = json.loads(metadata["adapter"])
            wanted = notes.pop("sha256", None)    # files from before December 2026 have none
            if wanted is not None and wanted != sha256_of(tensors, json.dumps(notes)):
                raise ValueError("its sha256 is not that of its content: it is damaged")
            return Adapter(**notes), tensors
        except (AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"its metadata are no adapter's ({type(error).__name__}: {error})") from error


def fingerprint(model):
    """The sha256 of the base model's weights as they were before any adapter, so that other weights have another one.

    LoRA layers, a merged update and the head are left out; names, shapes and types of numbers count. Of weights that
    are held in fewer bytes now it is the one from before (`gpt.cost.precision.hold` notes it in model.held_from).
    """
    model = unwrapped(model)
    if is_held(model):
        return model.held_from
    return sha256_of({name: p for name, p in _plain_tensors(model).items() if not name.startswith("out_head")})


def is_held(model):
    """Whether the base's weights are held in fewer bytes than A, B and head (`gpt.cost.precision.hold`)."""
    return getattr(model, "held_from", None) is not None


def trained_besides(model):
    """The names of the parameters outside LoRA and head that train, or that import_peft has changed."""
    trained = [name for name, p in model.named_parameters()
               if p.requires_grad and ".lora." not in name and not name.startswith("out_head")]
    return [*getattr(model, "original_base", {}), *trained]


def plain_head(model):
    """The head's linear layer, whether or not a LoRA is around it."""
    return getattr(model.out_head, "linear", model.out_head)


def is_tied(model):
    """Whether the head is the token embedding, as in a language model, and no head for classes took its place."""
    return plain_head(model).weight is model.tok_emb.weight


def refuse_to_lose_head(model):
    """Raise ValueError for a language model whose head is not its embedding: a head for classes would take its place,
    and `remove_adapter` could not bring it back.
    """
    if scores_tokens(model) and not is_tied(model):
        raise ValueError("this language model's head is a matrix of its own, not its embedding, and would be lost: "
                         "call swap_head first if it is not needed")


def _plain_tensors(model):
    """The parameters as they were before merging and import_peft, named as without LoRA, a tied head left out."""
    tensors = {name: p for name, p in model.named_parameters() if ".lora." not in name}
    tensors |= {f"{name}.linear.weight": layer.original for name, layer in lora_layers(model)
                if layer.original is not None}
    tensors = {name.replace(".linear.", "."): tensor for name, tensor in tensors.items()}
    return tensors | getattr(model, "original_base", {})


def _check_tensors(model, adapter, tensors, file):
    """Compare an adapter's pad_to and its tensors' names, shapes and types with this model. Numbers must be finite."""
    C, K = model.config.emb_dim, len(adapter.labels)
    if (adapter.pad_to or 0) > model.config.context_length:
        raise BadFile(f"{file}: pad_to is {adapter.pad_to}, and this model reads {model.config.context_length} tokens")
    base = model.tok_emb.weight.dtype
    types = (base, torch.promote_types(base, torch.float32))    # a base in 16 bits may have its adapter in 32
    sizes = {name.removesuffix(".linear"): (layer.in_features, layer.out_features)
             for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    sizes["out_head"] = (C, K) if K else None    # without classes it is tied to the token embedding
    wanted = {"out_head.weight": (K, C), "out_head.bias": (K,)} if K else {}
    for name, options in adapter.layers.items():
        if not sizes.get(name):
            raise BadFile(f"{file}: this model has no linear layer {name!r} that could take a LoRA")
        owner = f"{options.get('shares_a') or name}.lora.A"
        A = (sizes[name][0], options["rank"])
        if wanted.setdefault(owner, A) != A:
            raise BadFile(f"{file}: {name} wants an A of {A} and shares one of {wanted[owner]}")
        wanted[f"{name}.lora.B"] = (options["rank"], sizes[name][1])
    for name in sorted(wanted.keys() | tensors.keys()):
        dtype = tensors[name].dtype if name in tensors and tensors[name].dtype in types else types[0]
        want = f"{wanted[name]} {dtype}" if name in wanted else "nothing"
        have = f"{tuple(tensors[name].shape)} {tensors[name].dtype}" if name in tensors else "nothing"
        if want != have:
            raise BadFile(f"{file}: {name}: this model with {K} labels wants {want}, the adapter has {have}")
        if not tensors[name].isfinite().all():
            raise BadFile(f"{file}: {name} holds numbers that are not finite: did the training diverge?")
