# %% [markdown]
"""
# 1  Tokens: from text to numbers, and on to vectors

After this chapter you can learn tokens from one sentence, by hand, and write the program that turns a text into GPT-2's
ids. You can say why a text has the tokens that it has, cut a text into exercises for a model, and turn each token into
a vector. You need Python (functions, lists, dicts). From section 1.8 on you also need a little torch: tensors, shapes,
matrix products.

- Run: `python chapters/01_tokens.py`
- Time: --quick 3 s; full, all messages, 5 s; on 1 CPU core (AMD EPYC), the data there already; --device is not used
- Source: Sennrich et al. 2016, section 3.2; Radford et al. 2019, section 2.2
"""

# %%
from book import section, start

QUICK, FULL = dict(messages=500), dict(messages=5574)
args = start(__doc__, QUICK, FULL)

# %% [markdown]
# In chapter 0 the numbers of each message were written out for you. This chapter makes them. At its end it takes the
# last step before the model: each number becomes a vector.
#
# ## 1.1 Why not letters, and why not words?
#
# GPT-2 computes with numbers, so a text has to become a row of numbers. What should get a number of its own: each
# letter, or each word? We try both on real text messages. (500 of them with `--quick`, otherwise all 5,574. Chapter 5
# says where they come from.)

# %%
from gpt.download import fetch
from gpt.spam import read_sms

section("1.1")
messages = read_sms(fetch("sms"))["Text"].tolist()[:args.messages]
print(f"{len(messages):,} messages; the third is: {messages[2][:44]}...")

# %% [markdown]
# **One number per letter.** A list of all letters, digits and signs is short, and with it we can write any message. But
# the rows get long. That costs work, because a model does nearly all of its work once for each number in the row. And
# it costs room, because GPT-2 reads at most 1,024 numbers at once.
#
# Put the messages one after the other, from the first on. How many of them fit into 1,024 numbers together?
# `accumulate` gives the running totals of a list, and we count those that are not above 1,024. We also try bytes, the
# numbers from 0 to 255 of which every file on a computer consists (1.5). `.encode()` gives the bytes of a text.

# %%
from itertools import accumulate

def how_many_fit(lengths):
    return sum(total <= 1024 for total in accumulate(lengths))    # True counts as 1

print("as letters:", how_many_fit([len(message) for message in messages]))
print("as bytes:  ", how_many_fit([len(message.encode()) for message in messages]))
print("as words:  ", how_many_fit([len(message.split()) for message in messages]))
#> as letters: 9
#> as bytes:   9
#> as words:   54

# %% [markdown]
# As letters, GPT-2 could read nine messages at once. Bytes are no better, because an English letter is one byte. As
# words it could read 54 messages, six times as many. So words look much better.
#
# **One number per word.** But how long is the list of words? Let us write down every word of the first half of the
# messages, without capitals and punctuation, and then read the second half. **What share of the words that we read
# there will be missing from our list?** A word that comes twice counts twice. (`findall` returns every unbroken run of
# the letters a to z.)

# %%
import re

def words_of(some_messages):
    return re.findall("[a-z]+", " ".join(some_messages).lower())

half = len(messages) // 2
known = set(words_of(messages[:half]))
print(f"{half:,} messages gave a list of {len(known):,} different words")
#> 250 messages gave a list of 1,272 different words

# %%
others = words_of(messages[half:])
missing = [word for word in others if word not in known]
print(f"the other half has {len(others):,} words; {len(missing):,} are not on the list")
print(f"that is {len(missing) / len(others):.0%}, for example {missing[-4:]}")
#> the other half has 3,887 words; 858 are not on the list
#> that is 22%, for example ['jackson', 'rec', 'center', 'ish']

# %% [markdown]
# A list from 250 messages lacks more than a fifth of the words. Without `--quick` the list comes from 2,787 messages,
# and it still lacks 7 %. A longer list helps, but it is never complete, because people invent names and misspell words.
# A model with such a list has to replace each missing word by one **unknown-word token**, often written `<unk>`. It
# cannot tell these words apart, and it can never write one.
#
# So letters make the rows too long, and a list of words is never complete. We want something between the two: one
# number for a frequent word, and a few numbers for a rare word, which is put together from shorter bits. Whatever gets
# a number is called a **token**. The list of all tokens is the **vocabulary**, and a program that turns text into
# tokens is a **tokenizer**. This is how GPT-2's tokenizer cuts *The unhappiest cat sat on the mat.*, with a bar at each
# cut:
#
#     The| unh|app|iest| cat| sat| on| the| mat|.
#
# The frequent words are one token each. *unhappiest* is rare, so it is put together from three tokens. (1.6 checks that
# these are the tokens.) Nobody chose them by hand. Where do they come from?
#
# ## 1.2 Pairs that occur often become one token
#
# They are learned from text by a method called **byte-pair encoding**, BPE for short. At first every letter is a token.
# Then one step is repeated: **find the two neighbours that stand side by side most often, and make them one token.**
#
# We use a text that you can follow with a pencil: *the cat and the hat and the bat*. The first step counts pairs of
# neighbours. `pairwise` gives each token together with the one to its right, and `Counter` counts.

# %%
from collections import Counter
from itertools import pairwise

section("1.2")
sentence = "the cat and the hat and the bat"
tokens = list(sentence)
counts = Counter(pairwise(tokens))
for pair, count in counts.most_common(6):
    print(f"{pair}: {count} times")
#> ('t', 'h'): 3 times
#> ('h', 'e'): 3 times
#> ('e', ' '): 3 times
#> ('a', 't'): 3 times
#> ('t', ' '): 2 times
#> (' ', 'a'): 2 times

# %% [markdown]
# Four pairs occur three times. Of equally frequent pairs we take the one that comes first in the text: *t* and *h*. The
# next function goes through the row from left to right and writes a new row, `merged`. If the last token of the new row
# and the next token of the old one are the pair, it joins them.

# %%
def merge(tokens, pair):
    merged = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged

# %% [markdown]
# Joining a pair wherever it stands is called a **merge**. To see it, we print a bar between tokens, and ␣ for a space.

# %%
def with_bars(tokens):
    return "|".join(tokens).replace(" ", "␣")

tokens = merge(tokens, ("t", "h"))
print("merge 1:", with_bars(tokens))
#> merge 1: th|e|␣|c|a|t|␣|a|n|d|␣|th|e|␣|h|a|t|␣|a|n|d|␣|th|e|␣|b|a|t

# %% [markdown]
# *th* is now a token like any other, so it can be half of the next pair. **Before you go on: which pair is next?** We
# count again.

# %%
counts = Counter(pairwise(tokens))
best = max(counts, key=counts.get)    # of equal counts, max takes the first
print(f"next: {best}, {counts[best]} times")
#> next: ('th', 'e'), 3 times

