# %% [markdown]
"""
# 0  The first minute: eight messages, a small GPT-2, and a spam filter

After this chapter you have gone through every step once. A text has become numbers, a language model has read them, and
you have taught it to tell spam from other messages. You need a little Python, and to have seen a logarithm and a matrix
product. First install what requirements.txt names, as README.md says.

- Run: `python chapters/00_first_minute.py`. It needs no network.
- Run: `python chapters/00_first_minute.py --text "Are you awake?"` asks about a message of your own too. The first
  time, this fetches 0.5 MB.
- Time: --quick 5 s; full the same, on 2 CPU cores (AMD EPYC). Other chapters have a shorter run, `--quick`.
- Source: Radford et al. 2018, section 3.2 (a language model becomes a classifier); Hu et al. 2021 (LoRA)
"""

# %%
from book import section, start

args = start(__doc__, {}, {}, "--text")    # reads the command line; no lesson

# %% [markdown]
# A **language model** is a program that reads the beginning of a text and says what could come next. **GPT-2** is one
# that OpenAI published in 2019. A model with the same structure is called a GPT-2 here too, and ours is a small one.
#
# How does a program that continues texts become a program that sorts them? This picture has all the steps. You will
# run each of them in a moment, on eight text messages. You don't have to understand everything now: each step has a
# chapter of its own, and the end of this one says which.
#
# ![A message becomes ids; the ids go through GPT-2, whose blocks are frozen, with thin LoRA matrices beside them; a
# head gives a score to spam and to ham; loss, gradients and a step lead back to the LoRA matrices and the head
# only.](diagrams/road.svg)
#
# *A block is one layer of GPT-2. Frozen parts do not change. The loss says how wrong an answer was, and the gradients
# say how the loss would change with each number.*
#
# In every chapter, `predict()` prints what we expect beside what the program measured. As a rule we worked it out on
# paper. If the two differ, the chapter stops. (These predictions are ours, not the language model's.) In the file, a
# line that starts with `#>` is what the line above it printed (in later chapters, with `--quick`). Long outputs and
# those that may differ between machines have none. The notebooks show all outputs.
#
# ## 0.1 A message is a row of numbers
#
# **Spam** is a message that nobody asked for and that wants your money. Every other message is called **ham**. Here are
# four of each.
#
# GPT-2 does not read letters. Its **tokenizer** cuts a text into words and pieces of words, which are called
# **tokens**. Each token has a number, its **id**. Here is the beginning of the second message:
#
#     token   UR     G    ENT    !    " Your"   " number"   " was"
#     id      4261   38   3525   0    3406      1271        373
#
# Frequent words have a token of their own. Rare ones, such as *URGENT* in capitals, are put together from pieces. A
# token keeps the space in front of it. Chapter 1 shows where the tokens come from. We have written the ids out, so that
# this chapter needs no file from elsewhere.

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
# ## 0.2 A model that has already read a lot
#
# Our model is called mini. This project trained it on articles of Wikipedia and on posts in newsgroups, the discussion
# boards of the 1990s. Training has set its 7,259,008 numbers, which are called **parameters** (chapter 3 counts them on
# paper). (OpenAI's smallest GPT-2 has 124 million.)

# %%
section("0.2")
from book import predict

from gpt.lora import count_parameters
from gpt.weights import load_gpt2

model = load_gpt2("mini")
_, total = count_parameters(model)    # how many can be trained, and how many there are
predict("mini's parameters", 7_259_008, total)
#> mini's parameters: predicted 7,259,008, measured 7,259,008

# %% [markdown]
# Given the beginning of a text, mini gives each of the 50,257 tokens a probability of being the next one. Draw a token
# from these probabilities, append it, and ask again: that is how a language model writes.
#
# How can we see that it has learned English? We let mini predict each token of a message from those before. Let $p$ be
# the probability that it gave to the token that came. Then $-\ln p$ says how wrong the model was. It is 0 for a
# prediction that was certain and right, and it grows as $p$ gets smaller. (Why a logarithm? The probability of a whole
# text is a product of such $p$'s, and a logarithm turns it into a sum.) The mean over all tokens is called the
# **cross-entropy loss**. Its unit is **nats per token** (nats, because the logarithm is the natural one). A model that
# knows nothing gives each token the same probability, so its loss is $\ln 50257 = 10.8$.
#
# The first token has to be predicted from something too. So we put `END_OF_TEXT` in front, a token that mini has seen
# before every text of its training. **Before you run the cell: what happens to the loss if we reverse the order of the
# tokens?**

