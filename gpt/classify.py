"""Turn a language model into a classifier: swap the head, read it at the last real token, measure it, classify texts.

Read along: chapters/05_spam_classifier.py. Source: Radford et al. 2018, section 3.2. Shape letters: gpt/__init__.py.
"""

import warnings
from itertools import islice
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from gpt.batches import batches_of_tokens, encode, pad
from gpt.losses import class_loss
from gpt.model import evaluating


def swap_head(model, n_classes, zero=True):
    """Give the model a new head from C channels to K classes, in place; the token embedding stays.

    out_head becomes an nn.Linear with bias, of the embedding's type (float32 where `gpt.cost.precision.hold` holds that
    in fewer bytes) and on its device, in the model's mode (training or not). It trains, even where the model is frozen.
    GPT-2's old head is the embedding's own weight: do not change it.

    A head that starts at zero gives each class a probability of 1/K, so the first loss is exactly ln K, whatever the
    text. zero=False keeps the random start of nn.Linear, as the blog does.
    """
    weight = model.tok_emb.weight
    dtype = torch.float32 if getattr(model, "held_from", None) else weight.dtype
    model.out_head = nn.Linear(weight.shape[1], n_classes, device=weight.device, dtype=dtype)
    if zero:
        nn.init.zeros_(model.out_head.weight)
        nn.init.zeros_(model.out_head.bias)
    model.out_head.train(model.training)
    model.pad_to = None    # an older head may have been read at its padding


def let_train(model, way):
    """Freeze all of a model except what `way` names, in place; the head always trains.

    Input: way, "head", "last block" (with the final norm, which reads it) or "everything"
    """
    model.requires_grad_(way == "everything")
    parts = [model.out_head]
    if way == "last block":
        parts += [model.trf_blocks[-1], model.final_norm]
    for part in parts:
        part.requires_grad_(True)


def class_logits(model, ids, lengths=None):
    """The class logits of each message, read where the model has seen all of it.

    Attention is causal, so of the real tokens only the last has seen the whole message, and it never sees the padding
    behind it. (The padding tokens have seen the message too, which is why the blog's way works.) Nobody reads the other
    positions, so the last block and the head run for one position of each row alone (`hidden_at`).

    Input: ids (B, T); lengths (B,), how many ids of each row are real: the row is read at position lengths - 1. With
        None each row is read at its last position, as in the blog, a padding token in all but the longest messages
    Output: (B, K)
    """
    last = torch.full((len(ids),), ids.shape[1] - 1, device=ids.device) if lengths is None else lengths - 1    # (B,)
    hidden = hidden_at(model, ids, last)    # may come in bfloat16, while the head stays in float32
    return model.out_head(hidden.to(next(model.out_head.parameters(), hidden).dtype))    # (B, K)


def hidden_at(model, token_ids, at):
    """`model.hidden` at one position of each row, with less work, because the last block leaves out the others.

    It cannot leave out their keys and values, because the position looks at them. Nor can the blocks before it leave
    anything out, because the next block makes its keys and values from their outputs at every position.

    Input: token_ids (B, T); at (B,), positions 0..T-1
    Output: (B, C)
    """
    x = model.embed(token_ids)                                                        # (B, T, C)
    rows = torch.arange(len(x), device=x.device)                                      # (B,)
    if not len(model.trf_blocks):    # a Tail of gpt/cost/frozen_cache.py, of which no block trains
        return model.final_norm(x[rows, at])                                          # (B, C)
    x = model.trf_blocks[:-1](x)                                                      # (B, T, C)
    last = model.trf_blocks[-1]
    attention = last.att
    normed = last.norm1(x)                                                            # (B, T, C)
    query = attention.split_heads(attention.W_query(normed[rows, at][:, None]))       # (B, H, 1, D)
    key = attention.split_heads(attention.W_key(normed))                              # (B, H, T, D)
    value = attention.split_heads(attention.W_value(normed))                          # (B, H, T, D)
    may_look = (torch.arange(x.shape[1], device=x.device) <= at[:, None])[:, None, None]                # (B, 1, 1, T)
    dropout = attention.dropout.p if attention.training else 0.0
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=may_look, dropout_p=dropout)  # (B, H, 1, D)
    attended = attention.out_proj(context.transpose(1, 2).flatten(2))                 # (B, 1, C)
    x = x[rows, at][:, None] + last.drop_shortcut(attended)                           # (B, 1, C)
    x = x + last.drop_shortcut(last.ff(last.norm2(x)))                                # (B, 1, C)
    return model.final_norm(x)[:, 0]                                                  # (B, C)


def to_device(batch, device):
    """A batch, one tensor or a tuple of them, on `device`; from pinned memory to a GPU, which then nobody waits for."""
    if not torch.is_tensor(batch):
        return tuple(to_device(part, device) for part in batch)
    if torch.device(device).type == "cuda" and not batch.is_cuda:
        return batch.pin_memory().to(device, non_blocking=True)
    return batch.to(device)


