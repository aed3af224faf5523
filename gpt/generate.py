"""Write text: score the next token, choose one, append it, and begin again.

Read along: chapters/03_gpt_model.py (the loop, the cache), chapters/04_weights.py (sampling).
Source: Radford et al. 2019, section 3; Fan et al. 2018 (top-k); Holtzman et al. 2020 (top-p).
"""

from operator import index

import torch

from gpt.model import in_eval_mode, refuse_classifier

COLD = 1e-6    # a temperature that decides like 0, unless two logits are all but equal; dividing by less can overflow


@torch.no_grad()
def generate_text_simple(model, idx, max_new_tokens, context_size):
    """Append the most probable token, max_new_tokens times, computing every token anew at each step.

    As in the book it runs in the mode that the model is in, so call model.eval() first.

    Input: model, (B, T) -> logits (B, T, V); idx (B, T) integers; context_size, how many of the last tokens it reads
    Output: (B, T + max_new_tokens), all of idx and what follows
    """
    for _ in range(max_new_tokens):
        logits = model(idx[:, -context_size:])[:, -1]                                 # (B, V)
        idx = torch.cat([idx, logits.argmax(dim=-1, keepdim=True)], dim=1)            # (B, T + 1)
    return idx


@torch.no_grad()
def generate(model, token_ids, max_new_tokens, *, temperature=0.0, top_k=None, top_p=None, stop=None, generator=None):
    """Continue each row of a batch, keeping the keys and values of the tokens already read.

    Prompts of unequal length are padded on the left, so that all rows end at the same place. Positions count from a
    row's first real token, and no real token looks at padding. So a prompt gets the same scores, to rounding, as if it
    were the only one.

    The first step reads the prompt, and each step after it one new token, as long as the text has no more than
    context_length tokens. Then the window moves on: the model reads the last context_length tokens, each at a new
    position, so the cache is of no use and every step computes all of them. The head runs on the last position alone.
    A row that has produced `stop` goes on with `stop`; when all rows have, generation ends early. Dropout is off
    meanwhile, and afterwards each module's mode is what it was.

    Input: token_ids (B, T) integers, or a list of B lists; temperature 0 takes the most probable token,
        1 draws from the model's distribution, above 1 flattens it; top_k, top_p: see `choose`; stop, a token id;
        generator, the torch.Generator to draw from (torch's global one where it is None)
    Output: (B, T + n), n <= max_new_tokens; for prompts of unequal length a list of B rows, (its length + n,) each
    Raises: ValueError for settings that leave nothing to choose from, that are negative, infinite or NaN
        (`_check_settings`), for an empty prompt, a text or a single row (`_one_width`), for a classifier, and, on a
        CPU, for scores that are NaN or infinite (`choose`)
    """
    refuse_classifier(model)
    _check_settings(max_new_tokens, temperature, top_k, top_p)
    try:
        stop = None if stop is None else index(stop)    # an int, or one whole number of NumPy or torch
    except TypeError:
        raise ValueError(f"stop is one token id, such as 50256, not {stop!r}") from None
    device, limit = model.tok_emb.weight.device, model.config.context_length
    token_ids, padding = (part.to(device) for part in _one_width(token_ids))
    unequal = bool(padding.any())

    def padded_cache():
        """A new, empty cache for the last `limit` tokens of each row. What is cut off on the left is padding first."""
        cut = max(0, token_ids.shape[1] - limit)
        return model.new_cache((padding - cut).clamp(min=0) if unequal else None)

    cache = padded_cache()
    stopped = torch.zeros(len(token_ids), 1, dtype=torch.bool, device=token_ids.device)
    unread = token_ids[:, -limit:]                                                    # (B, T) or (B, limit)
    with in_eval_mode(model):    # dropout has no part in the choice
        for _ in range(max_new_tokens):
            if cache[0].length + unread.shape[1] > limit:    # the window is full: every step reads all of it anew
                unread, cache = token_ids[:, -limit:], padded_cache()
            hidden = model.hidden(unread, cache)                                      # (B, T, C) or (B, 1, C)
            logits = model.out_head(hidden[:, -1])                                    # (B, V), of one position each
            unread = choose(logits, temperature, top_k, top_p, generator)             # (B, 1)
            if stop is not None:
                unread = unread.masked_fill(stopped, stop)
                stopped |= unread == stop
            token_ids = torch.cat([token_ids, unread], dim=1)                         # (B, T + 1)
            if stop is not None and stopped.all():
                break
    return [row[start:] for row, start in zip(token_ids, padding.tolist())] if unequal else token_ids