# %%
import torch

from gpt.losses import next_token_loss
from gpt.tokenizer import END_OF_TEXT

def loss_of(ids):
    batch = torch.tensor([[END_OF_TEXT, *ids]])    # (1, T + 1): a batch of one text
    with torch.no_grad():                          # no training here, so no gradients
        return next_token_loss(model, batch).item()

# %%
for _, text, ids in MESSAGES:
    forwards, backwards = loss_of(ids), loss_of(ids[::-1])
    print(f"{forwards:4.1f} nats per token, backwards {backwards:4.1f}: {text}")
    assert forwards < backwards, "mini should find English easier than its reverse"

# %% [markdown]
# Take the first ham message, with its loss of 5.7. A model that gives each right token a probability of $e^{-5.7} =
# 1/300$ has this loss. That is far from certain, but much better than $1/50257$. The reversed messages have the same
# tokens, and yet mini predicts every one worse. So it knows more than which words are frequent: it knows something
# about their order. We would like to use that knowledge for a task that it was never trained for.
#
# ## 0.3 A new head, and LoRA
#
# mini ends up with $C = 128$ numbers for each token of a text. The last part of the model, its **head**, turns them
# into 50,257 scores, one for each possible next token. We need only two scores, one for ham and one for spam, so we
# swap the head. And we read the two scores at the last token of a message. At each token the model sees this token and
# those before it, so only the last one has seen the whole message.
#
# All seven million numbers are still there, because the old head was a table that mini also needs at its entrance, to
# turn ids into vectors. We **freeze** them: training may not change them. Instead we use **LoRA**. Two thin matrices,
# $A$ and $B$, stand beside each weight matrix $W$ in the model's blocks. Their product $A B$ is as large as $W$ and is
# added to it, and only $A$ and $B$ learn. $A$ starts with random numbers and $B$ with zeros. So $A B$ is zero, and the
# model starts exactly as it was. Chapter 6 builds this by hand.
#
# In the code, `rank` is how thin the two are. Their product is multiplied by `alpha / rank`, which is 1 here.

# %%
section("0.3")
from gpt.classify import swap_head
from gpt.lora import replace_linear_with_lora

model.requires_grad_(False)    # freeze everything
swap_head(model, 2)            # the new head is not frozen
generator = torch.Generator().manual_seed(args.seed)    # draws the A's
layers = replace_linear_with_lora(model.trf_blocks, rank=16, alpha=16,
                                  generator=generator)
print("matrices that have a LoRA beside them now:", layers)
#> matrices that have a LoRA beside them now: 24

# %% [markdown]
# How many numbers will be trained? If $W$ has `in` rows and `out` columns, then $A$ is $in \times r$ and $B$ is $r
# \times out$, which makes $r \cdot (in + out)$ numbers. Our rank $r$ is 16. mini has 4 blocks. Each has four matrices
# of $C \times C$ in its attention (chapter 2). After it, one matrix widens $C$ to $4C$ and one narrows it again
# (chapter 3):
#
# $$4 \cdot r (C + C) + 2 \cdot r (C + 4C) = 18 r C$$
#
# The head has $2 C$ weights and 2 biases, which are numbers that it adds.

# %%
C, BLOCKS, r = 128, 4, 16
numbers = BLOCKS * 18 * r * C + 2 * C + 2
trainable, _ = count_parameters(model)
predict("numbers that will be trained", numbers, trainable)
#> numbers that will be trained: predicted 147,714, measured 147,714

# %% [markdown]
# That is 2 % of the model.
#
# ## 0.4 Train
#
# The messages have different lengths, but a tensor is a rectangle. `pad` fills the short ones up on the right with
# `END_OF_TEXT`, which is called **padding**. `lengths` remembers how many ids of each row are real, so that the head
# reads the last real one. What comes after it does no harm, because no token looks to its right. In `labels`, 1 is
# spam.

