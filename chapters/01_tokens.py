# %% [markdown]
"""
# 1  Tokens: from text to numbers, and on to vectors

After this chapter you can learn byte-pair merges by hand, encode text with GPT-2's own, say why a text has the tokens
that it has, and cut a long text into training windows. You need: Python and a little torch.

- Run: `python chapters/01_tokens.py`
- Time: --quick 2 s; full, all messages, 6 s; on 2 CPU cores (AMD EPYC), data there already
- Source: Sennrich et al. 2016, section 3.2; Radford et al. 2019, section 2.2
"""

# %%
from collections import Counter
from itertools import pairwise

import regex    # comes with tiktoken; Python's own re does not know \p{L}, any letter
import torch
from book import predict, section, show, start

from gpt.batches import TextWindows, encode_documents
from gpt.download import fetch
from gpt.spam import read_sms
from gpt.tokenizer import END_OF_TEXT, SPLIT, gpt2_tokenizer, read_ranks, text_to_token_ids
from gpt.weights import load_gpt2

QUICK, FULL = dict(messages=500), dict(messages=5574)
args = start(__doc__, QUICK, FULL)

# %% [markdown]
# ## 1.1 Text is bytes
#
# A model computes with numbers, so every text must become a row of them. It is one already: files and phones hold text
# as bytes, 0 to 255. UTF-8 says which: one for English letters, digits and signs (ASCII), two to four for all others.

# %%
section("1.1")
text = "Win £5 now 🎉"
print(list(text.encode("utf-8")))
#> [87, 105, 110, 32, 194, 163, 53, 32, 110, 111, 119, 32, 240, 159, 142, 137]
predict("bytes: 10 of ASCII, 2 for the pound sign, 4 for the emoji", 10 + 2 + 4, len(text.encode("utf-8")))
# So 256 numbers are enough. But the rows are long, and what a model does for each number of a row it would do for each
# letter. Hence tokens: bytes that often stand together become one.

# %% [markdown]
# ## 1.2 Learn merges from one sentence
#
# Byte-pair encoding: count all pairs of neighbours, make the most frequent pair one part, and count again. Of pairs
# that are equally frequent the one that came first wins. GPT-2's vocabulary is 50,000 such merges.

# %%
section("1.2")


def merge(parts, pair):
    """Each place where the pair stands, from left to right, becomes one part."""
    merged = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def learn_merges(pieces, steps):
    """The pairs in the order of merging, each with how often it stood there, and the pieces as they are after that."""
    rows, counts = [[bytes([byte]) for byte in piece.encode("utf-8")] for piece in pieces], {}
    for _ in range(steps):
        pairs = Counter(pair for row in rows for pair in pairwise(row))
        best = max(pairs, key=pairs.get)    # of equals the first
        counts[best] = pairs[best]
        rows = [merge(row, best) for row in rows]
    return counts, rows


sentence = "the cat and the hat and the bat"
counts, rows = learn_merges([sentence], 8)
for number, (pair, count) in enumerate(counts.items(), start=1):
    print(f"merge {number}: {pair[0]} + {pair[1]}, {count} times")
print(rows[0])
#> [b'the ', b'c', b'at and', b' ', b'the ', b'h', b'at and', b' ', b'the ', b'b', b'at']
predict("parts left: the sentence less the counts", len(sentence) - sum(counts.values()), len(rows[0]))
#> parts left: the sentence less the counts: predicted 11, measured 11

# %% [markdown]
# ## 1.3 Cut first, then merge
#
# ![t and h become th in merge 1, th and e become the in merge 2, a space and the become one part in merge 7; in the
# piece beside it a and t become at in merge 3.](diagrams/merge_tree.svg)
#
# *Two pieces of the sentence, merged by the seven merges that the cell below learns. No merge crosses the cut.*
#
# `b'at and'` is the end of one word and all of the next: of little use elsewhere. So GPT-2 first cuts text into pieces
# by a pattern, and no merge crosses a cut. A word takes one space before it along, and nothing is lost at a cut.

# %%
section("1.3")
text = "I'll pay £5,000  for the cat!!"
print(regex.findall(SPLIT, text))
#> ['I', "'ll", ' pay', ' £', '5', ',', '000', ' ', ' for', ' the', ' cat', '!!']
predict("the pieces joined", text, "".join(regex.findall(SPLIT, text)))
counts, rows = learn_merges(regex.findall(SPLIT, sentence), 7)
print([b"".join(pair) for pair in counts], rows[:3])
#> [b'th', b'the', b'at', b' a', b' an', b' and', b' the'] [[b'the'], [b' ', b'c', b'at'], [b' and']]

