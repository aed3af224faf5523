# %% [markdown]
"""
# 2  Attention: each token chooses what it reads

After this chapter you can work out attention in your head, with loops and with matrices, write it as a module of about
twenty lines, and test that no token sees the future. You need chapter 1, matrix products and e^x. Section 2.6 also
uses the variance and a derivative.

- Run: `python chapters/02_attention.py`
- Time: --quick 8 s; full 21 s, on 2 CPU cores (AMD EPYC), the data there already; --device is not used
- Source: Vaswani et al. 2017, section 3.2; Michel et al. 2019 (taking heads away)
"""

# %%
from book import section, start

QUICK, FULL = dict(messages=50), dict(messages=200)
args = start(__doc__, QUICK, FULL)

# %% [markdown]
# This picture is the whole idea. A token (here *bank*) has a **query**, which says what it looks for. Every token has a
# **key**, which says what it can be found by, and a **value**, which it hands over.
#
# ![The query of bank meets three keys, which gives the scores ln 2, 0 and 0. Softmax makes them the weights 2/4, 1/4
# and 1/4, and these mix three values into (5, 3).](diagrams/one_query.svg)
#
# *The query meets three keys. Each meeting gives a score, the scores become weights, and the weights mix the values.
# (Section 2.2 explains ln 2 and softmax.)*
#
# Sections 2.1 to 2.4 build the picture from right to left: first the average of the values, then the weights, last the
# keys and queries.
#
# ## 2.1 Why a token has to read its neighbours
#
# Read these two texts: *the river bank*, *the savings bank*. You see at once that the two banks are different things.
# The vectors of chapter 1 cannot show it. Each is a row of the token table plus a row of the position table. *bank* is
# the same token in both texts and stands at the same position, so it gets the same vector.
#
# GPT-2's vectors have 768 channels without names. We make tiny vectors by hand, with two channels: how much a token has
# to do with **water**, and how much with **money**.

# %%
import torch

section("2.1")
table_row = {"the": [0.0, 0.0], "river": [8.0, 0.0],
             "savings": [0.0, 8.0], "bank": [4.0, 4.0]}
for text in ("the river bank", "the savings bank"):
    print(f"{text!r}: (water, money) of bank = {table_row['bank']}")

# %% [markdown]
# One row has to serve both meanings, so *bank* is half water and half money. What decides the meaning is another token:
# *river* or *savings*. So *bank* has to read its neighbours. The simplest way is to average the vectors of all tokens.

# %%
def average(words):
    vectors = torch.tensor([table_row[word] for word in words])    # (T, C)
    return vectors.mean(dim=0)                                     # (C,)

for text in ("the river bank", "the savings bank"):
    water, money = average(text.split()).tolist()
    print(f"{text!r}: average water {water:.2f}, money {money:.2f}")

# %% [markdown]
# The first text has more water, the second more money. But an average has two faults.
#
# **Every token counts the same.** *the* counts as much as *river*. Put *river* at the start of a text of 100 tokens,
# *bank* at its end, and 98 times *the* between them. **How much more water than money is in the average?**
# (The last argument of `predict` is the tolerance, as a share of the prediction.)

# %%
from book import predict

long_text = ["river"] + 98 * ["the"] + ["bank"]
water, money = average(long_text).tolist()
predict("more water than money, 100 tokens", (8 + 4 - 4) / 100, water - money, 1e-5)

# %% [markdown]
# With three tokens the difference was 2.67. With a hundred, the one word that mattered has drowned.
#
# **Every token gets the same average.** But *the* has no meaning to settle and should stay as it is.
#
# We want an average in which some tokens count more than others, and each token should choose for itself which ones.
# That is **attention**.
#
# ## 2.2 A weighted average that you can do in your head
#
# Take the text *The river washed the savings onto the bank*. To keep it small, *bank* looks at three tokens only:
# *river*, *savings* and itself. The vectors that we average are called **values**. Here they are the vectors of 2.1:
# (8, 0), (0, 8) and (4, 4).
#
# Suppose that we already know how well each token fits what *bank* looks for. Such a number is called a **score**. Let
# the scores be ln 2 for *river*, 0 for *savings* and 0 for *bank*. (With ln 2 you need no calculator.) Two steps turn
# scores into weights:
#
# 1. Take $e$ to the power of each score: $e^{\ln 2} = 2$, $e^0 = 1$, $e^0 = 1$.
# 2. Divide each by their sum, which is 4. The weights are 2/4, 1/4, 1/4.
#
# The two steps together are called **softmax**, and the results are the **attention weights**. They are shares:
# positive, with the sum 1. **Before you run the cells: what is the weighted average of the three values?**

# %%
import math

section("2.2")
scores = [math.log(2), 0.0, 0.0]    # for river, savings, bank
exponentials = [math.exp(score) for score in scores]
weights = [e / sum(exponentials) for e in exponentials]
predict("weights", [2 / 4, 1 / 4, 1 / 4], weights)
#> weights: predicted [0.5, 0.25, 0.25], measured [0.5, 0.25, 0.25]

# %%
values = torch.tensor([[8.0, 0.0], [0.0, 8.0], [4.0, 4.0]])    # river, savings, bank
output = weights[0] * values[0] + weights[1] * values[1] + weights[2] * values[2]
predict("(8·2/4 + 0·1/4 + 4·1/4, 0·2/4 + 8·1/4 + 4·1/4)", [5.0, 3.0], output.tolist())

# %% [markdown]
# *bank* came in as (4, 4) and leaves as (5, 3): it has read *river*.
#
# ### Why $e^x$?
#
# Could we not simply divide the scores by their sum? A score may be negative. The scores 3, -1 and -1 have the sum 1,
# so the "shares" would be 3, -1 and -1. With 1, 0 and -1 we would even divide by 0. A power of $e$ is always positive.
#
# There is a second reason. Add the same number to all scores: every exponential grows by the same factor, and the
# division cancels it. So only the **differences** between scores matter. A score that is higher by ln 2 always means
# twice the weight.
#
# ### Where does a score come from?
#
# It compares the query of the token that looks with the key of the token that is looked at. The score is their **dot
# product**: multiply them channel by channel, then add. It is large if both have large numbers of the same sign in the
# same places, and negative if most signs differ. So it measures how well a key matches a query.
#
# Let the query of *bank* be (1, 0). Because of the 0 it ignores the second place of a key. We choose the keys so that
# the scores come out as before: their first places are ln 2, 0 and 0, and their second places should not matter.

# %%
def dot(a, b):
    return sum(x * y for x, y in zip(a, b))

query = torch.tensor([1.0, 0.0])    # of bank
keys = torch.tensor([[math.log(2), 5.0], [0.0, 3.0], [0.0, -1.0]])
for word, key in zip(("river", "savings", "bank"), keys):
    print(f"score of {word} for bank: {dot(query, key):.4f}")

