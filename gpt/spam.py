"""Read a file of text messages, balance its classes and split it into three tables.

Read along: chapters/05_spam_classifier.py. Source: Almeida and Hidalgo, SMS Spam Collection (UCI, CC BY 4.0);
Raschka 2024, section 6.2. "The blog" in gpt/ is a post that follows that book's chapter 6 and appendix E.
"""

import io
import re
import unicodedata

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from gpt.batches import LABELS, encode, label_ids, message_texts, pad
from gpt.storage.files import BadFile, read_unpacked
from gpt.tokenizer import END_OF_TEXT


def read_sms(path, blog=False):
    """The messages of the SMS file as a DataFrame with the columns Label ("ham" or "spam") and Text.

    Each line, which ends in "\\n" or "\\r\\n" and nowhere else, is a label, a tab and the message. Further tabs belong
    to the message, and a quotation mark is a character like any other, so there are 5,574 messages. With blog=True
    pandas.read_csv reads the same file, as the blog does, with tabs between the cells, no header, and pandas' defaults
    for all else. It takes quotation marks for those around a cell and finds 5,572 rows, because one opening quote
    swallows two line ends and glues three messages into one row, and 52 rows lose quotes that were text.

    Raises: ValueError, whichever way the file is read, that begins with file:line and a colon, and says what is wrong:
    the file is empty; "expected a label, a tab and a message", where one is missing; the label, if it is neither ham
    nor spam; a byte that is not UTF-8 (`decode_utf8` says so)
    """
    content = decode_utf8(path)
    lines = content.removesuffix("\n").split("\n")    # splitlines() would also cut at U+0085 and the like
    if lines == [""]:
        raise BadFile(f"{path}:1: the file is empty")
    rows = []
    for number, line in enumerate(lines, start=1):
        label, tab, text = line.removesuffix("\r").partition("\t")
        if not tab or not text:
            raise BadFile(f"{path}:{number}: expected a label, a tab and a message, got {line[:60]!r}")
        if label not in LABELS:
            raise BadFile(f"{path}:{number}: the label must be one of {list(LABELS)}, got {label[:60]!r}")
        rows.append((label, text))
    if blog:
        return pd.read_csv(io.StringIO(content), sep="\t", header=None, names=["Label", "Text"])
    return pd.DataFrame(rows, columns=["Label", "Text"])


