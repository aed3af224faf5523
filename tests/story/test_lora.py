"""gpt/lora.py against the paper's formula, finite differences, PEFT's form of the same layer, and the blog's."""

import copy
import math

import pytest
import torch
from torch import nn

from gpt.classify import swap_head
from gpt.config import GPT2_SIZES
from gpt.lora import (
    LinearWithLoRA, LoRAFunction, LoRALayer, count_parameters, lora_layers, merge_lora, replace_linear_with_lora, trainable_report,
    unmerge_lora,
)
from gpt.model import GPTModel

BLOCK = {"att.W_query", "att.W_key", "att.W_value", "att.out_proj", "ff.layers.0", "ff.layers.2"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=seeded(seed)).to(dtype)


def tokens():
    return torch.randint(101, (2, 7), generator=seeded(1))


def fill(model):
    """Give every B numbers, as training would: a fresh LoRA cannot be seen."""
    for i, (_, layer) in enumerate(lora_layers(model)):
        layer.lora.B.data = random(*layer.lora.B.shape, seed=i).to(layer.lora.B)
    return model


def state(model):
    """All that an error must leave alone: names, bits, what trains, what is in training mode."""
    return ({name: (p.clone(), p.requires_grad) for name, p in model.named_parameters()},
            {name: (type(module), module.training) for name, module in model.named_modules()})


def same(one, other):
    return (one[1] == other[1] and one[0].keys() == other[0].keys() and
            all(torch.equal(p, other[0][name][0]) and grad == other[0][name][1] for name, (p, grad) in one[0].items()))


@pytest.fixture
def blocks_with_lora(small_model):
    replace_linear_with_lora(small_model.trf_blocks, 4, 8, generator=seeded())
    return small_model


# ---- one layer ------------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E6.1")
def test_B_starts_at_zero_and_A_does_not():
    layer = LoRALayer(7, 5, 3, 1)
    assert not layer.B.any(), "a model with a fresh LoRA would start worse than without"
    assert layer.A.all(), "with A and B both zero neither ever gets a gradient"


@pytest.mark.exercise("E6.1")
@pytest.mark.parametrize("scale, rank, alpha, factor", [
    ("alpha/r", 3, 6, 2.0), ("alpha/r", 4, 6, 1.5), ("alpha/sqrt(r)", 4, 6, 3.0), ("alpha", 3, 6, 6.0),
])
def test_a_new_correction_knows_its_settings_and_the_number_that_scales_it(scale, rank, alpha, factor):
    layer = LoRALayer(7, 5, rank, alpha, scale=scale, dropout=0.25)
    assert layer.scale == factor, f"with scale={scale!r} alpha {alpha} and rank {rank} give {factor}"
    assert (layer.rank, layer.alpha, layer.rule) == (rank, alpha, scale), "an adapter's file needs them as they are"
    assert layer.A.shape == (7, rank) and layer.B.shape == (rank, 5), "A is (in, r) and B is (r, out)"
    assert {name for name, _ in layer.named_parameters()} == {"A", "B"}, "what is no Parameter does not train"
    assert layer.dropout.p == 0.25, "the dropout is not the one that was asked for"


@pytest.mark.exercise("E6.2")
@pytest.mark.parametrize("scale, factor", [("alpha/r", 8 / 3), ("alpha/sqrt(r)", 8 / math.sqrt(3)), ("alpha", 8.0)])
def test_a_correction_is_scale_times_x_A_B(sizes, scale, factor):
    layer = LoRALayer(sizes.C, sizes.V, 3, 8, scale=scale)
    layer.B.data = random(3, sizes.V)
    x = random(sizes.B, sizes.T, sizes.C)
    expected = torch.zeros(sizes.B, sizes.T, sizes.V)
    for k in range(3):    # one at a time: column k of A reads x, row k of B answers
        expected += (x @ layer.A[:, k])[..., None] * layer.B[k]
    correction = layer(x)
    assert correction.shape == expected.shape, "x (..., in) gives (..., out)"
    torch.testing.assert_close(correction, factor * expected, msg="is it multiplied by `scale`, and only once?")


