# %% [markdown]
"""
# 4  Weights: train them, load them

After this chapter you can say how good a guess is, write the training loop and its optimizer by hand, see a model
overfit, take up an interrupted run, load OpenAI's weights and prove that they are right, and choose how the next token
is drawn. You need chapter 3, derivatives and the chain rule.

- Run: `python chapters/04_weights.py`; `--full` also repeats mini's training and overwrites its file in data/mini
- Time: --quick 13 s; without a flag 24 s on mini; --full 51 min more; on 2 CPU cores (AMD EPYC), data there already
- Source: Radford et al. 2019; Loshchilov and Hutter 2017 (AdamW); Jean et al. 2015, section 3 (sampled softmax)
"""

# %%
from book import section, start

QUICK, FULL = dict(epochs=30), dict(epochs=60)    # epochs in 4.6, without --quick: FULL
args = start(__doc__, QUICK, FULL, "--model", "--full", "--resume")

# %% [markdown]
# The GPT of chapter 3 is complete, but it writes nonsense, because its weights are random. There are two ways to get
# good weights: train them, or load those that somebody else has trained. This chapter does both.
#
# ![One training step: a batch goes through the model, whose guesses are compared with the next tokens. That gives a
# loss. The gradients go back, and the optimizer changes the weights a little.](diagrams/training_step.svg)
#
# *All of training is this loop. The loss is the subject of 4.1, the gradients of 4.2, the small step of 4.3 and 4.4.
# Section 4.6 puts them together.*
#
# ## 4.1 How good is a guess?
#
# To improve a model we need one number that says how bad it is. Could we count its wrong guesses? If you change a
# weight a little, this count usually stays the same, so it cannot tell you which way to change the weight. We need a
# number that notices small improvements.
#
# So we take the probability $p$ that the model gave to the token that came, and compute $-\ln p$. This is the **loss**
# of one guess. It is 0 for $p = 1$, and it grows without limit as $p$ goes to 0. Its unit is the **nat**, because the
# logarithm is the natural one. Toss a fair coin: a good guesser gives each side 1/2. **What is the loss?**

# %%
import math

from book import predict

section("4.1")
predict("a fair coin, in nats", 0.6931, -math.log(1 / 2), 1e-4)
for p in (0.99, 0.5, 0.1, 0.001):
    print(f"what came had probability {p:5}: loss {-math.log(p):.3f} nats")
#> what came had probability 0.001: loss 6.908 nats

# %% [markdown]
# Why the logarithm? The probability of a whole text is a product: that of its first token, times that of the second
# after the first, and so on. The logarithm turns the product into a sum. So every token has a loss of its own, and we
# can take the mean. The mean of $-\ln p$ over many guesses is called the **cross-entropy**.
#
# Take a coin that shows heads three times out of four, and four guessers. The first always says that heads has
# probability 0.5, the second says 0.75, and so on. **Who has the lowest mean loss?**

# %%
for said in (0.5, 0.75, 0.9, 0.99):
    mean = 3 / 4 * -math.log(said) + 1 / 4 * -math.log(1 - said)
    print(f"says that heads has {said:4}: mean loss {mean:.3f} nats")
#> says that heads has 0.75: mean loss 0.562 nats
#> says that heads has 0.99: mean loss 1.159 nats

# %% [markdown]
# The best guesser says 0.75, which is the truth. The one who says 0.99 does worse than the one who says 0.5, because
# one time in four it pays $-\ln 0.01 = 4.6$ nats. Being sure and wrong is expensive.
#
# ### From a coin to a vocabulary
#
# A language model chooses not between two sides but among V tokens. Someone who knows nothing gives each of them 1/V
# and has the loss $-\ln(1/V) = \ln V$. Keep this number in mind: an untrained GPT-2 must start near it.

# %%
for what, V in (("coin", 2), ("die", 6), ("GPT-2's vocabulary", 50257)):
    print(f"{what:18} ln {V:6,} = {math.log(V):6.3f} nats")
#> GPT-2's vocabulary ln 50,257 = 10.825 nats

# %% [markdown]
# $e$ to the power of the loss is called the **perplexity**. A model with the perplexity 20 has the loss of someone who
# gives each of 20 tokens the same probability.
#
# A model gives scores, called **logits**, and softmax turns them into probabilities (2.2). Here are three guesses over
# a vocabulary of four tokens, and the tokens that came:

# %%
import torch

logits = torch.tensor([[2.0, 1.0, 0.0, -1.0],
                       [0.0, 0.0, 0.0, 0.0],
                       [1.0, 4.0, 0.0, 0.0]])    # (N, V) = (3, 4)
targets = torch.tensor([1, 2, 1])                # (N,): the tokens that came
p = logits.softmax(dim=-1)                       # (N, V)
for row, target in zip(p, targets):
    print([round(x, 3) for x in row.tolist()], "and token", target.item(), "came")

# %% [markdown]
# In each row we need the probability of the token that came: column 1, then column 2, then column 1. With two tensors
# as indices torch takes one number for each pair of a row and a column. **What is the perplexity of the second guess,
# whose four scores are equal?**

# %%
rows = torch.arange(3)
losses = -p[rows, targets].log()                 # (N,)
print("loss of each guess:", [round(loss, 3) for loss in losses.tolist()])
print(f"mean: {losses.mean():.3f} nats per token")
#> mean: 0.970 nats per token
predict("perplexity of the second guess", 4, losses[1].exp().item(), 1e-6)

# %% [markdown]
# There is a shorter way to the same numbers. Let $s_y$ be the score of the token that came, and $Z = \sum_v e^{s_v}$
# the sum in softmax. Then $p_y = e^{s_y} / Z$. The logarithm of a quotient is a difference, and $\ln e^{s_y} = s_y$:
#
# $$\text{loss} = -\ln p_y = \ln Z - s_y$$
#
# torch computes $\ln Z$ as `logsumexp`, which also works where $e^{s}$ would be too large for a float. The library's
# function, printed below, has two lines. `gather` does what `p[rows, targets]` did. It wants the columns as (N, 1), and
# `targets[:, None]` has this shape.

# %%
from book import agree, show
from torch.nn import functional as F

from gpt.losses import cross_entropy_by_hand

