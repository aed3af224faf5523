# %% [markdown]
"""
# 3  The GPT model: from three numbers to 124,439,808

After this chapter you can build GPT-2 from LayerNorm, GELU, feed-forward and attention, count its parameters on
paper, say what its first loss must be, and explain what a cache saves when it writes. You need: chapters 1 and 2.

    ids -> token vector + position vector -> L blocks -> norm -> head -> V scores
    each block:  x = x + attention(norm(x)),  then  x = x + feed-forward(norm(x))

3.1 to 3.5 make the parts and 3.6 puts them together.

- Run: `python chapters/03_gpt_model.py`
- Time: --quick 6 s, a model of mini's size; full 33 s, one of 124M, both untrained; on 2 CPU cores (AMD EPYC)
- Source: Radford et al. 2019, section 2.3; Ba et al. 2016; Hendrycks and Gimpel 2016; for 3.5 Dong et al. 2021; "the
  book" is Raschka 2024, Build a Large Language Model (From Scratch)
"""

# %%
import math
from timeit import repeat

import torch
from book import figure, predict, run_folder, section, show, start
from torch.nn import functional as F

from gpt.attention import KVCache
from gpt.config import GPT2_SIZES, GPTConfig
from gpt.download import fetch
from gpt.generate import generate, generate_text_simple
from gpt.lora import count_parameters
from gpt.losses import next_token_loss
from gpt.model import GELU, FeedForward, GPTModel, LayerNorm, TransformerBlock
from gpt.plots import plot_token_times
from gpt.tokenizer import gpt2_tokenizer, text_to_token_ids, token_ids_to_text

QUICK, FULL = dict(tries=5), dict(tries=3)
args = start(__doc__, QUICK, FULL, "--model")    # with --quick mini, otherwise the size of 124M
draw = torch.Generator().manual_seed(args.seed)

# %% [markdown]
# ## 3.1 LayerNorm on three numbers
#
# What a block reads is a sum of many answers; its size differs from token to token and grows with depth. So a layer
# first brings the channels of each token, by itself, to mean 0 and variance 1. Two learnt vectors, scale and shift, may
# undo that. The variance divides by C, whereas torch's `x.var()` divides by C - 1 unless told not to.

# %%
section("3.1")
x = torch.tensor([1.0, 4.0, 7.0])                     # (C,) = (3,): one token
deviations = x - x.mean()                             # -3, 0, 3
variance = (deviations ** 2).sum() / 3                # 18 / 3 = 6
by_hand = deviations / torch.sqrt(variance + 1e-5)
print([round(number, 4) for number in by_hand.tolist()], "and with x.var():", (deviations / x.var().sqrt()).tolist())
#> [-1.2247, 0.0, 1.2247] and with x.var(): [-1.0, 0.0, 1.0]
show(LayerNorm.forward)
predict("LayerNorm of 1, 4, 7 is what we did by hand, that of 10, 40, 70 too", True,
        torch.allclose(LayerNorm(3)(torch.stack([x, 10 * x])), by_hand, atol=1e-5))
