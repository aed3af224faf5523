# %% [markdown]
"""
# 3  The GPT model: from three numbers to 124,439,808

After this chapter you have written a GPT-2, `TinyGPT`, in about 40 lines, and shown that it computes what the library's
model computes. You can count its parameters on paper, predict its first loss, and explain what a cache saves when it
writes. You need chapters 1 and 2.

- Run: `python chapters/03_gpt_model.py`
- Time: --quick 5 s, a model of mini's size; full 47 s, one of 124M; on 1 CPU core (AMD EPYC), the data there already
- Source: Radford et al. 2019, section 2.3; Ba et al. 2016; Hendrycks and Gimpel 2016
"""

# %%
from book import section, start

QUICK, FULL = dict(tries=5), dict(tries=3)
args = start(__doc__, QUICK, FULL, "--model")    # --quick: mini's size; else 124M's

# %% [markdown]
# ## 3.1 The whole model, and one block of it
#
# A GPT reads the tokens of a text and gives each token of its vocabulary a score: how well would this one fit as the
# next? You have two of its parts, the vectors of chapter 1 and the attention of chapter 2. Neither can give such
# scores. This picture shows what is missing.
#
# ![Three tokens become vectors of 768 numbers, pass through twelve blocks, a LayerNorm and the head, and come out as
# 50,257 logits each.](diagrams/gpt_model.svg)
#
# *The whole model, from left to right. Each of the three tokens keeps a row of its own.*
#
# 1. Each token becomes a vector: its row of the token table plus the row of its position (chapter 1).
# 2. The vectors pass through twelve **blocks**, one after another. All blocks are built alike, but each has numbers of
#    its own.
# 3. At the end stand a LayerNorm, which this chapter explains, and the **head**. The head makes one score per token of
#    the vocabulary. These scores are called **logits**.
#
# Here is one block. Three of its parts are new: LayerNorm, feed-forward, and the two plus signs.
#
# ![The residual stream runs straight from top to bottom; attention and feed-forward each read a normalised copy and add
# their output.](diagrams/gpt_block.svg)
#
# *One block. The blue line is the vector of a token on its way through the model; 3.5 explains its name. Sections 3.2
# to 3.6 follow this picture.*
#
# How large is all of this? Five numbers decide. From now on we use their letters.

# %%
from gpt.config import GPT2_SIZES

section("3.1")
small = GPT2_SIZES["gpt2-small (124M)"]
print(f"V     = {small.vocab_size:,} tokens in the vocabulary")
print(f"T_max = {small.context_length:,} tokens that it can read at once")
print(f"C     = {small.emb_dim} channels: numbers in a token's vector")
print(f"H     = {small.n_heads} heads in each attention")
print(f"L     = {small.n_layers} blocks")

# %% [markdown]
# ## 3.2 LayerNorm
#
# Attention makes its weights from dot products of queries and keys. Suppose that two keys get the scores 1 and 0.
# Softmax turns them into the weights 0.73 and 0.27. Now let all token vectors be ten times as large. Queries and keys
# are then ten times as large too (apart from their biases), and each score is a hundred times as large. **What are the
# weights then?**

# %%
import torch

section("3.2")
for score in (1.0, 100.0):
    first, second = torch.tensor([score, 0.0]).softmax(dim=-1).tolist()
    print(f"scores {score} and 0: weights {first:.4f} and {second:.4f}")
#> scores 1.0 and 0: weights 0.7311 and 0.2689
#> scores 100.0 and 0: weights 1.0000 and 0.0000

# %% [markdown]
# One token takes everything. In 2.6 we saw why that is bad: a query with all of its weight on one key can hardly learn
# to look elsewhere. And vectors do grow in a deep model, because every plus sign adds something to them. (3.7 measures
# it.) So we bring each vector to a standard size before attention reads it. This is called **layer normalisation**, or
# **LayerNorm**.
#
# ### On three numbers
#
# Let a token have three channels, 1, 4 and 7. You can normalise them in your head:
#
# 1. Subtract their mean, which is 4. That leaves the deviations -3, 0 and 3.
# 2. The mean of their squares is the **variance**: (9 + 0 + 9) / 3 = 6.
# 3. Divide by its square root, which is 2.45. The results have mean 0 and variance 1.

# %%
from book import predict

x = torch.tensor([1.0, 4.0, 7.0])    # (C,): one token
deviations = x - x.mean()
variance = deviations.square().mean()
normalised = deviations / variance.sqrt()
predict("variance", 6.0, variance.item())
print(f"normalised: {[round(number, 4) for number in normalised.tolist()]}")
#> normalised: [-1.2247, 0.0, 1.2247]

# %% [markdown]
# **What comes out for 10, 40 and 70?** The same. The deviations are ten times as large, and so is the root. That is
# what we wanted.
#
# ### Two details that have to be right
#
# **The variance divides by C**, the number of channels. torch's `x.var()` divides by C - 1, unless you tell it
# otherwise. That is for a sample, from which one estimates the variance of a larger population. Here there is no larger
# population: the C channels are all that we want to normalise.
#
# **Nothing may be divided by 0.** If all channels are equal, the variance is 0, and 0 / 0 is `nan`, "not a number". So
# a small number, **eps** = 0.00001, is added to the variance before the root is taken.

# %%
unbiased = deviations / x.var().sqrt()    # x.var() is 18 / 2 = 9
print(f"1, 4, 7 with x.var(): {unbiased.tolist()}")
zeros = torch.tensor([5.0, 5.0, 5.0]) - 5.0    # minus their mean
variance = zeros.square().mean()               # 0
print(f"5, 5, 5 without eps: {(zeros / variance.sqrt()).tolist()}")
print(f"5, 5, 5 with eps:    {(zeros / (variance + 1e-5).sqrt()).tolist()}")
#> 1, 4, 7 with x.var(): [-1.0, 0.0, 1.0]
#> 5, 5, 5 without eps: [nan, nan, nan]
#> 5, 5, 5 with eps:    [0.0, 0.0, 0.0]

# %% [markdown]
# One thing remains. Perhaps some channel is more useful at another size, or with another mean. So LayerNorm ends with
# two vectors that training can change, one number per channel in each. It multiplies by the first, the **scale**, and
# adds the second, the **shift**:
#
# $$y = \frac{x - \text{mean}}{\sqrt{\text{variance} + \text{eps}}} \cdot \text{scale} + \text{shift}$$
#
# The scale starts as ones and the shift as zeros, so at first they change nothing. `nn.Parameter` tells torch that a
# tensor is to be trained. `dim=-1` is the last axis, the channels, so each token is normalised by itself.

# %%
from torch import nn

class TinyNorm(nn.Module):
    def __init__(self, C):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(C))
        self.shift = nn.Parameter(torch.zeros(C))

    def forward(self, x):    # (..., C) -> (..., C)
        deviations = x - x.mean(dim=-1, keepdim=True)
        variance = deviations.square().mean(dim=-1, keepdim=True)
        return deviations / (variance + 1e-5).sqrt() * self.scale + self.shift

# %% [markdown]
# The library's LayerNorm has the same two vectors. Its `forward` is one call of `F.layer_norm`, a routine of torch that
# computes our three lines at once.

# %%
from book import agree, show

from gpt.model import LayerNorm

show(LayerNorm)
rows = torch.stack([x, 10 * x])    # (T, C) = (2, 3)
agree("1, 4, 7: by hand and LayerNorm", normalised, LayerNorm(3)(rows)[0])
agree("both rows: TinyNorm and LayerNorm", TinyNorm(3)(rows), LayerNorm(3)(rows))