@pytest.mark.exercise("E6.1")
def test_a_generator_draws_A_and_torchs_own_is_left_alone():
    before = torch.get_rng_state()
    one, again, other = (LoRALayer(7, 5, 3, 1, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before), "A or B was drawn from torch's global generator"
    assert torch.equal(one.A, again.A) and not torch.equal(one.A, other.A), "the generator does not decide A"


@pytest.mark.exercise("E6.3")
def test_a_layer_adds_the_correction_to_its_linear_layer_until_it_is_merged(sizes):
    layer = LinearWithLoRA(nn.Linear(sizes.C, sizes.V), 3, 12)
    x = random(sizes.B, sizes.T, sizes.C)
    torch.testing.assert_close(layer(x), layer.linear(x), msg="with B = 0 it says what its linear layer says")
    layer.lora.B.data = random(3, sizes.V)
    torch.testing.assert_close(layer(x), layer.linear(x) + layer.lora(x), msg="y = linear(x) + lora(x)")
    layer.eval().merge()
    torch.testing.assert_close(layer(x), layer.linear(x), msg="merged, the weight holds the sum already")


def merged_by_hand(sizes, dtype=torch.float32):
    """A layer with a correction that shows, its weight and bias as they are, and the weight that merging gives."""
    layer = LinearWithLoRA(nn.Linear(sizes.C, sizes.V).to(dtype), 4, 2).requires_grad_(False)
    layer.lora.B.data = random(4, sizes.V).to(layer.lora.B.dtype)
    weight, bias = layer.linear.weight.clone(), layer.linear.bias.clone()
    expected = weight.clone()
    for k in range(4):
        expected += 2 / 4 * torch.outer(layer.lora.B[k], layer.lora.A[:, k])
    return layer, weight, bias, expected


@pytest.mark.exercise("E6.5")
def test_merging_adds_scale_times_A_B_to_the_weight_and_keeps_the_old_one(sizes):
    layer, weight, bias, expected = merged_by_hand(sizes)
    layer.merge()
    torch.testing.assert_close(layer.linear.weight.data, expected, msg="W + scale * (A B)^T: transposed? scaled once?")
    assert torch.equal(layer.linear.bias, bias), "the correction has no bias: x A B is 0 at x = 0"
    assert torch.equal(layer.original, weight), "original is the weight before merging, for unmerge to put back"
    assert not layer.linear.weight.requires_grad, "the merged weight is as frozen as the old one was"
    with pytest.raises(RuntimeError, match="merged"):
        layer.merge()
    torch.testing.assert_close(layer.linear.weight.data, expected, msg="the correction was added twice")


@pytest.mark.exercise("E6.5")
@pytest.mark.parametrize("rule, factor", [("alpha/r", 2.0), ("alpha/sqrt(r)", 4.0), ("alpha", 8.0)])
def test_merging_adds_the_correction_by_its_own_rule_and_changes_no_mode_and_no_switch(rule, factor):
    layer = LinearWithLoRA(nn.Linear(6, 5), 4, 8, scale=rule)
    layer.lora.B.data = random(4, 5)
    before, switches = layer.linear.weight.detach().clone(), [(n, p.requires_grad) for n, p in layer.named_parameters()]
    A, B = layer.lora.A.clone(), layer.lora.B.clone()
    layer.train().merge()
    torch.testing.assert_close(layer.linear.weight.data - before, factor * (A @ B).T.detach(), rtol=1e-4, atol=1e-5,
                               msg=f"with the rule {rule} alpha 8 and rank 4 give a scale of {factor}: use lora.scale")
    assert [(n, p.requires_grad) for n, p in layer.named_parameters()] == switches, "what trains is another now"
    assert layer.training and torch.equal(layer.lora.A, A) and torch.equal(layer.lora.B, B), "A, B or the mode changed"


@pytest.mark.exercise("E6.6")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unmerging_puts_the_very_bits_back(sizes, dtype):
    layer, weight, bias, _ = merged_by_hand(sizes, dtype)
    with pytest.raises(RuntimeError, match="merged"):
        layer.unmerge()
    for _ in range(2):
        layer.merge()
        layer.lora.A.data.mul_(1.5)    # what was added cannot be worked out any more
        layer.unmerge()
        assert torch.equal(layer.linear.weight, weight), "subtracting leaves rounding errors: put `original` back"
        assert torch.equal(layer.linear.bias, bias), "the bias has no part in this"
        assert not layer.linear.weight.requires_grad, "the frozen weight trains now: put numbers back, not a Parameter"
        assert layer.original is None, "the layer still says that it is merged: its LoRA would not run"


@pytest.mark.exercise("E6.2", "E6.3")
@pytest.mark.parametrize("scale, rank, alpha, factor", [
    ("alpha/r", 3, 6, 2.0), ("alpha/r", 4, 6, 1.5), ("alpha/sqrt(r)", 4, 6, 3.0), ("alpha", 3, 6, 6.0),
])
def test_a_layer_is_its_linear_layer_plus_scale_times_x_A_B(scale, rank, alpha, factor):
    linear = nn.Linear(7, 5).double()
    layer = LinearWithLoRA(linear, rank, alpha, scale=scale)
    layer.lora.B.data = random(rank, 5, dtype=torch.double)
    x = random(2, 3, 7, dtype=torch.double)
    expected = x @ linear.weight.T + linear.bias + factor * (x @ (layer.lora.A @ layer.lora.B))
    torch.testing.assert_close(layer(x), expected, msg="is alpha divided by r once, and is the bias added once?")


@pytest.mark.exercise("E6.2", "E6.3")
def test_a_layer_gives_the_numbers_of_pefts_form_of_it():
    """PEFT keeps two linear layers without bias, their weights transposes of A and B: lora_B(lora_A(x)) * alpha / r."""
    layer = LinearWithLoRA(nn.Linear(7, 5), 3, 12)
    layer.lora.B.data = random(3, 5)
    lora_a, lora_b = nn.Linear(7, 3, bias=False), nn.Linear(3, 5, bias=False)
    lora_a.weight.data, lora_b.weight.data = layer.lora.A.data.T, layer.lora.B.data.T
    x = random(2, 7)
    torch.testing.assert_close(layer(x), layer.linear(x) + lora_b(lora_a(x)) * (12 / 3), msg="a transposed A or B?")


@pytest.mark.exercise("E6.1")
def test_the_blogs_options_give_the_blogs_layer():
    """The blog: alpha * (x @ A @ B), A by kaiming_uniform_(a=sqrt(5)), B zero."""
    torch.manual_seed(3)
    A = torch.empty(48, 16)
    nn.init.kaiming_uniform_(A, a=math.sqrt(5))
    torch.manual_seed(3)
    ours = LoRALayer(48, 5, 16, 2, scale="alpha", init="blog")
    torch.testing.assert_close(ours.A.data, A, msg="another bound than kaiming_uniform_'s, or another draw")
    ours.B.data = random(16, 5)
    x = random(4, 48)
    torch.testing.assert_close(ours(x), 2 * (x @ A @ ours.B))


@pytest.mark.exercise("E6.1")
@pytest.mark.parametrize("rank", [1, 8, 64])
@pytest.mark.parametrize("init", [None, "blog"])
def test_the_bound_of_A_depends_on_the_inputs_alone_and_the_blogs_on_the_rank_alone(rank, init):
    bound = 1 / math.sqrt(rank if init == "blog" else 900)
    A = LoRALayer(900, 5, rank, 1, init=init, generator=seeded()).A.detach()
    assert 0.99 * bound < A.max() <= bound and -bound <= A.min() < -0.99 * bound, "which size was taken for the fan-in?"
    assert A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), "not a uniform draw"


