"""Many small training runs, each remembered: settings in, losses of held-out messages out.

Read along: chapters/08_lora_inside.py. Source: Hu et al. 2021, sections 7.1 and 7.2, for the questions.
"""

import copy
from dataclasses import asdict, dataclass, replace
from functools import cache

import torch

from gpt.applications.pretrain import shares, text_losses
from gpt.batches import BatchesByLength, TextWindows, encode_documents
from gpt.classify import calc_accuracy_loader, calc_loss_loader, classifier_loss, swap_head
from gpt.experiments.run_records import over_seeds, remembered
from gpt.lora import replace_linear_with_lora
from gpt.losses import sampled_softmax_loss
from gpt.spam import create_balanced_dataset, split_without_leaks
from gpt.train import train, warmup_then_cosine

HEAD_RATE = 5e-4    # learning rate of a new head: chapter 6's, whatever that of A and B is


@dataclass(frozen=True)
class Trial:
    """The settings of one run. With the task and the base model they decide its result."""

    rank: int | None                          # None: no LoRA, everything trains
    targets: tuple[str, ...] | None = None    # last parts of the names of the blocks' linear layers; None: all of them
    alpha: float = 16
    scale: str = "alpha/r"
    learning_rate: float = 5e-4               # of A and B, or, without LoRA, of all but a new head
    epochs: int = 3
    seed: int = 123                           # of everything random: the split, the order, A


def inject(model, trial):
    """Give a model's blocks the LoRA of a trial, in place, with A's drawn from the trial's seed. Returns the model."""
    replace_linear_with_lora(model.trf_blocks, trial.rank, trial.alpha, targets=trial.targets, scale=trial.scale,
                             generator=torch.Generator().manual_seed(trial.seed))
    return model


def train_trial(base, task, trial):
    """Train a copy of `base` on a task as a trial says: AdamW without decay, 20 steps of warm-up, then a cosine to 0.

    Output: the model in eval mode, and the task's measures: {"validation": {...}, "test": {...}}
    Raises: FloatingPointError for a loss that is not finite: the learning rate is too high
    """
    model = copy.deepcopy(base)
    device = base.tok_emb.weight.device
    model.requires_grad_(trial.rank is None)
    loss_fn = task.prepare(model, trial.seed)
    if trial.rank is not None:
        inject(model, trial)
    new_head = [p for p in model.out_head.parameters() if model.out_head.weight is not model.tok_emb.weight]
    body = [p for p in model.parameters() if p.requires_grad and not any(p is h for h in new_head)]
    optimizer = torch.optim.AdamW([{"params": body, "lr": trial.learning_rate},
                                   {"params": new_head, "lr": HEAD_RATE}], weight_decay=0.0, fused=True)
    loader, validation, test = task.data(trial.seed)
    train(model, loader, loss_fn, optimizer, trial.epochs, device=device,
          schedule=warmup_then_cosine(20, trial.epochs * len(loader)))
    model.eval()
    return model, {"validation": task.measure(model, validation), "test": task.measure(model, test)}


def run_trial(folder, base, base_name, task, trial):
    """The measures of `train_trial`, remembered in a folder; None for a trial whose loss was not finite."""
    def run():
        try:
            return train_trial(base, task, trial)[1]
        except FloatingPointError:
            return None

    return remembered(folder, {"base": base_name, **task.facts, **asdict(trial)}, run)


def trial_over_seeds(folder, base, base_name, task, trial, seeds):
    """The test results of a trial with each of the seeds: {measure: [one number per seed]}.

    Raises: FloatingPointError that names the settings, where a loss was not finite
    """
    found = [run_trial(folder, base, base_name, task, replace(trial, seed=seed)) for seed in seeds]
    if None in found:
        raise FloatingPointError(f"with seed {seeds[found.index(None)]} the loss of {trial} was not finite: is the "
                                 f"learning rate too high?")
    return over_seeds([result["test"] for result in found])


# ---- What a trial trains for: a class of messages, or their next token -----------------------------------------------
# A task has
#     facts                   the settings that tell it from other tasks: a dict
#     data(seed)              a loader of training batches; for validation and for test, what `measure` takes
#     prepare(model, seed)    fits the model to the task, in place, and returns the loss to train by
#     measure(model, data)    a dict of numbers

class SpamTask:
    """Ham or spam, by chapter 6's default recipe: balanced, split without leaks, a new head that starts at zero."""

    def __init__(self, messages, tokenizer, context_length):
        self.facts = {"task": "spam", "messages": len(messages)}
        self.messages, self.tokenizer, self.context_length = messages, tokenizer, context_length
        self.data = cache(self.data)    # trials of one seed share their messages, which are encoded once

    def data(self, seed):
        """Loaders of the training, validation and test messages that a seed gives."""
        splits = split_without_leaks(create_balanced_dataset(self.messages, random_state=seed), seed=seed)
        return [BatchesByLength(split, self.tokenizer, 8, self.context_length, order)
                for split, order in zip(splits, (seed, None, None))]

    def prepare(self, model, seed):
        """Swap the head, in place; return the loss to train by."""
        swap_head(model, 2)
        return classifier_loss

    def measure(self, model, loader):
        """The loss, nats per message, and the accuracy, 0..1."""
        device = model.tok_emb.weight.device
        return {"accuracy": calc_accuracy_loader(loader, model, device),
                "loss": calc_loss_loader(loader, model, device)}


class TextTask:
    """The next token of text messages, split without leaks, in windows as long as the model's context.

    It trains by the sampled loss of chapter 4, because scoring the whole vocabulary is more work than the rest of mini,
    and measures the full loss on the first `windows` windows of each held-out part. batches: at most so many per epoch.
    """

    def __init__(self, messages, tokenizer, context_length, windows=16, batches=None):
        self.facts = {"task": "text", "messages": len(messages), "windows": windows, "batches": batches}
        self.messages, self.tokenizer, self.context_length = messages, tokenizer, context_length
        self.windows, self.batches = windows, batches
        self.data = cache(self.data)

    def data(self, seed):
        """Batches of two windows of a seed's training messages; its validation and test messages as token ids."""
        training, *held_out = (encode_documents(split["Text"].tolist(), self.tokenizer)
                               for split in split_without_leaks(self.messages, seed=seed))
        return TextWindows(training, self.context_length, 2, seed, self.batches), *held_out

    def prepare(self, model, seed):
        """Return the loss to train by, which draws its tokens from the seed; the model stays as it is."""
        device = model.tok_emb.weight.device
        unigram = shares(self.data(seed)[0].tokens, model.config.vocab_size).to(device)
        generator = torch.Generator(device).manual_seed(seed)
        return lambda model, ids: sampled_softmax_loss(model, ids, unigram, samples=1024, generator=generator)

    def measure(self, model, ids):
        """The loss, nats per token."""
        return {"loss": text_losses(model, {"text": ids}, self.windows)["text"]}
