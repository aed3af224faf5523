"""Opens files of named tensors, safetensors and .pth, and lets them do no harm.

A .pth is a pickle, and a pickle is a program: it is read with weights_only=True, which admits tensors and plain
values and nothing else, or it is not read at all. Read along: chapters/04_weights.py.
"""

from contextlib import contextmanager

import torch
from safetensors import SafetensorError, safe_open


@contextmanager
def about(file):
    """A ValueError that is raised inside gets the file's name in front; a damaged safetensors file becomes one."""
    try:
        yield
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{file}: {error}") from error


def read_safetensors(file):
    """A safetensors file -> {name: tensor}, {key: text}: the tensors and the metadata."""
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}


def read_state_dict(file):
    """A .pth, of a state_dict alone or of one under "model_state_dict" beside an optimizer's -> {name: tensor}."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:    # a damaged file can make the unpickler stumble in any way
        raise ValueError("refused by torch.load(weights_only=True): it is damaged or holds more than tensors. "
                         f"To unpickle it in another way would run any program that it holds ({error})") from error
    if isinstance(state, dict):
        state = state.get("model_state_dict", state)
    if not isinstance(state, dict) or not all(isinstance(name, str) and is_plain(state[name]) for name in state):
        raise ValueError("it is no state_dict, which is a dict of named tensors")
    return state


def is_plain(tensor):
    """Whether the file holds all the tensor's numbers: with strides of 0 one number could stand for terabytes."""
    return (isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
            and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes())