# ---- the two forms of a layer: by hand, and as one step of autograd -------------------------------------------------

FORMS = {
    "plain": {}, "no bias": dict(bias=False), "another scale": dict(scale="alpha"), "dropout": dict(dropout=0.5),
    "a weight that trains": dict(weight_trains=True), "A alone trains": dict(frozen=("B",)),
    "B alone trains": dict(frozen=("A",)), "one token": dict(shape=(5,)), "rows": dict(shape=(6, 5)),
    "not contiguous": dict(shape=(5, 3, 2)), "no row": dict(shape=(0, 5)),
}


def both_forms(dtype, bias=True, weight_trains=False, frozen=(), shape=(2, 3, 5), **options):
    """Values and gradients of a layer in its two forms, on the same numbers: two dicts."""
    layer = LinearWithLoRA(nn.Linear(5, 8, bias=bias), 3, 6, generator=seeded(), **options).to(dtype)
    layer.linear.requires_grad_(weight_trains)
    layer.lora.B.data = random(3, 8, dtype=dtype)
    for name in frozen:
        getattr(layer.lora, name).requires_grad_(False)
    found = []
    for form in (layer.by_hand, layer):
        start = random(*shape, seed=2, dtype=dtype).requires_grad_()
        x = start if shape[-1] == 5 else start.transpose(0, 2)
        torch.manual_seed(0)
        y = form(x)
        layer.zero_grad()
        (y * random(*y.shape, seed=3, dtype=dtype)).sum().backward()
        found.append({"value": y.detach(), "x": start.grad} | {name: p.grad for name, p in layer.named_parameters()})
    return found


@pytest.mark.exercise("E6.9")
@pytest.mark.parametrize("dtype, error", [(torch.float32, 2e-6), (torch.float64, 5e-15)])
@pytest.mark.parametrize("case", FORMS)
def test_both_forms_of_a_layer_give_the_same_values_and_gradients(case, dtype, error):
    by_hand, as_one_step = both_forms(dtype, **FORMS[case])
    for name, expected in by_hand.items():
        found = as_one_step[name]
        assert (expected is None) == (found is None), f"{name} has a gradient in one of the forms only"
        if expected is not None:
            assert found.dtype == dtype and found.shape == expected.shape
            assert torch.allclose(found, expected, rtol=error, atol=error * (expected.abs().max().item() if
                                  expected.numel() else 1.0)), f"{name} differs"


@pytest.mark.exercise("E6.9")
@pytest.mark.parametrize("dropped", [False, True])
def test_the_gradients_of_the_one_step_are_those_of_finite_differences(dropped):
    shapes = [(2, 4, 5), (2, 4, 5), (8, 5), (8,), (5, 3), (3, 8)]
    x, other, *rest = (random(*shape, seed=i, dtype=torch.float64).requires_grad_() for i, shape in enumerate(shapes))
    arguments = (x, other if dropped else None, *rest, 1.5)
    assert torch.autograd.gradcheck(LoRAFunction.apply, arguments)


@pytest.mark.exercise("E6.9")
def test_three_layers_that_share_an_A_learn_as_they_do_by_hand(shared_a):
    shared_a.float()
    fill(shared_a)
    block = shared_a.trf_blocks[0].att
    gradients = []
    for form in (lambda layer, x: layer.by_hand(x), lambda layer, x: layer(x)):
        shared_a.zero_grad()
        x = random(2, 7, block.W_query.linear.in_features)
        sum(form(layer, x).square().sum() for layer in (block.W_query, block.W_key, block.W_value)).backward()
        gradients.append(block.W_key.lora.A.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-5 * gradients[0].abs().max())