show(cross_entropy_by_hand)
by_library = cross_entropy_by_hand(logits, targets)
agree("softmax, then log, and the library's", losses.mean(), by_library)
agree("softmax, then log, and torch's", losses.mean(), F.cross_entropy(logits, targets))

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E4.1` takes out the body of `cross_entropy_by_hand`;
# `python -m pytest --exercise E4.1` checks yours, also with scores that are too large for `exp`.
#
# ## 4.2 Which way is downhill?
#
# Now we know how bad a guess is. Which scores should be higher, and which lower? The **gradient** says, for each score,
# how fast the loss grows when that score grows. We differentiate $\ln Z - s_y$ with respect to one score $s_i$:
#
# 1. The derivative of $\ln Z$ is $1/Z$ times the derivative of $Z$. In the sum $Z$ only the term $e^{s_i}$ contains
#    $s_i$, and its derivative is $e^{s_i}$. That makes $e^{s_i} / Z$, which is $p_i$.
# 2. The derivative of $-s_y$ is $-1$ if $i$ is the token that came, and 0 if it is not.
#
# $$\frac{\partial\,\text{loss}}{\partial s_i} = p_i - t_i \qquad t_i = 1 \text{ for the token that came, else } 0$$
#
# So the token that came gets $p - 1$, and every other token gets $p$: **probability minus truth**. In our first guess
# token 1 came. **Which of its four gradients is negative?**

# %%
section("4.2")
truth = F.one_hot(targets[:1], 4)    # (1, V): 1 for the token that came
gradient = p[:1] - truth             # (1, V)
print("probability", [round(x, 3) for x in p[0].tolist()])
print("truth      ", truth[0].tolist())
print("gradient   ", [round(x, 3) for x in gradient[0].tolist()])

# %% [markdown]
# Only that of token 1. Raising its score lowers the loss. Raising any other score raises the loss, most of all that of
# token 0, which had got the most probability.
#
# torch finds gradients by itself. It notes every operation and applies the chain rule backwards, from the loss to the
# numbers that it was computed from. This is called **backpropagation**, and the part of torch that does it is
# **autograd**. Mark a tensor with `requires_grad_()`, call `backward()` on the loss, and find the result in `.grad`:

# %%
scores = logits[:1].clone().requires_grad_()    # (1, V)
F.cross_entropy(scores, targets[:1]).backward()
agree("gradient by hand and autograd", gradient, scores.grad)

# %% [markdown]
# In a GPT the chain rule goes back through many more operations, and it begins with probability minus truth.
#
# ## 4.3 From a gradient to a step
#
# A positive gradient says that the loss grows when the number grows. So we go the other way and subtract a small
# multiple of the gradient. This is **gradient descent**, and the multiple is the **learning rate**.
#
# $$w \leftarrow w - \text{rate} \cdot \frac{\partial\,\text{loss}}{\partial w}$$
#
# Take one number $w$ and the loss $(w - 3)^2$, which is smallest at $w = 3$. Its derivative is $2 (w - 3)$. We start at
# $w = 0$ with a rate of 0.1. The derivative there is $-6$, so $w$ goes to $0 + 0.1 \cdot 6 = 0.6$. **Where does the
# second step lead?**

# %%
section("4.3")

def descend(rate, steps, w=0.0):
    path = [w]
    for _ in range(steps):
        w = w - rate * 2 * (w - 3)    # against the gradient
        path.append(round(w, 2))
    return path

predict("w after two steps: 0.6 + 0.1 · 2 · 2.4", 1.08, descend(0.1, 2)[2], 1e-6)
print("rate 0.1:", descend(rate=0.1, steps=5))
print("rate 1.1:", descend(rate=1.1, steps=5))
#> rate 0.1: [0.0, 0.6, 1.08, 1.46, 1.77, 2.02]
#> rate 1.1: [0.0, 6.6, -1.32, 8.18, -3.22, 10.46]

# %% [markdown]
# With 0.1, $w$ comes nearer to 3 at each step. With 1.1 each step jumps over 3 and lands further away than before. This
# is called **divergence**.
#
# In torch, an **optimizer** does the step. The simplest, `SGD`, does just what we did. We apply it to the scores of
# 4.2, whose gradient autograd has already computed:

# %%
before = scores.detach().clone()
torch.optim.SGD([scores], lr=0.1).step()
agree("step by hand and SGD", before - 0.1 * gradient, scores.detach())
new_loss = F.cross_entropy(scores, targets[:1])
print(f"loss {losses[0]:.3f} -> {new_loss.item():.3f} nats")
#> loss 1.440 -> 1.341 nats

# %% [markdown]
# ## 4.4 AdamW: a step size for each parameter
#
# Gradient descent has two weaknesses in a GPT. Some parameters have large gradients and others tiny ones, so one
# learning rate is too large for some and too small for others. And each batch of text gives a somewhat different
# gradient. **AdamW**, the optimizer of all our chapters, deals with both. For each parameter it keeps two running
# averages, called **moments**. Let $g$ be the gradient of the new batch:
#
# * $m \leftarrow 0.9\,m + 0.1\,g$ is an average of the gradients. It smooths out what differs from batch to batch.
# * $v \leftarrow 0.999\,v + 0.001\,g^2$ is an average of their squares. Its square root says how large the gradients of
#   this parameter usually are.
#
# The step is the learning rate times $m / \sqrt{v}$. If you multiply all gradients of a parameter by 1000, $m$ and
# $\sqrt{v}$ both grow by 1000, and its steps stay as they were.
#
# One correction is needed. Both averages start at 0, so at first they are too small. After the first step $m$ is only
# $0.1\,g$. If the gradient stays the same, $m$ is $0.9 \cdot 0.1\,g + 0.1\,g = 0.19\,g$ after two steps, which is
# $(1 - 0.9^2)\,g$, and $(1 - 0.9^t)\,g$ after $t$ steps. So we divide $m$ by $1 - 0.9^t$ and $v$ by $1 - 0.999^t$.
#
# The W stands for **weight decay**: each step also pulls every weight a little towards 0, so that a weight stays large
# only if the gradients keep it there. Here is the whole update:

# %%
section("4.4")

def adamw_step(w, g, m, v, t, lr=0.1, decay=0.01):
    """One step, number t from 1: the new w, m and v."""
    m = 0.9 * m + 0.1 * g                  # running average of the gradient
    v = 0.999 * v + 0.001 * g**2           # running average of its square
    m_full = m / (1 - 0.9**t)              # as if it had not started from 0
    v_full = v / (1 - 0.999**t)
    w = w - lr * decay * w                 # weight decay
    w = w - lr * m_full / (v_full.sqrt() + 1e-8)    # 1e-8: no division by 0
    return w, m, v

# %% [markdown]
# In the first step `m_full` is the gradient $g$, and the square root of `v_full` is $|g|$, its size without the sign.
# Their quotient is 1 or -1. So each number moves by the whole learning rate, up or down. Our four gradients are 0.644,
# -0.763, 0.087 and 0.032. **What does a first step without decay do to the four scores?**

# %%
w = logits[:1].clone()    # (1, V)
stepped, _, _ = adamw_step(w, gradient, m=0.0, v=0.0, t=1, decay=0.0)
moves = [round(move, 4) for move in (stepped - w)[0].tolist()]
predict("the first step", [-0.1, 0.1, -0.1, -0.1], moves)
#> the first step: predicted [-0.1, 0.1, -0.1, -0.1], measured [-0.1, 0.1, -0.1, -0.1]

# %% [markdown]
# All four move by 0.1, although the gradients differ more than twentyfold. Now five steps by hand, with decay. The
# gradient is that of 4.2, computed anew before each step:

# %%
m, v = 0.0, 0.0
for t in range(1, 6):
    p_now = w.softmax(dim=-1)    # (1, V)
    print(f"step {t}: loss before it {-p_now[0, 1].log().item():.3f} nats")
    w, m, v = adamw_step(w, p_now - truth, m, v, t)

# %% [markdown]
# And the same five steps with torch's optimizer:

# %%
by_torch = logits[:1].clone().requires_grad_()
optimizer = torch.optim.AdamW([by_torch], lr=0.1, weight_decay=0.01)
for _ in range(5):
    optimizer.zero_grad()
    F.cross_entropy(by_torch, targets[:1]).backward()
    optimizer.step()
agree("five steps of AdamW, by hand and torch's", w, by_torch.detach())

# %% [markdown]
# Why `zero_grad()`? Because `backward()` **adds** to the gradients that are there already. Without it each step would
# use the sum of all gradients so far. And note the price of AdamW: $m$ and $v$ are two more numbers for each parameter.
#
# <details><summary>Question: the gradients of one parameter are 1, 1, 1, ..., those of another 1, -1, 1, -1, ... Which
# moves further?</summary>
#
# The first. Both have $v = 1$ (after the correction). But in the second the signs cancel in $m$, so its steps become
# small. AdamW goes far only where the gradients agree on a direction.
#
# </details>
#
# ## 4.5 A page to learn from, and what to beat
#
# What is missing is a text. We take a single Wikipedia article, about the European lobster, because then training takes
# seconds.

# %%
from gpt.applications.pretrain import read_wikitext
from gpt.batches import encode_documents
from gpt.download import fetch
from gpt.tokenizer import gpt2_tokenizer

section("4.5")
tokenizer = gpt2_tokenizer()
article = read_wikitext(fetch("wikitext-2/valid.raw.gz"))[0]
ids = encode_documents([article], tokenizer)    # (N,); the first is <|endoftext|>
print(f"{len(ids):,} tokens, beginning {tokenizer.decode(ids[1:15].tolist())!r}")

# %% [markdown]
# A model can learn a text by heart. How would we notice? We call the first four fifths of the article *the page* and
# train on it. The last fifth is *the rest*. It is **held out**: the model is not trained on it. The loss on the page is
# the **training loss**. The loss on the rest is the **validation loss**. It says how well the model does on text that
# is new to it.
#
# To keep the model small we number the article's tokens anew, from 0 to V - 1. (`unique` does it.) Then we cut both
# parts into rows of T + 1 tokens and drop the few that are left over. Why one more than T? In a row *a b c d* the model
# reads *a b c* and has to guess *b c d*. With T = 32 a row has 33 tokens and holds 32 guesses.

# %%
vocabulary, renumbered = ids.unique(return_inverse=True)    # (V,) GPT-2's; (N,) ours
V, T, cut = len(vocabulary), 32, 1640    # 1640: four fifths of 2,051

def rows_of(tokens):
    count = len(tokens) // (T + 1)
    return tokens[:count * (T + 1)].view(count, T + 1)      # (rows, T + 1)

page, rest = rows_of(renumbered[:cut]), rows_of(renumbered[cut:])
print(f"{V} different tokens; rows: {len(page)} to train on, {len(rest)} held out")
#> 772 different tokens; rows: 49 to train on, 12 held out

# %% [markdown]
# What would be a good loss? We need something to compare with, a **baseline**. Someone who knows nothing gets ln V.
# Someone who counts how often each token occurs on the page, and always gives these shares as probabilities, should do
# better. This is called a **unigram** model. **How much better is it on the rest?** (We add 1 to each count, because a
# token of probability 0 would make the loss infinite.)

# %%
counts = torch.bincount(renumbered[:cut], minlength=V) + 1        # (V,)
page_shares = counts / counts.sum()                               # (V,)
counting_losses = -page_shares[rest[:, 1:]].log()    # (rows, T): each token's own share
counting = counting_losses.mean().item()
print(f"knowing nothing, ln V: {math.log(V):.2f} nats; counting: {counting:.2f} nats")
#> knowing nothing, ln V: 6.65 nats; counting: 6.23 nats

# %% [markdown]
# Counting gains little. One reason is that many tokens of the last fifth do not occur on the page at all, so nobody can
# learn them there. We therefore also look at the *known* tokens alone, those that do occur on it:

# %%
known = torch.isin(rest[:, 1:], page)    # (rows, T)
print(f"{known.float().mean():.0%} of the tokens to guess are known; "
      f"counting, on these alone: {counting_losses[known].mean():.2f} nats")
#> 57% of the tokens to guess are known; counting, on these alone: 5.03 nats

# %% [markdown]
# ## 4.6 The training loop
#
# First we need the loss of each guess in a batch. `flatten` lays all rows of the batch end to end, because
# `cross_entropy` wants the shapes (N, V) and (N,). With `reduction="none"` it gives all N losses and not their mean.

# %%
section("4.6")

def token_losses(model, rows):
    """The loss of each guess in a batch of rows: (B, T + 1) -> (B * T,)."""
    logits = model(rows[:, :-1])                     # (B, T, V): read all but the last
    guesses, targets = logits.flatten(0, 1), rows[:, 1:].flatten()    # (N, V), (N,)
    return F.cross_entropy(guesses, targets, reduction="none")        # (N,)

# %% [markdown]
# A fresh GPT has small random weights, so its scores are all near 0. **What is its loss?** Look at this first in every
# training run: a first loss far from ln V means a bug.

# %%
from gpt.config import GPTConfig
from gpt.model import GPTModel

def fresh_model():
    config = GPTConfig(V, T, emb_dim=64, n_heads=4, n_layers=2)
    return GPTModel(config, torch.Generator().manual_seed(args.seed))

model = fresh_model()
with torch.no_grad():
    first_loss = token_losses(model, page).mean().item()
predict("first loss (ln V)", math.log(V), first_loss, 0.02)

# %% [markdown]
# After each pass through the text we measure three losses: on the page, on the rest, and on the known tokens of the
# rest. (`no_grad` tells autograd to note nothing.)

# %%
@torch.no_grad()
def three_losses(model):
    on_page = token_losses(model, page).mean()
    on_rest = token_losses(model, rest)              # (rows * T,)
    on_known = on_rest[known.flatten()].mean()
    return on_page.item(), on_rest.mean().item(), on_known.item()

# %% [markdown]
# And this is the loop. Read it against the picture at the top. One pass through the text is called an **epoch**.
# `AdamW` gets all parameters of the model and keeps $m$ and $v$ for each; 3e-3 is the learning rate. `history` is for
# us. Training does not need it.

# %%
def tiny_train(model, batches, epochs):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for epoch in range(epochs):
        batches.set_epoch(epoch)                      # another order in each epoch
        for rows in batches:                          # (B, T + 1)
            loss = token_losses(model, rows).mean()   # forward
            optimizer.zero_grad()                     # forget the old gradients
            loss.backward()                           # backward
            optimizer.step()                          # a small step
        history.append(three_losses(model))
    return history

# %% [markdown]
# `TextWindows` makes the batches, eight rows each. It cuts the training text into rows of T + 1 tokens, in an order and
# with a starting point that the seed and the epoch decide. (`page` is cut always in the same way, so that we can
# compare losses.) **Will the validation loss fall below the 6.23 of counting?**

# %%
from gpt.batches import TextWindows

batches = TextWindows(renumbered[:cut], T, batch_size=8, seed=args.seed)
history = tiny_train(model, batches, args.epochs)
for epoch in (1, 2, 5, 10, 20, 30):
    on_page, on_rest, _ = history[epoch - 1]
    print(f"epoch {epoch:2}: training loss {on_page:.2f}, validation {on_rest:.2f}")

# %% [markdown]
# After ten epochs it has. What happens then is the subject of 4.7.
#
# ## 4.7 It learns, then it memorises
#
# The training loss goes on falling. The validation loss first falls, by and large, and then it **rises**. We draw both.
# (`run_folder` says where the files of this run go.)

# %%
from book import figure, run_folder

from gpt.plots import plot_text_losses

section("4.7")
folder = run_folder(args)
steps = [len(batches) * epoch for epoch in range(1, args.epochs + 1)]
page_losses, rest_losses, known_losses = zip(*history)    # three columns
levels = {"ln V": math.log(V), "counting": counting}
fig = plot_text_losses(steps, page_losses, rest_losses, levels,
                       "It learns, then it learns by heart")
figure(fig, folder, "04_overfitting")

# %% [markdown]
# *Solid: the training loss. Dashed: the validation loss. The dot is its lowest point.*
#
# At first the model learns things that hold for both parts, for example which tokens are frequent and which follow each
# other. More and more it also learns the page by heart, and after the dot this does more harm than the rest does good.
# It becomes sure of things that are true of the page only, and being sure and wrong is expensive, as with the coin.
# This is called **overfitting**. To stop at the dot is called **early stopping**.

# %%
best = rest_losses.index(min(rest_losses))
print(f"validation loss turns at step {steps[best]} of {steps[-1]}: "
      f"{rest_losses[best]:.2f} nats, then up to {rest_losses[-1]:.2f}")
print(f"training loss meanwhile: {page_losses[best]:.2f}, then {page_losses[-1]:.2f}")
print(f"known tokens at the turn: {known_losses[best]:.2f} nats; "
      f"counting {counting_losses[known].mean():.2f}")

# %% [markdown]
# Is 5.90 against the 6.23 of counting a success? A small one, and partly luck, because we chose the lowest of many
# measurements. On the known tokens the gain is larger: 4.03 against 5.03 nats. (Part of it is the 1 that we added to
# each count. With 0.01 counting gets 4.80.) So the model has learned more than how frequent each token is. The other
# tokens do not occur on the page, and no training on it can teach them. The cure is more text.
#
# What does the model write at the end? We give it the first eight tokens of the page and take the most probable next
# token each time. **Does it recite the page?**

# %%
from gpt.generate import generate

written = generate(model, page[:1, :8], 24)[0]    # (T,)
print(repr(tokenizer.decode(vocabulary[written].tolist())))

# %% [markdown]
# With `--quick`, *divided into four genetically distinct population* and *although hybrids are unlikely* are pieces of
# two different sentences of the article, and the many = come from its headings. The model has memorised them and glues
# them together.
#
# ## 4.8 Interrupted, and taken up again
#
# In a hurry? Skip to 4.11. The sections between are about files: how to go on with a run, and how to load OpenAI's.
#
# Long runs get interrupted: the power fails, or you press Ctrl-C. Suppose that you have saved the weights. **What else
# does a run need to go on exactly as if nothing had happened?**
#
# It needs AdamW's $m$ and $v$, and it must know how far it had come. A file with the weights and all of this is called
# a **checkpoint**. We save one by hand between two epochs. First the inner loop of `tiny_train` by itself:

# %%
section("4.8")

def fresh_run():
    model = fresh_model()
    return model, torch.optim.AdamW(model.parameters(), lr=3e-3)

def one_epoch(model, optimizer, epoch):
    batches.set_epoch(epoch)
    for rows in batches:
        optimizer.zero_grad()
        token_losses(model, rows).mean().backward()
        optimizer.step()

# %% [markdown]
# One run makes two epochs without a break. Another stops after the first and writes a file. `state_dict()` is a dict of
# all tensors that a model, or an optimizer, holds. For each weight the file has $m$ and $v$ too. **How many times as
# large as the weights is it?**

# %%
unbroken, optimizer = fresh_run()
one_epoch(unbroken, optimizer, 0)
one_epoch(unbroken, optimizer, 1)

stopped, optimizer = fresh_run()
one_epoch(stopped, optimizer, 0)
state = {"weights": stopped.state_dict(), "optimizer": optimizer.state_dict(),
         "epoch": 1}    # the next one
torch.save(state, folder / "by_hand.pt")

# %%
weight_bytes = sum(p.nbytes for p in stopped.parameters())
file_bytes = (folder / "by_hand.pt").stat().st_size
predict("checkpoint's bytes / weights' bytes", 3, file_bytes / weight_bytes, 0.1)

# %% [markdown]
# Then a new process would start: a fresh model and a fresh optimizer, filled from the file. We resume twice, once with
# the optimizer's state and once with the weights alone. **Which of the two ends with the weights of the unbroken run?**

# %%
def resume(with_optimizer):
    state = torch.load(folder / "by_hand.pt")
    model, optimizer = fresh_run()
    model.load_state_dict(state["weights"])
    if with_optimizer:
        optimizer.load_state_dict(state["optimizer"])
    one_epoch(model, optimizer, state["epoch"])
    return model

# %%
from torch.nn.utils import parameters_to_vector

wanted = parameters_to_vector(unbroken.parameters())    # all parameters in one row
both = parameters_to_vector(resume(True).parameters())
agree("weights and optimizer from the file", wanted, both, tolerance=0.0)
weights_only = parameters_to_vector(resume(False).parameters())
off = (wanted - weights_only).abs().max().item()
print(f"weights only: largest difference {off:.1g}")

# %% [markdown]
# With the optimizer's state every number is the same. With the weights alone, AdamW starts again from $m = v = 0$, and
# the run ends with other weights.
#
# ### The library's train()
#
# The library's `train` is `tiny_train` with a step of its own. It adds a progress bar, a file from which a run goes on,
# and functions of ours that it calls after each step or epoch. Its step has the four lines of our inner loop:
# `scaler.scale(loss).backward()` is our `loss.backward()`, and `scaler.step(optimizer)` is our `optimizer.step()`. The
# other lines with `scaler` matter only to a model that computes in float16 (chapter 6). Two things are new. If the loss
# is infinite or `nan` (not a number), no step is made, because one such step would make every weight `nan`. And `clip`
# limits the length of the gradient (4.13).

# %%
from gpt.train import train, training_step

show(training_step)

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E4.2` takes out the body of `training_step`;
# `python -m pytest --exercise E4.2` checks yours. Begin with our four lines.
#
# Does `train` train as ours does? We make two epochs with each and compare the losses. `train` takes the loss function
# as an argument. `next_token_loss` is the library's `token_losses(...).mean()`, computed in pieces (4.14).