# %% [markdown]
# These are the scores that we began with. Now all steps go into one function, attention for one query. In its shapes, D
# is the number of channels of a query, and S is the number of tokens that are looked at.

# %%
def attend(query, keys, values):
    """Attention for one query (D,): keys and values (S, D), output (D,)."""
    scores = [dot(query, key) for key in keys]
    exponentials = [math.exp(score) for score in scores]
    weights = [e / sum(exponentials) for e in exponentials]
    return sum(weight * value for weight, value in zip(weights, values))

predict("attend gives for bank", [5.0, 3.0], attend(query, keys, values).tolist())
#> attend gives for bank: predicted [5.0, 3.0], measured [5.0, 3.0]

# %% [markdown]
# ## 2.3 All queries at once
#
# *river* and *savings* have queries too. We stack the queries of all T tokens as the rows of a matrix $Q$, the keys as
# the rows of $K$ and the values as the rows of $V$. All three are (T, D), here (3, 2).
#
# This time queries and keys get a meaning. A key says how much its token has to do with water and with money. A query
# says how much its token looks for them: *river* looks for neither, *savings* for money, *bank* for water. (We chose
# that to have something to see. In a model, training decides what a token looks for.)

# %%
section("2.3")
words = ["river", "savings", "bank"]
Q = torch.tensor([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0]])    # (T, D)
K = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])    # (T, D)
V = values                                                # (T, D)

# %% [markdown]
# We need the dot product of every query with every key. That is what a matrix product does: the number in row $t$ and
# column $j$ of $Q K^T$ is row $t$ of $Q$ times row $j$ of $K$. (`.T` turns the rows of $K$ into columns.) `table`
# prints a matrix with names.

# %%
import pandas as pd

def table(title, matrix, rows, columns):
    frame = pd.DataFrame(matrix.tolist(), rows, columns)
    print(f"{title}\n{frame.round(3).to_string()}\n")

scores = Q @ K.T    # (T, T)
table("scores: a row for each token that looks", scores, words, words)

# %% [markdown]
# Read the last row. *bank* has the query (2, 0). With the key of *river*, (1, 0), that makes 2. With *savings* it makes
# 0, and with its own key, (0.5, 0.5), it makes 1.
#
# Each row is one query, so softmax works along each row. `dim=-1` names the axis that runs along a row. **What is the
# weight of *bank* on *river*?**

# %%
weights = scores.softmax(dim=-1)    # (T, T)
table("weights: each row sums to 1", weights, words, words)
predicted = math.e**2 / (math.e**2 + 1 + math.e)
predict("bank on river, e^2 / (e^2 + e^0 + e^1)", predicted, weights[2, 0].item(), 1e-5)

# %% [markdown]
# The row of *river* is even: its query is (0, 0), so all of its scores are equal.
#
# The last step is a matrix product too. Row $t$ of weights times $V$ is the row's first weight times the first value,
# plus its second weight times the second value, and so on. That is the weighted average of 2.2, for token $t$.

# %%
outputs = weights @ V    # (T, D)
table("output of attention", outputs, words, ["water", "money"])

# %% [markdown]
# `Q @ K.T`, `softmax` and `@ V` have replaced all loops. Do they compute the same? `agree` prints the largest
# difference between two tensors and stops the chapter if it is above 0.00001. Exactly 0 would be too much to ask,
# because the two ways add in different orders and round at about the seventh digit.

# %%
from book import agree

by_loops = torch.stack([attend(query, K, V) for query in Q])    # (T, D)
agree("loops and matrices", by_loops, outputs)

# %% [markdown]
# ## 2.4 Three roles, three vectors
#
# Where do queries, keys and values come from? Chapter 1 gives each token one vector, which we call $x$. (In code, `x`
# is the table with one such row per token.) Could $x$ play all three roles by itself? Let us try, on *the river bank
# flooded*. To see what happens, we take vectors that say nothing but where a token stands: 2 at its own place, 0
# elsewhere.

# %%
section("2.4")
words = ["the", "river", "bank", "flooded"]
x = 2 * torch.eye(4)    # (T, C)
table("scores if x is both query and key", x @ x.T, words, words)
weights = (x @ x.T).softmax(dim=-1)
predicted = math.exp(4) / (math.exp(4) + 3)
measured = weights.diagonal().mean().item()
predict("weight on itself, e^4 / (e^4 + 3)", predicted, measured, 1e-4)
#> weight on itself, e^4 / (e^4 + 3): predicted 0.9479, measured 0.9479

# %% [markdown]
# Two things are wrong.
#
# 1. **Every token matches itself best.** Among vectors of the same length none has a larger dot product with $x$ than
#    $x$ itself. So each token reads itself, here with 95 % of its weight, and hardly its neighbours.
# 2. **The table is symmetric.** The score of *bank* for *river* equals the score of *river* for *bank*, because
#    $a \cdot b = b \cdot a$. But *bank* needs *river* to get its meaning, and *river* does not need *bank*.
#
# A token plays three roles. *bank* looks for the word that settles its meaning (query). It can be found by *flooded*,
# which looks for what was under water (key). And it tells those who find it what it means (value). So we make three
# vectors from each $x$, with three matrices:
#
# $$q = x\,W_{query} \qquad k = x\,W_{key} \qquad v = x\,W_{value}$$
#
# In a model these matrices are **learned**: training finds their numbers (chapter 4). To see what they can do, we set
# them by hand. The goal: each token should read the token before it, so that *bank* reads *river*.
#
# $W_{key}$ is the identity matrix and leaves $x$ as it is: "I stand at place $t$". $W_{query}$ has a 5 one place to the
# left of its diagonal. It turns $x$ into "I look for place $t - 1$".

# %%
W_key = torch.eye(4)                            # (C, D)
W_query = torch.tensor([[0.0, 0.0, 0.0, 0.0],
                        [5.0, 0.0, 0.0, 0.0],
                        [0.0, 5.0, 0.0, 0.0],
                        [0.0, 0.0, 5.0, 0.0]])  # (C, D)
places = ["place 0", "place 1", "place 2", "place 3"]
table("queries, x W_query", x @ W_query, words, places)

# %% [markdown]
# Check the row of *bank*. Its $x$ is (0, 0, 2, 0), so its query is twice the third row of $W_{query}$, which makes
# (0, 10, 0, 0). It looks for place 1, where *river* stands. The key of *river* is (0, 2, 0, 0). Their score is
# $10 \cdot 2 = 20$, and all other scores in that row are 0.

# %%
scores = (x @ W_query) @ (x @ W_key).T    # (T, T)
table("scores", scores, words, words)

