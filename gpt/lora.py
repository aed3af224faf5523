"""LoRA leaves a weight matrix as it is and learns a small correction beside it, the product of two thin matrices.

             x  (B, T, in)
            / \\
           /   A  (in, r)     drawn at random
          W    |
           \\   B  (r, out)    starts at zero, so the sum starts as W alone
            \\ /
             +  (B, T, out)

Read along: chapters/06_lora_spam.py. Source: Hu et al. 2021. Shape letters: gpt/__init__.py.
"""

import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SCALES = {
    "alpha/r": lambda alpha, rank: alpha / rank,                  # Hu et al. 2021, section 4.1
    "alpha/sqrt(r)": lambda alpha, rank: alpha / math.sqrt(rank),  # Kalajdzievski 2023: gradients stay level over ranks
    "alpha": lambda alpha, rank: alpha,                           # the blog's
}
TOGETHER = ("W_query", "W_key", "W_value")    # they read the same x, so they can share one A


class LoRALayer(nn.Module):
    """The correction, of rank r at most. Source: Hu et al. 2021, section 4.1, equation 3."""

    def __init__(self, in_dim, out_dim, rank, alpha, *, scale="alpha/r", init=None, dropout=0.0, generator=None):
        """Set rank, alpha, rule, scale, A and B (parameters) and dropout (a module).

        The argument `scale` names a rule in SCALES. It is kept as self.rule, and self.scale is the number it gives.

        A (in, r) is drawn by `generator` from U(-1/sqrt(in), 1/sqrt(in)) whatever r is. With init="blog" r takes the
        place of in, as in kaiming_uniform_, which makes A 7 times larger at in = 768, r = 16. B (r, out) starts at 0.
        Raises: ValueError that names the value, for a rank below 1, an unknown scale or init
        """
        super().__init__()
        rank, alpha, dropout = (n.item() if hasattr(n, "item") else n for n in (rank, alpha, dropout))    # of NumPy's
        if rank < 1:
            raise ValueError(f"a LoRA of rank {rank} cannot hold anything: rank must be at least 1")
        if scale not in SCALES or init not in (None, "blog"):
            raise ValueError(f"scale is one of {', '.join(SCALES)} and init None or 'blog', got {scale!r} and {init!r}")
        self.rank = rank
        self.alpha = alpha
        self.rule = scale
        self.scale = SCALES[scale](alpha, rank)
        bound = 1 / math.sqrt(rank if init == "blog" else in_dim)
        self.A = nn.Parameter(torch.empty(in_dim, rank).uniform_(-bound, bound, generator=generator))
        self.B = nn.Parameter(torch.zeros(rank, out_dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        """scale * (x A) B: x (..., in) -> (..., out); in training dropout(x) takes the place of x."""
        # The scale goes on the thin tensor (..., r): multiplying all of (..., out) would be another pass over it.
        return self.scale * (self.dropout(x) @ self.A) @ self.B                       # (..., out)

    def delta(self):
        """What merging adds to the weight of an nn.Linear: scale * (A B)^T."""
        return self.scale * (self.A @ self.B).T                                       # (out, in)


class LinearWithLoRA(nn.Module):
    """A linear layer and its correction. While merged, original is the weight (out, in) as it was before, else None.

    A and B have the type of the linear layer, but float32 where that is bfloat16 or float16 (gpt/cost/precision.py),
    because the optimizer adds small steps to them. The layer then multiplies with copies of A and B in the weight's
    type, and its output has that type.
    """

    def __init__(self, linear, rank, alpha, **options):
        super().__init__()
        self.linear = linear
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha, **options)
        self.lora.to(linear.weight.device, torch.promote_types(linear.weight.dtype, torch.float32))
        self.register_buffer("original", None, persistent=False)     # moves with the model, but into no file
        self.train(linear.training)                                  # a new module is in training mode
        self.register_state_dict_pre_hook(refuse_while_merged)
        self.register_load_state_dict_pre_hook(refuse_while_merged)

    def by_hand(self, x):
        """linear(x) + lora(x): x (..., in) -> (..., out). This form is for reading; all tensors must have one type."""
        return self.linear(x) + self.lora(x)                                          # (..., out)

    def forward(self, x):
        """Compute what `by_hand` computes, to rounding, with LoRAFunction: x (..., in) -> (..., out).

        While merged it computes linear(x) alone, because the weight then contains the correction.

        Raises: RuntimeError while merged, in training mode with gradients on, because A and B would get no gradient
        """
        linear, lora = self.linear, self.lora
        if self.original is None:
            dropped = lora.dropout(x) if lora.dropout.p and self.training else None
            return LoRAFunction.apply(x, dropped, linear.weight, linear.bias, lora.A, lora.B, lora.scale)
        if self.training and torch.is_grad_enabled():
            raise RuntimeError("this layer is merged, so its A and B cannot train: unmerge first, or call eval()")
        return linear(x.to(linear.weight.dtype))                                      # (..., out)

    @torch.no_grad()
    def merge(self):
        """Make the weight, (out, in), a new tensor, weight + scale * (A B)^T, and keep the old one in `original`.

        The layer then costs what a plain one costs.
        Raises: RuntimeError where it is merged already
        """
        if self.original is not None:
            raise RuntimeError("this layer is merged already: merging again would add the correction twice")
        self.original = self.linear.weight.data
        self.linear.weight.data = (self.original + self.lora.delta()).to(self.original.dtype)    # (out, in)

    @torch.no_grad()
    def unmerge(self):
        """Put `original` back bit for bit, because subtracting would round. Raises: RuntimeError if not merged."""
        if self.original is None:
            raise RuntimeError("this layer is not merged: there is nothing to take out")
        self.linear.weight.data, self.original = self.original, None


def refuse_while_merged(layer, *_):
    """A saved state_dict would have the correction twice, in the weight and beside it; a loaded one would spoil it."""
    if layer.original is not None:
        raise RuntimeError("this layer is merged, so its state_dict can be neither saved nor loaded rightly: "
                           "unmerge_lora first (gpt.interop.hugging_face.export_hf writes a merged model)")


class LoRAFunction(torch.autograd.Function):
    """linear(x) + scale * (x A) B as one operation of autograd, with a backward pass written by hand.

    A torch.autograd.Function is an operation that autograd is taught. `forward` computes the output and saves in ctx
    what `backward` will need. `backward` gets g, the gradient of the loss by the output, and returns a gradient for
    each argument of forward, or None.

    `by_hand` makes three tensors as wide as the output: that of W, the correction and their sum. This makes one,
    because it adds the correction into the first, in place (`addmm_`). The backward pass does the same with the two
    parts of x's gradient, unless there is dropout. Saved for it: x (after dropout), thin = scale (x A), W, A and B:

        dx = g W + scale (g B^T) A^T        dA = scale x^T (g B^T)        dB = scale (x A)^T g

    Everything is computed in the type of W, under autocast in autocast's; autograd converts each gradient to the type
    of its tensor. There is no second derivative: asking for one is a RuntimeError.

    Source: Hu et al. 2021, section 4.1, differentiated; Han and Han 2023 (Unsloth) for doing so by hand
    """

    @staticmethod
    def forward(ctx, x, dropped, weight, bias, A, B, scale):
        """x (..., in) -> (..., out). The correction reads `dropped`, x after dropout, or x itself where it is None."""
        device, dtype = x.device.type, weight.dtype
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        x, weight, A, B = (tensor.to(dtype) for tensor in (x, weight, A, B))
        read = x if dropped is None else dropped.to(dtype)                            # (..., in)
        thin = scale * (read @ A)                                                     # (..., r)
        out = F.linear(x, weight, None if bias is None else bias.to(dtype))           # (..., out)
        out.view(-1, len(weight)).addmm_(_rows(thin), B)
        _, _, of_weight, _, of_A, of_B, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, read if of_A else None, thin if of_B else None, weight, A, B)
        ctx.scale, ctx.dropped = scale, dropped is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """grad (..., out) -> one gradient for each argument of `forward`, None where none is needed."""
        x, read, thin, weight, A, B = ctx.saved_tensors
        of_x, of_dropped, of_weight, of_bias, of_A, of_B, _ = ctx.needs_input_grad
        back = ctx.scale * (grad @ B.T)                                               # (..., r)
        dx = grad @ weight if of_x else None                                          # (..., in)
        if of_x and not ctx.dropped:
            dx.view(-1, len(A)).addmm_(_rows(back), A.T)
        return (dx,
                back @ A.T if of_dropped else None,                                   # (..., in)
                _rows(grad).T @ _rows(x) if of_weight else None,                      # (out, in)
                _rows(grad).sum(dim=0) if of_bias else None,                          # (out,)
                _rows(read).T @ _rows(back) if of_A else None,                        # (in, r)
                _rows(thin).T @ _rows(grad) if of_B else None,                        # (r, out)
                None)