@pytest.mark.parametrize("dtype, error", [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
@pytest.mark.parametrize("way", ["held in it", "autocast"])
def test_a_frozen_weight_in_half_the_bytes_costs_only_its_rounding(dtype, error, way):
    layer = LinearWithLoRA(nn.Linear(64, 96), 4, 8, generator=seeded())
    layer.linear.requires_grad_(False)
    layer.lora.B.data = random(4, 96)
    x = random(3, 5, 64, seed=2).requires_grad_()
    found = []
    for half in (False, True):
        layer.zero_grad()
        x.grad = None
        if half and way == "held in it":
            layer.linear.to(dtype)
        with torch.autocast("cpu", dtype, enabled=half and way == "autocast"):
            y = layer(x)
        assert y.dtype == (dtype if half else torch.float32)
        y.float().square().sum().backward()
        found.append([y.detach().float(), x.grad, layer.lora.A.grad, layer.lora.B.grad])
    for exact, rounded in zip(*found):
        assert rounded.dtype == torch.float32, "what trains gets its gradient in its own type"
        assert 0 < (exact - rounded).norm() < error * exact.norm()


@pytest.mark.exercise("E6.3")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_merged_weight_stays_in_the_type_in_which_it_is_held(dtype):
    layer = LinearWithLoRA(nn.Linear(64, 96), 4, 8, generator=seeded()).eval()
    layer.linear.requires_grad_(False).to(dtype)
    layer.lora.B.data = random(4, 96)
    original, x = layer.linear.weight.clone(), random(5, 64, seed=2)
    beside = layer(x)
    layer.merge()
    assert layer.linear.weight.dtype == dtype and layer(x).dtype == dtype
    assert (layer(x) - beside).float().norm() < 0.02 * beside.float().norm()
    layer.unmerge()
    assert torch.equal(layer.linear.weight, original)


def test_a_second_derivative_is_refused_and_not_wrong():
    layer = LinearWithLoRA(nn.Linear(5, 8), 3, 6)
    x = random(2, 5).requires_grad_()
    gradient, = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("trains, kept", [("AB", ["read", "thin"]), ("B", ["thin"]), ("A", ["read"]), ("", [])])
def test_the_one_step_keeps_only_what_its_gradients_need(trains, kept):
    x, weight = random(2, 5).requires_grad_(), random(8, 5)
    A, B = (random(*shape).requires_grad_(name in trains) for name, shape in (("A", (5, 3)), ("B", (3, 8))))
    tensors = LoRAFunction.apply(x, None, weight, None, A, B, 1.0).grad_fn.saved_tensors
    assert [name for name, tensor in zip(("x", "read", "thin"), tensors) if tensor is not None] == kept
    assert "A" not in trains or tensors[1].data_ptr() == x.data_ptr(), "x is kept as it is, not copied"


@pytest.mark.exercise("E6.2")
def test_the_gradients_are_those_of_finite_differences():
    layer = LinearWithLoRA(nn.Linear(4, 5).double(), 3, 6)
    layer.lora.B.data = random(3, 5, dtype=torch.double)
    inputs = (random(2, 4, dtype=torch.double).requires_grad_(), layer.lora.A, layer.lora.B)

    def loss():
        return (layer(inputs[0]) ** 2).sum()

    loss().backward()
    for tensor in inputs:
        slopes = torch.zeros_like(tensor)
        for i in range(tensor.numel()):
            there = []
            for step in (1e-6, -1e-6):
                tensor.data.view(-1)[i] += step
                there.append(loss().item())
                tensor.data.view(-1)[i] -= step
            slopes.view(-1)[i] = (there[0] - there[1]) / 2e-6
        torch.testing.assert_close(tensor.grad, slopes, rtol=1e-6, atol=1e-6)


@pytest.mark.exercise("E6.2")
def test_the_correction_alone_has_the_gradients_of_its_formula_and_leaves_x_alone(sizes):
    layer = LoRALayer(sizes.C, sizes.V, 3, 12)
    layer.B.data = random(3, sizes.V)
    x, weights = random(5, sizes.C, seed=2).requires_grad_(), random(5, sizes.V, seed=3)
    before = x.detach().clone()
    (layer(x) * weights).sum().backward()
    with torch.no_grad():    # dx = s g B^T A^T, dA = s x^T g B^T, dB = s (x A)^T g, and s = 12 / 3
        for name, found, expected in (("x", x.grad, 4 * weights @ layer.B.T @ layer.A.T),
                                      ("A", layer.A.grad, 4 * x.T @ weights @ layer.B.T),
                                      ("B", layer.B.grad, 4 * (x @ layer.A).T @ weights)):
            assert found is not None, f"{name} gets no gradient: is it detached?"
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=f"the gradient of {name} is another")
    assert torch.equal(x, before), "the caller's x was changed in place"
    with torch.no_grad():
        layer(before)
    assert torch.equal(x, before), "the caller's x was changed in place: the linear layer reads it too"


@pytest.mark.exercise("E6.3")
def test_a_layer_drops_from_what_the_correction_reads_alone_and_only_in_training():
    layer = LinearWithLoRA(nn.Linear(50, 50), 50, 50, dropout=0.2)
    layer.lora.A.data = layer.lora.B.data = torch.eye(50)    # the correction is what dropout leaves of x
    x = torch.ones(40, 50)
    torch.manual_seed(0)
    correction = layer.train()(x) - layer.linear(x)
    dropped = correction.abs() < 1e-4
    assert 0.15 < dropped.float().mean() < 0.25, "in training the correction reads lora.dropout(x), 0.2 of it dropped"
    assert (correction[~dropped] - 1.25).abs().max() < 1e-4, "what is kept grows by 1 / 0.8, and W reads x as it is"
    torch.testing.assert_close(layer.eval()(x), layer.linear(x) + 1, msg="outside training nothing is dropped")


@pytest.mark.exercise("E6.3")
def test_the_forward_pass_is_the_one_operation():
    layer = LinearWithLoRA(nn.Linear(5, 8), 3, 6)
    y = layer(random(2, 5))
    assert type(y.grad_fn).__name__ == "LoRAFunctionBackward", "by_hand gives the same numbers and takes more memory"


@pytest.mark.exercise("E6.2")
def test_dropout_works_on_the_correction_alone_and_only_in_training():
    layer = LinearWithLoRA(nn.Linear(50, 50), 50, 50, dropout=0.2)
    layer.lora.A.data = layer.lora.B.data = torch.eye(50)    # lora(x) is what dropout leaves of x
    x = torch.ones(40, 50)
    for form in (layer.by_hand, layer):
        layer.train()
        layer.lora.A.data = torch.eye(50)
        correction = form(x) - layer.linear(x)
        dropped = correction.abs() < 1e-4
        assert 0.15 < dropped.float().mean() < 0.25, "nothing, everything, or another share is dropped"
        assert (correction[~dropped] - 1.25).abs().max() < 1e-4, "what is kept grows by 1 / 0.8, the base by nothing"
        layer.lora.A.data = torch.full((50, 50), 1 / 50)         # lora(x) is the mean of it
        assert (form(x) - layer.linear(x)).min() > 0.5, "it is x that is dropped from, not x A"
        layer.eval()
        torch.testing.assert_close(form(x), layer.linear(x) + 1)


# ---- a whole model --------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E6.1")
@pytest.mark.parametrize("scale, init", [("alpha/r", None), ("alpha", "blog")])
def test_a_fresh_lora_changes_nothing(small_model, scale, init):
    swap_head(small_model, 2, zero=False)
    before = small_model(tokens())
    replace_linear_with_lora(small_model, 4, 8, scale=scale, init=init)
    assert torch.equal(small_model(tokens()), before), "B must be zero, and nothing else may be drawn anew"


def depths(model):
    """How deep each LoRA lies: 0 is directly in the module that was given."""
    return {name.count(".") for name, _ in lora_layers(model)}


@pytest.mark.exercise("E6.4")
def test_layers_are_replaced_in_place_at_any_depth_and_only_A_and_B_train():
    model = nn.Sequential(nn.Linear(6, 5), nn.Sequential(nn.ReLU(), nn.ModuleDict({"deep": nn.Linear(5, 4)})["deep"]),
                          nn.LayerNorm(4))
    first, deep = model[0], model[1][1]
    weights = first.weight.clone(), deep.weight.clone()
    assert replace_linear_with_lora(model, 2, 4) == 2, "how many were replaced? Those inside other modules count too"
    assert depths(model) == {0, 1}, "a layer inside a module inside the model was not found"
    assert model[0].linear is first and model[1][1].linear is deep, "the layer itself goes on, with its weights"
    assert torch.equal(first.weight, weights[0]) and torch.equal(deep.weight, weights[1])
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trains != set(), "A and B are frozen too: freeze first, inject then"
    assert trains == {"0.lora.A", "0.lora.B", "1.1.lora.A", "1.1.lora.B"}, "something besides A and B trains"


@pytest.mark.exercise("E6.4")
def test_every_lora_gets_the_settings_that_were_asked_for(small_model):
    replace_linear_with_lora(small_model.trf_blocks, 3, 7, scale="alpha/sqrt(r)", init="blog", dropout=0.25)
    for name, layer in lora_layers(small_model):
        lora = layer.lora
        assert (lora.rank, lora.alpha, lora.rule) == (3, 7, "alpha/sqrt(r)"), f"{name}: rank, alpha or scale is another"
        assert lora.dropout.p == 0.25, f"{name}: the dropout was not handed on"
        assert lora.A.abs().max() > 0.25, f'{name}: the bound is not the one of init="blog", 1 / sqrt(3)'


@pytest.mark.exercise("E6.1", "E6.4")
@pytest.mark.parametrize("rank, options, reason", [
    (0, {}, "rank.*0"), (-3, {}, "rank.*-3"), (4, {"scale": "r/alpha"}, "r/alpha"), (4, {"init": "zeros"}, "zeros"),
    (4, {"dropout": 1.5}, "1.5"),
])
def test_settings_that_make_no_sense_are_refused_and_leave_the_model_alone(small_model, rank, options, reason):
    before = state(small_model)
    with pytest.raises(ValueError, match=reason):
        replace_linear_with_lora(small_model.trf_blocks, rank, 8, **options)
    assert same(before, state(small_model)), "frozen, or half injected, before the error was found"


def full_size(name="gpt2-small (124M)"):
    """A model of which only the shapes exist."""
    with torch.device("meta"):
        return GPTModel(GPT2_SIZES[name])


@pytest.mark.exercise("E6.4")
def test_the_blogs_counts_hold():
    with torch.device("meta"):
        model = full_size()
        swap_head(model, 2)
        assert count_parameters(model) == (124_441_346, 124_441_346)
        model.requires_grad_(False)
        assert count_parameters(model) == (0, 124_441_346)
        assert replace_linear_with_lora(model, 16, 16) == 12 * 6 + 1
    assert count_parameters(model) == (2_666_528, 127_107_874), "is the new head frozen, and did it get a LoRA too?"
    assert trainable_report(model) == "trainable params: 2,666,528 || all params: 127,107,874 || trainable%: 2.0978"


@pytest.mark.exercise("E6.4")
def test_the_default_recipes_counts_hold():
    with torch.device("meta"):
        model = full_size().requires_grad_(False)
        swap_head(model, 2)
        assert replace_linear_with_lora(model.trf_blocks, 16, 16) == 12 * 6
    assert count_parameters(model) == (2_655_746, 127_095_554), "the head lies outside trf_blocks and must train"


@pytest.mark.exercise("E6.4")
def test_the_counts_of_two_published_examples_hold():
    with torch.device("meta"):
        keras, slides = full_size(), full_size("gpt2-medium (355M)")
        assert replace_linear_with_lora(keras, 4, 32, targets=("W_query", "W_value")) == 24
        replace_linear_with_lora(slides, 8, 32, targets=("W_query", "W_key", "W_value"), share_a=True)
    assert count_parameters(keras) == (147_456, 124_587_264), "is the tied head counted twice?"
    assert count_parameters(slides) == (786_432, 355_609_600), "is a shared A counted three times?"


@pytest.mark.exercise("E6.4")
def test_every_linear_layer_gets_a_lora_and_only_the_loras_train(small_model):
    swap_head(small_model, 2)
    layers = small_model.config.n_layers
    assert replace_linear_with_lora(small_model, 4, 8) == layers * 6 + 1
    names = [name for name, _ in lora_layers(small_model)]
    assert set(names) == {f"trf_blocks.{i}.{name}" for i in range(layers) for name in BLOCK} | {"out_head"}
    trains = {name for name, p in small_model.named_parameters() if p.requires_grad}
    assert trains == {f"{name}.lora.{letter}" for name in names for letter in "AB"}, "was the model frozen afterwards?"


@pytest.mark.exercise("E6.4")
def test_training_moves_A_and_B_and_nothing_else(small_model):
    model = small_model.train()
    swap_head(model, 2, zero=False)
    replace_linear_with_lora(model, 4, 8)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)    # all parameters: frozen ones stay
    gradients = []
    for _ in range(2):
        optimizer.zero_grad()
        model(tokens()).square().mean().backward()
        gradients.append({name: p.grad.abs().max().item() for name, p in model.named_parameters() if p.requires_grad})
        optimizer.step()
    for name, largest in gradients[0].items():
        assert (largest == 0) == name.endswith("A"), f"{name}: at B = 0 the gradient of A is 0 and that of B is not"
    assert min(gradients[1].values()) > 0, "from the second step on both learn"
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != (".lora." in name), f"{name}: frozen weights move, or LoRA's do not"


