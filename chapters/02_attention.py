"""2  Attention: a weighted average whose weights each token chooses

After this chapter you can compute attention in your head, write it with loops, with matrices and as a module with
heads, say what the mask and the division by sqrt(D) are for, and show that no token sees the future. Needs chapter 1.
Run: python chapters/02_attention.py
Time: --quick 8 s; full 22 s, 200 messages in 2.10 and 2.11 for 50; on 2 CPU cores (AMD EPYC); --device is not used
Source: Vaswani et al. 2017, section 3.2; Michel et al. 2019 (taking heads away)
"""

import math

import torch
from book import figure, predict, run_folder, section, show, start

from gpt.attention import MultiHeadAttention, causal_attention, causal_attention_by_hand
from gpt.download import fetch
from gpt.losses import next_token_loss
from gpt.model import GPTModel
from gpt.plots import plot_attention
from gpt.spam import read_sms
from gpt.tokenizer import gpt2_tokenizer, text_to_token_ids
from gpt.weights import load_gpt2

QUICK, FULL = dict(messages=50), dict(messages=200)
args = start(__doc__, QUICK, FULL)

# %%
section("2.1  A weighted average")
# Three tokens hold two numbers each: their values. Attention answers with an average of the values in which some tokens
# count more. The token that asks has a vector for that, its query; each token that may be found has another, its key
# (2.3 says where they come from). The dot product of query and key is a score, and softmax turns scores into weights:
# e to the power of each, divided by the sum of all. e^(ln 2) = 2 and e^0 = 1, so scores of ln 2, 0, 0 give the weights
# 2/4, 1/4, 1/4: do the average in your head. (If the values are the rows of an identity matrix, the average is the
# weights themselves.)


def attend(query, keys, values):
    """The answer to one query, (D,), from keys and values, (S, D) each: lists or tensors."""
    scores = [sum(q * k for q, k in zip(query, key)) for key in keys]
    exponentials = [math.exp(score) for score in scores]
    weights = [e / sum(exponentials) for e in exponentials]
    return [sum(w * value[d] for w, value in zip(weights, values)) for d in range(len(values[0]))]


query = [1.0, 0.0]    # its second number is 0: it asks for nothing in the second number of a key
keys = [[math.log(2), 5.0], [0.0, 3.0], [0.0, -1.0]]
answer = attend(query, keys, [[8.0, 0.0], [0.0, 8.0], [4.0, 4.0]])
predict("answer (8/2 + 0/4 + 4/4, 0/2 + 8/4 + 4/4)", [5.0, 3.0], [round(a, 6) for a in answer])
predict("weights", [0.5, 0.25, 0.25], [round(w, 6) for w in attend(query, keys, [[1, 0, 0], [0, 1, 0], [0, 0, 1]])])

# Adding 1000 to all scores multiplies all exponentials by e^1000, which cancels: only differences count. But no float
# holds e^1000, so torch first subtracts the largest score from all.
huge = torch.tensor([1000.0, 999.0])
predict("softmax(x + 1000) is softmax(x)", True, torch.equal(huge.softmax(dim=0), (huge - 1000).softmax(dim=0)))
print(f"by the formula as it stands: {(huge.exp() / huge.exp().sum()).tolist()}")
#> by the formula as it stands: [nan, nan]

# %%
section("2.2  All queries at once")
# Five tokens, each with a query, a key and a value. A table of dot products is a product of two matrices, and so is a
# table of weighted averages: the loops over queries, keys and channels become Q K^T and weights V.

Q, K, V = torch.randn(3, 5, 4)    # T = 5 tokens, D = 4 channels: (T, D) each
by_loops = torch.tensor([attend(q, K, V) for q in Q])    # (T, D)
by_matrices = (Q @ K.T).softmax(dim=-1) @ V    # softmax makes each row (T, T) sum to 1: one row a query
predict("loops and matrices agree to 1e-5", True, torch.allclose(by_loops, by_matrices, atol=1e-5))

# %%
section("2.3  Why three vectors")
# A token asks for something (query), offers something (key) and hands something over (value). Were query and key one
# vector x, its score with itself would be |x|^2, more than any other vector of that length can get, and a would want b
# as much as b wants a. Below, x says only where a token stands: 2 at its own place. Scores: 4 with itself, else 0.

x = 2 * torch.eye(4)    # (T, C)
weights, e4 = (x @ x.T).softmax(dim=-1), math.exp(4)    # (T, T)
predict("query = key: weight on itself, e^4 / (e^4 + 3)", e4 / (e4 + 3), weights.diagonal().mean().item(), 1e-4)
#> query = key: weight on itself, e^4 / (e^4 + 3): predicted 0.9479, measured 0.9479