#> LayerNorm of 1, 4, 7 is what we did by hand, that of 10, 40, 70 too: predicted True, measured True
# The 1e-5 (eps) is for channels that are all equal: 0 / sqrt(0) is not a number, 0 / sqrt(0 + 1e-5) is 0. It is not
# always negligible: in ours, untrained, the first LayerNorm reads a variance of 0.02^2 + 0.02^2, token and position.
print("LayerNorm of 5, 5, 5:", LayerNorm(3)(torch.full((3,), 5.0)).abs().tolist(), "and 0 / 0:", (0 * x / 0).tolist())
#> LayerNorm of 5, 5, 5: [0.0, 0.0, 0.0] and 0 / 0: [nan, nan, nan]
out = LayerNorm(768)(math.sqrt(0.0008) * torch.randn(1000, 768, generator=draw))     # (T, C)
predict("variance after that LayerNorm", 0.0008 / 0.00081, out.var(-1, correction=0).mean().item(), 0.0005)

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E3.1` takes out the body of `LayerNorm.forward`;
# `python -m pytest --exercise E3.1` checks yours.

# %% [markdown]
# ## 3.2 GELU: what two linear layers need between them
#
# Two linear layers with nothing between them are one: (x A) B = x (A B). An **activation function** between them makes
# them two. ReLU cuts negative numbers off. Its derivative there is 0, so a channel that is negative for every token no
# longer learns. GELU multiplies x by the probability that a draw from the standard normal distribution is below x. It
# is smooth and lets some gradient through below 0. Some, not all: near -0.75 it turns and its derivative is 0 too, and
# below -3 it is next to nothing.

# %%
section("3.2")
x = torch.tensor([-4.0, -1.0, -0.75, -0.5, 0.0, 1.0], requires_grad=True)
for name, activation in (("ReLU", F.relu), ("GELU", GELU())):
    derivative, = torch.autograd.grad(activation(x).sum(), x)
    print(f"{name} of -4, -1, -0.75, -0.5, 0, 1:", *(f"{y:.2f}" for y in activation(x).tolist()),
          "  derivative:", *(f"{y:.2f}" for y in derivative.tolist()))
#> ReLU of -4, -1, -0.75, -0.5, 0, 1: 0.00 0.00 0.00 0.00 0.00 1.00   derivative: 0.00 0.00 0.00 0.00 0.00 1.00
#> GELU of -4, -1, -0.75, -0.5, 0, 1: -0.00 -0.16 -0.17 -0.15 0.00 0.84   derivative: -0.00 -0.08 0.00 0.13 0.50 1.08
# The paper has a formula with tanh for when speed counts more than exactness. GPT-2 was trained with it, so we use it.
x = torch.linspace(-6, 6, 120_001)
by_hand = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
exact = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
predict("GELU is the formula", True, torch.allclose(GELU()(x), by_hand, atol=1e-5))
predict("at the most the formula is wrong by", 5e-4, (by_hand - exact).abs().max().item(), 0.1)

# %% [markdown]
# **Your turn.** `GELU.forward` is the formula that you have just seen, by hand or as one call of torch.
# `python tests/exercises.py start E3.2` takes out its body; `python -m pytest --exercise E3.2` checks yours.

# %% [markdown]
# ## 3.3 Feed-forward: each token by itself
#
# Attention moves information between tokens; this layer works on what a token has gathered: C channels to F = 4 C, an
# activation function, back to C. No token sees another here, so the order in which they stand cannot matter.

# %%
section("3.3")
show(FeedForward.__init__)
feed_forward, x = FeedForward(8), torch.randn(2, 5, 8, generator=draw)               # (B, T, C)
order = torch.tensor([3, 0, 4, 1, 2])
predict("tokens put in another order before, or after: the same", True,
        torch.allclose(feed_forward(x[:, order]), feed_forward(x)[:, order], atol=1e-6))

# %% [markdown]
# ## 3.4 The block: two outputs, added to the residual stream
#
# ![The residual stream runs straight from top to bottom; attention and feed-forward each read a normalised copy and add
# their output.](diagrams/gpt_block.svg)
#
# *A block. Each layer reads a token's vector and adds to it.*
#
# A token's vector runs through all blocks, and nothing overwrites it: attention and feed-forward read a normalised copy
# and add their outputs to it. This is called the **residual stream**. (`cache` is for 3.9. `at` is for chapters 5 and
# 6, which want one position of each row; here it is None; dropout is off.) Each answer adds variance, so the GPT-2
# paper starts with the last matrix of attention and of feed-forward divided by $\sqrt{2L}$, L the number of blocks. The
# residual stream still grows, but by the same amount however many blocks share it.

# %%
section("3.4")
show(TransformerBlock.forward)
grown = {}
for L, factor in ((4, 1), (16, 1), (4, math.sqrt(8)), (16, math.sqrt(32))):    # a factor that undoes the division
    config = GPTConfig(vocab_size=1000, context_length=64, emb_dim=128, n_heads=4, n_layers=L)
    shallow_or_deep = GPTModel(config, torch.Generator().manual_seed(args.seed))
    for block in shallow_or_deep.trf_blocks:
        block.att.out_proj.weight.data *= factor
        block.ff.layers[2].weight.data *= factor
    x = shallow_or_deep.embed(torch.arange(256).view(4, 64))                         # (B, T, C)
    grown[L, factor == 1] = (shallow_or_deep.trf_blocks(x).var() - x.var()).item()
predict("with the division: variance that 16 blocks add / that 4 add", 1.0, grown[16, True] / grown[4, True], 0.15)
predict("without: 16 / 4, if answers had nothing in common", 4.0, grown[16, False] / grown[4, False], 0.5)

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E3.3` takes out the body of `TransformerBlock.forward`: write it again
# without the listing. `python -m pytest --exercise E3.3` checks yours.

