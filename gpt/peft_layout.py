"""One LoRA update in the layout of PEFT: lora_A is (r, in), lora_B (out, r), and query, key and value are one layer.

Hugging Face's c_attn computes q, k and v side by side, so it takes one update where we have up to three:

    lora_A = [A_q^T; A_k^T; A_v^T]  (R, in)     the distinct A's, one below the other; R is the sum of their ranks
    lora_B = [B_q^T  0      0    ]  (3 C, R)    q's outputs read q's columns, and so on; what has no LoRA has zeros
             [0      B_k^T  0    ]
             [0      0      B_v^T]

Where they share an A it is there once. Every other layer is the case of one part.

Read along: chapters/07_lora_writer.py. Source: Hugging Face's GPT-2 and peft 0.21.2. Shape letters: gpt/__init__.py.
"""

import math
from typing import NamedTuple

import torch

from gpt.lora import SCALES

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
