"""The update dW of a fine-tuned weight: its directions, how strong each is, and the model with fewer of them.

An update is a triple here, (U, S, Vh) with dW = U diag(S) Vh, (out, in) like the weight of an nn.Linear. The columns of
U (out, k) are the directions that it writes, the rows of Vh (k, in) those that it reads, S (k,) is how strong each is,
the strongest first. Everything is computed on the CPU in float64.

Read along: chapters/08_lora_inside.py. What they are to other updates and to the weight W: gpt/analysis.py.
"""

import copy

import torch
from torch import nn

from gpt.lora import lora_layers


def in_float64(tensor):
    """A tensor's numbers to compute with: on the CPU, in float64, without gradient."""
    return tensor.detach().cpu().double()    # in this order: Apple's mps has no float64


def svd_of_update(A, B, scale):
    """The singular values and directions of a LoRA's dW = scale * (A B)^T, which is never formed.

        A = Qa Ra,    B^T = Qb Rb,    dW = Qb (scale Rb Ra^T) Qa^T

    The columns of Qa and Qb are orthonormal, so they turn the SVD of the r x r matrix in the middle into that of dW:
    about (in + out) r^2 steps where an SVD of dW takes in * out * min(in, out).

    Input: A (in, r), B (r, out), as gpt/lora.py has them; scale, a number
    Output: (U, S, Vh), k = min(r, in, out)
    Raises: ValueError with both shapes where A and B are not two matrices that fit together
    """
    if A.dim() != 2 or B.dim() != 2 or A.shape[1] != B.shape[0]:
        raise ValueError(f"A {tuple(A.shape)} and B {tuple(B.shape)} should be (in, r) and (r, out): transposed?")
    Qa, Ra = torch.linalg.qr(in_float64(A))                                           # (in, r), (r, r) if r <= in
    Qb, Rb = torch.linalg.qr(in_float64(B).T)                                         # (out, r), (r, r) if r <= out
    U, S, Vh = torch.linalg.svd(scale * Rb @ Ra.T, full_matrices=False)               # (r, r), (r,), (r, r)
    return Qb @ U, S, Vh @ Qa.T                                                       # (out, r), (r,), (r, in)


def lora_updates(model):
    """The update of every LoRA layer, merged or not: {name as in lora_layers: (U, S, Vh)}."""
    return {name: svd_of_update(layer.lora.A, layer.lora.B, layer.lora.scale) for name, layer in lora_layers(model)}


def weight_updates(tuned, base):
    """The update of every linear layer: {name: (U, S, Vh)} of dW = tuned - base; of one that did not train S is 0.

    Input: tuned, base: a module after and before training. A layer of another shape in `base`, a new head, is left out
    Raises: ValueError that names the layer, for one that `base` does not have
    """
    before = {name: layer.weight for name, layer in base.named_modules() if isinstance(layer, nn.Linear)}
    found = {}
    for name, layer in tuned.named_modules():
        if isinstance(layer, nn.Linear):
            if name not in before:
                raise ValueError(f"{name} is no linear layer of the base: has the tuned model LoRA layers?")
            if layer.weight.shape == before[name].shape:
                found[name] = torch.linalg.svd(in_float64(layer.weight) - in_float64(before[name]), full_matrices=False)
    return found


def cut_to_rank(delta, rank):
    """The matrix of at most this rank that is nearest to delta: the first `rank` terms of its SVD. Rank 0 gives zeros.

    Its ||delta - cut||_F is the root of the sum of the squares of the values left out, and none has a smaller one.

    Input: delta (out, in); rank, 0 or more. Output: a tensor like delta. Source: Eckart and Young 1936
    """
    U, S, Vh = torch.linalg.svd(in_float64(delta), full_matrices=False)
    return ((U[:, :rank] * S[:rank]) @ Vh[:rank]).to(delta)                           # (out, in)


@torch.no_grad()
def with_updates_cut(tuned, updates, rank):
    """A copy of a tuned model in which each weight is W + cut_to_rank(dW, rank) in place of W + dW.

    What lies beyond the rank is taken out, so a rank that cuts nothing changes no bit. What has no update stays as it
    was trained: biases, norms, a new head.

    Input: tuned, a module; updates, what lora_updates or weight_updates gave for it, or some of it; rank, 0 or more
    """
    model = copy.deepcopy(tuned)
    for name, (U, S, Vh) in updates.items():
        layer = model.get_submodule(name)
        weight = getattr(layer, "linear", layer).weight    # of a LoRA layer W: it is the sum that is cut
        weight.copy_(in_float64(weight) - (U[:, rank:] * S[rank:]) @ Vh[rank:])       # (out, in)
    return model
