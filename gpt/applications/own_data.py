"""A table of your own: read it without losing or inventing a cell, number its classes, and label a whole file.

Read along: chapters/09_your_own_data.py. Source: RFC 4180 (quoting; other delimiters: DELIMITERS).
"""

import csv
import io
import os
import re
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm import tqdm

from gpt.adapters import load_adapter, read_adapter
from gpt.batches import encode
from gpt.classify import most_probable_labels
from gpt.config import GPT2_SIZES
from gpt.spam import decode_utf8, normalised
from gpt.storage.files import BadFile, naming_file, written_whole
from gpt.weights import load_gpt2

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
BEFORE_THE_NAMES = re.compile("\ufeff?(?:sep=([,;\t|])\r?\n)?")    # a byte-order mark, and Excel's line "sep=;"
NEW_COLUMNS = ["predicted_label", "predicted_probability"]    # of `predict_file`


def open_table(file, *columns, text=None):
    """The delimiter of a CSV, which may be compressed by gzip, its column names, and its rows.

    The file is UTF-8. The names are in its first line, or in the second if the first is Excel's "sep=;", which sets the
    delimiter. Otherwise the delimiter is that of DELIMITERS which finds all wanted columns (if none is wanted, text or
    Text), and of several that do the one which gives most columns. A cell in quotation marks may hold line ends,
    delimiters and doubled quotation marks. With tabs a quotation mark is an ordinary character, unless the first name
    begins with one. Blank lines are skipped. (pandas takes the first column for an index if the first row has one cell
    too many.)

    Input: text, the file's content if it was read already: a pipe can be read only once
    Output: delimiter; header, a list of names; rows, a list of (line, cells): the line number, from 1, where the row
        begins, and as many strings as there are names
    Raises: OSError; BadFile for an empty or damaged file, and a wanted column that is missing or there twice; with
        file:line for a byte that is not UTF-8, another number of cells than names, an open quote
    """
    text = decode_utf8(file, keep_mark=True) if text is None else text
    start = BEFORE_THE_NAMES.match(text)
    text, first = text[start.end():], 1 + bool(start[1])
    headers = {sign: next(_rows(file, text, sign, first, strict=False), (1, []))[1] for sign in start[1] or DELIMITERS}
    wanted = [set(columns)] if columns else [{"text"}, {"Text"}]
    delimiter = max(headers, key=lambda sign: (any(w <= set(headers[sign]) for w in wanted), len(headers[sign])))
    header = headers[delimiter]
    if not header:
        raise BadFile(f"{file}: the file is empty: not even a line of column names")
    for column in columns:
        if header.count(column) != 1:
            found = f"{header.count(column)} columns are" if column in header else "no column is"
            raise BadFile(f"{file}: {found} named {column}: the columns are {header}")
    rows = list(_rows(file, text, delimiter, first))[1:]
    for line, cells in rows:
        if len(cells) != len(header):
            plain = _quoting(text, delimiter).get("quoting") == csv.QUOTE_NONE
            marks = "" if plain else ", and no quotation marks around it"
            raise BadFile(f"{file}:{line}: {len(cells)} cells, but {len(header)} columns have a name: does a cell "
                          f"hold {DELIMITERS[delimiter]} or a line end{marks}?")
    return delimiter, header, rows


def _quoting(text, delimiter):
    """Options for csv: tab-separated values have no quotation marks around cells (IANA), unless the first name has."""
    if delimiter != "\t":
        return {}
    return dict(quoting=csv.QUOTE_ALL) if text.startswith('"') else dict(quoting=csv.QUOTE_NONE, quotechar=None)


def _rows(file, text, delimiter, first, strict=True):
    """(line, cells) for each line that is not blank. Strict: "a";b cut at commas is an error, not one odd cell."""
    csv.field_size_limit(2 ** 31 - 1)    # unless told otherwise it refuses cells of more than 131,072 characters
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict,
                        **_quoting(text, delimiter))
    line = first
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = first + reader.line_num
    except csv.Error as error:
        raise BadFile(f"{file}:{line}: {error}: does the row that begins there have a quotation mark that is not "
                      f"closed or, within a quoted cell, one that is not doubled?") from error