# %% [markdown]
# ## 1.4 Encode: what was learnt first is merged first
#
# A new text is merged as the sentence was. Bytes have the ids 0 to 255, each merge gets the next one, so a low id means
# learnt early. In each piece, merge the pair that makes the token with the lowest id; again, until no pair makes one.

# %%
section("1.4")


def encode_by_hand(text, ranks):
    """The ids of a text; ranks: dict from a token's bytes to its id."""
    ids = []
    for piece in regex.findall(SPLIT, text):
        parts = [bytes([byte]) for byte in piece.encode("utf-8")]
        while pairs := [pair for pair in pairwise(parts) if b"".join(pair) in ranks]:
            parts = merge(parts, min(pairs, key=lambda pair: ranks[b"".join(pair)]))
        ids += [ranks[part] for part in parts]
    return ids


own = {bytes([byte]): byte for byte in range(256)} | {b"".join(pair): 256 + i for i, pair in enumerate(counts)}
predict("the sentence", [own[part] for row in rows for part in row], encode_by_hand(sentence, own))
print([list(own)[i] for i in encode_by_hand("a hat on the path", own)])    # words that it has not seen
#> [b'a', b' ', b'h', b'at', b' ', b'o', b'n', b' the', b' ', b'p', b'a', b'th']
# In "path" b'at' would fit as well, but b'th' was learnt first.

# %% [markdown]
# ## 1.5 GPT-2's 50,000 merges
#
# The file `vocab.bpe` holds them, one a line, with a visible sign for each byte: a space is `Ġ`. Single bytes have the
# ids 0 to 255 in the order of these signs, so 0 is `!`. One id is no text: `<|endoftext|>`, the last.

# %%
section("1.5")
show(read_ranks)
vocab_bpe = fetch("vocab.bpe").read_text(encoding="utf-8")
print(vocab_bpe.splitlines()[1:11])
#> ['Ġ t', 'Ġ a', 'h e', 'i n', 'r e', 'o n', 'Ġt he', 'e r', 'Ġ s', 'a t']
messages = read_sms(fetch("sms"))["Text"].tolist()[:args.messages]
pieces = [piece for message in messages for piece in regex.findall(SPLIT, message)]
print(f"{len(messages):,} text messages would give {[b''.join(pair) for pair in learn_merges(pieces, 10)[0]]}")
#> 500 text messages would give [b' t', b' a', b'in', b'ou', b're', b' s', b'he', b' w', b' m', b' c']
ranks, gpt2 = read_ranks(vocab_bpe), gpt2_tokenizer()    # gpt2 is tiktoken's, which does this in Rust
predict("ids: bytes, merges, <|endoftext|>", 256 + 50_000 + 1, gpt2.n_vocab)    # V, the size of the vocabulary
#> ids: bytes, merges, <|endoftext|>: predicted 50,257, measured 50,257
predict("' the' is one token, from merge 7", [256 + 7 - 1], gpt2.encode_ordinary(" the"))
predict("'!' is the first sign", [0], gpt2.encode_ordinary("!"))
same = sum(encode_by_hand(message, ranks) == gpt2.encode_ordinary(message) for message in messages)
predict("messages with the same ids by hand and by tiktoken", len(messages), same)
#> messages with the same ids by hand and by tiktoken: predicted 500, measured 500

# %% [markdown]
# **Your turn.** `read_ranks` gets the visible signs from `byte_alphabet`. `python tests/exercises.py start E1.1` takes
# out the body of `byte_alphabet`, `python tests/exercises.py start E1.2` that of `read_ranks`;
# `python -m pytest --exercise E1.1` and `--exercise E1.2` check yours.

# %% [markdown]
# ## 1.6 Learnt first is not longest first
#
# One might expect that the encoder takes the longest token that fits, or as few tokens as can be. It does neither.

# %%
section("1.6")


def tokens(text):
    """The tokens that GPT-2 makes of a text, as bytes."""
    return [gpt2.decode_single_token_bytes(i) for i in gpt2.encode_ordinary(text)]


def longest_first(rest):
    """What a piece would be if each token were the longest that fits: not GPT-2's way."""
    if not rest:
        return []
    length = max(n for n in range(1, len(rest) + 1) if rest[:n] in ranks)
    return [rest[:length], *longest_first(rest[length:])]


print(tokens("Haha"), longest_first(b"Haha"))
#> [b'H', b'aha'] [b'Ha', b'ha']
print(f"the messages: {sum(len(tokens(piece)) for piece in pieces):,} tokens; with the longest first "
      f"{sum(len(longest_first(piece.encode('utf-8'))) for piece in pieces):,}")
#> the messages: 11,486 tokens; with the longest first 11,414

