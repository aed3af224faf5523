# %% [markdown]
"""
# 4  Weights: train them, load them

After this chapter you can read a loss in nats, train a GPT-2 on plain text and see it overfit, take an interrupted run
up again, open OpenAI's file byte by byte, and choose how the next word is drawn. You need: chapter 3.

- Run: `python chapters/04_weights.py`; `--full` also trains mini as it is shipped, `data/mini/model.safetensors`
- Time: --quick 14 s; without a flag 15 s on mini; --full 51 min more; on 2 CPU cores (AMD EPYC), data there already
- Source: Radford et al. 2019; Jean et al. 2015, section 3 (a sample of the words); LevelDB's `doc/table_format.md`
"""

# %%
import json
import math

import numpy as np
import torch
from book import ROOT, figure, load_weights, predict, report, run_folder, section, show, start
from torch.nn import functional as F

from gpt.applications.pretrain import pretrain, read_mini_texts, read_wikitext, shares, text_losses
from gpt.batches import TextWindows, encode_documents
from gpt.checkpoint import Checkpoint
from gpt.config import GPT2_SIZES, GPTConfig
from gpt.download import fetch
from gpt.generate import choose, generate
from gpt.losses import cross_entropy_by_hand, next_token_loss, sampled_softmax_loss
from gpt.model import GPTModel
from gpt.plots import plot_text_losses
from gpt.storage.crc32c import crc32c, masked
from gpt.storage.openai_checkpoint import message_fields, read_footer, read_index
from gpt.tokenizer import gpt2_tokenizer, text_to_token_ids, token_ids_to_text
from gpt.train import train, training_step
from gpt.weights import MINI, from_openai, load_gpt2, load_openai, save_model

QUICK, FULL = dict(epochs=30), dict(epochs=60)    # how often the two pages of 4.3 are read
AS_SHIPPED = dict(epochs=4, sampled_batches=None, full_batches=100, batch_size=16, windows=150)    # --full; otherwise:
A_FEW_STEPS = dict(epochs=1, sampled_batches=15, full_batches=2, batch_size=8, windows=4)
args = start(__doc__, QUICK, FULL, "--model", "--full", "--resume")
folder, tokenizer = run_folder(args), gpt2_tokenizer()

# %% [markdown]
# ## 4.1 Cross-entropy: surprise, in nats
#
# A language model gives every token a probability. If the token that comes had probability p, the surprise is -ln p: 0
# for a certain one, ln 4 = 1.386 nats for one of four equally likely ones. Its mean is the cross-entropy, the loss that
# training makes small. exp of the mean is the perplexity: so many equally likely tokens would be as surprising. With Z
# the sum of all exp(score), p is exp(score) / Z and the surprise ln Z - score: ln Z is `logsumexp` in the code.

# %%
section("4.1")
logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 4.0, 0.0, 0.0]])    # (N, V) = (3, 4)
targets = torch.tensor([1, 2, 1])                                                              # the tokens that came
probabilities = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)                          # softmax, (3, 4)
surprises = -probabilities[torch.arange(3), targets].log()                                     # (3,)
print("nats:", *(f"{surprise:.3f}" for surprise in surprises), f"mean {surprises.mean():.3f}")
#> nats: 1.440 1.386 0.083 mean 0.970
predict("perplexity of the second, whose scores are equal", 4, surprises[1].exp().item(), 1e-6)
show(cross_entropy_by_hand)
for loss in cross_entropy_by_hand, F.cross_entropy:
    predict(f"{loss.__name__}, nats", surprises.mean().item(), loss(logits, targets).item(), 1e-6)

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E4.1` takes out the body of `cross_entropy_by_hand`;
# `python -m pytest --exercise E4.1` checks yours, with scores too large for `exp` as well.

# %% [markdown]
# ## 4.2 One step downhill
#
# ![A batch goes through the model, the guesses give a loss, the gradients go back, and the optimizer takes a small
# step.](diagrams/training_step.svg)
#
# *One training step.*
#
# The derivative of ln Z with respect to a score is that token's p, and the score of the token that came is subtracted.
# So the gradient of the loss is p - 1 for this token and p for all others. Gradient descent goes against it: score -
# rate * gradient. What autograd and SGD, the simplest optimizer, do is no more than that. AdamW goes along the mean of
# the recent gradients divided by their recent size: two numbers to remember for each parameter, and a first step of the
# rate itself, however large the gradient. (`zero_grad`: `backward` adds to the gradients that are there. `clip`
# shortens them all where too long.)

# %%
section("4.2")
scores, came, rate = logits[:1].clone().requires_grad_(), targets[:1], 0.1
gradient = probabilities[:1] - F.one_hot(came, 4)
cross_entropy_by_hand(scores, came).backward()
predict("gradient by hand equals autograd's", True, torch.allclose(gradient, scores.grad))
torch.optim.SGD([scores], lr=rate).step()
predict("a step of SGD equals one by hand", True, torch.allclose(scores, logits[:1] - rate * gradient))
print(f"surprise {surprises[0]:.3f} -> {cross_entropy_by_hand(scores, came):.3f} nats")
before = scores.detach().clone()
torch.optim.AdamW([scores], lr=rate, weight_decay=0.0).step()
predict("AdamW's first step", [-0.1, 0.1, -0.1, -0.1], [round(s, 4) for s in (scores - before)[0].tolist()])
show(training_step)

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E4.2` takes out the body of `training_step`;
# `python -m pytest --exercise E4.2` checks yours.

