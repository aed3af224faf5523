"""Turn texts into batches of tensors: messages padded beside others of similar length, or windows of a long text.

Read along: chapters/05_spam_classifier.py (messages), chapters/01_tokens.py (windows). Shape letters: gpt/__init__.py.
"""

import math
from numbers import Real

import numpy as np
import torch
from torch.utils.data import DataLoader

from gpt.tokenizer import END_OF_TEXT

LABELS = {"ham": 0, "spam": 1}
TOKENS = 1024    # of a batch that is only read, padding included; with 2,048 a message takes a quarter longer on a CPU


def message_texts(df):
    """The Text column as a list. Raises: ValueError for a missing column, no rows, a missing label or text."""
    for column in ("Label", "Text"):
        if column not in df.columns:
            raise ValueError(f"no column named {column}: the columns are {list(df.columns)}")
    if df.empty:
        raise ValueError("no messages: the table has no rows")
    for row, (label, text, missing) in enumerate(zip(df["Label"], df["Text"], df["Label"].isna())):
        if missing or not isinstance(text, str):
            raise ValueError(f"row {row} (from 0): expected a label and a text, got {label!r} and {text!r}; "
                             f"is a cell empty?")
    return df["Text"].tolist()


def label_ids(df):
    """The Label column as class numbers, (messages,): "ham" 0, "spam" 1, and whole numbers from 0 as they are."""
    ids = [LABELS.get(label, label) for label in df["Label"]]
    for row, label in enumerate(ids):
        if not isinstance(label, Real) or not float(label).is_integer() or label < 0:
            raise ValueError(f"row {row} (from 0): Label must be one of {list(LABELS)} or a class number, "
                             f"got {label!r}")
    return torch.tensor([int(label) for label in ids])                                # (messages,)


def encode(texts, tokenizer, context_length=None, pad_token_id=END_OF_TEXT):
    """The token ids of each text, one list per text, cut to context_length where that is given.

    A text without tokens becomes one padding token, because a message is classified at its last token and needs one.
    Raises: ValueError for an item that is no text, with its place
    """
    texts = list(texts)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"row {row} (from 0): expected a text, got {text!r}: is it an empty cell?")
    to_ids = getattr(tokenizer, "encode_ordinary", tokenizer.encode)   # encode refuses "<|endoftext|>" in a text
    return [to_ids(text)[:context_length] or [pad_token_id] for text in texts]


def pad(rows, pad_token_id=END_OF_TEXT, width=None):
    """Put lists of token ids into one tensor, a row each, padded on the right.

    GPT-2 has no padding token of its own, so <|endoftext|> stands in.
    Output: ids (B, T) and lengths (B,), whole numbers (torch.long). T is width, or the longest row's length; a length
        counts what is in the list, which may hold the padding token too
    """
    lengths = torch.tensor([len(row) for row in rows])                                # (B,)
    ids = torch.full((len(rows), width or int(lengths.max())), pad_token_id)          # (B, T)
    for padded, row in zip(ids, rows):
        padded[:len(row)] = torch.tensor(row)
    return ids, lengths


def padding_share(batches):
    """The share, 0..1, of padding tokens in all that a loader or a SpamDataset yields."""
    padding = total = 0
    for ids, *_ in batches:
        padding += int((ids == END_OF_TEXT).sum())
        total += ids.numel()
    return padding / total