# %% [markdown]
# $e^{20}$ is about 485 million, so a score of 20 against 0 takes practically the whole weight.
#
# The third matrix decides what is handed over. Here one number per token is enough: 10, 20, 30 and 40. ($W_{value}$
# holds 5, 10, 15 and 20, because $x$ holds 2s.) **What does each token get? Take care with the first one: its query is
# 0.**

# %%
W_value = torch.tensor([[5.0], [10.0], [15.0], [20.0]])    # (C, 1)
outputs = scores.softmax(dim=-1) @ (x @ W_value)           # (T, 1)
predict("outputs", [25, 10, 20, 30], outputs.flatten().round().int().tolist())
#> outputs: predicted [25, 10, 20, 30], measured [25, 10, 20, 30]

# %% [markdown]
# *river*, *bank* and *flooded* get the value of the token before them. There is nothing before *the*. All of its scores
# are 0, so it gets the plain average, 25.
#
# Here queries, keys and values all come from the same text. That is called **self-attention**.
#
# <details><summary>Question: which matrix would you change to make each token read the token <i>after</i> it?</summary>
#
# W_query: put the 5s one place to the right of the diagonal. (A language model may not do that: see 2.5.)
#
# </details>
#
# ## 2.5 The mask: no token may see the future
#
# So far every token looks at every other token. For a language model that would be cheating. It learns by guessing each
# next token of a text. A sentence of four tokens gives three exercises:
#
# | the model may read | and has to guess |
# |---|---|
# | the | cat |
# | the cat | sat |
# | the cat sat | down |
#
# We do all three in one pass. This costs little more than the last exercise alone, because in a model with several
# blocks (chapter 3) the last guess needs every block's output for all earlier tokens anyway.
#
# But if *cat* could look at *sat*, the answer to its exercise would be among its inputs. The model would learn to copy
# it. It would be useless for writing, because when you write, the next word is not there yet. So position $t$ may use
# positions $0$ to $t$ and nothing after them. Attention with this rule is called **causal**.
#
# ![A table with a row for each of four tokens that look and a column for each that is looked at. Above the diagonal
# every score is minus infinity; on it and below it the scores stay.](diagrams/mask.svg)
#
# *A row is a token that looks. Its future lies to the right of the diagonal.*
#
# What Q, K and V stand for does not matter now, so we draw them at random. In a loop, the mask is a slice: token $t$
# gets `K[:t + 1]` and `V[:t + 1]`.

# %%
section("2.5")
words = ["the", "cat", "sat", "down"]
torch.manual_seed(args.seed)
Q, K, V = torch.randn(3, 4, 2)    # (T, D) = (4, 2) each
rows = []
for t in range(4):
    rows.append(attend(Q[t], K[:t + 1], V[:t + 1]))    # (D,)
by_slices = torch.stack(rows)     # (T, D)

# %% [markdown]
# With matrices, we compute the whole square of scores. The future lies to the right of the diagonal. `triu(1)` (upper
# triangle) keeps what lies at least one place right of the diagonal and sets the rest to 0:

# %%
scores = Q @ K.T                            # (T, T)
future = torch.ones(4, 4).triu(1).bool()    # (T, T)
table("future", future, words, words)

# %% [markdown]
# Since $e^{-\infty} = 0$, we set the scores of the future to $-\infty$. Write $s_{tj}$ for the score of query $t$ with
# key $j$. Then the weights of the future are 0, and the others are
#
# $$w_{tj} = \frac{e^{s_{tj}}}{e^{s_{t0}} + \dots + e^{s_{tt}}} \qquad (j \le t)$$

# %%
masked = scores.masked_fill(future, float("-inf"))
table("masked scores", masked, words, words)
weights = masked.softmax(dim=-1)    # (T, T)
table("weights", weights, words, words)

# %% [markdown]
# Read the rows. *the* can only look at itself. *cat* divides its weight between two tokens. Every row sums to 1. And
# the loop says the same:

# %%
agree("slices and minus infinity", by_slices, weights @ V)

# %% [markdown]
# ### A tempting mistake
#
# Why not compute softmax as before and set the weights of the future to 0 afterwards? Take three tokens whose scores
# are all 0. **What weight does the first token then give itself, and what should it give?**

# %%
def masked_late(last_score):
    """All three queries have the same scores; the mask comes after the softmax."""
    row = torch.tensor([0.0, 0.0, last_score])
    scores = torch.stack([row, row, row])    # (T, T) = (3, 3)
    return scores.softmax(dim=-1).masked_fill(future[:3, :3], 0.0)

predict("first token's weight on itself", 1 / 3, masked_late(0.0)[0, 0].item(), 1e-4)

# %% [markdown]
# It gives itself 1/3 and should give itself 1. Softmax has divided by a sum of three terms, and two of them belong to
# tokens that it must not know of. So the future is still in the divisor. Give the last token a score of 5, and the
# first token's weight on itself changes. (With a score of 200 it is too small for a float and becomes 0.)

# %%
late = masked_late(5.0)[0, 0].item()
predict("last token scores 5: 1 / (2 + e^5)", 1 / (2 + math.exp(5)), late, 1e-4)
#> last token scores 5: 1 / (2 + e^5): predicted 0.006648, measured 0.006648
row = masked_late(200.0)[0]    # (T,)
predict("last token scores 200", 0.0, row[0].item())
print(f"divided by its own sum: {(row / row.sum()).tolist()}")
#> divided by its own sum: [nan, nan, nan]

# %% [markdown]
# Dividing each row by its own sum would repair this on paper. In floating point it can fail, as the last line shows:
# next to a score of 200 softmax rounds the past to 0, and 0 / 0 is `nan`. So we mask **before** the softmax.
#
# ## 2.6 Why divide by the square root of D?
#
# The paper that introduced the transformer has a division that we have left out so far. Here is its formula, with our
# mask written in:
#
# $$\text{attention}(Q, K, V) = \text{softmax}\left(\frac{Q K^T}{\sqrt{D}} + \text{mask}\right) V$$
#
# The mask is 0 where a token may look and $-\infty$ where it may not. What is the division for?
#
# A score is a sum of D products. How large does it get? Suppose that all numbers in Q and K are independent, with mean
# 0 and variance 1. (In a model this holds only roughly, but it shows how scores grow.)
#
# 1. A product $a b$ of two such numbers has mean 0 and variance 1 again. When the mean is 0, the variance is the mean
#    of the squares. Because a and b are independent, the mean of $a^2 b^2$ is the mean of $a^2$ times that of $b^2$,
#    which is 1.
# 2. Variances of independent numbers add up (a rule of statistics). So a sum of D products has variance D.
# 3. The standard deviation is the square root, $\sqrt{D}$. In GPT-2, D is 64, so scores would typically be around plus
#    or minus 8.

