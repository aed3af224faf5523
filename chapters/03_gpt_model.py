# %% [markdown]
"""
# 3  The GPT model: from three numbers to 124,439,808

After this chapter you have written a GPT-2, `TinyGPT`, in about 40 lines, and shown that it computes what the library's
model computes. You can count its parameters on paper, predict its first loss, and explain what a cache saves when the
model writes. You need chapters 1 and 2.

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
# A GPT reads the tokens of a text. Then it gives each token of its vocabulary a score, which says how well this token
# would fit as the next one. You have two of its parts, the vectors of chapter 1 and the attention of chapter 2. This
# picture shows the whole model.
#
# ![Three tokens become vectors of 768 numbers, pass through twelve blocks, a LayerNorm and the head, and come out as
# 50,257 logits each.](diagrams/gpt_model.svg)
#
# *From left to right. Each of the three tokens has a vector of its own at every stage.*
#
# 1. Each token becomes a vector: its row of the token table plus the row of its position (chapter 1).
# 2. The vectors pass through twelve **blocks**, one after another. All blocks are built alike, but each has parameters
#    of its own.
# 3. At the end come a LayerNorm, which 3.2 explains, and the **head**. The head makes one score per token of the
#    vocabulary. These scores are called **logits**.
#
# Here is the inside of one block. Three of its parts are new: LayerNorm, feed-forward, and the two plus signs.
#
# ![The residual stream runs straight from top to bottom; attention and feed-forward each read a normalised copy and add
# their output.](diagrams/gpt_block.svg)
#
# *One block. The blue line, the residual stream, is the vector of a token on its way through the model (3.5). Sections
# 3.2 to 3.6 follow this picture.*
#
# Five numbers decide how large a GPT-2 is. Here are those of GPT-2 small. From now on we use their letters.

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
    pair = torch.tensor([score, 0.0]).softmax(dim=-1)    # two weights
    print(f"scores {score} and 0: weights {pair[0]:.4f} and {pair[1]:.4f}")
#> scores 1.0 and 0: weights 0.7311 and 0.2689
#> scores 100.0 and 0: weights 1.0000 and 0.0000

# %% [markdown]
# The first key takes all of the weight. In 2.6 we saw why that is bad: such a query can hardly learn to look elsewhere.
# And the vectors do not keep their size on their way through a model, as 3.7 will measure. So we bring each vector to a
# standard size before attention reads it. This is called **layer normalisation**, or **LayerNorm**.
#
# ### On three numbers
#
# Let a token have three channels, 1, 4 and 7. You can normalise them in your head:
#
# 1. Subtract their mean, which is 4. That leaves the deviations -3, 0 and 3.
# 2. The mean of their squares is the **variance**: (9 + 0 + 9) / 3 = 6.
# 3. Divide the deviations by its square root, which is 2.45. The results have mean 0 and variance 1.

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
# **What comes out for 10, 40 and 70?** The same. The deviations are ten times as large, and so is the square root of
# their variance. That is what we wanted.
#
# ### Two details that have to be right
#
# **The variance divides by C**, the number of channels. torch's `x.var()` divides by C - 1, unless you tell it
# otherwise, because it takes its numbers for a sample of a larger population. Here the C channels are all that there
# is.
#
# **Nothing may be divided by 0.** If all channels are equal, the variance is 0, and 0 / 0 is `nan`, "not a number". So
# a small number, **eps** = 0.00001, is added to the variance before the root is taken.
#
# Here is what comes out without this care. The second token is 5, 5, 5.

# %%
wrong = deviations / x.var().sqrt()    # x.var() is (9 + 0 + 9) / 2 = 9
print(f"1, 4, 7 with x.var(): {wrong.tolist()}")
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
# `keepdim=True` keeps that axis, with length 1, so that each token's mean is subtracted from its own channels.

# %%
from torch import nn

class TinyNorm(nn.Module):
    def __init__(self, C):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(C))
        self.shift = nn.Parameter(torch.zeros(C))

    def forward(self, x):    # (..., C) -> (..., C): any axes, then the channels
        deviations = x - x.mean(dim=-1, keepdim=True)
        variance = deviations.square().mean(dim=-1, keepdim=True)
        return deviations / (variance + 1e-5).sqrt() * self.scale + self.shift

# %% [markdown]
# The library's LayerNorm has the same two vectors. Its `forward` is one call of `F.layer_norm`, a routine of torch that
# computes our three lines at once. (`self.scale.shape` tells it to normalise the last axis.) We try it on the tokens
# (1, 4, 7) and (10, 40, 70).

# %%
from book import agree, show

from gpt.model import LayerNorm

show(LayerNorm)
both_tokens = torch.stack([x, 10 * x])    # (T, C) = (2, 3)
from_library = LayerNorm(3)(both_tokens)
agree("1, 4, 7: by hand and LayerNorm", normalised, from_library[0])
agree("both tokens: TinyNorm and LayerNorm", TinyNorm(3)(both_tokens), from_library)

# %% [markdown]
# May eps stand outside the root? No, and it shows where the channels are small. A GPT-2 that nobody has trained begins
# with vectors of variance 0.0008 (3.10 says why), which is only eighty times eps. Dividing by the root of variance +
# eps divides the variance by variance + eps. We draw 1,000 such vectors of 768 channels. **What variance comes out?**

# %%
draw = torch.Generator().manual_seed(args.seed)
x = 0.0008**0.5 * torch.randn(1000, 768, generator=draw)    # (T, C)
out = TinyNorm(768)(x)
measured = out.square().mean().item()    # the variance, because the mean is 0
predict("0.0008 / (0.0008 + 0.00001)", 0.0008 / 0.00081, measured, 0.0005)
agree("TinyNorm and LayerNorm on them", out, LayerNorm(768)(x))

# %% [markdown]
# It is 0.988. With eps outside the root it would be 0.999, and OpenAI's weights are used to the first.
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
# Take $|x|$, a number without its sign. The graph of a linear layer from one number to one number is a straight line,
# and the graph of $|x|$ has a corner. So no stack of linear layers can compute $|x|$.
#
# The remedy is to put a function that is not linear between the layers. It is applied to each number by itself and is
# called an **activation function**. The simplest is **ReLU**, which replaces negative numbers by 0. With it two layers
# can compute $|x|$. The first makes $x$ and $-x$, ReLU replaces the negative one by 0, and the second adds them up.

# %%
for number in (-3.0, 2.0):
    hidden = torch.tensor([number, -number])    # first layer: times 1 and times -1
    output = torch.relu(hidden).sum()           # ReLU; second layer: 1 and 1
    predict(f"|{number}|", abs(number), output.item())

# %% [markdown]
# ### GELU
#
# ReLU has one fault. Where its input is negative, its derivative is 0: change the input a little, and the output does
# not move. Training works by such small changes (chapter 4). So the weights of a channel that is negative for every
# token get no gradient.
#
# GPT-2 uses a smooth relative of ReLU, called **GELU**:
#
# $$\text{GELU}(x) = x \cdot \Phi(x)$$
#
# $\Phi(x)$ is the probability that a draw from the standard normal distribution is below $x$. For large $x$ it is
# nearly 1, so GELU gives nearly $x$. For very negative $x$ it is nearly 0, and so is GELU. For example, $\Phi(1)$ is
# 0.8413.
#
# GPT-2 was trained with a formula that approximates this, with a tanh and a number, 0.044715, that was fitted. So we
# use the formula too, for OpenAI's weights. You need not remember it.

# %%
import math

def tiny_gelu(x):
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + torch.tanh(inner))

predict("GELU(1) = 1 * 0.8413", 0.8413, tiny_gelu(torch.tensor(1.0)).item(), 0.001)

# %% [markdown]
# We compare ReLU, GELU and their derivatives at six points. For a derivative at $x$ we take $(f(x + h) - f(x - h)) /
# 2h$ with a small $h$. (`double` means float64. In float32, rounding would spoil so small a change.)

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
# learn. GELU is no perfect cure: its derivative is 0 near -0.75, and nearly 0 at -4.
#
# How good is the approximation? The library's docstring says that it is wrong by up to 0.0005. torch can compute $\Phi$
# exactly, because $\Phi(x) = (1 + \text{erf}(x / \sqrt 2)) / 2$, and it has `erf`.

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
# single token. This token gives itself the weight 1. So attention comes down to two linear layers: `W_value` makes the
# value, and `out_proj` follows. We have just seen that two linear layers can do no more than one.

# %%
from gpt.attention import MultiHeadAttention

section("3.4")
attention = MultiHeadAttention(8, 8, num_heads=2, qkv_bias=True).requires_grad_(False)
x = torch.randn(1, 1, 8)    # (B, T, C): one token
two_layers = attention.out_proj(attention.W_value(x))
agree("attention on one token, and two linear layers", attention(x), two_layers)

# %% [markdown]
# With more tokens, the attention weights decide how much of each value goes into the output. But the values themselves
# are only added up. So another layer has to work on what a token has gathered. It is called **feed-forward**: two
# linear layers with an activation function between them. The first makes F = 4 C channels out of C, and the second goes
# back to C. (Why four times C? The first transformer chose it, and GPT-2 kept it.)
#
# `nn.Sequential` calls its parts one after another. For GELU and attention we take the library's from now on, because
# ours have been shown to be equal.

# %%
class TinyFeedForward(nn.Module):
    def __init__(self, C):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(C, 4 * C), GELU(), nn.Linear(4 * C, C))

    def forward(self, x):    # (B, T, C) -> (B, T, C)
        return self.layers(x)

# %% [markdown]
# The library's `FeedForward` has the same lines. In them, no token sees another one. `x[:, order]` puts the tokens in
# another order. **Does it matter whether we reorder the inputs or the outputs?**

# %%
feed_forward = TinyFeedForward(8).requires_grad_(False)
x = torch.randn(2, 5, 8)    # (B, T, C)
order = [3, 0, 4, 1, 2]
inputs_reordered = feed_forward(x[:, order])
outputs_reordered = feed_forward(x)[:, order]
agree("reordered before, and after", inputs_reordered, outputs_reordered)

# %% [markdown]
# It does not. In attention it would, because the mask lets a token see only itself and the tokens before it. In another
# order a token has other tokens before it.
#
# How many parameters does the layer have? The first linear layer has $C \cdot 4C$ weights and $4C$ biases, and the
# second has $4C \cdot C$ weights and $C$ biases. That makes $8 C^2 + 5 C$. Attention has four matrices and four biases
# (2.8), so $4 C^2 + 4 C$.

# %%
def parameters(module):
    return sum(p.numel() for p in module.parameters())

C = small.emb_dim    # 768
predict("feed-forward", 8 * C * C + 5 * C, parameters(TinyFeedForward(C)))
gpt2_attention = MultiHeadAttention(C, C, num_heads=12, qkv_bias=True)
predict("attention", 4 * C * C + 4 * C, parameters(gpt2_attention))
#> feed-forward: predicted 4,722,432, measured 4,722,432
#> attention: predicted 2,362,368, measured 2,362,368

# %% [markdown]
# Two thirds of a block's parameters are in the feed-forward layer.
#
# ## 3.5 The residual connection
#
# What goes wrong if each layer simply replaces the vectors by its output? Attention makes averages over tokens, so a
# second attention would average averages. **What is left of the differences between tokens after twelve of them?** We
# try it on four tokens with one number each, 8, 0, 4 and -6. All that a token may see gets the same weight. So token
# $t$ is replaced by the mean of tokens 0 to $t$, twelve times.

# %%
section("3.5")
visible = torch.ones(4, 4).tril()                     # 1 on and below the diagonal
even = visible / visible.sum(dim=-1, keepdim=True)    # row t: 1 / (t + 1) each
x = torch.tensor([[8.0], [0.0], [4.0], [-6.0]])       # (T, 1)
for _ in range(12):
    x = even @ x
numbers = [round(number, 2) for number in x[:, 0].tolist()]
print(f"8, 0, 4, -6 after twelve averages: {numbers}")
#> 8, 0, 4, -6 after twelve averages: [8.0, 8.0, 8.0, 7.99]

# %% [markdown]
# All tokens have become practically equal to the first one, which sees only itself and never changes. A model that has
# to say what follows the last token can no longer tell which token that is.
#
# The remedy is one plus sign. A layer does not replace $x$. It **adds** its output to $x$:
#
# $$x \leftarrow x + \text{layer}(x)$$
#
# This is called a **residual connection** (also: skip connection). Whatever the layer computes, the old $x$ is still
# part of the sum. The sum that runs through the whole model, and to which each layer adds, is called the **residual
# stream**. It is the blue line in the picture of the block.
#
# Does this help with real attention, on vectors? We take twelve attentions with random weights, and each reads $x$
# through a LayerNorm. In one run they replace $x$, and in the other they add to it.

# %%
torch.manual_seed(args.seed)
layers = [MultiHeadAttention(64, 64, num_heads=4) for _ in range(12)]
norm = TinyNorm(64)
first = torch.randn(1, 32, 64)    # (B, T, C): 32 tokens
replaced, added = first, first
with torch.no_grad():             # no training here, so no gradients
    for layer in layers:
        replaced = layer(norm(replaced))
        added = added + layer(norm(added))

# %% [markdown]
# To compare two tokens we take the **cosine** of the angle between their vectors. It is 1 if both point in the same
# direction, and 0 if they are at right angles.

# %%
def cosine(x):
    """x (B, T, C) -> the mean cosine of a token and the next one."""
    return torch.cosine_similarity(x[:, :-1], x[:, 1:], dim=-1).mean().item()

print(f"neighbours before the first layer:          cosine {cosine(first):.2f}")
print(f"after twelve layers that replace x:         cosine {cosine(replaced):.2f}")
print(f"after twelve layers that add their output:  cosine {cosine(added):.2f}")

# %% [markdown]
# Where the layers replace $x$, all tokens point in the same direction. Where they add, the tokens stay apart. (This
# holds for random weights, with which training begins. Section 3.15 tries the same with whole blocks.)
#
# The plus sign has a price: the sum can grow with every layer. That is why each layer reads it through a LayerNorm.
#
# <details><summary>Question: what does a block with residual connections compute if all of its weights and biases are
# 0?</summary>
#
# Attention and feed-forward then give 0, and the block gives $x + 0 = x$. Without the residual connections it would
# give 0.
#
# </details>
#
# ## 3.6 The block
#
# You have all parts of the block now. Its picture in 3.1 has two residual connections, one around attention and one
# around feed-forward.
#
# LayerNorm stands on the branches and not on the blue line. Attention and feed-forward read a normalised **copy**, and
# the residual stream itself is not normalised. This is called **pre-norm**. The first transformer normalised the sum
# after each addition (**post-norm**). Xiong et al. 2020 found that pre-norm models are easier to train.

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
# The output has the shape of the input, so blocks can be stacked. The library's block is called `TransformerBlock`. You
# can skip two things in it: `drop_shortcut` is dropout (2.8) and is off here, and `cache` is for 3.12. We compare the
# two in a very small GPT-2, with C = 48.

# %%
from gpt.config import GPTConfig
from gpt.model import TransformerBlock

show(TransformerBlock)
tiny_config = GPTConfig(vocab_size=1000, context_length=64,
                        emb_dim=48, n_heads=4, n_layers=3)
library_block = TransformerBlock(tiny_config).requires_grad_(False)
tiny_block = TinyBlock(48, 4).requires_grad_(False)
tiny_block.load_state_dict(library_block.state_dict())    # the same numbers
x = torch.randn(2, 10, 48)                                # (B, T, C)
agree("TinyBlock and TransformerBlock", tiny_block(x), library_block(x))

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E3.3` takes out the body of `TransformerBlock.forward`. Write it again
# without the listing.
#
# ## 3.7 The whole model
#
# What remains are the two ends of the first picture: two tables in front, and a LayerNorm and the head behind. The last
# line of `__init__` makes the head use the matrix of the token table, for reasons that 3.8 gives. The table is (V, C).
# The weight of `nn.Linear(C, V)` is (V, C) too, because torch stores weights as (out, in).
#
# In `forward`, each of the B texts gets the same position rows (T, C).

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
# That is a whole GPT-2. With TinyNorm, TinyFeedForward and TinyBlock it has about 40 lines, plus the attention of
# chapter 2. Does it agree with the library's model, once it has the same weights?

# %%
from gpt.model import GPTModel

library = GPTModel(tiny_config).requires_grad_(False)
tiny = TinyGPT(tiny_config).requires_grad_(False)
tiny.load_state_dict(library.state_dict())
random_ids = torch.randint(1000, (2, 10))    # (B, T): two texts of ten tokens
agree("TinyGPT and GPTModel", tiny(random_ids), library(random_ids))
print(f"ids {tuple(random_ids.shape)} -> logits {tuple(tiny(random_ids).shape)}")
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
beginning = text_to_token_ids("He was born in New", tokenizer)    # (B, T)
agree("the two with mini's weights", mini(beginning), trained(beginning), 1e-4)

# %% [markdown]
# (Trained logits are larger, and so is their rounding. So `agree` allows 0.0001 here.)
#
# Now your model knows what mini knows. Which three tokens does it find most probable after *He was born in New*? We
# take the logits of the last position. `topk(3)` gives the three largest probabilities and their ids.

# %%
best = mini(beginning)[0, -1].softmax(dim=-1).topk(3)    # of V probabilities
for p, token in zip(best.values, best.indices):
    print(f"{tokenizer.decode([token])!r}: {p:.2f}")
#> ' York': 0.86

# %% [markdown]
# Nothing in your forty lines is about York: all of that is in the weights.
#
# In 3.2 we claimed that vectors grow. Here is the standard deviation of the residual stream, before and after each
# block.

# %%
positions = torch.arange(beginning.shape[1])             # (T,)
x = mini.tok_emb(beginning) + mini.pos_emb(positions)    # (B, T, C)
print(f"standard deviation before block 0: {x.std():.2f}")
for number, block in enumerate(mini.trf_blocks):
    x = block(x)
    print(f"after block {number}: {x.std():.2f}")

# %% [markdown]
# It begins far too small and grows more than twentyfold, most of it in block 0. The head reads the residual stream too,
# so there is a LayerNorm in front of it.
#
# Now meet the library's model. It has four methods that you know as lines of TinyGPT:
#
# * `__init__` makes the same parts. Skip `fork_rng` and `drop_emb` (dropout), and skip `init_weights` until 3.10.
# * `embed` adds the two tables' rows. `start` is for 3.12. Skip what raises errors, and `padding`, which is for writing
#   several texts of unequal length at once.
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
# Its matrix has one row per token of the vocabulary. The logit of token $v$ is the dot product of row $v$ and the final
# vector, which the last LayerNorm gives. So it says how well the two match. In GPT-2 this matrix is the token table
# itself. We recompute one logit by hand: text 0, position 4, token 7.

# %%
section("3.8")
final = library.hidden(random_ids)                 # (B, T, C)
logits = library(random_ids)                       # (B, T, V)
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
# its position and after it, because they are computed from its vector. If the head had a matrix of its own, a change in
# the token table would have the second effect only.
#
# </details>
#
# ## 3.9 Count the parameters on paper
#
# You know every part of a GPT-2, so you can count its parameters before any machine does:
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
# Now the machine. On the device "meta" torch makes tensors that have a shape but no numbers. They take no memory, so
# even the largest model can be built here.

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
# (In float32 a parameter takes 4 bytes, which gives the GB.) H is not in the formula, because heads only cut up what is
# there (2.7). In GPT-2 small the twelve blocks hold 85 of the 124 million.
#
# Elsewhere you find other numbers for the smallest model. The GPT-2 paper says 117M, which OpenAI later called an
# error. Raschka's book has 163,009,536: its head has a matrix of its own, and its queries, keys and values have no
# biases. **What do these two changes add and take away?** (`GPTConfig()` is GPT-2 small. Queries, keys and values have
# C biases each in each of 12 blocks.)

# %%
V = small.vocab_size
with torch.device("meta"):
    untied = GPTModel(GPTConfig(qkv_bias=False))
    untied.out_head = nn.Linear(C, V, bias=False)    # a matrix of its own
predict("Raschka's", 124_439_808 + V * C - 12 * 3 * C, parameters(untied))
#> Raschka's: predicted 163,009,536, measured 163,009,536

# %% [markdown]
# The library counts with `count_parameters`. It returns two numbers: how many parameters training may change, and how
# many there are. (Chapter 5 needs both.) `model.parameters()` lists a tied matrix once.

# %%
from gpt.lora import count_parameters

show(count_parameters)
predict("all parameters of mini", 7_259_008, count_parameters(mini)[1])

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E3.7` takes out the body of `count_parameters`.
#
# ## 3.10 The first loss
#
# You have built a model. Is it right? One test needs no training, and you can work out its result beforehand.
#
# It uses the cross-entropy loss of 0.2. At each position, take the probability $p$ that the model gave to the token
# that really came next. The loss is the mean of $-\ln p$, in nats per token.
#
# A model that has learned nothing should prefer no token, so each should get the probability $1/V$. **Which loss should
# an untrained GPT-2 have?** It should be $-\ln (1/V) = \ln 50{,}257 = 10.82$. We check it on 257 tokens of text
# messages. (The second argument of `GPTModel` is the generator from which the initial weights are drawn.)

# %%
from gpt.download import fetch

section("3.10")
messages = fetch("sms").read_text(encoding="utf-8")[:2000]
sms_ids = text_to_token_ids(messages, tokenizer)[:, :257]    # (B, T + 1)
sms_ids = sms_ids.to(args.device)

# %%
def random_gpt2():
    generator = torch.Generator().manual_seed(args.seed)
    model = GPTModel(GPT2_SIZES[args.model], generator)
    model.eval().requires_grad_(False)    # no dropout, no training
    return model.to(args.device)

model = random_gpt2()

# %% [markdown]
# The model reads the first 256 tokens. The tokens to predict are the same text, shifted by one. At each position
# `gather` picks the number that belongs to the token that came. (`None` adds a third axis, because `gather` wants as
# many axes as `log_p` has.)

# %%
def first_loss(model):
    """The mean of -ln p over 256 next tokens."""
    log_p = model(sms_ids[:, :-1]).log_softmax(dim=-1)    # (B, T, V): ln of softmax
    came = sms_ids[:, 1:, None]                           # (B, T, 1)
    return -log_p.gather(-1, came).mean().item()

predict("first loss, ln V", math.log(V), first_loss(model), 0.02)

# %% [markdown]
# If the first loss of a new GPT-2 is far from $\ln V$, something is wrong with it. (The test does not find every
# mistake. We took the mask out of a model of mini's size, and its loss was still 10.84.)
#
# Why is the loss so close? Look at `init_weights` in the listing of 3.7. It draws all matrices and tables from a normal
# distribution with standard deviation 0.02, and it sets biases to 0. Small weights make small logits, and softmax of
# small logits is nearly even.
#
# Now you can see where the variance 0.0008 of 3.2 came from. The token row and the position row have variance $0.02^2$
# each, and variances of independent numbers add up.
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
# and read everything again. Taking the best each time is called **greedy decoding**. `argmax` gives the id with the
# largest logit.

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
# It babbles, because nobody has taught it anything. But why one token over and over? Is the model sure of it? We look
# at the probability of the best token. Then `torch.multinomial` draws eight next tokens at random, each with its
# probability.

# %%
probabilities = model(prompt)[0, -1].softmax(dim=-1)    # (V,)
print(f"probability of the best token: {probabilities.max() * V:.1f} times 1 / V")
drawn = torch.multinomial(probabilities, 8)             # (8,): eight ids
print("eight draws:", [tokenizer.decode([token]) for token in drawn.tolist()])

# %% [markdown]
# The model is not sure. Its best token is only a few times as probable as an average one, and the draws have nothing to
# do with each other. Greedy decoding hides this: it takes the winner, however narrowly it wins. (Section 3.17 says why
# it is the same winner so often.)
#
# The library has the loop as a function. It also cuts the text to its last T_max tokens, because there are no more
# positions.

# %%
from gpt.generate import generate_text_simple

show(generate_text_simple)
T_max = model.config.context_length
same = generate_text_simple(model, prompt, 12, T_max)
predict("tokens that differ from our loop", 0, int((same != text).sum()))

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E3.4` takes out the body of `generate_text_simple`.
#
# ## 3.12 The KV cache: do not compute the past again
#
# In a hurry? Go on with chapter 4, and come back when you want your model to write fast. Chapters 5 and 6 only score
# texts.
#
# The loop is wasteful. To write token 41 it reads the 40 before it. To write token 42 it reads the same 40 again, and
# one more. **Does anything change for the old tokens when a new one comes?** We compute the keys of the first block for
# five tokens, and again with a sixth.

# %%
section("3.12")

def first_keys(ids):
    block = model.trf_blocks[0]
    return block.att.W_key(block.norm1(model.embed(ids)))    # (B, T, C)

five = first_keys(sms_ids[:, :5])
six = first_keys(sms_ids[:, :6])
agree("keys of five tokens, alone and among six", five, six[:, :5])

# %% [markdown]
# Nothing changes. The same holds for the values, and for keys and values of all later blocks, because the mask lets a
# token see only itself and what comes before it (2.9). So we can keep them. Such a store is called a **KV cache**.
#
# ![Without a cache, four steps compute 18 keys and values; with one, 6.](diagrams/kv_cache.svg)
#
# *Step 1 reads a prompt of three tokens and chooses the fourth. Steps 2, 3 and 4 read one token more each. With a cache
# they compute the key and value of this token only.*
#
# Why not keep the queries too? Because no later token needs them: a new token looks with its own query.
#
# ### By hand
#
# We do it for the attention of the first block. Five tokens are in the cache, and the sixth is new. From the new token
# we need one query, one key and one value.

# %%
block = model.trf_blocks[0]
attention = block.att
x = block.norm1(model.embed(sms_ids[:, :6]))                  # (B, T, C), T = 6
kept_keys = attention.W_key(x[:, :5])                         # (B, 5, C): the cache
kept_values = attention.W_value(x[:, :5])                     # (B, 5, C)
new = x[:, 5:]                                                # (B, 1, C)
keys = torch.cat([kept_keys, attention.W_key(new)], dim=1)    # (B, 6, C)
values = torch.cat([kept_values, attention.W_value(new)], dim=1)

# %% [markdown]
# The new query meets all six keys, and its weights mix all six values. No mask is needed, because no key belongs to a
# token after the newest. The result should be the last row of attention over all six tokens.

# %%
D = model.config.emb_dim // model.config.n_heads
query = attention.split_heads(attention.W_query(new))       # (B, H, 1, D)
key = attention.split_heads(keys)                           # (B, H, 6, D)
value = attention.split_heads(values)                       # (B, H, 6, D)
weights = (query @ key.transpose(2, 3) / D**0.5).softmax(dim=-1)    # (B, H, 1, 6)
side_by_side = (weights @ value).transpose(1, 2).flatten(2)         # (B, 1, C)
newest = attention.out_proj(side_by_side)                           # (B, 1, C)
agree("one query and kept keys, or everything again", newest, attention(x)[:, 5:])

# %% [markdown]
# The library has one `KVCache` per block. Our `torch.cat` would copy all that is kept at every step. So `extend` takes
# room for T_max tokens at its first call, and its last four lines write the new keys and values behind the old ones.
# Skip `padding`.

# %%
from gpt.attention import KVCache

show(KVCache)

# %% [markdown]
# `MultiHeadAttention.forward` (2.8) calls `extend`. It hands over the keys and values of T new tokens and gets back
# those of all S tokens so far. So the mask has one row per new token and one column per key. **What should be hidden
# with S = 5 keys and T = 2 new tokens?** The new tokens are 3 and 4. Token 3 must not see key 4, and token 4 may see
# all keys. In general row 0 may see S - T + 1 keys, and each row below it one more. So the ones begin at the diagonal S
# - T + 1, which `triu(S - T + 1)` says.

# %%
future = torch.ones(2, 5).triu(5 - 2 + 1).int()    # (T, S): 1 is hidden
print(f"hidden from the two new tokens: {future.tolist()}")
#> hidden from the two new tokens: [[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E3.5` takes out the body of `KVCache.extend`.
#
# ### Writing with a cache
#
# The loop of 3.11 changes in one point. After the first step it hands the model only the token that it has just chosen.
# Everything before it is in the cache. The new token's position is the number of tokens in there, so `hidden` asks the
# cache for it. (`new_cache` makes one KVCache per block.)

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
# The library's function is called `generate`. It is your loop, with a way to draw the next token at random (chapter 4),
# an end before the last step (chapter 7), and texts longer than T_max. **How many tokens does a block read to write 40
# from a prompt of one?** Without a cache it reads 1, then 2, and so on up to 40, which makes $40 \cdot 41 / 2$. With a
# cache it reads one per step.
#
# To count them we use a **hook**: a function of ours that torch calls each time block 0 gets its inputs. The first of
# them is $x$, whose tokens we count.

# %%
from gpt.generate import generate

read = []

def note(block, inputs):
    read.append(inputs[0].shape[1])    # T of (B, T, C)

hook = model.trf_blocks[0].register_forward_pre_hook(note)

# %%
uncached = generate_text_simple(model, sms_ids[:, :1], 40, T_max)
predict("tokens read without a cache", 40 * 41 // 2, sum(read))
read.clear()
cached = generate(model, sms_ids[:, :1], 40)
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
def cache_bytes(config):
    return 2 * config.n_layers * config.context_length * config.emb_dim * 4

cache = model.new_cache()
model.hidden(sms_ids[:, :1], cache)    # the first use takes the room
measured = sum(kept.keys.nbytes + kept.values.nbytes for kept in cache)
predict("bytes of the cache, 2 L T_max C 4", cache_bytes(model.config), measured)
#> bytes of the cache, 2 L T_max C 4: predicted 1,048,576, measured 1,048,576
print(f"of GPT-2 small: {cache_bytes(small):,}")
#> of GPT-2 small: 75,497,472

# %% [markdown]
# That is 1 MB for a model of mini's size, and 75 MB for GPT-2 small.
#
# There is one limit. When the text is longer than T_max, the model reads only the last T_max tokens, the **window**. At
# each step the position of every token becomes one less. The kept keys and values were made with the old positions, so
# they are wrong now, and the whole window has to be read again. **With T_max = 8 and a prompt of 6, how many tokens
# does each of six steps read?**

# %%
narrow = GPTModel(GPTConfig(vocab_size=1000, context_length=8,
                            emb_dim=32, n_heads=4, n_layers=2))
read.clear()
narrow.trf_blocks[0].register_forward_pre_hook(note)
generate(narrow, torch.arange(6)[None], 6)
predict("tokens read at each step", [6, 1, 1, 8, 8, 8], read)
#> tokens read at each step: predicted [6, 1, 1, 8, 8, 8], measured [6, 1, 1, 8, 8, 8]

# %% [markdown]
# Then the cache is full, and each step reads the whole window.
#
# <details><summary>Question: does a KV cache help in training?</summary>
#
# No. In training the whole text is there from the start, so one pass computes all of its positions, and none of them
# twice.
#
# </details>
#
# **Your turn.** `python tests/exercises.py start E3.6` takes out the body of `generate` in gpt/generate.py. It is the
# hardest exercise of this chapter. Begin with your own loop. (`answer E3.6` prints the original.)
#
# ## 3.13 What the cache saves, measured
#
# Fewer tokens should mean less time. The loop of 3.11 wastes a second thing: it computes the logits of **all**
# positions and uses only the last. `generate` does not. To tell the two savings apart we time three ways to get one
# more token: with the logits of all positions, with those of the last position, and with a cache.

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
# the cache adds one more token to it. So we fill the cache with a few tokens less than the text has, and after all
# tries it is as long as the text. **Which of the three times will grow with the length of the text?**

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
fig = plot_token_times(lengths, times, f"{args.model}, untrained")
figure(fig, run_folder(args), "03_cache")

# %% [markdown]
# *Time for one more token against the length of the text.* Without a cache the lines climb. With a cache the line is
# nearly flat. It cannot be quite flat, because the newest query still meets every kept key.
#
# At 124M's size, on one CPU core, one more token after 1,024 took about 2 s without a cache and 0.034 s with it, about
# 50 to 60 times less.
#
# Why not 1,024 times less, when one token is read in place of 1,024? Because one token needs all of the model's weights
# too, and these 0.5 GB must come from memory. That alone takes about 0.03 s. (We measured it with a sum over 124
# million numbers, which has to read each of them once.) With 1,024 tokens these 0.03 s are a small part of the 2 s.
#
# ## Further: skip this on a first reading
#
# Chapter 4 needs none of the next four sections.
#
# ## 3.14 Why some initial weights are divided by sqrt(2 L)
#
# L blocks make $2L$ additions to the residual stream, so a deeper model would add more variance. Therefore
# `init_weights` divides the initial weights of the last matrix of attention and of feed-forward by $\sqrt{2L}$. This
# divides the variance of each addition by $2L$, and all $2L$ together should add the same for every L.
#
# We compare models of 4 and of 16 blocks. A factor of $\sqrt{2L}$ undoes the division. Then 16 blocks should add four
# times as much as 4, if the outputs of different blocks have nothing in common.

# %%
section("3.14")

def variance_added(L, factor):
    size = GPTConfig(1000, 64, 128, 4, L)    # V, T_max, C, H, L
    generator = torch.Generator().manual_seed(args.seed)
    model = GPTModel(size, generator).requires_grad_(False)
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
# With the division, 16 blocks add about as much variance as 4. Without it they add 4.4 times as much, so their outputs
# have a little in common.
#
# ## 3.15 What a model without residual connections loses
#
# You will often read that gradients vanish without residual connections: almost nothing of the loss's gradient (chapter
# 4) reaches the first layers. Is that true? We take 12 untrained blocks in four versions:
#
# * `both` has LayerNorm and residual connections, as in 3.6.
# * `norm_only` has LayerNorm alone.
# * `norm_own_value` is `norm_only` without averages: each token reads only its own value.
# * `neither` has neither LayerNorm nor residual connections.

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
# the mean cosine of tokens 32 places apart, which have hardly more in common than any two. `cross_entropy` is the loss
# of 3.10, and `grad` is its gradient. Some of these numbers are very small, so we compute in float64, and with an eps
# of $10^{-99}$ in the cosine.

# %%
deep_config = GPTConfig(1000, 64, 128, 4, 12)    # V, T_max, C, H, L
deep = GPTModel(deep_config, torch.Generator().manual_seed(args.seed)).double()
tokens = torch.randint(1000, (4, 64), generator=draw)    # (B, T)

def gradient_and_cosine(version):
    vectors = deep.embed(tokens).detach().requires_grad_()      # (B, T, C)
    x = vectors
    for block in deep.trf_blocks:
        x = version(block, x)
    logits = deep.out_head(deep.final_norm(x[:, :-1]))          # (B, T - 1, V)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    gradient = torch.autograd.grad(loss, vectors)[0].norm().item()
    alike = torch.cosine_similarity(x[:, :32], x[:, 32:], dim=-1, eps=1e-99)
    return gradient, alike.mean().item()

# %%
gradient, alike = {}, {}
for version in (both, norm_only, norm_own_value, neither):
    name = version.__name__
    gradient[name], alike[name] = gradient_and_cosine(version)
    print(f"{name:15} gradient {gradient[name]:.0e}, cosine {alike[name]:.2f}")
predict("norm only: cosine of two tokens", 1.0, alike["norm_only"], 0.03)

# %% [markdown]
# With neither, the gradient vanishes: it is about $10^{-47}$. That is the work of GPT-2's small initial weights, which
# shrink every vector; with larger ones it would not vanish. With LayerNorm alone it does not vanish either, because
# LayerNorm brings small numbers back to size. But in both versions all tokens point in the same direction, as in 3.5.
# (Dong et al. 2021 prove this for attention without residual connections.) In `norm_own_value` nothing is averaged, and
# the tokens stay apart. So here it is the averaging that makes them alike.
#
# ## 3.16 The first loss, more exactly
#
# The first loss is a little above $\ln V$. How much?
#
# 1. A logit is a sum of C products of a channel (variance 1, after LayerNorm) and a weight (variance $0.02^2$). So
#    logits have mean 0 and variance $s^2 = 0.0004\,C$.
# 2. The loss at one position is $-\ln$ of a softmax: the logarithm of the sum of all $e^{logit}$, minus the logit of
#    the token that came, which is 0 on average.
# 3. If $z$ is normal with mean 0 and variance $s^2$, the mean of $e^z$ is $e^{s^2/2}$ (a rule of statistics). So the
#    sum is about $V e^{s^2/2}$, and its logarithm is $\ln V + s^2/2$.
#
# So the loss should lie $s^2/2 = 0.0002\,C$ above $\ln V$. `logsumexp` is the logarithm of step 2. In place of the
# token that came we take the mean over all V tokens, so that no luck is left in it.

# %%
section("3.16")
width = model.config.emb_dim       # this model's C
logits = model(sms_ids[:, :-1])    # (B, T, V)
loss = (logits.logsumexp(dim=-1) - logits.mean(dim=-1)).mean().item()
predict("above ln V: 0.0002 C", 0.0002 * width, loss - math.log(V), 0.05)

# %% [markdown]
# What if we keep the initial weights that torch draws by itself? For a table (`nn.Embedding`) their standard deviation
# is 1, fifty times as large as 0.02. For a linear layer they are uniform, with variance 1 / (3 in), where `in` is the
# size of its input. `reset_parameters` draws them again. (We leave out the head, because it shares the table's matrix.)

# %%
loud = random_gpt2()
for layer in loud.modules():
    if layer is not loud.out_head and hasattr(layer, "reset_parameters"):
        layer.reset_parameters()
loud_loss = first_loss(loud)
print(f"first loss with torch's own weights: {loud_loss:.1f}")

# %% [markdown]
# This model does far worse than one that knows nothing: it is certain, and wrong. The residual stream still holds the
# vector of the token just read. The tied head multiplies it by the row of each token, and the best match is the token's
# own row. So the model is certain that each token is followed by itself.
#
# Its loss can be worked out, if we measure the standard deviation of the residual stream:
#
# 1. The dot product of a token's row with itself is a sum of C squares of numbers with variance 1. So it is about C.
# 2. The last LayerNorm divides the vector by the residual stream's standard deviation. So the logit of the token just
#    read is about C, divided by this standard deviation.
# 3. The other logits are small beside it, and the token that came is nearly always another one. So the loss is about as
#    large as this logit.
#
# A head with a matrix of its own has no row that equals the token's vector. Its logits are sums of C products, each
# with a weight of variance 1 / (3 C). So $s^2 = 1/3$, and the loss should lie $s^2/2 = 1/6$ above $\ln V$.

# %%
residual_stream = loud.trf_blocks(loud.embed(sms_ids[:, :-1]))    # (B, T, C)
predicted = width / residual_stream.std().item()
predict("torch's weights, head tied", predicted, loud_loss, 0.1)
own_head = nn.Linear(width, V, bias=False).requires_grad_(False)
loud.out_head = own_head.to(args.device)
predict("head of its own, ln V + 1/6", math.log(V) + 1 / 6, first_loss(loud), 0.02)

# %% [markdown]
# ## 3.17 Why it repeats itself
#
# Why did one token win step after step in 3.11? By the same reasoning the token just read has a larger logit than
# others, on average: $0.0004\,C$ (a sum of C squares of numbers with variance $0.02^2$), divided by the residual
# stream's standard deviation. The other logits have mean 0 and standard deviation $0.02 \sqrt{C}$. But they are many,
# and the highest of 50,256 normal draws lies about 4.2 standard deviations above 0. **Is the token just read higher?**

# %%
section("3.17")
just_read = sms_ids[:, :-1]                                   # (B, T), B = 1
residual_stream = model.trf_blocks(model.embed(just_read))    # (B, T, C)
final = model.final_norm(residual_stream)                     # (B, T, C)
own = (final * model.tok_emb(just_read)).sum(dim=-1).mean().item()
predicted = 0.0004 * width / residual_stream.std().item()
predict("logit of the token just read", predicted, own, 0.15)
print(f"it lies {own / (0.02 * math.sqrt(width)):.1f} standard deviations above 0")

# %% [markdown]
# How often is it the best? And how alike are neighbouring final vectors?

# %%
repeated = model.out_head(final).argmax(dim=-1) == just_read    # (B, T)
share = repeated.float().mean()
print(f"the token just read is the best at {share:.0%} of 256 positions")
print(f"cosine of neighbouring final vectors: {cosine(final):.2f}")

# %% [markdown]
# Compare with the 4.2 standard deviations. In a model of mini's size the token just read lies 4.8 standard deviations
# above 0, and it is the best at 69 % of the positions. At 124M's size it lies 1.9 above 0 and is the best at 2 %. But
# there neighbouring final vectors are alike, with a cosine of 0.54. So the best token of one step should be near the
# top at the next step too, and having just been read can lift it over the others.
#
# ## What you have now
#
# 1. LayerNorm brings each token's vector to mean 0 and variance 1. Then a learned scale and shift are applied.
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
# | `gpt/generate.py` | past the window a new cache, but no new `unread` | 3.12 stops: it reads 1 token, not 8 |
#
# ## Exercises
#
# | id | what you write | after |
# |---|---|---|
# | E3.1 | `LayerNorm.forward` | 3.2 |
# | E3.2 | `GELU.forward` | 3.3 |
# | E3.3 | the block's `forward` | 3.6 |
# | E3.4 | `generate_text_simple` | 3.11 |
# | E3.5, E3.6 | `KVCache.extend`, `generate` | 3.12 |
# | E3.7 | `count_parameters` | 3.9 |
#
#     python -m pytest --exercise E3.2        # is it right?
#     python tests/exercises.py hint E3.2     # one more hint each time
#
# One without a test: run the chapter with `--quick --seed 1`. Which of its numbers are luck?
#
# <details><summary>Answer</summary>
#
# Those that come from random weights or draws: the variance at the end of 3.2, the cosines of 3.5, the loss of 3.10,
# the babble and the probabilities of 3.11, and all numbers of 3.14 to 3.17. (The times of 3.13 change with every run.)
# Not luck: the parameters, the tokens read, the bytes of the cache, and what mini's weights give. (What `agree` prints
# is rounding, which changes with the random numbers.)
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