def read_table(file, *columns, leave_out_empty=False):
    """These columns of a CSV as a DataFrame of strings, each cell as it stands in the file: "NA" and "007" are texts.

    Input: leave_out_empty, whether to leave out rows that have an empty cell in one of these columns, and print which
    Raises: what `open_table` does; BadFile for a table without rows, and, with their lines, for empty cells, if all
        rows have one or they are not to be left out
    """
    _, header, rows = open_table(file, *columns)
    if not rows:
        raise BadFile(f"{file}: a line of column names, {header}, and no rows")
    table = pd.DataFrame([cells for _, cells in rows], dtype=str)[[header.index(column) for column in columns]]
    empty = (table == "").to_numpy()
    if empty.any():
        first = columns[empty.nonzero()[1][0]]
        lines = [rows[i][0] for i in empty.any(axis=1).nonzero()[0]]
        named = f"lines {', '.join(map(str, lines[:9]))}{', ...' if len(lines) > 9 else ''}"
        if not leave_out_empty or len(lines) == len(table):
            raise BadFile(f"{file}:{lines[0]}: the cell of column {first} is empty; {empty.sum():,} cells in "
                          f"{len(table):,} rows are ({named}): fill them"
                          + ("" if leave_out_empty else ", or leave out the rows that have one (leave_out_empty)"))
        print(f"{file}: {len(lines):,} of {len(table):,} rows have an empty cell and are left out: {named}")
        table = table[~empty.any(axis=1)].reset_index(drop=True)
    return table.set_axis(list(columns), axis=1)


def labelled_table(file, text_column, label_column, leave_out_empty=False):
    """Texts and classes from a CSV: a DataFrame with the columns Label and Text, and the names of the classes.

    Input: leave_out_empty: see `read_table`. Output: what `number_classes` gives
    Raises: what `read_table` and `number_classes` do; ValueError for one column as text and label
    """
    if text_column == label_column:
        raise BadFile(f"{file}: column {text_column} cannot be text and label at once")
    table = read_table(file, label_column, text_column, leave_out_empty=leave_out_empty)
    with naming_file(file):
        return number_classes(table.set_axis(["Label", "Text"], axis=1))


def number_classes(table):
    """Replace labels by class numbers: sorted as Python sorts texts, or by value where all labels are whole numbers.

    Each class needs a text in each of three splits, and texts that are equal after `normalised` go to the same one.

    Input: table, a DataFrame with the columns Label and Text, both strings
    Output: a new DataFrame, Label a class number 0..K-1; names, the K labels in the order of their numbers
    Raises: ValueError, with counts where there are any: one class only; a label that cannot be seen or has a control
        character; two labels that look alike (`_as_seen`); a class with fewer than three texts that stay different
        after `normalised`
    """
    counts = table["Label"].value_counts()
    names = sorted(counts.index)
    if all(re.fullmatch("-?[0-9]+", name) for name in names):
        names.sort(key=Decimal)    # int() refuses more than 4,300 digits
    strange = [name for name in names if _as_seen(name) == "" or any(unicodedata.category(c) == "Cc" for c in name)]
    if strange:
        raise ValueError(f"the label {strange[0]!r} cannot be seen, or holds a line end, a tab or another control "
                         f"character")
    if len(names) < 2:
        raise ValueError(f"all {len(table):,} rows have the label {names[0]!r}: there is nothing to tell apart")
    alike = {}
    for name in names:
        other = alike.setdefault(_as_seen(name), name)
        if other != name:
            raise ValueError(f"the labels {other!r} ({counts[other]:,} rows) and {name!r} ({counts[name]:,} rows) "
                             f"look alike: they differ only in case, spaces, hyphens, quotation marks, invisible "
                             f"characters, the encoding of a letter or the way a number is written. Are they one "
                             f"class? Then write them alike")
    texts = table["Text"].map(normalised).groupby(table["Label"]).nunique()
    for name in names:
        if texts[name] < 3:
            many = f". There are {len(names):,} labels in {len(table):,} rows: are they scores, or of another column?"
            raise ValueError(f"class {name!r} has {counts[name]:,} rows and {texts[name]} different texts (texts with "
                             f"the same letters count as one, because they go to one split): training, validation and "
                             f"test need one each, so 3{many if len(names) > 20 else ''}")
    numbers = {name: number for number, name in enumerate(names)}
    return table.assign(Label=table["Label"].map(numbers).astype(int)), names


