"""gpt/lora.py against the paper's formula, finite differences, PEFT's form of the same layer, and the blog's."""

import copy
import math

import pytest
import torch
from torch import nn

from gpt.classify import swap_head
from gpt.config import GPT2_SIZES
from gpt.lora import (LinearWithLoRA, LoRALayer, count_parameters, lora_layers, merge_lora, replace_linear_with_lora,
                      trainable_report, unmerge_lora)
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


def test_a_layer_gives_the_numbers_of_pefts_form_of_it():
    """PEFT keeps two linear layers without bias, their weights transposes of A and B: lora_B(lora_A(x)) * alpha / r."""
    layer = LinearWithLoRA(nn.Linear(7, 5), 3, 12)
    layer.lora.B.data = random(3, 5)
    lora_a, lora_b = nn.Linear(7, 3, bias=False), nn.Linear(3, 5, bias=False)
    lora_a.weight.data, lora_b.weight.data = layer.lora.A.data.T, layer.lora.B.data.T
    x = random(2, 7)
    torch.testing.assert_close(layer(x), layer.linear(x) + lora_b(lora_a(x)) * (12 / 3), msg="a transposed A or B?")


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


@pytest.mark.parametrize("rank", [1, 8, 64])
@pytest.mark.parametrize("init", [None, "blog"])
def test_the_bound_of_A_depends_on_the_inputs_alone_and_the_blogs_on_the_rank_alone(rank, init):
    bound = 1 / math.sqrt(rank if init == "blog" else 900)
    A = LoRALayer(900, 5, rank, 1, init=init, generator=seeded()).A
    assert 0.99 * bound < A.max() <= bound and -bound <= A.min() < -0.99 * bound, "which size was taken for the fan-in?"
    assert A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), "not a uniform draw"


def test_B_starts_at_zero_and_A_does_not():
    layer = LoRALayer(7, 5, 3, 1)
    assert not layer.B.any(), "a model with a fresh LoRA would start worse than without"
    assert layer.A.all(), "with A and B both zero neither ever gets a gradient"


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


def test_dropout_works_on_the_correction_alone_and_only_in_training():
    layer = LinearWithLoRA(nn.Linear(50, 50), 50, 50, dropout=0.2)
    layer.lora.A.data = layer.lora.B.data = torch.eye(50)    # lora(x) is what dropout leaves of x
    x = torch.ones(40, 50)
    correction = layer(x) - layer.linear(x)
    dropped = correction.abs() < 1e-4
    assert 0.15 < dropped.float().mean() < 0.25, "nothing, everything, or another share is dropped"
    assert (correction[~dropped] - 1.25).abs().max() < 1e-4, "what is kept grows by 1 / 0.8, the base path by nothing"
    layer.lora.A.data = torch.full((50, 50), 1 / 50)         # lora(x) is the mean of it
    assert (layer(x) - layer.linear(x)).min() > 0.5, "it is x that is dropped from, not x A"
    layer.eval()
    torch.testing.assert_close(layer(x), layer.linear(x) + 1)


@pytest.mark.parametrize("rank, options, reason", [
    (0, {}, "rank 0"), (-3, {}, "rank -3"), (4, {"scale": "r/alpha"}, "'r/alpha'"), (4, {"init": "zeros"}, "'zeros'"),
    (4, {"dropout": 1.5}, "1.5"),
])
def test_settings_that_make_no_sense_are_refused_and_leave_the_model_alone(small_model, rank, options, reason):
    before = state(small_model)
    with pytest.raises(ValueError, match=reason):
        replace_linear_with_lora(small_model.trf_blocks, rank, 8, **options)
    assert same(before, state(small_model)), "frozen, or half injected, before the error was found"


# ---- a whole model --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("scale, init", [("alpha/r", None), ("alpha", "blog")])
def test_a_fresh_lora_changes_nothing(small_model, scale, init):
    swap_head(small_model, 2, zero=False)
    before = small_model(tokens())
    replace_linear_with_lora(small_model, 4, 8, scale=scale, init=init)
    assert torch.equal(small_model(tokens()), before), "B must be zero, and nothing else may be drawn anew"


def full_size(name="gpt2-small (124M)"):
    """A model of which only the shapes exist."""
    with torch.device("meta"):
        return GPTModel(GPT2_SIZES[name])


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


def test_the_default_recipes_counts_hold():
    with torch.device("meta"):
        model = full_size().requires_grad_(False)
        swap_head(model, 2)
        assert replace_linear_with_lora(model.trf_blocks, 16, 16) == 12 * 6
    assert count_parameters(model) == (2_655_746, 127_095_554), "the head lies outside trf_blocks and must train"


def test_the_counts_of_two_published_examples_hold():
    with torch.device("meta"):
        keras, slides = full_size(), full_size("gpt2-medium (355M)")
        assert replace_linear_with_lora(keras, 4, 32, targets=("W_query", "W_value")) == 24
        replace_linear_with_lora(slides, 8, 32, targets=("W_query", "W_key", "W_value"), share_a=True)
    assert count_parameters(keras) == (147_456, 124_587_264), "is the tied head counted twice?"
    assert count_parameters(slides) == (786_432, 355_609_600), "is a shared A counted three times?"


