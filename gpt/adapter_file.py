"""The file of an adapter: safetensors with the LoRA's tensors, the head, and a JSON text that says how to use them.

`<layer>.lora.A` (in, r) and `<layer>.lora.B` (r, out) for each layer; `out_head.weight` and `out_head.bias` where the
model has classes. Read along: chapters/06_lora_spam.py.
"""

import json
import math
from dataclasses import asdict, dataclass

from safetensors.torch import save_file

from gpt.files import written_whole
from gpt.lora import SCALES
from gpt.tensor_files import about, read_safetensors


@dataclass(frozen=True)
class Adapter:
    """What a reader of an adapter has to know besides its tensors."""

    base: str             # the name of the base model, such as "mini"
    fingerprint: str      # of the base model's weights: see `fingerprint`
    labels: list          # the classes' names, [] for a language model
    pad_to: int | None    # None: read at the last real token; a number: padded to it and read at the last position
    layers: dict          # name of a layer -> {"rank", "alpha", "scale"}; "shares_a" names the layer whose A it uses

    def __post_init__(self):
        texts = [self.base, self.fingerprint, *self.labels]
        if not all(isinstance(text, str) for text in texts) or not isinstance(self.labels, list):
            raise ValueError(f"base, fingerprint and each of the labels must be a text, got {texts}")
        if not (self.pad_to is None or type(self.pad_to) is int and self.pad_to > 0):
            raise ValueError(f"pad_to must be a number of tokens or null, got {self.pad_to!r}")
        for name, options in self.layers.items():
            self._check_layer(name, **options)

    def _check_layer(self, name, rank, alpha, scale, shares_a=None):
        if type(rank) is not int or rank < 1 or not math.isfinite(alpha) or scale not in SCALES:
            raise ValueError(f"{name}: no LoRA has the rank {rank!r}, the alpha {alpha!r} and the scale {scale!r}")
        if shares_a is not None and "shares_a" in self.layers.get(shares_a, {"shares_a": None}):
            raise ValueError(f"{name} shares the A of {shares_a!r}, which has none of its own")


def write_adapter(file, adapter, tensors):
    """Write the metadata and {name: tensor}, whole or not at all."""
    with written_whole(file) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary,
                  metadata={"adapter": json.dumps(asdict(adapter))})


def read_adapter(file):
    """The metadata and the tensors of an adapter file: (Adapter, {name: tensor}). ValueError if it is damaged."""
    with about(file):
        tensors, metadata = read_safetensors(file)
        try:
            return Adapter(**json.loads(metadata["adapter"])), tensors
        except (AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"its metadata are no adapter's ({type(error).__name__}: {error})") from error
