"""gpt/experiments/weight_updates.py against the papers' formulas in NumPy, subspaces made by hand, and random draws."""

import math

import numpy as np
import pytest
import torch

from gpt.experiments.weight_updates import (
    amplification, effective_rank, energy, random_similarity, subspace_similarity, svd_of_update,
)


def random(*shape, seed=1, dtype=torch.double):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def orthonormal(rows, columns, seed=1):
    return torch.linalg.qr(random(rows, columns, seed=seed))[0]


def close(found, expected, why, tolerance=1e-9):
    found, expected = (torch.as_tensor(one, dtype=torch.double) for one in (found, expected))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance,
                               msg=lambda details: f"{why}\n{details}")


# ---- similarity ---------------------------------------------------------------------------------------------------

def phi_by_hand(first, second):
    U, V = (np.linalg.svd(matrix.numpy())[0] for matrix in (first, second))
    return [[np.linalg.norm(U[:, :i].T @ V[:, :j]) ** 2 / min(i, j) for j in range(1, second.shape[1] + 1)]
            for i in range(1, first.shape[1] + 1)]


@pytest.mark.exercise("E8.4")
def test_phi_is_the_papers_formula_for_every_pair_of_sizes():
    first, second = random(12, 3), random(12, 5, seed=2)
    found = subspace_similarity(first, second)
    close(found, np.array(phi_by_hand(first, second)), "||U_i^T V_j||_F^2 / min(i, j): squared? by the smaller?")
    close(subspace_similarity(second, first), found.T, "which of the two comes first does not matter")
    assert found.shape == (3, 5) and 0 <= found.min() <= found.max() <= 1
    assert subspace_similarity(first.float(), second.float()).dtype == torch.float64, "it is computed in float64"


@pytest.mark.exercise("E8.4")
def test_phi_of_a_subspace_with_itself_is_1_and_with_one_at_right_angles_0():
    axes, strengths = orthonormal(10, 10), torch.arange(5, 0, -1).double()
    first, second = axes[:, :5] * strengths, axes[:, 5:] * strengths
    own = subspace_similarity(first, first)
    close(own, torch.ones(5, 5).double(), "the first i directions hold the first j, or lie in them")
    assert own.max() <= 1, "rounding must not lead beyond 1"
    close(subspace_similarity(first, second), torch.zeros(5, 5).double(), "nothing is shared")
    half = subspace_similarity(first, torch.stack([4 * axes[:, 0], 2 * axes[:, 7]], dim=1))
    close(half[:, 0], torch.ones(5).double(), "its strongest direction is the strongest of both")
    close(half[:, 1], torch.tensor([1, 0.5, 0.5, 0.5, 0.5]).double(), "one of its two directions is shared")


@pytest.mark.exercise("E8.4")
def test_phi_asks_for_directions_and_not_for_strength_sign_or_basis():
    first, second, M = random(12, 4), random(12, 4, seed=2), random(4, 4, seed=3)
    found = subspace_similarity(first, second)
    close(subspace_similarity(-7 * first, second), found, "seven times the matrix has the same directions")
    close(subspace_similarity(first @ orthonormal(4, 4), second), found, "a turn of the r columns changes no direction")
    mixed = subspace_similarity(first @ M, second)
    close(mixed[3, 3], found[3, 3], "all directions together: the space that the columns span, whatever its basis")
    assert abs(mixed[0, 0] - found[0, 0]) > 1e-3, "but which are the strongest has changed"


def test_phi_finds_the_direction_that_an_update_has_and_its_A_hides():
    """Most of A is still what was drawn: phi of the A's sees that, phi of the updates what was learnt."""
    learnt, written = 2 * random(40, 1, seed=9), random(1, 20, seed=8)
    A = [random(40, 4, seed=seed) for seed in (1, 2)]
    for one in A:
        one[:, :1] += learnt
    B = torch.cat([written, 1e-3 * random(3, 20)])
    updates = [svd_of_update(one, B, 1) for one in A]
    of_A, of_dW = subspace_similarity(*A), subspace_similarity(*(Vh.T * S for _, S, Vh in updates))
    assert of_dW[0, 0] > 0.5 > of_A[-1, -1], "in an update each column of A counts by its row of B"


