"""gpt/attention.py against equation 1 of Vaswani et al. 2017, worked out one number at a time."""

import itertools
import math

import pytest
import torch

from gpt.attention import KVCache, MultiHeadAttention, causal_attention, causal_attention_by_hand

B, H, D, S = 2, 3, 5, 7    # all different, so that no two axes can be mistaken for each other
BOTH = pytest.mark.parametrize("attention", [causal_attention, causal_attention_by_hand])


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention_by_loops(query, key, value):
    """Softmax(Q K^T / sqrt(D)) V without a matrix or a mask: each token goes through the tokens up to itself."""
    T, S, D = query.shape[2], key.shape[2], query.shape[3]
    answer = torch.zeros_like(query)
    for b, h, t in itertools.product(range(query.shape[0]), range(query.shape[1]), range(T)):
        past = range(S - T + t + 1)    # the last query belongs to the last key
        scores = [sum(query[b, h, t, d].item() * key[b, h, s, d].item() for d in range(D)) for s in past]
        exponentials = [math.exp(score / math.sqrt(D)) for score in scores]
        for s, exponential in zip(past, exponentials):
            answer[b, h, t] += exponential / sum(exponentials) * value[b, h, s]
    return answer


@pytest.fixture
def module():
    """Attention from 6 channels to 15 in 3 heads, in which no bias is zero."""
    torch.manual_seed(0)
    return MultiHeadAttention(6, H * D, H, qkv_bias=True).double()


# ---- softmax(Q K^T / sqrt(D) + mask) V --------------------------------------------------------------------------

@BOTH
@pytest.mark.parametrize("T", [1, 4, S])
def test_attention_is_what_loops_over_the_past_give(attention, T):
    query, key, value = numbers(B, H, T, D), numbers(B, H, S, D, seed=1), numbers(B, H, S, D, seed=2)
    difference = (attention(query, key, value) - attention_by_loops(query, key, value)).abs().max()
    assert difference < 1e-12, "is 1/sqrt(D) missing, or does the mask not end at each query's own token?"


@pytest.mark.parametrize("T", [1, 4, S])
def test_the_hand_written_attention_and_the_fused_one_have_the_same_gradients(T):
    inputs = [numbers(B, H, T, D), numbers(B, H, S, D, seed=1), numbers(B, H, S, D, seed=2)]
    inputs = [x.requires_grad_() for x in inputs]
    weights = numbers(B, H, T, D, seed=3)
    fused, by_hand = (torch.autograd.grad((attention(*inputs) * weights).sum(), inputs)
                      for attention in (causal_attention, causal_attention_by_hand))
    for name, one, other in zip(("query", "key", "value"), fused, by_hand):
        assert (one - other).abs().max() < 1e-12, f"the gradient of the {name} differs"


@BOTH
def test_the_future_cannot_change_the_past(attention):
    query, key, value = (numbers(B, H, S, D, seed=seed) for seed in range(3))
    before = attention(query, key, value)
    for tensor in (query, key, value):
        tensor[:, :, 4:] = 100.0
    after = attention(query, key, value)
    assert torch.equal(after[:, :, :4], before[:, :, :4]), "0 times a changed value is 0: not even rounding may differ"
    assert not torch.isclose(after[:, :, 4:], before[:, :, 4:]).any(), "a token looks at itself as well"


def bytes_kept(attention, *inputs):
    """What autograd keeps of a forward pass for the backward pass; views of one memory count once."""
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        attention(*inputs)
    return sum(kept.values())


def test_the_fused_kernel_keeps_no_weights_and_the_hand_written_attention_does():
    T, weights = 128, 8 * B * H * 128 * 128    # bytes
    inputs = [numbers(B, H, T, D, seed=seed).requires_grad_() for seed in range(3)]
    assert bytes_kept(causal_attention_by_hand, *inputs) > weights
    assert bytes_kept(causal_attention, *inputs) < weights / 4, "torch has not chosen its fused kernel"
    with_dropout = bytes_kept(lambda *inputs: causal_attention(*inputs, dropout=0.5), *inputs)
    assert with_dropout > weights, "torch has a fused kernel with dropout now: correct the docstring"


@BOTH
def test_a_query_that_asks_nothing_gets_the_mean_of_the_past(attention):
    value = torch.tensor([3.0, 5.0, 1.0, 7.0]).view(1, 1, 4, 1)
    answer = attention(torch.zeros(1, 1, 4, 1), torch.ones(1, 1, 4, 1), value).flatten()
    assert answer.tolist() == [3.0, 4.0, 3.0, 4.0], "equal scores share the weight among the tokens so far, not all 4"


@BOTH
def test_huge_scores_pick_one_token_instead_of_overflowing(attention):
    query, key = torch.full((1, 1, 3, 1), 300.0), torch.tensor([1.0, 600.0, 2.0]).view(1, 1, 3, 1)
    answer = attention(query, key, torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 3, 1))
    assert answer[0, 0, :, 0].tolist() == [1.0, 2.0, 2.0], "exp() of a score of 10^5 is inf: subtract the maximum first"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_attention_keeps_the_type_of_its_numbers(dtype):
    query, key, value = (numbers(B, H, S, D, seed=seed).to(dtype) for seed in range(3))
    fused, by_hand = causal_attention(query, key, value), causal_attention_by_hand(query, key, value)
    assert fused.dtype == by_hand.dtype == dtype, "a mask of another type would change it"
    assert (fused - by_hand).abs().max() <= 8 * torch.finfo(dtype).eps