@pytest.mark.exercise("E6.5")
def test_after_training_the_weight_is_the_initial_one_plus_scale_times_A_times_B(blocks_with_lora):
    initial = {name: layer.linear.weight.clone() for name, layer in lora_layers(blocks_with_lora)}
    optimizer = torch.optim.SGD(blocks_with_lora.trf_blocks.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        blocks_with_lora(tokens()).square().sum().backward()
        optimizer.step()
    merge_lora(blocks_with_lora)
    for name, layer in lora_layers(blocks_with_lora):
        update = torch.zeros_like(initial[name])
        for k in range(4):    # a sum of r outer products: column k of A and row k of B, each (out, in)
            update += 8 / 4 * torch.outer(layer.lora.B[k], layer.lora.A[:, k])
        assert update.abs().max() > 2e-5, f"{name} learnt nothing, which would prove nothing"
        moved = layer.linear.weight - initial[name]
        torch.testing.assert_close(moved, update, rtol=1e-4, atol=1e-6, msg=f"{name}: transposed? scaled?")


@pytest.mark.exercise("E6.4")
def test_any_module_will_do_and_nothing_outside_it_is_frozen():
    inside = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.LayerNorm(5), nn.Linear(5, 4))
    outside = nn.ModuleDict({"first": nn.Linear(3, 6), "inside": inside, "frozen": nn.Linear(4, 2)})
    outside["frozen"].requires_grad_(False)
    assert replace_linear_with_lora(inside, 2, 4) == 2
    assert count_parameters(inside)[0] == 2 * (6 + 5) + 2 * (5 + 4), "the LayerNorm inside is not frozen"
    assert all(p.requires_grad for p in outside["first"].parameters()), "frozen, though it lies outside"
    assert not any(p.requires_grad for p in outside["frozen"].parameters()), "unfrozen"
    assert inside(random(8, 6)).shape == (8, 4)


