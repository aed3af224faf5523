# %% [markdown]
"""
# 0  The first minute: eight messages, a small GPT-2, and a spam filter

After this chapter you have gone the whole road once. A text has become numbers, a language model has read them, and you
have taught it to tell spam from other messages. You need a little Python.

- Run: `python chapters/00_first_minute.py`. It needs no network.
- Run: `python chapters/00_first_minute.py --text "Are you awake?"` asks about a message of your own too. The first
  time, this fetches 0.5 MB.
- Time: --quick 3 s; full the same, on 2 CPU cores (AMD EPYC)
- Source: Radford et al. 2018, section 3.2 (a language model becomes a classifier); Hu et al. 2021 (LoRA)
"""

# %%
from book import section, start

args = start(__doc__, {}, {}, "--text")

# %% [markdown]
# How does a program that continues texts become a program that sorts them? This picture has all the steps. You will
# run each of them in a moment, on eight text messages. You need not understand everything now: each step has a chapter
# of its own, and the end of this one says which.
#
# ![A message becomes ids; the ids go through GPT-2, whose weights are frozen, with thin LoRA matrices beside them; a
# head gives a score to ham and to spam; the loss sends gradients back to the LoRA matrices and the head
# only.](diagrams/road.svg)
#
# *Grey does not change. Only the head and the thin matrices learn.*
#
# In every chapter, `predict()` prints a number that was worked out beforehand beside the one that was measured, and it
# stops the chapter if they differ. In the file, a line that starts with `#>` is what the line above it printed.
#
# ## 0.1 A message is a row of numbers
#
# **Spam** is advertising that nobody asked for. Every other message is called **ham**. Here are four of each.
#
# GPT-2 does not read letters. Its **tokenizer** cuts a text into words and pieces of words, which are called
# **tokens**. Each token has a number, its **id**. For example, " free" with the space before it is 1479. We have
# written the ids out, so that this chapter needs no file from elsewhere.

# %%
section("0.1")
MESSAGES = [
    ("spam", "Congratulations! You have won a free phone. Call 09061234567 now to claim your prize.",
     [45048, 0, 921, 423, 1839, 257, 1479, 3072, 13, 4889, 7769, 3312, 10163, 2231, 3134, 783, 284, 1624, 534,
      11596, 13]),
    ("spam", "URGENT! Your number was drawn for a 500 pound cash prize. Text WIN to 80082 today.",
     [4261, 38, 3525, 0, 3406, 1271, 373, 7428, 329, 257, 5323, 14896, 5003, 11596, 13, 8255, 25779, 284, 10460,
      6469, 1909, 13]),
    ("spam", "Free entry in our weekly draw for two tickets. Text GOAL to 87121. 18+ only.",
     [11146, 5726, 287, 674, 10273, 3197, 329, 734, 8587, 13, 8255, 10351, 1847, 284, 10083, 19244, 13, 1248,
      10, 691, 13]),
    ("spam", "You have 1 new voice message. To hear it call 09058094599, 150p per minute.",
     [1639, 423, 352, 649, 3809, 3275, 13, 1675, 3285, 340, 869, 7769, 2713, 34583, 2231, 2079, 11, 6640, 79,
      583, 5664, 13]),
    ("ham", "Are we still on for dinner tonight? I can bring the wine.",
     [8491, 356, 991, 319, 329, 8073, 9975, 30, 314, 460, 2222, 262, 8237, 13]),
    ("ham", "Sorry, I'm in a meeting. I will call you later.",
     [14385, 11, 314, 1101, 287, 257, 3249, 13, 314, 481, 869, 345, 1568, 13]),
    ("ham", "Ok, see you at the station at six then :)",
     [18690, 11, 766, 345, 379, 262, 4429, 379, 2237, 788, 14373]),
    ("ham", "Did you find your keys? I think I saw them in the kitchen.",
     [11633, 345, 1064, 534, 8251, 30, 314, 892, 314, 2497, 606, 287, 262, 9592, 13]),
]