# %% [markdown]
# ## 4.3 Two pages to learn from
#
# Four fifths of a Wikipedia article are to be learnt, the last fifth is held out. The words are GPT-2's tokens, but
# only those of this article, numbered anew: a small head makes fast steps. Two losses to beat: ln V, that of one who
# knows nothing, and that of one who only counts how often each word comes (a unigram model; plus 1, so that none is
# impossible). Two in five words of the last fifth do not occur before: nobody can learn these, so losses are given for
# the others as well.

# %%
section("4.3")
ids = encode_documents(read_wikitext(fetch("wikitext-2/valid.raw.gz"))[:1], tokenizer)
words, article = ids.unique(return_inverse=True)                           # (V,) GPT-2's ids; (N,) numbers 0..V - 1
V, T, cut = len(words), 32, 1640
page, rest = (part[:len(part) // (T + 1) * (T + 1)].view(-1, T + 1) for part in (article[:cut], article[cut:]))
counts = torch.bincount(article[:cut], minlength=V) + 1
surprise, known = -(counts / counts.sum()).log()[rest[:, 1:]], torch.isin(rest[:, 1:], page)    # (rows, T) each
counting = surprise.mean().item()
print(f"{tokenizer.decode(ids[1:24].tolist())!r}...: {cut:,} + {len(article) - cut} tokens, {V} different ones;\n"
      f"to beat: ln V {math.log(V):.2f} nats, counting {counting:.2f}, in words that the page has shown "
      f"{surprise[known].mean():.2f}")
#> to beat: ln V 6.65 nats, counting 6.23, in words that the page has shown 5.03


def fresh_run(file, resume=False):
    """All that a new process would make: a model, its optimizer, its checkpoint (saved after every step)."""
    model = GPTModel(GPTConfig(V, T, emb_dim=64, n_heads=4, n_layers=2), torch.Generator().manual_seed(args.seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return model, optimizer, Checkpoint(folder / file, model, optimizer, {"seed": args.seed}, resume=resume, every=0.0)

# %% [markdown]
# ## 4.4 Train, and see it learn by heart
#
# A row of T + 1 tokens is T lessons: at each place the next token is the target. The loss of pages that are read again
# and again goes on falling. The loss of the rest says when learning has become learning by heart.

# %%
section("4.4")
model, optimizer, _ = fresh_run("not-saved.pt")
predict("first loss (ln V)", math.log(V), next_token_loss(model, page).item(), 0.02)
batches = TextWindows(article[:cut], T, batch_size=8, seed=args.seed)


def note_text_losses(progress):
    """The losses of the page, of the rest, and of those of its words that the page has shown."""
    of_word = F.cross_entropy(model(rest[:, :-1]).transpose(1, 2), rest[:, 1:], reduction="none")    # (rows, T)
    losses = next_token_loss(model, page), of_word.mean(), of_word[known].mean()
    progress.history.append((progress.step, *(loss.item() for loss in losses)))


progress = train(model, batches, next_token_loss, optimizer, args.epochs, after_epoch=note_text_losses)
steps, page_losses, rest_losses, known_losses = zip(*progress.history)
best = rest_losses.index(min(rest_losses))
predict("held-out loss turns before the end", True, best < len(steps) - 1)
print(f"held-out loss turns at step {steps[best]} of {steps[-1]}, at {rest_losses[best]:.2f} nats (known words "
      f"{known_losses[best]:.2f}), and rises to {rest_losses[-1]:.2f};\n"
      f"training loss goes on falling, from {page_losses[best]:.2f} to {page_losses[-1]:.2f}")
written = generate(model.eval(), page[:1, :8], 24)[0]                      # (T,), always the most probable word
print(f"it writes {tokenizer.decode(words[written].tolist())!r}")
figure(plot_text_losses(steps, page_losses, rest_losses, {"ln V": math.log(V), "counting": counting},
                        "It learns, then it learns by heart"), folder, "04_overfitting")

# %% [markdown]
# **Your turn.** The loss of this training was `next_token_loss`, which never holds all scores at once.
# `python tests/exercises.py start E4.7` takes out its body; `python -m pytest --exercise E4.7` checks yours.

# %% [markdown]
# ## 4.5 Interrupted, and taken up again
#
# A run is more than its weights: AdamW remembers two numbers for each, and the batches and random numbers must go on
# where they were. A checkpoint holds all of it, so a run that goes on ends with the same bits. The crash: a look at the
# model after step 5 that divides by zero.

# %%
section("4.5")
undisturbed, optimizer, checkpoint = fresh_run("undisturbed.pt")
train(undisturbed, batches, next_token_loss, optimizer, 2, checkpoint=checkpoint)
crashed, optimizer, checkpoint = fresh_run("crashed.pt")
try:
    train(crashed, batches, next_token_loss, optimizer, 2, checkpoint=checkpoint, after_step=lambda p: 1 / (5 - p.step))
except ZeroDivisionError:    # step 5 was done but not yet saved, so it is lost
    ratio = checkpoint.path.stat().st_size / sum(p.nbytes for p in crashed.parameters())
    predict("the checkpoint has so many times the weights' bytes: they, and two numbers for each", 3, ratio, 0.1)
resumed, optimizer, checkpoint = fresh_run("crashed.pt", resume=True)
train(resumed, batches, next_token_loss, optimizer, 2, checkpoint=checkpoint)
same = list(map(torch.equal, resumed.parameters(), undisturbed.parameters()))
predict("tensors in which the resumed run differs, if only by a bit", 0, same.count(False))

# %% [markdown]
# ## 4.6 A sample stands for all words
#
# A row times a matrix of C x V is 2 C V operations. A block has $12\,C^2$ weights, the head C V, and V does not shrink
# with the model: most of what mini computes is scores. (Who is in a hurry goes on with 4.7: nothing needs this.)

# %%
section("4.6")
for name, size in GPT2_SIZES.items():
    head, blocks = size.vocab_size, 12 * size.emb_dim * size.n_layers    # of 2 C each; attention's products left out
    print(f"{name}: {head / (head + blocks):.0%} of the operations for a token are in the head")
#> mini: 89% of the operations for a token are in the head

# %% [markdown]
# Surprise is ln Z - score, Z the sum of exp(score) over all words. Z can be estimated as a poll estimates a country:
# ask a few, and let each answer count `1 / pi` times, `pi` its chance of being asked at all: 1 less that of being
# missed by all three draws of a poll, $(1 - \text{frequency})^3$. Six words, polls of three:

# %%
scores = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, 0.0])
frequency = torch.tensor([0.40, 0.25, 0.05, 0.05, 0.15, 0.10])
drawn = torch.multinomial(frequency, 3 * 20_000, replacement=True, generator=torch.Generator().manual_seed(args.seed))
asked = torch.zeros(20_000, 6).scatter(1, drawn.view(20_000, 3), 1.0)    # 1 where the poll asked the word
pi = 1 - (1 - frequency) ** 3
predict("Z, mean of 20,000 polls", scores.exp().sum().item(), (asked * scores.exp() / pi).sum(1).mean().item(), 0.01)
# Sampled softmax does it on mini: 4,096 draws and the rows' own 1,024 targets stand for 50,257 words. The estimate is
# near and mostly some hundredths high, for the rows' own words were not drawn. (257: 256 tokens and the one after.)
mini, (training, held_out) = load_gpt2("mini"), read_mini_texts(tokenizer, documents=None if args.full else 600)
rows, unigram = training[:4 * 257].view(4, 257).long(), shares(training, 50_257)
with torch.no_grad():
    polls = [sampled_softmax_loss(mini, rows, unigram, 4096, torch.Generator().manual_seed(i)) for i in range(10)]
    predict("mini's loss, exact and by 10 polls", next_token_loss(mini, rows).item(), sum(polls).item() / 10, 0.03)

# %% [markdown]
# ## 4.7 How mini was trained
#
# It read Wikipedia articles, which are edited prose, and newsgroup posts, which are people talking, as text messages
# are. Nearly all steps score a sample of the words, the last ones all: the two speeds show what that means in time.
# `--full` repeats it; without it there are a few steps, from the first 600 documents of each.

# %%
section("4.7")
model = GPTModel(GPT2_SIZES["mini"], torch.Generator().manual_seed(args.seed)).to(args.device)
how = AS_SHIPPED if args.full else A_FEW_STEPS
before = text_losses(model, held_out, how["windows"])
mini_folder = folder.parent / f"mini-default-{'full' if args.full else 'few-steps'}-seed{args.seed}"
phases = pretrain(model, training, held_out, **how, seed=args.seed, folder=mini_folder, resume=args.resume)
for phase, done in phases.items():
    print(f"{phase}: {256 * done.seen:,} tokens, {256 * done.seen / done.seconds:,.0f} a second")
results = ROOT / "figures" / "results"
shipped = json.loads((results / "04-mini-full-seed123.json").read_text(encoding="utf-8"))["validation_loss"]
after, tokens = text_losses(model, held_out, how["windows"]), 256 * sum(done.seen for done in phases.values())
for name, loss in after.items():
    print(f"{name}: {before[name]:.3f} nats per token before, {loss:.3f} after (as shipped {shipped[name]:.3f})")
save_model(model, MINI if args.full else mini_folder / "model.safetensors", torch.float16, tokens_seen=tokens,
           command="python chapters/04_weights.py --full")
report(mini_folder, args, tokens_seen=tokens, training_tokens=len(training), untrained_loss=before,
       validation_loss=after, seconds_training=sum(done.seconds for done in phases.values()))

# %% [markdown]
# **Your turn.** `pretrain` gets its learning rates from `warmup_then_cosine`, which no section shows: they rise for 100
# steps and then fall along half a cosine. `python tests/exercises.py start E4.3` takes out its body;
# `python -m pytest --exercise E4.3` checks yours.

# %% [markdown]
# ## 4.8 OpenAI's file, from its last byte
#
# The other way to weights: take trained ones. TensorFlow wrote OpenAI's files; this tiny one of the same format too.
# The index is a table that is read from its end: the last 48 bytes say where all else is, in varints (7 bits a byte,
# lowest first, the top bit set where more follow), then zeros and a magic number. (Nothing later needs 4.8 either.)

# %%
section("4.8")
TINY = ROOT / "tests" / "fixtures" / "openai_tiny"
data = (TINY / "model.ckpt.index").read_bytes()
print(data[-48:-40].hex(" "), "...", data[-8:].hex(" "))
#> 84 0a 08 91 0a 0f 00 00 ... 57 fb 80 8b 24 75 47 db
numbers, number, shift = [], 0, 0
for byte in data[-48:-42]:    # the six bytes before the zeros
    number, shift = number | (byte & 0x7F) << shift, shift + 7
    if byte < 0x80:    # the last byte of this number
        numbers, number, shift = [*numbers, number], 0, 0
predict("metaindex block (empty) and index block: offset, size", (numbers[:2], numbers[2:]), read_footer(data))

# %% [markdown]
# The index block says that the one data block begins at byte 0 (`read_index` decodes it; here we believe it). Its
# entries are sorted by name, so each stores how many bytes its name shares with the one before, the lengths of its own
# rest and of its value, then both. The first has no name: it is about the file.

# %%
at, name, entries = 0, b"", {}
for _ in range(4):
    shared, own, length = data[at:at + 3]    # varints too; all are below 128 here, so one byte each
    name, at = name[:shared] + data[at + 3:at + 3 + own], at + 3 + own + length
    entries[name.decode()] = data[at - length:at]
    print(f"{shared:2} bytes shared, {own:2} of its own: {name.decode()!r}")
#> 21 bytes shared,  1 of its own: 'model/h0/attn/c_attn/w'

# %% [markdown]
# A value is a protocol buffer: tag, value, tag, value. A tag is 8 * field + how the value is stored (0 varint, 2 length
# and bytes, 5 four bytes). Fields: 1 dtype (1 is float32), 2 shape, each axis a message again, 4 offset, 5 size, 6 the
# checksum `crc32c`, stored rotated and with a constant added: masked.

# %%
print(entries["model/h0/attn/c_attn/w"].hex(" "))
#> 08 01 12 0d 12 02 08 01 12 02 08 30 12 03 08 90 01 20 c0 04 28 80 d8 01 35 db a8 9f 15
found = dict(message_fields(entries["model/h0/attn/c_attn/w"]))
shape, offset, size = [dict(message_fields(axis))[1] for _, axis in message_fields(found[2])], found[4], found[5]
print(read_index(TINY / "model.ckpt.index")["model/h0/attn/c_attn/w"])
#> Entry(shape=(1, 48, 144), dtype=1, shard=0, offset=576, size=27648, crc32c=362784987)
stored = bytearray((TINY / "model.ckpt.data-00000-of-00001").read_bytes()[offset:offset + size])
predict("its checksum", found[6], masked(crc32c(stored)))
c_attn = torch.from_numpy(np.frombuffer(stored, "<f4").reshape(shape))    # (1, C, 3 C), little-endian floats

# %% [markdown]
# **Your turn.** The library reads these numbers with `varint`, which also refuses damaged bytes.
# `python tests/exercises.py start E4.5` takes out its body; `python -m pytest --exercise E4.5` checks yours.

# %% [markdown]
# ## 4.9 A trap in the layout
#
# ![Where the tensors of OpenAI's file go: c_attn is cut in three and transposed, linear weights are transposed, the
# rest gets new names.](diagrams/openai_tensors.svg)
#
# *Where the tensors of OpenAI's file go in ours.*
#
# OpenAI computes $x W$, so W is (in, out); `nn.Linear` computes $x W^T$ and holds (out, in). And `c_attn` is query, key
# and value side by side. A query matrix is square: leave it untransposed and all shapes fit. So shapes prove nothing
# here; the logits of another implementation do, and those of Hugging Face's for this file lie beside it.

# %%
section("4.9")
show(from_openai)
model, oracle = load_openai(TINY), np.load(TINY / "oracle.npz")
query, C = model.trf_blocks[0].att.W_query.weight.data, model.config.emb_dim
predict("query is c_attn's first third, transposed", True, torch.equal(query, c_attn[0, :, :C].T))
for how, loaded in ("transposed", c_attn[0, :, :C].T), ("not transposed", c_attn[0, :, :C]):
    query.copy_(loaded)
    off = np.abs(model(torch.tensor(oracle["tokens"])).numpy(force=True) - oracle["logits"]).max()
    predict(f"query {how}: logits within 1e-4 of Hugging Face's", how == "transposed", bool(off < 1e-4))

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E4.6` takes out the body of `from_openai`, where the trap lies;
# `python -m pytest --exercise E4.6` checks yours.

# %% [markdown]
# ## 4.10 Trained weights
#
# Greedy: always the most probable token. What OpenAI's 124M writes is known, so a wrong loader shows here. Where its
# file cannot be had, 4.8 and 4.9 were the same road on a tiny one, and what follows is mini's own file.

# %%
section("4.10")
model, weights = load_weights(args)
prompt = text_to_token_ids("Every effort moves you", tokenizer)
written = token_ids_to_text(generate(model, prompt, 25)[0, prompt.shape[1]:], tokenizer)
print(f"{weights}: Every effort moves you ->{written!r}")
if weights == "gpt2-small (124M)":
    predict("as published", " forward.\n\nThe first step is to understand the importance of your work", written[:70])
with torch.no_grad():    # what 4.4 was asked, among the same V words
    logits = model(words[rest[:, :-1]].long())[..., words.long()].flatten(0, 1)                       # (B T, V)
print(f"last fifth of 4.3: counting {counting:.2f}, 4.4 {rest_losses[best]:.2f} at its best, {weights} "
      f"{F.cross_entropy(logits, rest[:, 1:].flatten()):.2f} nats, and it trained on other texts")

# %% [markdown]
# What is it worth to have read? On average most where there is little else to learn from, though these five seeds
# differ too much to be sure: chapter 10's spam filters, mini trained as a whole, from a run that is kept.

# %%
curves = json.loads((results / "10-mini-default-seed123.json").read_text(encoding="utf-8"))["learning_curves"]
for n in ("16", "1045"):
    read, unread = (curves[name][n][0] for name in ("everything", "untrained, everything"))
    print(f"{int(n):5,} messages: {read:.1%} of the test messages right, {unread:.1%} without having read")
#>    16 messages: 86.3% of the test messages right, 78.9% without having read
#> 1,045 messages: 96.6% of the test messages right, 94.3% without having read

# %% [markdown]
# ## 4.11 Draw the next word
#
# To draw is to be bold now and then. Scores / temperature: below 1 the probable becomes more so. Top-k keeps the k
# best; top-p the fewest that together reach p: few where the model is sure, many where it is not. On five scores:

# %%
section("4.11")
scores = torch.tensor([1.0, 3.0, -1.0, 2.0, 0.0])
p = scores.exp() / scores.exp().sum()    # 0.086, 0.636, 0.012, 0.234, 0.032
for settings, kept in [({"temperature": 0.5}, p ** 2),    # half the temperature squares the odds
                       ({"temperature": 1.0, "top_k": 2}, p * (p > 0.2)),
                       ({"temperature": 1.0, "top_p": 0.9}, p * (p > 0.05))]:    # 0.636 + 0.234 do not reach 0.9
    drawn = choose(scores.expand(10_000, 5), **settings, generator=torch.Generator().manual_seed(args.seed))[:, 0]
    kept = kept / kept.sum()
    predict(f"{settings}: the word with score 3", kept[1].item(), (drawn == 1).float().mean().item(), 0.03)
    predict("draws of words that were cut off", 0, int((kept[drawn] == 0).sum()))

# %% [markdown]
# A word of the tail is improbable, but there are 50,000 of them. What does each temperature leave to the 100 best?

# %%
scores = model(prompt)[0, -1].detach()
for settings in {"temperature": 0.5}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}, {"temperature": 2.0}:
    p = (scores / settings["temperature"]).softmax(dim=-1).sort(descending=True).values                  # (V,)
    p = p * (p.cumsum(dim=0) - p < settings.get("top_p", 2))    # top-p: none after those that reach it
    best_100 = p[:100].sum() / p.sum()
    ids = generate(model, prompt, 16, **settings, generator=torch.Generator().manual_seed(args.seed))
    print(f"{settings}, the 100 best have {best_100:.0%}: {token_ids_to_text(ids[0], tokenizer)!r}")

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E4.4` takes out the body of `choose`, with all three settings;
# `python -m pytest --exercise E4.4` checks yours.

# %% [markdown]
# ## What you have now
#
# A loss that you can read, a run that survives a crash, and weights out of OpenAI's own file.
#
# ## Break it
#
# Change one thing, run the chapter, and see whether you expected what happens:
#
# | where | change | what you should see |
# |---|---|---|
# | `gpt/losses.py`, `next_token_loss` | unshifted targets, `token_ids[:, :-1]` | 4.4 stops: first loss 5.9, not 6.65 |
# | `gpt/train.py` | leave out `zero_grad` | 4.4: training loss 7.3 in place of 1.0; 4.5 stops |
# | `gpt/checkpoint.py` | leave out `load_state_dict` | 4.5 stops: the resumed run differs in all 36 tensors |
# | `gpt/losses.py` | leave out `- log_pi` | 4.6 stops: the 10 polls say 5.32, the exact loss is 4.96 |
# | `gpt/weights.py` | leave out the `tensor.t()` | 4.9 stops, names 15 tensors, not `out_proj`: it is square |
# | `gpt/generate.py`, `choose` | `before = cumsum` alone | 4.11 stops: what `top_p` 0.9 keeps does not reach 0.9 |
#
# ## Try it
#
#     python chapters/04_weights.py --model mini         two pages read 60 times: how high does the held-out loss rise?
#     python chapters/04_weights.py --quick --seed 1     which numbers are luck?