def _rows(x):
    """(..., n) -> (N, n)"""
    return x.reshape(-1, x.shape[-1])


def replace_linear_with_lora(model, rank, alpha, *, targets=None, scale="alpha/r", init=None, dropout=0.0,
                             share_a=False, generator=None):
    """Freeze everything inside `model` and give each of its linear layers, however deep, a LoRA, in place.

    Input: model, any module: a GPTModel, or model.trf_blocks to leave the rest alone (nothing outside is frozen);
        targets, the last part of the names to replace, such as "W_query" or ("W_query", "W_value"), or None for every
        linear layer (`_linears_to_replace` finds them); share_a, whether layers of one parent whose names are in
        TOGETHER share one A; generator, for drawing A (None: torch's)
    Output: how many layers were replaced; in `model` only their A's and B's train then
    Raises: ValueError, before anything is changed, for a model that has LoRA layers already, a target that matches
        nothing, a layer whose weight is tied to another module's, and what LoRALayer refuses
    """
    if lora_layers(model):
        raise ValueError("this model has LoRA layers already: a second injection would wrap a wrapped layer")
    layers = {name: LinearWithLoRA(linear, rank, alpha, scale=scale, init=init, dropout=dropout, generator=generator)
              for name, linear in _linears_to_replace(model, targets).items()}
    model.requires_grad_(False)    # now: the LoRAs are made, so no error can follow, and they are not in the model yet
    shared = {}
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        if share_a and child in TOGETHER:
            layer.lora.A = shared.setdefault(parent, layer.lora.A)
        model.set_submodule(name, layer)
    return len(layers)