@pytest.mark.exercise("E6.4")
@pytest.mark.parametrize("targets, names", [
    (["W_query"], {"att.W_query"}),
    (("W_query", "W_value"), {"att.W_query", "att.W_value"}),
    (["att.W_key", "layers.0"], {"att.W_key", "ff.layers.0"}),
    (["0.att.W_query"], {"att.W_query"}),
    (None, BLOCK),
])
def test_a_target_is_the_last_part_of_a_name(small_model, targets, names):
    count = replace_linear_with_lora(small_model.trf_blocks, 4, 8, targets=targets)
    found = [name for name, _ in lora_layers(small_model)]
    assert count == len(found) and {name.split(".", 2)[2] for name in found} == names
    blocks = 1 if targets == ["0.att.W_query"] else small_model.config.n_layers
    assert len(found) == blocks * len(names), "in one block only, or in too many"


@pytest.mark.exercise("E6.4")
@pytest.mark.parametrize("targets, missing", [
    (["query"], "query"), (["W_query", "W_quary"], "W_quary"), (["c_attn", "norm1"], "c_attn, norm1"),
    (["W_query", "tok_emb"], "tok_emb"), ([], "anything"),
])
def test_a_target_that_matches_no_linear_layer_is_an_error_that_names_it(small_model, targets, missing):
    before = state(small_model)
    with pytest.raises(ValueError, match=f"name ends in {missing}: nothing was replaced"):
        replace_linear_with_lora(small_model, 4, 8, targets=targets)
    assert same(before, state(small_model)), "frozen, or half injected, before the error was found"


def test_a_module_without_linear_layers_is_an_error(small_model):
    with pytest.raises(ValueError, match="no linear layer"):
        replace_linear_with_lora(small_model.final_norm, 4, 8)


