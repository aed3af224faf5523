"""Label a whole file: a CSV of any size in, the same rows with a label and its probability out.

Read along: chapters/09_your_own_data.py. Shape letters: gpt/__init__.py.
"""

import csv
import os
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from gpt.adapters import load_adapter, plain_head, read_adapter
from gpt.batches import encode, pad
from gpt.classify import class_logits, evaluating, to_device
from gpt.config import GPT2_SIZES
from gpt.files import written_whole
from gpt.tables import open_table
from gpt.weights import load_gpt2

NEW_COLUMNS = ["predicted_label", "predicted_probability"]
ROWS, CHARACTERS = 4096, 4_000_000    # a piece of the file: so many rows, or fewer that hold so many characters
TOKENS = 4096                         # a batch: so many tokens, padding and all


class Counts(NamedTuple):
    """What `predict_file` did."""

    rows: int
    empty: int    # rows without a text, which got no label
    cut: int      # texts of more tokens than the model reads


def load_classifier(adapter_file):
    """The model that an adapter makes of its base, in eval mode, and the adapter's metadata.

    Raises: OSError; ValueError that begins with the file's name where it is no adapter, no file holds its base's
        weights, that base has other weights now, or it has no classes; what `gpt.weights.load_gpt2` raises
    """
    base = read_adapter(adapter_file)[0].base
    if base not in GPT2_SIZES:
        raise ValueError(f"{adapter_file} was trained on {base!r}, weights that no file holds: take another adapter")
    model = load_gpt2(base)
    adapter = load_adapter(model, adapter_file)
    if not adapter.labels:
        raise ValueError(f"{adapter_file} has no labels: it was trained to write text, not to tell classes apart")
    return model.eval(), adapter


def predict_file(model, source, out, text_column, tokenizer, labels, pad_to=None):
    """Copy a CSV and give each row the most probable label of its text and the probability of that.

    The file is read twice, row by row: once to count the rows and to find what is wrong with any of them before the
    model works for an hour, and once in pieces whose size does not depend on the file's. `out` has the same columns and
    then NEW_COLUMNS, the rows in their order, the same sign between cells. It appears when all is done: an interrupted
    run leaves nothing, and an older file of that name as it was. A row whose text is empty gets an empty label. A text
    that is too long is read as far as the model reads.

    Input: text_column, None for "text" or "Text"; labels, pad_to: those of the adapter
    Output: Counts
    Raises: OSError; what `open_table` does; ValueError for labels that do not fit the head, where source and out are
        one file, where the new columns are there already, where no column is named and none is called text
    """
    if len(labels) != (outputs := plain_head(model).out_features):
        raise ValueError(f"{len(labels)} labels, but the head has {outputs} outputs: are they another adapter's?")
    header = open_table(source)[1] if text_column is None else [text_column]
    text_column = next((name for name in header if name in ("text", "Text", text_column)), None)
    if text_column is None:
        raise ValueError(f"{source}: no column is named text or Text: which one holds the texts? {header}")
    delimiter, header, rows = open_table(source, text_column)
    if Path(out).is_dir():
        raise IsADirectoryError(f"{out} is a folder: name a file in it")
    if Path(out).exists() and os.path.samefile(source, out):
        raise ValueError(f"{out} would be overwritten with its own labels: write them to another file")
    if taken := [column for column in NEW_COLUMNS if column in header]:
        raise ValueError(f"{source} has a column {taken[0]} already: was it labelled before? Rename it or leave it out")
    with written_whole(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        total, empty, cut = sum(1 for _ in rows), 0, 0
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n")    # with "\n" a "\r" is not quoted
        writer.writerow(header + NEW_COLUMNS)
        with tqdm(total=total, unit="row", disable=None, leave=False) as bar:
            for piece in pieces(open_table(source, text_column)[2]):
                texts = [row[header.index(text_column)] for row in piece]
                answers, too_long = label_texts(model, texts, tokenizer, labels, pad_to, bar)
                empty, cut = empty + texts.count(""), cut + too_long
                writer.writerows(row + answer for row, answer in zip(piece, answers, strict=True))
    return Counts(total, empty, cut)


def pieces(rows):
    """Lists of rows, each a list of cells, from `open_table`'s (line, cells): ROWS, or as many as hold CHARACTERS."""
    piece, characters = [], 0
    for _, cells in rows:
        piece.append(cells)
        characters += sum(map(len, cells))
        if len(piece) == ROWS or characters >= CHARACTERS:
            yield piece
            piece, characters = [], 0
    if piece:
        yield piece


def batches_of_tokens(lengths):
    """Cut rows, sorted by length, into batches of up to TOKENS tokens with their padding, or of one row that has more.

    With padding a batch has as many tokens as its longest row has, times its rows. Each takes as many rows as it can.

    Input: lengths, {row: tokens}
    Output: an iterator of lists of rows, the shortest first, equals in the order in which they come
    """
    batch = []
    for row in sorted(lengths, key=lengths.get):
        if batch and (len(batch) + 1) * lengths[row] > TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def label_texts(model, texts, tokenizer, labels, pad_to, bar):
    """The answers to a piece of the file, in its order, and how many of its texts were cut.

    Output: a list of [label, probability with four digits], two empty strings for an empty text; a number
    """
    token_ids = encode(texts, tokenizer)
    limit, device = pad_to or model.config.context_length, model.tok_emb.weight.device
    lengths = {row: pad_to or min(len(token_ids[row]), limit) for row, text in enumerate(texts) if text}
    answers = [["", ""] for _ in texts]
    with evaluating(model):
        for rows in batches_of_tokens(lengths):
            ids, real = pad([token_ids[row][:limit] for row in rows], width=pad_to)   # (B, T), (B,)
            batch = (ids, real, real) if pad_to is None else (ids, real)
            best = class_logits(model, to_device(batch, device)).float().softmax(dim=-1).max(dim=-1)
            for row, k, probability in zip(rows, best.indices.tolist(), best.values.tolist(), strict=True):
                answers[row] = [labels[k], f"{probability:.4f}"]
            bar.update(len(rows))
    bar.update(len(texts) - len(lengths))
    return answers, sum(len(ids) > limit for ids in token_ids)