# %%
section("0.4")
from gpt.batches import pad

padded, lengths = pad([ids for _, _, ids in MESSAGES])    # (8, 22), (8,)
labels = torch.tensor([int(label == "spam") for label, _, _ in MESSAGES])
print("a rectangle of ids:", tuple(padded.shape), "  labels:", labels.tolist())
#> a rectangle of ids: (8, 22)   labels: [1, 1, 1, 1, 0, 0, 0, 0]

# %% [markdown]
# Before we train: how wrong is the model now? The loss is the cross-entropy of 0.2 again, with two classes in place of
# 50,257 tokens. **Softmax** turns scores into probabilities: it takes $e$ to the power of each score and divides by the
# sum of these powers. The new head starts with zeros, so it has no opinion: both scores are 0, and both classes get
# 1/2. **What is $-\ln \frac{1}{2}$?**

# %%
from gpt.classify import class_logits
from gpt.losses import class_loss

loss = class_loss(class_logits(model, padded, lengths), labels)
predict("first loss, nats per message (ln 2)", 0.6931, loss.item(), 1e-3)
#> first loss, nats per message (ln 2): predicted 0.6931, measured 0.6931

# %% [markdown]
# Nearly all training in deep learning is one loop, and here it is. It guesses, measures how wrong the guess was, and
# moves every number that is not frozen a little, in the direction that lowers the loss. It does so twenty times.
#
# ![A circle of four: guess with class_logits, loss with class_loss, gradients with loss.backward(), step with
# optimizer.step(), and again.](diagrams/training_loop.svg)
#
# *One turn of the loop is called a training step.*

# %%
def twenty_steps(model):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    for step in range(20):
        scores = class_logits(model, padded, lengths)    # (8, 2)
        loss = class_loss(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()

print(f"loss in the twentieth step: {twenty_steps(model):.4f} nats per message")

# %% [markdown]
# Line by line:
#
# - `trained` holds the tensors that are not frozen. The **optimizer** will change these and no others. **AdamW** is a
#   rule for how far to move each number, and `lr`, the **learning rate**, sets the size of the moves. (The rate and the
#   twenty steps were found by trying, on these messages and the two of 0.5.)
# - `scores = ...` sends the eight messages through the model. It gives two scores for each, which are also called
#   **logits**.
# - `loss = ...` turns the scores into probabilities, takes $-\ln$ of the probability of the right class, and averages
#   over the eight messages.
# - `loss.backward()` computes the **gradients**. For every number that is trained, the gradient says how the loss would
#   change if this number grew a little. `zero_grad()`, the line before, deletes the gradients of the last step, because
#   `backward()` adds to what is there.
# - `optimizer.step()` moves every number against its gradient, so that the loss falls.
#
# Did it work? We count how many of the eight messages have the higher score for the right class.

# %%
guesses = class_logits(model, padded, lengths).argmax(dim=1)    # (8,)
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
    ("Win a free holiday: text SUN to 61234 now!",
     [16643, 257, 1479, 9912, 25, 2420, 35329, 284, 718, 1065, 2682, 783, 0]),
    ("The train is stuck again, so I will be late. Do start without me, I can eat when I get home.",
     [464, 4512, 318, 7819, 757, 11, 523, 314, 481, 307, 2739, 13, 2141, 923, 1231, 502, 11, 314, 460, 4483,
      618, 314, 651, 1363, 13]),
]

# %%
if args.text is not None:    # your own message, of which mini reads 256 tokens
    from gpt.tokenizer import gpt2_tokenizer
    own = gpt2_tokenizer().encode_ordinary(args.text)
    NEW.append((args.text, own[:256] or [END_OF_TEXT]))

# %% [markdown]
# A message is called spam if its probability of spam is above one half.

# %%
def probabilities_of_new(model):
    padded, lengths = pad([ids for _, ids in NEW])
    with torch.no_grad():
        scores = class_logits(model, padded, lengths)    # (messages, 2)
    return scores.softmax(dim=1)[:, 1].tolist()          # of class 1, spam

# %%
for (text, _), p in zip(NEW, probabilities_of_new(model)):
    print(f"{'spam' if p > 0.5 else 'ham':4} (P(spam) = {p:.1%}) {text}")