def classifier_loss(model, batch):
    """The loss of a batch of messages, (ids, lengths, labels) or the blog's (ids, labels): scalar, nats per message."""
    *read, labels = batch
    return class_loss(class_logits(model, *read), labels)


def predict_logits(model, loader, device, num_batches=None):
    """The class logits of every message, in the loader's order, or of those in its first num_batches batches.

    Output: labels (N,), logits (N, K), both on the CPU
    Raises: ValueError for a loader without batches
    """
    labels, logits = [], []
    with evaluating(model):
        for *read, right in islice(loader, num_batches):
            labels.append(right.cpu())
            logits.append(class_logits(model, *to_device(read, device)).float().cpu())
    if not labels:
        raise ValueError("there is no batch to evaluate: is the data set smaller than one batch and drop_last set?")
    return torch.cat(labels), torch.cat(logits)                                       # (N,), (N, K)


def calc_loss_loader(data_loader, model, device, num_batches=None):
    """The mean loss of a loader's messages, nats per message. (A mean of batch means would favour small batches.)"""
    labels, logits = predict_logits(model, data_loader, device, num_batches)
    return class_loss(logits, labels).item()


def calc_accuracy_loader(data_loader, model, device, num_batches=None):
    """The share of messages, 0..1, whose highest logit is that of the right class; in the first num_batches, or in all.

    Every message counts the same, also in a batch that is smaller than the others. The model's mode and torch's random
    state stay as they are, because `predict_logits` leaves them so.

    Output: a float
    Raises: ValueError for a loader without batches
    """
    labels, logits = predict_logits(model, data_loader, device, num_batches)
    return (logits.argmax(dim=-1) == labels).float().mean().item()


class Prediction(NamedTuple):
    label: str
    probability: float    # 0..1, what the model gives this label


def classify(model, texts, tokenizer, adapter, pad_to=None):
    """The most probable label of each text and its probability, in the order asked.

    A text that is too long is cut, and a warning says how many were.

    Input: texts, a list of str of any length; adapter, what `gpt.adapters.load_adapter` returned, or a list of the
        classes' names; pad_to, for a model that was trained the blog's way and came from no adapter: pad each text to
        this many tokens and read the last position
    Output: list of Prediction
    Raises: ValueError for one str (its letters would be classified), for an item that is no str, for a head of another
        number of classes, and for scores that are not finite
    """
    if isinstance(texts, str):
        raise ValueError("classify takes a list of texts, this is one text: write [text]")
    texts = list(texts)
    labels = getattr(adapter, "labels", adapter)
    pad_to = pad_to or getattr(model, "pad_to", None)    # `load_adapter` noted it
    limit = pad_to or model.config.context_length
    token_ids = encode(texts, tokenizer)
    cut = sum(len(ids) > limit for ids in token_ids)
    if cut:
        warnings.warn(f"{cut} of {len(texts)} texts have more than {limit} tokens: only their first {limit} are read",
                      stacklevel=2)
    return most_probable_labels(model, token_ids, labels, pad_to)


def most_probable_labels(model, token_ids, labels, pad_to=None, bar=None):
    """What `classify` returns, for texts that are encoded already; a text that is too long is cut without a warning.

    Texts of similar length share a batch, so that little padding is computed.

    Input: token_ids, a list of tokens for each text, as `encode` gives them; bar, a tqdm progress bar that counts texts
    Output: list of Prediction
    """
    pad_to = pad_to or getattr(model, "pad_to", None)    # `load_adapter` noted it
    limit = pad_to or model.config.context_length
    device = model.tok_emb.weight.device
    lengths = {row: pad_to or min(len(ids), limit) for row, ids in enumerate(token_ids)}
    predictions = [None] * len(token_ids)
    with evaluating(model):
        for rows in batches_of_tokens(lengths):
            ids, real = pad([token_ids[row][:limit] for row in rows], width=pad_to)   # (B, T), (B,)
            read = (ids, real) if pad_to is None else (ids,)
            logits = class_logits(model, *to_device(read, device)).float()            # (B, K)
            if logits.shape[1] != len(labels):
                raise ValueError(f"{len(labels)} labels, but the head has {logits.shape[1]} outputs: is it still the "
                                 f"language model's, or another adapter's?")
            if not logits.isfinite().all():
                raise ValueError("the model's scores are not finite: are its weights damaged, or do they overflow the "
                                 "type that it computes in, such as float16?")
            best = logits.softmax(dim=-1).max(dim=-1)
            for row, k, probability in zip(rows, best.indices.tolist(), best.values.tolist(), strict=True):
                predictions[row] = Prediction(labels[k], probability)
            if bar is not None:
                bar.update(len(rows))
    return predictions