def _as_seen(label):
    """A label without what the eye overlooks: case, extra spaces, invisible characters; a number's value."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    text = re.sub("[\ufe00-\ufe0f\u034f\U000e0100-\U000e01ef]", "", text)    # they choose how another one is drawn
    for kind, plain in (("\u2018\u2019\u02bc", "'"), ("\u201c\u201d", '"'), ("\u2010-\u2015\u2212", "-")):
        text = re.sub(f"[{kind}]", plain, text)    # what word processors make of quotation marks and hyphens
    text = " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())
    return Decimal(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", text) else text


# ---- Label a whole file: a CSV in, the same rows with a label and its probability out --------------------------------

class Counts(NamedTuple):
    """What `predict_file` did."""

    rows: int
    empty: int    # rows without a text, which got no label
    cut: int      # texts of more tokens than the model reads


def load_classifier(adapter_file):
    """The model that an adapter makes of its base, in eval mode, and the adapter's metadata.

    Raises: OSError; ValueError that begins with the file's name for a file that is no adapter, an adapter without
        classes, and a base whose weights no file holds or are others now; what `gpt.weights.load_gpt2` raises
    """
    base = read_adapter(adapter_file)[0].base
    if base not in GPT2_SIZES:
        raise BadFile(f"{adapter_file} was trained on {base!r}, which is no model of GPT2_SIZES: load that base "
                      f"yourself, and call load_adapter")
    model = load_gpt2(base)
    adapter = load_adapter(model, adapter_file)
    if not adapter.labels:
        raise BadFile(f"{adapter_file} has no labels: it was trained to write text, not to tell classes apart")
    return model.eval(), adapter


def predict_file(model, source, out, text_column, tokenizer, labels, pad_to=None):
    """Copy a CSV (from a .gz unpacked) and give each row the most probable label of its text and its probability.

    `out` has the same columns and then NEW_COLUMNS, the rows in their order, the same delimiter, and begins as the
    source does (a byte-order mark tells Excel that it is UTF-8). It appears when all is done; an interrupted run
    changes nothing. An empty text gets an empty label, a text that is too long is cut.

    Input: text_column, None for "text" or "Text"; labels, pad_to: those of the adapter. Output: Counts
    Raises: OSError; what `open_table` does; ValueError for labels that do not fit the head, where source and out are
        one file, where the new columns are there already, and without a text_column if none is called text or Text
    """
    content, wanted = decode_utf8(source, keep_mark=True), [text_column] if text_column is not None else []
    delimiter, header, rows = open_table(source, *wanted, text=content)
    if text_column is None:
        found = [name for name in header if name in ("text", "Text")]
        if len(found) != 1:
            raise BadFile(f"{source}: {len(found) or 'no'} columns are named text or Text: which one holds the texts? "
                          f"{header}")
        text_column = found[0]
    if Path(out).is_dir():
        raise IsADirectoryError(f"{out} is a folder: name a file in it")
    if Path(out).exists() and os.path.samefile(source, out):
        raise BadFile(f"{out} is the source itself, which would be overwritten: write to another file")
    taken = [column for column in NEW_COLUMNS if column in header]
    if taken:
        raise BadFile(f"{source} has a column {taken[0]} already: was it labelled before? Rename it or leave it out")
    texts = [cells[header.index(text_column)] for _, cells in rows]
    token_ids = encode([text for text in texts if text], tokenizer)
    with tqdm(total=len(token_ids), unit="text", disable=None, leave=False) as bar:
        predictions = iter(most_probable_labels(model, token_ids, labels, pad_to, bar))
    with written_whole(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        start = BEFORE_THE_NAMES.match(content)
        file.write(start[0])
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n",    # with "\n" a "\r" is not quoted
                            **_quoting(content[start.end():], delimiter))
        writer.writerow(header + NEW_COLUMNS)
        for (_, cells), text in zip(rows, texts):
            label, probability = next(predictions) if text else ("", None)
            writer.writerow([*cells, label, "" if probability is None else f"{probability:.4f}"])
    limit = pad_to or getattr(model, "pad_to", None) or model.config.context_length
    return Counts(len(rows), len(rows) - len(token_ids), sum(len(ids) > limit for ids in token_ids))
