"""gpt/model.py against GPT-2 written once more in NumPy, and against what the paper says of its parts.

That its logits are OpenAI's and Hugging Face's is held by test_weights.py.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from gpt.config import GPT2_SIZES, GPTConfig
from gpt.model import GELU, FeedForward, GPTModel, LayerNorm, TransformerBlock

CONFIG = GPTConfig(vocab_size=101, context_length=24, emb_dim=30, n_heads=5, n_layers=3)    # small_model's
B, T, C, V = 2, 7, 30, 101


@pytest.fixture
def lively_model(small_model):
    """In float64, with no parameter at 0 or 1: a bias or a norm that is left out makes a difference."""
    fill(small_model)
    return small_model.double()


@torch.no_grad()
def fill(module, seed=1):
    """Draw every parameter from N(0, 0.3), in place."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.normal_(0.0, 0.3, generator=generator)


def tokens(*shape, seed=0):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- its parts --------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E3.1")
def test_a_fresh_layer_norm_gives_each_token_mean_0_and_variance_1(sizes):
    y = LayerNorm(sizes.C).double()(100 * numbers(sizes.B, sizes.T, sizes.C) + 7)
    assert y.mean(dim=-1).abs().max() < 1e-6, "the mean is taken over the channels of each token, the last axis"
    assert (y.var(dim=-1, correction=0) - 1).abs().max() < 1e-6, \
        "the variance is the mean square over C channels: C - 1 is torch.var's default; and it is divided by its root"


@pytest.mark.exercise("E3.1")
def test_layer_norm_scales_and_shifts_with_what_it_has_learnt(sizes):
    norm, x = LayerNorm(sizes.C).double(), numbers(sizes.B, sizes.T, sizes.C)
    plain = norm(x)
    fill(norm)
    assert (norm(x) - (norm.scale * plain + norm.shift)).abs().max() < 1e-12, "scale times the normalised, plus shift"


@pytest.mark.exercise("E3.1")
def test_layer_norm_divides_by_the_biased_variance_with_eps_inside_the_root(sizes):
    norm = LayerNorm(sizes.C).double()
    fill(norm)
    x = 0.003 * numbers(sizes.B, sizes.T, sizes.C) + 5    # variance as small as eps, so that eps's place matters
    mean = x.sum(dim=-1, keepdim=True) / sizes.C
    variance = ((x - mean) ** 2).sum(dim=-1, keepdim=True) / sizes.C
    expected = norm.scale * (x - mean) / torch.sqrt(variance + 1e-5) + norm.shift
    assert (norm(x) - expected).abs().max() < 1e-10, "divided by C - 1, or eps added to the root and not inside it?"


@pytest.mark.exercise("E3.1")
def test_a_token_of_equal_channels_is_normalised_to_the_shift_and_not_to_nan(sizes):
    norm = LayerNorm(sizes.C).double()
    fill(norm)
    y = norm(torch.full((sizes.B, 1, sizes.C), 3.0, dtype=torch.float64))
    assert torch.allclose(y, norm.shift), "0 / 0, without eps inside the root"


@pytest.mark.exercise("E3.1")
@pytest.mark.parametrize("axes", [1, 2, 4])
def test_layer_norm_takes_any_number_of_axes_and_leaves_its_input_alone(axes, sizes):
    x = numbers(*(2, 3, 4)[:axes - 1], sizes.C)
    before, norm = x.clone(), LayerNorm(sizes.C).double()
    y = norm(x)
    assert y.shape == x.shape and torch.allclose(y.mean(dim=-1), torch.zeros(y.shape[:-1], dtype=y.dtype)), \
        "the channels are the last axis, whichever number it has: dim=-1"
    assert torch.equal(x, before), "x is the residual stream, which others still read: no x -= mean"


@pytest.mark.exercise("E3.1")
def test_the_gradient_of_layer_norm_goes_through_mean_and_variance_too(sizes):
    norm, x = LayerNorm(sizes.C).double(), numbers(3, sizes.C).requires_grad_()
    fill(norm)
    weights = numbers(3, sizes.C, seed=1)
    (norm(x) * weights).sum().backward()
    expected = torch.autograd.grad((nn.functional.layer_norm(x, (sizes.C,), norm.scale, norm.shift) * weights).sum(),
                                   [x, norm.scale, norm.shift])
    for name, tensor, gradient in zip(("x", "scale", "shift"), (x, norm.scale, norm.shift), expected):
        assert tensor.grad is not None and torch.allclose(tensor.grad, gradient), \
            f"the gradient of {name} is another: are mean or variance detached, or computed under no_grad?"