# %% [markdown]
# Now we repeat the step until there are eight merges.

# %%
for number in range(2, 9):
    counts = Counter(pairwise(tokens))
    best = max(counts, key=counts.get)
    tokens = merge(tokens, best)
    print(f"merge {number}, {counts[best]} times: {with_bars(tokens)}")
#> merge 2, 3 times: the|␣|c|a|t|␣|a|n|d|␣|the|␣|h|a|t|␣|a|n|d|␣|the|␣|b|a|t
#> merge 3, 3 times: the␣|c|a|t|␣|a|n|d|␣|the␣|h|a|t|␣|a|n|d|␣|the␣|b|a|t
#> merge 4, 3 times: the␣|c|at|␣|a|n|d|␣|the␣|h|at|␣|a|n|d|␣|the␣|b|at
#> merge 5, 2 times: the␣|c|at␣|a|n|d|␣|the␣|h|at␣|a|n|d|␣|the␣|b|at
#> merge 6, 2 times: the␣|c|at␣a|n|d|␣|the␣|h|at␣a|n|d|␣|the␣|b|at
#> merge 7, 2 times: the␣|c|at␣an|d|␣|the␣|h|at␣an|d|␣|the␣|b|at
#> merge 8, 2 times: the␣|c|at␣and|␣|the␣|h|at␣and|␣|the␣|b|at

# %% [markdown]
# Read it from top to bottom. First *the* grows together, then *at*, then *at␣and*. Nothing in the program knows what a
# word is. It only counts neighbours.
#
# **How many tokens are left?** Work it out from the counts. Each time two tokens are joined, the row gets one token
# shorter. The text has 31 letters and spaces. Merges 1 to 4 made three joins each, merges 5 to 8 two each.

# %%
from book import predict

predict("tokens left, 31 - 4·3 - 4·2", 31 - 4 * 3 - 4 * 2, len(tokens))
#> tokens left, 31 - 4·3 - 4·2: predicted 11, measured 11

# %% [markdown]
# ## 1.3 Cut the text first, then merge
#
# Look at the last row of 1.2. It contains the token *at␣and*: the end of one word and all of the next. It occurs twice
# in our text, but in another text it would hardly ever fit. A vocabulary has limited room, so we want no such tokens.
#
# GPT-2 therefore cuts every text into **pieces** first, roughly into words, and never merges across a cut. (The
# standard name for this step is **pre-tokenization**.) The pattern `SPLIT`, a regular expression, describes what a
# piece may look like. It needs the package `regex`, because Python's own `re` does not know `\p{L}`, any letter of any
# language.

# %%
import regex

from gpt.tokenizer import SPLIT

section("1.3")
example = "I'll pay £5,000  for the cat!!"
print(regex.findall(SPLIT, example))
#> ['I', "'ll", ' pay', ' £', '5', ',', '000', ' ', ' for', ' the', ' cat', '!!']

# %% [markdown]
# Letters, digits and other signs are kept apart, except in endings such as *'ll*. A word takes along **one** space in
# front of it, if there is one. So the space between two words needs no number of its own, and *␣the* and *the* will be
# two different tokens. Nothing is lost: joined again, the pieces are the text.
#
# <details><summary>The pattern, one alternative after another</summary>
#
# The alternatives stand between bars. At each place of the text, the first one that fits takes a piece. `?` means once
# or not at all, `+` once or more, `{1,262144}` the same up to a limit that the package tiktoken needs, and `[^...]` any
# sign but these. `\s` is white space, `\S` anything else, and `(?!\S)` says that no `\S` may come next. `(?:...)` only
# groups.
#
# | alternative | what it takes | in the example |
# |---|---|---|
# | `'(?:[sdmt]\|ll\|ve\|re)` | the end of a contraction | *'ll* |
# | ` ?\p{L}+` | letters, with one space before them if there is one | *I*, *␣pay* |
# | ` ?\p{N}+` | digits, in the same way | *5*, *000* |
# | ` ?[^\s\p{L}\p{N}]+` | other signs, in the same way | *␣£*, *!!* |
# | `\s{1,262144}(?!\S)` | white space, but not the last of it before a word | the first of two spaces |
# | `\s` | white space that is left over | a line end before a word |
#
# </details>
#
# Now we learn again. So far the text was one row of tokens. From now on each piece is a row of its own, and we count
# the pairs inside all rows.

# %%
def count_pairs(rows):
    counts = Counter()
    for row in rows:
        counts.update(pairwise(row))
    return counts

# %% [markdown]
# The loop of 1.2 becomes a function. It returns the merges in the order in which they were learned, and the rows as
# they are in the end. With `count_pairs` and `merge` it is a complete trainer for a tokenizer.

# %%
def learn_merges(rows, steps):
    learned = []
    for step in range(steps):
        counts = count_pairs(rows)
        best = max(counts, key=counts.get)
        learned.append(best)
        rows = [merge(row, best) for row in rows]
    return learned, rows

# %% [markdown]
# We ask for seven merges, which is just enough to finish *␣the*. **Two of the tokens in the last row of 1.2 can no
# longer arise. Which ones?**

# %%
pieces = regex.findall(SPLIT, sentence)
learned, rows = learn_merges([list(piece) for piece in pieces], 7)
print("merges:", [left + right for left, right in learned])
print("rows:", [with_bars(row) for row in rows])
#> merges: ['th', 'the', 'at', ' a', ' an', ' and', ' the']
#> rows: ['the', '␣|c|at', '␣and', '␣the', '␣|h|at', '␣and', '␣the', '␣|b|at']

# %% [markdown]
# *the␣* and *at␣and* are gone, because there is a cut inside each of them. After seven merges *␣and* and *␣the* are
# single tokens, each a word with its space. The picture shows how two of the pieces grew. In *␣cat* only *a* and *t*
# were frequent neighbours, so it is still three tokens.
#
# ![A tree: t and h become th in merge 1, th and e become the in merge 2, a space and the become one token in merge 7;
# in the piece beside it, a and t become at in merge 3.](diagrams/merge_tree.svg)
#
# *Two pieces of the sentence. Orange tokens are those that are left in the end.*
#
# <details><summary>Question: what happens if you ask for 100 merges?</summary>
#
# After 13 merges each of the eight pieces is one token. There are no pairs left to count, so `max` gets nothing and
# raises a ValueError. On a small text the words run out. On a large one you decide when to stop. GPT-2 stopped after
# 50,000.
#
# </details>
#
# ## 1.4 Encode a new text: the order of the merges matters
#
# The merges have been learned once and for all. Now we use them to encode other texts, that is, to turn them into
# tokens and their ids. But often two merges want the same letter. *bath* contains *at* and *th*, which share the *t*,
# so only one of them can be joined. Which one?
#
# First we give each token a number, its **id**. The space and the letters of the sentence come first, in alphabetical
# order. Then come the results of the merges, in the order of learning, so *th* gets 9, *the* 10 and *at* 11.