# %% [markdown]
# ## 1.7 What looks alike need not be alike
#
# A capital or a space in front makes another token; numbers fall apart as the merges happen to be; `'d` is cut off as
# in "he'd". That `" the"` and `"The"` are one word, or how much `" 2000"` is, nothing tells the model: it must learn
# it.

# %%
section("1.7")
for text in ("the", " the", "The", "winner", "WINNER", "don't", "DON'T", "b'day", " 2000", "07123456789"):
    print(f"{text!r:14} {tokens(text)}")
#> "b'day"        [b'b', b"'d", b'ay']
#> '07123456789'  [b'07', b'123', b'45', b'67', b'89']
print(f"{sum(token.startswith(b' ') for token in ranks):,} of {len(ranks):,} tokens begin with a space")
#> 33,135 of 50,256 tokens begin with a space
# Two texts encoded apart need not have the ids of the joined text. So a prompt should not end with a space: the first
# row below is never made of any text, and a model that learnt from text has not seen it.
print(tokens("The city of ") + tokens("London"), tokens("The city of London"))
#> [b'The', b' city', b' of', b' ', b'London'] [b'The', b' city', b' of', b' London']
# What someone types is text. Id 50256, which ends a text, is made only where a program asks for it.
predict("tokens of a typed sign", 7, text_to_token_ids("<|endoftext|>", gpt2).shape[1])    # <, |, end, of, text, |, >
predict("asked for", [END_OF_TEXT], gpt2.encode("<|endoftext|>", allowed_special="all"))

# %% [markdown]
# ## 1.8 No text is unknown, but some are expensive
#
# Every byte is a token, so there is no "unknown word". Each character of Unicode, there and back (the gap holds none):

# %%
section("1.8")
everything = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
predict(f"{len(everything):,} characters come back", True, gpt2.decode(gpt2.encode_ordinary(everything)) == everything)
print(tokens("🎉"), [gpt2.decode([i]) for i in gpt2.encode_ordinary("🎉")])
#> [b'\xf0\x9f', b'\x8e', b'\x89'] ['�', '�', '�']
# A part of an emoji is no text and is shown as U+FFFD: who prints token by token must wait for the rest. And ids ->
# text -> ids may change the ids: many rows spell one text, and the encoder makes one of them.
predict("t + he, decoded and encoded", [ranks[b"the"]], gpt2.encode_ordinary(gpt2.decode([ranks[b"t"], ranks[b"he"]])))
# Cheap is what the merges were learnt from. To judge by their tokens, little of that was Greek:
print(f"{sum(token.isascii() for token in ranks):,} of {len(ranks):,} tokens are plain ASCII")
#> 49,383 of 50,256 tokens are plain ASCII
for text in ("Good morning! Where are you? I am waiting for you at the station, and it is cold.",
             "Guten Morgen! Wo bist du? Ich warte auf dich am Bahnhof, und es ist kalt.",
             "Καλημέρα! Πού είσαι; Σε περιμένω στον σταθμό και κάνει κρύο.", "\n".join(messages)):
    print(f"{len(text) / len(tokens(text)):.1f} characters a token: {text[:24]!r}")
#> 3.9 characters a token: 'Good morning! Where are '
#> 2.6 characters a token: 'Guten Morgen! Wo bist du'
#> 0.9 characters a token: 'Καλημέρα! Πού είσαι; Σε '

# %% [markdown]
# ## 1.9 Sliding windows: the text holds the answers
#
# ![Nine tokens in a row; the first window reads tokens 0 to 3 and has 1 to 4 as targets, the second reads 4 to 7 and
# has 5 to 8.](diagrams/windows.svg)
#
# *Two windows of four tokens. The targets are the same text, one place further on.*
#
# A language model learns to say what comes next, which stands in the text, one place to the right. A window of 4
# tokens, and the one after it, is 4 exercises and not one: each answer is sought from all tokens before it.

# %%
section("1.9")
row = [END_OF_TEXT, *gpt2.encode_ordinary(sentence)]    # so that the first word is an answer too
inputs, targets = row[:4], row[1:5]
for t in range(4):
    print(f"{gpt2.decode(inputs[:t + 1])!r} -> {gpt2.decode([targets[t]])!r}")