# %%
for label, text, ids in MESSAGES:
    print(f"{label:4} {len(ids)} tokens: {text}")

# %% [markdown]
# Look at the second row of numbers. *URGENT* took three ids, 4261, 38 and 3525, because GPT-2 has no token for the
# whole word in capitals. Chapter 1 learns such pieces from a text.
#
# ## 0.2 A model that has already read a lot
#
# A **language model** gives every token a probability of coming next. This one is called mini. It is a small GPT-2 that
# this project trained on Wikipedia and on newsgroups, and it has 7,259,008 numbers, its **parameters**, which
# training has set. (OpenAI's smallest GPT-2 has 124 million.)

# %%
section("0.2")
from book import predict

from gpt.lora import count_parameters
from gpt.weights import load_gpt2

model = load_gpt2("mini")
predict("mini's parameters", 7_259_008, count_parameters(model)[1])
#> mini's parameters: predicted 7,259,008, measured 7,259,008

# %% [markdown]
# How can we see that it has learned English? We ask it to predict each token of a message from the ones before. Let $p$
# be the probability that it gave to the token that really came. Then $-\ln p$ says how wrong the model was. It is 0 for
# a sure and right prediction, and it grows as $p$ gets smaller. The mean over all tokens is called the **cross-entropy
# loss**, and its unit is **nats per token**. A model that knows nothing gives each of the 50,257 tokens the same
# probability, so its loss is $\ln 50257 = 10.8$.
#
# **Before you run the cell: what happens to the loss if we turn the order of the tokens around?**

# %%
import torch

from gpt.losses import next_token_loss
from gpt.tokenizer import END_OF_TEXT

_, text, ids = MESSAGES[4]
with torch.no_grad():
    forwards = next_token_loss(model, torch.tensor([[END_OF_TEXT, *ids]]))
    backwards = next_token_loss(model, torch.tensor([[END_OF_TEXT, *ids[::-1]]]))
print(f"{text!r}: {forwards:.1f} nats per token; backwards {backwards:.1f}")
assert forwards < backwards - 1, "mini should find English easier than its reverse"

# %% [markdown]
# The words are the same, but backwards the model predicts them much worse. So it knows more than which words are
# frequent: it knows something about their order. We would like to use that knowledge for a task that it was never
# trained for.
#
# (`END_OF_TEXT` is a token that separates two texts. We put it in front because a text begins where another one ended.)
#
# ## 0.3 A new head, and LoRA
#
# The last part of a language model is its **head**. It turns what the model knows about a text into 50,257 scores, one
# for each possible next token. We need only two scores, one for ham and one for spam, so we swap the head.
#
# What about the other seven million numbers? We **freeze** them: training may not change them. Instead, thin matrices
# beside them will learn a small correction. This method is called **LoRA**, and chapter 6 builds it by hand.

# %%
section("0.3")
from gpt.classify import swap_head
from gpt.lora import replace_linear_with_lora

model.requires_grad_(False)    # freeze everything
swap_head(model, 2)            # the new head trains
generator = torch.Generator().manual_seed(args.seed)
replace_linear_with_lora(model.trf_blocks, rank=16, alpha=16, generator=generator)

# %% [markdown]
# How many numbers train now? mini consists of 4 **blocks**. With $C = 128$ numbers for each token, a block has four
# weight matrices of $C \times C$ and two of $C \times 4C$. LoRA puts $r \cdot (in + out)$ numbers beside each, and our
# $r$ is 16:
#
# $$4 \cdot r (C + C) + 2 \cdot r (C + 4C) = 8 r C + 10 r C = 18 r C$$
#
# The head has $2 C$ weights and 2 biases. **What is the sum?**

# %%
C, BLOCKS, r = 128, 4, 16
numbers = BLOCKS * 18 * r * C + 2 * C + 2
predict("numbers that train", numbers, count_parameters(model)[0])
#> numbers that train: predicted 147,714, measured 147,714