# %% [markdown]
# ## 3.5 What the residual connection is for
#
# `x +` is called a **residual connection** (also: skip connection), and it is often said that gradients vanish without
# it. In a plain stack of layers they do. With LayerNorm they do not: it brings a small signal back to size. What is
# lost is the token: attention averages, and average upon average makes all tokens of a row the same vector: which one
# was read last can no longer be told.

# %%
section("3.5")


def own_value(attention, x):
    """Attention with all weight on the token itself: it averages nothing."""
    return attention.out_proj(attention.W_value(x))


ways = {"norm and residual": lambda block, x: block(x),
        "norm only": lambda block, x: block.ff(block.norm2(block.att(block.norm1(x)))),
        "norm, own value": lambda block, x: block.ff(block.norm2(own_value(block.att, block.norm1(x)))),
        "neither": lambda block, x: block.ff(block.att(x))}
deep = GPTModel(GPTConfig(1000, 64, 128, 4, 12), torch.Generator().manual_seed(args.seed)).double()
ids, gradient, cosine = torch.randint(1000, (4, 64), generator=draw), {}, {}         # (B, T)
for way, step in ways.items():
    x = first = deep.embed(ids).detach().requires_grad_()                            # (B, T, C)
    for block in deep.trf_blocks:
        x = step(block, x)
    logits = deep.out_head(deep.final_norm(x[:, :-1]))                               # (B, T, V)
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    gradient[way] = torch.autograd.grad(loss, first)[0].norm().item()
    cosine[way] = F.cosine_similarity(x[:, :32], x[:, 32:], dim=-1, eps=1e-99).mean().item()
    print(f"{way:17}   gradient before 12 blocks {gradient[way]:.0e}   cosine of two tokens after {cosine[way]:.2f}")
predict("norm only: gradient below a tenth", False, gradient["norm only"] < 0.1 * gradient["norm and residual"])
predict("norm only: cosine of two tokens", 1.0, cosine["norm only"], 0.03)
predict("each token takes its own value, no average: cosine above one half", False, cosine["norm, own value"] > 0.5)

# %% [markdown]
# ## 3.6 The model, and its parameters by hand
#
# ![Tokens become vectors, pass through twelve blocks, a last norm and the head, and come out as
# logits.](diagrams/gpt_model.svg)
#
# *The whole model. Its shapes stay (B, T, C) from the first block to the last.*
#
# Token vectors plus position vectors, L blocks, a last LayerNorm, and a head that scores all V tokens. The head has no
# weights of its own: tied to the token vectors, it scores token v by the dot product with v's own vector.

