"""How much memory a training step takes, counted before it begins. A model on the meta device will do.

The largest part is what the forward pass keeps for the backward pass, counted here operation by operation without
computing. Autograd keeps what the derivative of each operation needs: for y = x W^T the input x if W trains, because
dL/dW needs it, and nothing new for dL/dx, which needs only W. So a frozen layer keeps less than one that trains. But
LayerNorm, GELU and attention are not linear, so they keep their input as soon as anything before them trains.

Read along: chapters/07_lora_writer.py. Source: torch's tools/autograd/derivatives.yaml. Letters: gpt/__init__.py.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from gpt.model import scores_tokens


class Memory(NamedTuple):
    """Bytes."""

    weights: int        # all parameters, tied ones once
    gradients: int      # as many numbers as train
    optimizer: int      # AdamW's: twice as many numbers as train, and a step counter for each tensor
    activations: int    # what the forward pass keeps for the backward pass
    peak: int           # the most that is held at once; see `predict_memory`


def predict_memory(model, B, T, *, chunk=1024):
    """What a training step takes with AdamW in float32, with B rows of T tokens in a batch.

    A model whose head is tied trains on text, by `next_token_loss` in chunks of `chunk` tokens; one with a swapped head
    on classes, by `classifier_loss`. (With lengths the loss keeps one byte more per token, and less for padding.)

    Dropout acts as in training. The first four numbers are exact on a CPU. (On a GPU dropout keeps less, and the
    allocator rounds up; with `gpt.cost.precision.float32_by_onednn` short rows keep their attention weights as well.)
    The peak is an estimate from the second step on: weights, optimizer and the largest of:
        a frozen block: the old gradients, and 12 B T C numbers: the residual stream, the output of attention, their
            sum, its norm and, four times as wide each, the input and the output of GELU
        the end of the forward pass: the old gradients, which `gpt.train` drops only then, all activations, and the
            logits of a chunk twice: as they are and as logarithms of probabilities
        the loss going back: all activations, a chunk's logarithms, their gradient and that of the logits; and the
            head's gradient, if it trains and this is not the first chunk
        the last block going back: what was kept up to its end, and 9 B T C numbers: the gradients of the residual
            stream, of the output of GELU and of its input
        the end: the gradients, and that of a tied embedding twice more: as the tokens', as the head's and as the sum
    Left out are the memory of a kernel while it runs, Python, torch's code, and what the allocator keeps for later.

    Output: Memory, in bytes
    Raises: ValueError for a model in another type than float32, and for a batch that the model cannot read
    """
    if model.tok_emb.weight.dtype != torch.float32:
        raise ValueError(f"memory is predicted for float32, this model is in {model.tok_emb.weight.dtype}")
    if B < 1 or not 1 <= T <= model.config.context_length:
        raise ValueError(f"{B} rows of {T} tokens are no batch for a model that reads {model.config.context_length}")
    parameters = list(model.parameters())
    trainable = [p.nbytes for p in parameters if p.requires_grad]
    weights = sum(p.nbytes for p in parameters)
    gradients = sum(trainable)
    optimizer = 2 * gradients + FLOAT * len(trainable)
    activations, going_back = _activations(model, B, T)
    text = scores_tokens(model)
    logits = FLOAT * min(chunk, B * T) * model.config.vocab_size if text else 0
    tied = model.tok_emb.weight.nbytes if text and trains(model.tok_emb) else 0
    residual = FLOAT * B * T * model.config.emb_dim
    peak = weights + optimizer + max(gradients + 12 * residual,
                                     gradients + activations + 2 * logits,
                                     activations + 3 * logits + (tied if B * T > chunk else 0),
                                     going_back + 9 * residual if going_back else 0,
                                     gradients + 2 * tied)
    return Memory(weights, gradients, optimizer, activations, peak)


def _activations(model, B, T):
    """Send a batch through the layers on a Tape.

    Output: the bytes kept, and those kept by the end of the last block that a gradient comes back through and that
        computes all tokens, 0 if there is none (a classifier's last block computes one token of each row)
    """
    tape = Tape()
    text = scores_tokens(model)
    config = model.config
    ids = Storage(LONG * B * (T + text))    # text: one more, to predict
    at = None if text else (Storage(LONG * B), Storage(LONG * B))
    for embedding, indices in ((model.tok_emb, ids), (model.pos_emb, Storage(LONG * T))):
        if trains(embedding):
            tape.keep(indices)
    x = Storage(FLOAT * B * T * config.emb_dim, trains(model.tok_emb) or trains(model.pos_emb))
    x = tape.dropout(x, model.drop_emb.p)
    by_block = 0
    for i, block in enumerate(model.trf_blocks, 1):
        at_last = at if i == config.n_layers else None
        x = tape.block(block, x, B, T, at_last)
        by_block = tape.bytes if x.grad and at_last is None else by_block
    hidden = tape.norm(model.final_norm, x)
    if text:    # each chunk of the loss is computed again, from its hidden states and its targets
        tape.keep(hidden, ids if B == 1 else Storage(LONG * B * T))    # of one row the targets are a view
    else:       # cross-entropy keeps the logarithms of the probabilities, the labels, and how many these are
        logits = tape.linear(model.out_head, hidden)
        tape.keep(Storage(logits.bytes), Storage(LONG * B), Storage(FLOAT))
    return tape.bytes, by_block


# ---- The tape --------------------------------------------------------------------------------------------------------

FLOAT, LONG = 4, 8    # bytes of a float32 and of a whole number (torch.long)


@dataclass
class Storage:
    """The memory that a tensor and all views of it share: its bytes, and whether a gradient flows to it."""

    bytes: int
    grad: bool = False
    kept: bool = False


def trains(module):
    """Whether any parameter of a module trains."""
    return any(p.requires_grad for p in module.parameters())


class Tape:
    """Adds up what is kept, each storage once, while the model's layers come by in the order in which they run.

    Each method is named after an operation, takes Storages for tensors, and returns the Storage of the output.
    """

    def __init__(self):
        self.bytes = 0

    def keep(self, *storages):
        for storage in storages:
            self.bytes += 0 if storage.kept else storage.bytes
            storage.kept = True

    def dropout(self, x, p):
        """x times noise, which is 0 or 1 / (1 - p): the noise is kept. For p = 0 the output is x itself."""
        if p and x.grad:
            self.keep(Storage(x.bytes))
        return Storage(x.bytes, x.grad) if p else x

    def norm(self, layer, x):
        """LayerNorm keeps its input, and for each token the mean and 1 / standard deviation."""
        output = Storage(x.bytes, x.grad or trains(layer))
        if output.grad:
            self.keep(x, Storage(2 * x.bytes // len(layer.scale)))
        return output

    def linear(self, layer, x):
        """A linear layer, with a LoRA or without: (..., in) -> (..., out).

        It keeps its input if the weight trains. A LoRA keeps its dropout's output for that same input if A trains, and
        the thin scale * x A, (..., r), if B does. A gradient flows to the output if one flows to x or anything trains.
        """
        linear, lora = getattr(layer, "linear", layer), getattr(layer, "lora", None)
        tokens = x.bytes // linear.in_features
        if linear.weight.requires_grad:
            self.keep(x)
        if lora is not None:
            dropped = self.dropout(x, lora.dropout.p)
            if lora.A.requires_grad:
                self.keep(dropped)
            if lora.B.requires_grad:
                self.keep(Storage(tokens * lora.rank))
        return Storage(tokens * linear.out_features, x.grad or trains(layer))

    def pick(self, x, tokens, at):
        """One token of each row. at: the numbers of rows and tokens, kept because a gradient must find its place."""
        if x.grad:
            self.keep(*at)
        return Storage(x.bytes // tokens, x.grad)

    def attention(self, layer, x, B, T, at):
        """The fused kernel keeps queries, keys, values, outputs and one number per query, nothing of size T x T.

        With dropout a CPU has no such kernel. Then three matrices (B, H, T, S) are kept: the weights and the noise if
        queries or keys train, their product if values do; and queries, keys and values, each if its partner trains.
        """
        query = self.linear(layer.W_query, x if at is None else self.pick(x, T, at))
        key, value = self.linear(layer.W_key, x), self.linear(layer.W_value, x)
        weights_train = query.grad or key.grad
        context = Storage(query.bytes, weights_train or value.grad)
        of_queries = FLOAT * B * layer.num_heads * (T if at is None else 1)
        if layer.dropout.p:
            self.keep(*[query] * key.grad, *[key] * query.grad, *[value] * weights_train,
                      Storage(of_queries * T * (2 * weights_train + value.grad)))
        elif context.grad:
            mask = 0 if at is None else FLOAT * B * T
            self.keep(query, key, value, context, Storage(of_queries), Storage(mask))
        return self.linear(layer.out_proj, context)

    def feed_forward(self, layer, x):
        """GELU keeps its input, four times as wide as x; the second linear layer keeps the output of GELU."""
        x = self.linear(layer.layers[0], x)
        if x.grad:
            self.keep(x)
        return self.linear(layer.layers[2], Storage(x.bytes, x.grad))

    def block(self, block, x, B, T, at=None):
        """A TransformerBlock. The residual sums keep nothing: the next norm keeps them, as its input."""
        p = block.drop_shortcut.p
        attended = self.dropout(self.attention(block.att, self.norm(block.norm1, x), B, T, at), p)
        x = x if at is None else self.pick(x, T, at)
        x = Storage(x.bytes, x.grad or attended.grad)
        output = self.dropout(self.feed_forward(block.ff, self.norm(block.norm2, x)), p)
        return Storage(x.bytes, x.grad or output.grad)
