"""gpt/tokenizer.py against published ids and against GPT-2's own algorithm, written once more here."""

import random
from itertools import pairwise

import pytest
import regex
import torch

from gpt.config import GPT2_SIZES
from gpt.download import fetch
from gpt.spam import read_sms
from gpt.tokenizer import (
    END_OF_TEXT, SPLIT, byte_alphabet, gpt2_tokenizer, read_ranks, text_to_token_ids, token_ids_to_text,
)

# Ids that the book and OpenAI's documentation print.
PUBLISHED = {
    "Every effort moves you": [6109, 3626, 6100, 345],
    "Hello, I am": [15496, 11, 314, 716],
    "Hello, world!": [15496, 11, 995, 0],
    "Akwirw ier": [33901, 86, 343, 86, 220, 959],
    "Hello, do you like tea? ": [15496, 11, 466, 345, 588, 8887, 30, 220],
    "I HAD always thought Jack Gisburn rather a cheap genius":
        [40, 367, 2885, 1464, 1807, 3619, 402, 271, 10899, 2138, 257, 7026, 15632],
    " ": [220], "\n": [198], "\n\n": [628], "!": [0],
}

# What texts are made of: words, signs, spaces of all kinds, accents, other scripts, emoji of several code points.
PIECES = ["free", "Call", " now", "£", "5,000", "don't", "WE'LL", "'s", "!!!", "...", "\n", "\n\n\n", "\r\n", "\t", " ",
          "    ", "\u00a0", "\u3000", "e\u0301", "ñ", "Straße", "漢字", "Ελλάδα", "עברית", "العربية", "٣²", "🎉", "🇬🇧",
          "👩‍👩‍👧‍👦", "\x00", "\x85", "\u2028", "\ufeff", "\U0010ffff", "<|endoftext|>", "_", "#", "Ġ", "Ċ"]


@pytest.fixture(scope="module")
def tokenizer():
    return gpt2_tokenizer()


def random_texts(count):
    """Texts of up to 40 pieces or of single characters from all of Unicode."""
    rng = random.Random(0)
    characters = [chr(code) for code in rng.sample(range(0x110000), 2000) if not 0xD800 <= code < 0xE000]
    return ["".join(rng.choices(rng.choice([PIECES, characters]), k=rng.randrange(1, 40))) for _ in range(count)]