def decode_utf8(path, keep_mark=False):
    """The text of a file, compressed by gzip or not; its byte-order mark is dropped unless keep_mark.

    Raises: BadFile with file:line where it is not UTF-8; what `read_unpacked` does
    """
    content = read_unpacked(path)
    try:
        return content.decode("utf-8" if keep_mark else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[:error.start].count(b"\n") + 1
        kind = "is it a zip or a spreadsheet" if content[:2] == b"PK" else "was it saved in another encoding"
        raise BadFile(f"{path}:{line}: byte {error.object[error.start]:#04x} is not UTF-8: {kind}? Save it "
                      f"as UTF-8 text (a spreadsheet as CSV UTF-8)") from error


def create_balanced_dataset(df, random_state=123):
    """A table with as many ham as spam: a random sample of the "ham" rows, by DataFrame.sample, then every "spam" row.

    No row comes twice, the rows keep the numbers that they had, and the "spam" rows keep their order.

    Raises: ValueError with both numbers, "3 ham and 5 spam", unless 0 < spam <= ham
    """
    ham, spam = df[df["Label"] == "ham"], df[df["Label"] == "spam"]
    if not 0 < len(spam) <= len(ham):
        raise ValueError(f"balancing draws one ham for each spam, but there are {len(ham)} ham and {len(spam)} "
                         f"spam: have the labels already become 0 and 1?")
    return pd.concat([ham.sample(len(spam), random_state=random_state), spam])


def random_split(df, train_frac, validation_frac, random_state=123):
    """Shuffle the rows, by DataFrame.sample, and cut them into train, validation and test, which gets the rest.

    The first two sizes are rounded down. A cut may part copies of a message; `split_without_leaks` keeps them together.
    """
    df = df.sample(frac=1, random_state=random_state).reset_index(drop=True)
    train_end = int(len(df) * train_frac)
    validation_end = train_end + int(len(df) * validation_frac)
    return df[:train_end], df[train_end:validation_end], df[validation_end:]


def normalised(text):
    """Only the letters of a message, of any script, in lower case and with their accents and vowel signs.

    "Call 0800-123 NOW!" and "call 0871 now" give "callnow". Of a message without letters, such as "4711-3" or ":-)",
    all is kept but extra spaces. A letter in two encodings, such as the two of "é", counts as one (Unicode's NFKC).
    """
    characters = unicodedata.normalize("NFKC", text).lower()
    kinds = "".join(unicodedata.category(c)[0] for c in characters)    # L: a letter; M: a mark on what is before it
    letters = "".join(characters[found.start():found.end()] for found in re.finditer("LM*", kinds))
    return letters or " ".join(text.split())


def split_without_leaks(df, train_frac=0.7, validation_frac=0.1, seed=123):
    """Split the table so that no test message equals, but for digits and punctuation, one that was trained on.

    Rows whose texts are equal after `normalised` form a group, and a group goes to one split. A group has the label of
    its first row. The labels are taken in the order in which they first occur, and the groups of a label from the
    largest down. Each group draws its split from np.random.default_rng(seed), among those that have room for all of it,
    with chances in proportion to their room. Where none has, the split with the most room takes it. A split's room is
    the number of rows of that label that it still lacks: its share of the table times the rows in the label's groups,
    plus the room, possibly negative, that earlier labels left.

    Output: train, validation, test, shuffled with the same generator and renumbered from 0; every row of df is in
        exactly one of them. The first two sizes are the fractions rounded down, give or take a group without room
    Raises: ValueError with both fractions if one is negative or their sum above 1; what `message_texts` raises
    """
    sizes = np.array([int(len(df) * train_frac), int(len(df) * validation_frac), 0])
    sizes[2] = len(df) - sizes.sum()
    if sizes.min() < 0:
        raise ValueError(f"fractions of {train_frac} and {validation_frac} do not cut {len(df)} rows in three")
    rng = np.random.default_rng(seed)
    labels = df["Label"].to_numpy()
    groups = df.groupby([normalised(text) for text in message_texts(df)], sort=False).indices.values()
    splits = ([], [], [])
    room = np.zeros(3)
    for label in df["Label"].unique():
        own = [rows for rows in groups if labels[rows[0]] == label]
        room += sizes / len(df) * sum(map(len, own))    # on top of a fraction that the last label left
        for rows in sorted(own, key=len, reverse=True):
            chances = np.where(room >= len(rows), room, 0)
            split = rng.choice(3, p=chances / chances.sum()) if chances.any() else room.argmax()
            splits[split].extend(rows)
            room[split] -= len(rows)
    return tuple(df.iloc[rng.permutation(rows).astype(int)].reset_index(drop=True) for rows in splits)


class SpamDataset(Dataset):
    """Messages padded to one length, as the blog feeds them: item i is (ids (max_length,), label ()).

    Input: csv_file, a DataFrame with the columns Label and Text, or the path of a CSV that has them; max_length, the
        number of tokens to which messages are padded or cut, None for as many as the longest has
    Raises: ValueError for a missing column and, with its row, for a cell without text or label
    """

    def __init__(self, csv_file, tokenizer, max_length=None, pad_token_id=END_OF_TEXT):
        if not isinstance(csv_file, pd.DataFrame):    # only an empty cell is missing: "NA" and "null" are messages
            file, csv_file = csv_file, pd.read_csv(csv_file, dtype={"Text": str}, keep_default_na=False, na_values=[""])
            if not isinstance(csv_file.index, pd.RangeIndex):    # pandas has made an index of the first cells
                raise BadFile(f"{file}: its rows have more cells than its first line has names: does a cell hold "
                              f"commas, and no quotation marks around it?")
        rows = encode(message_texts(csv_file), tokenizer, max_length, pad_token_id)
        self.ids, _ = pad(rows, pad_token_id, max_length)                             # (messages, max_length)
        self.labels = label_ids(csv_file)                                             # (messages,)
        self.max_length = self.ids.shape[1]

    def __getitem__(self, index):
        return self.ids[index], self.labels[index]

    def __len__(self):
        return len(self.labels)