def _linears_to_replace(model, targets):
    """The linear layers to replace, {name: layer}. Raises: see replace_linear_with_lora"""
    targets = [targets] if isinstance(targets, str) else targets
    owners = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]    # a tied weight comes more than once
    found = {}
    unmatched = set(targets or ())
    for name, layer in model.named_modules():
        matches = {t for t in targets or () if f".{name}".endswith(f".{t}")}
        if not isinstance(layer, nn.Linear) or not name or (targets is not None and not matches):
            continue
        if owners.count(id(layer.weight)) > 1:
            raise ValueError(f"{name} is tied: its weight stands in another place too (GPT-2's head is its token "
                             f"embedding). Swap the head first, or inject into model.trf_blocks only")
        found[name] = layer
        unmatched -= matches
    if unmatched or not found:
        raise ValueError(f"no linear layer's name ends in {', '.join(sorted(unmatched)) or 'anything'}: "
                         f"nothing was replaced")
    return found


def lora_layers(model):
    """All LoRA layers in a model, in its order: a list of pairs of name and LinearWithLoRA."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LinearWithLoRA)]


def merge_lora(model):
    """Merge every LoRA layer of a model, in place. The outputs stay the same, to rounding, at the base's speed."""
    for _, layer in lora_layers(model):
        layer.merge()


def unmerge_lora(model):
    """Take every merged LoRA out again, in place. The base weights come back bit for bit."""
    for _, layer in lora_layers(model):
        layer.unmerge()


def count_parameters(model):
    """The numbers of parameters that train and of all parameters, tied tensors counted once: (trainable, total)."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def trainable_report(model):
    """`trainable params: 2,666,528 || all params: 127,107,874 || trainable%: 2.0978`"""
    trainable, total = count_parameters(model)
    return f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}"