# %% [markdown]
# Does eps ever show? It does if the channels are small enough. A GPT-2 that nobody has trained begins with vectors of
# variance 0.0008 (3.10 says why). That is only eighty times eps. **What variance comes out of LayerNorm?**

# %%
draw = torch.Generator().manual_seed(args.seed)
x = 0.0008**0.5 * torch.randn(1000, 768, generator=draw)    # (T, C)
out = TinyNorm(768)(x)
measured = out.square().mean().item()
predict("0.0008 / (0.0008 + 0.00001)", 0.0008 / 0.00081, measured, 0.0005)
agree("TinyNorm and LayerNorm on them", out, LayerNorm(768)(x))

# %% [markdown]
# It is 0.988 and not quite 1. This does no harm, but a test that asks for exactly 1 would fail.
#
# <details><summary>Question: what does LayerNorm make of 3, 3, 9? You need no computer.</summary>
#
# The mean is 5, the deviations are -2, -2 and 4, and the variance is (4 + 4 + 16) / 3 = 8. Divided by $\sqrt 8 = 2.83$
# they are -0.71, -0.71 and 1.41.
#
# </details>
#
# **Your turn.** `python tests/exercises.py start E3.1` takes out the body of `LayerNorm.forward`. To check yours:
# `python -m pytest --exercise E3.1`
#
# ## 3.3 An activation function: why linear layers need something between them
#
# The next new part is feed-forward. It has two linear layers, and something stands between them. Why? A linear layer
# multiplies by a matrix. **Can two linear layers, one after the other, do more than one?**

# %%
section("3.3")
A = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
B = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
x = torch.tensor([[1.0, -1.0]])
print(f"two layers, (x A) B:  {((x @ A) @ B).tolist()}")
print(f"one layer, x (A B):   {(x @ (A @ B)).tolist()}")
#> two layers, (x A) B:  [[4.0, 1.0]]
#> one layer, x (A B):   [[4.0, 1.0]]

# %% [markdown]
# They cannot. $(x A) B = x (A B)$, and $A B$ is just another matrix. A hundred linear layers in a row can do no more
# than one. (With biases the same holds: the two layers make one with another bias.)
#
# That is a real limit. Take $|x|$, a number without its sign. The graph of a linear layer from one number to one number
# is a straight line, and the graph of $|x|$ has a corner. So no stack of linear layers can compute $|x|$.
#
# The remedy is to put a function that is not linear between the layers. It is applied to each number by itself and is
# called an **activation function**. The simplest is **ReLU**, which replaces negative numbers by 0. With it two layers
# can compute $|x|$. The first makes $x$ and $-x$, ReLU keeps the one that is positive, and the second adds them up.

# %%
for number in (-3.0, 2.0):
    hidden = torch.tensor([number, -number])    # first layer: times 1 and times -1
    output = torch.relu(hidden).sum()           # ReLU; second layer: 1 and 1
    predict(f"|{number}|", abs(number), output.item())

# %% [markdown]
# ### GELU
#
# ReLU has one fault. Where its input is negative, its derivative is 0: change the input a little, and the output does
# not move. Training works by such small changes (chapter 4). So a channel that is negative for every token gets no
# gradient and cannot learn any more.
#
# GPT-2 uses a smooth relative of ReLU, called **GELU**:
#
# $$\text{GELU}(x) = x \cdot \Phi(x)$$
#
# $\Phi(x)$ is the probability that a draw from the standard normal distribution is below $x$. For large $x$ it is
# nearly 1, so GELU gives nearly $x$. For very negative $x$ it is nearly 0, and so is GELU. At 1 it is 0.8413.
#
# GPT-2 was trained with a formula that approximates this, because it was quicker to compute. We use it too, because
# OpenAI's weights were trained with it.

# %%
import math

def tiny_gelu(x):
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + torch.tanh(inner))

predict("GELU(1) = 1 * 0.8413", 0.8413, tiny_gelu(torch.tensor(1.0)).item(), 0.001)

# %% [markdown]
# We put the two side by side. The derivative comes from a small step: how much does the output rise per unit of input?

# %%
import pandas as pd

def derivative(f, x):
    return (f(x + 1e-4) - f(x - 1e-4)) / 2e-4

points = torch.tensor([-4.0, -1.0, -0.75, -0.5, 0.5, 1.0]).double()
rows = torch.stack([torch.relu(points), derivative(torch.relu, points),
                    tiny_gelu(points), derivative(tiny_gelu, points)])
names = ["ReLU", "  derivative", "GELU", "  derivative"]
print(pd.DataFrame(rows.tolist(), names, points.tolist()).round(2).to_string())

# %% [markdown]
# Compare the two derivatives at -1 and at -0.5. ReLU's is 0, and GELU's is not, so with GELU such a channel can still
# learn. GELU is no cure for everything. Near -0.75 its curve turns, and there its derivative is 0 too. At -4 it is as
# flat as ReLU.
#
# How good is the approximation? torch can compute $\Phi$ exactly, with a function called `erf`. The largest error
# should be 0.0005, which is what the library's docstring says.

# %%
from gpt.model import GELU