def test_every_linear_layer_gets_a_lora_and_only_the_loras_train(small_model):
    swap_head(small_model, 2)
    assert replace_linear_with_lora(small_model, 4, 8) == 3 * 6 + 1
    names = [name for name, _ in lora_layers(small_model)]
    assert set(names) == {f"trf_blocks.{i}.{name}" for i in range(3) for name in BLOCK} | {"out_head"}
    trains = {name for name, p in small_model.named_parameters() if p.requires_grad}
    assert trains == {f"{name}.lora.{letter}" for name in names for letter in "AB"}, "was the model frozen afterwards?"


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
        assert update.abs().max() > 1e-4, f"{name} learnt nothing, which would prove nothing"
        moved = layer.linear.weight - initial[name]
        torch.testing.assert_close(moved, update, rtol=1e-4, atol=1e-6, msg=f"{name}: transposed? scaled?")


def test_any_module_will_do_and_nothing_outside_it_is_frozen():
    inside = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.LayerNorm(5), nn.Linear(5, 4))
    outside = nn.ModuleDict({"first": nn.Linear(3, 6), "inside": inside, "frozen": nn.Linear(4, 2)})
    outside["frozen"].requires_grad_(False)
    assert replace_linear_with_lora(inside, 2, 4) == 2
    assert count_parameters(inside)[0] == 2 * (6 + 5) + 2 * (5 + 4), "the LayerNorm inside is not frozen"
    assert all(p.requires_grad for p in outside["first"].parameters()), "frozen, though it lies outside"
    assert not any(p.requires_grad for p in outside["frozen"].parameters()), "unfrozen"
    assert inside(random(8, 6)).shape == (8, 4)


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
    assert len(found) == (1 if targets == ["0.att.W_query"] else 3 * len(names)), "in one block only, or in too many"


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


def test_a_second_injection_is_an_error(blocks_with_lora):
    before = state(blocks_with_lora)
    with pytest.raises(ValueError, match="LoRA layers already"):
        replace_linear_with_lora(blocks_with_lora, 4, 8, targets=["W_query"])
    assert same(before, state(blocks_with_lora)), "a LoRA around a LoRA, or the first one's A and B frozen"


def test_a_tied_head_is_refused_and_the_reason_given(small_model):
    before = state(small_model)
    with pytest.raises(ValueError, match="out_head is tied.*token embedding.*Swap the head first"):
        replace_linear_with_lora(small_model, 4, 8)
    assert same(before, state(small_model)) and small_model.out_head.weight is small_model.tok_emb.weight


def test_a_layer_that_is_used_twice_is_refused():
    twice = nn.Linear(5, 5)
    model = nn.Sequential(twice, nn.ReLU(), twice)
    with pytest.raises(ValueError, match="tied"):
        replace_linear_with_lora(model, 2, 4)
    assert model[0] is model[2], "corrected in one of its two places"


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


def test_a_shared_A_is_counted_once(shared_a):
    separate = 3 * (4 * 4 * (30 + 30) + 2 * 4 * (30 + 120))
    trainable, _ = count_parameters(shared_a.trf_blocks)
    assert trainable == separate - 3 * 2 * 4 * 30, "two A's of (30, 4) fewer in each of the 3 blocks"


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
        x = random(2, 7, 30).to(small_model.tok_emb.weight)
        assert small_model.trf_blocks(x).shape == x.shape


# ---- merging --------------------------------------------------------------------------------------------------------

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
    assert torch.equal(small_model(tokens()), answers)


def test_a_merged_layer_does_not_run_its_lora(blocks_with_lora):
    fill(blocks_with_lora)
    expected = blocks_with_lora(tokens())
    merge_lora(blocks_with_lora)
    for _, layer in lora_layers(blocks_with_lora):
        layer.lora.forward = None    # calling it would be a TypeError
    torch.testing.assert_close(blocks_with_lora(tokens()), expected, rtol=1e-4, atol=1e-4)


def test_merging_changes_neither_the_counts_nor_what_a_state_dict_holds(blocks_with_lora):
    keys, counts = blocks_with_lora.state_dict().keys(), count_parameters(blocks_with_lora)
    merge_lora(blocks_with_lora)
    assert blocks_with_lora.state_dict().keys() == keys, "the kept originals would double the file"
    assert count_parameters(blocks_with_lora) == counts


def test_merging_twice_and_unmerging_what_is_not_merged_are_errors(blocks_with_lora):
    fill(blocks_with_lora)
    before = state(blocks_with_lora)
    with pytest.raises(RuntimeError, match="not merged"):
        unmerge_lora(blocks_with_lora)
    merge_lora(blocks_with_lora)
    merged = state(blocks_with_lora)
    with pytest.raises(RuntimeError, match="add the correction twice"):
        merge_lora(blocks_with_lora)
    assert same(merged, state(blocks_with_lora)), "the correction was added twice"
    unmerge_lora(blocks_with_lora)
    assert same(before, state(blocks_with_lora)), "the second merge took the merged weight for the original"


def test_training_while_merged_is_an_error_instead_of_training_nothing(small_model):
    swap_head(small_model, 2)
    replace_linear_with_lora(small_model.trf_blocks, 4, 8)    # the head alone would train on, and the loss would fall
    merge_lora(small_model.train())
    with pytest.raises(RuntimeError, match="merged.*unmerge first"):
        small_model(tokens())
    with torch.no_grad():
        small_model(tokens())
    small_model.eval()(tokens())
    unmerge_lora(small_model.train())
    small_model(tokens()).sum().backward()
    assert all(layer.lora.B.grad is not None for _, layer in lora_layers(small_model))


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
