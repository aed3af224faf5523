"""GPT-2's tokenizer cuts a text into pieces, merges their bytes pair by pair by 50,000 learnt merges, and gives ids.

Read along: chapters/01_tokens.py. Source: Sennrich et al. 2016; Radford et al. 2019, section 2.2.
tiktoken does the merging; the vocabulary is the one file vocab.bpe, fetched once and verified by its checksum.
"""

from functools import lru_cache

import tiktoken
import torch

from gpt.download import fetch

END_OF_TEXT = 50256    # the id of <|endoftext|>, after 256 bytes and 50,000 merges; also the padding token

# Text is cut into pieces before merging, and no merge crosses a cut. The first alternative that fits makes a piece, so
# that nothing is lost: the end of a contraction (lower case and straight apostrophe only); a word, a number or other
# signs, each with at most one space before it; white space, all of it at the end of a text and elsewhere without its
# last sign. If that last sign is a space it begins the next piece, otherwise it is one itself: a\n\nb is a, \n, \n, b.
# White space is cut after 2^18 signs, because the regular-expression engine has no room for a million.
SPLIT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s{1,262144}(?!\S)|\s"""


def byte_alphabet():
    """The 256 bytes in GPT-2's order, each with the visible sign that stands for it in vocab.bpe.

    First come the bytes whose character can be printed: 33 to 126, 161 to 172 and 174 to 255. Each is written as
    that character. The 68 other bytes (space, line feed, ...) follow in rising order. They are written as the
    characters number 256 to 323, in this order. So byte 0 is character 256. The space is the 33rd of these bytes, so it
    is character 288, "Ġ".

    Output: dict from sign to byte, in the order of the ids 0..255
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def read_ranks(vocab_bpe):
    """The id of each token but <|endoftext|>: 0 to 255 for single bytes, then one for each line of the file.

    A line "Ġ t" says that a space and a t make one token. The lines stand in the order in which they were learned. So
    an id is also a rank: of the pairs in a piece of text, the one whose token has the lowest id is merged first.

    Input: vocab_bpe, the text of the file; its first line is a version
    Output: dict from a token's bytes to its id, in the order of the ids; 50,256 entries for GPT-2's file
    """
    alphabet = byte_alphabet()
    ranks = {bytes([byte]): i for i, byte in enumerate(alphabet.values())}
    for line in vocab_bpe.splitlines()[1:]:
        ranks[bytes(alphabet[sign] for sign in line.replace(" ", ""))] = len(ranks)
    return ranks


@lru_cache(maxsize=1)
def gpt2_tokenizer():
    """GPT-2's tokenizer as a tiktoken.Encoding, the same ids as tiktoken.get_encoding("gpt2"), from our verified file.

    tiktoken's own loader downloads from a site of its own and keeps a cache elsewhere, so it is not called.
    """
    ranks = read_ranks(fetch("vocab.bpe").read_text(encoding="utf-8"))
    return tiktoken.Encoding("gpt2", pat_str=SPLIT, mergeable_ranks=ranks,
                             special_tokens={"<|endoftext|>": END_OF_TEXT}, explicit_n_vocab=END_OF_TEXT + 1)


def text_to_token_ids(text, tokenizer):
    """One text as a batch of one row: str -> (1, T) integers. "<|endoftext|>" in it is text like any other."""
    return torch.tensor([tokenizer.encode_ordinary(text)], dtype=torch.long)          # (1, T)


def token_ids_to_text(token_ids, tokenizer):
    """The text of one row of ids, (1, T) or (T,). Bytes that are not UTF-8 (half an emoji) become the sign U+FFFD."""
    return tokenizer.decode(token_ids.flatten().tolist())