x = torch.linspace(-6, 6, 120_001)
exact = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
largest = (tiny_gelu(x) - exact).abs().max().item()
predict("largest error of the approximation", 5e-4, largest, 0.1)
show(GELU)
agree("tiny_gelu and the library's GELU", tiny_gelu(x), GELU()(x))

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E3.2` takes out the body of `GELU.forward`.
#
# ## 3.4 Feed-forward: each token by itself
#
# Attention moves information from token to token. What can it compute with that information? Look at a text of one
# single token. This token gives itself the weight 1, so two linear layers are left of attention: `W_value` makes the
# value, and `out_proj` follows. We have just seen that these can do no more than one.

# %%
from gpt.attention import MultiHeadAttention

section("3.4")
attention = MultiHeadAttention(8, 8, num_heads=2, qkv_bias=True).requires_grad_(False)
x = torch.randn(1, 1, 8)    # (B, T, C): one token
two_layers = attention.out_proj(attention.W_value(x))
agree("attention on one token, and two linear layers", attention(x), two_layers)

# %% [markdown]
# With more tokens, the attention weights decide how much of each value goes into the output. But the values themselves
# are only added up. So something else has to work on what a token has gathered. That is the **feed-forward** layer: two
# linear layers with an activation function between them. The first makes F = 4 C channels out of C, and the second goes
# back to C. (Why four times C? The first transformer chose it, and GPT-2 kept it.)
#
# `nn.Sequential` calls its parts one after another.

# %%
class TinyFeedForward(nn.Module):
    def __init__(self, C):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(C, 4 * C), GELU(), nn.Linear(4 * C, C))

    def forward(self, x):    # (B, T, C) -> (B, T, C)
        return self.layers(x)

# %% [markdown]
# The library's `FeedForward` is the same, line by line. Nowhere does a token see another one. **So what happens if we
# put the tokens in another order first?**

# %%
feed_forward = TinyFeedForward(8).requires_grad_(False)
x = torch.randn(2, 5, 8)    # (B, T, C)
order = [3, 0, 4, 1, 2]
before = feed_forward(x[:, order])
after = feed_forward(x)[:, order]
agree("reordered before, and after", before, after)

# %% [markdown]
# We get the same outputs, in the other order. In attention this would not hold, because the mask lets a token see only
# those before it.
#
# How many parameters does the layer have? Its first half has $C \cdot 4C$ weights and $4C$ biases, its second half
# $4C \cdot C$ weights and $C$ biases. That makes $8 C^2 + 5 C$. Attention has four matrices and four biases (2.8),
# $4 C^2 + 4 C$.

# %%
def parameters(module):
    return sum(p.numel() for p in module.parameters())

C = 768
predict("feed-forward", 8 * C * C + 5 * C, parameters(TinyFeedForward(C)))
attention = MultiHeadAttention(C, C, num_heads=12, qkv_bias=True)
predict("attention", 4 * C * C + 4 * C, parameters(attention))
#> feed-forward: predicted 4,722,432, measured 4,722,432
#> attention: predicted 2,362,368, measured 2,362,368

# %% [markdown]
# Two thirds of a block's parameters are in the feed-forward layer.
#
# ## 3.5 The residual connection
#
# What goes wrong if each layer simply replaces the vectors by its output? Attention makes averages over tokens, so a
# second attention would average averages. **What is left of the differences between tokens after twelve of them?** We
# try it on four tokens with one number each. The weights are even, under the mask of chapter 2: token $t$ gets the mean
# of tokens 0 to $t$.

# %%
section("3.5")
weights = torch.ones(4, 4).tril()                        # 1 on and below the diagonal
weights = weights / weights.sum(dim=-1, keepdim=True)    # row t: 1 / (t + 1) each
x = torch.tensor([[8.0], [0.0], [4.0], [-6.0]])          # (T, 1)
for _ in range(12):
    x = weights @ x
numbers = [round(number, 2) for number in x[:, 0].tolist()]
print(f"8, 0, 4, -6 after twelve averages: {numbers}")
#> 8, 0, 4, -6 after twelve averages: [8.0, 8.0, 8.0, 7.99]

# %% [markdown]
# All tokens have become practically the same number. It is that of the first token, which sees only itself and never
# changes. A model that has to say what follows the last token can no longer tell which token that is.
#
# The remedy is one plus sign. A layer does not replace $x$. It **adds** its output to $x$:
#
# $$x \leftarrow x + \text{layer}(x)$$
#
# This is called a **residual connection** (also: skip connection). Whatever the layer computes, the old $x$ is still
# part of the sum. The sum that runs through the whole model, and to which each layer adds, is called the **residual
# stream**. It is the blue line in the picture of the block.
#
# Does this help with real attention, on vectors? Here are twelve attentions with random weights, each behind a
# LayerNorm. Once they replace $x$, and once they add to it.

# %%
torch.manual_seed(args.seed)
layers = [MultiHeadAttention(64, 64, num_heads=4) for _ in range(12)]
first = torch.randn(1, 32, 64)    # (B, T, C): 32 tokens
replaced = first
added = first
with torch.no_grad():             # no training here, so torch need not keep anything
    for layer in layers:
        replaced = layer(TinyNorm(64)(replaced))
        added = added + layer(TinyNorm(64)(added))

# %% [markdown]
# To compare two tokens we take the **cosine** of the angle between their vectors. It is 1 if both point in the same
# direction, and 0 if they are at right angles.

# %%
def cosine(x):
    """x (B, T, C) -> the mean cosine of tokens 8 and 9, 9 and 10, and so on."""
    return torch.cosine_similarity(x[:, 8:-1], x[:, 9:], dim=-1).mean().item()

print(f"neighbours before the first layer:          cosine {cosine(first):.2f}")
print(f"after twelve layers that replace x:         cosine {cosine(replaced):.2f}")
print(f"after twelve layers that add their output:  cosine {cosine(added):.2f}")

# %% [markdown]
# Where the layers replace, all tokens have become one. Where they add, the tokens stay apart. (This is for random
# weights. It says nothing about trained ones, but training has to begin with random weights. 3.15 tries the same with
# whole blocks and asks about gradients too.)
#
# The plus sign has a price: the sum tends to grow with every layer. That is why LayerNorm comes with it.
#
# <details><summary>Question: what does a block with residual connections compute if all of its weights and biases are
# 0?</summary>
#
# Attention and feed-forward then give 0, and the block gives $x + 0 = x$. Without the residual connections it would
# give 0, and everything that was known would be lost.
#
# </details>
#
# ## 3.6 The block
#
# All parts are there. Look at the picture of the block again: it has two residual connections, one around attention and
# one around feed-forward.
#
# LayerNorm stands on the branches and not on the blue line. Attention and feed-forward read a normalised **copy**, and
# nobody normalises the residual stream itself. This is called **pre-norm**. The first transformer normalised the sum
# after each addition (**post-norm**). Xiong et al. 2020 found that pre-norm models are easier to train. With pre-norm,
# nothing but plus signs stands between the first vectors and the last ones.

# %%
section("3.6")

class TinyBlock(nn.Module):
    def __init__(self, C, H):
        super().__init__()
        self.norm1 = TinyNorm(C)
        self.att = MultiHeadAttention(C, C, H, qkv_bias=True)
        self.norm2 = TinyNorm(C)
        self.ff = TinyFeedForward(C)

    def forward(self, x):                     # (B, T, C) -> (B, T, C)
        x = x + self.att(self.norm1(x))       # tokens read each other
        return x + self.ff(self.norm2(x))     # each token by itself

# %% [markdown]
# The shape that goes in comes out, so blocks can be stacked. The library's block is called `TransformerBlock`. It adds
# two things, which you can skip for now: `drop_shortcut` is dropout, as in 2.8, and is off here; `cache` is for 3.12.

# %%
from gpt.config import GPTConfig
from gpt.model import TransformerBlock

show(TransformerBlock)
config = GPTConfig(vocab_size=1000, context_length=64,
                   emb_dim=48, n_heads=4, n_layers=3)
block = TransformerBlock(config).requires_grad_(False)
tiny_block = TinyBlock(48, 4).requires_grad_(False)
tiny_block.load_state_dict(block.state_dict())    # the same numbers
x = torch.randn(2, 10, 48)                        # (B, T, C)
agree("TinyBlock and TransformerBlock", tiny_block(x), block(x))

# %% [markdown]
# `load_state_dict` worked because we gave our parts the names that the library uses.
#
# <details><summary>Question: what would change if norm2 read the block's input and not the sum?</summary>
#
# Feed-forward would not see what attention has just gathered. It could work on it only in the next block.
#
# </details>
#
# **Your turn.** `python tests/exercises.py start E3.3` takes out the body of `TransformerBlock.forward`. Write it again
# without the listing.
#
# ## 3.7 The whole model
#
# What remains are the two ends of the first picture: two tables in front, and a LayerNorm and the head behind. The last
# line of `__init__` makes the head use the same matrix as the token table. Section 3.8 says why.

# %%
section("3.7")

class TinyGPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        C = config.emb_dim
        self.tok_emb = nn.Embedding(config.vocab_size, C)
        self.pos_emb = nn.Embedding(config.context_length, C)
        blocks = [TinyBlock(C, config.n_heads) for _ in range(config.n_layers)]
        self.trf_blocks = nn.Sequential(*blocks)
        self.final_norm = TinyNorm(C)
        self.out_head = nn.Linear(C, config.vocab_size, bias=False)
        self.out_head.weight = self.tok_emb.weight

    def forward(self, ids):                                # (B, T)
        positions = torch.arange(ids.shape[1])             # (T,)
        x = self.tok_emb(ids) + self.pos_emb(positions)    # (B, T, C)
        x = self.trf_blocks(x)                             # (B, T, C)
        return self.out_head(self.final_norm(x))           # (B, T, V)

# %% [markdown]
# That is a GPT-2, all of it. With TinyNorm, TinyFeedForward and TinyBlock it has about 40 lines, plus the attention of
# chapter 2. Does it compute what the library's model computes, once it has the same weights?

# %%
from gpt.model import GPTModel

library = GPTModel(config).requires_grad_(False)
tiny = TinyGPT(config).requires_grad_(False)
tiny.load_state_dict(library.state_dict())
ids = torch.randint(1000, (2, 10))    # (B, T): two texts of ten random tokens
agree("TinyGPT and GPTModel", tiny(ids), library(ids))
print(f"ids {tuple(ids.shape)} -> logits {tuple(tiny(ids).shape)}")
#> ids (2, 10) -> logits (2, 10, 1000)

# %% [markdown]
# They agree. But these weights are fresh, so all scales are still 1 and all shifts 0, and a mistake there would not
# show. The weights of `mini`, which you met in 2.10, have been trained. We load them into a TinyGPT and compare again.

# %%
from gpt.tokenizer import gpt2_tokenizer, text_to_token_ids
from gpt.weights import load_gpt2

trained = load_gpt2("mini").requires_grad_(False)
mini = TinyGPT(GPT2_SIZES["mini"]).requires_grad_(False)
mini.load_state_dict(trained.state_dict())
tokenizer = gpt2_tokenizer()
words = text_to_token_ids("He was born in New", tokenizer)    # (B, T)
agree("the two with mini's weights", mini(words), trained(words), 1e-4)

# %% [markdown]
# (The last argument of `agree` is the difference that it allows. Trained logits are larger, and so is their rounding.)
#
# Now your model knows English. Which three tokens does it find most probable after *He was born in New*?

# %%
best = mini(words)[0, -1].softmax(dim=-1).topk(3)    # after the last token
for p, token in zip(best.values, best.indices):
    print(f"{tokenizer.decode([token])!r}: {p:.2f}")
#> ' York': 0.86

# %% [markdown]
# Forty lines of yours continue a sentence. Nothing in them is about York: all of that is in the weights.
#
# In 3.2 we claimed that vectors grow. Here is the standard deviation of the residual stream, block after block.

# %%
x = mini.tok_emb(words) + mini.pos_emb(torch.arange(words.shape[1]))    # (B, T, C)
print(f"standard deviation before block 0: {x.std():.2f}")
for number, block in enumerate(mini.trf_blocks):
    x = block(x)
    print(f"after block {number}: {x.std():.2f}")

# %% [markdown]
# It grows more than twentyfold. Without LayerNorm, attention scores would grow by the square of that, and we would be
# back at the weights 1 and 0 of 3.2. The head reads the residual stream too, so there is a LayerNorm in front of it.
#
# Now meet the library's model. It has four methods that you know as lines of TinyGPT:
#
# * `__init__` makes the same parts. Skip `fork_rng` and `drop_emb` (dropout). `init_weights` draws the first weights;
#   3.10 comes back to it.
# * `embed` adds the two tables' rows. `start` is for 3.12. `padding` is for writing several texts of unequal length at
#   once; you can skip it for good. Skip what raises errors, too.
# * `hidden` is everything but the head. Without a cache (3.12) its loop is `x = block(x)`.
# * `forward` is `hidden` and the head.

# %%
show(GPTModel)

# %% [markdown]
# ## 3.8 Logits, and a head that borrows its matrix
#
# The output has the shape (B, T, V). For each text and each position it holds one number per token of the vocabulary,
# the logits. Those at position $t$ score what could come **after** token $t$. Softmax turns them into probabilities.
# How does the head make a logit?
#
# It multiplies the final vector by a matrix with one row per token. So the logit of token $v$ is a dot product: how
# well does the final vector match row $v$? In GPT-2 this matrix is the token table itself. We recompute one logit by
# hand: text 0, position 4, token 7.

# %%
section("3.8")
final = library.hidden(ids)                        # (B, T, C)
logits = library(ids)                              # (B, T, V)
by_hand = final[0, 4] @ library.tok_emb.weight[7]
agree("logit of token 7 after position 4", logits[0, 4, 7], by_hand)
probabilities = logits[0, 4].softmax(dim=-1)       # (V,)
print(f"sum of its {len(probabilities):,} probabilities: {probabilities.sum():.4f}")
#> sum of its 1,000 probabilities: 1.0000

# %% [markdown]
# One matrix for both ends: this is called **weight tying**, and the head is **tied** to the token table. There are two
# reasons for it.
#
# * **It saves parameters.** In GPT-2 small the matrix has $V \cdot C$ = 38.6 million numbers. A second one would make
#   the model 31 % larger.
# * **Both ends need the same knowledge.** *cat* and *dog* should be read alike, so their rows should be similar. They
#   also fit into the same gaps of a text, so they should be scored alike, and that asks for similar rows again.
#
# <details><summary>Question: training has changed one number in the row of <i>cat</i>. Which logits change?</summary>
#
# The logit of *cat* at every position, because the head uses this row. And if the text contains *cat*, all logits at
# its position and after it, because they are computed from its vector. If the head had a matrix of its own, only the
# second would hold.
#
# </details>
#
# ## 3.9 Count the parameters on paper
#
# How large is a GPT-2? You know every part, so you can count before any machine does. For GPT-2 small, with C = 768:
#
# | part | parameters | GPT-2 small |
# |---|---|---|
# | token table (and head) | $V C$ | 38,597,376 |
# | position table | $T_{max} C$ | 786,432 |
# | attention: 4 matrices, 4 biases | $4 C^2 + 4 C$ | 2,362,368 |
# | feed-forward | $8 C^2 + 5 C$ | 4,722,432 |
# | 2 LayerNorms, scale and shift each | $4 C$ | 3,072 |
# | last LayerNorm | $2 C$ | 1,536 |
#
# Attention, feed-forward and two LayerNorms stand in each of the L blocks. Their sum is $12 C^2 + 13 C$, which is
# 7,087,872. The whole model has
#
# $$V C + T_{max} C + L\,(12 C^2 + 13 C) + 2 C$$
#
# parameters. For GPT-2 small that is 38,597,376 + 786,432 + 12 · 7,087,872 + 1,536 = **124,439,808**. OpenAI released
# four sizes, and they differ in C, H and L alone. The fifth size is our `mini`.
#
# Now the machine. On the device "meta" torch makes tensors that have a shape and take no memory, so even the largest
# model can be built here.

# %%
section("3.9")

def on_paper(config):
    V, T_max, C = config.vocab_size, config.context_length, config.emb_dim
    return V * C + T_max * C + config.n_layers * (12 * C * C + 13 * C) + 2 * C

predict("GPT-2 small, by the sum above", 124_439_808, on_paper(small))
for name, size in GPT2_SIZES.items():
    with torch.device("meta"):
        counted = parameters(GPTModel(size))
    predict(f"{name}, {4 * counted / 1e9:.2f} GB", on_paper(size), counted)
#> gpt2-small (124M), 0.50 GB: predicted 124,439,808, measured 124,439,808
#> gpt2-medium (355M), 1.42 GB: predicted 354,823,168, measured 354,823,168
#> gpt2-large (774M), 3.10 GB: predicted 774,030,080, measured 774,030,080
#> gpt2-xl (1558M), 6.23 GB: predicted 1,557,611,200, measured 1,557,611,200
#> mini, 0.03 GB: predicted 7,259,008, measured 7,259,008

# %% [markdown]
# Paper and machine agree to the last parameter. (In float32 a parameter takes 4 bytes, which gives the GB.) H is not in
# the formula, because heads only cut up what is there (2.7). In GPT-2 small the twelve blocks hold 85 of the 124
# million. In mini the token table holds 6.4 of the 7.3.
#
# Elsewhere you find other numbers for the smallest model. The GPT-2 paper says 117M, which OpenAI later called an
# error. Raschka's book has 163,009,536: its head has a matrix of its own, and its queries, keys and values have no
# biases. **What do these two changes add and take away?**

# %%
V = small.vocab_size
with torch.device("meta"):
    untied = parameters(GPTModel(GPTConfig(qkv_bias=False))) + V * C
predict("the book's", 124_439_808 + V * C - 12 * 3 * C, untied)
#> the book's: predicted 163,009,536, measured 163,009,536

# %% [markdown]
# The library counts with `count_parameters`. It returns two numbers, the parameters that training may change and all of
# them. Chapter 5 needs the difference. `model.parameters()` lists a tied matrix once.

# %%
from gpt.lora import count_parameters

show(count_parameters)
predict("all parameters of mini", 7_259_008, count_parameters(mini)[1])

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E3.7` takes out the body of `count_parameters`.
#
# ## 3.10 The first loss
#
# You have built a model. Is it right? One test needs no training at all, and you can work out its result beforehand.
#
# It uses the cross-entropy loss of 0.2. At each position, take the probability $p$ that the model gave to the token
# that really came next. The loss is the mean of $-\ln p$, in nats per token. (Chapter 4 has more to say about it.)
#
# A model that has learned nothing should prefer no token, so each should get the probability $1/V$. **Which loss should
# an untrained GPT-2 have?** It should be $-\ln (1/V) = \ln 50{,}257 = 10.82$. We check it on text messages.