def gpt2_encode(text, vocab_bpe):
    """OpenAI's encoder.py: cut the text, write its bytes as signs, always merge the pair that stands first in the file.

    Input: vocab_bpe, the text of the file. Output: list of ids
    """
    visible = [byte for byte in range(256) if chr(byte).isprintable() and not chr(byte).isspace()]
    order = visible + [byte for byte in range(256) if byte not in visible]
    signs = {byte: chr(byte) if byte in visible else chr(256 + i - len(visible)) for i, byte in enumerate(order)}
    merges = {tuple(line.split(" ")): i for i, line in enumerate(vocab_bpe.rstrip("\n").split("\n")[1:])}
    ids = {sign: i for i, sign in enumerate([signs[byte] for byte in order] + ["".join(pair) for pair in merges])}

    found = []
    for word in regex.findall(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", text):
        parts = [signs[byte] for byte in word.encode()]
        while pair := min((pair for pair in pairwise(parts) if pair in merges), key=merges.get, default=None):
            merged = []
            for part in parts:
                if merged and (merged[-1], part) == pair:
                    merged[-1] = "".join(pair)
                else:
                    merged.append(part)
            parts = merged
        found += [ids[part] for part in parts]
    return found


def test_every_known_text_has_its_published_ids(tokenizer):
    for text, ids in PUBLISHED.items():
        assert text_to_token_ids(text, tokenizer).tolist() == [ids], f"another tokenizer's ids for {text!r}"
        assert token_ids_to_text(torch.tensor([ids]), tokenizer) == text


def test_the_ids_are_those_of_gpt2s_own_algorithm(tokenizer):
    vocab_bpe = fetch("vocab.bpe").read_text(encoding="utf-8")
    text = "\n".join([*PUBLISHED, *random_texts(5), "I'm  sure you'd've won 1,000,000 (antidisestablishmentarianism)"])
    assert text_to_token_ids(text, tokenizer)[0].tolist() == gpt2_encode(text, vocab_bpe)


def test_real_messages_have_the_ids_of_gpt2s_own_algorithm(tokenizer):
    """GPT-2 looks a merge up by its two parts, tiktoken and chapter 1 by the bytes of both together."""
    vocab_bpe = fetch("vocab.bpe").read_text(encoding="utf-8")
    text = "\n".join(read_sms(fetch("sms"))["Text"][:500])
    assert text_to_token_ids(text, tokenizer)[0].tolist() == gpt2_encode(text, vocab_bpe)


def test_each_of_the_50000_merges_makes_a_token_of_its_own():
    lines = fetch("vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    assert len({line.replace(" ", "") for line in lines}) == len(lines) == 50_000, "a later id would replace another"


def test_a_text_is_cut_where_gpt2_cuts_it_and_nothing_is_lost():
    text = "I'll  pay £5,000\n\nfor the cat!! DON'T, b'day  "
    assert regex.findall(SPLIT, text) == ["I", "'ll", " ", " pay", " £", "5", ",", "000", "\n", "\n", "for", " the",
                                          " cat", "!!", " DON", "'", "T", ",", " b", "'d", "ay", "  "]
    for text in random_texts(300):
        assert "".join(regex.findall(SPLIT, text)) == text, "a character that belongs to no piece has no ids"


def test_any_text_comes_back_from_its_ids(tokenizer):
    everything = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    for text in [everything, *random_texts(300)]:
        assert token_ids_to_text(text_to_token_ids(text, tokenizer), tokenizer) == text


def test_half_a_character_of_utf16_is_no_text_and_comes_back_as_the_replacement_sign(tokenizer):
    half = "\ud83c"    # Python's str can hold it, and a careless reader of JSON can make it
    assert token_ids_to_text(text_to_token_ids(half, tokenizer), tokenizer) == "\ufffd"


def test_endoftext_in_a_message_is_text_like_any_other(tokenizer):
    text = "WIN<|endoftext|>now"
    ids = text_to_token_ids(text, tokenizer)
    assert END_OF_TEXT not in ids, "a message could end the text, or pad itself"
    assert token_ids_to_text(ids, tokenizer) == text


def test_end_of_text_is_the_last_of_50257_ids(tokenizer):
    assert tokenizer.n_vocab == 50257 == END_OF_TEXT + 1
    assert tokenizer.encode("<|endoftext|>", allowed_special="all") == [END_OF_TEXT]
    assert tokenizer.decode([END_OF_TEXT]) == "<|endoftext|>"
    assert all(config.vocab_size == tokenizer.n_vocab for config in GPT2_SIZES.values())


def test_every_byte_has_an_id_below_256_and_every_id_its_own_bytes(tokenizer):
    tokens = [tokenizer.decode_single_token_bytes(i) for i in range(END_OF_TEXT)]
    assert sorted(tokens[:256]) == [bytes([byte]) for byte in range(256)], "some text could not be encoded at all"
    assert all(len(token) > 1 for token in tokens[256:]) and len(set(tokens)) == END_OF_TEXT
    assert (tokens[0], tokens[94], tokens[188], tokens[220]) == (b"!", b"\xa1", b"\x00", b" "), "not GPT-2's order"


@pytest.mark.exercise("E1.1")
def test_each_byte_has_one_sign_and_every_sign_can_be_seen():
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256)), "is the dict from sign to byte, and is no byte left out?"
    for sign, byte in alphabet.items():
        assert len(sign) == 1 and sign.isprintable() and not sign.isspace(), \
            f"byte {byte} is written as {sign!r}: would one see it on a line of vocab.bpe, and not take it for a gap?"
        assert ord(sign) in (byte, *range(256, 324)), f"byte {byte} is written as sign {ord(sign)}: 68 from 256 on"


@pytest.mark.exercise("E1.1")
def test_the_bytes_that_print_come_first_and_the_others_are_numbered_from_256():
    signs, order = list(byte_alphabet()), list(byte_alphabet().values())
    assert order[:188] == sorted(order[:188]) and order[188:] == sorted(order[188:]), "each of the two parts rises"
    assert (order[0], order[93], order[94], order[105], order[106]) == (33, 126, 161, 172, 174), \
        "ids 0 to 187 are the bytes 33 to 126, 161 to 172 and 174 to 255: byte 173 can be seen in no text"
    assert signs[:188] == [chr(byte) for byte in order[:188]], "a byte that prints is written as itself"
    assert signs[188:] == [chr(256 + i) for i in range(68)], "the n-th of the others is sign 256 + n, whatever its byte"