@pytest.mark.exercise("E3.2")
def test_gelu_is_the_tanh_form_and_not_the_exact_one():
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    exact = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    assert 4e-4 < (GELU()(x) - exact).abs().max() < 5e-4, "GPT-2 was trained with the tanh form, close to the exact one"
    tanh_form = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert (GELU()(x) - tanh_form).abs().max() < 1e-12, "is it sqrt(2/pi), x cubed, and half of x?"


@pytest.mark.exercise("E3.2")
def test_gelu_leaves_large_numbers_alone_and_makes_negative_ones_nearly_0(sizes):
    x = 20 * numbers(sizes.B, sizes.T, sizes.C)
    y = GELU()(x)
    assert y.shape == x.shape and torch.allclose(y - GELU()(-x), x), "GELU(x) - GELU(-x) is x, whatever x is"
    assert torch.allclose(y[x > 6], x[x > 6]) and y[x < -6].abs().max() < 1e-6, "far from 0 it is a ReLU"
    assert -0.171 < y.min() and GELU()(torch.zeros(1)).item() == 0.0, "it is never below -0.17, and 0 at 0"


def test_feed_forward_widens_four_times_and_sees_one_token_at_a_time():
    ff, x = FeedForward(6).double(), numbers(B, T, 6)
    first, last = ff.layers[0], ff.layers[2]
    assert first.weight.shape == (24, 6) and last.weight.shape == (6, 24)
    for b in range(B):
        for t in range(T):
            expected = last.weight @ GELU()(first.weight @ x[b, t] + first.bias) + last.bias
            assert (ff(x)[b, t] - expected).abs().max() < 1e-12


@pytest.fixture
def block(small_model):
    """The first block of small_model, every parameter drawn anew: the two norms differ."""
    block = small_model.trf_blocks[0].double()
    fill(block)
    return block


@torch.no_grad()
def silence(projection, answer=0.0):
    """Let a branch of a block give `answer` for every token, whatever it reads. projection: its last linear layer"""
    projection.weight.zero_()
    projection.bias.fill_(answer)


@pytest.mark.exercise("E3.3")
def test_a_block_whose_two_projections_are_zero_hands_the_stream_on_unchanged(block, sizes):
    x = numbers(sizes.B, sizes.T, sizes.C)
    for projection in (block.att.out_proj, block.ff.layers[2]):
        silence(projection)
    assert torch.equal(block(x), x), "each branch must add to the stream, and no norm may stand on the stream itself"


@pytest.mark.exercise("E3.3")
def test_attention_and_feed_forward_each_read_their_own_norm(block, sizes):
    x = numbers(sizes.B, sizes.T, sizes.C)
    projections = {block.att: block.att.out_proj, block.ff: block.ff.layers[2]}
    for branch, other, norm in ((block.att, block.ff, block.norm1), (block.ff, block.att, block.norm2)):
        state = {name: tensor.clone() for name, tensor in block.state_dict().items()}
        silence(projections[other])
        assert (block(x) - x - branch(norm(x))).abs().max() < 1e-12, \
            f"{type(branch).__name__} must read {'norm1' if branch is block.att else 'norm2'} of the stream, alone"
        block.load_state_dict(state)


@pytest.mark.exercise("E3.3")
def test_feed_forward_reads_the_stream_after_attention_has_added_to_it(block, sizes):
    x = numbers(sizes.B, sizes.T, sizes.C)
    with torch.no_grad():
        block.att.out_proj.weight.zero_()
        block.att.out_proj.bias.copy_(numbers(sizes.C, seed=5))    # attention's answer is this, for every token
    stream = x + block.att.out_proj.bias
    assert (block(x) - stream - block.ff(block.norm2(stream))).abs().max() < 1e-12, \
        "the two branches stand one after the other: do both read the block's input?"


@pytest.mark.exercise("E3.3")
def test_a_block_hands_its_cache_to_attention(block, small_model, sizes):
    x, cache = numbers(sizes.B, sizes.T, sizes.C), small_model.new_cache()[0]
    pieces = torch.cat([block(piece, cache) for piece in x.split([sizes.T - 2, 2], dim=1)], dim=1)
    assert cache.length == sizes.T, "the cache must be given to attention, once"
    assert (pieces - block(x)).abs().max() < 1e-12


