"""All LoRA layers of a model in PEFT's layout, and back: which tensors its file has, and whose they are.

Read along: chapters/07_lora_writer.py. One update by itself: gpt/peft_layout.py. Shape letters: gpt/__init__.py.
"""

import torch

from gpt.lora import lora_layers
from gpt.peft_layout import PARTS, Packed, Part, pack, unpack

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
    Raises: ValueError, see `gpt.peft_adapter.import_peft`
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
