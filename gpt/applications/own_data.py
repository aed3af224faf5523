"""A table of your own: read it without losing or inventing a cell, number its classes, and label a whole file.

Read along: chapters/09_your_own_data.py. Source: RFC 4180 (quoting; here also semicolons and tabs between cells). Shape
letters: gpt/__init__.py.
"""

import csv
import os
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm import tqdm

from gpt.adapters import load_adapter, plain_head, read_adapter
from gpt.batches import encode, pad
from gpt.classify import batches_of_tokens, class_logits, to_device
from gpt.config import GPT2_SIZES
from gpt.model import evaluating
from gpt.spam import normalised
from gpt.storage.files import written_whole
from gpt.weights import load_gpt2

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def open_table(file, *columns):
    """How a CSV is cut into cells, its column names, and an iterator over its rows, which are read one at a time.

    UTF-8, with or without a byte-order mark. The first line has the names. What stands between cells, a comma, a
    semicolon or a tab, is what makes the wanted columns of that line, or, of several that do, most columns. A cell in
    quotation marks may hold line ends, what stands between cells, and a mark as two marks. Blank lines are skipped.

    Output: delimiter; header, a list of names; rows, which yields (line, cells): the number, from 1, of the line where
        the row begins, and as many strings as there are names
    Raises: OSError; ValueError that begins with the file's name for a file that is empty, is not UTF-8, misses a wanted
        column or has it twice, or that two delimiters fit equally well; while the rows are read, one with file:line for
        a row with more or fewer cells than names, a quotation mark that is not closed, a NUL, a cell of more than
        131,072 characters, the limit of Python's csv
    """
    headers = {delimiter: next(_rows(file, delimiter, strict=False), (0, []))[1] for delimiter in DELIMITERS}
    sizes = {delimiter: (set(columns) <= set(header), len(header)) for delimiter, header in headers.items()}
    best = [delimiter for delimiter in sizes if sizes[delimiter] == max(sizes.values())]
    header = headers[best[0]]
    if not header:
        raise ValueError(f"{file}: the file is empty: not even a line of column names")
    for column in columns:
        if header.count(column) != 1:
            found = f"{header.count(column)} columns are" if column in header else "no column is"
            raise ValueError(f"{file}: {found} named {column}: the columns are {header}")
    if len(best) > 1 and len(header) > 1:
        raise ValueError(f"{file}: {' and '.join(DELIMITERS[one] for one in best)} cut its first line into "
                         f"{len(header)} columns alike: keep to one of them")
    return best[0], header, _full_rows(file, best[0], len(header))


def _full_rows(file, delimiter, width):
    rows = _rows(file, delimiter)
    next(rows)
    for line, cells in rows:
        if len(cells) != width:
            raise ValueError(f"{file}:{line}: {len(cells)} cells, but {width} columns have a name: does a cell hold "
                             f"{DELIMITERS[delimiter]} or a line end, and no quotation marks around it?")
        yield line, cells


def _rows(file, delimiter, strict=True):
    """(line, cells) for each line that is not blank. Strict: "a";b cut at commas is an error, and not one odd cell."""
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader, line = csv.reader(lines, delimiter=delimiter, strict=strict), 1
        try:
            for cells in reader:
                if any("\0" in cell for cell in cells):
                    raise ValueError(f"{file}:{line}: a NUL byte, which no text has: is it a table at all?")
                if cells:
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            if "field larger" in str(error):
                raise ValueError(f"{file}:{line}: a cell of the row that begins there has more than "
                                 f"{csv.field_size_limit():,} characters: is a quotation mark not closed?") from error
            raise ValueError(f"{file}:{line}: {error}: a row that begins there has a quotation mark that is not closed "
                             f"or, within a quoted cell, one that is not doubled") from error
        except UnicodeDecodeError as error:
            raise ValueError(_not_utf8(file)) from error


