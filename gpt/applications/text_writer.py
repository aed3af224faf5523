"""Teach a model to write like your texts: rows of tokens, scores, a step in less memory, and a whole run.

Read along: chapters/07_lora_writer.py. Source: Sharma and Watson 2023, KerasHub's example of GPT-2 with LoRA, for the
recipe. Shape letters: gpt/__init__.py; N
is the number of real tokens to predict, all rows laid end to end.
"""

import math
import re
from functools import partial

import torch
from torch.nn import functional as F

from gpt.adapters import save_adapter
from gpt.batches import BatchesByLength, pad
from gpt.classify import to_device
from gpt.config import GPT2_SIZES
from gpt.cost.fresh_process import peak_bytes
from gpt.cost.precision import TYPES, computing, float32_by_onednn, hold, loss_scaler
from gpt.lora import count_parameters, replace_linear_with_lora
from gpt.losses import hidden_and_targets, next_token_loss, real_tokens
from gpt.model import GPTModel, evaluating, refuse_classifier
from gpt.spam import decode_utf8
from gpt.storage.files import BadFile
from gpt.tokenizer import END_OF_TEXT, gpt2_tokenizer
from gpt.train import NOT_SCALING, parameter_groups, train, warmup_then_linear
from gpt.weights import load_gpt2

text_loss = partial(next_token_loss, chunk=256)    # for a batch of TextBatches
WARMUP = 20            # steps of `fine_tune`
WEIGHT_DECAY = 0.01    # of its AdamW


def read_documents(path):
    """The texts of a plain-text file, which empty lines separate; where there are none, each line is a text.

    Raises: ValueError with the file's name where there is no text, and with file:line where it is not UTF-8
    """
    text = decode_utf8(path).replace("\r\n", "\n").strip()
    if not text:
        raise BadFile(f"{path}: there is no text in this file")
    parts = re.split(r"\n\s*\n", text)
    return [part.strip() for part in (parts if len(parts) > 1 else text.split("\n"))]


def titled(table):
    """A table's columns title and description as one text per row: "TITLE: ... DESCRIPTION: ..."."""
    return [f"TITLE: {title} DESCRIPTION: {text}" for title, text in zip(table["title"], table["description"])]


class TextBatches(BatchesByLength):
    """Batches of texts of similar length, to predict next tokens: a pass yields (ids (B, T + 1), lengths (B,)).

    A row is <|endoftext|>, the text, <|endoftext|>: so the model can begin a text from nothing and learns where it
    ends. A text of more than context_length + 1 tokens becomes several rows; the last token to predict of one is the
    first to read of the next, so that every token but the first is predicted once. Order and padding are those of
    BatchesByLength. The trap: padding is <|endoftext|> too, so that only `lengths` tells what is real.

    Input: texts, a list of str; seed: None sorts by length, whatever the epoch
    """

    def __init__(self, texts, tokenizer, batch_size=8, context_length=1024, seed=None):
        self.token_ids = []
        for text in texts:
            row = [END_OF_TEXT, *tokenizer.encode_ordinary(text), END_OF_TEXT]
            for start in range(0, len(row) - 1, context_length):
                self.token_ids.append(row[start:start + context_length + 1])
        self.batch_size, self.seed = batch_size, seed
        self.set_epoch(0)

    def __iter__(self):
        for rows in self.rows:
            yield pad([self.token_ids[row] for row in rows], END_OF_TEXT)


def text_scores(model, loader, device, chunk=256):
    """How well a model predicts the texts of a loader; each real token counts once, whatever its batch.

    Output: {"loss": nats per token, "accuracy": the share, 0..1, of tokens that had the highest logit}
    Raises: ValueError for a classifier, and for a loader without a token to predict
    """
    refuse_classifier(model)
    total, right, count = 0.0, 0, 0
    with evaluating(model):
        for batch in loader:
            hidden, targets = hidden_and_targets(model, to_device(batch, device))
            for part, wanted in zip(hidden.split(chunk), targets.split(chunk)):
                logits = model.out_head(part).float()                                 # (N, V) of a chunk
                total += F.cross_entropy(logits, wanted, reduction="sum").item()
                right += int((logits.argmax(dim=-1) == wanted).sum())
            count += len(targets)
    if not count:
        raise ValueError("there is no token to score: are there too few texts to hold some out?")
    return {"loss": total / count, "accuracy": right / count}


# ---- The same step in less memory: the batch in parts ---------------------------------------------------------------

