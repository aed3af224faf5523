"""gpt/experiments/weight_updates.py against NumPy's SVD of the whole matrices and what merging adds to a weight."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt.experiments.weight_updates import lora_updates, svd_of_update, weight_updates, with_updates_cut
from gpt.lora import lora_layers, merge_lora, replace_linear_with_lora


def random(*shape, seed=1, dtype=torch.double):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(found, expected, why, tolerance=1e-9):
    found, expected = (torch.as_tensor(one, dtype=torch.double) for one in (found, expected))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance,
                               msg=lambda details: f"{why}\n{details}")


# ---- the SVD of an update -----------------------------------------------------------------------------------------

@pytest.mark.exercise("E8.6")
@pytest.mark.parametrize("n_in, n_out, rank", [(30, 50, 4), (50, 30, 1), (6, 6, 6), (5, 40, 8), (40, 5, 8)])
def test_the_svd_from_the_factors_is_that_of_the_whole_update(n_in, n_out, rank):
    A, B = random(n_in, rank), random(rank, n_out, seed=2)
    whole = 2.5 * (A @ B).T
    U, S, Vh = svd_of_update(A, B, 2.5)
    k = min(n_in, n_out, rank)
    assert (U.shape, S.shape, Vh.shape) == ((n_out, k), (k,), (k, n_in)), "dW is (out, in), like the layer's weight"
    close(S, np.linalg.svd(whole.numpy(), compute_uv=False)[:k], "are the values scaled once, the strongest first?")
    close((U * S) @ Vh, whole, "U diag(S) Vh must be scale * (A B)^T: is something transposed?")
    close(U.T @ U, torch.eye(k).double(), "the directions must be orthonormal")
    close(Vh @ Vh.T, torch.eye(k).double(), "the directions must be orthonormal")


@pytest.mark.exercise("E8.6")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_negative_scale_turns_directions_and_no_strength_is_negative(dtype):
    A, B = random(9, 3).to(dtype), random(3, 7, seed=2).to(dtype)
    U, S, Vh = svd_of_update(A, B, -2.5)
    assert U.dtype == S.dtype == Vh.dtype == torch.float64, "everything is computed in float64"
    assert (S > 0).all() and (S.diff() <= 0).all(), "singular values are not negative, and the strongest stands first"
    close((U * S) @ Vh, -2.5 * (A.double() @ B.double()).T, "the sign of the scale is lost")


@pytest.mark.exercise("E8.6")
def test_only_the_product_of_the_factors_counts():
    """A M and M^-1 B are another A and B of the same update: A alone is not what was learnt."""
    A, B, M = random(30, 4), random(4, 20, seed=2), random(4, 4, seed=3)
    (U, S, Vh), (U2, S2, Vh2) = svd_of_update(A, B, 1), svd_of_update(A @ M, torch.linalg.inv(M) @ B, 1)
    close(S, S2, "the values are those of the product")
    close((U * S) @ Vh, (U2 * S2) @ Vh2, "the directions are those of the product")


class Sizes(TorchDispatchMode):
    """How many numbers each tensor has that is made inside it."""

    def __enter__(self):
        self.seen = []
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        answer = function(*args, **(kwargs or {}))
        self.seen += [one.numel() for one in tree_leaves(answer) if torch.is_tensor(one)]
        return answer


@pytest.mark.exercise("E8.6")
def test_an_update_is_never_formed():
    with Sizes() as sizes:
        svd_of_update(random(300, 2), random(2, 400), 1)
    assert max(sizes.seen) < 300 * 400, "a tensor as large as dW was made: QR of A and of B^T, SVD of what is between"


@pytest.mark.exercise("E8.6")
@pytest.mark.parametrize("A, B, shapes", [(random(4, 30), random(4, 20), r"\(4, 30\).*\(4, 20\)"),
                                          (random(4), random(4, 20), r"\(4,\).*\(4, 20\)")])
def test_factors_that_do_not_fit_together_are_named_by_their_shapes(A, B, shapes):
    with pytest.raises(ValueError, match=shapes):
        svd_of_update(A, B, 1)


@pytest.fixture
def lora_model(small_model):
    replace_linear_with_lora(small_model.trf_blocks, 3, 6, generator=torch.Generator().manual_seed(0))
    for i, (_, layer) in enumerate(lora_layers(small_model)):
        layer.lora.B.data = random(*layer.lora.B.shape, seed=i).to(layer.lora.B)
    return small_model


@pytest.mark.parametrize("merged", [False, True])
def test_every_lora_layer_has_its_update(lora_model, merged):
    before = {name: layer.linear.weight.clone() for name, layer in lora_layers(lora_model)}
    merge_lora(lora_model)
    whole = {name: layer.linear.weight - before[name] for name, layer in lora_layers(lora_model)}
    if not merged:
        for _, layer in lora_layers(lora_model):
            layer.unmerge()
    updates = lora_updates(lora_model)
    assert updates.keys() == whole.keys() and len(whole) == 6 * len(lora_model.trf_blocks)
    for name, (U, S, Vh) in updates.items():
        close(((U * S) @ Vh).float(), whole[name].detach(), f"{name}: not what merge() adds to the weight", 1e-5)


def moved(model, seed=5):
    """A copy that was trained, as far as weights tell."""
    model = copy.deepcopy(model)
    for i, p in enumerate(model.parameters()):
        p.data += 0.1 * random(*p.shape, seed=seed + i).to(p)
    return model


def test_the_updates_of_full_fine_tuning_are_after_minus_before():
    base = nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 4))
    tuned = moved(base)
    tuned[2] = nn.Linear(5, 2)    # a new head: there is nothing to subtract
    updates = weight_updates(tuned, base)
    assert updates.keys() == {"0"}, "each linear layer of the same shape in both, and no norm"
    U, S, Vh = updates["0"]
    delta = tuned[0].weight.detach().double() - base[0].weight.detach().double()
    close((U * S) @ Vh, delta, "dW is tuned - base, not base - tuned")
    with pytest.raises(ValueError, match="0.linear is no linear layer of the base.*LoRA"):
        replace_linear_with_lora(tuned, 2, 2)
        weight_updates(tuned, base)


# ---- cutting ------------------------------------------------------------------------------------------------------

def cut_to_rank(delta, rank):
    """The first `rank` terms of a matrix's singular value decomposition."""
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vh[:rank]