# %%
section("1.4")
vocabulary = sorted(set(sentence))
for left, right in learned:
    vocabulary.append(left + right)
ranks = {token: number for number, token in enumerate(vocabulary)}
print(ranks)

# %% [markdown]
# Of two tokens that merges made, the one with the lower id was made earlier. So an id is also a **rank**, a place in an
# order. A new text is merged in the order in which the merges were learned. *th* was merge 1 and *at* was merge 3.
# **What becomes of *bath*?**
#
# We need not try all merges one by one. We look at each pair of neighbours. If joining it gives a token that we know,
# we note the pair and the rank of that token. Then we join the pair with the lowest rank, and look again. When no pair
# can be joined, we are done.

# %%
def merge_in_order(tokens, ranks):
    while True:
        found = {}    # {rank: pair}
        for left, right in pairwise(tokens):
            if left + right in ranks:
                found[ranks[left + right]] = (left, right)
        if not found:
            return tokens
        tokens = merge(tokens, found[min(found)])

print("bath:", with_bars(merge_in_order(list("bath"), ranks)))
#> bath: b|a|th

# %% [markdown]
# *th* is joined first, and then there is no *t* left for *at*.
#
# Why this order, and not from left to right, or the longest token first? A model learns from texts that were cut in one
# certain way. It has often seen *b*, *a*, *th*. It has never seen *b*, *at*, *h*, so it could not use what it knows.
#
# If we encode the sentence itself, we should get the tokens that learning ended with. We compare all pieces. (The
# messages of 1.6 will test the order harder.)

# %%
again = [merge_in_order(list(piece), ranks) for piece in pieces]
same = sum(one == other for one, other in zip(again, rows))
predict("pieces encoded as they were learned", len(pieces), same)
#> pieces encoded as they were learned: predicted 8, measured 8

# %% [markdown]
# <details><summary>Question: how is the piece <i>␣than</i> encoded?</summary>
#
# As *␣*, *th*, *a*, *n*. Merge 1 joins *t* and *h*. Merge 2 needs *th* and *e*, but there is no *e*. Merge 4 needs a
# space and an *a* side by side, but *th* stands between them.
#
# </details>
#
# ## 1.5 Bytes, so that no text is impossible
#
# Try to encode *path*. There is no *p* in our sentence, so *p* has no id, and we are back at the unknown word. Should
# every character in the world get an id in advance? There are more than a hundred thousand, and most of the ids would
# hardly ever be used.
#
# There is a smaller alphabet. A computer stores every text as **bytes**, which are numbers from 0 to 255. The usual
# rule for that is **UTF-8**. English letters, digits and common signs, together called **ASCII**, take one byte each.
# All other characters take two, three or four.

# %%
section("1.5")
for character in ("a", "£", "α", "🎉"):
    print(f"bytes of {character}: {list(character.encode('utf-8'))}")
#> bytes of a: [97]
#> bytes of £: [194, 163]
#> bytes of α: [206, 177]
#> bytes of 🎉: [240, 159, 142, 137]

# %% [markdown]
# **How many bytes has *Win £5 now 🎉*?** Count ten ASCII characters (spaces too), one pound sign and one emoji.

# %%
party = "Win £5 now 🎉"
predict(f"bytes of {party}, 10 + 2 + 4", 10 + 2 + 4, len(party.encode("utf-8")))
#> bytes of Win £5 now 🎉, 10 + 2 + 4: predicted 16, measured 16

# %% [markdown]
# So 256 different bytes are enough for every text. Bytes alone make rows that are too long (1.1), but they are a good
# beginning: we start from bytes where we started from letters. Our functions that learn and merge stay as they are,
# because Python joins bytes with `+` as well. (Python writes them as `b'th'`. For a byte that is not ASCII it writes
# `\x` and the number in base 16, for example `\xc2`. And `bytes([104])` is the one byte with the number 104.)

# %%
def bytes_of(piece):
    return [bytes([number]) for number in piece.encode("utf-8")]

print("hat:", bytes_of("hat"))
#> hat: [b'h', b'a', b't']
print("£:  ", bytes_of("£"))
#> £:   [b'\xc2', b'\xa3']
learned, rows = learn_merges([bytes_of(piece) for piece in pieces], 7)
print("merges:", [left + right for left, right in learned])
#> merges: [b'th', b'the', b'at', b' a', b' an', b' and', b' the']

# %% [markdown]
# The merges are those of 1.3. The ids 0 to 255 now belong to the single bytes, so the first merge gets 256. The dict
# `own` holds the id of each token in our own vocabulary.

# %%
own = {bytes([number]): number for number in range(256)}
for left, right in learned:
    own[left + right] = len(own)    # 256, 257, ...
print("id of 'th':", own[b"th"], "  ids in all:", len(own))
#> id of 'th': 256   ids in all: 263

# %% [markdown]
# Here is the whole encoder: cut, merge, look up.

# %%
def encode_by_hand(text, ranks):
    ids = []
    for piece in regex.findall(SPLIT, text):
        for token in merge_in_order(bytes_of(piece), ranks):
            ids.append(ranks[token])
    return ids

print("ids of 'the path':", encode_by_hand("the path", own))
#> ids of 'the path': [257, 32, 112, 97, 256]

# %% [markdown]
# 257 is *the*. Then come three single bytes, the space, *p* and *a*, and 256 is *th*. A dict keeps the order in which
# it was filled, so entry i of the list `own_tokens` is the token with id i. **What will happen to a Greek letter and an
# emoji, which our sentence does not have?**

# %%
own_tokens = list(own)
for text in ("on the path", "α 🎉"):
    print(f"{text}: {[own_tokens[i] for i in encode_by_hand(text, own)]}")
#> on the path: [b'o', b'n', b' the', b' ', b'p', b'a', b'th']
#> α 🎉: [b'\xce', b'\xb1', b' ', b'\xf0', b'\x9f', b'\x8e', b'\x89']

# %% [markdown]
# They can be encoded. Bytes that no merge joins stay single, so there is always an id, and no unknown-word token is
# needed. The price is length: the emoji takes four ids here.
#
# ## 1.6 GPT-2's 50,257 tokens
#
# GPT-2's vocabulary was made in this way, from a large collection of web pages. Its 50,000 merges are published in a
# file, one per line.

# %%
section("1.6")
vocab_bpe = fetch("vocab.bpe").read_text(encoding="utf-8")
lines = vocab_bpe.splitlines()[1:]    # the first line is a version
print(f"{len(lines):,} merges; the first ten:")
#> 50,000 merges; the first ten:
print(lines[:10])
#> ['Ġ t', 'Ġ a', 'h e', 'i n', 'r e', 'o n', 'Ġt he', 'e r', 'Ġ s', 'a t']

