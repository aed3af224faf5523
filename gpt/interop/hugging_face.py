"""Export: a GPTModel, its LoRAs merged, as a folder that Hugging Face's transformers loads with from_pretrained.

A language model becomes a GPT2LMHeadModel, a model with a swapped head a GPT2ForSequenceClassification. The tokenizer
is GPT-2's own, AutoTokenizer.from_pretrained("gpt2"), and not in the folder. Read along: chapters/07_lora_writer.py.
"""

import json
import re

import torch
from safetensors.torch import save_file

from gpt.adapters import is_tied, plain_head
from gpt.lora import lora_layers
from gpt.storage.files import written_whole_folder
from gpt.weights import NAMES

THEIRS = {ours: hugging_face for _, hugging_face, ours in NAMES}


def export_hf(model, folder, *, labels=()):
    """Write config.json and model.safetensors into a folder, whole or not at all. The model stays as it is.

    Theirs reads a class at the last token that is not <|endoftext|>, which also pads. So do we, as long as no message
    ends in <|endoftext|> itself; our tokenizer never makes it from text. A classifier that was trained the blog's way,
    to be read at its padding, would be read elsewhere there: it cannot be exported, and this cannot be seen here.

    Input: model, its LoRAs merged or not; labels, the classes' names in the head's order, or () for LABEL_0, LABEL_1...
    Raises: ValueError for labels that do not fit the head or are no different texts, for numbers that are not finite,
        and what `fold_bias` refuses; FileExistsError for a folder
        that holds anything else, see `gpt.storage.files.written_whole_folder`
    """
    tensors, config = hf_tensors(model), hf_config(model, labels)
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{folder} was not written: {broken[0]} holds numbers that are not finite")
    with written_whole_folder(folder) as temporary:
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def hf_config(model, labels=()):
    """What config.json says, as a dict: the sizes, and the kind of model."""
    config, K = model.config, 0 if is_tied(model) else plain_head(model).out_features
    if labels and (len(labels) != K or len(set(labels)) != K or not all(isinstance(name, str) for name in labels)):
        raise ValueError(f"{len(labels)} labels for a head of {K or 'no'} classes, {list(labels)}: each class needs a "
                         f"name of its own")
    end = config.vocab_size - 1    # <|endoftext|>, which is GPT-2's last token: 50256
    found = {"architectures": ["GPT2ForSequenceClassification" if K else "GPT2LMHeadModel"], "model_type": "gpt2",
             "vocab_size": config.vocab_size, "n_positions": config.context_length, "n_embd": config.emb_dim,
             "n_layer": config.n_layers, "n_head": config.n_heads, "n_inner": None, "activation_function": "gelu_new",
             "layer_norm_epsilon": model.final_norm.eps, "embd_pdrop": config.drop_rate,
             "attn_pdrop": config.drop_rate, "resid_pdrop": config.drop_rate, "bos_token_id": end,
             "eos_token_id": end, "pad_token_id": end, "tie_word_embeddings": True,
             "torch_dtype": str(model.tok_emb.weight.dtype).removeprefix("torch.")}
    if K:
        names = labels or [f"LABEL_{i}" for i in range(K)]
        found |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return found


@torch.no_grad()
def hf_tensors(model):
    """The model's tensors, merged, under Hugging Face's names: {"transformer.h.0.attn.c_attn.weight": (C, 3 C), ...}.

    Linear weights of the blocks are (in, out) there; query, key and value stand side by side; a head, called score,
    has no bias (`fold_bias`). A model without query, key and value biases gets zeros: a GPT-2 always has some.
    """
    weights = merged_weights(model)
    head, bias = weights.pop("out_head.weight", None), weights.pop("out_head.bias", None)
    if bias is not None:
        weights["final_norm.shift"] = fold_bias(head, bias, weights["final_norm.shift"])
    tensors = {} if head is None else {"score.weight": head}
    for name in [name for name in weights if "W_query" in name]:
        parts = [weights.pop(name.replace("W_query", part)) for part in ("W_query", "W_key", "W_value")]
        weights[name.replace("W_query", "c_attn")] = torch.cat(parts)                 # (3 * C, C) or (3 * C,)
        if not model.config.qkv_bias:
            weights[name.replace("W_query.weight", "c_attn.bias")] = parts[0].new_zeros(3 * len(parts[0]))
    for name, weight in weights.items():
        block, rest = re.fullmatch(r"(?:trf_blocks\.(\d+)\.)?(.*)", name).groups()
        prefix = "transformer." if block is None else f"transformer.h.{block}."
        tensors[prefix + THEIRS[rest]] = weight.t() if block is not None and weight.ndim == 2 else weight
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def merged_weights(model):
    """{name without LoRA: tensor}, each LoRA added to its weight as merging does; no tied head. Nothing is changed."""
    weights = {name: p.detach() for name, p in model.named_parameters() if ".lora." not in name}
    for name, layer in lora_layers(model):
        if layer.original is None:
            weights[f"{name}.linear.weight"] = layer.linear.weight + layer.lora.delta()    # (out, in)
    return {name.replace(".linear.", "."): weight for name, weight in weights.items()}


def fold_bias(head_weight, head_bias, shift):
    """Put a head's bias into the shift of the norm before it, for a head without one: W shift' = W shift + b.

        shift' = shift + W^T (W W^T)^-1 b

    is the smallest change of the shift that does this. A head for 2 classes that was trained from zero has rows, and
    biases, that add up to almost zero: softmax sends all classes together a gradient of 0. (AdamW scales the gradient
    of each number by itself, so with more classes they need not.) Then W W^T has almost no inverse. So it is done in
    float64, and what is below a millionth of W's size is taken for zero.

    Input: head_weight W (K, C), head_bias b (K,), shift (C,)
    Output: shift' (C,), a new tensor of shift's type
    Raises: ValueError for numbers that are not finite; with the largest error, where no shift gives these biases, to
        1e-5 of the largest and the rounding of the old shift: rows of W depend on each other and the biases do not in
        the same way
    """
    W, b, old = (tensor.detach().double() for tensor in (head_weight, head_bias, shift))
    if not (W.isfinite().all() and b.isfinite().all() and old.isfinite().all()):
        raise ValueError("the head or the norm before it holds numbers that are not finite: did the training diverge?")
    new = (old + torch.linalg.pinv(W, rtol=1e-6) @ b).to(shift.dtype)
    missed = (W @ (new.double() - old) - b).abs().max().item()
    rounding = torch.finfo(shift.dtype).eps * (W.abs() @ old.abs()).max().item()    # which the old shift has as well
    if not missed <= 1e-5 * b.abs().max().item() + rounding:
        raise ValueError(f"no shift of the final norm can stand for this head's bias, one would be {missed:.2g} off: "
                         f"are rows of the head's weight zero, or multiples of each other?")
    return new
