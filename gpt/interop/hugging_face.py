"""Export: a GPTModel, its LoRAs merged, as a folder that Hugging Face's transformers loads with from_pretrained.

A language model becomes a GPT2LMHeadModel, a model with a swapped head a GPT2ForSequenceClassification. GPT-2's
tokenizer is written beside it where the vocabulary has room for its tokens, so that the folder is all that
pipeline("text-classification", folder) needs. `gpt.weights.load_huggingface` reads it, too.

Read along: chapters/07_lora_writer.py. Source: the files of transformers 5.23.0.
"""

import json
import re

import torch
from safetensors.torch import save_file

from gpt.adapters import is_held, is_tied, plain_head
from gpt.download import fetch
from gpt.lora import lora_layers
from gpt.model import scores_tokens, unwrapped
from gpt.storage.files import written_whole_folder
from gpt.tokenizer import END_OF_TEXT, byte_alphabet, read_ranks
from gpt.weights import NAMES

THEIRS = {ours: hugging_face for _, hugging_face, ours in NAMES}


def export_hf(model, folder, *, labels=()):
    """Write config, weights and tokenizer into a folder, whole or not at all. The model stays as it is.

    Their classifier reads at the last token that is not <|endoftext|>, because that token also pads. So do we, as long
    as no message itself ends in <|endoftext|>, and our tokenizer never makes it from text. A classifier that was
    trained the blog's way, to be read at its padding, answers differently there. It is refused if it came from an
    adapter (model.pad_to). Right after training model.pad_to is not set, and nothing refuses it: do not export it then.

    Input: model, its LoRAs merged or not; labels, the classes' names in the head's order, or () for LABEL_0, LABEL_1...
    Raises: ValueError for labels that do not fit the head or are not different texts, for numbers that are not finite,
        for a model that is read at its padding or whose weights are rounded (`gpt.cost.precision.hold`), and what
        `fold_bias` refuses; FileExistsError for a folder that holds anything else (see
        `gpt.storage.files.written_whole_folder`); DownloadError where the tokenizer's file cannot be had
    """
    model = unwrapped(model)
    tensors = hf_tensors(model)
    config = hf_config(model, labels)
    merges = fetch("vocab.bpe").read_text(encoding="utf-8") if model.config.vocab_size > END_OF_TEXT else ""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{folder} was not written: {name} holds numbers that are not finite: did the training "
                             f"diverge?")
    with written_whole_folder(folder) as temporary:
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if merges:
            write_tokenizer(temporary, merges, model.config.context_length)


def write_tokenizer(folder, merges, context_length):
    """Write GPT-2's tokenizer as transformers reads it: the merges as they stand in vocab.bpe, and each token's id."""
    written = {byte: sign for sign, byte in byte_alphabet().items()}
    tokens = {"".join(written[byte] for byte in token): i for token, i in read_ranks(merges).items()}
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": context_length, "add_prefix_space": False} | {
        f"{kind}_token": "<|endoftext|>" for kind in ("bos", "eos", "unk", "pad")}
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    for name, content in (("vocab.json", tokens | {"<|endoftext|>": END_OF_TEXT}), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(content) + "\n", encoding="utf-8")


def hf_config(model, labels=()):
    """What config.json says, as a dict: the kind of model, its sizes, and the names of its classes, if it has any."""
    if is_held(model):
        raise ValueError("this model's weights are rounded (gpt.cost.precision.hold): load the base again, lay its "
                         "adapter over that, and export it")
    if getattr(model, "pad_to", None):
        raise ValueError(f"this model is read at its padding (pad_to {model.pad_to}), and Hugging Face's classifier "
                         f"reads at the last real token, so its answers would differ: train one without pad_to")
    config = model.config
    K = 0 if scores_tokens(model) else plain_head(model).out_features
    if labels and (len(labels) != K or len(set(labels)) != K or not all(isinstance(name, str) for name in labels)):
        raise ValueError(f"{len(labels)} labels for a head of {K or 'no'} classes, {list(labels)}: each class needs a "
                         f"name of its own")
    end = min(END_OF_TEXT, config.vocab_size - 1)    # <|endoftext|>, or what stands for it in a toy's vocabulary
    found = {
        "architectures": ["GPT2ForSequenceClassification" if K else "GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.emb_dim,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": None,                       # 4 n_embd
        "activation_function": "gelu_new",     # what they call gelu is not GPT-2's
        "layer_norm_epsilon": model.final_norm.eps,
        "embd_pdrop": config.drop_rate,
        "attn_pdrop": config.drop_rate,
        "resid_pdrop": config.drop_rate,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "tie_word_embeddings": K > 0 or is_tied(model),
        "torch_dtype": str(model.tok_emb.weight.dtype).removeprefix("torch."),
    }
    if K:
        names = labels or [f"LABEL_{i}" for i in range(K)]
        found |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return found


@torch.no_grad()
def hf_tensors(model):
    """The model's tensors, merged, under Hugging Face's names: {"transformer.h.0.attn.c_attn.weight": (C, 3 C), ...}.

    Linear weights of the blocks are (in, out) there, and query, key and value stand side by side. A head for classes is
    called score and has no bias (see `fold_bias`). A model without query, key and value biases gets zeros, because
    theirs always has these biases.
    """
    weights = merged_weights(model)
    head, bias = weights.pop("out_head.weight", None), weights.pop("out_head.bias", None)
    if bias is not None:
        weights["final_norm.shift"] = fold_bias(head, bias, weights["final_norm.shift"])
    tensors = {} if head is None else {"lm_head.weight" if scores_tokens(model) else "score.weight": head}
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
    """The weights as merging would make them, {name without LoRA: tensor}, without a tied head. The model stays."""
    weights = {name: p.detach() for name, p in model.named_parameters() if ".lora." not in name}
    for name, layer in lora_layers(model):
        if layer.original is None:
            weights[f"{name}.linear.weight"] = layer.linear.weight + layer.lora.delta()    # (out, in)
    return {name.replace(".linear.", "."): weight for name, weight in weights.items()}


def fold_bias(head_weight, head_bias, shift):
    """Put a head's bias into the shift of the norm before it, for a head without one: W shift' = W shift + b.

        shift' = shift + W^T (W W^T)^-1 b

    is the smallest change of the shift that does this. Often W W^T has almost no inverse: if a head for 2 classes was
    trained from zero, its rows add up to almost zero, and so do its biases, because softmax sends all classes together
    a gradient of 0. (With more classes they need not, because AdamW scales the gradient of each number by itself.) So
    everything is computed in float64, and what is below a millionth of W's size counts as zero.

    Input: head_weight W (K, C), head_bias b (K,), shift (C,)
    Output: shift' (C,), a new tensor of shift's type
    Raises: ValueError for numbers that are not finite; and if no shift gives these biases, because rows of W depend on
        each other and the biases do not in the same way. The message has the largest error. An error of 1e-5 of the
        largest bias is allowed, and what rounding takes from W shift anyway
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
