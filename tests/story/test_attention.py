"""gpt/attention.py against equation 1 of Vaswani et al. 2017, worked out one number at a time."""

import itertools
import math

import pytest
import torch

from gpt.attention import KVCache, MultiHeadAttention, causal_attention, causal_attention_by_hand

B, H, D, S = 2, 3, 5, 7    # all different, so that no two axes can be mistaken for each other
BOTH = pytest.mark.parametrize("attention", [
    causal_attention, pytest.param(causal_attention_by_hand, marks=pytest.mark.exercise("E2.1"))])
NEW = pytest.mark.parametrize("new", ["one", "some", "all"])    # of the S tokens, how many ask: see `how_many`
CUTS = pytest.mark.parametrize("cuts", [
    lambda S: [1] * S, lambda S: [S], lambda S: [S // 2, S - S // 2], lambda S: [S // 2, 1, S - S // 2 - 1],
    lambda S: [1, S - 2, 1]], ids=["one by one", "at once", "halves", "one between", "both ends"])


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


def how_many(new, S):
    return {"one": 1, "some": S // 2 + 1, "all": S}[new]


@pytest.fixture
def qkv(sizes):
    """qkv(T): T queries (B, H, T, D), and keys and values of S >= T tokens (B, H, S, D)."""
    def qkv(T=None):
        shape = (sizes.B, sizes.H, sizes.T, sizes.D)
        return numbers(*shape)[:, :, :T], numbers(*shape, seed=1), numbers(*shape, seed=2)
    return qkv


@pytest.fixture
def module(sizes):
    """Attention from C + 1 channels to C = H D, in which no bias is zero."""
    torch.manual_seed(0)
    return MultiHeadAttention(sizes.C + 1, sizes.C, sizes.H, qkv_bias=True).double()


@pytest.fixture
def x(sizes):
    """What the module reads."""
    return numbers(sizes.B, sizes.T, sizes.C + 1)


# ---- softmax(Q K^T / sqrt(D) + mask) V --------------------------------------------------------------------------

@BOTH
@NEW
def test_the_weights_of_a_query_sum_to_1(attention, new, qkv, sizes):
    query, key, value = qkv(how_many(new, sizes.T))
    answer = attention(query, key, torch.ones_like(value))
    assert answer.shape == query.shape
    assert not answer.isnan().any(), "a query has no key to look at, only scores of -inf: it may look at itself"
    assert torch.allclose(answer, torch.ones_like(answer)), \
        "row sums are not 1: is the softmax over the keys, the last axis, and is the mask on the scores before it?"


@BOTH
def test_scores_are_divided_by_the_root_of_the_size_of_a_head(attention, sizes):
    D = sizes.D
    query, key, value = torch.ones(1, 1, 2, D), torch.zeros(1, 1, 2, D), torch.zeros(1, 1, 2, D)
    key[..., 0, :], value[..., 0, :] = math.log(3) / math.sqrt(D), 4.0    # scores sqrt(D) ln 3 and 0, values 4 and 0
    answer = attention(query, key, value)[..., 1, :].mean().item()    # the second token's: it sees both
    assert math.isclose(answer, 3.0, rel_tol=1e-5), \
        f"after the division e^score is 3 to 1, so the mean of 4 and 0 is 3, not {answer:.3f}: is it by sqrt(D)?"


@BOTH
@NEW
def test_attention_is_what_loops_over_the_past_give(attention, new, qkv, sizes):
    query, key, value = qkv(how_many(new, sizes.T))
    difference = (attention(query, key, value) - attention_by_loops(query, key, value)).abs().max()
    assert difference < 1e-12, "is 1/sqrt(D) missing, or does the mask not end at each query's own token? The last " \
        "query's is the last key, and with fewer queries than keys the first query's is not the first"


@pytest.mark.exercise("E2.1")
@NEW
def test_the_hand_written_attention_and_the_fused_one_have_the_same_gradients(new, qkv, sizes):
    inputs = [x.requires_grad_() for x in qkv(how_many(new, sizes.T))]
    weights = numbers(*inputs[0].shape, seed=3)
    fused, by_hand = (torch.autograd.grad((attention(*inputs) * weights).sum(), inputs)
                      for attention in (causal_attention, causal_attention_by_hand))
    for name, one, other in zip(("query", "key", "value"), fused, by_hand):
        assert (one - other).abs().max() < 1e-12, f"the gradient of the {name} differs"


@BOTH
def test_the_future_cannot_change_the_past(attention, qkv, sizes):
    query, key, value = qkv()
    before, now = attention(query, key, value), sizes.T // 2
    for tensor in (query, key, value):
        tensor[:, :, now:] = 100.0
    after = attention(query, key, value)
    assert torch.equal(after[:, :, :now], before[:, :, :now]), \
        "a token sees one that comes after it: 0 times a changed value is 0, not even rounding may differ"
    assert not torch.isclose(after[:, :, now:], before[:, :, now:]).any(), "a token looks at itself as well"


def bytes_kept(attention, *inputs):
    """What autograd keeps of a forward pass for the backward pass; views of one memory count once."""
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        attention(*inputs)
    return sum(kept.values())


@pytest.mark.exercise("E2.1")
def test_the_fused_kernel_keeps_no_weights_and_the_hand_written_attention_does():
    T, weights = 128, 8 * B * H * 128 * 128    # bytes
    inputs = [numbers(B, H, T, D, seed=seed).requires_grad_() for seed in range(3)]
    assert bytes_kept(causal_attention_by_hand, *inputs) > weights, "by hand means without the fused kernel"
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


@BOTH
@pytest.mark.parametrize("score", [0.0, 400.0, 4e4, 1e10])
def test_the_future_has_a_weight_of_0_however_large_its_score_and_its_value(attention, score):
    query, key = torch.tensor([score, 0.0]).view(1, 1, 2, 1), torch.tensor([-1.0, 1.0]).view(1, 1, 2, 1)
    value = torch.tensor([1.0, 1e300], dtype=torch.float64).view(1, 1, 2, 1)    # the past's, then the future's
    answer = attention(query.double(), key.double(), value)[0, 0, 0].item()
    assert answer == 1.0, f"the first token's own score is {-score:g}, the next one's {score:g}, and it has not come " \
        "yet: a mask of -100, -1e4 or -1e9 leaves it a weight, only -inf is below every score"


@BOTH
@torch.no_grad()
def test_attention_is_computed_where_its_input_is(attention, qkv):
    answer = attention(*(tensor.to("meta") for tensor in qkv()))    # shapes without numbers
    assert answer.device.type == "meta", "a mask made without device=query.device stands on the CPU"


@pytest.mark.exercise("E2.1")
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

@pytest.mark.exercise("E2.2")
@pytest.mark.parametrize("heads", ["H", "one", "C"])
def test_each_number_goes_to_the_head_of_its_channel_and_stays_with_its_token(heads, module, sizes):
    B, T, C, H = sizes.B, sizes.T, sizes.C, {"H": sizes.H, "one": 1, "C": sizes.C}[heads]
    x, module.num_heads, D = numbers(B, T, C), H, sizes.C // H
    split = module.split_heads(x)
    assert split.shape == (B, H, T, D), "heads come before tokens: attention works on the last two axes, (T, D)"
    for h, t in itertools.product(range(H), range(T)):
        assert torch.equal(split[:, h, t], x[:, t, h * D:(h + 1) * D]), \
            f"head {h} of token {t} is not channels {h * D} to {(h + 1) * D - 1} of token {t}: " \
            "view(B, H, T, D) in one step cuts the text into heads, and the axes of view(B, T, D, H) mix them"


@pytest.mark.exercise("E2.2")
def test_cutting_into_heads_moves_no_number(module, sizes):
    x = numbers(sizes.B, sizes.T, sizes.C)
    before = x.clone()
    split = module.split_heads(x)
    assert torch.equal(x, before) and split.untyped_storage().data_ptr() == x.untyped_storage().data_ptr(), \
        "heads are another way of looking at the same memory: no copy"


@pytest.mark.exercise("E2.3")
def test_head_h_reads_and_writes_channels_h_d_to_h_plus_1_d(module, x, sizes):
    heads, D = [], sizes.D
    for h in range(sizes.H):
        channels = slice(h * D, (h + 1) * D)
        query, key, value = (linear(x)[..., channels] for linear in (module.W_query, module.W_key, module.W_value))
        heads.append(attention_by_loops(query[:, None], key[:, None], value[:, None])[:, 0])
    expected = module.out_proj(torch.cat(heads, dim=-1))
    answer = module(x)
    assert answer.shape == expected.shape, "the answer has a token's channels again, heads side by side"
    assert (answer - expected).abs().max() < 1e-12, \
        "query, key and value mistaken for each other, heads not put back behind the tokens, or out_proj missing?"


@pytest.mark.exercise("E2.2", "E2.3")
def test_every_head_reads_all_channels(module, sizes):
    x = numbers(1, 1, sizes.C + 1)
    nudged = x.clone()
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


@pytest.mark.exercise("E2.3")
def test_dropout_acts_in_training_only(sizes):
    torch.manual_seed(0)
    module, x = MultiHeadAttention(6, sizes.C, sizes.H, dropout=0.5), numbers(sizes.B, sizes.T, 6).float()
    assert not torch.equal(module(x), module(x)), "in training each pass drops other weights"
    module.eval()
    dropped, module.dropout.p = module(x), 0.0
    assert torch.equal(dropped, module(x)), "dropout went on after eval()"


@pytest.mark.exercise("E2.3")
@pytest.mark.parametrize("cached", [False, True])
@torch.no_grad()
def test_dropout_takes_a_whole_weight_and_not_channels(module, sizes, cached):
    N, H, D, p = 400, sizes.H, sizes.D, 0.25
    module.dropout.p, module.out_proj = p, torch.nn.Identity()
    x = numbers(1, 1, sizes.C + 1).expand(N, 1, -1)    # one token looks at itself: each head has one weight, 1
    torch.manual_seed(0)
    answer = module.train()(x, KVCache(1) if cached else None).view(N, H, D)
    value = module.W_value(x).view(N, H, D)
    kept = (answer != 0).all(dim=-1)
    assert torch.equal(kept, (answer != 0).any(dim=-1)), \
        "a head's answer has lost some of its channels: dropout acts on the weights, not on what they make"
    assert torch.allclose(answer[kept], value[kept] / (1 - p)), "dropout acts on the weights, once, and on nothing else"
    assert abs(kept.double().mean() - (1 - p)) < 0.06, "1 - p of the weights are kept, with a cache too"


# ---- the cache --------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E3.5")
@CUTS
def test_the_cache_gives_back_all_tokens_in_order_and_copies_no_past(qkv, cuts, sizes):
    _, keys, values = qkv()
    cache, places, t = KVCache(size=sizes.T + 2), set(), 0
    for new in cuts(sizes.T):
        all_keys, all_values = cache.extend(keys[:, :, t:t + new], values[:, :, t:t + new])
        t += new
        assert cache.length == t, f"{t} tokens are in it, and length says {cache.length}"
        assert all_keys.shape == keys[:, :, :t].shape, "all tokens so far, not the new ones alone nor the empty room"
        assert torch.equal(all_keys, keys[:, :, :t]), "new keys stand behind the old ones: are they written at 0 again?"
        assert torch.equal(all_values, values[:, :, :t]), "these are not the values, or not in the order of the text"
        places.add((all_keys.data_ptr(), all_values.data_ptr()))
    assert len(places) == 1, "the past was moved: growing by torch.cat costs T^2 copies"


@pytest.mark.exercise("E3.5")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_cache_keeps_numbers_of_its_own_in_the_type_that_it_is_given(qkv, dtype):
    keys, values = (x.to(dtype) for x in qkv()[1:])
    before = keys.clone()
    cached = KVCache(size=keys.shape[2]).extend(keys, values)
    assert cached[0].dtype == cached[1].dtype == dtype, "the room has another type than what goes into it"
    keys.zero_()
    assert torch.equal(cached[0], before), "the cache holds the caller's tensor, which may change under it"


@pytest.mark.exercise("E3.5")
def test_a_full_cache_says_so_and_stays_as_it_was():
    cache, new = KVCache(size=6), numbers(B, H, 4, D)
    with pytest.raises(ValueError):
        cache.extend(*[numbers(B, H, 7, D)] * 2)    # the first call can bring too many as well
    assert cache.length == 0, "an error must leave the length as it was"
    cache.extend(new, new)
    with pytest.raises(ValueError) as error:
        cache.extend(new[:, :, :3], new[:, :, :3])
    assert {"6", "4", "3"} <= set(str(error.value)), "the message names the room, what is in it, and what was to come"
    assert cache.length == 4, "an error must leave the length as it was: look before anything is written"
    keys, _ = cache.extend(new[:, :, :2], new[:, :, :2])
    assert keys.shape == (B, H, 6, D), "6 tokens fit into a room for 6"
    assert torch.equal(keys[:, :, :4], new), "an error must leave what was in the cache"


@pytest.mark.exercise("E2.3", "E3.5")
@CUTS
def test_a_text_read_in_pieces_gives_the_answers_of_a_text_read_at_once(module, x, cuts, sizes):
    cache = KVCache(size=sizes.T + 2)
    answers = torch.cat([module(piece, cache) for piece in x.split(cuts(sizes.T), dim=1)], dim=1)
    assert cache.length == sizes.T, "the cache was not extended by each piece, or more than once"
    assert (answers - module(x)).abs().max() < 1e-12, "new tokens must see all the cache, and no new token after them"


@pytest.mark.exercise("E2.3")
@torch.no_grad()
def test_padding_that_the_cache_knows_of_is_not_looked_at(module, x, sizes):
    module.eval()
    padding = torch.arange(sizes.B) + 1    # row b begins with b + 1 tokens of padding
    answers = module(x, KVCache(sizes.T, padding))
    for row, padded in enumerate(padding.tolist()):
        alone = module(x[row:row + 1, padded:])
        assert torch.allclose(answers[row:row + 1, padded:], alone), \
            "a real token looks at padding: is cache.padding handed to causal_attention?"
