"""What fine-tuning changed: which directions two updates share, how strong they are beside W, and how many they are.

An update is (U, S, Vh), see gpt/updates.py. Everything is computed on the CPU in float64.

Read along: chapters/08_lora_inside.py. Source: Hu et al. 2021, sections 7.2 and 7.3, appendices G and H.
"""

import torch

from gpt.updates import in_float64


def subspace_similarity(first, second):
    """How much of the strongest directions of one matrix lies among those of another, however many of each.

        phi(i, j) = ||U_i^T V_j||_F^2 / min(i, j)

    The columns of U_i and V_j are the i and j strongest left-singular directions. 1: the smaller subspace lies in the
    larger. 0: they are at right angles. Of A (in, r), that is what a LoRA reads; the paper's A is the transpose, so
    there it is the right-singular ones. Of an update pass `Vh.T * S`, or `U * S` for what it writes: without S all
    would be equally strong, and "the strongest" any of them.

    Input: (in, r1), (in, r2), r1 and r2 at most `in`
    Output: (r1, r2), 0..1; phi(i, j) is at [i - 1, j - 1]
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
    """The mean of subspace_similarity where nothing is shared, for two independent random matrices: max(i, j) / in.

    Of the squared length of a unit vector, 1, a random subspace of j out of `in` dimensions holds j / in on average;
    i unit vectors have i j / in in it, and over min(i, j) that is max(i, j) / in. So high ranks look alike.

    Output: (first_rank, second_rank), 0..1; phi(i, j) is at [i - 1, j - 1]
    """
    i, j = torch.arange(1, first_rank + 1), torch.arange(1, second_rank + 1)
    return torch.maximum(i[:, None], j).double() / in_dim                             # (first_rank, second_rank)


def amplification(update, W, rank):
    """How strong an update is beside what the weight already has in the update's own directions.

        factor = ||dW||_F / ||U^T W V||_F,    U (out, rank), V (in, rank): dW's strongest directions

    The factor alone says little: twice the dW has twice the factor, and a dW that avoids W a large one (where W has
    nothing, inf). Whether dW turns up what W has is told by ||U^T W V||_F beside what it is in W's own strongest
    directions, the most it can be, and in random ones, rank ||W||_F / sqrt(in out), a root mean square.

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
    W, U, V = in_float64(W), U[:, :rank], Vh[:rank].T
    dW, whole, there, own = S[:rank].norm(), W.norm(), (U.T @ W @ V).norm(), torch.linalg.svdvals(W)[:rank].norm()
    found = {"dW": dW, "W": whole, "in dW": there, "in W": own, "in random": rank * whole / W.numel() ** 0.5,
             "factor": dW / there}
    return {name: number.item() for name, number in found.items()}


def effective_rank(singular_values):
    """How many directions an update has when weak ones count for less: e to the entropy of the shares of S.

        exp(-sum_i p_i ln p_i),    p_i = s_i / sum_j s_j

    k equal values give k; one large value among k - 1 tiny ones gives little more than 1, where counting those that are
    not 0 gives k. It shares out the values, `energy` their squares, in which weak directions all but vanish.

    Output: 1..k, a plain number
    Raises: ValueError for a negative value, and where all are 0
    Source: Roy and Vetterli 2007
    """
    s = in_float64(singular_values)
    if not (s.min() >= 0 and s.max() > 0):
        raise ValueError(f"singular values from {s.min()} to {s.max()} have no effective rank: was nothing trained?")
    return torch.special.entr(s / s.sum()).sum().exp().item()    # entr(p) = -p ln p, and 0 at 0


def energy(singular_values, rank):
    """The share of ||dW||_F^2 that the `rank` largest singular values hold: the sum of their squares over that of all.

    Output: 0..1. Raises: ValueError where all are 0
    """
    squares = in_float64(singular_values).square().sort(descending=True).values
    if not squares.any():
        raise ValueError("all singular values are 0: was nothing trained?")
    return (squares[:rank].sum() / squares.sum()).item()