def test_the_gradients_of_a_block_are_those_of_finite_differences():
    block = TransformerBlock(GPTConfig(vocab_size=5, context_length=4, emb_dim=4, n_heads=2, n_layers=1)).double()
    fill(block)
    names, parameters = zip(*block.named_parameters())

    def run(x, *values):
        return torch.func.functional_call(block, dict(zip(names, values)), x)

    assert torch.autograd.gradcheck(run, (numbers(2, 3, 4).requires_grad_(), *parameters), fast_mode=True)


# ---- the whole --------------------------------------------------------------------------------------------------

def gpt2_in_numpy(weights, ids, config):
    """The logits (T, V) of one row of ids, from a state_dict's arrays and the formulas of the papers alone."""
    def norm(x, name):
        mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
        return weights[f"{name}.scale"] * (x - mean) / np.sqrt(variance + 1e-5) + weights[f"{name}.shift"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def attend(query, key, value):
        scores = np.exp(query @ key.T / np.sqrt(query.shape[-1])) * np.tri(len(query))
        return scores / scores.sum(axis=-1, keepdims=True) @ value

    x = np.stack([weights["tok_emb.weight"][token] + weights["pos_emb.weight"][t] for t, token in enumerate(ids)])
    for i in range(config.n_layers):
        block = f"trf_blocks.{i}"
        y = norm(x, f"{block}.norm1")
        q_k_v = [np.split(linear(y, f"{block}.att.W_{name}"), config.n_heads, axis=-1)
                 for name in ("query", "key", "value")]
        x = x + linear(np.concatenate([attend(*head) for head in zip(*q_k_v)], axis=-1), f"{block}.att.out_proj")
        y = linear(norm(x, f"{block}.norm2"), f"{block}.ff.layers.0")
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + linear(y, f"{block}.ff.layers.2")
    return norm(x, "final_norm") @ weights["tok_emb.weight"].T


def test_the_logits_are_those_of_gpt2_in_numpy(lively_model):
    weights = {name: tensor.numpy() for name, tensor in lively_model.state_dict().items()}
    for length in (1, T, 24):
        ids = tokens(B, length)
        logits = lively_model(ids).detach()
        assert logits.shape == (B, length, V)
        for row, row_logits in zip(ids, logits):
            difference = np.abs(row_logits.numpy() - gpt2_in_numpy(weights, row.tolist(), CONFIG)).max()
            assert difference < 1e-10, "do positions start at 0, does each sublayer read a norm, is the head tied?"


def test_the_future_cannot_change_the_past(small_model):
    ids = tokens(B, 24)
    logits = small_model(ids)
    for t in range(24):
        changed = ids.clone()
        changed[:, t] = (ids[:, t] + 1) % V
        difference = (small_model(changed) - logits).abs().amax(dim=(0, 2))    # (T,)
        assert difference[:t].sum() < 1e-6, f"token {t} is seen before its time"
        assert (difference[t:] > 1e-6).all(), f"token {t} is not seen by itself and all that follow"


def test_the_rows_of_a_batch_do_not_see_each_other(lively_model):
    ids = tokens(4, T)
    together = lively_model(ids)
    for i, row in enumerate(ids):
        assert (lively_model(row[None])[0] - together[i]).abs().max() < 1e-12


def test_the_order_of_the_words_matters(lively_model):
    ids = torch.tensor([[5, 6, 7, 8], [7, 6, 5, 8]])
    logits = lively_model(ids)
    assert (logits[0, 3] - logits[1, 3]).abs().max() > 0.01, "without positions attention sees a bag of words"


@pytest.mark.exercise("E1.4")
def test_a_tokens_vector_is_its_own_plus_that_of_its_position(small_model, sizes):
    model, ids = small_model.double(), torch.randint(sizes.V, (sizes.B, sizes.T))
    fill(model)
    x = model.embed(ids)
    assert x.shape == (sizes.B, sizes.T, sizes.C)
    positions = x - torch.stack([torch.stack([model.tok_emb.weight[token] for token in row]) for row in ids])
    assert torch.allclose(positions[0], positions[1]), "what is added to the tokens' vectors is the same in every row"
    assert torch.allclose(positions[0], model.pos_emb.weight[:sizes.T]), "position t of the row has row t: from 0 or 1?"


@pytest.mark.exercise("E1.4")
def test_a_row_counts_its_positions_from_its_first_real_token(small_model, sizes):
    ids, padding = tokens(3, 5), [0, 1, 3]
    vectors = small_model.embed(ids, padding=torch.tensor(padding))
    for row, padded in enumerate(padding):
        alone = small_model.embed(ids[row:row + 1, padded:])
        assert torch.equal(vectors[row:row + 1, padded:], alone), \
            f"behind {padded} tokens of padding the first real token has position 0, not {padded}"
    assert torch.equal(vectors[2, 0], small_model.embed(ids[2:, :1])[0, 0]), "padding has no position below 0"
    later = small_model.embed(ids[:, :1], start=4, padding=torch.tensor(padding))
    for row, padded in enumerate(padding):
        assert torch.equal(later[row:row + 1], small_model.embed(ids[row:row + 1, :1], start=4 - padded)), \
            "with a cache the padding before it is taken from start"


@pytest.mark.exercise("E1.4")
def test_positions_go_on_where_the_text_before_ended(small_model, sizes):
    ids = torch.randint(sizes.V, (sizes.B, sizes.context))    # as long as the window: every position there is
    whole = small_model.embed(ids)
    for start in (1, sizes.T, sizes.context - 1):
        assert torch.equal(small_model.embed(ids[:, start:], start), whole[:, start:]), \
            f"with start={start} the first token stands at position {start}"


@pytest.mark.parametrize("pieces", [[1] * 24, [24], [9, 14, 1], [23, 1]])
def test_a_text_read_in_pieces_gives_the_logits_of_a_text_read_at_once(lively_model, pieces):
    ids, cache = tokens(B, 24), lively_model.new_cache()
    hidden = torch.cat([lively_model.hidden(piece, cache) for piece in ids.split(pieces, dim=1)], dim=1)
    difference = (lively_model.out_head(hidden) - lively_model(ids)).abs().max()
    assert difference < 1e-10, "a piece must start at the position after the cache's last"


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 0.15)])
def test_a_model_of_another_type_gives_the_same_logits(lively_model, dtype, tolerance):
    ids = tokens(B, T)
    exact = lively_model(ids)
    logits = lively_model.to(dtype)(ids)
    assert logits.dtype == dtype and lively_model.out_head.weight is lively_model.tok_emb.weight
    assert (logits - exact).abs().max() < tolerance * exact.abs().max()