@pytest.mark.exercise("E6.4")
def test_a_second_injection_is_an_error(blocks_with_lora):
    before = state(blocks_with_lora)
    with pytest.raises(ValueError, match="LoRA"):
        replace_linear_with_lora(blocks_with_lora, 4, 8, targets=["W_query"])
    assert same(before, state(blocks_with_lora)), "a LoRA around a LoRA, or the first one's A and B frozen"


@pytest.mark.exercise("E6.4")
def test_a_tied_head_is_refused_and_the_reason_given(small_model):
    before = state(small_model)
    with pytest.raises(ValueError, match="out_head is tied.*token embedding.*Swap the head first"):
        replace_linear_with_lora(small_model, 4, 8)
    assert same(before, state(small_model)) and small_model.out_head.weight is small_model.tok_emb.weight


@pytest.mark.exercise("E6.4")
def test_a_layer_that_is_used_twice_is_refused():
    twice = nn.Linear(5, 5)
    model = nn.Sequential(twice, nn.ReLU(), twice)
    with pytest.raises(ValueError, match="tied"):
        replace_linear_with_lora(model, 2, 4)
    assert model[0] is model[2], "corrected in one of its two places"


@pytest.mark.exercise("E6.4")
def test_the_generator_decides_A_and_torchs_own_stays_where_it_was(small_model):
    models = [copy.deepcopy(small_model) for _ in range(3)]
    before = torch.get_rng_state()
    for model, seed in zip(models, (0, 0, 1)):
        replace_linear_with_lora(model.trf_blocks, 4, 8, generator=seeded(seed))
    assert torch.equal(torch.get_rng_state(), before), "something was drawn from torch's global generator"
    first, again, other = ([layer.lora.A for _, layer in lora_layers(model)] for model in models)
    assert all(map(torch.equal, first, again)) and not any(map(torch.equal, first, other))
    assert not torch.equal(first[0], first[1]), "every layer draws the same A"


def test_without_a_generator_the_seed_of_torch_decides_A(small_model):
    models = [copy.deepcopy(small_model) for _ in range(2)]
    for model in models:
        torch.manual_seed(5)
        replace_linear_with_lora(model.trf_blocks, 4, 8)
    one, other = ([layer.lora.A for _, layer in lora_layers(model)] for model in models)
    assert all(map(torch.equal, one, other))


@pytest.mark.exercise("E6.4")
def test_lora_is_in_the_mode_of_the_model_that_it_is_put_into(small_model):
    swap_head(small_model, 2, zero=False)
    replace_linear_with_lora(small_model, 4, 8, dropout=0.5)
    fill(small_model)
    assert not any(module.training for module in small_model.modules()), "a new module is in training mode"
    assert torch.equal(small_model(tokens()), small_model(tokens())), "LoRA's dropout works in a model in eval mode"
    small_model.train()
    assert not torch.equal(small_model(tokens()), small_model(tokens())), "no dropout in training"


# ---- one A for query, key and value ---------------------------------------------------------------------------------

@pytest.fixture
def shared_a(small_model):
    replace_linear_with_lora(small_model.trf_blocks, 4, 8, share_a=True)
    return fill(small_model)


def assert_shared(model):
    for block in model.trf_blocks:
        query, key, value, out = (getattr(block.att, name).lora.A
                                  for name in ("W_query", "W_key", "W_value", "out_proj"))
        assert query is key is value, "three tensors that would drift apart in training"
        assert out is not query, "out_proj reads another x"
    assert model.trf_blocks[0].att.W_query.lora.A is not model.trf_blocks[1].att.W_query.lora.A, "shared between blocks"


@pytest.mark.exercise("E6.4")
def test_a_shared_A_is_one_tensor_and_stays_one(shared_a):
    assert_shared(shared_a)
    assert_shared(copy.deepcopy(shared_a))
    assert_shared(copy.deepcopy(shared_a).double())
    copied = copy.deepcopy(shared_a)
    for p in copied.parameters():
        p.data.zero_()
    copied.load_state_dict(shared_a.state_dict())
    assert_shared(copied)
    assert torch.equal(copied(tokens()), shared_a(tokens()))


@pytest.mark.exercise("E6.4")
def test_a_shared_A_is_counted_once(shared_a):
    layers, C = shared_a.config.n_layers, shared_a.config.emb_dim
    separate = layers * (4 * 4 * (C + C) + 2 * 4 * (C + 4 * C))
    trainable, _ = count_parameters(shared_a.trf_blocks)
    assert trainable == separate - layers * 2 * 4 * C, f"two A's of ({C}, 4) fewer in each of the {layers} blocks"


def test_a_shared_A_learns_from_all_three(shared_a):
    separate = copy.deepcopy(shared_a)
    for _, layer in lora_layers(separate):
        layer.lora.A = nn.Parameter(layer.lora.A.data.clone())
    for model in (shared_a, separate):
        model(tokens()).square().sum().backward()
    for ours, theirs in zip(shared_a.trf_blocks, separate.trf_blocks):
        parts = [getattr(theirs.att, name).lora.A.grad for name in ("W_query", "W_key", "W_value")]
        torch.testing.assert_close(ours.att.W_query.lora.A.grad, sum(parts), rtol=1e-4, atol=1e-4)


# ---- where it lives -------------------------------------------------------------------------------------------------

def test_lora_takes_the_type_and_device_of_the_layer_and_moves_with_the_model(small_model):
    small_model.to(torch.bfloat16)
    replace_linear_with_lora(small_model.trf_blocks, 4, 8)
    fill(small_model)
    for kind in ({"dtype": torch.bfloat16}, {"dtype": torch.float64}, {"device": torch.device("meta")}):
        small_model.to(**kind)
        for name, tensor in small_model.named_parameters():
            assert all(getattr(tensor, key) == value for key, value in kind.items()), name
        x = random(2, 7, small_model.config.emb_dim).to(small_model.tok_emb.weight)
        assert small_model.trf_blocks(x).shape == x.shape