#> '<|endoftext|>the cat and' -> ' the'
for stride in (1, 2, 4):    # where the next window begins
    answers = Counter(begin + 1 + t for begin in range(0, 100, stride) for t in range(4))
    predict(f"stride {stride}: token 50 is an answer this often", 4 // stride, answers[50])
# Windows are read several at once, as the rows of a batch: B rows of T tokens each, and one more for the last answer,
# cut from a text of N. TextWindows moves on by whole windows, and in each epoch (once through the text) it begins
# elsewhere, so that other tokens are the first of a window.
show(TextWindows.set_epoch)
show(TextWindows.__iter__)
text_row = encode_documents(messages, gpt2).long()                                           # (N,)
windows = TextWindows(text_row, window=64, batch_size=8, seed=args.seed)
batch, begin = next(iter(windows)), windows.rows[0][0]                                       # (B, T + 1)
predict("the first row's targets are the text, one on", True, batch[0, 1:].equal(text_row[begin + 1:begin + 65]))

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E1.3` takes out the body of `TextWindows.__iter__`, which you have
# just read; `python -m pytest --exercise E1.3` checks yours.

# %% [markdown]
# ## 1.10 A token becomes a vector
#
# ![Ids 2 and 0 pick rows 2 and 0 of a table with four rows; a row of the position table is added to
# each.](diagrams/lookup.svg)
#
# *From ids to vectors, with the table of the cell below.*
#
# An id is a name, not an amount. So each id has a row of a table, its embedding, a vector of C numbers (channels).
# Training sets them: they are parameters. Looking a row up is the same as multiplying the table by a one-hot row, 1 at
# the id and 0 elsewhere, without the work.

# %%
section("1.10")
table = torch.tensor([[0.0, 0.5, 1.0], [1.0, 1.5, 2.0], [2.0, 2.5, 3.0], [3.0, 3.5, 4.0]])   # (V, C) = (4, 3)
one_hot = torch.tensor([[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])                         # (T, V) = (2, 4)
predict("rows 2 and 0", table[torch.tensor([2, 0])].tolist(), (one_hot @ table).tolist())
#> rows 2 and 0: predicted [[2.0, 2.5, 3.0], [0.0, 0.5, 1.0]], measured [[2.0, 2.5, 3.0], [0.0, 0.5, 1.0]]
# The row is the same wherever the token stands. A second table has a row for each position, and the two are added.
model = load_gpt2("mini")    # C = 128
show(model.embed)
predict("numbers in mini's token table, V C", 50_257 * 128, model.tok_emb.weight.numel())
print(f"{6_432_896 / sum(p.numel() for p in model.parameters()):.0%} of mini; 124M: {50_257 * 768 / 124_439_808:.0%}")
#> 89% of mini; 124M: 31%
vectors = model.embed(text_to_token_ids(sentence, gpt2)).detach()                            # (B, T, C)
predict("B, T, C", (1, 8, 128), tuple(vectors.shape))
apart = model.pos_emb.weight[6] - model.pos_emb.weight[3]                                    # (C,)
predict("' the' at 6 less ' the' at 3 is place 6 less place 3", True,
        (vectors[0, 6] - vectors[0, 3]).allclose(apart, atol=1e-6))
# Mini was told what comes next and nothing else. Which rows point most nearly the way a word's does? (Cosine: the dot
# product of two vectors brought to length 1; 1 for the same direction, 0 for unrelated ones.) Not all are good.
unit = torch.nn.functional.normalize(model.tok_emb.weight.detach(), dim=1)                   # (V, C)
for word in (" three", " Monday", " he", " French", " London"):
    nearest = (unit @ unit[ranks[word.encode()]]).topk(5).indices[1:]                        # (4,), the word left out
    print(f"{word!r}: {[gpt2.decode([i]) for i in nearest.tolist()]}")

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E1.4` takes out the body of `GPTModel.embed`. Yours also has to refuse
# ids and positions that the tables do not have; `python -m pytest --exercise E1.4` says whether it does.

# %% [markdown]
# ## What you have now
#
# GPT-2's encoder by hand, windows with their answers, and a vector for each token and place.
#
# ## Break it
#
# Change one thing, run the chapter, and see whether you expected what happens:
#
# | where | change | what you should see |
# |---|---|---|
# | `gpt/tokenizer.py`, `SPLIT` | `\| ?\p{L}+` without its ` ?` | 1.5 stops: " the" is [220, 1169], a space and a word |
# | `gpt/tokenizer.py`, `read_ranks` | `splitlines()` without `[1:]` | 1.5 stops: tiktoken counts 50,258 ids |
# | 1.4 | `max` in place of `min` | `path` ends in `b'at'`, `b'h'`; 1.5: 93 of 500 agree |
# | 1.4 | `for piece in [text]`, no cut | 1.5: 498 agree, for merges were learnt within pieces |
# | 1.9 | `targets = row[:4]` | each token answers itself: `'...the' -> 'the'` |
# | `gpt/model.py`, `embed` | leave out `pos_emb` | 1.10 stops: `" the"` is the same at 3 and at 6 |
#
# ## Try it
#
# `python chapters/01_tokens.py` takes all messages. Which of their first 10 merges change?