# %%
from gpt.download import fetch

section("3.10")
messages = fetch("sms").read_text(encoding="utf-8")[:2000]
ids = text_to_token_ids(messages, tokenizer)[:, :257].to(args.device)    # (B, T + 1)

# %%
def untrained(config):
    model = GPTModel(config, torch.Generator().manual_seed(args.seed))
    model.eval().requires_grad_(False)    # no dropout, no training
    return model.to(args.device)

config = GPT2_SIZES[args.model]
model = untrained(config)

# %% [markdown]
# The model reads 256 tokens. The tokens to predict are the same text, shifted by one. At each position `gather` picks
# the one number that belongs to the token that came.

# %%
def loss_of(model):
    """The mean of -ln p over 256 next tokens."""
    log_p = model(ids[:, :-1]).log_softmax(dim=-1)     # (B, T, V): ln of softmax
    came = ids[:, 1:, None]                            # (B, T, 1)
    return -log_p.gather(-1, came).mean().item()

predict("first loss, ln V", math.log(V), loss_of(model), 0.02)

# %% [markdown]
# If the first loss of a new GPT-2 is far from $\ln V$, something is wrong with it, and you know that before you have
# trained for a second. (The test does not find every mistake. We took the mask out of a model of mini's size, and its
# loss was still 10.84.)
#
# Why is the loss so close? Look at `init_weights` in the listing of 3.7. It draws all matrices and tables from a normal
# distribution with standard deviation 0.02, and it sets biases to 0. Small weights make small logits, and softmax of
# small logits is nearly even.
#
# Now you can see where the variance 0.0008 of 3.2 came from. Token row and position row have variance $0.02^2$ each,
# and variances of independent numbers add up. (Section 3.14 says why some matrices are made smaller still, and 3.16
# what happens with the weights that torch draws by itself.)
#
# <details><summary>Question: a model for DNA has a vocabulary of 4 tokens. What is its first loss?</summary>
#
# $\ln 4 = 1.39$.
#
# </details>
#
# ## 3.11 An untrained model babbles
#
# A model that scores next tokens can write. Writing is a loop: score what could come next, take the best, append it,
# and read everything again. Taking the best each time is called **greedy decoding**. `argmax` says where the largest
# number stands.