# ---- merging --------------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E6.5", "E6.6")
@pytest.mark.parametrize("dtype, tolerance", [
    (torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 0.01), (torch.bfloat16, 0.05),
])
def test_merged_it_answers_the_same_and_unmerged_every_bit_is_back(small_model, dtype, tolerance):
    swap_head(small_model, 2, zero=False)
    small_model.to(dtype)
    replace_linear_with_lora(small_model, 4, 0.5, generator=seeded())
    fill(small_model)
    before, answers = state(small_model), small_model(tokens())
    merge_lora(small_model)
    for name, layer in lora_layers(small_model):
        assert not torch.equal(layer.linear.weight, before[0][f"{name}.linear.weight"][0]), f"{name} is not merged"
        assert layer.linear.bias is None or torch.equal(layer.linear.bias, before[0][f"{name}.linear.bias"][0]), name
    merged = small_model(tokens())
    assert merged.dtype == dtype and (merged - answers).abs().max() <= tolerance * answers.abs().max()
    unmerge_lora(small_model)
    assert same(before, state(small_model)), "a subtraction leaves rounding errors: the original tensor must come back"
    assert torch.equal(small_model(tokens()), answers), "the weights are back and the answers are not"


@pytest.mark.exercise("E6.3")
def test_a_merged_layer_does_not_run_its_lora(blocks_with_lora):
    fill(blocks_with_lora)
    expected = blocks_with_lora(tokens())
    merge_lora(blocks_with_lora)
    for _, layer in lora_layers(blocks_with_lora):
        layer.lora.forward = None    # calling it would be a TypeError
    torch.testing.assert_close(blocks_with_lora(tokens()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.exercise("E6.5")
def test_merging_changes_neither_the_counts_nor_what_a_state_dict_holds(blocks_with_lora):
    keys, counts = blocks_with_lora.state_dict().keys(), count_parameters(blocks_with_lora)
    merge_lora(blocks_with_lora)
    assert count_parameters(blocks_with_lora) == counts
    unmerge_lora(blocks_with_lora)
    assert blocks_with_lora.state_dict().keys() == keys, "the kept originals would double the file"


def test_a_merged_model_gives_and_takes_no_state_dict(blocks_with_lora):
    """A merged weight holds the correction, and A and B in the same file would add it a second time."""
    fill(blocks_with_lora)
    before = {name: tensor.clone() for name, tensor in blocks_with_lora.state_dict().items()}
    merge_lora(blocks_with_lora)
    for use in (blocks_with_lora.state_dict, lambda: blocks_with_lora.load_state_dict(before)):
        with pytest.raises(RuntimeError, match="merged, so its state_dict can be neither saved nor loaded"):
            use()
    again = copy.deepcopy(blocks_with_lora)    # what PyTorch's own copies do is no matter of state_dicts
    unmerge_lora(again)
    assert again.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())


def test_one_target_may_be_given_as_a_text(small_model):
    assert replace_linear_with_lora(small_model.trf_blocks, 2, 4, targets="W_query") == len(small_model.trf_blocks)


@pytest.mark.exercise("E6.5", "E6.6")
def test_merging_twice_and_unmerging_what_is_not_merged_are_errors(blocks_with_lora):
    fill(blocks_with_lora)
    before = state(blocks_with_lora)
    with pytest.raises(RuntimeError, match="merged"):
        unmerge_lora(blocks_with_lora)
    merge_lora(blocks_with_lora)
    merged = state(blocks_with_lora)
    with pytest.raises(RuntimeError, match="merged"):
        merge_lora(blocks_with_lora)
    assert same(merged, state(blocks_with_lora)), "the correction was added twice"
    unmerge_lora(blocks_with_lora)
    assert same(before, state(blocks_with_lora)), "the second merge took the merged weight for the original"


@pytest.mark.exercise("E6.3")
def test_training_while_merged_is_an_error_instead_of_training_nothing(small_model):
    swap_head(small_model, 2)
    replace_linear_with_lora(small_model.trf_blocks, 4, 8)    # the head alone would train on, and the loss would fall
    merge_lora(small_model.train())
    with pytest.raises(RuntimeError, match="merged"):
        small_model(tokens())
    with torch.no_grad():
        small_model(tokens())
    small_model.eval()(tokens())
    unmerge_lora(small_model.train())
    small_model(tokens()).sum().backward()
    assert all(layer.lora.B.grad is not None for _, layer in lora_layers(small_model))


@pytest.mark.exercise("E6.5", "E6.6")
def test_a_copy_of_a_merged_model_and_one_that_was_moved_can_be_unmerged(blocks_with_lora):
    fill(blocks_with_lora)
    before = state(blocks_with_lora)
    merge_lora(blocks_with_lora)
    merged = state(blocks_with_lora)
    copied = copy.deepcopy(blocks_with_lora)
    unmerge_lora(copied)
    assert same(before, state(copied)) and same(merged, state(blocks_with_lora)), "the copy shares the originals"
    unmerge_lora(blocks_with_lora.double())
    assert all(p.dtype == torch.double for p in blocks_with_lora.parameters()), "the original stayed behind"
    assert same(before, state(blocks_with_lora.float()))