# %% [markdown]
# That is 2 % of the model.
#
# ## 0.4 Train
#
# The messages have different lengths, but a tensor is a rectangle. `pad` fills the short ones up on the right.
# `lengths` remembers how many ids of each row are real, so that nothing reads the filling. In `labels`, 1 is spam.

# %%
section("0.4")
from gpt.batches import pad

ids, lengths = pad([ids for _, _, ids in MESSAGES])            # (8, 22), (8,)
labels = torch.tensor([label == "spam" for label, _, _ in MESSAGES]).long()
print("a rectangle of ids:", tuple(ids.shape), "  labels:", labels.tolist())
#> a rectangle of ids: (8, 22)   labels: [1, 1, 1, 1, 0, 0, 0, 0]

# %% [markdown]
# Before we train: how wrong is the model now? The new head starts at zero. So both scores are 0, and each class gets
# the probability 1/2. **What is $-\ln \frac{1}{2}$?**

# %%
from gpt.classify import class_logits
from gpt.losses import class_loss

loss = class_loss(class_logits(model, ids, lengths), labels)
predict("first loss, nats per message (ln 2)", 0.6931, loss.item(), 1e-3)
#> first loss, nats per message (ln 2): predicted 0.6931, measured 0.6931

# %% [markdown]
# All of deep learning turns around one loop, and here it is. Twenty times it guesses, measures how wrong it was, and
# moves every number a little in the direction that makes it less wrong.
#
# ![The training loop: guess, loss, gradients, step, and again](diagrams/training_loop.svg)
#
# *One turn of the loop is called a training step.*

# %%
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-3)
for step in range(20):
    scores = class_logits(model, ids, lengths)    # (8, 2)
    loss = class_loss(scores, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"after 20 steps: {loss.item():.4f} nats per message")

# %% [markdown]
# Line by line:
#
# - `trained` holds the tensors that are not frozen. The **optimizer** will change these and no others. **AdamW** is a
#   rule for how far to move each number, and `lr`, the **learning rate**, sets the size of the moves.
# - `scores = ...` sends the eight messages through the model. It gives two scores for each, which are also called
#   **logits**.
# - `loss = ...` turns the scores into probabilities, takes $-\ln$ of the probability of the right class, and averages
#   over the eight messages.
# - `zero_grad()` deletes what the step before has left in the **gradients**.
# - `loss.backward()` computes the gradients. For every number that trains, the gradient says how the loss would change
#   if this number grew a little.
# - `optimizer.step()` moves every number against its gradient, so that the loss falls.
#
# Did it work? We count how many of the eight messages have the higher score at the right class.

# %%
guesses = class_logits(model, ids, lengths).argmax(dim=1)    # (8,)
predict("right, of eight", 8, (guesses == labels).sum().item())
#> right, of eight: predicted 8, measured 8

# %% [markdown]
# Memorising eight messages proves nothing. A filter has to work on messages that it has not seen.
#
# ## 0.5 Two messages that it has not seen
#
# One is spam and one is ham. The spam is short and the ham is long. In training it was the other way round, so a model
# that has only learned "spam is long" will get both wrong.

# %%
section("0.5")
NEW = [
    ("Win a free holiday: text SUN to 80082 now!",
     [16643, 257, 1479, 9912, 25, 2420, 35329, 284, 10460, 6469, 783, 0]),
    ("The train is stuck again, so I will be late. Do start without me, I can eat when I get home.",
     [464, 4512, 318, 7819, 757, 11, 523, 314, 481, 307, 2739, 13, 2141, 923, 1231, 502, 11, 314, 460, 4483,
      618, 314, 651, 1363, 13]),
]
if args.text is not None:
    from gpt.tokenizer import gpt2_tokenizer
    own = gpt2_tokenizer().encode_ordinary(args.text)
    NEW.append((args.text, own or [END_OF_TEXT]))