# So each x is multiplied by three matrices, which training sets: x W_query, x W_key, x W_value. Here two are set by
# hand, and the values are given. This W_query turns "I am token t" into "I look for token t - 1". The first token finds
# no such row: its query is 0, a question for nothing, its scores are all equal, and it gets the mean of all values.
W_query, W_key, value = 5 * torch.ones(3).diag(-1), torch.eye(4), torch.tensor([[10.0], [20.0], [30.0], [40.0]])
answer = ((x @ W_query) @ (x @ W_key).T).softmax(dim=-1) @ value    # (T, 1)
predict("each token gets the value before its own", [25, 10, 20, 30], answer.flatten().round().int().tolist())

# %%
section("2.4  The mask: nobody sees the future")
# A language model learns to predict token t + 1 from the tokens up to t; a t that saw t + 1 could copy it. In loops
# this is a slice, keys[:t + 1]. In matrices it is a score of -inf, for e^-inf = 0. Such attention is called causal.

past_only = torch.tensor([attend(Q[t], K[:t + 1], V[:t + 1]) for t in range(5)])
future = torch.ones(5, 5, dtype=torch.bool).triu(1)    # (T, T): True where the key comes after the query
masked = (Q @ K.T).masked_fill(future, float("-inf")).softmax(dim=-1) @ V
predict("slices and -inf agree to 1e-5", True, torch.allclose(past_only, masked, atol=1e-5))

# Zeros after softmax are not the same, for the divisor has counted the future. Three tokens, all scores 0: the first
# may see only itself, so its weight on itself should be 1, and is 1/3. Let the last key score 5, and it is
# 1 / (2 + e^5). Dividing each row by its sum mends that in algebra. In floats softmax rounds the past to 0 where the
# future is far ahead, and 0/0 is nan.
for score, predicted in ((0.0, 1 / 3), (5.0, 1 / (2 + math.exp(5))), (200.0, 0.0)):
    late = torch.tensor([0.0, 0.0, score]).expand(3, 3).softmax(dim=-1).masked_fill(future[:3, :3], 0.0)
    predict(f"zeros late, future's score {score:.0f}: a weight that should be 1", predicted, late[0, 0].item(), 1e-4)
    print(f"    divided by its row's sum: {(late / late.sum(dim=-1, keepdim=True))[0, 0].item()}")
#> zeros late, future's score 5: a weight that should be 1: predicted 0.006648, measured 0.006648
#>     divided by its row's sum: nan

# %%
section("2.5  Why divide by sqrt(D)")
# q . k is a sum of D products. If all numbers are independent, with mean 0 and variance 1, so are the products, and
# variances add up to D. So scores spread as sqrt(D), and a softmax of widely spread scores is all or nothing. Then it
# hardly learns: the derivative of a weight w by its own score is w (1 - w), which is 0 at w = 0 and at w = 1.

for D in (4, 64, 1024):
    scores = (torch.randn(1000, 1, D) @ torch.randn(1000, D, 16))[:, 0]    # (1000, 16): queries with 16 keys each
    predict(f"variance of q . k, D = {D}", float(D), scores.var().item(), 0.15)
    for name, w in (("as it is", scores.softmax(dim=-1)), ("/ sqrt(D)", (scores / D**0.5).softmax(dim=-1))):
        print(f"    {name:9} largest weight {w.amax(-1).mean():.2f}, sum of w (1 - w) {(w - w * w).sum(-1).mean():.2f}")

# Variance 1 is an assumption, and GPT-2 does not keep it. Its matrices start with the standard deviation 0.02. Chapter
# 3's LayerNorm gives x channels of variance 1, so a query's channel has 768 * 0.02^2 = 0.31, a key's too, and a divided
# score 0.31 * 0.31. A fresh GPT-2 looks at all tokens nearly alike. The division makes that independent of D; how large
# the scores become is learnt.
normed, (W_query, W_key) = torch.randn(500, 768), 0.02 * torch.randn(2, 768, 64)    # (T, C); (C, D) each
scores = (normed @ W_query) @ (normed @ W_key).T / 64**0.5    # (500, 500)
predict("variance of a fresh GPT-2's scores", (768 * 0.02**2)**2, scores.var().item(), 0.15)

# %%
section("2.6  Heads")
# One softmax gives one average; H heads give H. Query, key and value are cut into H pieces of D = C / H channels, and
# each piece attends by itself. In x below the tens name the token and the ones its channel.

show(MultiHeadAttention.split_heads)
x = torch.arange(3.0)[:, None] * 10 + torch.arange(4.0)    # (T, C) = (3, 4)
two_heads = MultiHeadAttention(4, 4, num_heads=2)
print(f"split_heads, head 0:    {two_heads.split_heads(x[None])[0, 0].int().tolist()}")
#> split_heads, head 0:    [[0, 1], [10, 11], [20, 21]]
print(f"x.view(B, H, T, D) has that shape too, head 0: {x.view(1, 2, 3, 2)[0, 0].int().tolist()}: half tokens")
#> x.view(B, H, T, D) has that shape too, head 0: [[0, 1], [2, 3], [10, 11]]: half tokens

