"""The ledger: which tensors a model holds, and what a surgery (swap, freeze, inject, merge) has done to them.

Read along: chapters/07_lora_writer.py.
"""

import re
import zlib
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class Row:
    """One tensor of a model, under the first of its names."""

    name: str
    shape: tuple
    dtype: torch.dtype
    trainable: bool
    also: tuple             # its other names where it is tied: ("out_head.weight",)
    is_parameter: bool      # False: a buffer, such as the weight that a merged LoRA layer keeps to unmerge
    checksum: int | None    # see `checksum`

    @property
    def count(self):
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def bytes(self):
        return self.count * self.dtype.itemsize


class Change(NamedTuple):
    """What has happened to one tensor: its Row before, None if it is new, and its Row after, None if it is gone."""

    what: str    # "appeared", "disappeared", or one or more of: renamed, shape, dtype, frozen, trains, values, ties
    before: Row | None
    after: Row | None


def ledger(model):
    """A Row for each parameter and each buffer of a model, in its order, tied ones once. No tensor is held.

    The checksums read every number, 0.5 GB for 124M: 0.1 s on one CPU core. A model on the meta device has none.
    """
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    names = {}
    for name, tensor in tensors:
        names.setdefault(id(tensor), []).append(name)
    return [Row(name, tuple(tensor.shape), tensor.dtype, tensor.requires_grad, tuple(names[id(tensor)][1:]),
                isinstance(tensor, torch.nn.Parameter), checksum(tensor))
            for name, tensor in tensors if names[id(tensor)][0] == name]


def checksum(tensor):
    """CRC-32 of a tensor's bytes, row after row; None on the meta device, where there are no numbers.

    Every change of one float32 changes it; of larger changes one in 4,294,967,296 goes unnoticed.
    """
    if tensor.is_meta:
        return None
    return zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def ledger_changes(before, after):
    """What has changed: a list of Change, in the order of the ledger `after`, what has disappeared first.

    A layer that has moved into a LoRA layer is renamed: W_query.weight is W_query.linear.weight there. A tensor that
    keeps its shape, type, numbers, ties and trainability (`_differences` names what differs) is not in the list.

    Input: before, after: two ledgers of one model, lists of Row
    """
    old, new = ({row.name.replace(".linear.", "."): row for row in rows} for rows in (before, after))
    changes = [Change("disappeared", row, None) for name, row in old.items() if name not in new]
    for name, row in new.items():
        what = _differences(old[name], row) if name in old else ["appeared"]
        if what:
            changes.append(Change(", ".join(what), old.get(name), row))
    return changes


def _differences(old, new):
    plain = [[name.replace(".linear.", ".") for name in row.also] for row in (old, new)]
    found = {"renamed": old.name != new.name, "shape": old.shape != new.shape, "dtype": old.dtype != new.dtype,
             "frozen": old.trainable and not new.trainable, "trains": new.trainable and not old.trainable,
             "values": (old.shape, old.dtype) == (new.shape, new.dtype) and old.checksum != new.checksum,
             "ties": plain[0] != plain[1]}
    return [what for what, is_so in found.items() if is_so]


def format_ledger(rows):
    """The rows as text, one line for a tensor that is the same in several blocks: name, shape, how many such tensors,
    the numbers in all of them, a note. The last line counts what trains: parameters, not buffers.
    """
    lines = []
    for names, row, n in _fold(rows, lambda row: (row.shape, row.dtype, row.trainable, row.is_parameter)):
        name, *others = names
        notes = ["trains"] * row.trainable + ["buffer"] * (not row.is_parameter) + [f"also {other}" for other in others]
        lines.append(f"{name:42} {row.shape!s:13} x {n:<2} {row.count * n:>12,}  {', '.join(notes)}".rstrip())
    trains = sum(row.count for row in rows if row.is_parameter and row.trainable)
    total = sum(row.count for row in rows if row.is_parameter)
    size = sum(row.bytes for row in rows)
    return "\n".join([*lines, f"{trains:,} of {total:,} parameters train; all tensors {size / 1e6:,.1f} MB"])


def format_changes(changes):
    """The changes as text, folded as in `format_ledger`: what, name, shape, how many such tensors."""
    what = {change.after or change.before: change.what for change in changes}
    return "\n".join(f"{what[row]:20} {names[0]:42} {row.shape!s:13} x {n}"
                     for names, row, n in _fold(what, lambda row: (what[row], row.shape)))


def _fold(rows, same):
    """Put rows together that differ only in the number of their block.

    Input: same, a function: Row -> what must be equal besides its names
    Output: for each group the names, with the blocks' numbers as "0-11", its first Row, and how many there are
    """
    groups = {}
    for row in rows:
        names = tuple(re.sub(r"(?<=\.)\d+", "{}", name, count=1) for name in (row.name, *row.also))
        groups.setdefault((names, same(row)), []).append(row)
    for (names, _), group in groups.items():
        numbers = [int(re.search(r"\.(\d+)", row.name)[1]) for row in group if "{}" in names[0]]
        yield [name.replace("{}", _ranges(numbers)) for name in names], group[0], len(group)


def _ranges(numbers):
    """[0, 1, 2, 5] -> "0-2,5"."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return ",".join(f"{start}-{end}" if start < end else f"{start}" for start, end in zip(starts, ends, strict=True))
