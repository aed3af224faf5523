"""A classifier's head in PEFT's layout, and back: Hugging Face's has no bias, but its final norm may be saved with it.

    W z + b = W (z + d)    with d = W^T (W W^T)^-1 b, which the norm's shift takes up

Read along: chapters/07_lora_writer.py. Shape letters: gpt/__init__.py.
"""

import torch

from gpt.adapters import is_tied
from gpt.hugging_face import fold_bias
from gpt.lora import LinearWithLoRA


@torch.no_grad()
def head_tensors(model, labels):
    """What the head is in PEFT's file: {name: tensor}, the labels, the bias as a list; {}, [], [] of a language model.

    Raises: ValueError for labels that do not fit, and what `fold_bias` refuses
    """
    head, norm = model.out_head, model.final_norm
    if is_tied(model):
        if labels:
            raise ValueError(f"{len(labels)} labels, but the head is the language model's")
        return {}, [], []
    if isinstance(head, LinearWithLoRA):
        base = head.linear.weight if head.original is None else head.original
        weight, bias = base + head.lora.scale * (head.lora.A @ head.lora.B).T, head.linear.bias    # (K, C), (K,)
    else:
        weight, bias = head.weight, head.bias
    tensors = {"score.weight": weight}
    if labels and len(labels) != len(weight):
        raise ValueError(f"{len(labels)} labels, but the head has {len(weight)} outputs")
    if bias.any():    # in float32: among the digits of a bfloat16 shift the bias would be lost
        tensors["transformer.ln_f.weight"] = norm.scale
        tensors["transformer.ln_f.bias"] = fold_bias(weight, bias, norm.shift.float())
    return tensors, labels or [f"LABEL_{i}" for i in range(len(weight))], bias.tolist()


@torch.no_grad()
def head_of(model, tensors, noted):
    """The head (weight (K, C), bias (K,)) that says with the model's final norm what the file's says with its own.

    Input: tensors, {} or "score.weight" and perhaps "transformer.ln_f.weight" and "....bias"; noted: the bias that
        `head_tensors` gave, or None
    Output: weight (K, C), bias (K,), or None where there is no head
    Raises: ValueError for a norm without a head, one that no head can stand for, and a noted bias that is not its own
    """
    norm, weight = model.final_norm, tensors.get("score.weight")
    if weight is None:
        if tensors:
            raise ValueError("ln_f was trained, and the head of a language model, its embedding, cannot take that up")
        return None
    scale = tensors.get("transformer.ln_f.weight", norm.scale).cpu().double()
    shift = tensors.get("transformer.ln_f.bias", norm.shift).cpu().double()
    weight = weight.double()
    merged, bias = norm_into_head(weight, scale, shift, norm)
    if noted is not None:
        if noted.shape != bias.shape or not noted.isfinite().all():
            raise ValueError(f"the header has {tuple(noted.shape)} biases, finite or not, and the head wants "
                             f"{tuple(bias.shape)} finite ones")
        # what float32 leaves of a bias that was added to a shift; an edited header would be off by more
        rounding = 1e-4 * noted.abs().max() + 1e-5 * (weight.abs() @ shift.abs()).max()
        if not (noted - bias).abs().max() <= rounding:
            raise ValueError(f"the bias in the header, {noted.tolist()}, is not that in ln_f, {bias.tolist()}")
        bias = noted
    return merged, bias


def norm_into_head(weight, scale, shift, norm):
    """A head W that reads through another final norm, told as one that reads through ours.

    Ours makes z = scale n + shift of the normalised channels n, the other scale' n + shift', and

        W (scale' n + shift') = W' z + b     with W' = W scale'/scale, b = W shift' - W' shift

    Input: weight (K, C), scale' (C,), shift' (C,), in float64; norm, ours
    Output: W' (K, C), b (K,), in float64
    Raises: ValueError for a channel that our norm multiplies by 0 and the other does not
    """
    ours, W = norm.scale.detach().cpu().double(), weight
    if not torch.equal(scale, ours):
        if scale[ours == 0].any():
            raise ValueError("its ln_f uses a channel that this model's final norm multiplies by 0")
        W = weight * (scale / torch.where(ours == 0, 1.0, ours))                      # (K, C)
    return W, weight @ shift - W @ norm.shift.detach().cpu().double()                 # (K, C), (K,)