# %%
from gpt.losses import next_token_loss

ours = tiny_train(fresh_model(), batches, 2)
by_train, optimizer = fresh_run()
noted = []
def note_losses(progress):    # how far the run has come: not needed here
    noted.append(three_losses(by_train))

train(by_train, batches, next_token_loss, optimizer, epochs=2, after_epoch=note_losses)
agree("losses by tiny_train and train", torch.tensor(ours), torch.tensor(noted))

# %% [markdown]
# With the library's `Checkpoint` a run can be stopped after any step, not only between epochs. It also keeps the state
# of the random numbers. And it writes a new file beside the old one and then swaps the two, because the power may fail
# while a file is being written.
#
# We train three times for two epochs: once undisturbed, once with a power cut after step 5, and once resumed from the
# second run's file. `every=0.0` saves after each step, once `after_step` has been called. So step 4 is the last in the
# file. (The dict says what run this is, so that nobody resumes another one by mistake.)

# %%
from gpt.checkpoint import Checkpoint

def run_with_file(name, resume=False, after_step=None):
    model, optimizer = fresh_run()
    checkpoint = Checkpoint(folder / name, model, optimizer, {"seed": args.seed},
                            resume=resume, every=0.0)
    train(model, batches, next_token_loss, optimizer, 2,
          checkpoint=checkpoint, after_step=after_step)
    return model