# %% [markdown]
# A line holds the two halves of a merge, with a space between them. A space that belongs to a half is written as the
# sign Ġ. So the seventh line means *␣t* and *he*, which make *␣the*.
#
# Every other byte has a visible sign too. The library's `byte_alphabet` is a dict of them, from "!" with byte 33, over
# "a" with byte 97, to "Ġ" with byte 32 and other bytes that cannot be printed. (1.11 shows how the signs were chosen.)
# Its order decides the first 256 ids. So here "!" has id 0, while in 1.5 the id of a byte was the byte itself.
#
# Reading the file is now what we did for `own` in 1.5: single bytes first, then one id per merge. Below is the
# library's function. (`show` prints it and says where it stands.) It ends in a loop like the one that filled `own`.
# What is new is in the line before `return`: it takes the separating space out of a line of the file, looks up the byte
# of every sign, and makes one bytes object of them.

# %%
from book import show

from gpt.tokenizer import read_ranks

show(read_ranks)
ranks = read_ranks(vocab_bpe)

# %% [markdown]
# **Your turn.** In a terminal, in the folder of this project, `python tests/exercises.py start E1.2` takes the body of
# `read_ranks` out of gpt/tokenizer.py. Write your own there. To check it: `python -m pytest --exercise E1.2`. To put
# the original back: `python tests/exercises.py restore E1.2`. (You can also read on and do all exercises afterwards.)
#
# The rest of this book uses **tiktoken**, a package by OpenAI that does the merging in the language Rust.
# `gpt2_tokenizer` gives it the ranks of this file and the pattern of 1.3. There is one more token, `<|endoftext|>`,
# with the last id. It stands for no text, but marks the border between two texts. **How many ids are there? Which id
# has *␣the*, merge 7? And which has "!", the first of the bytes?**

# %%
from gpt.tokenizer import gpt2_tokenizer

gpt2 = gpt2_tokenizer()
predict("ids: bytes, merges, <|endoftext|>", 256 + 50_000 + 1, gpt2.n_vocab)
predict("id of ' the', merge 7", [256 + 7 - 1], gpt2.encode_ordinary(" the"))
predict("id of '!'", [0], gpt2.encode_ordinary("!"))
#> ids: bytes, merges, <|endoftext|>: predicted 50,257, measured 50,257
#> id of ' the', merge 7: predicted [262], measured [262]
#> id of '!': predicted [0], measured [0]

# %% [markdown]
# The size of the vocabulary is called **V** in this book. For GPT-2, V is 50,257. (The method is called
# `encode_ordinary` because it treats all text as ordinary, even a typed `<|endoftext|>`: see 1.11.)
#
# Does our encoder do the same as tiktoken? We encode every message with both.

# %%
same = 0
for message in messages:
    by_hand = encode_by_hand(message, ranks)
    if by_hand == gpt2.encode_ordinary(message):
        same += 1
predict("messages with the same ids by hand and by tiktoken", len(messages), same)
#> messages with the same ids by hand and by tiktoken: predicted 500, measured 500

# %% [markdown]
# All of them agree, in every id. So you know what GPT-2's encoder does. Let us go back to 1.1. Does the sentence have
# the tokens that we claimed, and how many messages fit into 1,024 tokens?

# %%
def tokens_of(text):
    ids = gpt2.encode_ordinary(text)
    return [gpt2.decode_single_token_bytes(i) for i in ids]

print(b"|".join(tokens_of("The unhappiest cat sat on the mat.")).decode())
#> The| unh|app|iest| cat| sat| on| the| mat|.
print("as tokens:", how_many_fit([len(tokens_of(message)) for message in messages]))
#> as tokens: 35

# %% [markdown]
# 35 messages fit. As letters it was 9, and as words 54. Tokens come nearer to words than to letters, and yet every text
# can be written with them.
#
# What a vocabulary contains depends on the text that it was learned from. Here are the first ten merges that our
# messages would give, if we trained on them.

# %%
message_rows = []
for message in messages:
    for piece in regex.findall(SPLIT, message):
        message_rows.append(bytes_of(piece))
learned, _ = learn_merges(message_rows, 10)
print([left + right for left, right in learned])
#> [b' t', b' a', b'in', b'ou', b're', b' s', b'he', b' w', b' m', b' c']

# %% [markdown]
# The first two are those of GPT-2. *ou* is not among GPT-2's first ten. Here it comes fourth, mostly from *you* and
# *your*.
#
# ## 1.7 Five oddities, and their reasons
#
# Many odd things that language models do come from their tokens. Each of these follows from what you have built. In a
# hurry? Read one or two and go on with 1.8. Nothing later depends on them.
#
# ### One word, several ids
#
# **How many different ids have *the*, *␣the* and *The*?**

# %%
section("1.7")
for text in ("the", " the", "The", "winner", "WINNER", "don't", "DON'T"):
    print(f"{text!r:9} {tokens_of(text)}")
with_space = sum(token.startswith(b" ") for token in ranks)
print(f"{with_space:,} of {len(ranks):,} tokens begin with a space")
#> 'the'     [b'the']
#> ' the'    [b' the']
#> 'The'     [b'The']
#> 'winner'  [b'winner']
#> 'WINNER'  [b'WIN', b'NER']
#> "don't"   [b'don', b"'t"]
#> "DON'T"   [b'DON', b"'", b'T']
#> 33,135 of 50,256 tokens begin with a space

# %% [markdown]
# Three. The bytes of *t* and *T* differ, and a space belongs to the piece that it stands before. Two thirds of all
# tokens begin with a space, because in running text nearly every word has one in front. To us the three are one word.
# The model is not told that, so it has to learn it from examples.
#
# *WINNER* is two tokens where *winner* is one: words in capitals are rarer, so fewer merges were learned for them. And
# *DON'T* is not cut where *don't* is cut, because the pattern of 1.3 knows *'t* only in lower case.
#
# ### Why a prompt should not end with a space
#
# A text that a model should continue is called a **prompt**. Suppose that yours ends with a space, *The city of␣*, and
# that the model should add *London*. **How do the tokens differ from those of the same text encoded as a whole?**

# %%
print("with the space    ", tokens_of("The city of ") + tokens_of("London"))
print("encoded as a whole", tokens_of("The city of London"))
#> with the space     [b'The', b' city', b' of', b' ', b'London']
#> encoded as a whole [b'The', b' city', b' of', b' London']

# %% [markdown]
# In the first row the space is a token of its own, and *London* follows without one. The pattern of 1.3 always puts a
# single space into the same piece as the word after it. So no text gives the first row, and the model has not seen such
# a row in training. Leave out the last space, and the model can go on with *␣London*, as it has learned to.
#
# ### Numbers fall apart
#
# Digits are merged like letters: by how often they stood side by side in the training text.