def _not_utf8(file):
    """Where the first byte is that is not UTF-8: the decoder tells its place in a piece of the file only."""
    before = 0
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return (f"{file}:{number}: byte {line[error.start]:#04x} at position {before + error.start:,} is not "
                        f"UTF-8: save the file as UTF-8 (in a spreadsheet: \"CSV UTF-8\")")
            before += len(line)
    return f"{file}: it changed while it was read"


def read_table(file, *columns):
    """These columns of a CSV as a DataFrame of strings, each cell as it stands in the file: "NA" and "007" are texts.

    Raises: what `open_table` does; ValueError with the numbers for a table without rows and for empty cells, the only
    ones that count as missing
    """
    _, header, rows = open_table(file, *columns)
    places, cells, empty = [header.index(column) for column in columns], [], []
    for line, row in rows:
        cells.append([row[place] for place in places])
        empty += [(line, column) for column, cell in zip(columns, cells[-1]) if not cell]
    if not cells:
        raise ValueError(f"{file}: a line of column names, {header}, and no rows")
    if empty:
        line, column = empty[0]
        raise ValueError(f"{file}:{line}: the cell of column {column} is empty, {len(empty):,} cells in {len(cells):,} "
                         f"rows are: fill them or leave these rows out")
    return pd.DataFrame(cells, columns=list(columns), dtype=str)


def labelled_table(file, text_column, label_column):
    """Texts and classes from a CSV: a DataFrame with the columns Label and Text, and what the classes are called.

    Output: the table, with class numbers 0..K-1 as labels, and names, K strings (`number_classes`)
    Raises: what `read_table` and `number_classes` do; ValueError for one column as text and label
    """
    if text_column == label_column:
        raise ValueError(f"{file}: column {text_column} cannot be text and label at once")
    table = read_table(file, label_column, text_column).set_axis(["Label", "Text"], axis=1)
    try:
        return number_classes(table)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def number_classes(table):
    """Replace labels by class numbers: sorted as Python sorts texts, or by value where all labels are whole numbers.

    Each class needs a text in each of three splits, and texts that are equal after `normalised` go to one.

    Input: table, a DataFrame with the columns Label and Text, both strings
    Output: a new DataFrame, Label a class number 0..K-1; names, the K labels in the order of their numbers
    Raises: ValueError with counts: one class only; two labels that differ in case or outer spaces alone; a class with
        fewer than three texts that stay different after `normalised`
    """
    counts = table["Label"].value_counts()
    names, alike = sorted(counts.index), {}
    if all(re.fullmatch("-?[0-9]+", name) for name in names):
        names.sort(key=int)
    if len(names) < 2:
        raise ValueError(f"all {len(table):,} rows have the label {names[0]!r}: there is nothing to tell apart")
    for name in names:
        other = alike.setdefault(name.strip().casefold(), name)
        if other != name:
            raise ValueError(f"the labels {other!r} ({counts[other]:,} rows) and {name!r} ({counts[name]:,} rows) "
                             f"differ in case or outer spaces alone: are they one class? Then write them alike")
    texts = table["Text"].map(normalised).groupby(table["Label"]).nunique()
    for name in names:
        if texts[name] < 3:
            raise ValueError(f"class {name!r} has {counts[name]:,} rows and {texts[name]} different texts: training, "
                             f"validation and test need one each, so 3")
    numbers = {name: number for number, name in enumerate(names)}
    return table.assign(Label=table["Label"].map(numbers).astype(int)), names


# ---- Label a whole file: a CSV of any size in, the same rows with a label and its probability out --------------------

NEW_COLUMNS = ["predicted_label", "predicted_probability"]
ROWS, CHARACTERS = 4096, 4_000_000    # a piece of the file: so many rows, or fewer that hold so many characters


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
            read = (ids, real) if pad_to is None else (ids,)
            best = class_logits(model, *to_device(read, device)).float().softmax(dim=-1).max(dim=-1)
            for row, k, probability in zip(rows, best.indices.tolist(), best.values.tolist(), strict=True):
                answers[row] = [labels[k], f"{probability:.4f}"]
            bar.update(len(rows))
    bar.update(len(texts) - len(lengths))
    return answers, sum(len(ids) > limit for ids in token_ids)