# %%
class PowerCut(Exception):
    pass

def cut_at_step_5(progress):
    if progress.step == 5:
        raise PowerCut

undisturbed = run_with_file("undisturbed.pt")
try:
    run_with_file("crashed.pt", after_step=cut_at_step_5)
except PowerCut:
    print("power cut after step 5, before it was saved")

# %% [markdown]
# **In how many tensors does the resumed run differ from the undisturbed one?**

# %%
resumed = run_with_file("crashed.pt", resume=True)
different = 0
for one, other in zip(resumed.parameters(), undisturbed.parameters()):
    different += not torch.equal(one, other)
predict("tensors in which the resumed run differs, even by one bit", 0, different)
#> tensors in which the resumed run differs, even by one bit: predicted 0, measured 0

# %% [markdown]
# Step 5 was lost and done again, and not one bit is different. (This holds on one and the same CPU. Another machine may
# add in another order and round differently.) One more thing was needed: the resumed process must find the batches in
# the same order. In `TextWindows` it depends on the seed and the epoch alone.
#
# ## 4.9 OpenAI's file: names and tensors
#
# One page is not enough to write well. OpenAI trained GPT-2 on 40 GB of text and published the weights, as TensorFlow
# checkpoints (files of weights alone are called so, too). How do we get them into our model? We look at a tiny file of
# the same format, filled with random numbers, so that you need no download. `open_checkpoint` turns it into a dict from
# names to arrays. (4.16 looks at the bytes.)

# %%
from book import ROOT

from gpt.storage.openai_checkpoint import open_checkpoint

section("4.9")
TINY = ROOT / "tests" / "fixtures" / "openai_tiny"
theirs = {}
for name, array in open_checkpoint(TINY).items():
    theirs[name] = torch.from_numpy(array)
    if not name.startswith(("model/h1", "model/h2")):
        print(f"{name:24} {array.shape}")
