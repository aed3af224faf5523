"""One run of the comparison of spam filters: messages in; out, what the filter said to each message, and what it cost.

Read along: chapters/10_believe_the_number.py. `run` is called in a process of its own by gpt/experiment.py.
"""

import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from gpt.adapters import save_adapter
from gpt.batches import LABELS, BatchesByLength, SeededLoader, label_ids, message_texts
from gpt.checkpoint import Checkpoint
from gpt.classify import class_logits, predict_logits
from gpt.conditions import first_of_each, splits_of
from gpt.config import GPT2_SIZES
from gpt.download import fetch
from gpt.frozen import CachedBatches, Tail, frozen_blocks
from gpt.logistic import LogisticRegression
from gpt.lora import count_parameters
from gpt.losses import class_loss, class_weights
from gpt.methods import Method, counter, optimizer_for, prepare, schedule_for
from gpt.model import GPTModel
from gpt.spam import SpamDataset
from gpt.tokenizer import gpt2_tokenizer
from gpt.train import train
from gpt.weights import load_gpt2

BATCH_SIZE = 8
CONTEXT = 256    # what mini reads, and so every model: of the 5,574 messages one has 257 tokens, and loses the last


def run(settings, folder, device):
    """Train as the settings say and answer every message that is kept aside.

    Whatever trains on the balanced or the natural messages answers the natural validation and test messages, of which
    the balanced ones are the first `n_balanced`. A run that was stopped goes on from the checkpoint in `folder`.

    Input: settings, what `gpt.experiment.settings_for` makes; folder, for the checkpoint and, where a LoRA was trained,
        adapter.safetensors; device, a name
    Output: a dict: n_train, train_accuracy, seconds_training, seconds_evaluating, trainable_parameters,
        total_parameters; for validation and test {"rows": rows of the file, "labels", "spam": P(spam), "n_balanced"}
    """
    if settings["model"] == "mini":    # one core each: see gpt.experiment.run_at_once
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
    progress = train(net, loader, lambda net, batch: class_loss(class_logits(net, batch), batch[-1], weights),
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
