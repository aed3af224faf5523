"""Tensors by name -> a GPTModel, strictly: every parameter is written exactly once, and nothing is left over.

All loaders of gpt/weights.py end here. Read along: chapters/04_weights.py.
"""

import re

import torch
from torch.overrides import TorchFunctionMode

from gpt.config import GPT2_SIZES, GPTConfig
from gpt.model import GPTModel

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MOST_LAYERS = 1000    # the largest GPT-2 has 48; a hostile file could claim millions


def sizes(tensors):
    """What the tensors themselves tell of their config: {field of GPTConfig: value}. The heads leave no trace."""
    for name in ("tok_emb.weight", "pos_emb.weight"):
        if name not in tensors or tensors[name].ndim != 2:
            raise ValueError(f"{name} is missing or not a matrix: is this a GPT-2 at all?")
    vocab_size, emb_dim = tensors["tok_emb.weight"].shape
    blocks = {match[1] for name in tensors if (match := re.match(r"trf_blocks\.([0-9]+)\.", name))}
    if len(blocks) > MOST_LAYERS:
        raise ValueError(f"{len(blocks)} blocks: the largest GPT-2 has 48")
    return {"vocab_size": vocab_size, "context_length": tensors["pos_emb.weight"].shape[0], "emb_dim": emb_dim,
            "n_layers": len(blocks), "qkv_bias": any(name.endswith("W_query.bias") for name in tensors)}


def config_of(tensors, n_heads=None):
    """The GPTConfig of tensors that came without one. n_heads None: a head for every 64 channels, as in GPT-2."""
    found = sizes(tensors)
    if n_heads is None:
        if found["emb_dim"] % 64:
            raise ValueError(f"{found['emb_dim']} channels do not make heads of 64, as GPT-2's are: give n_heads, "
                             f"which the file does not tell")
        n_heads = found["emb_dim"] // 64
    return GPTConfig(**found, n_heads=n_heads)


class NothingDrawn(TorchFunctionMode):
    """Inside, no tensor is filled from N(0, 0.02): on the meta device there is nothing to fill, and the first try
    makes torch import what it needs to reason about symbolic shapes, which takes a second.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return None if function.__name__ == "normal_" else function(*args, **kwargs or {})


def blank(config):
    """A GPTModel whose parameters have shapes but no memory and no numbers."""
    with torch.device("meta"), NothingDrawn():
        return GPTModel(config)


def check_tensors(wanted, tensors):
    """Hold tensors against the parameters of a model: the same names, the same shapes, and float32,
    float16 or bfloat16.

    Input: wanted {name: parameter}; tensors {name: torch.Tensor}
    Raises: ValueError, a line for each of the first ten faults: the tensor, both shapes, the likely cause
    """
    faults = []
    for name in sorted(wanted.keys() | tensors.keys()):
        wants = tuple(wanted[name].shape) if name in wanted else "no such tensor"
        has = tuple(tensors[name].shape) if name in tensors else "none"
        if wants != has:
            faults.append(f"{name}: the model wants {wants}, the file has {has}: {likely_cause(name, wants, has)}")
        elif tensors[name].dtype not in FLOATS:
            faults.append(f"{name}: the file has {tensors[name].dtype}, not float32, float16 or bfloat16: is it "
                          f"quantized, or no weight at all?")
    if len(faults) > 10:
        faults[10:] = [f"and {len(faults) - 10} more"]
    if faults:
        raise ValueError("\n".join(faults))


def likely_cause(name, wants, has):
    """Why a tensor is not what the model wants, as a question. Where one of them has no shape, it is a text."""
    if name.startswith("out_head"):
        return "was the head swapped or untied? Load first, swap then"
    if name.endswith(("W_query.bias", "W_key.bias", "W_value.bias")) and isinstance(wants, str):
        return "was the model built with qkv_bias=False? GPT-2 has these biases"
    if isinstance(wants, str) or isinstance(has, str):
        return "is it another kind of model, one of another depth, or one with LoRA in it?"
    if name == "pos_emb.weight" and wants[1:] == has[1:]:
        return "was the model built with another context_length?"
    if has == wants[::-1]:
        return "is it transposed? A linear weight is (out, in) here"
    for size, config in GPT2_SIZES.items():
        if config.emb_dim in has and config.emb_dim not in wants:
            return f"is this the {size} checkpoint?"
    return "is it of another size, or damaged?"


@torch.no_grad()
def assemble(config, tensors):
    """A GPTModel in eval mode that holds float32 copies of the tensors, its head tied to its embedding."""
    for field, found in sizes(tensors).items():
        if getattr(config, field) != found:
            raise ValueError(f"{field} is said to be {getattr(config, field)}, the tensors make it {found}: is "
                             f"something damaged, or of two checkpoints?")
    model = blank(config)
    check_tensors(dict(model.named_parameters()), tensors)
    state = {name: torch.empty(tensor.shape).copy_(tensor) for name, tensor in tensors.items()}
    model.load_state_dict(state | {"out_head.weight": state["tok_emb.weight"]}, assign=True)
    model.out_head.weight = model.tok_emb.weight
    return model.eval()


def drop_tied_head(tensors):
    """Without the file's own copy of the head, which must be the embedding's: here the two are one matrix."""
    head = tensors.get("out_head.weight")
    if head is not None and not torch.equal(head, tensors.get("tok_emb.weight", torch.empty(0))):
        raise ValueError("out_head.weight differs from tok_emb.weight, so this model was trained untied or has a "
                         "new head. Here they are one matrix, as in GPT-2, and one of the two would be lost")
    return {name: tensor for name, tensor in tensors.items() if name != "out_head.weight"}
