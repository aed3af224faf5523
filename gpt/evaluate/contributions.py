"""Which tokens made the model say spam: how much each counts in the score, measured in two ways.

The score of a message is the logit of class 1 minus the logit of class 0: P(1) = 1 / (1 + exp(-score)), and above 0 the
prediction is spam. Both measures have the score's unit. A token that speaks for ham counts negative.

Neither is an explanation by itself. The two can disagree, even in sign, because a gradient holds for a small step and
leaving a token out is a large one. They do not sum to the score: tokens act together, and a head has a bias.

Read along: chapters/10_believe_the_number.py. Shape letters: gpt/__init__.py.
"""

import re
from contextlib import contextmanager

import torch

from gpt.batches import pad
from gpt.classify import class_logits, to_device
from gpt.model import evaluating
from gpt.tokenizer import END_OF_TEXT

MARKED = 3    # tokens that `marked` puts in brackets


def spam_scores(model, rows):
    """The score of each message, logit of class 1 - logit of class 0, read at its last real token (`class_logits`).

    Input: model, a classifier of two classes; rows, lists of token ids, one for each of B messages
    Output: (B,), on the model's device
    Raises: ValueError for a head without two outputs, and for a message without tokens or with too many
    """
    ids, lengths = pad(rows)
    logits = class_logits(model, *to_device((ids, lengths), model.tok_emb.weight.device))    # (B, 2)
    if logits.shape[1] != 2:
        raise ValueError(f"the head has {logits.shape[1]} outputs, and a score is the difference of 2: is it still the "
                         f"language model's, or a classifier of more classes?")
    return logits[:, 1] - logits[:, 0]                                                # (B,)


@contextmanager
def token_vectors(model):
    """Collect each output of model.tok_emb, in the list that it yields, so that a gradient can be taken by it.

    A hook replaces the output by a copy that depends on no weight. So a gradient goes back to these vectors and no
    further, also where nothing in the model trains. The hook is removed afterwards, even after an error.
    """
    kept = []

    def keep(module, inputs, output):
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    hook = model.tok_emb.register_forward_hook(keep)
    try:
        yield kept
    finally:
        hook.remove()


def gradient_times_input(model, token_ids):
    """How fast the score rises as one token's vector is made longer, token by token.

        g_t = sum over channels c of  (d score / d e[t, c]) * e[t, c]

    e[t], (C,), is the token's row of tok_emb, before its position is added. If it becomes a hundredth longer, the score
    changes by about g_t / 100. It takes one pass forward and one back, however many tokens there are. A token that
    occurs twice in a message has two numbers, because each place has its own gradient.

    The trap: -g_t does not measure what happens without the token. A vector shrunk to nothing is far away from e[t],
    the gradient need not hold on the way, and the model never saw such a vector.

    The model stays as it is: no parameter gets a .grad, and dropout is off meanwhile (`evaluating`).

    Input: model, a classifier of two classes; token_ids, one message as a list of T integers
    Output: (T,), on the CPU
    Raises: ValueError, what `spam_scores` refuses
    Source: Simonyan et al. 2014 (the gradient); Shrikumar et al. 2017, who compare with gradient * input
    """
    with evaluating(model), torch.enable_grad(), token_vectors(model) as kept:
        score = spam_scores(model, [token_ids])
        gradient, = torch.autograd.grad(score, kept)                                  # (1, T, C)
    return (gradient * kept[0].detach()).sum(dim=-1)[0].cpu()                         # (T,)


def leave_one_out(model, token_ids, batch_size=32):
    """What each token adds: the score of the message minus the score of the message without that token.

        a_t = score(1 .. T) - score(1 .. t - 1, t + 1 .. T)

    T + 1 messages are read, the shorter ones batch_size at a time. A message of one token leaves nothing, so one
    padding token is read in its place, as `encode` does for an empty text.

    The trap: more than the token has changed. The tokens after it have moved up one place, and its two neighbours now
    stand together. Where two tokens say the same, either can go without loss, so both seem to count nothing.

    Input: model, a classifier of two classes; token_ids, one message as a list of T integers
    Output: (T,), on the CPU, without gradient
    Raises: ValueError, what `spam_scores` refuses
    Source: Li et al. 2016, Understanding neural networks through representation erasure; Zeiler and Fergus 2014
    """
    shorter = [[*token_ids[:t], *token_ids[t + 1:]] or [END_OF_TEXT] for t in range(len(token_ids))]
    with evaluating(model):
        whole = spam_scores(model, [token_ids])                                       # (1,)
        rest = torch.cat([spam_scores(model, shorter[i:i + batch_size])               # (T,)
                          for i in range(0, len(shorter), batch_size)])
    return (whole - rest).cpu()                                                       # (T,)


def marked(token_ids, contributions, tokenizer):
    """The message as one line of text, with brackets around the tokens that count most, for or against.

    Those are the MARKED tokens with the largest absolute contribution; of equals the first. Neighbours share brackets.
    The space that begins a token stays outside: " free" becomes " [free]". Line breaks and tabs become spaces.

    A token is a piece of bytes, and a character such as an emoji can be spread over several. A character is inside the
    brackets as a whole if one of its tokens is marked. Bytes that are no UTF-8 become U+FFFD, as in decode.

    Input: token_ids, T integers; contributions, T numbers
    Output: str; without its brackets, and but for white space, tokenizer.decode(token_ids)
    Raises: ValueError with both numbers where there are not as many contributions as tokens
    """
    if len(token_ids) != len(contributions):
        raise ValueError(f"{len(token_ids)} tokens but {len(contributions)} contributions: are they another message's?")
    order = torch.as_tensor(contributions).abs().argsort(descending=True, stable=True)
    chosen = set(order[:MARKED].tolist())
    text = b""
    marks = []    # for each byte of text, whether it is in brackets
    for t, token in enumerate(token_ids):
        piece = tokenizer.decode_single_token_bytes(token)
        opens = t in chosen and t - 1 not in chosen
        outside = 1 if opens and re.match(rb" \S", piece) else 0
        marks += [False] * outside + [t in chosen] * (len(piece) - outside)
        text += piece
    shown, inside = "", False
    for found in re.finditer(rb"(?s).[\x80-\xbf]*", text):    # a character of UTF-8: 0x80 to 0xbf never begin one
        marked_here = any(marks[found.start():found.end()])
        if marked_here != inside:
            shown += "[" if marked_here else "]"
        inside = marked_here
        shown += re.sub(r"\s", " ", found[0].decode("utf-8", errors="replace"))
    return shown + "]" * inside