def step_in_parts(model, batch, loss_fn, optimizer, clip=None, scaler=None, *, parts, size=None):
    """`gpt.train.training_step` with the activations of one part of the batch at a time: gradients add up in .grad.

    The batch's loss is the mean over all its rows or tokens, a part's loss is the mean over those of the part. So the
    gradient of a part of size n counts n / (n of all parts). The trap: dividing by the number of parts is right only
    where all parts have the same size. Texts padded to one length differ in size, although their shapes are equal.

    Input: parts, into how many to cut the rows, as evenly as possible (fewer where there are fewer rows); size(part) ->
        how many rows or tokens loss_fn is a mean over, None for rows; the others as in training_step
    Output: the loss of the whole batch, from before the step; where it is not finite nothing has changed (on a CPU)
    """
    tensors = (batch,) if torch.is_tensor(batch) else batch
    pieces = list(zip(*(tensor.chunk(parts) for tensor in tensors)))
    sizes = [float(size(piece)) if size else len(piece[0]) for piece in pieces]
    scaler = NOT_SCALING if scaler is None else scaler
    optimizer.zero_grad()
    total = torch.zeros((), device=tensors[0].device)
    for piece, n in zip(pieces, sizes):
        loss = loss_fn(model, piece[0] if torch.is_tensor(batch) else piece) * (n / sum(sizes))
        total += loss.detach()
        if total.device.type == "cpu" and not total.isfinite():
            return total    # what is in .grad by now is cleared before the next step
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    if clip:
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip)
    scaler.step(optimizer)
    scaler.update()
    return total


# ---- A whole run -----------------------------------------------------------------------------------------------------

def fine_tune(*, model, base, seed, texts, method, learning_rate, untrained=False, rank=4, alpha=32, epochs=1,
              batch_size=8, parts=1, looks=8, device="cpu", precision="float32", adapter_file=None):
    """Load a GPT-2, fine-tune it on texts, and say what it cost. Arguments and output as `in_fresh_process` wants them.

    Input: model, a name in GPT2_SIZES; untrained, whether its weights are random; texts, {"train", "validation",
        "test"}: lists of str; method, "full" for all weights or "lora" for query and value; looks, how often to score
        the validation texts; precision, a name in gpt.cost.precision.TYPES: LoRA's frozen weights are held in it, and
        all weights are multiplied in it; adapter_file, where to save the LoRA, with base as the base's name
    Output: dict with scores before and after, {"validation", "test"} of what `text_scores` gives; history, the scores
        of the looks with their "step"; steps; seconds_training, of the steps alone; trainable_parameters,
        total_parameters; start_memory_bytes, the process's peak before it had a model (0 on a GPU)
    """
    config = GPT2_SIZES[model]
    tokenizer = gpt2_tokenizer()
    draw = torch.Generator()
    loaders = {name: TextBatches(part, tokenizer, batch_size, config.context_length, seed if name == "train" else None)
               for name, part in texts.items()}
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])    # the first optimizer of a process imports 70 MB of torch
    start = 0 if torch.device(device).type == "cuda" else peak_bytes()
    gpt = GPTModel(config, draw.manual_seed(seed)) if untrained else load_gpt2(model)
    if method == "lora":
        replace_linear_with_lora(gpt, rank, alpha, targets=("W_query", "W_value"), generator=draw.manual_seed(seed))
    gpt.to(device)
    dtype = TYPES[precision]
    if model != "mini":
        float32_by_onednn()
    if method == "lora":
        hold(gpt, dtype)
    multiplied = computing(dtype if method == "full" else torch.float32, device)

    @multiplied
    def scores(names=("validation", "test")):
        return {name: text_scores(gpt, loaders[name], device) for name in names}

    before = scores()
    steps = epochs * len(loaders["train"])

    def look(progress):
        if progress.step * looks // steps > (progress.step - 1) * looks // steps:
            progress.history.append({"step": progress.step} | scores(["validation"])["validation"])

    optimizer = torch.optim.AdamW(parameter_groups(gpt, WEIGHT_DECAY), lr=learning_rate)
    progress = train(gpt, loaders["train"], multiplied(text_loss), optimizer, epochs, device=device, clip=1.0,
                     scaler=loss_scaler(dtype, device), after_step=look, schedule=warmup_then_linear(WARMUP, steps),
                     step=partial(step_in_parts, parts=parts, size=real_tokens))
    if adapter_file:
        save_adapter(gpt, adapter_file, base=base)
    trainable, total = count_parameters(gpt)
    return dict(before=before, after=scores(), history=progress.history, steps=progress.step, start_memory_bytes=start,
                seconds_training=progress.seconds, trainable_parameters=trainable, total_parameters=total)