@pytest.mark.parametrize("shape", [(7, 5), (5, 7)])
def test_a_cut_is_the_nearest_matrix_of_its_rank(shape):
    delta = random(*shape, dtype=torch.float32)
    values = np.linalg.svd(delta.double().numpy(), compute_uv=False)
    base = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False)).requires_grad_(False)
    base[0].weight.zero_()
    tuned = copy.deepcopy(base)
    tuned[0].weight.copy_(delta)
    for rank in range(6):
        cut = with_updates_cut(tuned, weight_updates(tuned, base), rank)[0].weight
        assert cut.dtype == delta.dtype and cut.shape == delta.shape
        assert torch.linalg.matrix_rank(cut, atol=1e-5) == rank, f"rank {rank} was asked for"
        close((delta - cut).double().norm(), math.sqrt((values[rank:] ** 2).sum()),
              "Eckart and Young: what is missing are the values left out; were the weakest kept?", 1e-5)
        for seed in range(20):
            other = random(shape[0], max(rank, 1), seed=seed) @ random(max(rank, 1), shape[1], seed=seed + 50)
            assert (delta - other).norm() >= (delta - cut).norm() or rank == 0


@pytest.mark.exercise("E8.8")
@pytest.mark.parametrize("rank", [0, 1, 3, 5, 99])
def test_a_model_with_cut_updates_has_W_plus_the_cut_and_the_given_models_are_as_before(small_model, rank):
    base, tuned = small_model, moved(small_model)
    states = [copy.deepcopy(model.state_dict()) for model in (base, tuned)]
    updates = weight_updates(tuned.trf_blocks, base.trf_blocks)
    cut = with_updates_cut(tuned.trf_blocks, updates, rank)
    for model, state in zip((base, tuned), states, strict=True):
        assert all(torch.equal(p, state[name]) for name, p in model.state_dict().items()), "a given model was changed"
    for name, p in cut.state_dict().items():
        before, after = (model.trf_blocks.state_dict()[name] for model in (base, tuned))
        if name.removesuffix(".weight") not in updates:
            assert torch.equal(p, after), f"{name} is no linear layer's weight: it stays as it was trained"
        else:
            expected = before.double() + cut_to_rank(after.double() - before.double(), rank)
            close(p, expected.float(), f"{name}: W + cut_to_rank(dW, {rank})", 1e-6)
            assert torch.equal(p, after) == (rank > 5), f"{name}: a cut that cuts nothing changes no bit"


@pytest.mark.exercise("E8.8")
@pytest.mark.parametrize("training", [False, True])
def test_cutting_leaves_the_updates_and_the_mode_alone_and_no_bit_is_changed_by_a_cut_of_nothing(small_model, training):
    base, tuned = small_model.double(), moved(small_model.double())
    tuned.train(training)
    updates = weight_updates(tuned.trf_blocks, base.trf_blocks)
    before = copy.deepcopy(updates)
    for rank in (2, 99):
        cut = with_updates_cut(tuned.trf_blocks, updates, rank)
        assert cut.training is training, "the copy is in another mode than the model"
    for name, update in updates.items():
        assert all(map(torch.equal, update, before[name])), f"{name}: the update that was given was changed in place"
        assert torch.equal(cut.get_submodule(name).weight, tuned.trf_blocks.get_submodule(name).weight), \
            f"{name}: taking all directions out and putting them back rounds: subtract those that go"


@pytest.mark.exercise("E8.8")
def test_only_the_updates_that_are_given_are_cut(small_model):
    tuned = moved(small_model)
    updates = weight_updates(tuned, small_model)
    updates = {name: update for name, update in updates.items() if name.endswith("W_query")}
    cut = with_updates_cut(tuned, updates, 0)
    for name, p in cut.named_parameters():
        same = torch.equal(p, tuned.get_parameter(name))
        assert same != name.endswith("W_query.weight"), f"{name}: no more and no less than what is in `updates`"


@pytest.mark.exercise("E8.8")
@pytest.mark.parametrize("merged", [False, True])
def test_a_lora_can_be_cut_too(lora_model, merged):
    x = torch.randint(101, (2, 7), generator=torch.Generator().manual_seed(0))
    expected = copy.deepcopy(lora_model)
    for _, layer in lora_layers(expected):
        product = layer.lora.A.data @ layer.lora.B.data
        layer.lora.A.data, layer.lora.B.data = cut_to_rank(product, 1), torch.eye(product.shape[1])
    if merged:
        merge_lora(lora_model)
    cut = with_updates_cut(lora_model, lora_updates(lora_model), 1)
    close(cut(x), expected(x), "the LoRA's part beyond rank 1 must be gone, merged or not", 1e-4)