def choose(logits, temperature=0.0, top_k=None, top_p=None, generator=None):
    """Choose one token for each row of logits.

    The logits are divided by the temperature. Then top_k keeps the k highest, exactly k where some are equal, whose
    probabilities then sum to 1. Of these top_p keeps the smallest set of most probable tokens whose probabilities reach
    p. What is left is scaled to sum 1, and the token is drawn from it. Below COLD, 0 included, the token with the
    highest logit is taken and nothing is drawn. The caller's logits stay as they are.

    Input: logits (B, V); generator as in `generate`
    Output: (B, 1) integers
    Raises: ValueError for logits that are NaN or plus infinity; minus infinity marks a token that is never chosen. Only
        a CPU's logits are looked at, because a GPU would have to be waited for at each token
    """
    if logits.device.type == "cpu" and not (logits < float("inf")).all():
        raise ValueError("the model's scores are NaN or infinite: did training diverge, or are its weights damaged?")
    if temperature < COLD:
        return logits.argmax(dim=-1, keepdim=True)                                    # (B, 1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))    # bfloat16's probabilities do not sum to 1
    logits, order = (logits / temperature).sort(dim=-1, descending=True)              # (B, V), most probable first
    if top_k is not None:
        logits[:, top_k:] = float("-inf")
    probabilities = logits.softmax(dim=-1)                                            # (B, V)
    if top_p is not None and top_p < 1:    # rounded sums can reach 1 before the last token
        before = probabilities.cumsum(dim=-1) - probabilities                         # (B, V), without the token itself
        probabilities[before >= top_p] = 0.0
    return order.gather(1, torch.multinomial(probabilities, 1, generator=generator))  # (B, 1)


def _one_width(prompts):
    """Prompts as one tensor, (B, T), padded on the left, and how many tokens of each row are padding, (B,)."""
    if not torch.is_tensor(prompts):
        if any(isinstance(row, (str, int)) for row in prompts):
            raise ValueError("prompts are token ids, a tensor (B, T) or a list of lists: see text_to_token_ids")
        lengths = [len(prompt) for prompt in prompts]
        if not all(lengths) or not lengths:
            raise ValueError(f"a prompt has at least one token, and a batch one prompt; these have {lengths} tokens")
        padding = [max(lengths) - length for length in lengths]
        rows = [[0] * more + list(prompt) for more, prompt in zip(padding, prompts)]
        return torch.tensor(rows), torch.tensor(padding)
    if prompts.ndim != 2 or 0 in prompts.shape:
        raise ValueError(f"a batch of prompts has shape (B, T) with at least one token, got {tuple(prompts.shape)}")
    return prompts, torch.zeros(len(prompts), dtype=torch.long)


def _check_settings(max_new_tokens, temperature, top_k, top_p):
    if not (0 <= max_new_tokens < float("inf") and 0 <= temperature < float("inf")):    # NaN fails both comparisons
        raise ValueError(f"max_new_tokens and temperature cannot be negative, infinite or NaN, "
                         f"got {max_new_tokens} and {temperature}")
    if top_k is not None and top_k < 1 or top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_k must be at least 1 and top_p above 0 and at most 1, got {top_k} and {top_p}")
