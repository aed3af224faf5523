"""What the forward pass keeps for the backward pass, in bytes, counted operation by operation without computing.

Autograd keeps of each operation what its derivative needs: of y = x W^T the input x if W trains (dL/dW is made of it),
and nothing new for dL/dx, which needs W alone. So a frozen layer keeps less than one that trains, but what bends,
LayerNorm, GELU and attention, keeps its input as soon as anything before it trains.

Read along: chapters/07_lora_writer.py. Source: torch's tools/autograd/derivatives.yaml. Letters: gpt/__init__.py.
"""

from dataclasses import dataclass

FLOAT, LONG = 4, 8    # bytes of a float32 and of a whole number (torch.long)


@dataclass
class Storage:
    """The numbers that a tensor and all views of it share: their bytes, and whether a gradient flows to them."""

    bytes: int
    grad: bool = False
    kept: bool = False


def trains(module):
    """Whether any of its parameters does."""
    return any(p.requires_grad for p in module.parameters())


class Tape:
    """Adds up what is kept, each storage once, while the model's layers come by in the order in which they run.

    Each method is named after what it stands for, takes Storages for tensors, and returns the Storage of the answer.
    """

    def __init__(self):
        self.bytes = 0

    def keep(self, *storages):
        for storage in storages:
            self.bytes += 0 if storage.kept else storage.bytes
            storage.kept = True

    def dropout(self, x, p):
        """x times noise, which is 0 or 1 / (1 - p): the noise is kept. For p = 0 the answer is x itself."""
        if p and x.grad:
            self.keep(Storage(x.bytes))
        return Storage(x.bytes, x.grad) if p else x

    def norm(self, layer, x):
        """LayerNorm keeps its input, and of each token the mean and 1 / standard deviation."""
        answer = Storage(x.bytes, x.grad or trains(layer))
        if answer.grad:
            self.keep(x, Storage(2 * x.bytes // len(layer.scale)))
        return answer

    def linear(self, layer, x):
        """A linear layer, with a LoRA or without: (..., in) -> (..., out).

        Keeps its input if the weight trains. A LoRA keeps what its dropout makes of that same input if A trains, and
        the thin scale * x A, (..., r), if B does. A gradient flows to the answer if one flows to x or anything trains.
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
        """One of each row's tokens: the numbers of rows and tokens are kept, for the gradient has to find its place."""
        if x.grad:
            self.keep(Storage(at.bytes), at)
        return Storage(x.bytes // tokens, x.grad)

    def attention(self, layer, x, B, T, at):
        """The fused kernel keeps queries, keys, values, answers and one number a query, nothing of size T x T.

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
        """GELU keeps its input, four times as wide as the stream; the second linear layer keeps what GELU answers."""
        x = self.linear(layer.layers[0], x)
        if x.grad:
            self.keep(x)
        return self.linear(layer.layers[2], Storage(x.bytes, x.grad))

    def block(self, block, x, B, T, at=None):
        """A TransformerBlock. The sums that make the stream keep nothing: the next norm keeps them, as its input."""
        p = block.drop_shortcut.p
        attended = self.dropout(self.attention(block.att, self.norm(block.norm1, x), B, T, at), p)
        x = x if at is None else self.pick(x, T, at)
        x = Storage(x.bytes, x.grad or attended.grad)
        answer = self.dropout(self.feed_forward(block.ff, self.norm(block.norm2, x)), p)
        return Storage(x.bytes, x.grad or answer.grad)