@pytest.mark.exercise("E8.5")
def test_of_a_unit_vector_a_random_subspace_holds_its_share_of_the_dimensions():
    found = random_similarity(24, 3, 8)
    assert found.shape == (3, 8) and found.is_floating_point(), "(first_rank, second_rank), shares of 1"
    assert found[0].tolist() == pytest.approx([j / 24 for j in range(1, 9)]), "of one vector j of 24 hold j/24"
    assert found[2, 1].item() == pytest.approx(3 / 24), "max(i, j) / in: the larger one decides"
    assert random_similarity(24, 24, 24)[-1, -1] == 1, "whole spaces are the same"


@pytest.mark.exercise("E8.5")
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_random_directions_are_as_similar_as_predicted(kind):
    """For A as gpt/lora.py draws it, uniform, as for the normal distribution of the derivation."""
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(400):
        pair = [torch.empty(24, r).double() for r in (3, 8)]
        for matrix in pair:
            matrix.normal_(generator=generator) if kind == "normal" else matrix.uniform_(-1, 1, generator=generator)
        draws.append(subspace_similarity(*pair))
    draws, expected = torch.stack(draws), random_similarity(24, 3, 8)
    errors = (draws.mean(dim=0) - expected) / (draws.std(dim=0) / math.sqrt(len(draws)))
    assert errors.abs().max() < 4, "the mean of 400 draws is more than 4 standard errors off: not max(i, j) / in?"


@pytest.mark.exercise("E8.4")
@pytest.mark.parametrize("first, second, reason", [
    (random(12, 3), random(11, 3), r"\(12, 3\).*\(11, 3\)"),
    (random(3, 12), random(3, 12), r"\(3, 12\).*\(3, 12\)"),
    (random(12), random(12), r"\(12,\).*\(12,\)"),
    (random(12, 3), torch.zeros(12, 3), "."),
])
def test_matrices_that_have_nothing_to_compare_are_an_error(first, second, reason):
    with pytest.raises(ValueError, match=reason):
        subspace_similarity(first, second)


# ---- strength -----------------------------------------------------------------------------------------------------

def test_amplification_is_the_papers_table():
    W, A, B = random(20, 30), random(30, 4, seed=2), random(4, 20, seed=3)
    dW = 0.5 * (A @ B).T
    U, _, Vh = np.linalg.svd(dW.numpy())
    found = amplification(svd_of_update(A, B, 0.5), W, 4)
    inside = np.linalg.norm(U[:, :4].T @ W.numpy() @ Vh[:4].T)
    close(found["dW"], np.linalg.norm(dW.numpy()), "||dW||_F")
    close(found["W"], np.linalg.norm(W.numpy()), "||W||_F")
    close(found["in dW"], inside, "||U^T W V||_F with dW's directions on both sides")
    close(found["factor"], np.linalg.norm(dW.numpy()) / inside, "||dW||_F / ||U^T W V||_F")
    own, _, own_h = np.linalg.svd(W.numpy())
    close(found["in W"], np.linalg.norm(own[:, :4].T @ W.numpy() @ own_h[:4].T), "the same with W's own directions")
    assert found["in dW"] < found["in W"] < found["W"], "nothing is stronger than the strongest directions of W"
    of_whole = amplification(torch.linalg.svd(dW, full_matrices=False), W, 4)
    assert of_whole == pytest.approx(found), "a dense dW has the same numbers as its factors"