# What is cut is the query, not the token: W_query makes each channel of the query from all channels of x. And heads are
# free: H matrices (C, D) side by side are one (C, C). The heads' answers are laid side by side again, and a fourth
# matrix, out_proj, mixes them into one vector. So four (C, C) matrices and biases, whatever H is.
before, after = (two_heads.split_heads(two_heads.W_query(x[None] + nudge)) for nudge in (0, torch.eye(4)[0]))
predict("heads that notice a change of channel 0", 2, sum((before != after)[0, h].any().item() for h in range(2)))
counts = {sum(p.numel() for p in MultiHeadAttention(768, 768, H, qkv_bias=True).parameters()) for H in (1, 2, 12)}
predict("parameters with 1, 2 and 12 heads", {4 * (768 * 768 + 768)}, counts)

# %%
section("2.7  Meet the module")
# What was derived, with a batch and heads in front. `cache` belongs to chapter 3 and `at` to chapter 5: both are None
# here, so S = T. Dropout, which sets some weights to 0 at random while training, is off. causal_attention gives what
# causal_attention_by_hand gives, faster: here it is no more than its last line, torch's fused kernel, for 2.9.

show(causal_attention_by_hand)
show(MultiHeadAttention.forward)
T, C, H = 7, 12, 3
D, module, x = C // H, MultiHeadAttention(C, C, H, qkv_bias=True).requires_grad_(False), torch.randn(1, T, C)
query, key, value = (module.split_heads(W(x)) for W in (module.W_query, module.W_key, module.W_value))    # (1, H, T, D)
by_loops = torch.tensor([[attend(query[0, h, t] / D**0.5, key[0, h, :t + 1], value[0, h, :t + 1]) for t in range(T)]
                         for h in range(H)])[None]    # (1, H, T, D)
by_matrices, answer = causal_attention_by_hand(query, key, value), module(x)
for name, one, other in (("loops and matrices", by_loops, by_matrices),
                         ("matrices and the fused kernel", by_matrices, causal_attention(query, key, value)),
                         ("loops and the module", module.out_proj(by_loops.transpose(1, 2).flatten(2)), answer)):
    predict(f"{name} agree to 1e-5", True, torch.allclose(one, other, atol=1e-5))

# %%
section("2.8  The future cannot change the past")
# Change the last token: the answers before it stay as they are to the last bit, for 0 times a number is 0. Cut it off:
# other shapes may be added up in another order, so they agree to rounding.

changed = x.clone()
changed[:, -1] = 100.0
predict("largest change before a changed token", 0.0, (module(changed) - answer)[:, :-1].abs().max().item())
predict("last token cut off: equal to 1e-5", True, torch.allclose(module(x[:, :-1]), answer[:, :-1], atol=1e-5))

# Without a mask attention knows no order: reverse the tokens, and each gets the answer that it had. Hence chapter 1's
# position vectors. (With the mask it knows a little: the first token sees only itself, the last one all.)
forwards, backwards = ((q @ k.transpose(2, 3)).softmax(dim=-1) @ v for q, k, v in (
    (query, key, value), (query.flip(2), key.flip(2), value.flip(2))))
predict("no mask, tokens reversed: same answers", True, torch.allclose(forwards, backwards.flip(2), atol=1e-5))

# %%
section("2.9  What it costs")
# T queries times T keys: twice the text, four times the attention weights, 48 MiB in each block of GPT-2 at T = 1,024.
# Training keeps what the backward pass reads: by hand Q, K, V, the mask (1 byte each) and the weights. The fused kernel
# keeps Q, K, V, its answer and one number a query, and works the weights out again, some keys at a time.

show(causal_attention)
H, T, D, kept = 12, 1024, 64, []
inputs, each = [torch.randn(1, H, T, D, requires_grad=True) for _ in range(3)], 4 * H * T * D
for attention, predicted in ((causal_attention_by_hand, 3 * each + T * T + 4 * H * T * T),
                             (causal_attention, 4 * each + 4 * H * T)):
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        attention(*inputs)    # the first hook sees each tensor that is kept; views of one memory are counted once
    memory = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    predict(f"{attention.__name__}: bytes kept", predicted, sum(memory.values()), 0.01)
#> causal_attention_by_hand: bytes kept: predicted 60,817,408, measured 60,817,408
#> causal_attention: bytes kept: predicted 12,632,064, measured 12,632,064