# ---- parameters -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, count", [
    ("gpt2-small (124M)", 124_439_808),
    ("gpt2-medium (355M)", 354_823_168),
    ("gpt2-large (774M)", 774_030_080),
    ("gpt2-xl (1558M)", 1_557_611_200),
    ("mini", 7_259_008),
])
def test_every_size_has_the_parameters_it_should_have(name, count):
    with torch.device("meta"):    # shapes without memory
        model = GPTModel(GPT2_SIZES[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == count, "an untied head would be counted twice"


@pytest.mark.exercise("E3.7")
def test_a_count_is_of_numbers_and_a_tied_tensor_counts_once(small_model, sizes):
    from gpt.lora import count_parameters    # here, so that a mistake in gpt/lora.py stops no other test
    V, C, F = sizes.V, sizes.C, 4 * sizes.C
    block = 4 * (C * C + C) + C * F + F + F * C + C + 4 * C
    by_hand = V * C + sizes.context * C + sizes.layers * block + 2 * C
    total = count_parameters(small_model)[1]
    assert total > 16 * sizes.layers + 4, "these are so many tensors: how many numbers are in them?"
    assert total != by_hand + V * C, "the head is the token embedding: the tied matrix is counted twice"
    assert count_parameters(small_model) == (by_hand, by_hand), "a fresh model trains all that it has"


@pytest.mark.exercise("E3.7")
def test_frozen_numbers_are_counted_in_the_total_alone(small_model, sizes):
    from gpt.lora import count_parameters
    total = count_parameters(small_model)[1]
    small_model.requires_grad_(False)
    assert count_parameters(small_model) == (0, total), "trainable first, then the total, frozen ones too"
    small_model.pos_emb.weight.requires_grad_(True)
    small_model.eval()
    assert count_parameters(small_model) == (sizes.context * sizes.C, total), "requires_grad says what trains, no mode"
    small_model.register_buffer("constant", torch.ones(7))
    assert count_parameters(small_model)[1] == total, "a buffer is no parameter"


@pytest.mark.exercise("E3.7")
@pytest.mark.parametrize("name, total", [("gpt2-small (124M)", 124_439_808), ("mini", 7_259_008)])
def test_the_count_of_a_gpt2_is_the_one_in_its_name(name, total):
    from gpt.lora import count_parameters
    with torch.device("meta"):    # shapes without memory
        model = GPTModel(GPT2_SIZES[name])
    assert count_parameters(model) == (total, total)


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_the_state_dict_holds_the_books_names_and_nothing_else(qkv_bias):
    model = GPTModel(GPTConfig(101, 24, 30, 5, 3, qkv_bias=qkv_bias))
    names = ["tok_emb.weight", "pos_emb.weight", "final_norm.scale", "final_norm.shift", "out_head.weight"]
    for block in (f"trf_blocks.{i}" for i in range(3)):
        names += [f"{block}.att.{layer}.weight" for layer in ("W_query", "W_key", "W_value", "out_proj")]
        names += [f"{block}.att.{layer}.bias" for layer in ("W_query", "W_key", "W_value") if qkv_bias]
        names += [f"{block}.att.out_proj.bias"]
        names += [f"{block}.ff.layers.{i}.{which}" for i in (0, 2) for which in ("weight", "bias")]
        names += [f"{block}.{norm}.{which}" for norm in ("norm1", "norm2") for which in ("scale", "shift")]
    assert sorted(model.state_dict()) == sorted(names), "a mask or another constant in the state_dict?"
    assert not list(model.buffers())


def test_the_head_is_the_embedding_and_learns_from_both_sides(small_model):
    assert small_model.out_head.weight is small_model.tok_emb.weight
    small_model(torch.tensor([[3, 4]]))[..., 5].sum().backward()
    moved = small_model.tok_emb.weight.grad.abs().sum(dim=1).nonzero().flatten()
    assert moved.tolist() == [3, 4, 5], "3 and 4 were read, 5 was scored"


@pytest.mark.parametrize("n_layers", [1, 8])
def test_a_fresh_model_has_gpt2s_initial_weights(n_layers):
    config = GPTConfig(vocab_size=211, context_length=100, emb_dim=120, n_heads=5, n_layers=n_layers)
    for name, parameter in GPTModel(config, torch.Generator().manual_seed(0)).named_parameters():
        if name.endswith(("bias", "shift")):
            assert not parameter.any(), f"{name} should start at 0"
        elif name.endswith("scale"):
            assert (parameter == 1).all(), f"{name} should start at 1"
        else:
            adds_to_the_stream = "out_proj" in name or "layers.2" in name
            std = 0.02 / math.sqrt(2 * n_layers) if adds_to_the_stream else 0.02
            assert abs(parameter.std() / std - 1) < 0.03, f"{name} has std {parameter.std():.4f}, not {std:.4f}"
            assert abs(parameter.mean()) < 0.05 * std, f"{name} is not centred at 0"


@pytest.mark.parametrize("emb_dim, n_heads", [(128, 4), (768, 12)])
@torch.no_grad()
def test_an_untrained_model_is_as_surprised_as_one_that_knows_nothing(emb_dim, n_heads):
    config = GPTConfig(context_length=64, emb_dim=emb_dim, n_heads=n_heads, n_layers=2)
    generator = torch.Generator().manual_seed(0)
    model, ids = GPTModel(config, generator), torch.randint(50257, (4, 65), generator=generator)
    loss = nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss / math.log(50257) - 1) < 0.02, "with a tied head torch's N(0, 1) embedding starts far above"


def test_a_generator_fixes_the_initial_weights_and_leaves_torchs_own_alone():
    def weights(seed):
        model = GPTModel(CONFIG, torch.Generator().manual_seed(seed))
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    before = torch.random.get_rng_state()
    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.random.get_rng_state(), before), "nn.Linear's own first weights were drawn from it"


