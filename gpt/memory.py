"""How much memory a training step takes, counted before it begins. A model on the meta device will do.

Read along: chapters/07_lora_writer.py. What each operation keeps: gpt/tape.py.
"""

from typing import NamedTuple

import torch

from gpt.adapters import is_tied
from gpt.tape import FLOAT, LONG, Storage, Tape, trains


class Memory(NamedTuple):
    """Bytes."""

    weights: int        # all parameters, tied ones once
    gradients: int      # as many numbers as train
    optimizer: int      # AdamW's: twice as many numbers as train, and a step counter for each tensor
    activations: int    # what the forward pass keeps for the backward pass
    peak: int           # the most that is held at once; see `predict_memory`


def predict_memory(model, B, T, *, chunk=1024):
    """What a step of training takes with AdamW in float32, with B rows of T tokens in a batch.

    A model whose head is tied trains on text, by `next_token_loss` in chunks of `chunk` tokens; one with a swapped head
    on classes, by `classifier_loss`. (`gpt.writer.text_loss` keeps one byte a token more, and less where a batch has
    padding.) Dropout acts as in training.

    The first four numbers are exact on a CPU. (On a GPU dropout keeps less, and the allocator rounds up.) The peak is
    an estimate, from the second step on: weights, optimizer and the largest of five moments.
        a frozen block: the old gradients, and 12 B T C numbers: the stream, attention's answer, their sum, its norm
            and, four times as wide each, what GELU reads and what it answers
        the end of the forward pass: the old gradients, which `gpt.train` drops only then, all activations, and the
            logits of a chunk twice: as they are and as logarithms of probabilities
        the loss going back: all activations, a chunk's logarithms, their gradient and that of the logits; and the
            head's gradient, if it trains and this is not the first chunk
        the last block going back: what was kept up to its end, and 9 B T C numbers: the gradients of the stream, of
            what GELU answered and of what it read
        the end: the gradients, and that of a tied embedding twice more: as the tokens', as the head's and as the sum
    What a kernel takes for itself while it runs is left out, and so is what a process holds besides: Python, torch's
    code, and freed blocks that the system's allocator keeps.

    Output: Memory, in bytes
    Raises: ValueError for a model in another type than float32, for a batch without tokens or of longer rows than it
        reads
    """
    if (dtype := model.tok_emb.weight.dtype) != torch.float32:
        raise ValueError(f"memory is predicted for float32, this model is in {dtype}")
    if B < 1 or not 1 <= T <= model.config.context_length:
        raise ValueError(f"{B} rows of {T} tokens are no batch for a model that reads {model.config.context_length}")
    parameters = list(model.parameters())
    trainable = [p.nbytes for p in parameters if p.requires_grad]
    weights, gradients = sum(p.nbytes for p in parameters), sum(trainable)
    optimizer = 2 * gradients + FLOAT * len(trainable)
    activations, going_back = _activations(model, B, T)
    text, config = is_tied(model), model.config
    logits = FLOAT * min(chunk, B * T) * config.vocab_size if text else 0
    tied = model.tok_emb.weight.nbytes if text and trains(model.tok_emb) else 0
    stream = FLOAT * B * T * config.emb_dim
    peak = weights + optimizer + max(gradients + 12 * stream,
                                     gradients + activations + 2 * logits,
                                     activations + 3 * logits + (tied if B * T > chunk else 0),
                                     going_back + 9 * stream if going_back else 0,
                                     gradients + 2 * tied)
    return Memory(weights, gradients, optimizer, activations, peak)


def _activations(model, B, T):
    """Send a batch through the layers on a Tape.

    Output: the bytes kept, and those kept by the end of the last block that a gradient comes back through and that
        answers for all tokens, 0 if there is none (a classifier's last block answers for one token of each row)
    """
    tape, text, config = Tape(), is_tied(model), model.config
    ids, at = Storage(LONG * B * (T + text)), None if text else Storage(LONG * B)    # text: one more, to predict
    for embedding, indices in ((model.tok_emb, ids), (model.pos_emb, Storage(LONG * T))):
        if trains(embedding):
            tape.keep(indices)
    x = Storage(FLOAT * B * T * config.emb_dim, trains(model.tok_emb) or trains(model.pos_emb))
    x, by_block = tape.dropout(x, model.drop_emb.p), 0
    for i, block in enumerate(model.trf_blocks, 1):
        at_last = at if i == config.n_layers else None
        x = tape.block(block, x, B, T, at_last)
        by_block = tape.bytes if x.grad and at_last is None else by_block
    hidden = tape.norm(model.final_norm, x)
    if text:    # each chunk of the loss is computed again, from its hidden states and its targets
        tape.keep(hidden, ids if B == 1 else Storage(LONG * B * T))    # of one row the targets are a view
    else:       # cross entropy keeps the logarithms of the probabilities, the labels, and how many these are
        logits = tape.linear(model.out_head, hidden)
        tape.keep(Storage(logits.bytes), Storage(LONG * B), Storage(FLOAT))
    return tape.bytes, by_block