#> model/h0/attn/c_attn/w   (1, 48, 144)

# %% [markdown]
# Of the three blocks only block 0 is printed. C is 48 here. `wte` is the token table and `wpe` the position table. `h0`
# is block 0, `ln_1` and `ln_2` are its LayerNorms (`g` is the scale, `b` the shift), `attn` is the attention and `mlp`
# the feed-forward part (its two layers are in the picture below). Three things differ from our model:
#
# 1. **Names.** `model/h0/ln_1/g` is our `trf_blocks.0.norm1.scale`.
# 2. **Linear weights are transposed.** OpenAI computes $x W$ with $W$ of shape (in, out). `nn.Linear` computes $x W^T$
#    and holds (out, in). Their shape also has a 1 in front: (1, in, out).
# 3. **Query, key and value stand side by side** in one matrix `c_attn`, with C rows and 3 C columns.
#
# ![A table with OpenAI's tensors on the left and ours on the right. c_attn is cut into W_query, W_key and W_value, and
# each is transposed. The other linear weights are transposed. Norms, biases and tables only get new
# names.](diagrams/openai_tensors.svg)
#
# *What a loader has to do.*
#
# For `c_attn` that is one line. `[0]` drops the 1, `.T` transposes, and `tensor_split(3)` cuts the rows into three
# equal parts. **What is the shape of each part?**

# %%
c_attn = theirs["model/h0/attn/c_attn/w"]                # (1, C, 3 C)
W_query, W_key, W_value = c_attn[0].T.tensor_split(3)    # (C, C) each: (out, in)
print(f"c_attn {tuple(c_attn.shape)} -> three of {tuple(W_query.shape)}")
#> c_attn (1, 48, 144) -> three of (48, 48)
up = theirs["model/h0/mlp/c_fc/w"][0].T                  # (4 C, C): (out, in)
print("feed-forward, the first of its two weights:", tuple(up.shape))
#> feed-forward, the first of its two weights: (192, 48)

# %% [markdown]
# The library's `from_openai` does this for all tensors. `our_name` looks up the new name in a table. The line with
# `re.search` finds the linear weights (those of `att` and `ff`), and `.t()` is `.T`. The lines with `pieces` cut the
# weight and the bias of `c_attn` in three, and `ours |= pieces` adds them to the dict `ours`. Skip the last `if`: it
# refuses a file that has a tensor twice.

# %%
from gpt.weights import from_openai

show(from_openai)

# %% [markdown]
# `load_openai` calls it and fills a model. Does it get the same tensors as we did by hand?

# %%
from gpt.weights import load_openai

model = load_openai(TINY)
block = model.trf_blocks[0]
agree("W_query", W_query, block.att.W_query.weight.detach())
agree("W_value", W_value, block.att.W_value.weight.detach())
agree("feed-forward, first weight", up, block.ff.layers[0].weight.detach())

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E4.6` takes out the body of `from_openai`;
# `python -m pytest --exercise E4.6` checks yours.
#
# ## 4.10 A check that passes on wrong weights
#
# A model with one wrong matrix still runs and still writes something, so we have to check. The obvious check is that
# all shapes fit. **Suppose that we forget to transpose `W_query`. Does this check notice?**

# %%
section("4.10")
query = block.att.W_query.weight.data    # (C, C), the model's own memory
not_transposed = c_attn[0, :, :48]       # (C, C)
print(f"wanted {tuple(query.shape)}, got {tuple(not_transposed.shape)}: no complaint")
#> wanted (48, 48), got (48, 48): no complaint

# %% [markdown]
# It does not, because the matrix is square. What does notice is a comparison of logits with those of another program
# that has loaded the same file. The GPT-2 of a widely used library, Hugging Face's transformers, computed logits from
# our tiny file. They are stored beside it. We compare ours with them, once as loaded and once with `W_query` not
# transposed.

# %%
import numpy as np

stored = np.load(TINY / "oracle.npz")
batch = torch.tensor(stored["tokens"])      # (B, T)
wanted = torch.tensor(stored["logits"])     # (B, T, V)
with torch.no_grad():
    agree("transposed", model(batch), wanted, 1e-4)
    query[:] = not_transposed
    wrong = (model(batch) - wanted).abs().max().item()
    query[:] = W_query    # and back again
print(f"not transposed: largest difference {wrong:.1g}")

# %% [markdown]
# Loaded correctly, the two programs agree up to rounding. With one matrix turned the wrong way they do not. So compare
# **outputs**, not shapes.
#
# ## 4.11 Trained weights at work
#
# Now real weights. `load_weights` loads the model that `--model` names. OpenAI's go through `from_openai`. With
# `--quick` it is mini, a small GPT-2 of ours, whose file is part of this repository (4.15 says how it was trained).
# Always taking the most probable token is called **greedy** decoding. (If you run the chapter with OpenAI's 124M, the
# last two lines compare its text with that of Raschka's book.)

# %%
from book import load_weights

from gpt.tokenizer import text_to_token_ids, token_ids_to_text

section("4.11")
model, weights = load_weights(args)
prompt = text_to_token_ids("Every effort moves you", tokenizer)    # (1, T)
written = generate(model, prompt, 25)[0, prompt.shape[1]:]         # (25,)
written = token_ids_to_text(written, tokenizer)
print(f"{weights}: Every effort moves you ->{written!r}")
published = " forward.\n\nThe first step is to understand the importance of your work"
if weights == "gpt2-small (124M)":
    predict("as published", published, written[:70])

# %% [markdown]
# Mini is small and goes round in circles. Back to the lobster. Mini has never seen this article, while our model of 4.6
# was trained on four fifths of it. Our rows hold numbers from 0 to V - 1. `vocabulary` turns them into GPT-2's, which
# mini reads. Of its 50,257 logits we keep those of the article's V tokens, so that both models choose among the same.
# **Which is better on the last fifth?**

# %%
with torch.no_grad():
    logits = model(vocabulary[rest[:, :-1]])    # (rows, T, 50257)
ours_alone = logits[:, :, vocabulary]           # (rows, T, V): the article's tokens
guesses, answers = ours_alone.flatten(0, 1), rest[:, 1:].flatten()    # (N, V), (N,)
losses = F.cross_entropy(guesses, answers, reduction="none")          # (N,)
print(f"last fifth: counting {counting:.2f}, our small GPT at its best "
      f"{rest_losses[best]:.2f}, {weights} {losses.mean():.2f} nats")
print(f"its known tokens: counting {counting_losses[known].mean():.2f}, our small GPT "
      f"{known_losses[best]:.2f}, {weights} {losses[known.flatten()].mean():.2f} nats")

# %% [markdown]
# With `--quick` it is mini, by 1.1 nats per token. A part of this comes from the tokens that do not occur on the page,
# which only mini can have met. On the known tokens mini is ahead by 0.5 nats. To train on much text first, whatever its
# subject, is called **pretraining**. Chapter 10 measures what it is worth to a spam filter.
#
# ## 4.12 Choosing the next token
#
# In a hurry? Go on with chapter 5. It scores texts and writes none.
#
# A model gives every token a probability. Which token do we write? The greedy choice repeated itself. The alternative
# is to **sample**: draw at random, each token with its probability. Then another danger appears. Most of the 50,257
# tokens do not fit. Each of them is improbable, but together they have so much probability that one is drawn now and
# then. So we change the distribution before we draw, in one of three common ways.
#
# Say that the text is *The cat sat on the*, and that the vocabulary has five tokens:

# %%
section("4.12")
tokens = ["roof", "mat", "the", "sofa", "moon"]
scores = torch.tensor([1.0, 3.0, -1.0, 2.0, 0.0])    # (V,)
p = scores.softmax(dim=-1)                           # (V,)
for token, score, probability in zip(tokens, scores, p):
    print(f"{token:4}  score {score:4.1f}  probability {probability:.3f}")
#> mat   score  3.0  probability 0.636

# %% [markdown]
# **Temperature** divides the scores before the softmax. At 0.5 all scores double, so $e^s$ becomes $e^{2s}$, which is
# $(e^s)^2$. In other words each probability is squared, and then all are divided by their sum. Likely tokens get
# likelier. Above 1 the distribution gets flatter. **What does *mat* get at 0.5?**

# %%
def temperature(t):
    return (scores / t).softmax(dim=-1)

by_hand = p**2 / (p**2).sum()
predict("mat at temperature 0.5", by_hand[1].item(), temperature(0.5)[1].item(), 1e-4)
#> mat at temperature 0.5: predicted 0.8647, measured 0.8647

# %% [markdown]
# **Top-k** keeps the k most probable tokens and removes the others. What is kept is divided by its sum, so that it sums
# to 1 again.

# %%
def top_k(k):
    least = p.sort(descending=True).values[k - 1]    # the k-th largest probability
    kept = torch.where(p >= least, p, 0.0)
    return kept / kept.sum()

print("top-k 2:", [round(x, 3) for x in top_k(2).tolist()])
#> top-k 2: [0.0, 0.731, 0.0, 0.269, 0.0]

# %% [markdown]
# **Top-p** (also: nucleus sampling) chooses k by itself. It goes down the list, the most probable token first, until
# the sum reaches a limit, such as 0.9. It keeps few tokens where the model is sure, and many where it is not. *mat* and
# *sofa* have 0.636 + 0.234 = 0.870. **How many tokens does top-p 0.9 keep?**

# %%
def top_p(limit):
    ordered = p.sort(descending=True).values
    before = ordered.cumsum(dim=0) - ordered    # what the more probable ones have
    k = int((before < limit).sum())             # not enough yet: keep this one too
    return top_k(k)

predict("tokens kept by top-p 0.9", 3, int((top_p(0.9) > 0).sum()))
#> tokens kept by top-p 0.9: predicted 3, measured 3

# %% [markdown]
# Here is the same distribution, treated in four ways:

# %%
from gpt.plots import plot_distributions

greedy = F.one_hot(p.argmax(), 5)
ways = {"greedy": greedy, "temperature 0.5": temperature(0.5),
        "top-k 2": top_k(2), "top-p 0.9": top_p(0.9)}
figure(plot_distributions(tokens, p, ways), folder, "04_sampling")

# %% [markdown]
# *One distribution (the grey outlines) and what four ways make of it (blue). Temperature changes the odds and keeps
# every token. Top-k and top-p remove the tail and keep the odds among the rest.*
#
# The library's `choose` does all of it for a batch. It sorts the scores first, so top-k is a slice, and top-p needs
# only a running sum. `multinomial` draws a place in the sorted row, and `order.gather` says which token stands there.
# The first lines refuse `nan`. A temperature below `COLD`, which is nearly 0, means greedy. `promote_types` is for
# models that compute in 16 bits.

# %%
from gpt.generate import choose

show(choose)

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E4.4` takes out the body of `choose`;
# `python -m pytest --exercise E4.4` checks yours.
#
# Do 10,000 draws have the shares that we computed? We allow a difference of 0.02. (The standard deviation of such a
# share is at most 0.005.)