def test_without_a_generator_torchs_seed_fixes_the_initial_weights_and_moves_on():
    torch.manual_seed(1)
    first, second = GPTModel(CONFIG), GPTModel(CONFIG)
    torch.manual_seed(1)
    assert torch.equal(GPTModel(CONFIG).tok_emb.weight, first.tok_emb.weight)
    assert not torch.equal(first.tok_emb.weight, second.tok_emb.weight), "a second model must not be the first again"


# ---- dropout ----------------------------------------------------------------------------------------------------

def assert_dropped(after, before, p):
    """Each number is either 0 or 1 / (1 - p) times what it was, and about 1 - p of them are kept."""
    kept = after != 0
    assert abs(kept.float().mean() - (1 - p)) < 0.05, "no dropout here, or too much"
    assert torch.allclose(after[kept], before[kept] / (1 - p), atol=1e-6)


def test_the_drop_rate_reaches_the_embedding_the_weights_and_both_branches_and_nothing_else():
    model = GPTModel(GPTConfig(101, 24, 30, 5, 3, drop_rate=0.25))
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    places = {"drop_emb"} | {f"trf_blocks.{i}.{place}" for i in range(3) for place in ("att.dropout", "drop_shortcut")}
    assert rates == dict.fromkeys(places, 0.25)