# %%
from gpt.tokenizer import token_ids_to_text

section("3.11")
prompt = text_to_token_ids("The weather today is", tokenizer)    # (B, T)
prompt = prompt.to(args.device)
text = prompt
for _ in range(12):
    logits = model(text)[:, -1]                         # (B, V): after the last token
    best = logits.argmax(dim=-1, keepdim=True)          # (B, 1)
    text = torch.cat([text, best], dim=1)               # (B, T + 1)
print(repr(token_ids_to_text(text, tokenizer)))

# %% [markdown]
# It babbles, as it must, because nobody has taught it anything. But why one token over and over? Is the model sure of
# it? We look at the probability of the best token, and we draw eight next tokens at random, each with its probability.
# `torch.multinomial` does the drawing.

# %%
probabilities = model(prompt)[0, -1].softmax(dim=-1)    # (V,)
print(f"probability of the best token: {probabilities.max() * V:.1f} times 1 / V")
drawn = torch.multinomial(probabilities, 8)             # (8,): eight ids
print("eight draws:", [tokenizer.decode([token]) for token in drawn.tolist()])

# %% [markdown]
# The model is not sure at all. Its best token is only a few times as probable as an average one, and the draws have
# nothing to do with each other. Greedy decoding hides this: it takes the winner, by however little it wins. (3.17 says
# why it is the same winner so often.)
#
# Training changes nothing in this model but its weights. The library has the loop as a function. It also cuts the text
# to its last T_max tokens, because there are no more positions.

# %%
from gpt.generate import generate_text_simple

show(generate_text_simple)
T_max = config.context_length
same = generate_text_simple(model, prompt, 12, T_max)
predict("tokens that differ from our loop", 0, int((same != text).sum()))

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E3.4` takes out the body of `generate_text_simple`.
#
# ## 3.12 The KV cache: do not compute the past again
#
# The loop is wasteful. To write token 41 it reads the 40 before it. To write token 42 it reads the same 40 again, and
# one more. **Does anything change for the old tokens when a new one comes?** We compare the keys of the first block,
# once for a text of five tokens and once for the same text with a sixth.

# %%
section("3.12")

def first_keys(ids):
    block = model.trf_blocks[0]
    return block.att.W_key(block.norm1(model.embed(ids)))    # (B, T, C)

five = first_keys(ids[:, :5])
six = first_keys(ids[:, :6])
agree("keys of five tokens, alone and among six", five, six[:, :5])

# %% [markdown]
# Nothing changes. The same holds for the values, and for keys and values of all later blocks, because the mask lets a
# token see only itself and what comes before it (2.9). So we can keep them. Such a store is called a **KV cache**.
#
# ![Without a cache, four steps compute 18 keys and values; with one, 6.](diagrams/kv_cache.svg)
#
# *Three new tokens follow a prompt of three. Each row of squares is one step of writing.*
#
# Why not keep the queries too? Because nobody needs them again. An old query has done its work: the output of its token
# is known. Only the newest token still has to look.
#
# ### By hand
#
# We do it for the attention of the first block. Five tokens are in the cache, and the sixth is new. From the new token
# we need one query, one key and one value.

# %%
block = model.trf_blocks[0]
attention = block.att
x = block.norm1(model.embed(ids[:, :6]))                      # (B, T, C), T = 6
kept_keys = attention.W_key(x[:, :5])                         # (B, 5, C): the cache
kept_values = attention.W_value(x[:, :5])                     # (B, 5, C)
new = x[:, 5:]                                                # (B, 1, C)
keys = torch.cat([kept_keys, attention.W_key(new)], dim=1)    # (B, 6, C)
values = torch.cat([kept_values, attention.W_value(new)], dim=1)

# %% [markdown]
# The new query meets all six keys, and its weights mix all six values. No mask is needed, because nothing here is in
# the future of the newest token. The result should be the last row of attention over all six tokens.

# %%
D = config.emb_dim // config.n_heads
query = attention.split_heads(attention.W_query(new))       # (B, H, 1, D)
key = attention.split_heads(keys)                           # (B, H, 6, D)
value = attention.split_heads(values)                       # (B, H, 6, D)
weights = (query @ key.transpose(2, 3) / D**0.5).softmax(dim=-1)    # (B, H, 1, 6)
side_by_side = (weights @ value).transpose(1, 2).flatten(2)         # (B, 1, C)
newest = attention.out_proj(side_by_side)                           # (B, 1, C)
agree("one query and kept keys, or everything again", newest, attention(x)[:, 5:])

# %% [markdown]
# The library has one `KVCache` per block. `torch.cat` would copy all that is kept at every step. So the cache takes
# room for T_max tokens at its first use and writes each new key and value behind the old ones. Look at the last four
# lines of `extend`: they do that. Skip `padding` again.

# %%
from gpt.attention import KVCache

show(KVCache)

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E3.5` takes out the body of `KVCache.extend`.
#
# ### Writing with a cache
#
# The loop of 3.11 changes in one point. After the first step it hands the model only the token that it has just chosen.
# Everything before it is in the cache. `hidden` also takes the new token's position from the cache: it is the number of
# tokens that are in there already. (`new_cache` makes one KVCache per block.)