# %%
def drawn_shares(**settings):
    generator = torch.Generator().manual_seed(args.seed)
    drawn = choose(scores.expand(10_000, 5), **settings, generator=generator)
    return drawn.flatten().bincount(minlength=5) / 10_000    # (V,)

agree("greedy", greedy, drawn_shares(temperature=0.0), 0.0)
agree("temperature 0.5", temperature(0.5), drawn_shares(temperature=0.5), 0.02)
agree("top-k 2", top_k(2), drawn_shares(temperature=1.0, top_k=2), 0.02)
agree("top-p 0.9", top_p(0.9), drawn_shares(temperature=1.0, top_p=0.9), 0.02)

# %% [markdown]
# ### In a real model
#
# Now 50,257 tokens and our prompt. How much probability do the 100 best tokens have, and how much is left for the
# 50,157 others?

# %%
last = model(prompt)[0, -1].detach()    # (V,): the scores of the next token
for t in (0.5, 1.0, 2.0):
    probabilities = (last / t).softmax(dim=-1)                       # (V,)
    ordered = probabilities.sort(descending=True).values
    print(f"temperature {t}: the 100 best tokens have {ordered[:100].sum():.0%}")

# %% [markdown]
# At temperature 2, mini's 100 best tokens have 12 %. So nearly nine draws in ten would come from the others. **What
# will its text look like?**

# %%
all_settings = [dict(temperature=0.0), dict(temperature=0.5),
                dict(temperature=1.0), dict(temperature=2.0),
                dict(temperature=1.0, top_k=40), dict(temperature=1.0, top_p=0.9)]
for settings in all_settings:
    generator = torch.Generator().manual_seed(args.seed)
    ids = generate(model, prompt, 16, **settings, generator=generator)
    print(f"{settings}\n    {token_ids_to_text(ids[0], tokenizer)!r}")

# %% [markdown]
# Greedy repeats itself, and at temperature 2 the text falls apart. The others lie between, and none of them makes mini
# a good writer. Each text is a single draw, so try several seeds before you prefer one of the ways.
#
# ## Further: skip this on a first reading
#
# The next four sections are for the curious. Where a later chapter clips gradients or uses a schedule, it refers to
# 4.13.
#
# ## 4.13 Clipping and a schedule
#
# **Gradient clipping**: now and then a strange batch has a huge gradient, and one huge step can ruin a model. So we
# compute the length of the gradient of all parameters together, its **norm**. If it is above a limit, we shorten the
# gradient to the limit and keep its direction. **What becomes of (3, 4) if the limit is 1?**

# %%
from torch.nn.utils import clip_grad_norm_

section("4.13")
weight = torch.zeros(2, requires_grad=True)
weight.grad = torch.tensor([3.0, 4.0])
predict("norm, sqrt(9 + 16)", 5.0, clip_grad_norm_([weight], max_norm=1.0).item(), 1e-6)
agree("clipped: (3/5, 4/5)", torch.tensor([0.6, 0.8]), weight.grad)

# %% [markdown]
# A **schedule** changes the learning rate during training. AdamW's first step moves each weight by the whole learning
# rate, although it has seen only one batch. So the rate grows over the first steps, which is called **warm-up**. Near
# the end we want small steps, because large ones keep jumping over the goal. So the rate then falls along half a
# cosine. Take 10 steps of warm-up and 100 in all. The rate is multiplied by a factor:
#
# * Warm-up: 1/10 for the first step, 2/10 for the second, up to 1.
# * Then $(1 + \cos \pi f) / 2$, where $f$ is the share done of the way from step 10 to step 100.
#
# **What is the factor when 55 steps are done?** `warmup_then_cosine` returns a function that takes the number of steps
# done and returns the factor.

# %%
from gpt.train import warmup_then_cosine