@pytest.mark.exercise("E1.4")
def test_the_sum_of_token_and_position_is_dropped():
    model = GPTModel(GPTConfig(101, 24, 30, 5, 3, drop_rate=0.25))
    torch.manual_seed(0)
    ids = tokens(8, 24)
    dropped = model.train().embed(ids)
    assert_dropped(dropped, model.eval().embed(ids), 0.25)


@pytest.mark.exercise("E3.3")
@pytest.mark.parametrize("branch", ["attention", "feed-forward"])
@torch.no_grad()
def test_a_branch_is_dropped_before_it_joins_the_stream_and_the_stream_is_not(branch):
    torch.manual_seed(0)
    block, x = TransformerBlock(GPTConfig(101, 24, 30, 5, 3, drop_rate=0.25)), numbers(8, 24, 30).float()
    block.att.dropout.p = 0.0
    silent = block.ff.layers[2] if branch == "attention" else block.att.out_proj
    silent.weight.zero_()
    silent.bias.zero_()
    dropped = block.train()(x) - x
    before = block.eval()(x) - x
    assert_dropped(torch.where(dropped.abs() < 1e-6, 0.0, dropped), before, 0.25)


def test_dropout_ends_with_training():
    model, ids = GPTModel(GPTConfig(101, 24, 30, 5, 3, drop_rate=0.25)), tokens(B, T)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    undropped = GPTModel(CONFIG).train()
    undropped.load_state_dict(model.state_dict())
    assert torch.equal(model(ids), undropped(ids)), "eval() must give what a drop_rate of 0 gives"


# ---- errors -----------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E1.4")
def test_a_row_longer_than_the_context_is_an_error_with_both_numbers(small_model, sizes):
    limit, error = sizes.context, rf"\b{sizes.context + 1}\b.*\b{sizes.context}\b"
    assert small_model.embed(tokens(B, limit)).shape == (B, limit, sizes.C), "a row as long as the context fits"
    with pytest.raises(ValueError, match=error):
        small_model.embed(tokens(B, limit + 1))
    with pytest.raises(ValueError, match=error):
        small_model.embed(tokens(B, 5), start=limit - 4)


def test_a_text_longer_than_the_context_is_an_error_with_a_cache_too(small_model):
    cache = small_model.new_cache()
    small_model.hidden(tokens(B, 20), cache)
    with pytest.raises(ValueError, match="25 tokens do not fit: .* 1 to 24"):
        small_model.hidden(tokens(B, 5), cache)


@pytest.mark.exercise("E1.4")
def test_an_empty_row_is_an_error(small_model):
    with pytest.raises(ValueError, match=r"\b0\b"):
        small_model.embed(tokens(B, 0))


@pytest.mark.exercise("E1.4")
@pytest.mark.parametrize("token, range_", [("V", "V"), (-1, "1"), (50256, "50256")])
def test_a_token_outside_the_vocabulary_is_an_error_with_the_numbers(small_model, sizes, token, range_):
    V = sizes.V
    with pytest.raises(ValueError, match=rf"\b{range_.replace('V', str(V))}\b.*\b{V - 1}\b"):
        small_model.embed(torch.tensor([[0, V if token == "V" else token]]))
    assert small_model.embed(torch.tensor([[0, V - 1]])).shape == (1, 2, sizes.C), "V - 1 is the last token"


@pytest.mark.exercise("E1.4")
def test_the_message_about_tokens_tells_the_lowest_then_the_highest(small_model, sizes):
    V = sizes.V
    with pytest.raises(ValueError, match=rf"-3\b.*\b{V + 5}\b.*\b{V - 1}\b"):
        small_model.embed(torch.tensor([[V + 5, 0, -3]]))


def test_heads_that_do_not_divide_the_channels_are_an_error():
    with pytest.raises(ValueError, match="7 heads cannot share 30 channels"):
        GPTModel(GPTConfig(101, 24, 30, 7, 3))
