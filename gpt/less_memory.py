"""The same training step in less memory: the batch in parts, the matrix products in bfloat16.

Read along: chapters/07_lora_writer.py. Source: Micikevicius et al. 2018 (in float16); Kalamkar et al. 2019.
"""

import math

import torch


def step_in_parts(model, batch, loss_fn, optimizer, clip=None, *, parts, size=None):
    """`gpt.train.training_step` with the activations of one part of the batch at a time: gradients add up in .grad.

    The batch's loss is a mean over all rows or tokens that it has, a part's is the mean over those of the part. So the
    gradient of a part of size n counts n / (n of all parts). The trap: dividing by the number of parts is right only
    where all parts have the same size. Texts padded to one length have not, however equal their shapes.

    Input: parts, into how many to cut the rows, as evenly as it goes (fewer where there are fewer rows); size(part) ->
        what loss_fn is a mean over, None for rows; the others as in training_step
    Output: the loss of the whole batch, from before the step, as a float; where it is not finite nothing has changed
    """
    tensors = (batch,) if torch.is_tensor(batch) else batch
    pieces = list(zip(*(tensor.chunk(parts) for tensor in tensors)))
    sizes = [float(size(piece)) if size else len(piece[0]) for piece in pieces]
    optimizer.zero_grad()
    value = 0.0
    for piece, n in zip(pieces, sizes):
        loss = loss_fn(model, piece[0] if torch.is_tensor(batch) else piece) * (n / sum(sizes))
        value += loss.item()
        if not math.isfinite(value):
            return value    # what is in .grad by now is cleared before the next step
        loss.backward()
    if clip:
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip)
    optimizer.step()
    return value


def has_bfloat16(device):
    """Whether to multiply in bfloat16 there: on a GPU that has circuits for it. (Many a CPU would become slower.)"""
    return torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def mixed_precision(loss_fn):
    """The loss with its matrix products in bfloat16: half the bytes to keep for the backward pass and to move.

    Weights, gradients and optimizer stay float32, and so do sums such as softmax: bfloat16 has 8 bits for the digits of
    a number, 256 + 1 is 256 in it, and most steps of training would round to none. Its range is that of float32: no
    gradient becomes 0 for being small, so that the loss need not be scaled up, as with float16.
    """
    def loss(model, batch):
        device = (batch if torch.is_tensor(batch) else batch[0]).device.type
        with torch.autocast(device, torch.bfloat16):
            return loss_fn(model, batch)
    return loss
