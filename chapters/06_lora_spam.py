# %% [markdown]
"""
# 6  LoRA: fine-tune with two per cent of the parameters

After this chapter you can write LoRA by hand, predict how many numbers it trains, fine-tune a spam filter with it, and
carry the result away as one small file. You need chapters 3 and 5.

- Run: python chapters/06_lora_spam.py
- Time: --quick 6 s; full 9 s on mini, on 2 CPU cores (AMD EPYC), the data there already; on 124M, estimated from one
  epoch, 95 s, or 160 s where the machine has no fast bfloat16 (6.14)
- Source: Hu et al. 2021, sections 4.1 and 7.2
"""

# %%
import torch
from book import load_weights, section, start

QUICK, FULL = dict(epochs=1), dict(epochs=3)
args = start(__doc__, QUICK, FULL, "--model", "--weights", "--precision", "--compile",
             "--epochs", "--resume")
RANK, ALPHA = 16, 16    # of the LoRA that section 6.8 trains

# %% [markdown]
# ## 6.0 Why would anyone want LoRA?
#
# In chapter 5 you fine-tuned a whole language model into a spam filter. Suppose that your next task is to sort
# complaints, and the one after it to recognise topics. Fine-tuning everything each time has two costs.
#
# **Memory while you train.** Each parameter that trains with Adam needs four numbers: the weight itself, its gradient,
# and two running averages, of the gradient and of its square, which are called **moments**. In float32 that makes 16
# bytes. A weight that does not train is called **frozen**. It takes 4 bytes.
#
# **Disk afterwards.** Every task leaves you with a changed copy of the whole model.
#
# **LoRA**, short for *low-rank adaptation*, leaves the pretrained model as it is and trains a small correction beside
# it. Here is the bill for GPT-2 with 124 million parameters. The correction and a new head have 2,655,746 (see 6.6).

# %%
section("6.0")
model_numbers, lora_numbers = 124_439_808, 2_655_746
everything = 16 * model_numbers
with_lora = 4 * model_numbers + 16 * lora_numbers
print(f"memory, training everything  {everything / 1e9:5.2f} GB")
print(f"memory, training a LoRA      {with_lora / 1e9:5.2f} GB")
print(f"file per task, everything    {4 * model_numbers / 1e6:5.0f} MB")
print(f"file per task, LoRA          {4 * lora_numbers / 1e6:5.0f} MB")
#> memory, training everything   1.99 GB
#> memory, training a LoRA       0.54 GB
#> file per task, everything      498 MB
#> file per task, LoRA             11 MB

# %% [markdown]
# For ten tasks you keep 5 GB of files if you train everything. With LoRA you keep one base model of 0.5 GB and ten
# files of 11 MB. (The forward pass needs memory too, in both cases. Chapter 7 counts it.)
#
# ![The input goes through the large frozen matrix W and, beside it, through the thin matrices A and B; the two
# results are added.](diagrams/lora_beside_w.svg)
#
# *The whole idea. W is frozen, A and B are trained. r, the number of columns of A, is small, such as 16; 6.3 explains
# the factor α / r.*

# %% [markdown]
# ## 6.1 A change of low rank needs few numbers
#
# A linear layer multiplies its input, a row $x$ of `in` numbers, by a weight matrix $W$ with `in` rows and `out`
# columns: $y = x W$. (`nn.Linear` stores the transpose of $W$.) Fine-tuning turns $W$ into a slightly different matrix,
# $W + dW$. The change $dW$ has as many numbers as $W$. Could we describe it with fewer?
#
# We can if its rows are built from a few common ones. In the simplest case every row is a multiple of one single row:

# %%
section("6.1")
A = torch.tensor([[1.0], [2.0], [0.0], [-1.0]])    # a column: (4, 1)
B = torch.tensor([[0.5, 0.0, 1.0, -0.5]])          # a row: (1, 4)
dW = A @ B                                         # (4, 4)
print(dW)

# %% [markdown]
# `B` is the one row. `A` says how much of it each row of `dW` gets: once, twice, not at all, and minus once. So 4 + 4 =
# 8 numbers say as much as 16 do.
#
# The smallest number of rows from which you can build all rows of a matrix, by multiplying and adding, is its **rank**
# $r$. **What will PyTorch say here?**

# %%
from book import predict

predict("rank of dW", 1, torch.linalg.matrix_rank(dW).item())
#> rank of dW: predicted 1, measured 1

# %% [markdown]
# For a change of rank 2, `B` has two rows, and `A` has two columns, which say how much of each to take. In general `A`
# has the shape $(in, r)$ and `B` the shape $(r, out)$. Together they hold $r \cdot (in + out)$ numbers, and $dW$ holds
# $in \cdot out$. GPT-2's attention matrices are $768 \times 768$:

# %%
for r in (1, 4, 16):
    print(f"rank {r:2}: {r * (768 + 768):6,} numbers in place of {768 * 768:,}")
#> rank 16: 24,576 numbers in place of 589,824

# %% [markdown]
# ### Training never builds the large matrix
#
# With the change, the layer computes $x (W + dW) = x W + x (A B)$. In a product of three matrices you may choose which
# two to multiply first, so $x (A B)$ equals $(x A) B$:

# %%
x = torch.tensor([[1.0, 1.0, 1.0, 1.0]])    # one token: (N, in) = (1, 4)
print("x A:", (x @ A).tolist())
predict("(x A) B", (x @ (A @ B)).tolist(), ((x @ A) @ B).tolist())
#> x A: [[2.0]]
#> (x A) B: predicted [[1.0, 0.0, 2.0, -1.0]], measured [[1.0, 0.0, 2.0, -1.0]]

# %% [markdown]
# `x A` is one single number. All that the change knows about this token has to pass through it. In GPT-2 with rank 16,
# 768 numbers go in, 16 come out of $A$, and $B$ makes 768 of them again. In training, the $768 \times 768$ matrix $A B$
# is never formed.
#
# This is LoRA: keep $W$ frozen, add a **correction** $x A B$ to the output of the layer, and train only $A$ and $B$.
#
# $$y = x W + x A B \qquad A: (in, r) \qquad B: (r, out)$$
#
# Does a task really need a change of so low a rank? Not exactly. LoRA is a bet that a change of low rank is *good
# enough*. Hu et al. (table 6) tried ranks from 1 to 64 on query and value matrices of GPT-3. Rank 1 did as well as rank
# 64: an accuracy of 73.4 against 73.5 % on the task WikiSQL, and of 91.3 against 91.4 % on MultiNLI. Chapter 8 tries it
# on our small GPT.

# %% [markdown]
# ## 6.2 Where should A and B start?
#
# Before the first training step we have to put *some* numbers into $A$ and $B$. Two things should be true of them:
#
# 1. **The model must not get worse.** If the correction is not zero at the start, we damage the pretrained model before
#    we have taught it anything.
# 2. **The correction must be able to learn.** Its gradient must not be zero.
#
# Should both matrices be zero, both random, or one of each? We try all three on a small problem: a frozen $8 \times 8$
# matrix, and a change of rank 2 to be learned.

# %%
section("6.2")
torch.manual_seed(123)
W = torch.randn(8, 8)                         # (in, out): pretrained, frozen
dW = torch.randn(8, 2) @ torch.randn(2, 8)    # the change to be learned
x = torch.randn(64, 8)                        # (N, in): 64 examples
target = x @ (W + dW)                         # (N, out): the right answers

# %% [markdown]
# A start is a pair of matrices, here with $r = 2$. Each number of $x A$ is a sum of 8 terms with random signs. They
# partly cancel: only their squares add up on average, so the sum is about $\sqrt{8}$ times as large as one term. We
# divide the random numbers by $\sqrt{8}$. Then the numbers of $x A$ are about as large as those of $x$.

# %%
def drawn(*shape):
    return torch.randn(shape) / 8**0.5