# %%
ids, lengths = pad([ids[:256] for _, ids in NEW])    # mini reads 256 tokens at most
model.eval()
with torch.no_grad():
    probabilities = class_logits(model, ids, lengths).softmax(dim=1)    # (2, 2)
answers = ["spam" if p > 0.5 else "ham" for p in probabilities[:, 1]]
for answer, p, (text, _) in zip(answers, probabilities.amax(dim=1), NEW):
    print(f"{answer:4} ({p:.1%}) {text}")

# %%
predict("the two answers", ["spam", "ham"], answers[:2])
#> the two answers: predicted ['spam', 'ham'], measured ['spam', 'ham']

# %% [markdown]
# Both are right. With two messages, that could be luck. Chapter 6 trains on 1,045 messages and tests on 300 others.
#
# ## What you have now
#
# In one minute you have taken a model that continues texts and made a filter out of it:
#
# 1. A tokenizer turned eight messages into rows of ids.
# 2. A pretrained language model read them. What it knows about English sits in 7 million frozen numbers.
# 3. A new head gave two scores per message, and thin LoRA matrices gave the model room to adapt.
# 4. A loop of five lines trained the 2 % of the numbers that are not frozen.
# 5. The filter answered two messages that it had never seen.
#
# Each step is explained in a chapter:
#
# | you saw | where it is explained | where its code is |
# |---|---|---|
# | 0.1 text becomes ids | [chapter 1](01_tokens.py) | gpt/tokenizer.py |
# | 0.2 the model: attention | [chapter 2](02_attention.py) | gpt/attention.py |
# | 0.2 the model: all of it | [chapter 3](03_gpt_model.py) | gpt/model.py |
# | 0.2 the loss, and how mini was trained | [chapter 4](04_weights.py) | gpt/losses.py, gpt/applications/pretrain.py |
# | 0.3 the new head | [chapter 5](05_spam_classifier.py) | gpt/classify.py |
# | 0.3 LoRA | [chapter 6](06_lora_spam.py) | gpt/lora.py |
# | 0.4 padding | [chapter 5](05_spam_classifier.py) | gpt/batches.py |
# | 0.4 the training loop | [chapter 4](04_weights.py) | gpt/train.py |
# | 0.5 how good the answers are | [chapter 5](05_spam_classifier.py) | gpt/evaluate/metrics.py |
#
# ## Break it
#
# Change one thing, run the chapter, and see whether you expected what happens:
#
# | where | change | what you should see |
# |---|---|---|
# | 0.3 | leave out `model.requires_grad_(False)` | 0.3 stops: 6,613,634 numbers train |
# | 0.3 | `swap_head(model, 2, zero=False)` | 0.4 stops: the first loss is not ln 2 |
# | 0.4 | leave out `optimizer.step()` | the loss stays 0.6931, and 0.4 stops: 4 of 8 are right |
# | 0.4, in the loop | `class_logits(model, ids)` | 0.4 stops: 4 of 8, because it learned to read the filling |
# | 0.4 | `lr=1e-1` | 0.4 stops: 4 of 8 are right, because each step jumps too far |
# | 0.4 | leave out `optimizer.zero_grad()` | no harm here: AdamW divides the sum by its own size |
# | 0.2 | `GPTModel(GPT2_SIZES["mini"])` for `load_gpt2("mini")` | 0.2 stops: this model knows nothing |
#
# ## Try it
#
#     python chapters/00_first_minute.py --text "WINNER!! Claim your prize"
#     python chapters/00_first_minute.py --seed 1        # do the answers depend on luck?
#     python chapters/01_tokens.py                       # where the numbers come from
#
# ## Further reading
#
# - Radford et al. 2018, [Improving Language Understanding by Generative
#   Pre-Training](https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf). The
#   first GPT, and the idea of this chapter: read a lot first, learn the task afterwards.
# - Hu et al. 2021, [LoRA: Low-Rank Adaptation of Large Language Models](https://arxiv.org/abs/2106.09685).
