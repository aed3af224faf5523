"""Teach a model to write as your texts are written: texts to rows of tokens, loss, accuracy, AdamW's groups.

Read along: chapters/07_lora_writer.py. A whole run: gpt/writer_run.py. Shape letters: gpt/__init__.py; N = real tokens
to predict, all rows laid end to end.
"""

import math
import re

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gpt.batches import BatchesByLength, pad
from gpt.classify import evaluating, to_device
from gpt.spam import decode_utf8
from gpt.tokenizer import END_OF_TEXT


def read_documents(path):
    """The texts of a plain-text file: what stands between empty lines; where there are none, each line is a text.

    Raises: ValueError with the file's name where there is no text, and with file:line where it is not UTF-8
    """
    text = decode_utf8(path).replace("\r\n", "\n").strip()
    parts = re.split(r"\n\s*\n", text)
    parts = parts if len(parts) > 1 else text.split("\n")
    if not text:
        raise ValueError(f"{path}: there is no text in this file")
    return [part.strip() for part in parts]


def titled(table):
    """A table's columns title and description as one text a row: "TITLE: ... DESCRIPTION: ..."."""
    return [f"TITLE: {title} DESCRIPTION: {text}" for title, text in zip(table["title"], table["description"])]


class TextBatches(BatchesByLength):
    """Batches of texts of similar length, to predict next tokens: a pass yields (ids (B, T + 1), lengths (B,)).

    A row is <|endoftext|>, the text, <|endoftext|>: a text can begin from nothing, and its end is learnt like a word.
    What has more than context_length + 1 tokens becomes several rows; the last to predict of one is the first to read
    of the next, so that every token but the first is predicted once. Order and padding are those of BatchesByLength.
    The trap: padding is <|endoftext|> too, so that only `lengths` tells what is real.

    Input: texts, a list of str; seed: None sorts by length, whatever the epoch
    """

    def __init__(self, texts, tokenizer, batch_size=8, context_length=1024, seed=None):
        rows = [[END_OF_TEXT, *tokenizer.encode_ordinary(text), END_OF_TEXT] for text in texts]
        self.token_ids = [row[start:start + context_length + 1] for row in rows
                          for start in range(0, len(row) - 1, context_length)]
        self.batch_size, self.seed = batch_size, seed
        self.set_epoch(0)

    def __len__(self):
        return math.ceil(len(self.token_ids) / self.batch_size)

    def __iter__(self):
        for rows in self.rows:
            yield pad([self.token_ids[row] for row in rows], END_OF_TEXT)


def real_tokens(batch):
    """How many tokens a batch of TextBatches has to predict, padding left out: what `text_loss` is a mean over."""
    return int((batch[1] - 1).sum())


def hidden_and_targets(model, batch):
    """What the model knows before each real token of a batch, (N, C), and these tokens, (N,), row after row.

    At position t it knows the tokens 0 to t, before token t + 1: of a row of l real tokens l - 1 are predicted. The
    first is only read, and what fills the row behind them, whatever it is, is left out.

    Input: model, a GPTModel; batch, (ids (B, T + 1), lengths (B,)) as TextBatches yields it
    """
    ids, lengths = batch
    hidden = model.hidden(ids[:, :-1])                                                # (B, T, C)
    places = torch.arange(hidden.shape[1], device=ids.device)                         # (T,)
    real = places < lengths[:, None] - 1                                              # (B, T)
    return hidden[real], ids[:, 1:][real]                                             # (N, C), (N,)


def text_loss(model, batch, chunk=256):
    """The mean surprise at the real tokens of a batch of TextBatches, nats a token; logits of `chunk` tokens at a time.

    As in `gpt.losses.next_token_loss` no more logits than those are kept: what backward needs is computed again.
    """
    def surprise(part, targets):
        return F.cross_entropy(model.out_head(part), targets, reduction="sum")

    hidden, targets = hidden_and_targets(model, batch)
    return sum(checkpoint(surprise, *parts, use_reentrant=False)
               for parts in zip(hidden.split(chunk), targets.split(chunk))) / len(targets)


def text_scores(model, loader, device, chunk=256):
    """How well a model predicts the texts of a loader, each real token counted once whatever its batch.

    Output: {"loss": nats a token, "accuracy": the share, 0..1, of tokens that were the first choice}
    """
    surprise, right, count = 0.0, 0, 0
    with evaluating(model):
        for batch in loader:
            hidden, targets = hidden_and_targets(model, to_device(batch, device))
            for part, wanted in zip(hidden.split(chunk), targets.split(chunk)):
                logits = model.out_head(part).float()                                 # (N, V) of a chunk
                surprise += F.cross_entropy(logits, wanted, reduction="sum").item()
                right += int((logits.argmax(dim=-1) == wanted).sum())
            count += len(targets)
    if not count:
        raise ValueError("there is no token to score: are there too few texts to hold some out?")
    return {"loss": surprise / count, "accuracy": right / count}


def parameter_groups(model, weight_decay, decay_lora=True):
    """What trains, as AdamW's groups: biases and LayerNorm's scales and shifts are not decayed, matrices are.

    Decay pulls a number towards 0. For a bias or a scale 0 is no simpler than another value. For A and B it means: back
    to the base model, where dW = 0; for W itself it means away from what pretraining found. decay_lora=False leaves A
    and B alone. (A bias, a scale or a shift has one axis; A and B have .lora. in their names.)

    Output: two dicts with params, a list, and weight_decay: what is decayed, then what is not, with 0
    """
    plain, decayed = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            vector = p.dim() == 1    # bias, scale or shift
            (plain if vector or ".lora." in name and not decay_lora else decayed).append(p)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
