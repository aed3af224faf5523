"""Many small training runs, each remembered: settings in, losses of messages that were not trained on out.

Read along: chapters/08_lora_inside.py. Source: Hu et al. 2021, sections 7.1 and 7.2, for the questions; Student 1908
for the interval.
"""

import copy
import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from gpt.files import written_whole
from gpt.lora import replace_linear_with_lora
from gpt.train import train, warmup_then_cosine

HEAD_RATE = 5e-4    # learning rate of a new head: chapter 6's, whatever that of A and B is
# 97.5 % of Student's t distribution lie below these, for 1, 2, 3, ... degrees of freedom
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Trial:
    """The settings of one run; with the task and the base model they decide its result."""

    rank: int | None                          # None: no LoRA, everything trains
    targets: tuple[str, ...] | None = None    # last parts of the names of the blocks' linear layers; None: all of them
    alpha: float = 16
    scale: str = "alpha/r"
    learning_rate: float = 5e-4               # of A and B, or, without LoRA, of all but a new head
    epochs: int = 3
    seed: int = 123                           # of all that is luck: the split, the order, A


def inject(model, trial):
    """Give a model's blocks the LoRA of a trial, in place, its A's drawn from the trial's seed. The model."""
    replace_linear_with_lora(model.trf_blocks, trial.rank, trial.alpha, targets=trial.targets, scale=trial.scale,
                             generator=torch.Generator().manual_seed(trial.seed))
    return model


def train_trial(base, task, trial):
    """Train a copy of `base` on a task as a trial says: AdamW without decay, 20 steps of warm-up, then a cosine to 0.

    Output: the model in eval mode, and {"validation": what task.measure says, "test": the same}
    Raises: FloatingPointError for a loss that is not finite: the learning rate is too high
    """
    model, device = copy.deepcopy(base), base.tok_emb.weight.device
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


def remembered(folder, settings, run):
    """What run() returns, or what it returned when it was last called with these settings: nothing is computed twice.

    Each result has a JSON file in `folder`, whose name is made from the settings, in whatever order they come, and that
    holds {"settings": ..., "result": ...}. It is written whole, so an interrupted experiment goes on with the next run.
    The trap: code is no setting. After a change of code that matters delete the folder.

    Input: settings, a dict, and run() -> a dict, both of numbers, text, None, lists and dicts
    """
    text = json.dumps(settings, sort_keys=True)
    path = Path(folder) / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["result"]
    result = run()
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps({"settings": settings, "result": result}, indent=1) + "\n", encoding="utf-8")
    return result


def run_trial(folder, base, base_name, task, trial):
    """The losses of `train_trial`, remembered in a folder; None for a trial whose loss was not finite."""
    def run():
        try:
            return train_trial(base, task, trial)[1]
        except FloatingPointError:
            return None

    return remembered(folder, {"base": base_name, **task.facts, **asdict(trial)}, run)


def over_seeds(folder, base, base_name, task, trial, seeds):
    """The test results of a trial with each of the seeds: {measure: one number a seed}.

    Raises: FloatingPointError that names the settings, where a loss was not finite
    """
    found = [run_trial(folder, base, base_name, task, replace(trial, seed=seed)) for seed in seeds]
    if None in found:
        raise FloatingPointError(f"with seed {seeds[found.index(None)]} the loss of {trial} was not finite: is the "
                                 f"learning rate too high?")
    return {key: [result["test"][key] for result in found] for key in found[0]["test"]}


def mean_interval(values):
    """The mean of a few measurements and the range that holds the true mean with 95 % confidence.

        mean -+ t s / sqrt(n),    s^2 = sum (x - mean)^2 / (n - 1)

    t is larger than the 1.96 of a known s, for s is itself guessed from n values: 4.3 for three of them. It takes the
    values for independent draws from one normal distribution.

    Input: values, 2 to 10 numbers. Output: (mean, low, high)
    Raises: ValueError that says how many values there are, for another number of them
    Source: Student 1908
    """
    n = len(values)
    if not 2 <= n <= len(STUDENT_T) + 1:
        raise ValueError(f"{n} values have no interval here: it takes 2 to {len(STUDENT_T) + 1}")
    mean = sum(values) / n
    spread = math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1))
    reach = STUDENT_T[n - 2] * spread / math.sqrt(n)
    return mean, mean - reach, mean + reach


def beside(values, reference):
    """A mean, how far its interval reaches, both with three digits, and how it compares: "0.097 -+ 0.010 <".

    Compared are the differences, value by value, because two settings with one seed share their luck: < or > where the
    interval of their mean leaves out 0, ~ where it does not, and nothing is known but that the difference is small.

    Input: values, reference: a number for each seed, in one order; the sign is = where they are the same
    Raises: ValueError for two lengths that differ, and what mean_interval raises
    """
    mean, _, high = mean_interval(values)
    _, least, most = mean_interval([a - b for a, b in zip(values, reference, strict=True)])
    sign = "=" if values == reference else "<" if most < 0 else ">" if least > 0 else "~"
    return f"{mean:.3f} -+ {high - mean:.3f} {sign}"