factor = warmup_then_cosine(warmup=10, total=100)
predict("none done, first step of the warm-up: 1 / 10", 0.1, factor(0), 1e-6)
predict("55 steps done, f = 1/2: (1 + 0) / 2", 0.5, factor(55), 1e-6)
show(warmup_then_cosine)    # `last` is where the cosine ends, here 0

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E4.3` takes out the body of `warmup_then_cosine`;
# `python -m pytest --exercise E4.3` checks yours.
#
# What do they gain here? We repeat the first ten epochs of 4.6 with each, with both and with neither.

# %%
def ten_epochs(clip, schedule):
    model, optimizer = fresh_run()
    train(model, batches, next_token_loss, optimizer, 10, clip=clip, schedule=schedule)
    return three_losses(model)[1]

falling = warmup_then_cosine(warmup=10, total=10 * len(batches))
variants = {"neither": (None, None), "clipping": (1.0, None),
            "schedule": (None, falling), "both": (1.0, falling)}
for name, (clip, schedule) in variants.items():
    print(f"{name:8} validation loss {ten_epochs(clip, schedule):.2f}")

# %% [markdown]
# One seed proves nothing, so we repeated this with ten, 123 to 132. How much lower than with neither is the loss?
#
# | | mean of ten seeds, nats | 95 % interval |
# |---|---|---|
# | clipping | 0.21 | 0.07 to 0.36 |
# | schedule | 0.11 | -0.03 to 0.26 |
# | both | 0.15 | 0.00 to 0.30 |
#
# So clipping gains a little here. But its purpose is another: in a long run on all kinds of text a gradient may be a
# hundred times too long, and one step must not ruin the work of days.
#
# ## 4.14 Sampled softmax: a poll in place of a census
#
# The last layer of a GPT, the head, computes V scores per token. That takes C · V multiplications, and a block takes
# about $12\,C^2$ (3.6). V does not shrink with the model. So in a small model most of the work is in the head. (We
# leave out the products of queries and keys.)

# %%
from gpt.config import GPT2_SIZES

section("4.14")
for name, size in GPT2_SIZES.items():
    head = size.vocab_size                        # times C
    blocks = 12 * size.emb_dim * size.n_layers    # times C
    print(f"{name}: {head / (head + blocks):.0%} of the work per token is in the head")
#> mini: 89% of the work per token is in the head

# %% [markdown]
# The loss is $\ln Z - s_y$ (4.1). The score $s_y$ is one number. The expensive part is $Z$, the sum of $e^s$ over all
# tokens. A poll can estimate such a sum. It asks a few people and lets each answer count for many. If a person had the
# chance $\pi$ of being asked, the answer counts $1/\pi$ times. For example, a person with $\pi = 1/4$ is asked in one
# poll of four, and counts four times there. On average over many polls that is once, so the total is right.
#
# Take six tokens, and polls of three draws. A draw misses a token of frequency $q$ with probability $1 - q$, three
# draws miss it with probability $(1 - q)^3$, so $\pi = 1 - (1 - q)^3$.

# %%
scores = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, 0.0])
frequency = torch.tensor([0.40, 0.25, 0.05, 0.05, 0.15, 0.10])
generator = torch.Generator().manual_seed(args.seed)
drawn = torch.multinomial(frequency, 3 * 20_000, replacement=True, generator=generator)
drawn = F.one_hot(drawn.view(20_000, 3), 6)       # (20000, 3, 6)
asked = drawn.amax(dim=1)                         # (20000, 6): 1 if any draw asked it
pi = 1 - (1 - frequency)**3
polls = (asked * scores.exp() / pi).sum(dim=1)    # (20000,): one estimate of Z per poll
predict("Z, mean of 20,000 polls", scores.exp().sum().item(), polls.mean().item(), 0.01)

# %% [markdown]
# The library's `sampled_softmax_loss` asks the tokens that came in the batch, because it needs their scores anyway, and
# those of 4,096 draws. They stand for all 50,257. Since $e^s / \pi = e^{s - \ln \pi}$, it subtracts $\ln \pi$ from the
# scores and goes on as usual. How near does this come to the exact loss? We compare on four rows of mini's training
# text. (257 is 256 tokens and the one after. `shares` counts how frequent each token is.)

# %%
from gpt.applications.pretrain import read_mini_texts, shares
from gpt.weights import load_gpt2

documents = None if args.full else 600
training, held_out = read_mini_texts(tokenizer, documents=documents)
mini = load_gpt2("mini")
rows = training[:4 * 257].view(4, 257).long()    # (B, T + 1)
unigram = shares(training, 50_257)               # (V,)

# %%
from gpt.losses import sampled_softmax_loss

estimates = []
with torch.no_grad():
    exact = next_token_loss(mini, rows).item()
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        estimate = sampled_softmax_loss(mini, rows, unigram, 4096, generator)
        estimates.append(estimate.item())
predict("mini's loss, exact and by 10 polls", exact, sum(estimates) / 10, 0.03)

# %% [markdown]
# The estimate is 0.05 too high here. A likely reason: the batch's own tokens are asked in every poll, but are weighted
# as if they too had been drawn.
#
# ### The exact loss, in pieces
#
# The head costs memory too. The logits of 32 rows of 128 tokens are 4,096 · 50,257 floats, which is 0.8 GB, and their
# gradients take as much again. So `next_token_loss` runs the head on 1,024 tokens at a time. `model.hidden` gives the
# vectors before the head, and `_chunk_loss` gives the sum of the losses of one piece. torch's `checkpoint` (no relation
# to ours of 4.8) calls it and does not keep the piece's logits. It computes them a second time in the backward pass. It
# pays time for memory. Skip the `else`, which is for chapter 7.

# %%
show(next_token_loss)

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E4.7` takes out the body of `next_token_loss`;
# `python -m pytest --exercise E4.7` checks yours.
#
# ## 4.15 How mini was trained
#
# Mini has read Wikipedia articles, which are edited prose, and newsgroup posts, which are people talking, as text
# messages are. It was trained by `train`, with AdamW, clipping and the schedule of 4.13. The first phase, four epochs,
# uses the sampled softmax. The second, 100 steps, scores all tokens.
#
# `--full` repeats the whole training, and `--full --resume` goes on with an interrupted one. Without it we take a few
# steps on the first 600 documents of each kind, to see that it works. (The settings say how many batches each phase has
# per epoch, None for all, and on how many windows of held-out text we measure.) **What is the loss before the first
# step?**

# %%
section("4.15")
AS_SHIPPED = dict(epochs=4, sampled_batches=None, full_batches=100, batch_size=16,
                  windows=150)
A_FEW_STEPS = dict(epochs=1, sampled_batches=15, full_batches=2, batch_size=8,
                   windows=4)
how = AS_SHIPPED if args.full else A_FEW_STEPS
model = GPTModel(GPT2_SIZES["mini"], torch.Generator().manual_seed(args.seed))
model = model.to(args.device)

# %%
from gpt.applications.pretrain import text_losses

before = text_losses(model, held_out, how["windows"])
for name, loss in before.items():
    predict(f"untrained, {name} (ln 50,257)", math.log(50257), loss, 0.01)

# %%
from gpt.applications.pretrain import pretrain

size = "full" if args.full else "few-steps"
mini_folder = folder.parent / f"mini-default-{size}-seed{args.seed}"
phases = pretrain(model, training, held_out, **how, seed=args.seed,
                  folder=mini_folder, resume=args.resume)
for phase, done in phases.items():
    speed = 256 * done.seen / done.seconds
    print(f"{phase}: {256 * done.seen:,} tokens, {speed:,.0f} tokens per second")

# %% [markdown]
# The two speeds show what the sample buys. What has training achieved, here and in the whole run, whose results we keep
# in a file?

# %%
import json

file = ROOT / "figures" / "results" / "04-mini-full-seed123.json"
shipped = json.loads(file.read_text(encoding="utf-8"))
after = text_losses(model, held_out, how["windows"])
for name, loss in after.items():
    print(f"{name}: {before[name]:.2f} nats per token before, {loss:.2f} after "
          f"(mini as shipped: {shipped['validation_loss'][name]:.2f})")
print(f"as shipped: {shipped['training_tokens'] / 1e6:.1f} million tokens of text, "
      f"{shipped['tokens_seen'] / 1e6:.1f} million read, "
      f"{shipped['seconds_training'] / 60:.0f} minutes")
#> as shipped: 6.4 million tokens of text, 25.9 million read, 51 minutes