# %%
section("2.10  Where mini looks")
# mini is a small GPT-2 that chapter 4 trained: 4 blocks of 4 heads. The loop takes a message through its blocks, as
# chapter 3 will explain. With the identity matrix as values the answer of attention is its weights.


@torch.no_grad()
def weights_of(model, ids):
    """All heads' weights for one message, (1, T) -> (blocks, H, T, T), each block held against its module's answer."""
    x, weights = model.embed(ids), []
    for block in model.trf_blocks:
        att, normed = block.att, block.norm1(x)
        query, key, value = (att.split_heads(W(normed)) for W in (att.W_query, att.W_key, att.W_value))
        weights.append(causal_attention_by_hand(query, key, torch.eye(ids.shape[1]))[0])     # (H, T, T)
        context = (weights[-1] @ value).transpose(1, 2).flatten(2)                           # (B, T, C)
        assert torch.allclose(att.out_proj(context), att(normed), atol=1e-4), "these are not the weights that it used"
        x = block(x)
    return torch.stack(weights)


mini, tokenizer = load_gpt2("mini"), gpt2_tokenizer()
texts = [text for text in read_sms(fetch("sms"))["Text"][:args.messages] if len(text) > 20]
messages = [text_to_token_ids(text, tokenizer) for text in texts]    # (1, T) each


def habit(model):
    """(blocks, H): the mean weight on the token before. The first two tokens have little choice and are left out."""
    before = [weights_of(model, ids).diagonal(offset=-1, dim1=-2, dim2=-1) for ids in messages]    # (blocks, H, T - 1)
    return torch.stack([each[..., 1:].mean(dim=-1) for each in before]).mean(dim=0)


untrained, trained = habit(GPTModel(mini.config)), habit(mini)
even = sum((1 / torch.arange(3, ids.shape[1] + 1)).mean().item() for ids in messages) / len(messages)
predict("weight on the token before, untrained (2.5: as if shared evenly)", even, untrained.mean().item(), 0.05)
print(f"mini, one row a block, one column a head, both counted from 0:\n{trained}")

# %%
section("2.11  A picture is no explanation")
# Does the head with the plainest habit matter most? Take each head away (its D columns of out_proj set to 0, the others
# as they are) and see how much worse mini predicts the next token of the messages, laid end to end in rows of 256.

rows, rise, D = torch.cat(messages, dim=1)[0].unfold(0, 256, 256), torch.zeros(4, 4), 32    # rows: (B, T)
with torch.no_grad():
    whole = next_token_loss(mini, rows)
    for b, block in enumerate(mini.trf_blocks):
        for h, columns in enumerate(block.att.out_proj.weight.data.split(D, dim=1)):    # (C, D), a view of the weight
            kept = columns.clone()
            columns.zero_()
            rise[b, h] = next_token_loss(mini, rows) - whole
            columns.copy_(kept)
print(f"without a head the loss of {whole:.2f} nats a token rises by (below 0: mini is better without it)\n{rise}")
plain, dear = (divmod(int(table.argmax()), 4) for table in (trained, rise))    # (block, head)
print(f"block {plain[0]}, head {plain[1]} has the plainest habit: {trained[plain]:.0%} on the token before, evenly "
      f"{even:.0%}\nthe plainest is not the dearest: without it {rise[plain]:+.3f} nats, without block {dear[0]}, head "
      f"{dear[1]} {rise[dear]:+.3f}")
predict("the dearest head is the one with the plainest habit", False, plain == dear)
ids = text_to_token_ids("Yeah sure, give me a couple minutes to track down my wallet", tokenizer)    # a message
figure(plot_attention([weights_of(mini, ids)[head] for head in (plain, dear)], [tokenizer.decode([i]) for i in ids[0]],
                      [f"block {b}, head {h}: without it {rise[b, h]:+.2f} nats a token" for b, h in (plain, dear)]),
       run_folder(args), "02_attention")

# %% What you have now: attention by loops, by matrices, as a module and fused, and all agree; a mask put to the test.
#
# Break it, and see what you should see:
#   gpt/attention.py, split_heads: x.view(B, H, T, D) alone    -> all shapes fit, 2.7 agrees, 2.8 stops: a leak
#   gpt/attention.py, by hand: triu(S - T)                     -> 2.7 stops: token 0 may look at nothing and gets nan
#   gpt/attention.py, by hand: without / D**0.5                -> 2.7 stops: loops and matrices disagree
#   gpt/attention.py, fused: causal = False                    -> 2.7 stops: everybody sees the future
#   2.4: masked_fill(future, 0.0)                              -> 2.4 stops: a score of 0 is a weight of e^0 = 1
# Try it:
#   python chapters/02_attention.py --quick --seed 1    do the predictions hold for other random numbers?
#   python -m pytest tests/story/test_attention.py            what else attention has to do