# %%
for text in (" 2000", "1234 + 5678", "07123456789"):
    print(f"{text!r:14} {tokens_of(text)}")
#> ' 2000'        [b' 2000']
#> '1234 + 5678'  [b'12', b'34', b' +', b' 5', b'678']
#> '07123456789'  [b'07', b'123', b'45', b'67', b'89']

# %% [markdown]
# The year is one token. A phone number is cut wherever merges happen to fit. And look at the sum: 1234 is *12* and
# *34*, but 5678 is *5* and *678*. When you add on paper, you write tens under tens. Here the places of the digits do
# not line up, which does not make arithmetic easier for the model.
#
# ### Most emoji are several tokens, and no single one of these is a character
#
# The four bytes of 🎉 are three tokens. **What will you see if you decode them one at a time?**

# %%
ids = gpt2.encode_ordinary("🎉")
print("tokens:            ", tokens_of("🎉"))
print("decoded one by one:", [gpt2.decode([i]) for i in ids])
print("decoded together:  ", gpt2.decode(ids))
#> tokens:             [b'\xf0\x9f', b'\x8e', b'\x89']
#> decoded one by one: ['�', '�', '�']
#> decoded together:   🎉

# %% [markdown]
# � is the sign for "these bytes are no character". So a program that prints a model's tokens one by one has to wait
# until a character is complete.
#
# ### Greek costs three times as much
#
# Here is the same content in three languages. We count the tokens: the fewer, the cheaper.

# %%
english = ("Good morning! Where are you? I am waiting for you at the station, "
           "and it is cold.")
german = "Guten Morgen! Wo bist du? Ich warte auf dich am Bahnhof, und es ist kalt."
greek = "Καλημέρα! Πού είσαι; Σε περιμένω στον σταθμό και κάνει κρύο."
for text in (english, german, greek):
    greeting, count = text.split("!")[0], len(tokens_of(text))
    print(f"{count} tokens for {len(text)} characters: {greeting} ...")
#> 21 tokens for 81 characters: Good morning ...
#> 28 tokens for 73 characters: Guten Morgen ...
#> 70 tokens for 60 characters: Καλημέρα ...

# %% [markdown]
# The Greek sentence takes more than three times as many tokens as the English one. So the model has more than three
# times the work, and 1,024 tokens hold less than a third of the content. Why? A Greek letter is two bytes. **How many
# of GPT-2's tokens consist of two or more Greek letters, perhaps with a space in front?** (`fullmatch` asks whether a
# whole text fits the pattern. `errors="replace"` writes � where a token is only half a character.)

# %%
texts = [token.decode("utf-8", errors="replace") for token in ranks]
words = [text for text in texts if regex.fullmatch(r" ?\p{Greek}{2,}", text)]
print("tokens of two or more Greek letters:", len(words))
#> tokens of two or more Greek letters: 0

# %% [markdown]
# None. In the text that the merges were learned from, no two Greek letters stood side by side often enough to be
# merged. So each Greek letter costs one token or two. German has nearly the same letters as English, so tokens such as
# *en*, *ist* and *alt* fit into its words. (One sentence per language shows the direction. It does not measure whole
# languages.)
#
# ## 1.8 Windows: a text holds its own exercises
#
# Now every text is a row of ids. What is a language model to do with them? It reads the beginning of a text and guesses
# the next token. Nobody has to write down the right answers, because the answer stands in the text, one place to the
# right. It is called the **target**.
#
# A model reads a limited number of tokens at once, a **window**. We take a window of 4. The inputs are four tokens, and
# the targets are the four tokens that begin one place later. (`<|endoftext|>` comes first, so that the first word can
# be a target too.)

# %%
from gpt.tokenizer import END_OF_TEXT

section("1.8")
row = [END_OF_TEXT, *gpt2.encode_ordinary(sentence)]
inputs, targets = row[:4], row[1:5]
print("inputs: ", [gpt2.decode([i]) for i in inputs])
print("targets:", [gpt2.decode([i]) for i in targets])
#> inputs:  ['<|endoftext|>', 'the', ' cat', ' and']
#> targets: ['the', ' cat', ' and', ' the']

# %% [markdown]
# These four tokens are four exercises, not one, because each target has to be guessed from **all** inputs up to its
# place:

# %%
for t in range(4):
    print(f"{gpt2.decode(inputs[:t + 1])} -> {gpt2.decode([targets[t]])}")
#> <|endoftext|> -> the
#> <|endoftext|>the ->  cat
#> <|endoftext|>the cat ->  and
#> <|endoftext|>the cat and ->  the

# %% [markdown]
# ### How far to move on: the stride
#
# Where does the next window begin? The distance from one beginning to the next is called the **stride**. In the picture
# the stride is 4, as long as the window. (`<end>` is `<|endoftext|>`.)
#
# ![Nine tokens in a row. The first window reads tokens 0 to 3 and has tokens 1 to 4 as targets; the second window reads
# tokens 4 to 7 and has 5 to 8 as targets.](diagrams/windows.svg)
#
# *Two windows of four tokens. The last target of the first window is the first input of the second.*
#
# With a stride of 1 the windows overlap, and a token is a target in several of them. **How often is token 50 of a long
# text a target, for strides of 1, 2 and 4?** With stride 1 a window begins at every token, and four of them have token
# 50 among their four targets. With stride 2 every second window is left out, so two remain.

