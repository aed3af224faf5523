"""One run of teaching a model to write, from loading it to its scores: what a process of its own is asked to do.

Read along: chapters/07_lora_writer.py. Source: Sharma and Watson 2023, KerasHub's example of GPT-2 with LoRA, for the
recipe.
"""

from functools import partial

import torch

from gpt.adapters import save_adapter
from gpt.config import GPT2_SIZES
from gpt.less_memory import has_bfloat16, mixed_precision, step_in_parts
from gpt.lora import count_parameters, replace_linear_with_lora
from gpt.model import GPTModel
from gpt.own_process import peak_bytes
from gpt.tokenizer import gpt2_tokenizer
from gpt.train import train, warmup_then_linear
from gpt.weights import load_gpt2
from gpt.writer import TextBatches, parameter_groups, real_tokens, text_loss, text_scores


def fine_tune(*, model, base, seed, texts, method, learning_rate, untrained=False, rank=4, alpha=32, epochs=1,
              batch_size=8, parts=1, warmup=20, weight_decay=0.01, decay_lora=True, looks=8, device="cpu",
              adapter_file=None):
    """Load a GPT-2, fine-tune it on texts, and say what it cost. Arguments and output as `in_own_process` wants them.

    Input: model, a name in GPT2_SIZES; untrained, whether its weights are random; texts, {"train", "validation",
        "test"}: lists of str; method, "full" for all weights or "lora" for query and value; looks, how often to score
        the validation texts; adapter_file, where to save the LoRA, with base as the base's name
    Output: dict with scores before and after, {"validation", "test"} of what `text_scores` gives; history, those of the
        looks with their "step"; steps; seconds_training, of the steps alone; trainable_parameters, total_parameters;
        start_memory_bytes, the process's peak before it had a model (0 on a GPU, whose allocator has no such start)
    """
    config, tokenizer, draw = GPT2_SIZES[model], gpt2_tokenizer(), torch.Generator()
    loaders = {name: TextBatches(part, tokenizer, batch_size, config.context_length, seed if name == "train" else None)
               for name, part in texts.items()}
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])    # the first optimizer of a process imports 70 MB of torch
    start = 0 if torch.device(device).type == "cuda" else peak_bytes()
    gpt = GPTModel(config, draw.manual_seed(seed)) if untrained else load_gpt2(model)
    if method == "lora":
        replace_linear_with_lora(gpt, rank, alpha, targets=("W_query", "W_value"), generator=draw.manual_seed(seed))
    gpt.to(device)

    def scores():
        return {name: text_scores(gpt, loaders[name], device) for name in ("validation", "test")}

    before, steps = scores(), epochs * len(loaders["train"])

    def look(progress):
        if progress.step * looks // steps > (progress.step - 1) * looks // steps:
            progress.history.append({"step": progress.step} | text_scores(gpt, loaders["validation"], device))

    optimizer = torch.optim.AdamW(parameter_groups(gpt, weight_decay, decay_lora), lr=learning_rate)
    loss_fn = mixed_precision(text_loss) if has_bfloat16(device) else text_loss
    progress = train(gpt, loaders["train"], loss_fn, optimizer, epochs, device=device, clip=1.0, after_step=look,
                     schedule=warmup_then_linear(warmup, steps),
                     step=partial(step_in_parts, parts=parts, size=real_tokens))
    if adapter_file:
        save_adapter(gpt, adapter_file, base=base)
    trainable, total = count_parameters(gpt)
    return dict(before=before, after=scores(), history=progress.history, steps=progress.step, start_memory_bytes=start,
                seconds_training=progress.seconds, trainable_parameters=trainable, total_parameters=total)