# %%
section("3.6")
show(GPTModel.hidden)
show(GPTModel.forward)
V, T_max, C = 50257, 1024, 768
print(f"V C + T_max C + L (12 C^2 + 13 C) + 2 C = {V * C:,} + {T_max * C:,} + 12 * {12 * C * C + 13 * C:,} + {2 * C:,}")
#> V C + T_max C + L (12 C^2 + 13 C) + 2 C = 38,597,376 + 786,432 + 12 * 7,087,872 + 1,536
with torch.device("meta"):    # tensors with a shape and no memory
    for name in list(GPT2_SIZES)[:4]:
        C, L = GPT2_SIZES[name].emb_dim, GPT2_SIZES[name].n_layers
        attention, feed_forward, norms = 4 * (C * C + C), 8 * C * C + 5 * C, 2 * 2 * C    # of each block
        by_hand = V * C + T_max * C + L * (attention + feed_forward + norms) + 2 * C      # 2 C: the last norm
        predict(f"{name}, {4 * by_hand / 1e9:.2f} GB", by_hand, count_parameters(GPTModel(GPT2_SIZES[name]))[1])
    #> gpt2-small (124M), 0.50 GB: predicted 124,439,808, measured 124,439,808
    # GB at 4 bytes each, float32. The paper's table 2 says 117M for the smallest: an error, as OpenAI later wrote. 163M
    # is counted with a head of its own, V C more; the book's 163,009,536 has no biases at query, key and value either.
    book_model = torch.nn.ModuleList([GPTModel(GPTConfig(qkv_bias=False)), torch.nn.Linear(768, V, bias=False)])
predict("the book's", 124_439_808 + V * 768 - 12 * 3 * 768, count_parameters(book_model)[1])
#> the book's: predicted 163,009,536, measured 163,009,536

# %% [markdown]
# **Your turn.** The sums above were held against `count_parameters`. `python tests/exercises.py start E3.7` takes out
# its body; a tied tensor counts once, and `python -m pytest --exercise E3.7` checks that it does in yours.

# %% [markdown]
# ## 3.7 The first loss, before any training
#
# A model that knows nothing gives every token 1 / V: a loss of ln V. Ours begins near it because its weights are small.
# A logit is the dot product of C channels of variance 1 with a row of variance $0.02^2$, so logits have the variance
# $s^2 = 0.0004\,C$. The loss is the log of the sum of $e^{\text{score}}$, less the score of what came; the mean of
# $e^x$ over normal x is $e^{s^2/2}$, so that costs $s^2/2 = 0.0002\,C$ more. (One text's own scores are up and down;
# the mean is over all V.)

# %%
section("3.7")
config, tokenizer = GPT2_SIZES[args.model], gpt2_tokenizer()
C, L, T_max = config.emb_dim, config.n_layers, config.context_length
messages = fetch("sms").read_text(encoding="utf-8")[:2000]
ids = text_to_token_ids(messages, tokenizer)[:, :257].to(args.device)                # (B, T + 1) = (1, 257)
model = GPTModel(config, torch.Generator().manual_seed(args.seed)).eval().requires_grad_(False).to(args.device)
loss = next_token_loss(model, ids).item()    # the mean of -ln p of each next token (chapter 4 reads its code)
predict("first loss, ln V", math.log(V), loss, 0.02)
logits = model(ids[:, :-1])                                                          # (B, T, V)
predict("above ln V: 0.0002 C", 0.0002 * C, (logits.logsumexp(-1) - logits.mean(-1)).mean().item() - math.log(V), 0.05)
# With torch's own, larger first weights and a tied head it is far worse than knowing nothing. The residual stream still
# holds the vector of the token just read, and the head multiplies it by itself: all probability goes to this token, and
# the next one is another. A head of its own, as in the book, has no such row: its logits have variance 1/3. (For the
# curious: the score is C / the residual stream's standard deviation. Its variance is 2 from token and position, and
# each block adds `added`, a third of GELU(z)^2 with z of variance 1/3.)
other = GPTModel(config).eval().requires_grad_(False).to(args.device)
for layer in other.modules():
    if layer is not other.out_head and hasattr(layer, "reset_parameters"):
        layer.reset_parameters()    # nn.Embedding: N(0, 1); nn.Linear: uniform up to 1 / sqrt(in), variance 1 / (3 in)