# %%
section("2.6")
a, b = torch.randn(2, 100_000)
predict("variance of a product", 1.0, (a * b).var().item(), 0.1)
for D in (4, 64, 1024):
    products = torch.randn(10_000, D) * torch.randn(10_000, D)
    scores = products.sum(dim=1)    # 10,000 dot products
    predict(f"variance of a score, D = {D}", float(D), scores.var().item(), 0.15)

# %% [markdown]
# What does softmax make of large scores? We let each of 1,000 queries look at 16 keys of its own, and take its largest
# weight, from the scores as they are and from the scores divided by $\sqrt{D}$.

# %%
def weights_on_16_keys(D):
    queries, keys = torch.randn(1000, 1, D), torch.randn(1000, 16, D)
    scores = (queries * keys).sum(dim=-1)    # (1000, 16) dot products
    both = torch.stack([scores, scores / D**0.5])
    return both.softmax(dim=-1)              # (2, 1000, 16)

weights = torch.stack([weights_on_16_keys(D) for D in (4, 64, 1024)])
sizes, ways = ["D = 4", "D = 64", "D = 1024"], ["as they are", "/ sqrt(D)"]
table("mean largest weight", weights.amax(dim=-1).mean(dim=-1), sizes, ways)

# %% [markdown]
# If all keys shared evenly, each would get 1/16, which is 0.06. Without the division the largest weight is 0.43 at
# D = 4 and 0.96 at D = 1024: one key takes nearly everything, and there is no average any more. With the division it is
# about a quarter, for every D.
#
# Why is all or nothing bad? Because a query that has all of its weight on one key can hardly learn to look elsewhere.
# Training changes each number a little, in the direction that makes the guesses better (chapter 4). If a small change
# of a score does not change its weight, there is no such direction. The derivative of a weight $w$ with respect to its
# own score is $w\,(1 - w)$. It is 0.25 at $w = 0.5$, and almost 0 near 0 and 1. Its sum over sixteen equal weights is
# $16 \cdot \frac{1}{16} \cdot \frac{15}{16} = 0.94$. We count the queries whose sum is below 0.1:

# %%
left = (weights * (1 - weights)).sum(dim=-1)    # (3, 2, 1000): one number per query
stuck = (left < 0.1).float().mean(dim=-1)       # (3, 2)
table("share of queries with less than 0.1", stuck, sizes, ways)

# %% [markdown]
# Without the division, nearly half of the queries are stuck at D = 64, the size of GPT-2's heads, and more than four
# fifths at D = 1024. With it, none is.
#
# <details><summary>Where does w (1 - w) come from?</summary>
#
# Write $w = \frac{e^s}{e^s + r}$, where $r$ is the sum of the other exponentials. By the quotient rule the derivative
# is $\frac{e^s (e^s + r) - e^s e^s}{(e^s + r)^2} = \frac{e^s}{e^s + r} - \left(\frac{e^s}{e^s + r}\right)^2 = w - w^2$.
#
# </details>
#
# You now have the whole formula. The library has it as a function, with two more axes in front: B for the rows of a
# batch and H for the heads of 2.7. `transpose(-2, -1)` is `.T` for the last two axes. Until chapter 3, S equals T, and
# `triu(S - T + 1)` is our `triu(1)`. Skip the paragraph that begins with "With a cache": it is about chapter 3.

# %%
from book import show

from gpt.attention import causal_attention_by_hand

show(causal_attention_by_hand)

# %% [markdown]
# Does it agree with 2.5, once we divide there too? `Q[None, None]` puts two axes of length 1 in front: one row, one
# head.

# %%
scores = Q @ K.T / 2**0.5                                                    # (T, T)
ours = scores.masked_fill(future, float("-inf")).softmax(dim=-1) @ V         # (T, D)
from_library = causal_attention_by_hand(Q[None, None], K[None, None], V[None, None])
agree("2.5 with the division, and the library", ours, from_library[0, 0])

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E2.1` takes out the body of this function. To check yours:
# `python -m pytest --exercise E2.1`
#
# ## 2.7 Heads: several averages at once
#
# One softmax gives one average. Sometimes a token needs two things that must not be blended. Take *dog bites man .* and
# *man bites dog .* At the full stop a model should know who bites and who is bitten. Let the value of *dog* be (8, 0)
# and that of *man* (0, 8). With equal weights both texts give (4, 4). Do other weights help? Let us give 3/4 to the one
# who bites and 1/4 to the one who is bitten.

# %%
section("2.7")
dog = torch.tensor([8.0, 0.0])
man = torch.tensor([0.0, 8.0])
wolf = torch.tensor([6.0, 2.0])
texts = {"dog bites man": (dog, man), "man bites dog": (man, dog),
         "wolf bites wolf": (wolf, wolf)}
for text, (who, whom) in texts.items():
    print(f"{text}: {(3 / 4 * who + 1 / 4 * whom).tolist()}")

# %% [markdown]
# Now the first two texts differ. But if a wolf has the value (6, 2), *wolf bites wolf* gives (6, 2) as well, because
# the average of equal vectors is that vector. Whichever weights you take, some animal may have just the value of the
# blend, and then two texts cannot be told apart.
#
# Two separate attentions do better. One looks for place 0, the other for place 2, as $W_{query}$ in 2.4 looked for
# place $t - 1$. Their outputs are put side by side:

# %%
for text, (who, whom) in texts.items():
    print(f"{text}: {torch.cat([who, whom]).tolist()}")

# %% [markdown]
# Each of these attentions is called a **head**, and all together are **multi-head attention**. GPT-2 small has H = 12.
#
# ### Cutting
#
# Twelve heads of C channels each would cost twelve times as much as one. So a head gets only D = C / H channels. Does
# that undo the gain? No, because each head can hand over what matters to it. In our example, let head 0 hand over only
# channel 0 of the one who bites, and head 1 only channel 1 of the one who is bitten. The three texts then give (8, 8),
# (0, 0) and (6, 2): two channels in all, and still all different. We compute all queries with one matrix, C channels
# per token, and cut the result into H pieces. Keys and values are cut in the same way.
#
# ![A table of three tokens with four channels each is cut down the middle. Head 0 gets channels 0 and 1 of every token,
# head 1 gets channels 2 and 3.](diagrams/heads.svg)
#
# *The cut goes through the channels. Each head keeps all tokens.*
#
# Here are the queries of the picture. The tens digit is the token and the ones digit the channel. `view` splits the
# last axis in two, and `transpose` brings the heads to the front.

# %%
queries = torch.arange(3)[:, None] * 10 + torch.arange(4)    # (T, C) = (3, 4)
heads = queries.view(3, 2, 2)                                # (T, H, D)
heads = heads.transpose(0, 1)                                # (H, T, D)
print(f"queries: {queries.tolist()}")
print(f"head 0:  {heads[0].tolist()}")
print(f"head 1:  {heads[1].tolist()}")

# %% [markdown]
# **Why not one `view` straight to (H, T, D)?** The shape would be right. Predict head 0 before you run the cell: `view`
# never moves a number, it only reads them in their old order.

# %%
wrong = queries.view(2, 3, 2)    # (H, T, D), but look
predict("head 0", [[0, 1], [2, 3], [10, 11]], wrong[0].tolist())
#> head 0: predicted [[0, 1], [2, 3], [10, 11]], measured [[0, 1], [2, 3], [10, 11]]

# %% [markdown]
# Head 0 should have a half of each token. Instead it has both halves of token 0 and one half of token 1. No error is
# raised, because all shapes fit. The mask is wrong now as well: it takes row 1 of head 0 for token 1, and that row, [2,
# 3], belongs to token 0.
#
# A common misunderstanding: the cut does **not** give each head a part of the token's vector $x$. It cuts the query,
# and each channel of the query is made from all channels of $x$. Add a nudge to channel 0 of $x$. The query then
# changes by $(x + nudge)\,W - x\,W = nudge\,W$, whatever $x$ is. **How many of two heads notice?**

# %%
W_query = torch.randn(4, 4)                    # (C, C)
nudge = torch.tensor([1.0, 0.0, 0.0, 0.0])     # changes channel 0 of x and no other
change = (nudge @ W_query).view(2, 2)          # (H, D): what is added to the query
predict("heads that notice", 2, int((change != 0).any(dim=1).sum()))
#> heads that notice: predicted 2, measured 2

# %% [markdown]
# The library's method `split_heads` makes our cut, with a batch in front.

# %%
from gpt.attention import MultiHeadAttention

show(MultiHeadAttention.split_heads)
two_heads = MultiHeadAttention(4, 4, num_heads=2)
cut = two_heads.split_heads(queries[None])    # (B, H, T, D)
predict("head 0", [[0, 1], [10, 11], [20, 21]], cut[0, 0].tolist())
#> head 0: predicted [[0, 1], [10, 11], [20, 21]], measured [[0, 1], [10, 11], [20, 21]]

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E2.2`
#
# ## 2.8 Your own module, and the library's
#
# `nn.Module` is torch's base class for everything that has parameters. `nn.Linear(C, C)` holds one matrix $W$ and a
# **bias** $b$, a vector, and computes $x W + b$. Three of them make queries, keys and values. A fourth comes at the
# end, `out_proj` (*proj* for projection), because the outputs of the heads only stand side by side: the first D
# channels know nothing of what the other heads found. `out_proj` mixes them.