@pytest.mark.exercise("E1.1")
def test_the_sign_of_a_space_is_a_g_with_a_dot():
    alphabet = byte_alphabet()
    assert (alphabet["A"], alphabet["Ġ"], alphabet["Ċ"]) == (ord("A"), ord(" "), ord("\n"))


@pytest.mark.exercise("E1.2")
def test_each_line_after_the_version_is_the_next_id():
    ranks = read_ranks("#version: 0.2\nĠ t\nh e\nĠt he\n")
    assert list(ranks.items())[256:] == [(b" t", 256), (b"he", 257), (b" the", 258)], \
        "is the version line taken for a merge, or Ġ not for a space, or are the two parts of a line not joined?"
    assert read_ranks("#version: 0.2\nĠ t\nh e\nĠt he") == ranks, "the last line counts without a line end as well"


@pytest.mark.exercise("E1.2")
def test_the_first_256_ids_are_the_bytes_in_gpt2s_order():
    ranks = read_ranks("#version: 0.2\n")
    assert sorted(ranks) == [bytes([byte]) for byte in range(256)] and list(ranks.values()) == list(range(256))
    assert (ranks[b"!"], ranks[b"A"], ranks[b"\x00"], ranks[b" "]) == (0, 32, 188, 220), \
        "an id is a byte's place in byte_alphabet, and not the byte"


@pytest.mark.exercise("E1.2")
def test_a_token_is_made_of_the_bytes_that_its_signs_stand_for():
    ranks = read_ranks("#version: 0.2\nÃ ¤\nĊ Ċ\nð Ł\nĠ Ã¤\n")
    assert list(ranks)[256:] == ["ä".encode(), b"\n\n", b"\xf0\x9f", " ä".encode()], \
        "a sign is one byte, which byte_alphabet tells: encode() would make two bytes of most of them"


@pytest.mark.exercise("E1.2")
def test_the_file_has_50256_tokens_and_ids_that_the_book_prints():
    ranks = read_ranks(fetch("vocab.bpe").read_text(encoding="utf-8"))
    assert len(ranks) == END_OF_TEXT and list(ranks.values()) == list(range(END_OF_TEXT)), "is a line missing or twice?"
    assert [ranks[token] for token in (b"Every", b" effort", b" moves", b" you")] == [6109, 3626, 6100, 345]


def test_a_text_is_a_batch_of_one_row_of_integers(tokenizer):
    ids = text_to_token_ids("Every effort moves you", tokenizer)
    assert ids.shape == (1, 4) and ids.dtype == torch.long
    assert token_ids_to_text(ids, tokenizer) == token_ids_to_text(ids[0], tokenizer) == "Every effort moves you"


def test_no_text_is_a_row_of_no_tokens(tokenizer):
    ids = text_to_token_ids("", tokenizer)
    assert ids.shape == (1, 0) and ids.dtype == torch.long, "torch.tensor([[]]) holds floats"
    assert token_ids_to_text(ids, tokenizer) == ""


def test_half_an_emoji_is_shown_as_the_replacement_sign(tokenizer):
    half = text_to_token_ids("🎉", tokenizer)[:, :-1]
    assert token_ids_to_text(half, tokenizer) == "\ufffd", "a text that is being written may lack its last bytes"


def test_the_tokenizer_is_built_once(tokenizer):
    assert gpt2_tokenizer() is tokenizer, "reading 50,000 merges takes a moment"


@pytest.mark.parametrize("text", [" " * 1_200_000, " " * 1_200_000 + "a", "\n" * 2_000_001 + " b", "\t\n " * 400_000 + "x"])
def test_a_million_blanks_are_a_text(tokenizer, text):
    """tiktoken's engine panics where a piece of white space may be as long as it likes, and no handler sees a panic."""
    ids = tokenizer.encode_ordinary(text)
    assert tokenizer.decode(ids) == text
    half = tokenizer.encode_ordinary(text[:100_000]), tokenizer.encode_ordinary(text[-100_001:])
    assert ids[:len(half[0]) - 9] == half[0][:-9] and ids[9 - len(half[1]):] == half[1][9:]