# %% [markdown]
# Mini as shipped has 5.2 on articles that it has not read, a perplexity of $e^{5.2} \approx 180$. That is a weak model,
# made in 51 minutes on two CPU cores.
#
# Last, the weights go into a file, and what they cost into another. There is nothing to learn from this cell.

# %%
from book import report

from gpt.weights import MINI, save_model

tokens_seen = 256 * sum(done.seen for done in phases.values())
save_model(model, MINI if args.full else mini_folder / "model.safetensors",
           torch.float16, tokens_seen=tokens_seen,
           command="python chapters/04_weights.py --full")
report(mini_folder, args, tokens_seen=tokens_seen, training_tokens=len(training),
       untrained_loss=before, validation_loss=after,
       seconds_training=sum(done.seconds for done in phases.values()))

# %% [markdown]
# ## 4.16 OpenAI's file, byte by byte
#
# How does `open_checkpoint` (4.9) know where each tensor stands, and would it notice a damaged download? OpenAI's index
# file is a table. Its last 48 bytes, the **footer**, say where everything else is. They end with eight bytes that are
# always the same, so that a reader knows the format.

# %%
section("4.16")
data = (TINY / "model.ckpt.index").read_bytes()
print(data[-48:-40].hex(" "), "...", data[-8:].hex(" "))
#> 84 0a 08 91 0a 0f 00 00 ... 57 fb 80 8b 24 75 47 db

# %% [markdown]
# The numbers are **varints**: 7 bits per byte, the lowest first. The top bit of a byte is set if more bytes follow. So
# small numbers take one byte. `84 0a` is 4 (with the top bit) and then 10, which makes $4 + 10 \cdot 128 = 1284$. The
# footer begins with four such numbers: offset and size of one block, then those of the index block.

# %%
from gpt.storage.openai_checkpoint import read_footer

numbers, number, place = [], 0, 0
for byte in data[-48:-42]:                  # the six bytes before the zeros
    number += byte % 128 * 128**place       # without the top bit
    place += 1
    if byte < 128:                          # the last byte of this number
        numbers.append(number)
        number, place = 0, 0
predict("offset and size of two blocks", (numbers[:2], numbers[2:]), read_footer(data))

# %% [markdown]
# **Your turn.** The library reads these numbers with `varint`, which also refuses damaged bytes.
# `python tests/exercises.py start E4.5` takes out its body; `python -m pytest --exercise E4.5` checks yours.
#
# From the footer `read_index` finds the entries of the table. Each says where a tensor stands in the data file:

# %%
from gpt.storage.openai_checkpoint import read_index

entry = read_index(TINY / "model.ckpt.index")["model/h0/attn/c_attn/w"]
print(entry)
#> Entry(shape=(1, 48, 144), dtype=1, shard=0, offset=576, size=27648, crc32c=362784987)

# %% [markdown]
# The type 1 is float32, and 27,648 bytes are $48 \cdot 144$ floats of 4 bytes. The last number is a **checksum**, a
# number computed from bytes. It changes if any single bit of them changes, so a damaged download is noticed. This one
# is called crc32c. (`masked` rotates its bits and adds a constant, because the file stores it in this form.)

# %%
from gpt.storage.crc32c import crc32c, masked

all_numbers = (TINY / "model.ckpt.data-00000-of-00001").read_bytes()
stored = bytearray(all_numbers[entry.offset:entry.offset + entry.size])
predict("its checksum", entry.crc32c, masked(crc32c(stored)))
floats = np.frombuffer(stored, "<f4")       # 4 bytes each, the lowest first
by_hand = torch.from_numpy(floats).view(1, 48, 144)    # (1, C, 3 C)
agree("c_attn, read by hand and by the library", by_hand, c_attn, 0.0)

# %% [markdown]
# ## What you have now
#
# 1. The loss is the mean of $-\ln p$ of the tokens that came, in nats per token. Knowing nothing costs ln V.
# 2. Its gradient with respect to the scores is probability minus truth. AdamW divides the gradient by its usual size.
# 3. The training loop is twelve lines. The validation loss shows when the model stops learning and starts to memorise.
# 4. A checkpoint holds weights, moments, counters and random state, so a resumed run equals an undisturbed one.
# 5. You can load OpenAI's weights, and prove it by comparing outputs. Temperature, top-k and top-p shape what is drawn.
#
# Chapter 5 takes a pretrained model and teaches it to recognise spam.
#
# ## Break it
#
# Change one thing, run the chapter with `--quick`, see whether you expected what happens, and change it back.
#
# | where | change | what you should see |
# |---|---|---|
# | 4.4, `adamw_step` | leave out `/ (1 - 0.9**t)` | 4.4 stops: the first step is 0.01 long, not 0.1 |
# | 4.6, `token_losses` | targets not shifted, `rows[:, :-1]` | 4.6 stops: first loss 5.9, not 6.65 |
# | 4.6, `tiny_train` | leave out `zero_grad()` | 4.7: training loss 7.3 at the end, not 1.0; 4.8 stops |
# | `gpt/train.py`, `training_step` | leave out `zero_grad()` | 4.8 stops: `tiny_train` and `train` disagree |
# | `gpt/losses.py`, `next_token_loss` | targets not shifted, `batch[:, :-1]` | 4.8 stops: they disagree, by 1.8 nats |
# | `gpt/checkpoint.py`, `_put_back` | leave out `load_state_dict` | 4.8 stops: all 36 tensors differ |
# | `gpt/weights.py`, `from_openai` | leave out `tensor.t()` | 4.9 stops, names 15 tensors, not out_proj: it is square |
# | 4.12, `top_p` | `before = ordered.cumsum(dim=0)` | 4.12 stops: it keeps 2 tokens, which have only 0.87 |
# | `gpt/generate.py`, `choose` | `before = probabilities.cumsum(dim=-1)` | 4.12 stops: `choose` and `top_p` differ |
# | `gpt/losses.py`, `sampled_softmax_loss` | leave out `- log_pi` | 4.14 stops: the polls say 5.32, not 4.96 |
#
# ## Exercises
#
# `python tests/exercises.py list 4` lists them, and `python -m pytest --exercise E4.1` checks yours. Here they stand in
# the order of the sections.
#
# | id | function | after |
# |---|---|---|
# | E4.1 | `cross_entropy_by_hand` | 4.1 |
# | E4.2 | `training_step` | 4.8 |
# | E4.6 | `from_openai` | 4.9 |
# | E4.4 | `choose` | 4.12 |
# | E4.3 | `warmup_then_cosine` | 4.13 |
# | E4.7 | `next_token_loss` | 4.14 |
# | E4.5 | `varint` | 4.16 |
#
# And to play with: without `--quick` the page is read 60 times. How high does the validation loss rise? And which
# numbers change with `--quick --seed 1`?
#
# ## Further reading
#
# * Radford et al. 2019, [Language Models are Unsupervised Multitask
#   Learners](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf).
#   GPT-2.
# * Kingma and Ba 2014, [Adam: A Method for Stochastic Optimization](https://arxiv.org/abs/1412.6980), and Loshchilov
#   and Hutter 2017, [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101). Section 4.4.
# * Loshchilov and Hutter 2016, [SGDR](https://arxiv.org/abs/1608.03983). The cosine of 4.13.
# * Holtzman et al. 2019, [The Curious Case of Neural Text Degeneration](https://arxiv.org/abs/1904.09751). Top-p.
# * Jean et al. 2015, [On Using Very Large Target Vocabulary for Neural Machine
#   Translation](https://arxiv.org/abs/1412.2007). Section 3 is the idea of 4.14.
# * Karpathy 2019, [A Recipe for Training Neural Networks](https://karpathy.github.io/2019/04/25/recipe/). Habits that
#   save days.
# * LevelDB's [table format](https://github.com/google/leveldb/blob/main/doc/table_format.md). Section 4.16.
