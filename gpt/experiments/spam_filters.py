"""The ways to make a spam filter that are compared, the three tests that they take, and one run of one of them.

A method says what of a GPT-2 trains, and for how long, or what is counted; the settings are those that
chapters/05_spam_classifier.py and chapters/06_lora_spam.py explain. The tests are the blog's, a balanced one without
leaks, and one as unequal as the file is. Splits are three DataFrames, train, validation, test, whose column Row says
which row of the file a message is: what two classifiers answered to the same message can then be compared.

Read along: chapters/10_believe_the_number.py.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import DataLoader

from gpt.adapters import save_adapter
from gpt.batches import LABELS, BatchesByLength, SeededLoader, label_ids, message_texts
from gpt.checkpoint import Checkpoint
from gpt.classify import class_logits, let_train, predict_logits, swap_head
from gpt.config import GPT2_SIZES
from gpt.cost.frozen_cache import CachedBatches, Tail, frozen_blocks
from gpt.download import fetch
from gpt.evaluate.baselines import LengthRule, LogisticRegression, Majority, NaiveBayes
from gpt.lora import count_parameters, replace_linear_with_lora
from gpt.losses import class_loss, class_weights
from gpt.model import GPTModel
from gpt.spam import SpamDataset, create_balanced_dataset, normalised, random_split, read_sms, split_without_leaks
from gpt.tokenizer import gpt2_tokenizer
from gpt.train import train, warmup_then_cosine
from gpt.weights import load_gpt2

# ---- Methods ---------------------------------------------------------------------------------------------------------

ALPHA, WARMUP = 16, 20
WAYS = ("head", "last block", "everything")    # of training a model plainly: see `let_train`


@dataclass(frozen=True)
class Method:
    """How a classifier is made. With the model, the messages and the seed it decides the result."""

    trains: str                 # what of the model (see `prepare`), or the name of a classifier that counts
    epochs: int = 0             # on a balanced training set; on other messages: gpt.experiments.comparison.epochs_for
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


# ---- Tests -----------------------------------------------------------------------------------------------------------

CONDITIONS = ("blog", "balanced", "natural")


def splits_of(condition, path, seed):
    """The training, validation and test messages of a condition, drawn by a seed.

        blog        read, balanced and cut as the blog does; its own split has the seed 123
        balanced    chapter 6's default: every message read, 747 + 747, no two splits share one, give or take digits
        natural     the balanced splits, and with them the 4,080 ham that balancing left out: see `with_the_rest`

    A seed's balanced messages are the first rows of its natural splits.

    Input: path of the SMS file
    Raises: ValueError for another condition
    """
    if condition not in CONDITIONS:
        raise ValueError(f"there is no condition {condition!r}: there are {', '.join(CONDITIONS)}")
    messages = read_sms(path, blog=condition == "blog")
    messages = messages.assign(Row=range(len(messages)))
    balanced = create_balanced_dataset(messages, random_state=seed)
    if condition == "blog":
        return tuple(split.reset_index(drop=True) for split in random_split(balanced, 0.7, 0.1, random_state=seed))
    splits = split_without_leaks(balanced, 0.7, 0.1, seed=seed)
    return splits if condition == "balanced" else with_the_rest(messages, splits, seed)


def with_the_rest(messages, splits, seed):
    """The splits, each followed by its part of the messages that none of them has.

    A message whose near-copy (`normalised`) is in a split joins it; the others are split as `split_without_leaks` does,
    70/10/20. So there are still no leaks, and a test on the larger split asks about messages that a model which was
    trained on the smaller one has not seen either.

    Input: messages and the splits, DataFrames with the columns Label, Text and Row; seed, of the drawing
    Output: as many new ones, their rows numbered from 0: a split's own messages, those that join it, those drawn for it
    """
    home = {normalised(text): i for i, split in enumerate(splits) for text in split["Text"]}
    rest = messages[~messages["Row"].isin(pd.concat(splits)["Row"])]
    place = rest["Text"].map(lambda text: home.get(normalised(text), -1))
    drawn = split_without_leaks(rest[place == -1], 0.7, 0.1, seed=seed)
    return tuple(pd.concat([split, rest[place == i], drawn[i]], ignore_index=True) for i, split in enumerate(splits))


def first_of_each(table, n):
    """The first n rows as far as each label gets its share: n/2 of either for two labels, in the table's order.

    So the messages of a smaller n are among those of a larger one. Of a label that has too few, all.
    """
    labels = table["Label"].unique()
    return table.groupby("Label", sort=False).head(n // len(labels)).reset_index(drop=True)


def near_copies(train, test):
    """The test messages whose letters a training message has too, beside that message.

    Output: a DataFrame, a row for each: test (the text), training (the first such text), exact (are they equal?)
    """
    seen = {}
    for text in train["Text"]:
        seen.setdefault(normalised(text), []).append(text)
    rows = [(text, seen[key][0], text in seen[key]) for text in test["Text"] if (key := normalised(text)) in seen]
    return pd.DataFrame(rows, columns=["test", "training", "exact"])


# ---- One run: messages in; out, what the filter said to each message, and what it cost -------------------------------

BATCH_SIZE = 8
CONTEXT = 256    # what mini reads, and so every model: of the 5,574 messages one has 257 tokens, and loses the last


def run_filter(settings, folder, device):
    """Train as the settings say and answer every message that is kept aside.

    Whatever trains on the balanced or the natural messages answers the natural validation and test messages, of which
    the balanced ones are the first `n_balanced`. A run that was stopped goes on from the checkpoint in `folder`.

    Input: settings, what `gpt.experiments.comparison.settings_for` makes; folder, for the checkpoint and, where a LoRA
        was trained, adapter.safetensors; device, a name
    Output: a dict: n_train, train_accuracy, seconds_training, seconds_evaluating, trainable_parameters,
        total_parameters; for validation and test {"rows": rows of the file, "labels", "spam": P(spam), "n_balanced"}
    """
    if settings["model"] == "mini":    # one core each: see gpt.experiments.comparison.run_at_once
        torch.set_num_threads(1)
    condition, seed, path = settings["condition"], settings["seed"], fetch("sms")
    whole, first = ("blog", "blog") if condition == "blog" else ("natural", "balanced")
    training, held_out = splits_of(condition, path, seed)[0], splits_of(whole, path, seed)[1:]
    n_balanced = [len(split) for split in splits_of(first, path, seed)[1:]]
    if settings["n_train"]:
        training = first_of_each(training, settings["n_train"])
    method = Method(**settings["method"])
    weights = class_weights(label_ids(training), 2) if condition == "natural" else None
    count = counter(method.trains, gpt2_tokenizer())
    if count:
        facts, (known, *spam) = count_words(count, training, held_out, weights)
    else:
        facts, (known, *spam) = train_model(settings, method, training, held_out, weights, Path(folder), device)
    kept = {name: {"rows": table["Row"].tolist(), "labels": label_ids(table).tolist(), "spam": said, "n_balanced": n}
            for name, table, said, n in zip(("validation", "test"), held_out, spam, n_balanced)}
    correct = sum((p >= 0.5) == label for p, label in zip(known, label_ids(training).tolist()))
    return dict(n_train=len(training), train_accuracy=correct / len(training), **facts, **kept)


def count_words(model, training, held_out, weights):
    """Fit a classifier that counts. One without probabilities (majority, length) is taken as sure: 0 or 1.

    Output: facts; P(spam) of the messages of training and of each table of held_out, lists
    """
    options = {"weights": weights} if isinstance(model, LogisticRegression) else {}    # the others take none
    if options:    # the first optimizer of a process makes torch import much: not timed
        torch.optim.SGD([torch.zeros(1)], 1.0)
    clock = [time.perf_counter()]
    model.fit(message_texts(training), label_ids(training).tolist(), **options)
    clock.append(time.perf_counter())
    spam = [[row[1] for row in model.predict_proba(texts)] if hasattr(model, "predict_proba") else
            list(map(float, model.predict(texts))) for texts in map(message_texts, (training, *held_out))]
    return dict(trainable_parameters=model.parameters, total_parameters=model.parameters,
                seconds_training=clock[1] - clock[0], seconds_evaluating=time.perf_counter() - clock[1]), spam


def train_model(settings, method, training, held_out, weights, folder, device):
    """Train a GPT-2 as a method says; class_loss with `weights` where they are given. Output: as `count_words`."""
    name, seed, tokenizer, device = settings["model"], settings["seed"], gpt2_tokenizer(), torch.device(device)
    model = load_gpt2(name) if method.pretrained else GPTModel(GPT2_SIZES[name], torch.Generator().manual_seed(seed))
    prepare(model, method, 2, seed)
    model.to(device)
    pad_to, loader = None, BatchesByLength(training, tokenizer, BATCH_SIZE, CONTEXT, seed)
    if method.trains == "the blog's LoRA":
        messages = SpamDataset(training, tokenizer)
        pad_to, loader = messages.max_length, SeededLoader(messages, BATCH_SIZE, seed)
    seconds = fit_prepared(model, loader, method, settings, weights, folder, device)
    started = time.perf_counter()
    spam = [spam_probabilities(model, table, tokenizer, device, pad_to) for table in (training, *held_out)]
    if method.rank:
        base = name if method.pretrained else f"{name}, untrained (seed {seed})"
        save_adapter(model, folder / "adapter.safetensors", base=base, labels=list(LABELS), pad_to=pad_to)
    trainable, total = count_parameters(model)
    return dict(trainable_parameters=trainable, total_parameters=total, seconds_training=seconds,
                seconds_evaluating=time.perf_counter() - started), spam


def fit_prepared(model, loader, method, settings, weights, folder, device):
    """Train a prepared model, in place; what frozen blocks answer is computed once.

    Output: seconds, of the training steps and of the frozen blocks
    """
    net, first, started = model, frozen_blocks(model), time.perf_counter()
    if first:
        net, loader = Tail(model, first), CachedBatches(loader, model, first)
        for _ in loader:    # keeps what the frozen blocks answer
            pass
    frozen = time.perf_counter() - started
    optimizer, steps = optimizer_for(net, method), settings["epochs"] * len(loader)
    if weights is not None:
        weights = weights.to(device)
    checkpoint = Checkpoint(folder / "checkpoint.pt", net, optimizer, settings, resume=True)
    progress = train(net, loader, lambda net, batch: class_loss(class_logits(net, *batch[:-1]), batch[-1], weights),
                     optimizer, settings["epochs"], device=device, schedule=schedule_for(method, steps),
                     checkpoint=checkpoint)
    model.eval()
    return frozen + progress.seconds


def spam_probabilities(model, table, tokenizer, device, pad_to=None):
    """P(spam) of each message of a table, in its order; pad_to: see `gpt.classify.classify`."""
    if pad_to:
        loader, order = DataLoader(SpamDataset(table, tokenizer, pad_to), BATCH_SIZE), range(len(table))
    else:
        loader = BatchesByLength(table, tokenizer, BATCH_SIZE, CONTEXT)
        order = [row for rows in loader.rows for row in rows]
    _, logits = predict_logits(model, loader, device)                                 # (N, K)
    spam = dict(zip(order, logits.softmax(dim=-1)[:, 1].tolist()))
    return [spam[row] for row in range(len(table))]