class BatchesByLength:
    """Batches of messages of similar length, padded only to the longest of each batch.

    To train on: batch_size and seed. To evaluate: batch_size=None, which fills the batches up (`batches_of_tokens`).

    A pass yields batches (ids (B, T), lengths (B,), labels (B,)) with every message once. Its order depends on seed and
    epoch alone, so that an interrupted run can take it up again. The trap: without `set_epoch` before each epoch, all
    epochs have the order of epoch 0. seed=None sorts by length, whatever the epoch.

    Batches of batch_size differ in size by one message at most. If the last one were cut short instead, it would hold
    the longest messages, and the mean over that batch would give each of them more weight, in every epoch.

    rows: the row numbers (from 0) in each batch of this epoch; cut: how many messages lost their end
    """

    def __init__(self, df, tokenizer, batch_size=8, context_length=1024, seed=None, pad_token_id=END_OF_TEXT):
        if context_length < 1 or batch_size is not None and batch_size < 1:
            raise ValueError(f"a batch has at least 1 message of 1 token, got {batch_size} of {context_length}")
        whole = encode(message_texts(df), tokenizer, None, pad_token_id)
        self.token_ids = [row[:context_length] for row in whole]
        self.cut = sum(len(row) > context_length for row in whole)
        self.labels = label_ids(df)                                                   # (messages,)
        self.batch_size = batch_size
        self.seed = seed
        self.pad_token_id = pad_token_id
        self.set_epoch(0)

    def set_epoch(self, epoch):
        """Fix the order of an epoch: sort by blurred length, cut into batches, shuffle the batches.

        The blur multiplies each message's length by a random factor of its own, from 0.95 to 1.05, so that every epoch
        brings other messages together. All is drawn from np.random.default_rng([seed, epoch]). This seed of two numbers
        is not their sum, which would give epoch 1 of seed 1 the order of epoch 0 of seed 2. With seed=None there is
        neither blur nor shuffling, and equal lengths stay in the table's order.

        Output: none; self.rows becomes a list with a list of row numbers for each of the len(self) batches
        """
        lengths = np.array([len(row) for row in self.token_ids])
        rng = None if self.seed is None else np.random.default_rng([self.seed, epoch])
        if rng:
            lengths = lengths * rng.uniform(0.95, 1.05, len(lengths))
        if self.batch_size is None:
            self.rows = list(batches_of_tokens(dict(enumerate(lengths.tolist()))))
        else:
            order = lengths.argsort(kind="stable")
            self.rows = [batch.tolist() for batch in np.array_split(order, math.ceil(len(order) / self.batch_size))]
        if rng:
            rng.shuffle(self.rows)

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        for rows in self.rows:
            ids, lengths = pad([self.token_ids[row] for row in rows], self.pad_token_id)
            yield ids, lengths, self.labels[rows]


def batches_of_tokens(lengths):
    """Cut rows, sorted by length, into batches of up to TOKENS tokens with their padding; a longer row stands alone.

    With padding a batch has as many tokens as its longest row times its rows. Each batch takes as many rows as it can.

    Input: lengths, {row: tokens}
    Output: an iterator of lists of rows, the shortest first; equally long rows keep the order in which they come
    """
    batch = []
    for row in sorted(lengths, key=lengths.get):
        if batch and (len(batch) + 1) * lengths[row] > TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class SeededLoader(DataLoader):
    """The blog's loader: batches of random messages, with an incomplete last one dropped.

    The first pass after `set_epoch` has an order that seed and epoch alone decide, so that an interrupted run can take
    it up again. A second pass without `set_epoch` has another order.
    """

    def __init__(self, dataset, batch_size, seed):
        super().__init__(dataset, batch_size, shuffle=True, drop_last=True, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self.generator.manual_seed(1_000_003 * self.seed + epoch)


def encode_documents(documents, tokenizer):
    """All documents as one row of ids with <|endoftext|> before each, so that a text can be begun from nothing.

    Output: (N,) int32, which takes half the memory of torch's default
    """
    rows = tokenizer.encode_ordinary_batch(documents, num_threads=2)
    return torch.cat([torch.tensor([END_OF_TEXT, *row], dtype=torch.int32) for row in rows])


class TextWindows:
    """A long row of tokens cut into batches of windows, (B, T + 1) each, in an order that (seed, epoch) decides.

    Neighbouring windows share one token, because the last one to predict is the first that the next window reads. Each
    epoch starts its cuts at another offset, so that a token is seen at other positions too. N tokens make
    (N - 1) // window - 1 windows per epoch, and the last batch may be smaller. `batches` ends an epoch early.

    rows: for each batch of this epoch, the places in the text where its windows begin
    Raises: ValueError for fewer than 2 window + 1 tokens
    """

    def __init__(self, tokens, window, batch_size, seed=0, batches=None):
        if len(tokens) < 2 * window + 1:
            raise ValueError(f"{len(tokens)} tokens are too few for windows of {window}: at least {2 * window + 1}")
        self.tokens = tokens
        self.window = window
        self.batch_size = batch_size
        self.seed = seed
        self.count = (len(tokens) - 1) // window - 1    # one fewer than fit, which leaves room for the offset
        self.batches = min(batches or self.count, math.ceil(self.count / batch_size))
        self.set_epoch(0)

    def set_epoch(self, epoch):
        """Decide where the windows of an epoch begin, and in which order they come. Output: none; it sets `rows`."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        offset = int(torch.randint(self.window, (), generator=generator))
        starts = offset + self.window * torch.randperm(self.count, generator=generator)
        self.rows = [batch.tolist() for batch in starts.split(self.batch_size)[:self.batches]]

    def __len__(self):
        return self.batches

    def __iter__(self):
        """Yield the batches of this epoch, one for each list of beginnings in `rows`: (B, T + 1), int64.

        A row is a window: the T + 1 tokens that follow from its beginning on.
        """
        for starts in self.rows:
            yield self.tokens[torch.tensor(starts)[:, None] + torch.arange(self.window + 1)].long()    # (B, T + 1)