# %%
def write_with_cache(model, text, steps):
    cache = model.new_cache()
    unread = text                                           # (B, T)
    for _ in range(steps):
        final = model.hidden(unread, cache)                 # (B, T, C), then (B, 1, C)
        logits = model.out_head(final[:, -1])               # (B, V)
        unread = logits.argmax(dim=-1, keepdim=True)        # (B, 1)
        text = torch.cat([text, unread], dim=1)
    return text

same = write_with_cache(model, prompt, 12)
predict("tokens that differ from 3.11", 0, int((same != text).sum()))
#> tokens that differ from 3.11: predicted 0, measured 0

# %% [markdown]
# The library's function is called `generate`. Its core is your loop: look for the lines that begin with `hidden`,
# `logits` and `unread`. What it adds can be skipped for now. `choose` can also draw the next token at random (chapter
# 4), `stop` ends a text early (chapter 7), `padding` you can skip for good, and `limit` is explained below.

# %%
from gpt.generate import generate

show(generate)

# %% [markdown]
# **How many tokens does a block read to write 40, from a prompt of one?** Without a cache it reads 1, then 2, and so on
# up to 40, which makes $40 \cdot 41 / 2$. With a cache it reads one per step.
#
# To count them we use a **hook**: a function of ours that torch calls each time block 0 gets an input. It notes how
# many tokens came.

# %%
read = []

def note(block, inputs):
    read.append(inputs[0].shape[1])    # T of (B, T, C)

hook = model.trf_blocks[0].register_forward_pre_hook(note)

