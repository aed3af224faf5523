"""The losses that training makes small: the cross-entropy of the next token, or of a message's class, in nats.

Read along: chapters/04_weights.py (next token), chapters/05_spam_classifier.py (class), chapters/07_lora_writer.py
(rows of unequal length). Shape letters: gpt/__init__.py; here N counts the tokens to predict, all rows laid end to end.
"""

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gpt.model import refuse_classifier


def cross_entropy_by_hand(logits, targets):
    """The cross-entropy of the next token: the mean of -log softmax(logits)[target], in nats per token.

    exp() of a logit of 1000 is infinite, so it is computed as log softmax(x)_i = x_i - logsumexp(x), which is finite.

    Input: logits (N, V); targets (N,) integers
    Output: a scalar; ln V for a model that gives every token the same logit
    """
    log_probabilities = logits - logits.logsumexp(dim=-1, keepdim=True)               # (N, V)
    return -log_probabilities.gather(-1, targets[:, None]).mean()


def next_token_loss(model, batch, chunk=1024):
    """The mean cross-entropy of the next tokens, computed without ever holding all logits.

    The logits of a batch of 32 x 128 tokens are 4,096 x 50,257 floats, 0.8 GB, and their gradient takes as much again.
    So the head runs on `chunk` tokens at a time (the last chunk may have fewer). In training each chunk's logits are
    not kept but computed a second time when their gradient is needed; torch's `checkpoint` does that to a function.

    Input: batch, token_ids (B, T + 1): T tokens to read, and the same shifted by one to predict; or (ids, lengths),
        rows of unequal length as TextBatches in gpt/applications/text_writer.py yields them (`hidden_and_targets`)
    Output: a scalar in nats per token
    Raises: ValueError for a classifier
    """
    refuse_classifier(model)
    if torch.is_tensor(batch):
        hidden = model.hidden(batch[:, :-1]).flatten(0, 1)                            # (N, C)
        targets = batch[:, 1:].flatten()                                              # (N,)
    else:
        hidden, targets = hidden_and_targets(model, batch)                            # (N, C), (N,)
    total = sum(checkpoint(_chunk_loss, part, part_targets, model.out_head, use_reentrant=False)
                for part, part_targets in zip(hidden.split(chunk), targets.split(chunk)))
    return total / len(targets)


def _chunk_loss(hidden, targets, head):
    scores = head(hidden)                                                             # (N, V) of a chunk
    at_least = torch.promote_types(scores.dtype, torch.float32)    # bfloat16's sums lose what is small
    return F.cross_entropy(scores.to(at_least), targets, reduction="sum")


def hidden_and_targets(model, batch):
    """What the model knows before each real token of a batch, (N, C), and these tokens, (N,), row after row.

    Position t has seen the tokens 0 to t and predicts token t + 1, so l - 1 of a row's l real tokens are predicted. The
    first is only read. Whatever stands behind the real tokens is padding, and left out.

    Input: model, a GPTModel; batch, (ids (B, T + 1), lengths (B,)) as TextBatches yields it
    """
    ids, lengths = batch
    hidden = model.hidden(ids[:, :-1])                                                # (B, T, C)
    places = torch.arange(hidden.shape[1], device=ids.device)                         # (T,)
    real = places < lengths[:, None] - 1                                              # (B, T)
    return hidden[real], ids[:, 1:][real]                                             # (N, C), (N,)


def real_tokens(batch):
    """How many tokens a batch of TextBatches has to predict, padding left out; its loss is the mean over these."""
    return int((batch[1] - 1).sum())


def sampled_softmax_loss(model, token_ids, unigram, samples, generator):
    """An estimate of `next_token_loss` that scores a few thousand candidates in place of all V tokens.

    The loss of a target y is ln Z - l_y, where l_v is the logit of token v. Computing Z, the sum of exp(l_v) over all V
    tokens, is most of the work of a small model, so Z is estimated as in a poll. The candidates are the M different
    tokens among the batch's own N targets and `samples` tokens that are drawn with replacement from the text's shares
    q_v. The targets come from the same text, so all together are taken for n = N + samples draws. Token v is among them
    with probability pi_v = 1 - (1 - q_v)^n, and where it is, its exp(l_v) counts 1 / pi_v times, because it stands for
    the polls in which it is missing. The target y itself is a candidate in any case, so it counts once:

        Z ~ exp(l_y) + sum over candidates v != y of exp(l_v) / pi_v

    Input: token_ids (B, T + 1); unigram (V,), the share q_v of each token in the text; samples, how many to draw
    Output: a scalar in nats per token
    Raises: ValueError for a token of the batch whose share is 0: its 1 / pi_v would be infinite
    Source: Jean et al. 2015, section 3 (the idea); Horvitz and Thompson 1952 (the weights 1 / pi_v)
    """
    hidden = model.hidden(token_ids[:, :-1]).flatten(0, 1)                            # (N, C)
    targets = token_ids[:, 1:].flatten()                                              # (N,)
    unknown = targets[unigram[targets] == 0]
    if len(unknown):
        raise ValueError(f"token {unknown[0]} is in the batch and its share in unigram is 0: was another text counted?")
    draws = torch.multinomial(unigram, samples, replacement=True, generator=generator)
    candidates, where = torch.cat([targets, draws]).unique(return_inverse=True)       # (M,), (N + samples,)
    where = where[:len(targets), None]                                                # (N, 1)
    misses = (len(targets) + samples) * torch.log1p(-unigram[candidates])             # (M,) ln (1 - q)^n
    log_pi = torch.log(-torch.expm1(misses))                                          # (M,) ln (1 - (1 - q)^n)
    logits = F.linear(hidden, model.out_head.weight[candidates]).float() - log_pi     # (N, M), exp(l) / pi as a score
    logits.scatter_add_(1, where, log_pi[where])                                      # the target itself: pi = 1
    return F.cross_entropy(logits, where[:, 0])


def class_loss(logits, labels, weights=None):
    """The mean cross-entropy of the right class, in which each message counts as much as its class weighs.

        1/B sum over messages of -w_y log softmax(logits)_y,    y the right class, w = 1 without weights

    The trap: F.cross_entropy with weights divides by the sum of this batch's weights, not by B. In a batch of one class
    the weights then cancel, and the mean over the batches is not the loss of all messages.

    Input: logits (B, K), labels (B,) integers; weights (K,), how much a message of each class counts (`class_weights`)
    Output: a scalar in nats per message
    """
    if weights is None:
        return F.cross_entropy(logits, labels)
    return F.cross_entropy(logits, labels, weights, reduction="none").mean()


def class_weights(labels, n_classes):
    """Weights that let each class, rare or frequent, count as much as any other: w_k = n / (K n_k).

    The n_k messages of each class together weigh n / K, so all n messages weigh n, and their mean weight is 1.

    Input: labels (n,), class numbers of the training messages
    Output: (K,)
    Raises: ValueError with the number of the first class that has no message, and for a label outside 0..K-1
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < n_classes:
        raise ValueError(f"labels go from {labels.min()} to {labels.max()}, classes from 0 to {n_classes - 1}")
    counts = labels.bincount(minlength=n_classes)                                     # (K,)
    if (counts == 0).any():
        raise ValueError(f"class {counts.argmin()} has none of the {len(labels):,} messages to train on: no weight "
                         f"can make up for that")
    return len(labels) / (n_classes * counts)                                         # (K,)
