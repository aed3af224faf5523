"""The ways to make a spam filter that are compared: what of a GPT-2 trains, and for how long, or what is counted.

Read along: chapters/10_believe_the_number.py. The settings are those that chapters/05_spam_classifier.py and
chapters/06_lora_spam.py explain.
"""

from dataclasses import dataclass, replace

import torch

from gpt.baselines import LengthRule, Majority, NaiveBayes
from gpt.classify import swap_head
from gpt.logistic import LogisticRegression
from gpt.lora import replace_linear_with_lora
from gpt.train import warmup_then_cosine

ALPHA, WARMUP = 16, 20
WAYS = ("head", "last block", "everything")    # of training a model plainly: see `let_train`


@dataclass(frozen=True)
class Method:
    """How a classifier is made. With the model, the messages and the seed it decides the result."""

    trains: str                 # what of the model (see `prepare`), or the name of a classifier that counts
    epochs: int = 0             # on a balanced training set; on other messages: gpt.experiment.epochs_for
    rate: float = 0.0           # AdamW's learning rate
    rank: int | None = None
    pretrained: bool = True     # False: from an untrained GPT-2


METHODS = {name: Method(name) for name in ("majority", "length", "naive Bayes", "logistic regression")} | {
    "untrained, everything": Method("everything", 3, 1e-3, pretrained=False),
    "head": Method("head", 30, 1e-3),
    "last block": Method("last block", 3, 1e-3),
    "everything": Method("everything", 3, 1e-3),
    "LoRA, r = 4": Method("LoRA", 3, 5e-4, rank=4),
    "LoRA, r = 16": Method("LoRA", 3, 5e-4, rank=16),
    "the blog's LoRA": Method("the blog's LoRA", 6, 5e-5, rank=16),
}


def method_for(name, model, pretrained=None):
    """The Method of that name for a model. What trains plainly has mini's learning rate on mini, else the book's.

    Input: name, one of METHODS; model, a name; pretrained=False: another that begins untrained
    Raises: ValueError for another name
    """
    if name not in METHODS:
        raise ValueError(f"there is no method {name!r}: there are {', '.join(METHODS)}")
    method = METHODS[name]
    if method.trains in WAYS and model != "mini":
        method = replace(method, rate=5e-5)
    return method if pretrained is None else replace(method, pretrained=pretrained)


def counter(name, tokenizer):
    """A new classifier that counts, with fit, predict and, but for the first two, predict_proba; None for others."""
    made = {"majority": Majority, "length": LengthRule, "naive Bayes": NaiveBayes,
            "logistic regression": lambda: LogisticRegression(tokenizer)}
    return made[name]() if name in made else None


def let_train(model, way):
    """Freeze all of a model but what `way` names, in place; the head always trains.

    Input: way, "head", "last block" (with the final norm, which reads it) or "everything"
    """
    model.requires_grad_(way == "everything")
    parts = [model.out_head]
    if way == "last block":
        parts += [model.trf_blocks[-1], model.final_norm]
    for part in parts:
        part.requires_grad_(True)


def prepare(model, method, n_classes, seed):
    """Make a language model into the classifier that a method trains, in place: swap the head, freeze, add the LoRA.

        head, last block, everything    see `let_train`
        LoRA               on the blocks' linear layers; the head trains plainly
        the blog's LoRA    on every linear layer, unscaled, A drawn larger; the head is drawn and its own weights freeze

    What is drawn comes from the seed; torch's global random state stays as it is.
    """
    generator, blog = torch.Generator().manual_seed(seed), method.trains == "the blog's LoRA"
    with torch.random.fork_rng([]):    # a new head draws from the global state, even where zeros take its place
        torch.default_generator.manual_seed(seed)    # torch.manual_seed would reach the GPUs too
        swap_head(model, n_classes, zero=not blog)
    if blog:
        replace_linear_with_lora(model, method.rank, ALPHA, scale="alpha", init="blog", generator=generator)
        return
    let_train(model, "head" if method.trains == "LoRA" else method.trains)
    if method.trains == "LoRA":
        replace_linear_with_lora(model.trf_blocks, method.rank, ALPHA, generator=generator)


def optimizer_for(model, method):
    """AdamW for all that trains; the blog's has a weight decay of 0.1, the others none."""
    decay = 0.1 if method.trains == "the blog's LoRA" else 0.0
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], method.rate, weight_decay=decay,
                             fused=True)


def schedule_for(method, steps):
    """Warm up in 20 steps, or a fifth of few, then fall along a cosine; the blog's rate stays as it is."""
    return None if method.trains == "the blog's LoRA" else warmup_then_cosine(min(WARMUP, steps // 5), steps)