# %%
from torch import nn

section("2.8")

class TinyAttention(nn.Module):
    """Causal multi-head attention: x (B, T, C) -> (B, T, C)."""

    def __init__(self, C, H):
        super().__init__()
        self.H = H
        self.W_query = nn.Linear(C, C)
        self.W_key = nn.Linear(C, C)
        self.W_value = nn.Linear(C, C)
        self.out_proj = nn.Linear(C, C)

    def cut(self, x):
        B, T, C = x.shape
        return x.view(B, T, self.H, C // self.H).transpose(1, 2)    # (B, H, T, D)

    def forward(self, x):
        query = self.cut(self.W_query(x))                           # (B, H, T, D)
        key = self.cut(self.W_key(x))                               # (B, H, T, D)
        value = self.cut(self.W_value(x))                           # (B, H, T, D)
        T, D = query.shape[2:]
        scores = query @ key.transpose(2, 3) / D**0.5               # (B, H, T, T)
        future = torch.ones(T, T).triu(1).bool()                    # (T, T)
        masked = scores.masked_fill(future, float("-inf"))          # (B, H, T, T)
        outputs = masked.softmax(dim=-1) @ value                    # (B, H, T, D)
        side_by_side = outputs.transpose(1, 2).flatten(2)           # (B, T, C)
        return self.out_proj(side_by_side)                          # (B, T, C)

# %% [markdown]
# The mask serves every text and every head. Near the end, `transpose` and `flatten(2)` undo the cut. We test it against
# the loops, with a random text of 7 tokens, 12 channels and 3 heads.

# %%
B, T, C, H = 1, 7, 12, 3
D = C // H
tiny = TinyAttention(C, H).requires_grad_(False)    # no training here
x = torch.randn(B, T, C)
query = tiny.cut(tiny.W_query(x))    # (B, H, T, D) = (1, 3, 7, 4)
key = tiny.cut(tiny.W_key(x))        # (B, H, T, D)
value = tiny.cut(tiny.W_value(x))    # (B, H, T, D)

# %% [markdown]
# For every head and every token we call `attend` with what that token may see. We divide the query by $\sqrt{D}$, which
# divides all of its scores.

# %%
by_loops = torch.zeros(B, H, T, D)
for h in range(H):
    for t in range(T):
        scaled = query[0, h, t] / D**0.5
        by_loops[0, h, t] = attend(scaled, key[0, h, :t + 1], value[0, h, :t + 1])
side_by_side = by_loops.transpose(1, 2).flatten(2)    # (B, T, C)
agree("loops and TinyAttention", tiny.out_proj(side_by_side), tiny(x))

# %% [markdown]
# Now meet the library's module. First its layers. What is new: `d_in` and `d_out` are both our C. The ValueError is
# raised if C is not a multiple of H. `qkv_bias` says whether queries, keys and values have biases; in GPT-2 they do.
# **Dropout** sets some weights to 0 at random while a model trains; here its rate is 0.

# %%
show(MultiHeadAttention.__init__)

# %% [markdown]
# Then `forward`. Skip the five lines from `padding = None` to `dropout`. Four are for the cache of chapter 3, which we
# do not use here, and the fifth sets dropout to 0. `causal_attention` computes the same as `causal_attention_by_hand`,
# but faster (2.11). The last line does what our last two do.

# %%
show(MultiHeadAttention.forward)

# %% [markdown]
# We named our four layers as the library does, so its module can take over our numbers: `state_dict()` is a dictionary
# of all parameters by name. The two modules should give the same output.

# %%
module = MultiHeadAttention(C, C, H, qkv_bias=True).requires_grad_(False)
module.load_state_dict(tiny.state_dict())
agree("TinyAttention and the library's module", tiny(x), module(x))

# %% [markdown]
# How many parameters does it have, and does the number of heads matter? There are four matrices (C, C) and four biases
# (C,). The heads only cut up their outputs. **Predict the number for one such module with C = 768, as in GPT-2 small.**

# %%
for H in (1, 2, 12):
    gpt2_size = MultiHeadAttention(768, 768, H, qkv_bias=True)
    count = sum(p.numel() for p in gpt2_size.parameters())
    predict(f"parameters, {H} heads", 4 * (768 * 768 + 768), count)
#> parameters, 12 heads: predicted 2,362,368, measured 2,362,368

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E2.3` takes out the body of `MultiHeadAttention.forward`. Begin with
# your own `forward`.
#
# ## 2.9 No token sees the future: a test
#
# Does your mask work? Don't trust the code; test it. We change the last token of the text to something wild. **What
# happens to the outputs of the six tokens before it?**

# %%
section("2.9")
changed = x.clone()
changed[:, -1] = 100.0    # all channels of the last token
for name, attention in (("TinyAttention", tiny), ("the library's", module)):
    difference = (attention(changed) - attention(x)).abs().amax(dim=-1)[0]    # (T,)
    print(f"{name}, change of each token: {[round(d, 2) for d in difference.tolist()]}")
    predict("largest change before the last token", 0.0, difference[:-1].max().item())
#> largest change before the last token: predicted 0, measured 0

# %% [markdown]
# Exactly 0, because the last token had a weight of exactly 0, and 0 times any finite number is 0. Its own output has
# changed, as it should.
#
# Second test: cut the last token off. The others should not miss it. (This also finds code that leaks the length of the
# text. We ask for agreement up to rounding, because torch may add tensors of another shape in another order.)

# %%
agree("last token cut off", module(x[:, :-1]), module(x)[:, :-1])

# %% [markdown]
# Neither test knows anything about the code, so they also find leaks that nobody thought of. Use them on every model
# that you write.
#
# ### Attention knows no order
#
# An average does not depend on the order of its terms. So without a mask, each token gets the same output in the
# reversed text. (We leave out the division too, because it has nothing to do with order.)

# %%
def no_mask(query, key, value):
    return (query @ key.transpose(2, 3)).softmax(dim=-1) @ value

forwards = no_mask(query, key, value)                             # (B, H, T, D)
backwards = no_mask(query.flip(2), key.flip(2), value.flip(2))    # tokens reversed
agree("outputs forwards and backwards", forwards, backwards.flip(2))

# %% [markdown]
# Does the mask change that? The last token still sees all the others, and their order does not count in its average.
# Shuffle the six tokens before it:

# %%
shuffled = x[:, [3, 1, 5, 0, 4, 2, 6]]    # (B, T, C)
agree("last token after the shuffle", module(shuffled)[:, -1], module(x)[:, -1])

# %% [markdown]
# So without position vectors, attention gives the full stops of *dog bites man .* and *man bites dog .* the same
# output, mask or no mask. That is why chapter 1 added positions. (The mask does tell a little, which the attention of
# the next block can use: the first token sees only itself, the last one sees all.)
#
# ## 2.10 Where a trained model looks
#
# `mini` is a small GPT-2 that comes with this repository (4.15 says how it was trained). It has 4 **blocks**, one after
# another, and each contains an attention with 4 heads. A block turns the tokens' vectors into new ones, and `norm1`
# prepares them for attention. Chapter 3 explains both.
#
# We send a text through mini and keep all attention weights. `causal_attention_by_hand` returns weights times values.
# With the identity matrix $I$ as values, that is $weights \cdot I$, the weights themselves.

# %%
section("2.10")

@torch.no_grad()
def weights_of(model, ids):
    """All attention weights for one text: (1, T) -> (blocks, H, T, T)."""
    x = model.embed(ids)                     # (1, T, C), chapter 1
    weights = []
    for block in model.trf_blocks:
        normed = block.norm1(x)
        query = block.att.split_heads(block.att.W_query(normed))
        key = block.att.split_heads(block.att.W_key(normed))
        identity = torch.eye(ids.shape[1])
        weights.append(causal_attention_by_hand(query, key, identity)[0])    # (H, T, T)
        x = block(x)
    return torch.stack(weights)              # (blocks, H, T, T)

# %%
from gpt.tokenizer import gpt2_tokenizer, text_to_token_ids
from gpt.weights import load_gpt2

mini = load_gpt2("mini").requires_grad_(False)
tokenizer = gpt2_tokenizer()
text = "The bank of the river was wet. The bank lent me money."
ids = text_to_token_ids(text, tokenizer)    # (1, T)
weights = weights_of(mini, ids)
print(f"weights (blocks, heads, T, T) = {tuple(weights.shape)}")
#> weights (blocks, heads, T, T) = (4, 4, 14, 14)

# %% [markdown]
# Did mini really use these weights? If so, multiplying them by the values and mixing with `out_proj` gives each block's
# attention output. (The last line computes the next block's input. The last argument of `agree` is the difference that
# it allows.)

# %%
x = mini.embed(ids)    # (1, T, C)
for b, block in enumerate(mini.trf_blocks):
    normed = block.norm1(x)
    value = block.att.split_heads(block.att.W_value(normed))          # (1, H, T, D)
    side_by_side = (weights[b] @ value).transpose(1, 2).flatten(2)    # (1, T, C)
    by_weights = block.att.out_proj(side_by_side)
    agree(f"our weights, and block {b}", by_weights, block.att(normed), 1e-4)
    x = block(x)

# %% [markdown]
# Of sixteen heads, here are two whose habit is easy to see. Blocks and heads are counted from 0.

# %%
from book import figure, run_folder

from gpt.plots import plot_attention

tokens = [tokenizer.decode([i]) for i in ids[0]]
titles = ["block 2, head 2", "block 1, head 0"]
fig = plot_attention([weights[2, 2], weights[1, 0]], tokens, titles)
figure(fig, run_folder(args), "02_two_heads")

# %% [markdown]
# *Each row is one token that looks. Dark means much weight, and grey is the future.*
#
# * **Left:** the dark fields tend to lie just below the diagonal. Many tokens look at the token before them, as in 2.4,
#   but here training found the matrices.
# * **Right:** every token gives the first token, *The*, the most weight. This is known as an **attention sink**. The
#   usual explanation: the weights of a row have to sum to 1, so a head that finds nothing of use must put its weight
#   somewhere, and every token can see the first.

# %%
before = weights[2, 2].argmax(dim=-1)[1:] == torch.arange(13)
first = weights[1, 0].argmax(dim=-1)[1:] == 0
print(f"block 2, head 2: {before.sum()} of 13 tokens look most at the token before")
print(f"block 1, head 0: {first.sum()} of 13 tokens look most at the first token")

# %% [markdown]
# One text could be chance. So we average the weight on the token before over text messages. (We leave out very short
# messages, and the first two tokens of the others, which have little choice.)
#
# What should we expect of a model that has not been trained? Its matrices start with small numbers, so its scores are
# close to 0, and it shares its weight evenly. A token at position $t$ sees $t + 1$ tokens and gives each $1/(t + 1)$.

# %%
from gpt.download import fetch
from gpt.spam import read_sms

sms = read_sms(fetch("sms"))["Text"][:args.messages]
long_enough = [message for message in sms if len(message) > 20]
messages = [text_to_token_ids(message, tokenizer) for message in long_enough]
print(f"{len(messages)} text messages")

# %%
def habit(model):
    """Mean weight on the token before, for each block and head: (blocks, H)."""
    means = []
    for ids in messages:
        weights = weights_of(model, ids)                          # (blocks, H, T, T)
        # just below the diagonal lies the weight of token t on t - 1, for t = 1, 2, ...
        before = weights.diagonal(offset=-1, dim1=-2, dim2=-1)    # (blocks, H, T - 1)
        means.append(before[..., 1:].mean(dim=-1))                # from t = 2 on
    return torch.stack(means).mean(dim=0)

# %%
from gpt.model import GPTModel

def shared_evenly(T):
    return sum(1 / (t + 1) for t in range(2, T)) / (T - 2)

even = sum(shared_evenly(ids.shape[1]) for ids in messages) / len(messages)
untrained = habit(GPTModel(mini.config))
predict("weight on the token before, untrained", even, untrained.mean().item(), 0.05)

# %%
trained = habit(mini)
blocks = ["block 0", "block 1", "block 2", "block 3"]
heads = ["head 0", "head 1", "head 2", "head 3"]
table("weight on the token before, trained", trained, blocks, heads)

# %% [markdown]
# Compare with the untrained number above. The heads of the first two blocks are near it. Head 2 of block 2 has nearly
# three times as much, and other heads of the last two blocks lie between. Training has given the heads different
# habits.
#
# Two cautions. The second *bank* cannot look at *money*, because *money* comes later. (The full stop can read both.)
# And a picture shows where a head looks, not whether that matters for what the model says: see 2.12.
#
# ## Further: skip this on a first reading
#
# Nothing in chapter 3 depends on the next four sections.
#
# ## 2.11 The fused kernel, and what it does not store
#
# Every query has a weight for every key, so twice the text has four times the weights. In one block of GPT-2 small,
# with 12 heads and 1,024 tokens, the weights take $12 \cdot 1024 \cdot 1024 \cdot 4$ bytes, which is 48 MiB. Training
# has to keep them, because the derivative of a product is computed from its factors (chapter 4). (The derivative of $w
# v$ with respect to $w$ is $v$, and the other way round. The scores are not kept, because the derivative of softmax
# needs only its result.)
#
# A **fused kernel** does all steps in one routine, a few keys at a time. This works because an output is a sum of $e^s
# v$ divided by a sum of $e^s$, and both sums can grow as more keys come. For training it keeps Q, K, V, the output and
# one number per query: $L$, the logarithm of the sum of $e^s$. A weight is then $e^{s - L}$ and can be computed again.
# The method is known as FlashAttention. For a text that is read at once, `causal_attention` makes just this call:

# %%
from torch.nn import functional as F

from gpt.attention import causal_attention

section("2.11")
H, T, D = 12, 1024, 64
inputs = [torch.randn(1, H, T, D, requires_grad=True) for _ in range(3)]
with torch.no_grad():
    fused = F.scaled_dot_product_attention(*inputs, is_causal=True)
    agree("by hand and fused", causal_attention_by_hand(*inputs), fused)
    agree("fused and causal_attention", fused, causal_attention(*inputs))

# %% [markdown]
# We count the bytes that torch keeps. `saved_tensors_hooks` takes two functions. torch calls the first for every tensor
# that it keeps for the derivatives; ours writes down its size and gives it back unchanged. The second would be called
# when the tensor is needed again. (The mask is kept too, because `masked_fill` has to know later which scores it
# replaced.)

# %%
def bytes_kept(attention, inputs):
    memories = {}    # {address: bytes}, because two tensors may share one memory
    def keep(tensor):
        memory = tensor.untyped_storage()
        memories[memory.data_ptr()] = memory.nbytes()
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention(*inputs)
    return sum(memories.values())

# %%
one = 4 * H * T * D    # bytes of Q, of K, of V, of the output
predicted = 3 * one + T * T + 4 * H * T * T    # Q, K, V; mask, 1 byte each; weights
measured = bytes_kept(causal_attention_by_hand, inputs)
predict("bytes kept by hand", predicted, measured, 0.01)
#> bytes kept by hand: predicted 60,817,408, measured 60,817,408
predicted = 4 * one + 4 * H * T                # Q, K, V, output; one number per query
predict("bytes kept, fused", predicted, bytes_kept(causal_attention, inputs), 0.01)
#> bytes kept, fused: predicted 12,632,064, measured 12,632,064

# %% [markdown]
# 61 MB against 13 MB, for the same output. At twice the length the same formulas give 224 MB against 25 MB: weights and
# mask grow fourfold, the rest only doubles.
#
# ## 2.12 Which heads matter?
#
# Is the head with the clearest picture the one that the model needs most? We take each head away, one at a time. The
# output of head $h$ fills D places of what `out_proj` reads, so we set D columns of its weight to 0. (torch stores the
# weight as (out, in).) Then we measure how much worse mini predicts the next token of the messages. The measure is its
# **loss**, in nats per token: the lower, the better. Chapter 4 explains it.

# %%
from gpt.losses import next_token_loss

section("2.12")
end_to_end = torch.cat(messages, dim=1)[0]    # (N,)
rows = end_to_end.unfold(0, 256, 256)         # (B, 256): cut into rows of 256

def loss_without(block, h, D=32):    # mini has 128 channels in 4 heads
    columns = block.att.out_proj.weight[:, h * D:(h + 1) * D]    # (C, D), a view
    saved = columns.clone()
    columns.zero_()
    loss = next_token_loss(mini, rows)
    columns.copy_(saved)
    return loss

# %%
whole, rise = next_token_loss(mini, rows), torch.zeros(4, 4)
for b, block in enumerate(mini.trf_blocks):
    for h in range(4):
        rise[b, h] = loss_without(block, h) - whole
table(f"the loss is {whole:.2f}; without a head it rises by", rise, blocks, heads)

# %%
clearest = divmod(int(trained.argmax()), 4)    # place 10 of 16 is block 2, head 2
needed = divmod(int(rise.argmax()), 4)
print("looks most at the token before: (block, head) =", clearest)
print("without it the loss rises most: (block, head) =", needed)
#> looks most at the token before: (block, head) = (2, 2)
#> without it the loss rises most: (block, head) = (1, 2)

# %%
titles = []
for b, h in (clearest, needed):
    titles.append(f"block {b}, head {h}: without it {rise[b, h]:+.2f}")
fig = plot_attention([weights[clearest], weights[needed]], tokens, titles)
figure(fig, run_folder(args), "02_attention")

# %% [markdown]
# *The left head looks most at the token before. Taking away the right one raises the loss most here.* The right
# one spreads its weight and looks dull, and yet taking it away costs mini several times as much. So a picture shows
# where a head looks, and no more. Taking it away can show whether the model relies on it. (Below 0 in the table: mini
# is a little better on these messages without that head.)
#
# ## 2.13 A fresh GPT-2 looks at all tokens almost equally
#
# In 2.6 we assumed that queries and keys have variance 1. In a fresh (untrained) GPT-2 they have less. Attention gets
# an $x$ whose 768 channels have variance 1 (chapter 3), and the matrices are drawn with standard deviation 0.02. A
# channel of a query is a sum of 768 products, each with variance $1 \cdot 0.02^2$, so its variance is
# $768 \cdot 0.02^2 = 0.31$. The same holds for a key. A score is a sum of 64 products, each with variance
# $0.31 \cdot 0.31$. The division by $\sqrt{64}$ divides the variance by 64, so $0.31 \cdot 0.31$ remains:

# %%
section("2.13")
x = torch.randn(500, 768)                          # (T, C)
W_query, W_key = 0.02 * torch.randn(2, 768, 64)    # (C, D) each
scores = (x @ W_query) @ (x @ W_key).T / 64**0.5   # (T, T)
predicted = (768 * 0.02**2)**2
predict("variance of a fresh GPT-2's scores", predicted, scores.var().item(), 0.15)

# %% [markdown]
# Scores of about 0.3 or -0.3 give nearly even weights. So a fresh model starts close to the plain average of 2.1. The
# division still does its work: it makes this starting point the same for every D. (With a standard deviation of 0.04
# the variance would be 16 times as large, because 0.02 enters it four times as a factor.)
#
# ## 2.14 Softmax of large scores
#
# We found that adding a number to all scores changes nothing. On a computer there is a catch: no float holds
# $e^{1000}$. It becomes infinity, and infinity divided by infinity is `nan`. torch therefore subtracts the largest
# score from all of them first. The weights are the same, and the largest power is $e^0$.

# %%
section("2.14")
large = torch.tensor([1000.0, 999.0])
print(f"by the formula: {(large.exp() / large.exp().sum()).tolist()}")
#> by the formula: [nan, nan]
print(f"by torch:       {large.softmax(dim=0).tolist()}")
small = large - 1000
agree("scores 1000, 999 and 0, -1", large.softmax(dim=0), small.softmax(dim=0), 0.0)

# %% [markdown]
# ## What you have now
#
# 1. Attention is a weighted average of values. Softmax makes the weights from scores, and a score is query times key.
# 2. Three learned matrices make query, key and value from each token's vector.
# 3. The mask sets scores of the future to $-\infty$ before the softmax, and you have tested that nothing leaks.
# 4. Dividing by $\sqrt{D}$ keeps one key from taking everything. Heads give several averages for the parameters of one.
# 5. You have a module of your own that equals the library's, and you have seen what two trained heads do.
#
# Chapter 3 puts attention into a block, beside a part that works on each token alone, and stacks blocks into a GPT-2.
#
# ## Break it
#
# Change one thing, run the chapter, see whether you expected what happens, and change it back.
#
# | where | change | what you should see |
# |---|---|---|
# | 2.5 | `masked_fill(future, 0.0)` | 2.5 stops: a score of 0 adds $e^0 = 1$ to the softmax, not 0 |
# | 2.8, `cut` | `x.view(B, self.H, T, C // self.H)` | 2.8 stops: the loops agree, but the library does not |
# | 2.8 | leave out `/ D**0.5` in `TinyAttention` | 2.8 stops: loops and module disagree |
# | 2.8 | `triu(2)` in place of `triu(1)` | 2.8 stops: each token sees one token of the future |
# | `gpt/attention.py`, by hand | `triu(S - T)` | 2.6 stops: token 0 may not even look at itself and gets nan |
# | `gpt/attention.py`, by hand | leave out the division by `D**0.5` | 2.6 stops: the weights are too extreme |
# | `gpt/attention.py`, `split_heads` | `x.view(B, self.num_heads, T, C // self.num_heads)` | 2.7 stops: wrong head 0 |
# | `gpt/attention.py`, `causal_attention` | `is_causal=False` | 2.8 stops: every token sees the future |
#
# ## Exercises
#
# | id | what you write | after |
# |---|---|---|
# | E2.1 | attention by hand | 2.6 |
# | E2.2 | cutting into heads | 2.7 |
# | E2.3 | the module's `forward` | 2.8 |
#
#     python -m pytest --exercise E2.2        # is it right?
#     python tests/exercises.py hint E2.2     # one more hint each time
#
# One without a test: `python chapters/02_attention.py --quick --seed 1` draws other random numbers. Which predictions
# could fail by bad luck, and which never?
#
# <details><summary>Answer</summary>
#
# By bad luck: the variances of 2.6 and 2.13 and the untrained model of 2.10, which are estimated from random draws and
# have a tolerance of 5 to 15 %. Never: what is worked out from fixed numbers, as in 2.1 to 2.4, and what holds for any
# numbers, such as the counts of parameters, the mask and every `agree`.
#
# </details>
#
# More that attention has to satisfy: `python -m pytest tests/story/test_attention.py`
#
# ## Further reading
#
# * Vaswani et al. 2017, [Attention Is All You Need](https://arxiv.org/abs/1706.03762). Section 3.2 is this chapter.
# * Bahdanau et al. 2014, [Neural Machine Translation by Jointly Learning to Align and
#   Translate](https://arxiv.org/abs/1409.0473). The idea before the transformer.
# * Xiao et al. 2023, [Efficient Streaming Language Models with Attention Sinks](https://arxiv.org/abs/2309.17453).
# * Jain and Wallace 2019, [Attention is not Explanation](https://arxiv.org/abs/1902.10186), and Michel et al. 2019,
#   [Are Sixteen Heads Really Better than One?](https://arxiv.org/abs/1905.10650). What pictures of weights do not show.
# * Dao et al. 2022, [FlashAttention](https://arxiv.org/abs/2205.14135). The fused kernel of 2.11.
# * Sebastian Raschka, [Build a Large Language Model (From Scratch)](https://github.com/rasbt/LLMs-from-scratch),
#   chapter 3, and [Dive into Deep Learning](https://d2l.ai/chapter_attention-mechanisms-and-transformers/index.html),
#   chapter 11.