# %%
uncached = generate_text_simple(model, ids[:, :1], 40, T_max)
predict("tokens read without a cache", 40 * 41 // 2, sum(read))
read.clear()
cached = generate(model, ids[:, :1], 40)
predict("tokens read with a cache", 40, sum(read))
predict("tokens that differ", 0, int((cached != uncached).sum()))
hook.remove()
#> tokens read without a cache: predicted 820, measured 820
#> tokens read with a cache: predicted 40, measured 40
#> tokens that differ: predicted 0, measured 0

# %% [markdown]
# The text is the same, and the block has read 40 tokens in place of 820. The price is memory. Each block keeps a key
# and a value of C numbers for each token, at 4 bytes per number. **How many bytes is that for T_max tokens?**

# %%
cache = model.new_cache()
model.hidden(ids[:, :1], cache)    # the first use takes the room
C, L = config.emb_dim, config.n_layers
measured = sum(kept.keys.nbytes + kept.values.nbytes for kept in cache)
predict("bytes of the cache, 2 L T_max C 4", 2 * L * T_max * C * 4, measured)
#> bytes of the cache, 2 L T_max C 4: predicted 1,048,576, measured 1,048,576

# %% [markdown]
# That is 1 MB for a model of mini's size, and 75 MB for GPT-2 small.
#
# There is one limit. When the text is longer than T_max, its oldest token drops out of what the model reads, and every
# other token moves up by one position. The kept keys were made with the old positions, so they are wrong now, and each
# step has to read the whole window again. **With T_max = 8 and a prompt of 6, how many tokens does each of six steps
# read?**

# %%
narrow = GPTModel(GPTConfig(vocab_size=1000, context_length=8,
                            emb_dim=32, n_heads=4, n_layers=2))
read.clear()
narrow.trf_blocks[0].register_forward_pre_hook(note)
generate(narrow, [[1, 2, 3, 4, 5, 6]], 6)
predict("tokens read at each step", [6, 1, 1, 8, 8, 8], read)
#> tokens read at each step: predicted [6, 1, 1, 8, 8, 8], measured [6, 1, 1, 8, 8, 8]

# %% [markdown]
# The first step reads the prompt. The next two read one token each. Then eight tokens are in the cache, and there is no
# place for a ninth.
#
# <details><summary>Question: does a KV cache help in training?</summary>
#
# No. In training the whole text is there from the start. One pass computes all of its positions at once, and none of
# them twice.
#
# </details>
#
# **Your turn.** `python tests/exercises.py start E3.6` takes out the body of `generate`. It is the hardest exercise of
# this chapter. Begin with your own loop.
#
# ## 3.13 What the cache saves, measured
#
# Fewer tokens should mean less time. How much less? We have to be fair: the loop of 3.11 wastes a second thing. It
# computes the logits of **all** positions and uses only the last. `generate` does not, and that saving is not the
# cache's. So we time three ways to get one more token. (`item()` waits until a GPU has the number.)

# %%
section("3.13")

def all_positions(text, cache):
    return model(text)[0, -1].argmax().item()

def one_position(text, cache):
    return model.out_head(model.hidden(text)[0, -1]).argmax().item()

def with_cache(text, cache):
    newest = model.hidden(text[:, -1:], cache)[0, -1]    # (C,)
    return model.out_head(newest).argmax().item()

# %%
from time import perf_counter

def fastest(way, text, cache):
    """Milliseconds of the fastest of a few tries."""
    seconds = []
    for _ in range(args.tries):
        before = perf_counter()
        way(text, cache)
        seconds.append(perf_counter() - before)
    return 1000 * min(seconds)

# %% [markdown]
# We take texts of four lengths. The tokens are random, because what they say does not change the time. Each try with
# the cache adds a token to it, so we fill it with a few tokens less. **Which of the three times will grow with the
# length of the text?**

# %%
ways = {"no cache, all positions scored": all_positions,
        "no cache, one position scored": one_position,
        "cache, one position scored": with_cache}
times = {name: [] for name in ways}
lengths = [T_max // 16, T_max // 4, T_max // 2, T_max]
for length in lengths:
    text = torch.randint(V, (1, length)).to(args.device)
    cache = model.new_cache()
    model.hidden(text[:, :length - args.tries], cache)
    for name, way in ways.items():
        times[name].append(fastest(way, text, cache))

# %%
from book import figure, run_folder

from gpt.plots import plot_token_times

in_ms = pd.DataFrame(times, [f"after {length}" for length in lengths]).T
print(f"ms for one more token\n{in_ms.round(1).to_string()}")
without = times["no cache, one position scored"][-1]
ratio = without / times["cache, one position scored"][-1]
print(f"after {T_max} tokens, without a cache: {ratio:.1f} times as long")
figure(plot_token_times(lengths, times, args.model), run_folder(args), "03_cache")

# %% [markdown]
# *Time for one more token against the length of the text.* Without a cache the lines climb: the longer the text, the
# longer one more token takes. With a cache the line is nearly flat. It cannot be quite flat, because the newest query
# still meets every kept key.
#
# At 124M's size, on one CPU core, one more token after 1,024 took about 2 s without a cache and 0.034 s with it, some
# 60 times less. (Scoring one position in place of all had saved 0.8 s before.) Why not 1,024 times less, when one token
# is read in place of 1,024? Because each step goes through all of the model's weights, for one token as for a thousand.
#
# ## Further: skip this on a first reading
#
# Chapter 4 needs none of the next four sections.
#
# ## 3.14 Why some first weights are divided by sqrt(2 L)
#
# L blocks make $2L$ additions to the residual stream, so its variance grows with depth. `init_weights` divides the
# first weights of the last matrix of attention and of feed-forward by $\sqrt{2L}$. That divides the variance of what
# each addition brings by $2L$. So $2L$ of them together should add the same for every L.
#
# We compare models of 4 and of 16 blocks. A factor of $\sqrt{2L}$ undoes the division.

# %%
section("3.14")

def variance_added(L, factor):
    config = GPTConfig(1000, 64, 128, 4, L)    # V, T_max, C, H, L
    model = GPTModel(config, torch.Generator().manual_seed(args.seed))
    model.requires_grad_(False)
    for block in model.trf_blocks:
        block.att.out_proj.weight *= factor
        block.ff.layers[2].weight *= factor
    x = model.embed(torch.arange(256).view(4, 64))    # (B, T, C)
    return (model.trf_blocks(x).var() - x.var()).item()

# %%
divided = variance_added(16, 1) / variance_added(4, 1)
undone = variance_added(16, math.sqrt(32)) / variance_added(4, math.sqrt(8))
predict("with the division: 16 blocks add / 4 add", 1.0, divided, 0.15)
predict("without: 16 / 4, if outputs had nothing in common", 4.0, undone, 0.5)

# %% [markdown]
# With the division, 16 blocks add about as much variance as 4. Without it they add 4.4 times as much. We had worked out
# 4 under an assumption, that the outputs of different blocks have nothing in common. It is not quite true, because each
# block reads what the others have written.
#
# ## 3.15 What a model without residual connections loses
#
# You will often read that gradients vanish without residual connections: that almost nothing of the loss's gradient
# (chapter 4) reaches the first layers. Do they? We take 12 untrained blocks in four versions: with LayerNorm and
# residual connections, with LayerNorm alone, and with neither. In the fourth, LayerNorm is there and each token reads
# only its own value, so nothing is averaged.

# %%
section("3.15")

def both(block, x):
    return block(x)

def norm_only(block, x):
    return block.ff(block.norm2(block.att(block.norm1(x))))

def norm_own_value(block, x):
    own = block.att.out_proj(block.att.W_value(block.norm1(x)))    # no average
    return block.ff(block.norm2(own))

def neither(block, x):
    return block.ff(block.att(x))

# %% [markdown]
# For each version we ask for two numbers: the size of the gradient of the loss with respect to the first vectors, and
# the mean cosine of two tokens at the end. The numbers are float64 (`double`), because the smallest gradients would
# round to 0.

# %%
deep_config = GPTConfig(1000, 64, 128, 4, 12)    # V, T_max, C, H, L
deep = GPTModel(deep_config, torch.Generator().manual_seed(args.seed)).double()
tokens = torch.randint(1000, (4, 64), generator=draw)    # (B, T)

def gradient_and_cosine(version):
    first = deep.embed(tokens).detach().requires_grad_()        # (B, T, C)
    x = first
    for block in deep.trf_blocks:
        x = version(block, x)
    logits = deep.out_head(deep.final_norm(x[:, :-1]))          # (B, T - 1, V)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    gradient = torch.autograd.grad(loss, first)[0].norm().item()
    alike = torch.cosine_similarity(x[:, :32], x[:, 32:], dim=-1, eps=1e-99)
    return gradient, alike.mean().item()

# %%
gradient, alike = {}, {}
for version in (both, norm_only, norm_own_value, neither):
    name = version.__name__
    gradient[name], alike[name] = gradient_and_cosine(version)
    print(f"{name:15} gradient {gradient[name]:.0e}, cosine {alike[name]:.2f}")
predict("norm only: cosine of two tokens", 1.0, alike["norm_only"], 0.03)
assert gradient["norm_only"] > 0.1 * gradient["both"], "the gradient has vanished"
assert alike["norm_own_value"] < 0.5, "tokens became one, though nothing was averaged"

# %% [markdown]
# With neither, the gradient vanishes: it is about $10^{-47}$. With LayerNorm alone it does not, because
# LayerNorm brings small numbers back to size. But all tokens have become one, as in 3.5. (Dong et al. 2021 prove it for
# attention without residual connections.) In `norm_own_value` nothing is averaged, and the tokens stay apart. So here
# it is the averaging that loses them.
#
# ## 3.16 The first loss, more exactly
#
# The first loss is a little above $\ln V$. How much? A logit is a sum of C products: a channel of variance 1, from
# LayerNorm, times a weight of variance $0.02^2$. So logits have variance $s^2 = 0.0004\,C$. The loss at one position is
# the logarithm of the sum of all $e^{logit}$, minus the logit of the token that came. The mean of $e^x$ over a normal
# $x$ with variance $s^2$ is $e^{s^2/2}$, so the sum is about $V e^{s^2/2}$. Its logarithm is $\ln V + s^2/2$. That
# makes $s^2/2 = 0.0002\,C$ above $\ln V$. We average over all V tokens that might come, because a single text scatters.

# %%
section("3.16")
logits = model(ids[:, :-1])    # (B, T, V)
above = (logits.logsumexp(dim=-1) - logits.mean(dim=-1)).mean().item() - math.log(V)
predict("above ln V: 0.0002 C", 0.0002 * C, above, 0.05)

# %% [markdown]
# What if we keep torch's own first weights? For a table (`nn.Embedding`) their standard deviation is 1, fifty times as
# large as 0.02. For a linear layer they are uniform, with variance 1 / (3 in), where `in` is the size of its input.
# `reset_parameters` draws them again. (We leave out the head, because it shares the table's matrix.)

# %%
loud = untrained(config)
for layer in loud.modules():
    if layer is not loud.out_head and hasattr(layer, "reset_parameters"):
        layer.reset_parameters()
loud_loss = loss_of(loud)
print(f"first loss with torch's own weights: {loud_loss:.1f}")

# %% [markdown]
# This model does far worse than one that knows nothing: it is certain, and wrong. The residual stream still holds the
# vector of the token just read. The tied head multiplies it by the row of each token, and the best match is the token's
# own row. So the model is certain that each token is followed by itself.
#
# Its loss can be predicted, in three steps.
#
# 1. The dot product of a token's row with itself is a sum of C squares. The numbers have variance 1, so it is about C.
#    LayerNorm has divided the vector by the standard deviation of the residual stream, so the logit of the token just
#    read is about C divided by this standard deviation.
# 2. The variance of the residual stream is 2 from the two tables, plus what the feed-forward of each block adds. A
#    linear layer with torch's weights sums `in` products, each with a weight of variance 1 / (3 in). So the variance of
#    its outputs is a third of the mean square of its inputs. The first layer reads channels of variance 1 and makes
#    numbers $z$ of variance 1/3. The second reads GELU(z) and adds a third of the mean of GELU(z)². (We neglect
#    attention, because averages are small.)
# 3. The other logits are small beside this one, and the token that really came is nearly always another. So the loss is
#    about as large as this logit.
#
# A head with a matrix of its own has no row that equals the token's vector. By the rule of step 2 its logits have
# variance 1/3, and the loss lies $s^2/2 = 1/6$ above $\ln V$.

# %%
z = torch.randn(1_000_000, generator=draw) / math.sqrt(3)
added = tiny_gelu(z).square().mean().item() / 3
predict("torch's weights, head tied", C / math.sqrt(2 + L * added), loud_loss, 0.1)
loud.out_head = nn.Linear(C, V, bias=False).requires_grad_(False).to(args.device)
predict("head of its own, ln V + 1/6", math.log(V) + 1 / 6, loss_of(loud), 0.02)

# %% [markdown]
# ## 3.17 Why it repeats itself
#
# In the untrained model of 3.11, too, the token just read has a larger logit than others, on average: $0.0004\,C$
# divided by the residual stream's standard deviation. (The sum of C squares again, now with variance $0.02^2$.) The
# other logits have mean 0 and standard deviation $0.02 \sqrt{C}$. They are many, and the highest of 50,256 normal draws
# lies about 4.2 standard deviations above 0.

# %%
section("3.17")
final = model.hidden(ids[:, :-1])[0]                            # (T, C)
residual_stream = model.trf_blocks(model.embed(ids[:, :-1]))    # (B, T, C)
own = (final * model.tok_emb(ids[0, :-1])).sum(dim=-1).mean().item()
predicted = 0.0004 * C / residual_stream.std().item()
predict("logit of the token just read", predicted, own, 0.15)
print(f"it lies {own / (0.02 * math.sqrt(C)):.1f} standard deviations above 0")

# %%
repeated = model.out_head(final).argmax(dim=-1) == ids[0, :-1]    # (T,)
repeated = repeated.float().mean()
neighbours = torch.cosine_similarity(final[1:], final[:-1], dim=-1).mean()
print(f"the token just read is the best at {repeated:.0%} of 256 positions")
print(f"cosine of neighbouring final vectors: {neighbours:.2f}")

# %% [markdown]
# Compare with 4.2. In a model of mini's size the token just read lies 4.8 standard deviations above 0, and it is the
# best at 69 % of the positions. At 124M's size it lies 1.9 above 0 and is the best at 2 %. But there neighbouring final
# vectors are alike, with a cosine of 0.54. So the best token of one step is near the top at the next step too, and
# having just been read lifts it over the others.
#
# ## What you have now
#
# 1. LayerNorm gives each token's vector mean 0 and variance 1, so that attention scores keep a size that can learn.
# 2. An activation function keeps two linear layers from being one. Feed-forward uses it on each token by itself.
# 3. A residual connection adds instead of replacing, so that tokens stay apart in a deep stack. A block has two.
# 4. Your TinyGPT computes what the library's model computes, and you can count its 124,439,808 parameters on paper.
# 5. A first loss should be $\ln V$. Writing is a loop, and a KV cache keeps it from computing the past again.
#
# Chapter 4 trains the model, and then loads OpenAI's weights.
#
# ## Break it
#
# Change one thing, run the chapter with `--quick`, see whether you expected what happens, and change it back.
#
# | where | change | what you should see |
# |---|---|---|
# | 3.2, `TinyNorm` | `x.var(dim=-1, keepdim=True)` for the variance | 3.2 stops: TinyNorm and LayerNorm differ |
# | 3.2, `TinyNorm` | `(variance.sqrt() + 1e-5)` in place of the root | 3.2 stops: 0.999 in place of 0.988 |
# | 3.6, `TinyBlock` | leave out `x +` in the first line of `forward` | 3.6 stops: the two blocks differ |
# | 3.7, `TinyGPT` | leave out `final_norm` in `forward` | 3.7 stops: the two models differ |
# | `gpt/model.py`, `LayerNorm` | write it out with `x.var(-1, keepdim=True)` | 3.2 stops: not what we did by hand |
# | `gpt/model.py`, `LayerNorm` | write it out, with `sqrt(variance) + eps` | 3.2 stops: TinyNorm and LayerNorm differ |
# | `gpt/model.py`, `init_weights` | leave out `/ math.sqrt(2 * ...)` | 3.14 stops: 4.4 times the growth, not 1 |
# | `gpt/model.py`, `GPTModel` | leave out the line that ties the head | 3.7 stops: only TinyGPT's head is tied |
# | `gpt/model.py`, `hidden` | `start=0`, so each new token is the first | 3.12 stops: other tokens with the cache |
# | `gpt/generate.py` | a new cache past the window, and `unread` as it was | 3.12 stops: it reads 1 token, not 8 |
#
# ## Exercises
#
# | id | what you write | after |
# |---|---|---|
# | E3.1 | `LayerNorm.forward` | 3.2 |
# | E3.2 | `GELU.forward` | 3.3 |
# | E3.3 | the block's `forward` | 3.6 |
# | E3.7 | `count_parameters` | 3.9 |
# | E3.4 | `generate_text_simple` | 3.11 |
# | E3.5, E3.6 | `KVCache.extend`, `generate` | 3.12 |
#
#     python -m pytest --exercise E3.2        # is it right?
#     python tests/exercises.py hint E3.2     # one more hint each time
#
# One without a test: run the chapter with `--quick --seed 1`. Which of its numbers are luck?
#
# <details><summary>Answer</summary>
#
# Those with a tolerance that come from random weights or draws: the variance at the end of 3.2, the losses of 3.10 and
# 3.16, growth and cosines of 3.5, 3.14 and 3.15, and the babble. The parameters, the tokens read, the bytes of the
# cache and every `agree` do not depend on the seed.
#
# </details>
#
# ## Further reading
#
# * Radford et al. 2019, [Language Models are Unsupervised Multitask
#   Learners](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf).
#   The GPT-2 paper. Its section 2.3 is this chapter.
# * Ba et al. 2016, [Layer Normalization](https://arxiv.org/abs/1607.06450).
# * Hendrycks and Gimpel 2016, [Gaussian Error Linear Units](https://arxiv.org/abs/1606.08415).
# * He et al. 2015, [Deep Residual Learning for Image Recognition](https://arxiv.org/abs/1512.03385). Where residual
#   connections come from.
# * Xiong et al. 2020, [On Layer Normalization in the Transformer Architecture](https://arxiv.org/abs/2002.04745), on
#   pre-norm and post-norm.
# * Press and Wolf 2016, [Using the Output Embedding to Improve Language Models](https://arxiv.org/abs/1608.05859), on
#   weight tying.
# * Dong et al. 2021, [Attention is not all you need](https://arxiv.org/abs/2103.03404). What 3.5 and 3.15 measure.
# * Sebastian Raschka, [Build a Large Language Model (From Scratch)](https://github.com/rasbt/LLMs-from-scratch),
#   chapter 4.