def test_amplification_of_known_directions():
    axes, other, strengths = orthonormal(6, 6), orthonormal(8, 8, seed=2), torch.tensor([9, 5, 4, 3, 2, 1]).double()
    W = (axes * strengths) @ other[:, :6].T
    update = axes[:, 2:4], torch.tensor([7.0, 1.0]).double(), other[:, 2:4].T
    found = amplification(update, W, 2)
    close(found["in dW"], 5.0, "W has 4 and 3 where dW is: 4^2 + 3^2 = 5^2")
    close(found["factor"], math.sqrt(50) / 5, "||dW||_F = sqrt(7^2 + 1^2)")
    close(found["in W"], math.sqrt(81 + 25), "W's own two strongest")
    close(amplification(update, W, 1)["factor"], 7 / 4, "cut to its strongest direction, dW is 7 and W 4")
    assert amplification(update, torch.zeros(6, 8), 2)["factor"] == math.inf, "there is nothing to amplify"


def test_in_random_directions_the_weight_is_as_strong_as_predicted():
    W, squares = random(20, 30), []
    for seed in range(300):
        squares.append((orthonormal(20, 4, 2 * seed).T @ W @ orthonormal(30, 4, 2 * seed + 1)).square().sum())
    expected = amplification(svd_of_update(random(30, 4), random(4, 20), 1), W, 4)["in random"]
    assert torch.stack(squares).mean().sqrt() == pytest.approx(expected, rel=0.03), "rank ||W||_F / sqrt(in out)"


@pytest.mark.parametrize("W, rank, B, reason", [
    (random(30, 20), 4, random(4, 20), "transposed"), (random(20, 30), 5, random(4, 20), "rank 5 .*of 4"),
    (random(20, 30), 0, random(4, 20), "rank 0"),
    (random(20, 30), 4, torch.ones(4, 20), "with 1 of 4"),
    (random(20, 30), 4, torch.zeros(4, 20), "0 of 4.*nothing trained"),
])
def test_an_amplification_of_what_is_not_there_is_an_error(W, rank, B, reason):
    with pytest.raises(ValueError, match=reason):
        amplification(svd_of_update(random(30, 4), B, 1), W, rank)


@pytest.mark.exercise("E8.7")
def test_the_effective_rank_counts_equal_values_and_hardly_counts_tiny_ones():
    close(effective_rank(torch.full((7,), 0.3)), 7.0, "equal values all count", 1e-6)
    assert effective_rank(torch.tensor([5.0, 0, 0, 0])) == 1, "0 ln 0 is 0: what is not there does not count"
    assert 1 < effective_rank(torch.tensor([1.0, 1e-4, 1e-4, 1e-4])) < 1.01, "not how many are above 0: that is 4"
    values = random(6).abs()
    by_hand = math.prod((v / values.sum().item()) ** (-v / values.sum().item()) for v in values.tolist())
    close(effective_rank(values), by_hand, "the entropy of the values, not of their squares, in nats")
    before = values.clone()
    close(effective_rank(9 * values), by_hand, "it asks for shares: the size does not matter")
    assert type(effective_rank(values)) is float, "a plain number, not a tensor of one"
    assert torch.equal(values, before), "the caller's values were divided in place"


def test_energy_is_the_share_of_the_squares():
    values = torch.tensor([3.0, 4.0])    # in any order
    assert [energy(values, k) for k in range(4)] == pytest.approx([0, 16 / 25, 1, 1]), "the largest first, squared"
    delta = random(8, 6)
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    cut = (U[:, :2] * S[:2]) @ Vh[:2]
    close(energy(S, 2), (cut.norm() / delta.norm()).square().item(), "what a cut keeps of ||dW||^2")


@pytest.mark.exercise("E8.7")
@pytest.mark.parametrize("measure", [effective_rank, lambda values: energy(values, 1)])
def test_an_update_of_zeros_has_no_measure(measure):
    with pytest.raises(ValueError):    # 0 / 0 would be nan, and nan a number in a table
        measure(torch.zeros(4))


@pytest.mark.exercise("E8.7")
def test_what_is_below_zero_is_no_singular_value():
    with pytest.raises(ValueError):
        effective_rank(torch.tensor([2.0, -1.0]))