added = GELU()(torch.randn(1_000_000, generator=draw) / math.sqrt(3)).square().mean().item() / 3
predict("torch's weights, head tied", C / math.sqrt(2 + L * added), next_token_loss(other, ids).item(), 0.1)
other.out_head = torch.nn.Linear(C, V, bias=False, device=args.device).requires_grad_(False)
predict("torch's weights, head of its own, ln V + 1/6", math.log(V) + 1 / 6, next_token_loss(other, ids).item(), 0.02)

# %% [markdown]
# ## 3.8 An untrained model babbles
#
# Writing is a loop: score what could come next, take the best, append it, read everything again.

# %%
section("3.8")
prompt = text = text_to_token_ids("The weather today is", tokenizer).to(args.device)    # (B, T) = (1, 4)
for _ in range(12):
    best = model(text)[:, -1].argmax(dim=-1, keepdim=True)                           # (B, 1)
    text = torch.cat([text, best], dim=1)                                            # (B, T + 1)
predict("generate_text_simple does this", True, torch.equal(generate_text_simple(model, prompt, 12, T_max), text))
#> generate_text_simple does this: predicted True, measured True
print("the best each time:  ", repr(token_ids_to_text(text, tokenizer)))
drawn = generate(model, prompt, 12, temperature=1.0, generator=torch.Generator(args.device).manual_seed(args.seed))
print("drawn by probability:", repr(token_ids_to_text(drawn, tokenizer)))
# The best soon is one token over and over. The tied head does most of it: the token just read scores 0.0004 C / the
# residual stream's deviation, the others 0 with a deviation of 0.02 sqrt(C), and the highest of 50,256 lies near 4.2 of
# these. In a narrow model that is enough. In a wide one it is not (at 124M's size the token just read is the best at 2
# % of positions), but there the outputs at neighbouring positions are alike: the best token of one step is near the top
# at the next, and that score lifts it over the others.
hidden = model.hidden(ids[:, :-1])[0]                                                # (T, C)
best, residual = model.out_head(hidden).argmax(-1), model.trf_blocks(model.embed(ids[:, :-1]))
own = (hidden * model.tok_emb(ids[0, :-1])).sum(-1).mean().item()
predict("score of the token just read", 0.0004 * C / residual.std().item(), own, 0.15)
print(f"it lies {own / (0.02 * math.sqrt(C)):.1f} deviations above 0 and is the best at "
      f"{(best == ids[0, :-1]).float().mean():.0%} of 256 positions of real text; cosine of neighbours "
      f"{F.cosine_similarity(hidden[1:], hidden[:-1]).mean():.2f}")

# %% [markdown]
# **Your turn.** The loop at the beginning of this section is nearly all of `generate_text_simple`.
# `python tests/exercises.py start E3.4` takes out its body; `python -m pytest --exercise E3.4` checks yours.

# %% [markdown]
# ## 3.9 The cache: do not read the past again
#
# ![Without a cache, four steps compute 18 keys and values; with one, 6.](diagrams/kv_cache.svg)
#
# *Each row is one step of writing.*
#
# A token's keys and values depend on the tokens before it, which stay the same as the text grows: keep them, and a step
# reads one token, whose queries meet all keys kept. Without, n tokens cost 1 + 2 + ... + n vectors in each block; with
# it n. Attention still looks at the whole past, so a step costs more and more, but by little.

