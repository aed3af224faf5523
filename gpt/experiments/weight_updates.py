"""The update dW of a fine-tuned weight: its directions, how strong each is, which of them two updates share.

An update is a triple (U, S, Vh) with dW = U diag(S) Vh, (out, in) like the weight of an nn.Linear. The columns of U
(out, k) are the directions that it writes, the rows of Vh (k, in) those that it reads, S (k,) their strengths in
descending order. Everything is computed on the CPU in float64.

Read along: chapters/08_lora_inside.py. Source: Hu et al. 2021, sections 7.2 and 7.3, appendices G and H.
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

    The columns of Qa and Qb are orthonormal, so they turn the SVD of the r x r matrix in the middle into that of dW.
    That takes about (in + out) r^2 steps, where an SVD of dW takes in * out * min(in, out).

    Input: A (in, r), B (r, out), as gpt/lora.py has them; scale, a number. Output: (U, S, Vh), k = min(r, in, out)
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
    """The update of every linear layer: {name: (U, S, Vh)} of dW = tuned - base; S is 0 where nothing trained.

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


@torch.no_grad()
def with_updates_cut(tuned, updates, rank):
    """A copy of a tuned model whose weights keep only the `rank` strongest directions of each dW.

    That is the matrix of this rank that is nearest to dW (Eckart and Young 1936). Rank 0 gives W. The other directions
    are subtracted, so a rank that cuts nothing changes no bit. What has no update (biases, norms, a new head) stays.

    Input: tuned, a module; updates, what lora_updates or weight_updates gave for it, or some of it; rank, 0 or more
    """
    model = copy.deepcopy(tuned)
    for name, (U, S, Vh) in updates.items():
        layer = model.get_submodule(name)
        weight = getattr(layer, "linear", layer).weight    # of a LoRA layer W, because W + dW is what is cut
        weight.copy_(in_float64(weight) - (U[:, rank:] * S[rank:]) @ Vh[rank:])       # (out, in)
    return model


def subspace_similarity(first, second):
    """How much of the strongest directions of one matrix lies among those of another, for any number of each.

        phi(i, j) = ||U_i^T V_j||_F^2 / min(i, j)

    The columns of U_i and V_j are the i and j strongest left-singular directions. 1: the smaller subspace lies in the
    larger. 0: they are at right angles. For A (in, r) these are the directions that a LoRA reads. (The paper's A is the
    transpose, so it takes right-singular ones.) For an update pass `Vh.T * S`, or `U * S` for the directions that it
    writes, because without S all of them are equally strong.

    Input: (in, r1), (in, r2), r1 and r2 at most `in`. Output: (r1, r2), 0..1; phi(i, j) is at [i - 1, j - 1]
    Raises: ValueError with both shapes where they do not fit; for a matrix of zeros, which has no directions
    Source: Hu et al. 2021, section 7.2, equation 4
    """
    shapes = tuple(first.shape), tuple(second.shape)
    if {len(shape) for shape in shapes} != {2} or shapes[0][0] != shapes[1][0] or any(r > n for n, r in shapes):
        raise ValueError(f"matrices {shapes[0]} and {shapes[1]} should be (in, r1) and (in, r2): transposed?")
    if not (first.any() and second.any()):
        raise ValueError("a matrix of zeros has no directions: was it trained? (B starts at zero)")
    U, V = (torch.linalg.svd(in_float64(matrix), full_matrices=False)[0] for matrix in (first, second))
    inside = (U.T @ V).square().cumsum(0).cumsum(1)                                   # (r1, r2)
    i, j = torch.arange(1, shapes[0][1] + 1), torch.arange(1, shapes[1][1] + 1)       # (r1,), (r2,)
    return (inside / torch.minimum(i[:, None], j)).clamp(max=1)                       # (r1, r2), rounding may exceed 1


def random_similarity(in_dim, first_rank, second_rank):
    """The mean of subspace_similarity for two independent random matrices, which share nothing: max(i, j) / in.

    A random subspace of j out of `in` dimensions holds on average j / in of the squared length, 1, of a unit vector. So
    it holds i j / in of i unit vectors; divided by min(i, j) that is max(i, j) / in. So high ranks look alike.

    Output: (first_rank, second_rank), 0..1; phi(i, j) is at [i - 1, j - 1]
    """
    i, j = torch.arange(1, first_rank + 1), torch.arange(1, second_rank + 1)
    return torch.maximum(i[:, None], j).double() / in_dim                             # (first_rank, second_rank)


def amplification(update, W, rank):
    """How strong an update is, compared with what the weight already has in the update's own directions.

        factor = ||dW||_F / ||U^T W V||_F,    U (out, rank), V (in, rank): dW's strongest directions

    The factor alone says little: twice the dW has twice the factor, and a dW that avoids W has a large one (inf where W
    has nothing). To see whether dW amplifies what W has, compare ||U^T W V||_F with its value in W's own strongest
    directions, the largest possible, and in random ones, rank ||W||_F / sqrt(in out), a root mean square.

    Input: update, (U, S, Vh), cut to `rank` where it has more; W (out, in) without dW: of a merged layer its `original`
    Output: {"dW": ||dW||_F, "W": ||W||_F, ||U^T W V||_F as "in dW", "in W" and "in random" directions, "factor"}
    Raises: ValueError for a rank that the update does not have, for W of another shape, and where dW is 0
    Source: Hu et al. 2021, section 7.3, table 7, and appendix H.4
    """
    U, S, Vh = update
    if W.shape != (len(U), Vh.shape[1]) or not 1 <= rank <= len(S) or not S[rank - 1] > 1e-12 * S[0]:
        above = int((S > 1e-12 * S.max()).sum())    # what rounding leaves is no direction
        raise ValueError(f"rank {rank} of an update of {(len(U), Vh.shape[1])} with {above} of {len(S)} "
                         f"directions above 0, beside W {tuple(W.shape)}: is W transposed, or nothing trained?")
    W = in_float64(W)
    dW = S[:rank].norm()
    there = (U[:, :rank].T @ W @ Vh[:rank].T).norm()
    found = {"dW": dW, "W": W.norm(), "in dW": there, "in W": torch.linalg.svdvals(W)[:rank].norm(),
             "in random": rank * W.norm() / W.numel() ** 0.5, "factor": dW / there}
    return {name: number.item() for name, number in found.items()}


def effective_rank(singular_values):
    """How many directions an update has when weak ones count for less: e to the entropy of the shares of S.

        exp(-sum_i p_i ln p_i),    p_i = s_i / sum_j s_j

    k equal values give k; one large value among k - 1 tiny ones gives little more than 1, where counting the values
    that are not 0 gives k. The shares are of the values; `energy` takes their squares, where weak directions vanish.

    Output: 1..k, a plain number. Raises: ValueError for a negative value, and where all are 0
    Source: Roy and Vetterli 2007
    """
    s = in_float64(singular_values)
    if not (s.min() >= 0 and s.max() > 0):
        raise ValueError(f"singular values from {s.min()} to {s.max()} have no effective rank: was nothing trained?")
    return torch.special.entr(s / s.sum()).sum().exp().item()    # entr(p) = -p ln p, and 0 at 0


def energy(singular_values, rank):
    """The share of ||dW||_F^2 in the `rank` largest singular values: the sum of their squares over that of all.

    Output: 0..1. Raises: ValueError where all are 0
    """
    squares = in_float64(singular_values).square().sort(descending=True).values
    if not squares.any():
        raise ValueError("all singular values are 0: was nothing trained?")
    return (squares[:rank].sum() / squares.sum()).item()