# %%
for stride in (1, 2, 4):
    times = Counter()
    for begin in range(0, 100, stride):
        times.update(range(begin + 1, begin + 5))    # the places of its targets
    predict(f"stride {stride}: token 50 is a target", 4 // stride, times[50])
#> stride 1: token 50 is a target: predicted 4, measured 4
#> stride 2: token 50 is a target: predicted 2, measured 2
#> stride 4: token 50 is a target: predicted 1, measured 1

# %% [markdown]
# With the stride equal to the window, every token is a target exactly once (but for a few at the ends of the text).
# That is what we use. So one pass over the windows reads the whole text once. Such a pass is called an **epoch**.
#
# ### Many windows at once
#
# `encode_documents` lays all messages end to end, with `<|endoftext|>` before each. In the shapes of this book, **N**
# is the number of tokens of the whole text. **What is N here?** It is one id per token of the messages, plus one per
# message.

# %%
import torch

from gpt.batches import encode_documents

# encode_documents stores 32 bits per id; .long() makes the 64 that torch wants
text_row = encode_documents(messages, gpt2).long()    # (N,)
in_messages = sum(len(tokens_of(message)) for message in messages)
predict("N, tokens + messages", in_messages + len(messages), len(text_row))
#> N, tokens + messages: predicted 11,986, measured 11,986

# %% [markdown]
# A model computes several windows at once, because that is faster. Together they are a **batch**. Its shape is (B, T):
# **B** is the number of rows in the batch, and **T** is the number of tokens in each row. We cut out B = 2 windows of T
# = 4, which begin at places 0 and 4. Each needs T + 1 tokens, because the fifth is the last target. So the first window
# needs the places 0 to 4, and the second 4 to 8.
#
# `[:, None]` writes the two beginnings one below the other, which makes a column of shape (2, 1). `torch.arange(5)` is
# the row 0 to 4. A column plus a row gives all sums, a table of shape (2, 5).

# %%
column = torch.tensor([0, 4])[:, None]      # (2, 1)
places = column + torch.arange(5)           # (2, 5)
print("places:", places.tolist())
#> places: [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]

# %% [markdown]
# `text_row[places]` looks up the id at each place, so its result has the same shape as `places`. The function does this
# for any beginnings and any T. All columns but the last are the inputs, and all but the first are the targets.

# %%
def windows_at(starts, T):
    column = torch.tensor(starts)[:, None]      # (B, 1)
    places = column + torch.arange(T + 1)       # (B, T + 1)
    return text_row[places]                     # (B, T + 1)

batch = windows_at([0, 4], 4)                   # (B, T + 1)
inputs, targets = batch[:, :-1], batch[:, 1:]   # (B, T) each
print("inputs: ", inputs.tolist())
print("targets:", targets.tolist())
#> inputs:  [[50256, 5247, 1566, 8174], [506, 966, 11, 7165]]
#> targets: [[5247, 1566, 8174, 506], [966, 11, 7165, 492]]

# %% [markdown]
# Check the output: each target is the input one place to its right.
#
# The library's class `TextWindows` does this for a whole text. Its list `rows` has one entry per batch: the places
# where the windows of this batch begin. They come in random order, so that a batch mixes different parts of the text.
# When a `for` loop goes through a `TextWindows`, Python calls the method `__iter__`. Its long line is `windows_at` in
# one piece, and `yield` hands out one batch at a time.

# %%
from gpt.batches import TextWindows

show(TextWindows.__iter__)

# %% [markdown]
# Do the library and we cut the same windows? `agree` prints the largest difference between two tensors and stops the
# chapter if it is above 0.00001.

# %%
from book import agree

windows = TextWindows(text_row, window=64, batch_size=8, seed=args.seed)
first = next(iter(windows))                            # (B, T + 1) = (8, 65)
print(f"{len(windows)} batches; the windows of the first begin at {windows.rows[0]}")
agree("our windows and the library's", windows_at(windows.rows[0], 64), first)

# %% [markdown]
# The difference is 0, so they are the same windows.
#
# <details><summary>Question: with `--quick` N is 11,986. How many windows of 64, and how many batches of 8?</summary>
#
# A window needs 64 tokens and one more for its last target. So (11,986 - 1) / 64, rounded down, is 187 windows. They
# make 23 batches of 8 and one smaller batch, so 24. (`TextWindows` makes one window fewer, and still 24 batches: 1.12.)
#
# </details>
#
# **Your turn.** `python tests/exercises.py start E1.3` takes out the body of `TextWindows.__iter__`.
#
# ## 1.9 A token becomes a vector
#
# An id is a name, not an amount. *!* has the id 0 and *␣the* has 262, but *␣the* is not 262 more of anything. A model
# that multiplied ids by weights would compute nonsense.
#
# So each token gets a **vector** in place of its id, a row of numbers that training is free to choose. It is called the
# token's **embedding**. All embeddings together form a table with one row per token. The numbers in a row are its
# **channels**, and **C** is how many there are. Here is a table for a vocabulary of 4 tokens, with 3 channels. To turn
# ids into vectors, we look up rows.

# %%
section("1.9")
table = torch.tensor([[0.0, 0.5, 1.0],
                      [1.0, 1.5, 2.0],
                      [2.0, 2.5, 3.0],
                      [3.0, 3.5, 4.0]])    # (V, C) = (4, 3)
ids = torch.tensor([2, 0])                 # (T,)
print("rows 2 and 0:", table[ids].tolist())
#> rows 2 and 0: [[2.0, 2.5, 3.0], [0.0, 0.5, 1.0]]

# %% [markdown]
# The upper half of the picture shows this step. The lower half comes in a moment.
#
# ![Ids 2 and 0 pick rows 2 and 0 of a table with four rows; a row of the position table is added to
# each.](diagrams/lookup.svg)
#
# *From two ids to two vectors. Blue belongs to the first token, orange to the second.*
#
# Training needs derivatives (chapter 4). Does looking something up have a derivative? Yes, because a look-up is a
# matrix product in disguise. Write each id as a **one-hot** row: 1 at the place of the id, 0 elsewhere. **What is such
# a row times the table?**

# %%
one_hot = torch.tensor([[0.0, 0.0, 1.0, 0.0],
                        [1.0, 0.0, 0.0, 0.0]])    # (T, V) = (2, 4)
predict("one-hot times table", table[ids].tolist(), (one_hot @ table).tolist())

# %% [markdown]
# The product takes row 2 once and every other row zero times. A look-up gives the same without all the multiplications
# by 0. In torch this layer is called `nn.Embedding`:

# %%
layer = torch.nn.Embedding.from_pretrained(table)
agree("nn.Embedding and our look-up", layer(ids), table[ids])

# %% [markdown]
# ### The position is added
#
# A token's row is the same wherever the token stands. But *dog bites man* is not *man bites dog*, and attention, the
# part of the model that lets tokens read each other (chapter 2), does not by itself notice the order. So the vector
# itself has to say where its token stands.
#
# GPT-2 has a second table for that, with one row per position: row 0 for the first token of a text, row 1 for the
# second. The two rows are added.

# %%
position_table = torch.tensor([[10.0, 20.0, 30.0],
                               [40.0, 50.0, 60.0]])    # (positions, C)

def vectors_of(ids, table, position_table):
    T = len(ids)
    return table[ids] + position_table[torch.arange(T)]    # (T, C)

print("token + position:", vectors_of(ids, table, position_table).tolist())
#> token + position: [[12.0, 22.5, 33.0], [40.0, 50.5, 61.0]]

# %% [markdown]
# The token with id 2 came first, so it got row 0 of the positions: 2 + 10, 2.5 + 20, 3 + 30. In a model both tables are
# parameters, which means that training sets them.
#
# The library's model has a method `embed` for this step. We load mini, the small GPT-2 of chapter 0, and print the two
# lines of `embed` that correspond to `vectors_of`. `tok_emb` is mini's token table and `pos_emb` its position table.

# %%
import inspect

from gpt.weights import load_gpt2

model = load_gpt2("mini").requires_grad_(False)    # no training in this chapter
for line in inspect.getsource(model.embed).splitlines():
    if "torch.arange" in line or "self.tok_emb" in line:
        print(line.strip())

# %% [markdown]
# Here `start` is 0, and `drop_emb` (dropout, 2.8) changes nothing outside training. The other lines refuse texts
# that are too long and ids that the table does not have.
#
# We send our sentence through it. mini has C = 128 channels. `text_to_token_ids` gives a tensor with one row, because a
# model always takes a batch. **What is the shape of the result, and does it agree with our function?**

# %%
from gpt.tokenizer import text_to_token_ids

ids = text_to_token_ids(sentence, gpt2)                                      # (B, T)
vectors = model.embed(ids)                                                   # (B, T, C)
predict("(B, T, C)", (1, 8, 128), tuple(vectors.shape))
by_hand = vectors_of(ids[0], model.tok_emb.weight, model.pos_emb.weight)     # (T, C)
agree("by hand and the library", by_hand, vectors[0])
#> (B, T, C): predicted (1, 8, 128), measured (1, 8, 128)

# %% [markdown]
# One text, eight tokens, 128 channels: that is the input of chapter 2.
#
# In our sentence *␣the* stands at places 3 and 6. **What is the difference between its two vectors?** The token's row
# is in both and cancels. What is left is position 6 minus position 3.

# %%
measured = vectors[0, 6] - vectors[0, 3]                        # (C,)
expected = model.pos_emb.weight[6] - model.pos_emb.weight[3]    # (C,)
agree("two vectors of ' the', and two positions", measured, expected)
print(f"largest channel of the difference: {measured.abs().max():.2f}")

# %% [markdown]
# Without the position table the two vectors would be equal, and that last number would be 0.
#
# How much of the model sits in the token table? It has V · C numbers. We compare with GPT-2 small, which has C = 768
# and 124,439,808 parameters (chapter 3 counts them).

# %%
V, C = 50_257, 128
predict("numbers in mini's token table, V·C", V * C, model.tok_emb.weight.numel())
parameters = sum(p.numel() for p in model.parameters())
print(f"of mini: {V * C / parameters:.0%}; of GPT-2 small: {V * 768 / 124_439_808:.0%}")
#> numbers in mini's token table, V·C: predicted 6,432,896, measured 6,432,896
#> of mini: 89%; of GPT-2 small: 31%

# %% [markdown]
# So a large vocabulary has its price: each token in it costs C parameters.
#
# <details><summary>Question: a batch has 8 windows of 64. What are the shapes of ids and of mini's vectors?</summary>
#
# The ids are (B, T) = (8, 64), the vectors (B, T, C) = (8, 64, 128).
#
# </details>
#
# **Your turn.** `python tests/exercises.py start E1.4` takes out the body of `GPTModel.embed`. Its tests also check
# that your body refuses what the tables do not have.
#
# ## Further: skip this on a first reading
#
# Nothing in chapter 2 depends on the next four sections.
#
# ## 1.10 The longest token first?
#
# In 1.4 we merged in the order of learning. Another natural rule goes from left to right and always takes the longest
# token that fits. **Do the two rules give the same tokens?**

# %%
section("1.10")

def longest_first(piece, ranks):
    tokens = []
    while piece:
        fits = [n for n in range(1, len(piece) + 1) if piece[:n] in ranks]
        tokens.append(piece[:max(fits)])
        piece = piece[max(fits):]
    return tokens

print("in order:     ", tokens_of("Haha"))
print("longest first:", longest_first(b"Haha", ranks))
#> in order:      [b'H', b'aha']
#> longest first: [b'Ha', b'ha']

# %% [markdown]
# And on all messages? `message_rows` holds their pieces, cut into bytes (1.6), and `in_messages` is their number of
# tokens (1.8). `b"".join(row)` puts a piece together again.

# %%
longest = 0
for row in message_rows:
    longest += len(longest_first(b"".join(row), ranks))
print(f"all messages: {in_messages:,} tokens in order, {longest:,} longest first")
#> all messages: 11,486 tokens in order, 11,414 longest first

# %% [markdown]
# They differ, and here the longest token first even needs slightly fewer tokens. So the order of learning is not the
# rule that makes the shortest rows. It is the rule that GPT-2 was trained with, and that is why we keep to it.
#
# ## 1.11 From ids back to text
#
# A model answers with ids. For the way back we look up the bytes of each id, join them, and read them as UTF-8.

# %%
section("1.11")
gpt2_tokens = list(ranks)

def decode(ids):
    joined = b"".join(gpt2_tokens[i] for i in ids)
    return joined.decode("utf-8", errors="replace")    # � for what is no text

print(decode(gpt2.encode_ordinary(party)))
#> Win £5 now 🎉

# %% [markdown]
# Does every text come back? We try every number that a character of Unicode can have, in one long text. (The numbers
# from 0xD800 to 0xDFFF are left out, because no character may have them.)

# %%
codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
everything = "".join(chr(code) for code in codes)
back = decode(gpt2.encode_ordinary(everything))
alike = sum(one == other for one, other in zip(everything, back))
predict("characters that come back", len(everything), alike)
#> characters that come back: predicted 1,112,064, measured 1,112,064

# %% [markdown]
# All of them. Is the other direction as safe? **Decode the two tokens *t* and *he*, and encode the result. Do you get
# the same two ids?**

# %%
t_he = [ranks[b"t"], ranks[b"he"]]
again = gpt2.encode_ordinary(decode(t_he))
print(f"{t_he} -> {decode(t_he)} -> {again}")
predict("it comes back as the one token 'the'", [ranks[b"the"]], again)

# %% [markdown]
# No. Several rows of ids spell *the*. The encoder makes only one of these rows, but a model may write any of them. If
# the model should continue its own text, keep the ids. Do not decode and encode them again.
#
# ### A typed `<|endoftext|>` does not end a text
#
# What if somebody types these 13 characters into a message? They should be ordinary text. Otherwise the sender could
# make a model believe that the message is over. The id 50256 is made only where a program asks for it, here by
# `allowed_special="all"`.

# %%
typed = tokens_of("<|endoftext|>")
print("typed:", typed)
predict("tokens if typed: < | end of text | >", 7, len(typed))
asked_for = gpt2.encode("<|endoftext|>", allowed_special="all")
predict("ids if a program asks for it", [END_OF_TEXT], asked_for)
#> ids if a program asks for it: predicted [50256], measured [50256]

# %% [markdown]
# ### The sign of each byte in vocab.bpe
#
# In Unicode, the standard list of all characters, every character has a number, and `chr` gives the character. If the
# character with a byte's number can be printed, it is the byte's sign: 97 is written as *a*. The other bytes are
# `hidden`: 0 to 32, 127 to 160 and 173. In this order, their signs are the characters 256, 257 and so on. **How many
# hidden bytes come before the space, byte 32?**

# %%
hidden = [*range(0, 33), *range(127, 161), 173]
place = hidden.index(32)
predict("hidden bytes before the space", 32, place)
predict("sign of the space", "Ġ", chr(256 + place))
#> hidden bytes before the space: predicted 32, measured 32
#> sign of the space: predicted Ġ, measured Ġ

# %% [markdown]
# It is 32, the bytes 0 to 31. So the sign of the space is character 256 + 32 = 288, and that is Ġ.
#
# **Your turn.** `python tests/exercises.py start E1.1` takes out the body of `byte_alphabet`.
#
# ## 1.12 Windows in many epochs
#
# A model usually goes through a small text many times. If all epochs cut it at the same places, each token is always
# seen at the same position, and the first token of a window never has anything before it. Therefore `TextWindows`
# begins each epoch at another place, its **offset**. With windows of 4 they begin at offset, offset + 4, offset + 8 and
# so on. `randperm(5)` gives the numbers 0 to 4 in random order, so we sort what we print.

# %%
section("1.12")
offset = 3
starts = offset + 4 * torch.randperm(5)    # (5,)
print("beginnings:", sorted(starts.tolist()))
#> beginnings: [3, 7, 11, 15, 19]

# %% [markdown]
# The library's method does this for a whole text. A generator makes random numbers. It starts from a number that is
# made of `seed` and `epoch`, so that a run can be repeated. `randint` draws the offset, from 0 to `window - 1`. (The
# empty brackets ask for a single number.) `count` is the number of windows that fit, less one, which leaves room for
# the offset. The last line splits the beginnings into batches. (It keeps only the first few if the argument `batches`
# asks for that.)

# %%
show(TextWindows.set_epoch)

# %% [markdown]
# To see the effect, we take a text whose ids are simply 0 to 99. With `batch_size=99` all windows are in one batch, and
# `next(iter(numbered))` takes it. `nonzero` gives the row and the position of each number that is True. **At which
# positions of its window of 4 does token 50 stand, over 400 epochs?**

# %%
numbered = TextWindows(torch.arange(100), window=4, batch_size=99, seed=args.seed)
positions = Counter()
for epoch in range(400):
    numbered.set_epoch(epoch)
    inputs = next(iter(numbered))[:, :-1]          # (B, T), without the last target
    [[row, position]] = (inputs == 50).nonzero().tolist()    # a list of one pair
    positions[position] += 1
print("times at each position:", sorted(positions.items()))
predict("positions", [0, 1, 2, 3], sorted(positions))

# %% [markdown]
# All four, each in roughly a quarter of the epochs. With a fixed offset it would always be the same one.
#
# ## 1.13 What training did to the rows
#
# mini was trained to guess the next token, and nothing else. Do tokens that are used alike have rows that point the
# same way? We measure this by **cosine similarity**: 1 for the same direction, 0 for perpendicular ones. It is the dot
# product of two rows that have been brought to length 1. **Which words do you expect near *Monday*?** We print the four
# nearest tokens of some words. `topk(5)` finds the five largest similarities. The first is that of the word with
# itself, so we leave it out.

# %%
section("1.13")
unit = torch.nn.functional.normalize(model.tok_emb.weight, dim=1)    # (V, C)
for word in (" three", " Monday", " he", " French", " London"):
    similarity = unit @ unit[ranks[word.encode()]]                   # (V,)
    nearest = similarity.topk(5).indices[1:]                         # (4,)
    print(f"{word}: {[gpt2.decode([i]) for i in nearest.tolist()]}")
#>  London: [' Tokyo', ' Ironically', ' Cambridge', ' Richmond']

# %% [markdown]
# Numbers lie near numbers, days near days, and languages near languages. Nobody told the model what a day is. But
# *Monday* and *Tuesday* are used in similar places, so similar rows help the model's guesses. Not every neighbour is a
# good one: *Ironically* has nothing to do with *London*.
#
# ## What you have now
#
# 1. Byte-pair encoding joins the most frequent pair of neighbours, again and again. You have done it by hand.
# 2. To encode, cut the text into pieces, start from bytes, and merge in the order of learning. No text is impossible.
# 3. GPT-2 has V = 50,257 ids, and your encoder gives the same ids as tiktoken on every message.
# 4. A text holds its own exercises: the targets are the inputs, moved on by one place.
# 5. A token's vector is a row of the token table plus a row of the position table: ids (B, T) become (B, T, C).
#
# In chapter 2 these vectors begin to read each other.
#
# ## Break it
#
# Change one thing, run the chapter with `--quick`, see whether you expected what happens, and change it back.
#
# | where | change | what you should see |
# |---|---|---|
# | 1.3 | `learn_merges([list(sentence)], 7)` | tokens cross the cuts again; 1.4 stops: 0 of 8 pieces agree |
# | 1.4, `merge_in_order` | `max(found)`, not `min(found)` | *bath* is *b*, *at*, *h*; 1.6 stops: 93 of 500 agree |
# | 1.5, `encode_by_hand` | `for piece in [text]` | 1.6 stops: 498 of 500 agree, because few merges fit across a cut |
# | 1.8 | `inputs, targets = row[:4], row[:4]` | nothing stops, but a model could just copy each token |
# | 1.9, `vectors_of` | leave out `+ position_table[torch.arange(T)]` | 1.9 stops: the library adds positions |
# | `gpt/tokenizer.py`, `SPLIT` | `\| ?\p{L}+` without ` ?` | 1.3 learns no *␣the*; 1.6 stops: *␣the* is two tokens |
#
# ## Exercises
#
# | id | what you write | after |
# |---|---|---|
# | E1.1 | the signs of the 256 bytes | 1.11 |
# | E1.2 | reading vocab.bpe | 1.6 |
# | E1.3 | batches of windows | 1.8 |
# | E1.4 | from ids to vectors | 1.9 |
#
#     python -m pytest --exercise E1.3        # is it right?
#     python tests/exercises.py hint E1.3     # one more hint each time
#
# ## Further reading
#
# * Sennrich et al. 2016, [Neural Machine Translation of Rare Words with Subword
#   Units](https://arxiv.org/abs/1508.07909). Section 3.2 is our 1.2.
# * Radford et al. 2019, [Language Models are Unsupervised Multitask
#   Learners](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf).
#   Section 2.2 explains the bytes and the cut.
# * OpenAI, [tiktoken](https://github.com/openai/tiktoken), and Andrej Karpathy,
#   [minbpe](https://github.com/karpathy/minbpe), a small BPE to read.
# * Sebastian Raschka, [Build a Large Language Model (From Scratch)](https://github.com/rasbt/LLMs-from-scratch),
#   chapter 2.