# %%
section("3.9")
show(KVCache.extend)
read = []    # how many tokens each step reads
hook = model.trf_blocks[0].register_forward_pre_hook(lambda block, inputs: read.append(inputs[0].shape[1]))
uncached = generate_text_simple(model, ids[:, :1], 40, T_max)
predict("vectors a block computes for 40 tokens", 40 * 41 // 2, sum(read))
read.clear()
cached = generate(model, ids[:, :1], 40)
hook.remove()
predict("with a cache", 40, sum(read))
predict("the same tokens", True, torch.equal(cached, uncached))
# Past the window the oldest token drops out and every other one moves up by a position. Its keys were made with the old
# position, so those kept are worthless, and each step reads the whole window. With a window of 8 and a prompt of 6:
tiny, read = GPTModel(GPTConfig(1000, 8, 32, 4, 2)), []
tiny.trf_blocks[0].register_forward_pre_hook(lambda block, inputs: read.append(inputs[0].shape[1]))
generate(tiny, [[1, 2, 3, 4, 5, 6]], 6)
predict("tokens read at each step", [6, 1, 1, 8, 8, 8], read)
#> tokens read at each step: predicted [6, 1, 1, 8, 8, 8], measured [6, 1, 1, 8, 8, 8]

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E3.5` takes out the body of `KVCache.extend`, and
# `python tests/exercises.py start E3.6` that of `generate`, which no section shows: it uses this cache, and is the
# hardest exercise of the chapter. `python -m pytest --exercise E3.5` and `--exercise E3.6` check yours.

# %% [markdown]
# ## 3.10 What it saves, measured
#
# `generate()` saves two things: it reads one token, and it scores one position. The loop of 3.8 scores all positions to
# use the last. That saving is not the cache's, so three ways are timed for one more token, the best try of each;
# `item()` waits until a GPU has the number. The price: two vectors for each token and block, with room for `T_max`
# taken at once.

# %%
section("3.10")
ways = {"no cache, all positions scored": lambda: model(text)[0, -1].argmax().item(),
        "no cache, one position scored": lambda: model.out_head(model.hidden(text)[0, -1]).argmax().item(),
        "cache, one position scored": lambda: model.out_head(model.hidden(text[:, -1:], cache)[0, -1]).argmax().item()}
times, lengths = {way: [] for way in ways}, [T_max // 16, T_max // 4, T_max // 2, T_max]
for length in lengths:
    text, cache = torch.randint(V, (1, length), generator=draw).to(args.device), model.new_cache()
    filled = length - args.tries    # each try with the cache adds one token to it
    model.hidden(text[:, :filled], cache)
    for way, choose_token in ways.items():    # they look up `text` and `cache` when they are called
        times[way].append(1000 * min(repeat(choose_token, number=1, repeat=args.tries)))
predict("bytes of the cache, 2 L T_max C 4", 2 * L * T_max * C * 4, sum(c.keys.nbytes + c.values.nbytes for c in cache))
#> bytes of the cache, 2 L T_max C 4: predicted 1,048,576, measured 1,048,576
for way in ways:
    print(f"{way:30}", ", ".join(f"{ms:.1f} ms after {at}" for ms, at in zip(times[way], lengths, strict=True)))
ratio = times["no cache, one position scored"][-1] / times["cache, one position scored"][-1]
print(f"after {length} tokens the next takes {ratio:.1f} times as long without a cache")
figure(plot_token_times(lengths, times, args.model), run_folder(args), "03_cache")

# %% [markdown]
# ## What you have now
#
# GPT-2, counted to the last parameter, a first loss that you can predict, and what a cache saves.
#
# ## Break it
#
# Change one thing, run the chapter, and see whether you expected what happens:
#
# | where | change | what you should see |
# |---|---|---|
# | `gpt/model.py`, `LayerNorm` | write it out with `x.var(-1, keepdim=True)` | 3.1 stops: not what we did by hand |
# | `gpt/model.py`, `LayerNorm` | write it out, with `sqrt(variance) + eps` | 3.1 stops: variance 0.999, not 0.988 |
# | `gpt/model.py`, `init_weights` | leave out `/ math.sqrt(2 * ...)` | 3.4 stops: 4.4 times the growth, not 1 |
# | `gpt/model.py`, `GPTModel` | leave out the line that ties the head | 3.6 stops: 163,037,184 parameters |
# | `gpt/model.py`, `hidden` | `start=0`, so that each new token is the first | 3.9 stops: other tokens with the cache |
# | `gpt/generate.py` | a new cache past the window, and `unread` as it was | 3.9 stops: it reads 1 token, not 8 |
#
# ## Try it
#
#     python chapters/03_gpt_model.py --quick --seed 1    which of these numbers are luck?