starts = {
    "both zero":        (torch.zeros(8, 2), torch.zeros(2, 8)),
    "both random":      (drawn(8, 2), drawn(2, 8)),
    "A random, B zero": (drawn(8, 2), torch.zeros(2, 8)),
}

# %% [markdown]
# ### Does the model get worse?
#
# **Before you run the cell, say for each start whether the correction $x A B$ is zero.**

# %%
for name, (A, B) in starts.items():
    change = (x @ A @ B).abs().max()
    print(f"{name:18} changes an output by up to {change:.2f}")

# %% [markdown]
# Only *both random* changes the outputs, because a product is zero as soon as one of its factors is.
#
# In one layer that may look harmless. But GPT-2 has twelve blocks, one after another, and each passes on the
# disturbances of those before it. So let us put twelve layers in a row. Each is an orthogonal matrix, which turns a
# vector and keeps its length. (The QR decomposition is only a way to draw one. On average $x A B$ is 0.4 times as long
# as $x$.) We compare the final outputs by their **cosine similarity**: 1 is the same direction, 0 is no relation at
# all. **How much is left if every layer starts with a random correction?**

# %%
layers = [torch.linalg.qr(torch.randn(8, 8)).Q for _ in range(12)]
for name in ("both random", "A random, B zero"):
    before, after = x, x
    for layer in layers:
        A = drawn(8, 2)
        B = drawn(2, 8) if name == "both random" else torch.zeros(2, 8)
        before = before @ layer
        after = after @ (layer + A @ B)
    similarity = torch.cosine_similarity(before, after).mean()
    print(f"{name:18} similarity to the undisturbed output {similarity:.2f}")

# %% [markdown]
# With both random, the similarity is below one half before the first step. (Rank 2 is much for 8 channels. With 768
# channels and rank 16 the damage is smaller, but with $B$ zero there is none.)
#
# ### Can it learn?
#
# If you know the gradients of a matrix product, or are in a hurry, go to the two formulas at the end of this passage.
#
# We need the gradients of a product $y = h B$, where $h$ is $(N, r)$. Let $g$, of shape $(N, out)$, be the gradient of
# the loss $L$ with respect to $y$. One number of $y$ is $y_{nj} = \sum_k h_{nk} B_{kj}$. So $B_{kj}$ acts on column $j$
# of every row $n$, each time multiplied by $h_{nk}$. The chain rule adds these up: the gradient of $B_{kj}$ is $\sum_n
# h_{nk} \, g_{nj}$. For all of $B$ at once that is $h^T g$. (The shapes leave no other choice: $(r, N)$ times $(N,
# out)$ makes $(r, out)$.)
#
# In the same way $h_{nk}$ acts on every column $j$ of row $n$, each time multiplied by $B_{kj}$. Its gradient is
# $\sum_j g_{nj} B_{kj}$, and for all of $h$ that is $g B^T$.
#
# With $h = x A$ the gradient of $B$ is $(x A)^T g$. For $A$ we use the first rule once more, on the product $x A$. The
# gradient of its result is $g B^T$, which takes the place of $g$:
#
# $$\frac{\partial L}{\partial B} = (x A)^T g \qquad\qquad \frac{\partial L}{\partial A} = x^T (g B^T)$$
#
# Our loss is the mean of the squared errors, so $g$ is twice the error, divided by the number of errors. Does autograd
# agree?

# %%
def gradients(A, B):
    y = x @ W + x @ A @ B
    g = 2 * (y - target) / y.numel()             # (N, out)
    return x.T @ (g @ B.T), (x @ A).T @ g        # of A (in, r), of B (r, out)

# %%
from book import agree

A, B = starts["both random"]
A, B = A.clone().requires_grad_(), B.clone().requires_grad_()
(x @ W + x @ A @ B - target).square().mean().backward()
of_A, of_B = gradients(A.detach(), B.detach())
agree("gradient of A", of_A, A.grad)
agree("gradient of B", of_B, B.grad)

# %% [markdown]
# Look at the right-hand sides: **the gradient of $B$ contains $A$, and the gradient of $A$ contains $B$.** If both
# matrices are zero, both gradients are zero. A step then changes nothing, and the model never learns anything.

# %%
for name, (A, B) in starts.items():
    of_A, of_B = gradients(A, B)
    print(f"{name:18} gradient of A {of_A.norm():.2f}   of B {of_B.norm():.2f}")

# %% [markdown]
# *A random, B zero* can learn: $B$ has a gradient at once. $A$ has none **yet**, because $B$ is still zero. The first
# step moves only $B$, and from the second step on both move. Train all three and see. (`learn(A, B, 1)` gives the loss
# before its one step.)