# %%
answers = ["spam" if p > 0.5 else "ham" for p in probabilities_of_new(model)]
predict("the two answers", ["spam", "ham"], answers[:2])
#> the two answers: predicted ['spam', 'ham'], measured ['spam', 'ham']

# %% [markdown]
# Both are right. With two messages, that could be luck.
#
# ## 0.6 Was it luck, and did the reading help?
#
# Two questions are open. Would it work again with other random numbers in the $A$'s? And did it help that mini has read
# Wikipedia, or could a model that has read nothing do the same? We repeat everything ten times with other seeds, five
# times with mini and five times with a model of the same shape whose numbers are random. Two coin tosses would both be
# right one time in four. **How often are both answers right?**

# %%
section("0.6")
from gpt.config import GPT2_SIZES
from gpt.model import GPTModel

def untrained(seed):
    return GPTModel(GPT2_SIZES["mini"], torch.Generator().manual_seed(seed))

def both_right(model, seed):
    model.requires_grad_(False)
    swap_head(model, 2)
    generator = torch.Generator().manual_seed(seed)
    replace_linear_with_lora(model.trf_blocks, rank=16, alpha=16, generator=generator)
    twenty_steps(model)
    spam, ham = probabilities_of_new(model)[:2]
    return spam > 0.5 > ham

# %%
seeds = range(args.seed + 1, args.seed + 6)
mini_right = sum(both_right(load_gpt2("mini"), seed) for seed in seeds)
untrained_right = sum(both_right(untrained(seed), seed) for seed in seeds)
print(f"both right: mini {mini_right} of 5 times, "
      f"a model that has read nothing {untrained_right} of 5")

# %% [markdown]
# A single run can be luck: when this was written, the untrained model had both right in one run of five.
# mini had them right in all five. This is what **pretraining** is meant to give: a model that needs few examples. (The
# other model was frozen at its random numbers. Trained as a whole it might do better.)
#
# Two messages and five runs are a poor test all the same. Chapter 6 trains on 1,045 messages and tests on 300 others,
# and chapter 10 asks how far such a number can be trusted.
#
# ## What you have now
#
# In one minute you have taken a model that continues texts and made a filter out of it:
#
# 1. Eight messages became rows of ids.
# 2. A pretrained language model read them. What it knows about English sits in 7 million frozen numbers.
# 3. A new head gave two scores per message, and thin LoRA matrices gave the model room to adapt.
# 4. A loop of five lines trained the numbers that are not frozen, 2 % of all.
# 5. The filter sorted two messages that it had never seen.
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
# | 0.5, 0.6 how good the answers are | [chapter 5](05_spam_classifier.py) | gpt/evaluate/metrics.py |
#
# ## Break it
#
# Change one thing, run the chapter, and see whether you expected what happens:
#
# | where | change | what you should see |
# |---|---|---|
# | 0.3 | leave out `model.requires_grad_(False)` | 0.3 stops: only the blocks would be frozen, by LoRA |
# | 0.3 | `swap_head(model, 2, zero=False)` | 0.4 stops: the first loss is not ln 2 |
# | 0.4 | leave out `optimizer.step()` | 0.4 stops: 4 of 8, because `argmax` takes the first of equal scores |
# | 0.4, `twenty_steps` | `class_logits(model, padded)` | 0.4 stops: it was trained to be read at the padding |
# | 0.4 | `lr=1e-1` | 0.4 stops: 4 of 8 are right, because each step jumps too far |
#
# ## Try it
#
#     python chapters/00_first_minute.py --text "Are you awake?"
#     python chapters/00_first_minute.py --text "WINNER!! Claim your prize"    # ham, at 40 %: a near miss
#     python chapters/00_first_minute.py --seed 1                              # other random numbers in the A's
#     python chapters/01_tokens.py                                             # where the numbers come from
#
# ## Further reading
#
# - Radford et al. 2018, [Improving Language Understanding by Generative
#   Pre-Training](https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf). The
#   first GPT, and the idea of this chapter: read a lot first, learn the task afterwards.
# - Hu et al. 2021, [LoRA: Low-Rank Adaptation of Large Language Models](https://arxiv.org/abs/2106.09685).