def test_dropout_takes_weights_away_and_makes_up_for_them():
    torch.manual_seed(0)
    T, p = 8, 0.25
    zeros, one_hot = torch.zeros(500, 1, T, T), torch.eye(T).expand(500, 1, T, T)    # so the answer is the weights
    weights = causal_attention(zeros, zeros, one_hot, dropout=p)                     # (500, 1, T, T)
    before = causal_attention(zeros, zeros, one_hot)
    kept = weights != 0
    assert torch.allclose(weights[kept], before[kept] / (1 - p)), "a weight that is kept must grow by 1 / (1 - p)"
    assert abs(kept[before != 0].float().mean() - (1 - p)) < 0.02, "1 - p of the weights should be kept"


# ---- heads ------------------------------------------------------------------------------------------------------

def test_head_h_reads_and_writes_channels_h_d_to_h_plus_1_d(module):
    x = numbers(B, S, 6)
    heads = []
    for h in range(H):
        channels = slice(h * D, (h + 1) * D)
        query, key, value = (linear(x)[..., channels] for linear in (module.W_query, module.W_key, module.W_value))
        heads.append(attention_by_loops(query[:, None], key[:, None], value[:, None])[:, 0])
    expected = module.out_proj(torch.cat(heads, dim=-1))
    assert (module(x) - expected).abs().max() < 1e-12, "the heads' channels are mixed up, or out_proj is missing"


def test_every_head_reads_all_channels(module):
    x, nudged = numbers(1, 1, 6), numbers(1, 1, 6)
    nudged[..., 0] += 1.0
    for linear in (module.W_query, module.W_key, module.W_value):
        moved = module.split_heads(linear(nudged)) != module.split_heads(linear(x))
        assert moved.all(), "a head gets a share of the query's channels, not a share of the token's"


def test_more_heads_cost_no_more_parameters():
    counts = {sum(p.numel() for p in MultiHeadAttention(12, 12, heads).parameters()) for heads in (1, 2, 3, 12)}
    assert counts == {4 * 12 * 12 + 12}


@pytest.mark.parametrize("bias", [True, False])
def test_qkv_bias_gives_biases_to_query_key_and_value_alone(bias):
    module = MultiHeadAttention(6, 15, 3, qkv_bias=bias)
    biases = {name for name, _ in module.named_parameters() if name.endswith("bias")}
    assert biases == {"out_proj.bias"} | ({"W_query.bias", "W_key.bias", "W_value.bias"} if bias else set())


def test_heads_that_do_not_divide_the_channels_are_an_error():
    with pytest.raises(ValueError, match="4 heads cannot share 15 channels"):
        MultiHeadAttention(6, 15, 4)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    module, x = MultiHeadAttention(6, 15, 3, dropout=0.5), numbers(B, S, 6).float()
    assert not torch.equal(module(x), module(x)), "in training each pass drops other weights"
    module.eval()
    dropped, module.dropout.p = module(x), 0.0
    assert torch.equal(dropped, module(x)), "dropout went on after eval()"


# ---- the cache --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("pieces", [[1] * S, [S], [3, 4], [4, 1, 2], [1, 5, 1]])
def test_a_text_read_in_pieces_gives_the_answers_of_a_text_read_at_once(module, pieces):
    x, cache = numbers(B, S, 6), KVCache(size=S + 2)
    answers = torch.cat([module(piece, cache) for piece in x.split(pieces, dim=1)], dim=1)
    assert cache.length == S
    assert (answers - module(x)).abs().max() < 1e-12, "new tokens must see all the cache, and no new token after them"


def test_the_cache_gives_back_all_tokens_in_order_and_copies_no_past():
    keys, values = numbers(B, H, S, D), numbers(B, H, S, D, seed=1)
    cache, places = KVCache(size=S), set()
    for t in range(S):
        all_keys, all_values = cache.extend(keys[:, :, t:t + 1], values[:, :, t:t + 1])
        assert torch.equal(all_keys, keys[:, :, :t + 1]) and torch.equal(all_values, values[:, :, :t + 1])
        places.add((all_keys.data_ptr(), all_values.data_ptr()))
    assert len(places) == 1, "the past was moved: growing by torch.cat costs T^2 copies"


def test_a_full_cache_says_so_and_stays_as_it_was():
    cache = KVCache(size=6)
    cache.extend(numbers(B, H, 4, D), numbers(B, H, 4, D))
    with pytest.raises(ValueError, match="room for 6 tokens and holds 4: 3 more do not fit"):
        cache.extend(numbers(B, H, 3, D), numbers(B, H, 3, D))
    assert cache.length == 4
    assert cache.extend(numbers(B, H, 2, D), numbers(B, H, 2, D))[0].shape == (B, H, 6, D)