# %%
def learn(A, B, steps=200):
    A, B = A.clone().requires_grad_(), B.clone().requires_grad_()
    optimizer = torch.optim.AdamW([A, B], lr=0.05, weight_decay=0.0)
    for _ in range(steps):
        loss = (x @ W + x @ A @ B - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()

# %%
for name, (A, B) in starts.items():
    print(f"{name:18} loss {learn(A, B, 1):5.2f} -> {learn(A, B):5.2f}")

# %% [markdown]
# *Both random* learns this one small layer, too. Its price is the damage at the start, which adds up over the layers.
# So LoRA starts with **$A$ random and $B$ zero**: the model begins exactly as good as it was, and it learns.
#
# ![Three starts side by side: both zero, both random, A random with B zero.](diagrams/lora_start.svg)
#
# *What each start does to the model at once, and whether it can learn. Only the third is good at both.*

# %% [markdown]
# ## 6.3 The scale, alpha / r
#
# LoRA multiplies its correction by one more number, the **scale** alpha / r:
#
# $$y = x W + \frac{\alpha}{r} \, x A B$$
#
# With r = 2 and alpha = 6, for example, the correction is multiplied by 3. Alpha is a number that you set once and keep
# when you try other ranks; the learning rate then still fits. (With Adam, Hu et al. say, tuning alpha does roughly what
# tuning the learning rate does.)
#
# Why divide by r? (The answer takes some algebra. In a hurry? Its last sentence is enough.) Let $a_k$ be the columns of
# $A$ and $b_k$ the rows of $B$. Then $x A B$ is a sum of r terms, $(x a_k) b_k$. Take the first step of training, from
# $B = 0$, for one token. By 6.2 the gradient of $b_k$ is $(x a_k) g$, a number times a row. Adam divides each number of
# a gradient by the root of a running mean, over the steps, of that number's square. At the first step there is only one
# square, so the root is the number's own size and only its sign is left: each number of $b_k$ moves by the learning
# rate $\eta$, against that sign. The sign of a product is the product of the signs, and a number times its sign is its
# absolute value. So the term becomes $(x a_k) \cdot (-\eta) \cdot \text{sign}(x a_k) \cdot \text{sign}(g)$, which is
# $-\eta \, |x a_k| \, \text{sign}(g)$. **All r terms pull in the same direction**, and the move grows with r.
#
# Does it? We take one token and a random $A$. Each of the 256 outputs should move by $\eta$ times the sum of all
# $|x a_k|$, up or down. So the mean size of the moves is that amount, too.

# %%
section("6.3")
torch.manual_seed(123)
x, target = torch.randn(1, 256), torch.randn(1, 256)
columns = torch.randn(256, 256) / 256**0.5      # rank r uses the first r of them as A

def one_step(rank, scale):
    A, B = columns[:, :rank], torch.zeros(rank, 256, requires_grad=True)
    optimizer = torch.optim.Adam([B], lr=0.01)
    (scale * x @ A @ B - target).square().mean().backward()
    optimizer.step()
    return (scale * x @ A @ B).abs().mean().item()

# %%
predicted = 0.01 * (x @ columns[:, :16]).abs().sum().item()
predict("rank 16: the output moves by", predicted, one_step(16, scale=1), 0.001)

# %% [markdown]
# Now the rank goes from 16 to 64 to 256. **By what factor does the move grow, without the division and with it?**

# %%
for rank in (16, 64, 256):    # alpha = 16
    plain, divided = one_step(rank, scale=1), one_step(rank, scale=16 / rank)
    print(f"rank {rank:3}: scale 1 moves {plain:.2f}, scale 16 / r moves {divided:.2f}")

# %% [markdown]
# Without the division, four times the rank moves the output three to four times as far, and every rank needs a learning
# rate of its own. With it the move stays between 0.13 and 0.17. (The first 16 numbers $|x a_k|$ happened to be large.)
# In this chapter alpha and r are both 16, so the scale is 1.

# %% [markdown]
# ## 6.4 TinyLoRA: a layer of your own
#
# You have all the parts now. One module holds them. It wraps an `nn.Linear` and can take its place.
#
# How large should the random numbers in $A$ be? As in 6.2, a sum of `in` terms with random signs grows with
# $\sqrt{in}$. So we draw $A$ between $-1/\sqrt{in}$ and $1/\sqrt{in}$. Then $x A$ has about the same size whether a
# layer has 128 inputs or 768. PyTorch draws the weights of an `nn.Linear` from the same range.

# %%
section("6.4")
from torch import nn


class TinyLoRA(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear = linear
        bound = 1 / linear.in_features**0.5
        A = torch.empty(linear.in_features, rank).uniform_(-bound, bound)
        self.A = nn.Parameter(A)                                           # (in, r)
        self.B = nn.Parameter(torch.zeros(rank, linear.out_features))      # (r, out)
        self.scale = alpha / rank

    def forward(self, x):
        correction = self.scale * (x @ self.A) @ self.B                    # (..., out)
        return self.linear(x) + correction                                 # (..., out)

# %% [markdown]
# The library's layer is called `LinearWithLoRA`. It keeps $A$ and $B$ in a part of its own, `lora`. A fresh one must
# not change the output of the linear layer:

# %%
from gpt.lora import LinearWithLoRA

linear = nn.Linear(8, 4)
x = torch.randn(5, 8)                                     # (N, in)
library = LinearWithLoRA(linear, rank=2, alpha=6)
change = (library(x) - linear(x)).abs().max().item()
predict("a fresh LoRA changes the output by", 0.0, change)
#> a fresh LoRA changes the output by: predicted 0, measured 0

# %% [markdown]
# Now set $B$ to 1/2 everywhere. With r = 2 and alpha = 6 the output should move by 3 times $x A B$, and our layer, with
# the same $A$ and $B$, should agree with the library's:

# %%
tiny = TinyLoRA(linear, rank=2, alpha=6)
with torch.no_grad():
    library.lora.B.fill_(0.5)
    tiny.A.copy_(library.lora.A)
    tiny.B.copy_(library.lora.B)
A, B = library.lora.A, library.lora.B
agree("moved by 3 x A B", library(x) - linear(x), 3 * (x @ A) @ B)
agree("ours and the library's", tiny(x), library(x))

# %% [markdown]
# Here is the library's correction, a class of its own, and the line that adds it to the linear layer. (The model runs
# `forward`, shown in 6.10, which computes the same.) **You may skip** the docstrings, the line about NumPy, the two
# checks, `dropout` (off in this chapter), `delta` (6.10) and `init="blog"` (6.6). `SCALES` turns the name of a rule
# into a function of alpha and r; ours is `"alpha/r"`.

# %%
from book import show
from gpt.lora import LoRALayer

show(LoRALayer)
show(LinearWithLoRA.by_hand)

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E6.1` takes out the body of `LoRALayer.__init__`, and
# `python tests/exercises.py start E6.2` that of `LoRALayer.forward`. Write them, then run this chapter on your code.

# %% [markdown]
# ## 6.5 Putting it into a network
#
# GPT-2 has 72 linear layers inside its blocks, so we need a function that finds and replaces them. Here is a small
# network to practise on. One of its layers lies deeper than the other:

# %%
section("6.5")
toy = nn.Sequential(nn.Linear(8, 16), nn.Sequential(nn.GELU(), nn.Linear(16, 4)))
print(toy)
print(sum(p.numel() for p in toy.parameters()), "numbers, all of them trainable")
#> 212 numbers, all of them trainable

# %% [markdown]
# The function looks at each child of a module. It replaces a linear layer by a `TinyLoRA`. Any other child may have
# linear layers inside, so the function calls itself on it:

# %%
def wrap(parent, rank, alpha):
    count = 0
    for name, child in list(parent.named_children()):    # a copy: we change it
        if isinstance(child, nn.Linear):
            setattr(parent, name, TinyLoRA(child, rank, alpha))
            count += 1
        else:
            count += wrap(child, rank, alpha)
    return count

# %% [markdown]
# The order of the next two lines matters: freeze first, then wrap. The other way round, the new $A$ and $B$ would be
# frozen as well. **How many numbers will train with r = 2?** Each layer gets $r \cdot (in + out)$.

# %%
toy.requires_grad_(False)
print("layers replaced:", wrap(toy, rank=2, alpha=2))
trainable = sum(p.numel() for p in toy.parameters() if p.requires_grad)
predict("trainable", 2 * (8 + 16) + 2 * (16 + 4), trainable)
#> layers replaced: 2
#> trainable: predicted 88, measured 88

# %% [markdown]
# The old parameters have moved into `linear` and are frozen; the new ones train:

# %%
for name, p in toy.named_parameters():
    state = "trains" if p.requires_grad else "frozen"
    print(f"{name:18} {str(tuple(p.shape)):9} {state}")

# %% [markdown]
# The library's function does the same with more care. It makes all new layers first, so that an error leaves the model
# as it was. It freezes the model before it puts them in, which is our order again. It also refuses what would otherwise
# go wrong silently. For example, GPT-2's head shares its weight with the token embedding, so a LoRA merged into it
# (added to its weight, 6.10) would change both.
#
# Its helper `_linears_to_replace` walks through the model, as `wrap` does, and returns the linear layers by their
# names, such as `0.att.W_query`. `set_submodule` puts a module in the place that such a name says. In the last loop
# read only the line with `set_submodule`; the rest is for `share_a` (chapter 7). `targets=None`, as here, means every
# linear layer.

# %%
from gpt.lora import replace_linear_with_lora

show(replace_linear_with_lora)

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E6.4` takes out the body of `replace_linear_with_lora`.

# %% [markdown]
# ## 6.6 How many numbers is that for GPT-2?
#
# Let us predict it. A block of GPT-2 with $C = 768$ channels has six linear layers:
#
# | layers | shape | numbers in A and B |
# |---|---|---|
# | query, key, value, output projection | $C \times C$ | $4 \cdot r (C + C) = 8 r C$ |
# | first and second feed-forward layer | $C \times 4C$ and $4C \times C$ | $2 \cdot r (C + 4C) = 10 r C$ |
# | together | | $18 r C$ |
#
# With $r = 16$ and twelve blocks that is $12 \cdot 18 \cdot 16 \cdot 768 = 2{,}654{,}208$.
#
# For spam the model also gets a new **head** of two classes, as in chapter 5, with $2C$ weights and 2 biases. (The old
# head was the token embedding, which stays, so nothing is lost.) `blank` makes the full model without its numbers,
# which is enough for counting.

# %%
section("6.6")
from gpt.classify import swap_head
from gpt.config import GPT2_SIZES
from gpt.lora import count_parameters    # (numbers that train, all numbers)
from gpt.weights import blank

C, LAYERS = 768, 12
full_size = blank(GPT2_SIZES["gpt2-small (124M)"])
swap_head(full_size, 2)
numbers = count_parameters(full_size)[0]
predict("GPT-2 with a head for 2 classes", 124_439_808 + 2 * C + 2, numbers)
#> GPT-2 with a head for 2 classes: predicted 124,441,346, measured 124,441,346

# %% [markdown]
# A well-known recipe for this very task, in appendix E of [Raschka's book](https://github.com/rasbt/LLMs-from-scratch),
# wraps every layer without exception. So the head gets a LoRA of $r (C + 2)$ numbers, more than it has itself, and its
# own weights stay frozen. (The library allows it, because the new head shares its weight with nothing.)
# (`06b_as_published.py` repeats that recipe as a blog published it, so the code calls it `blog`.) Freeze all, then wrap
# all:

# %%
from gpt.lora import trainable_report

full_size.requires_grad_(False)
predict("trainable, all frozen", 0, count_parameters(full_size)[0])
replace_linear_with_lora(full_size, RANK, ALPHA)
blocks, numbers = LAYERS * 18 * RANK * C, count_parameters(full_size)[0]
predict("trainable, LoRA everywhere", blocks + RANK * (C + 2), numbers)
print(trainable_report(full_size))
#> trainable, all frozen: predicted 0, measured 0
#> trainable, LoRA everywhere: predicted 2,666,528, measured 2,666,528
#> trainable params: 2,666,528 || all params: 127,107,874 || trainable%: 2.0978

# %% [markdown]
# We train the head itself, because there is nothing in it to preserve, and wrap only the blocks. The function freezes
# only what it is given, so we freeze the embeddings and the last norm by hand:

# %%
full_size = blank(GPT2_SIZES["gpt2-small (124M)"]).requires_grad_(False)
swap_head(full_size, 2)                                        # the new head trains
replace_linear_with_lora(full_size.trf_blocks, RANK, ALPHA)    # the blocks alone
trainable, total = count_parameters(full_size)
predict("trainable, LoRA in the blocks", blocks + 2 * C + 2, trainable)
print(f"that is {trainable / total:.1%} of all {total:,} numbers")
#> trainable, LoRA in the blocks: predicted 2,655,746, measured 2,655,746
#> that is 2.1% of all 127,095,554 numbers

# %% [markdown]
# ## 6.7 The messages
#
# The data are those of chapter 5: SMS messages, as many ham as spam, in three splits. No two splits
# share a message with the same letters. A batch holds messages of similar length, so that little padding is needed.

# %%
section("6.7")
from gpt.batches import LABELS
from gpt.download import fetch
from gpt.spam import create_balanced_dataset, read_sms, split_without_leaks

names = list(LABELS)
messages = create_balanced_dataset(read_sms(fetch("sms")), random_state=args.seed)
splits = split_without_leaks(messages, 0.7, 0.1, seed=args.seed)
for purpose, split in zip(("train on", "validate with", "test with"), splits):
    print(f"{len(split):5,} messages to {purpose}")
#> 1,045 messages to train on
#>   149 messages to validate with
#>   300 messages to test with

# %%
from gpt.batches import BatchesByLength, padding_share
from gpt.tokenizer import gpt2_tokenizer

BATCH_SIZE, CONTEXT = 8, 256    # mini can read 256 tokens
tokenizer = gpt2_tokenizer()
train_loader = BatchesByLength(splits[0], tokenizer, BATCH_SIZE, CONTEXT,
                               seed=args.seed)
print(f"{len(train_loader)} batches; {padding_share(train_loader):.1%} is padding")
#> 131 batches; 4.4% is padding

# %% [markdown]
# `train_loader` shuffles its batches. We need three more loaders, only for measuring. A batch size of `None` fills each
# batch up to 1,024 tokens. The first loader holds only 149 of the training messages, enough to see whether the model
# has memorised them:

# %%
asked = splits[0][:len(splits[1])], splits[1], splits[2]
loaders = [BatchesByLength(split, tokenizer, None, CONTEXT) for split in asked]
print("messages to measure on:", [len(split) for split in asked])
#> messages to measure on: [149, 149, 300]

# %% [markdown]
# ## 6.8 Train
#
# Four steps make the model: load the pretrained weights, freeze them, attach a new head, and put a LoRA around each
# linear layer in the blocks. With `--quick` or `--model mini` the model is mini with its 4
# blocks of 128 channels. Otherwise it is GPT-2 124M. **How many numbers of mini will train?** The formula of 6.6 says
# $4 \cdot 18 \cdot 16 \cdot 128 + 2 \cdot 128 + 2$.

# %%
section("6.8")
model, weights = load_weights(args)
model.requires_grad_(False)
swap_head(model, len(names))
generator = torch.Generator().manual_seed(args.seed)    # for drawing the A's
replace_linear_with_lora(model.trf_blocks, RANK, ALPHA, generator=generator)
model = model.to(args.device)

# %%
C, LAYERS = model.config.emb_dim, model.config.n_layers
numbers = count_parameters(model)[0]
predict(f"trainable, {weights}", LAYERS * 18 * RANK * C + 2 * C + 2, numbers)
print(trainable_report(model))
#> trainable, mini: predicted 147,714, measured 147,714
#> trainable params: 147,714 || all params: 7,406,722 || trainable%: 1.9943

# %% [markdown]
# **You may skip** the next cell on mini. For larger models `hold` keeps the frozen weights in half the bytes, and
# `--compile` lets PyTorch rewrite the blocks (6.14).

# %%
from gpt.cost.precision import hold

hold(model, args.dtype)    # changes nothing in float32
if args.compile:
    for block in model.trf_blocks:
        block.compile(dynamic=True)    # batches differ in length

# %% [markdown]
# ### The first loss
#
# The new head starts at zero, so both classes get the score 0, and softmax gives each of them probability 1/2. The loss
# of a message is $-\ln$ of the probability of its right class: $-\ln \frac{1}{2} = \ln 2 = 0.693$, whatever the
# message. Eight are enough to see it:

# %%
from gpt.classify import calc_loss_loader

ids, lengths, labels = next(iter(loaders[1]))
eight = [(ids[:8], lengths[:8], labels[:8])]    # one batch of 8
first = calc_loss_loader(eight, model, args.device)
predict("first loss, nats per message (ln 2)", 0.6931, first, 0.001)
#> first loss, nats per message (ln 2): predicted 0.6931, measured 0.6931

# %% [markdown]
# If you see anything else here, look for the mistake before you train.
#
# ### Who moves first?
#
# In a hurry? Skip to "The settings". Nothing later depends on this.
#
# The head and all $B$'s are zero now. By 6.2 the gradient of $B$ contains $A$ and that of $A$ contains $B$. Both also
# contain the head's weight, because the loss reaches the blocks only through the head. **Which of the three moves in
# step 1, which in step 2, which in step 3?** We try three steps, and then put the old numbers back.

# %%
trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
old_numbers = {name: p.detach().clone() for name, p in trained.items()}
trial = torch.optim.AdamW(trained.values(), lr=5e-4, weight_decay=0.0)

# %% [markdown]
# One training step. It returns the names of the tensors that are different afterwards:

# %%
from gpt.classify import classifier_loss, to_device


def which_moved(batch):
    before = {name: p.detach().clone() for name, p in trained.items()}
    trial.zero_grad()
    classifier_loss(model, to_device(batch, args.device)).backward()
    trial.step()
    return [name for name, p in trained.items() if not torch.equal(p, before[name])]

# %%
from itertools import islice

for step, batch in enumerate(islice(train_loader, 3), start=1):
    counts = {"head": 0, "B": 0, "A": 0}
    for name in which_moved(batch):    # such as trf_blocks.0.att.W_query.lora.A
        counts["head" if "out_head" in name else name[-1]] += 1
    print(f"step {step}: tensors that moved: {counts}")
#> step 1: tensors that moved: {'head': 2, 'B': 0, 'A': 0}
#> step 2: tensors that moved: {'head': 2, 'B': 24, 'A': 0}
#> step 3: tensors that moved: {'head': 2, 'B': 24, 'A': 24}

# %% [markdown]
# In step 1 only the head moves (weight and bias), because a head of zeros makes every gradient in the blocks zero. In
# step 2 it is no longer zero, so the 24 $B$'s move. The $A$'s follow in step 3, because their gradient in step 2 still
# met a $B$ of zeros.

# %%
with torch.no_grad():
    for name, p in trained.items():
        p.copy_(old_numbers[name])
moved = [name for name, p in trained.items() if not torch.equal(p, old_numbers[name])]
predict("tensors still moved", 0, len(moved))
#> tensors still moved: predicted 0, measured 0

# %% [markdown]
# ### The settings
#
# | setting | why |
# |---|---|
# | only parameters that train go to AdamW | the frozen ones need no moments, which is the saving of 6.0 |
# | learning rate 5e-4 | validation loss on mini, mean of 3 seeds: 0.088; with 1.5e-4 it is 0.115, with 1.5e-3 0.098 |
# | 20 steps of warm-up, then a cosine | as in chapter 5: careful at the start, small steps at the end |
# | no weight decay | it would pull $A$ and $B$ towards zero, which means unlearning the correction |

# %%
from gpt.train import warmup_then_cosine

RECIPE = dict(learning_rate=5e-4, warmup=20, weight_decay=0.0,
              scale="alpha/r", init=None)
parameters = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=RECIPE["learning_rate"],
                              weight_decay=RECIPE["weight_decay"], fused=True)
steps = args.epochs * len(train_loader)
schedule = warmup_then_cosine(RECIPE["warmup"], steps)
print(f"{steps} steps, one per batch of {BATCH_SIZE} messages")

# %% [markdown]
# (`fused=True` computes the same step faster. `scale` and `init` are the library's defaults.)
#
# After each step `train` calls our function and hands it `progress`, its record of the run. `progress.losses` has one
# loss per step, `progress.batch` counts within the epoch, and `progress.history` is an empty list for us to fill. Twice
# per epoch our function records the loss of the validation messages, and the mean of the training losses since the last
# time. `read` says how many losses the notes have covered so far.

# %%
from statistics import mean

from gpt.classify import predict_logits
from gpt.losses import class_loss


def look(progress):
    if progress.batch in (len(train_loader) // 2, len(train_loader)):
        right, logits = predict_logits(model, loaders[1], args.device)
        accuracy = (logits.argmax(dim=1) == right).float().mean().item()
        used = progress.history[-1]["read"] if progress.history else 0
        losses = [mean(progress.losses[used:]), class_loss(logits, right).item()]
        progress.history.append(dict(step=progress.step, seen=progress.seen,
                                     read=len(progress.losses), losses=losses,
                                     accuracy=accuracy))

# %%
def tell(progress):
    accuracy = progress.history[-1]["accuracy"]
    print(f"epoch {progress.epoch}: validation accuracy {accuracy:.2%}")

# %% [markdown]
# **You may skip** the next cell. (`scaler` is None unless the type is float16, see 6.14.) A checkpoint lets you stop
# the run and go on with `--resume`, which refuses a checkpoint whose `identity` differs.

# %%
from book import run_folder

from gpt.checkpoint import Checkpoint
from gpt.cost.precision import loss_scaler

folder = run_folder(args)
identity = dict(recipe="default", weights=weights, seed=args.seed, epochs=args.epochs,
                rank=RANK, alpha=ALPHA, precision=args.precision)
scaler = loss_scaler(args.dtype, args.device)
checkpoint = Checkpoint(folder / "checkpoint.pt", model, optimizer, identity,
                        scaler=scaler, resume=args.resume)

# %% [markdown]
# Now train. This is the loop of chapter 4, with our two functions called in it:

# %%
from gpt.train import train

progress = train(model, train_loader, classifier_loss, optimizer, args.epochs,
                 device=args.device, schedule=schedule, scaler=scaler,
                 after_step=look, after_epoch=tell, checkpoint=checkpoint)
model.eval()
print(f"{progress.step} steps in {progress.seconds:.0f} s")

# %%
from book import figure

from gpt.plots import plot_values

looks = [dict(step=0, seen=0, losses=(first, first)), *progress.history]
epochs_seen = [note["step"] / len(train_loader) for note in looks]
messages_seen = [note["seen"] for note in looks]
train_losses, validation_losses = zip(*(note["losses"] for note in looks))
fig = plot_values(epochs_seen, messages_seen, train_losses, validation_losses)
figure(fig, folder, "06_losses")

# %% [markdown]
# *Both curves start at ln 2 = 0.69, where the model only guesses. The training loss is drawn too high, because each
# point is the mean over the half epoch before it, when the model knew less. With `--quick` a gap remains. After three
# epochs the two meet, so what the model has learned also holds for messages that it has not seen.*

# %% [markdown]
# ## 6.9 What came out?
#
# We compare with three methods from chapter 5 that know nothing of language. The best of them, *naive Bayes*, counts
# words. All get the same 300 test messages. (In the column *train*, LoRA has 149 messages and the others have 1,045.
# With `--quick` it is five messages better on *validation* than on *train*, which can be luck.) The range after a test
# accuracy is its 95 % interval, as in chapter 5.

# %%
section("6.9")
from gpt.classify import calc_accuracy_loader
from gpt.evaluate.baselines import baseline_table
from gpt.evaluate.metrics import classification_report, wilson_interval

baselines = baseline_table(*splits)
labels, logits = predict_logits(model, loaders[2], args.device)
test_report = classification_report(labels, logits.softmax(dim=-1), names)
accuracies = {"train": calc_accuracy_loader(loaders[0], model, args.device),
              "validation": progress.history[-1]["accuracy"],
              "test": test_report["accuracy"]}

# %%
rows = []
for row in [*baselines, {"name": f"GPT-2 {weights}, LoRA", **accuracies}]:
    low, high = wilson_interval(round(row["test"] * len(labels)), len(labels))
    rows.append((row["name"], row["test"], low, high))
    print(f"{row['name']:18} train {row['train']:7.2%}  "
          f"validation {row['validation']:7.2%}  "
          f"test {row['test']:7.2%} ({low:.1%} to {high:.1%})")

# %%
from gpt.plots import plot_accuracies

title = f"What LoRA has to beat, on {len(labels)} test messages"
figure(plot_accuracies(rows, title), folder, "06_accuracy")

# %% [markdown]
# *Test accuracy with its 95 % interval.*
#
# **So is LoRA worse than counting words?** With `--quick`, naive Bayes gets 97.3 % and mini with LoRA 96.3 %. That is a
# difference of three messages, and the intervals mostly overlap. (With `--model mini` and three
# epochs, LoRA gets 98.0 % and is two messages ahead, which means just as little.) Chapter 10 has a better test, which
# cannot tell the two apart either. Spam in this collection gives itself away by words such as *prize*, *claim* and
# *txt*. With a thousand examples there is little left for a language model to add.
#
# **What did LoRA buy, then? Cost, not accuracy.** Chapter 10 trained mini in both ways, with five seeds each. We print
# from its results file. (Other work ran beside it, so its times are longer than yours. Compare only one column with the
# other.)

# %%
import json

from book import ROOT

file = ROOT / "figures" / "results" / "10-mini-default-seed123.json"
chapter_10 = json.loads(file.read_text(encoding="utf-8"))
ways = chapter_10["results"]["balanced"]
full, lora = ways["everything"], ways["LoRA, r = 16"]
all_numbers, lora_numbers = (way["trainable_parameters"] for way in (full, lora))

# %%
def line(what, one, other):
    print(f"{what:32}{one:>12}{other:>12}")

def means(key):
    return full[key]["mean"], lora[key]["mean"]

# %%
line("mini, 1,045 messages", "everything", "LoRA")
line("numbers that train", f"{all_numbers:,}", f"{lora_numbers:,}")
one, other = means("accuracy")
line("test accuracy, mean of 5 seeds", f"{one:.1%}", f"{other:.1%}")
peak, lora_peak = means("peak_memory_bytes")
line("peak memory, MB", f"{peak / 1e6:.0f}", f"{lora_peak / 1e6:.0f}")
one, other = means("seconds_training")
line("training time, seconds", f"{one:.1f}", f"{other:.1f}")
line("file to keep, MB", f"{4e-6 * all_numbers:.1f}", f"{4e-6 * lora_numbers:.1f}")
#> numbers that train                 7,259,266     147,714

# %% [markdown]
# Chapter 10's test cannot tell these two accuracies apart, and LoRA trained 2 % of the numbers. It is faster, too,
# because frozen weights need no gradients of their own, and Adam has little to move (6.15).
#
# But peak memory did not fall to about a quarter, as in the bill of 6.0, because most of it is what Python, PyTorch and
# the forward pass need anyway. The bill of 6.0 can only predict the *difference*:

# %%
billed = 16 * all_numbers - (4 * all_numbers + 16 * lora_numbers)
idle = ways["naive Bayes"]["peak_memory_bytes"]["mean"]
print(f"saved: {(peak - lora_peak) / 1e6:.0f} MB, by the bill {billed / 1e6:.0f} MB")
print(f"Python and PyTorch without a GPT: {idle / 1e6:.0f} MB")

# %% [markdown]
# The bill explains most of the difference. (Chapter 7 predicts whole peaks.) For 124M it predicts a saving of 1.5 GB.
#
# **And when is a language model worth it?** Perhaps when examples are very few. Chapter 10 repeats the comparison with
# fewer messages. How many points is LoRA ahead of naive Bayes, and what is the 95 % interval over chapter 10's five
# seeds?

# %%
gains = chapter_10["gains"]["LoRA, r = 16 - naive Bayes"]
for n, (points, _, low, high) in gains.items():    # _: the standard deviation
    print(f"{n:>4} messages: {points:+.1f} points ({low:+.1f} to {high:+.1f})")

# %% [markdown]
# With sixteen messages LoRA is ahead, but the interval only just excludes 0. (A likely reason: sixteen messages show
# too few of the words that mean spam.) From 64 messages on the interval contains 0. With 3,912 messages, of which 13 %
# are spam, LoRA falls behind: 96.4 %, against 97.6 % for training everything and 98.7 % for naive Bayes (in chapter
# 10's table).

# %% [markdown]
# ## 6.10 Merge: the correction disappears into the weight
#
# A layer with a LoRA computes three products, $x W$, $x A$ and $(x A) B$, where a plain layer computes one. After
# training we can get rid of the other two, because
#
# $$x W + \tfrac{\alpha}{r} \, x A B = x \left( W + \tfrac{\alpha}{r} A B \right)$$
#
# Replacing $W$ by this bracket is called **merging**. Merged, a LoRA costs no time when the model is used. In
# exchange you cannot train it or swap it for another until you take it out again, which is called **unmerging**.
#
# ![Merging adds the product of A and B to W. The old W is kept, and unmerging puts it back.](diagrams/lora_merge.svg)
#
# *Merging turns three matrices into one. Unmerging puts the old one back.*
#
# First by hand, on the small layer of 6.4, and then by the library's `merge`. `nn.Linear` keeps its weight as
# $(out, in)$, so $A B$ has to be transposed:

# %%
section("6.10")
beside = tiny(x)
update = tiny.scale * (tiny.A @ tiny.B).T                           # (out, in)
merged = x @ (linear.weight + update).T + linear.bias
agree("merged by hand", merged, beside)
library.merge()
agree("merged by the library", library.eval()(x), beside)

# %% [markdown]
# They agree, up to rounding, because the operations are done in a different order. (`eval()`, because a merged layer
# refuses to train: its $A$ and $B$ would get no gradient.) The same rounding makes unmerging delicate. The obvious way
# is to subtract what was added. **Do we get the old weights back exactly?**

# %%
layer = model.trf_blocks[0].att.W_query
weight = layer.linear.weight.detach().float()
update = layer.lora.delta().detach()              # scale (A B)^T: (out, in)
there_and_back = (weight + update) - update
share = (there_and_back != weight).float().mean()
largest = (there_and_back - weight).abs().max()
print(f"{share:.0%} of the weights changed, by up to {largest:.1g}")

# %% [markdown]
# The errors are tiny. They are few, because a weight comes back wrong hardly ever unless the update is larger than it
# or changes its power of two. But after many swaps the base model would no longer be the one that you downloaded. So
# the library keeps the old weight, as `original`, and puts it back. Here is the whole class. Read the line with
# `LoRAFunction` as `return self.by_hand(x)` (6.13). **You may skip** the line with `dropped`, and all of `__init__`
# after `self.lora = ...`.

# %%
show(LinearWithLoRA)

# %% [markdown]
# Now the whole model. Merge it, ask about eight messages, unmerge it, and count the tensors that are different:

# %%
from gpt.lora import merge_lora, unmerge_lora

before = {name: p.detach().clone() for name, p in model.named_parameters()}
ids, lengths, labels = next(iter(loaders[2]))
few = [(ids[:8], lengths[:8], labels[:8])]    # one batch of 8
_, beside = predict_logits(model, few, args.device)
merge_lora(model)
_, merged = predict_logits(model, few, args.device)
tolerance = 0.001 if args.dtype == torch.float32 else 0.0625    # 1/16: see 6.14
largest = beside.abs().max().item()
agree("logits, merged", merged, beside, tolerance * (1 + largest))

# %%
unmerge_lora(model)
changed = [name for name, p in model.named_parameters()
           if not torch.equal(p, before[name])]
predict("tensors changed after unmerging", 0, len(changed))
#> tensors changed after unmerging: predicted 0, measured 0

# %% [markdown]
# The price is memory: while merged, a layer holds both weights.
#
# **Your turn.** `python tests/exercises.py start E6.3` takes out the body of `LinearWithLoRA.forward`,
# `python tests/exercises.py start E6.5` that of `merge`, and `python tests/exercises.py start E6.6` that of `unmerge`.

# %% [markdown]
# ## 6.11 Carry it away
#
# Training changed the $A$'s, the $B$'s and the head, and nothing else. A file with these is called an **adapter**. A
# small version takes six lines, because what belongs in the file is exactly what trains:

# %%
section("6.11")
from safetensors.torch import load_file, save_file


def tiny_save(model, file):
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    save_file(trained, file)

def tiny_load(model, file):
    for name, tensor in load_file(file).items():
        model.get_parameter(name).data.copy_(tensor)

# %% [markdown]
# Save, forget everything that was learned, load, and ask again:

# %%
tiny_save(model, folder / "tiny.safetensors")
for p in parameters:
    nn.init.zeros_(p)
tiny_load(model, folder / "tiny.safetensors")
_, reloaded = predict_logits(model, few, args.device)
agree("logits, reloaded", reloaded, beside, 0.0)

# %% [markdown]
# This works as long as you know what the file is for. Three things are missing. `tiny_load` needs a model that has its
# LoRA layers already, so the file should say rank and alpha. It should say what class 0 and class 1 are called. And it
# should say which base it corrects: on another base the same correction is noise. Nothing would crash, but the answers
# would be wrong.
#
# ![A large base model is stored once. Small adapter files lie on it, one per task.](diagrams/lora_adapter_file.svg)
#
# *One base, several adapters, and what such a file holds. The sizes are those of GPT-2 124M at rank 16; yours is
# smaller if you trained mini.*

# %%
from gpt.adapters import save_adapter

adapter_file = folder / "adapter.safetensors"
save_adapter(model, adapter_file, base=weights, labels=names)
numbers, size = count_parameters(model)[0], adapter_file.stat().st_size
print(f"{adapter_file.name}: {size / 1e6:.1f} MB for {numbers:,} numbers")

# %% [markdown]
# That is four bytes per number and a little text. **How many tensors should be in it?** Count an $A$ and a $B$ for each
# of six layers in each block, and the head's weight and bias:

# %%
from gpt.adapters import read_adapter

adapter, tensors = read_adapter(adapter_file)
predict("tensors in the file", 2 * 6 * LAYERS + 2, len(tensors))
#> tensors in the file: predicted 50, measured 50
for name in sorted(tensors):
    if name.startswith(("out_head", "trf_blocks.0.att.W")):    # and so on
        print(f"{name:34} {tuple(tensors[name].shape)}")

# %% [markdown]
# The text in the file comes next. The **fingerprint** is computed from all weights of the base, and changes when one of
# them does.

# %%
print("base:", adapter.base, "  labels:", adapter.labels)
print("one layer:", adapter.layers["trf_blocks.0.att.W_query"])
print("fingerprint of the base:", adapter.fingerprint[:16], "...")

# %% [markdown]
# Now we make the model the plain language model again and apply the adapter to it. `load_adapter` compares the
# fingerprints, and refuses any other base:

# %%
from gpt.adapters import load_adapter, remove_adapter    # 6.12 shows them

remove_adapter(model)
print("trainable without the adapter:", count_parameters(model)[0])
load_adapter(model, adapter_file)
_, reloaded = predict_logits(model, few, args.device)
change = (reloaded - beside).abs().max().item()
predict("the reloaded adapter changes a logit by", 0.0, change)
#> trainable without the adapter: 0
#> the reloaded adapter changes a logit by: predicted 0, measured 0

# %%
from gpt.classify import classify

texts = ["Congratulations! You have won a 2000 pound prize. "
         "Call 09061701461 now to claim.",
         "Are we still on for dinner tonight? I can bring the wine."]
for text, (label, probability) in zip(texts, classify(model, texts, tokenizer, names)):
    print(f"{label} ({probability:.1%}): {text}")

# %% [markdown]
# Last, we write down what this run was and what it gave. **You may skip** the two cells.

# %%
from book import peak_memory, report

settings = dict(epochs=FULL["epochs"]) | RECIPE
settings |= dict(rank=RANK, alpha=ALPHA, batch_size=BATCH_SIZE)
trainable, total = count_parameters(model)
run = dict(recipe="default", weights=weights, split="leak-free", n_train=len(splits[0]),
           n_validation=len(splits[1]), n_test=len(splits[2]),
           trainable_parameters=trainable, total_parameters=total, epochs=args.epochs,
           train_accuracy_of=len(asked[0]), seconds_training=progress.seconds,
           seconds_evaluating=progress.seconds_evaluating,
           peak_memory_bytes=peak_memory(args.device))

# %%
scores = {f"{split}_accuracy": accuracy for split, accuracy in accuracies.items()}
report(folder, args, **run, **scores, test=test_report, baselines=baselines,
       settings=settings)

# %% [markdown]
# ## Further: skip this on a first reading
#
# <details><summary>Question to 6.2: would A zero and B random do as well?</summary>
#
# It can learn too, by the same argument. In practice $A$ random does slightly better on average, and it tolerates
# larger learning rates (Hayou et al. 2024).
#
# </details>
#
# <details><summary>Question to 6.3: doesn't the scale change the gradient, and with it the step?</summary>
#
# It does change the gradient of $B$. But Adam's first step is the learning rate, however large the gradient is. Plain
# gradient descent does not divide. There $b_k$ moves by $-\eta s \, (x a_k) \, g$ and the output by $s \, (x a_k)$
# times that, so the sum over r terms grows as $s^2 r$, and $s = 1 / \sqrt{r}$ keeps it level. Chapter 8 compares both
# rules.
#
# </details>
#
# ## 6.12 The library's save_adapter and load_adapter
#
# They do what `tiny_save` and `tiny_load` do, and they check before they act: `save_adapter` refuses to write what
# `load_adapter` would refuse, and `load_adapter` leaves the model alone if the file does not fit.
#
# **You may skip** the docstrings, the line with `unwrapped` and the code for `dropout` or `pad_to` (06b). Without
# layers that share one $A$ (chapter 7), `owner` is always `name`. So skip `owners` and `if owner != name`, and the loop
# with `shares_a` in `load_adapter`. At its end, the head trains if the file has labels and the head has no LoRA.
#
# | helper | what it does |
# |---|---|
# | `lora_layers` | the LoRA layers, each with its name |
# | `Adapter`, `write_adapter`, `read_adapter` | the file's text as an object; write and read the file |
# | `fingerprint` | the fingerprint of the base's weights, as in 6.11 |
# | `_plain_tensors` | {name: tensor} of base and head, without LoRA and unmerged |
# | `scores_tokens` | whether the head is still the language model's |
# | `trained_besides` | the names of what else trains, which the file would lose |
# | `_check_tensors`, `refuse_to_lose_head` | raise an error if something does not fit |
# | `BadFile` | the error about a file, a kind of ValueError |
# | `naming_file` | puts the file's name in front of an error's message |
# | `remove_adapter`, `plain_head` | back to the plain language model; the head without its LoRA, if it has one |

# %%
section("6.12")
show(save_adapter)
show(load_adapter)

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E6.7` takes out the body of `save_adapter`, and
# `python tests/exercises.py start E6.8` that of `load_adapter`. They are the longest of the chapter. Begin with
# `tiny_save` and `tiny_load`, and add what the docstrings ask for.
#
# ## 6.13 A backward pass by hand
#
# `by_hand` makes three tensors of the output's width: the output of $W$, the correction, and their sum. One would be
# enough, but autograd does not know that, so the library teaches it. A `torch.autograd.Function` is an operation with
# two parts. `forward` computes the output, and saves in `ctx` what the other part will need. `backward` gets $g$, the
# gradient of the loss with respect to the output, and returns one gradient for each argument of `forward`, None where
# none is wanted. `LoRAFunction` adds the correction into the output of $W$: `addmm_(P, Q)` adds the product P Q in
# place.
#
# The gradients of $A$ and $B$ are those of 6.2, times the scale $s$. The third is that of $x$, which acts through $W$
# and through $A$. With $W$ as `nn.Linear` stores it:
#
# $$\frac{\partial L}{\partial x} = g W + s \, (g B^T) A^T$$
#
# `thin` in the listing is $s (x A)$, and `back` is $s (g B^T)$, which the gradients of $x$ and $A$ share. `read` is
# $x$, after dropout if there is any. `_rows` turns a tensor (..., n) into one of two axes, and `view` gives `out` two
# axes in the same memory, so that adding in place changes `out` itself. `ctx.needs_input_grad` says for each argument
# of `forward` whether anyone wants its gradient; `of_A` is its entry for $A$. In `forward` you may skip what stands
# before `read`, and every `.to(dtype)`, which choose a type of number. In `backward` read `not ctx.dropped` as true,
# and skip the line `back @ A.T if of_dropped`. `@once_differentiable` refuses a second derivative.

# %%
section("6.13")
from gpt.lora import LoRAFunction

show(LoRAFunction.forward)
show(LoRAFunction.backward)

# %% [markdown]
# Do its gradients agree with autograd's of `by_hand`?

# %%
library.unmerge()
A, B = library.lora.A, library.lora.B
gradients_of = {}
for form in (library.by_hand, library):
    x_copy = x.clone().requires_grad_()
    loss = form(x_copy).square().mean()
    gradients_of[form] = torch.autograd.grad(loss, [x_copy, A, B])
for name, one, other in zip(("dx", "dA", "dB"), *gradients_of.values()):
    agree(name, one, other)

# %% [markdown]
# On 124M, `by_hand` takes as long (65.3 s per epoch against 65.2), but its peak memory is 1,820 MB, not 1,445
# (figures/results/RESULTS.md, in float32, with MKL as the library for products). So what we bought is memory.
#
# **Your turn.** `python tests/exercises.py start E6.9` takes out the body of `LoRAFunction.backward`.
#
# ## 6.14 Half the bytes: bfloat16
#
# Many processors multiply **bfloat16** faster than float32. It takes 2 bytes, and it keeps only 8 binary digits. A
# frozen weight never changes, so it is rounded once. But $A$, $B$ and the head are changed by many small steps. Late in
# the cosine a step may be 0.00005, a tenth of the learning rate. **What is 0.03 plus 0.00005 in bfloat16?**

# %%
section("6.14")
number = torch.tensor(0.03, dtype=torch.bfloat16)
predict("0.03 + 0.00005 in bfloat16", 0.03, round((number + 0.00005).item(), 4))
#> 0.03 + 0.00005 in bfloat16: predicted 0.03, measured 0.03

# %% [markdown]
# The step is lost. So `hold` converts only the frozen weights, and $A$, $B$ and the head stay in float32. `--precision
# auto`, the default, uses bfloat16 on a machine that multiplies it fast. mini stays in float32, so that what this text
# says of it is true on every machine.
#
# * On 2 CPU cores an epoch of 124M takes 24.1 s in bfloat16 and 39.2 s in float32. (The 65 s of 6.13 are with MKL,
# which is slower there.) On mini, with the base held in
#   bfloat16 for this comparison only, the accuracies of five seeds are the same in both types
#   (figures/results/RESULTS.md).
# * Merging in bfloat16 rounds $W + s A B$ to 8 digits and loses the small parts of the correction, so logits may
#   differ by some per cent. That is the tolerance of 1/16 in 6.10. Unmerging is still exact.
# * **float16**, for older GPUs, has more digits and a smaller range. Small gradients would become 0 in it. The
#   `loss_scaler` multiplies the loss, and so every gradient, by a large number, and divides again before the step.
# * `--compile` takes 40 s once, and then makes a step no faster on 2 CPU cores. It may pay on a GPU; we have not
#   measured that.
#
# ## 6.15 Why LoRA is faster
#
# LoRA adds two products to each layer, and yet it trains faster. Count multiplications per token in the linear layers.
# In training a weight costs three: one in the forward pass, one for the gradient of the layer's input, one for its own
# gradient. A frozen weight has no gradient of its own, so it costs two. A block has $12 C^2$ weights and $18 r C$
# numbers of LoRA. They train, so they cost three each. So the count is $36 C^2$ when everything trains, and
# $24 C^2 + 54 r C$ with LoRA.

# %%
section("6.15")
for name, C in (("mini", 128), ("124M", 768)):
    everything, with_lora = 36 * C * C, 24 * C * C + 54 * RANK * C
    print(f"{name}: LoRA saves {1 - with_lora / everything:.0%} of the multiplications")
#> mini: LoRA saves 15% of the multiplications
#> 124M: LoRA saves 30% of the multiplications

# %% [markdown]
# The second reason is Adam, which has 2 % of the numbers to move. We timed one training step of mini on one CPU core.
# LoRA's forward pass is slower (7.9 ms against 7.0), its backward pass is faster (8.4 against 11.8), and Adam takes 0.6
# ms in place of 4.7.
#
# ## 6.16 Which mistakes does it make?
#
# The columns of this report are explained in 5.13. The last one says how the messages of each class were labelled:

# %%
section("6.16")
from gpt.evaluate.metrics import format_report

print(format_report(test_report))

# %% [markdown]
# With `--quick`, 7 of 150 ham were taken for spam and 4 of 150 spam were missed. The 7 are worse, because somebody does
# not get their mail. Chapter 10 moves the threshold.

# %% [markdown]
# ## What you have now
#
# 1. LoRA leaves $W$ frozen and trains a correction of low rank beside it: $y = x W + \frac{\alpha}{r} x A B$.
# 2. It starts with $A$ random and $B$ zero, so the model is unchanged at first and can still learn.
# 3. A layer gets $r \cdot (in + out)$ trained numbers. For GPT-2 that is 2 % of all numbers, and training needs a
# quarter of the memory for weights, gradients and moments.
# 4. On spam, with a thousand examples, no test here can tell it from training everything, or from counting words.
# 5. Merged, it costs no time in use. As an adapter it is a small file, and one base model serves many of them.
#
# ## Break it
#
# Change one thing, run the chapter with `--quick`, see whether you expected what happens, and change it back:
#
# | where | change | what you should see |
# |---|---|---|
# | `gpt/lora.py`, `__init__` | `normal_()` in place of zeros for B | 6.4 stops: a fresh LoRA moves the output |
# | 6.4, `TinyLoRA` | leave out `self.scale *` | 6.4 stops: ours and the library's differ |
# | 6.5 | swap two lines: wrap first, then freeze | 6.5 stops: 0 numbers are trainable |
# | 6.8 | `swap_head(model, len(names), zero=False)` | 6.8 stops: the first loss is not ln 2 |
# | `gpt/lora.py`, `unmerge` | subtract the update from the weight | 6.10 stops: tensors have changed |
# | `gpt/classify.py`, `class_logits` | read each row at its last position | 6.8: 95 % of validation right, not 98 % |
# | 6.11, before `load_adapter` | `model.tok_emb.weight.data[0, 0] += 1` | refused: load the same base first |
#
# ## Exercises
#
# `python tests/exercises.py list 6` lists them, and `python -m pytest --exercise E6.1` checks yours.
#
# | | function | from section |
# |---|---|---|
# | E6.1, E6.2 | `LoRALayer.__init__`, its `forward` | 6.4 |
# | E6.4 | `replace_linear_with_lora` | 6.5 |
# | E6.3, E6.5, E6.6 | `LinearWithLoRA.forward`, `merge`, `unmerge` | 6.10 |
# | E6.7, E6.8 | `save_adapter`, `load_adapter` | 6.12 |
# | E6.9 | `LoRAFunction.backward` | 6.13 |
#
# And to play with:
#
# - `python chapters/06_lora_spam.py --model mini --weights random` trains the same LoRA on a base that has never seen
#   any text. What did pretraining give?
# - `python chapters/10_believe_the_number.py --method "LoRA, r = 16" --seeds 5` trains it with five seeds. How much of
#   a difference is luck?
# - `python chapters/06b_as_published.py` repeats the published recipe. What do its choices cost?
# - `python chapters/09_your_own_data.py --text "Free entry! Text WIN to 80082"` asks the filter that you trained last.
#
# ## Further reading
#
# - Hu et al. 2021, [LoRA: Low-Rank Adaptation of Large Language Models](https://arxiv.org/abs/2106.09685). Section
#   4.1 is this chapter; section 7.2 asks how low the rank can be.
# - Aghajanyan et al. 2020, [Intrinsic Dimensionality Explains the Effectiveness of Language Model
#   Fine-Tuning](https://arxiv.org/abs/2012.13255). Why one may hope that few numbers are enough.
# - Hayou et al. 2024, [The Impact of Initialization on LoRA Finetuning Dynamics](https://arxiv.org/abs/2406.08447), on
#   $A$ or $B$ zero. Li et al. 2025, [Beyond Zero Initialization](https://arxiv.org/abs/2505.23194): both random need
#   not do harm.
# - Kalajdzievski 2023, [A Rank Stabilization Scaling Factor for Fine-Tuning with
#   LoRA](https://arxiv.org/abs/2312.03732). Argues for alpha / sqrt(r) at high ranks.
# - Dettmers et al. 2023, [QLoRA: Efficient Finetuning of Quantized LLMs](https://arxiv.org/abs/2305.14314). The
#   frozen base in 4 bits per number.
# - Raschka 2024, [Build a Large Language Model (From Scratch)](https://github.com/rasbt/LLMs-from-scratch), appendix
#   E.
