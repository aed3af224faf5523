"""The methods that make a spam filter, the three tests that they take, and one run of one method.

A method says which part of a GPT-2 trains, and for how long, or which classifier counts; the settings are those that
chapters/05_spam_classifier.py and chapters/06_lora_spam.py explain. The tests are the blog's, a balanced one without
leaks, and one as unequal as the file is. Splits are three DataFrames, train, validation, test. Their column Row says
which row of the file a message is, so that two predictions for the same message can be compared.

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
from gpt.cost.precision import TYPES, computing, float32_by_onednn, hold, loss_scaler
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

ALPHA = 16
WARMUP = 20    # steps


@dataclass(frozen=True)
class Method:
    """How a classifier is made. With the model, the messages and the seed it decides the result."""

    trains: str                 # which part of the model (see `prepare`), or the name of a classifier that counts
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
    """The Method of that name for a model. A plain way (`let_train`) has mini's learning rate on mini, else the book's.

    Input: name, one of METHODS; model, a name; pretrained=False: the method begins with untrained weights
    Raises: ValueError for another name
    """
    if name not in METHODS:
        raise ValueError(f"there is no method {name!r}: there are {', '.join(METHODS)}")
    method = METHODS[name]
    if method.trains in ("head", "last block", "everything") and model != "mini":
        method = replace(method, rate=5e-5)
    return method if pretrained is None else replace(method, pretrained=pretrained)


def counter(name, tokenizer):
    """A new classifier that counts, with fit, predict and, but for the first two, predict_proba; None for others."""
    if name == "logistic regression":
        return LogisticRegression(tokenizer)
    kinds = {"majority": Majority, "length": LengthRule, "naive Bayes": NaiveBayes}
    return kinds[name]() if name in kinds else None


def prepare(model, method, n_classes, seed):
    """Make a language model into the classifier that a method trains, in place: swap the head, freeze, add the LoRA.

        head, last block, everything    see `let_train`
        LoRA               on the blocks' linear layers; the head trains plainly
        the blog's LoRA    on every linear layer, unscaled, A drawn larger; the head is drawn and its own weights freeze

    All random values come from the seed; torch's global random state stays as it is.
    """
    generator = torch.Generator().manual_seed(seed)
    blog = method.trains == "the blog's LoRA"
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
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, method.rate, weight_decay=decay, fused=True)


def schedule_for(method, steps):
    """20 steps of warm-up, or a fifth of the steps where they are few, then a cosine; the blog's rate is constant."""
    return None if method.trains == "the blog's LoRA" else warmup_then_cosine(min(WARMUP, steps // 5), steps)


# ---- Tests -----------------------------------------------------------------------------------------------------------

CONDITIONS = ("blog", "balanced", "natural")


def splits_of(condition, path, seed):
    """The training, validation and test messages of a condition, drawn with a seed.

        blog        read, balanced and cut as the blog does; its own split has the seed 123
        balanced    chapter 6's default: every message read, 747 + 747, no two splits share one, give or take digits
        natural     the balanced splits, and the 4,080 ham that balancing left out: see `with_the_rest`

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

    A message whose near-copy (`normalised`) is in a split joins that split. The others are split by
    `split_without_leaks`, 70/10/20. So there are still no leaks, and a model that was trained on the smaller training
    split has not seen the messages of the larger test split either.

    Input: messages and the splits, DataFrames with the columns Label, Text and Row; seed, for the random split
    Output: as many new ones, their rows numbered from 0: a split's own messages, those that join it, those drawn for it
    """
    home = {normalised(text): i for i, split in enumerate(splits) for text in split["Text"]}
    rest = messages[~messages["Row"].isin(pd.concat(splits)["Row"])]
    place = rest["Text"].map(lambda text: home.get(normalised(text), -1))
    drawn = split_without_leaks(rest[place == -1], 0.7, 0.1, seed=seed)
    return tuple(pd.concat([split, rest[place == i], drawn[i]], ignore_index=True) for i, split in enumerate(splits))


def first_of_each(table, n):
    """The first rows of each label, in the table's order: n/2 of each for two labels, all of a label that has fewer.

    So the messages of a smaller n are among those of a larger one.
    """
    labels = table["Label"].unique()
    return table.groupby("Label", sort=False).head(n // len(labels)).reset_index(drop=True)


def near_copies(train, test):
    """The test messages that have the same letters as a training message, beside that message.

    Output: a DataFrame, a row for each: test (the text), training (the first such text), exact (are they equal?)
    """
    seen = {}
    for text in train["Text"]:
        seen.setdefault(normalised(text), []).append(text)
    rows = []
    for text in test["Text"]:
        same_letters = seen.get(normalised(text), [])
        if same_letters:
            rows.append((text, same_letters[0], text in same_letters))
    return pd.DataFrame(rows, columns=["test", "training", "exact"])


# ---- One run: messages in; P(spam) of each message and the cost out --------------------------------------------------

BATCH_SIZE = 8
CONTEXT = 256    # what mini reads, and so every model: of the 5,574 messages one has 257 tokens, and loses the last


def run_filter(settings, folder, device):
    """Train as the settings say, then classify every message that was held out.

    What trains on balanced or natural messages classifies the natural validation and test messages, of which the
    balanced ones are the first `n_balanced`. A run that was stopped goes on from the checkpoint in `folder`.

    Input: settings, what `gpt.experiments.comparison.settings_for` makes; folder, for the checkpoint and, where a LoRA
        was trained, adapter.safetensors; device, a name
    Output: a dict: n_train, train_accuracy, seconds_training, seconds_evaluating, trainable_parameters,
        total_parameters; for validation and test {"rows": rows of the file, "labels", "spam": P(spam), "n_balanced"}
    """
    if settings["model"] == "mini":    # one core each: see gpt.experiments.comparison.make_all
        torch.set_num_threads(1)
    condition = settings["condition"]
    whole, first = ("blog", "blog") if condition == "blog" else ("natural", "balanced")
    splits = {name: splits_of(name, fetch("sms"), settings["seed"]) for name in {condition, whole, first}}
    training = splits[condition][0]
    if settings["n_train"]:
        training = first_of_each(training, settings["n_train"])
    method = Method(**settings["method"])
    weights = class_weights(label_ids(training), 2) if condition == "natural" else None
    count = counter(method.trains, gpt2_tokenizer())
    if count:
        facts, spam_of = fit_counter(count, training, weights)
    else:
        facts, spam_of = fit_model(settings, method, training, weights, Path(folder), device)
    held_out = splits[whole][1:]
    started = time.perf_counter()
    known, *spam = [spam_of(table) for table in (training, *held_out)]
    facts["seconds_evaluating"] = time.perf_counter() - started
    for name, table, probabilities, balanced in zip(("validation", "test"), held_out, spam, splits[first][1:]):
        facts[name] = {"rows": table["Row"].tolist(), "labels": label_ids(table).tolist(), "spam": probabilities,
                       "n_balanced": len(balanced)}
    correct = sum((p >= 0.5) == label for p, label in zip(known, label_ids(training).tolist()))
    return dict(n_train=len(training), train_accuracy=correct / len(training), **facts)


def fit_counter(model, training, weights):
    """Fit a classifier that counts. One without probabilities (majority, length) is taken as certain: 0 or 1.

    Output: facts, a dict of parameters and seconds; spam_of, a function: table -> P(spam) of its messages, a list
    """
    options = {}
    if isinstance(model, LogisticRegression):    # the others take no weights
        options["weights"] = weights
        torch.optim.SGD([torch.zeros(1)], 1.0)    # a process's first optimizer makes torch import much: not timed
    started = time.perf_counter()
    model.fit(message_texts(training), label_ids(training).tolist(), **options)
    seconds = time.perf_counter() - started

    def spam_of(table):
        if hasattr(model, "predict_proba"):
            return [row[1] for row in model.predict_proba(message_texts(table))]
        return [float(label) for label in model.predict(message_texts(table))]

    n = model.parameters
    return dict(trainable_parameters=n, total_parameters=n, seconds_training=seconds), spam_of


def fit_model(settings, method, training, weights, folder, device):
    """Train a GPT-2 as a method says, by class_loss with `weights` where they are given. Output: as `fit_counter`."""
    name, seed = settings["model"], settings["seed"]
    tokenizer, device = gpt2_tokenizer(), torch.device(device)
    model = load_gpt2(name) if method.pretrained else GPTModel(GPT2_SIZES[name], torch.Generator().manual_seed(seed))
    prepare(model, method, 2, seed)
    model.to(device)
    if name != "mini":
        float32_by_onednn()
    if method.rank:
        hold(model, TYPES[settings.get("precision", "float32")])
    pad_to, loader = None, BatchesByLength(training, tokenizer, BATCH_SIZE, CONTEXT, seed)
    if method.trains == "the blog's LoRA":
        messages = SpamDataset(training, tokenizer)
        pad_to, loader = messages.max_length, SeededLoader(messages, BATCH_SIZE, seed)
    seconds = fit_prepared(model, loader, method, settings, weights, folder, device)
    if method.rank:
        base = name if method.pretrained else f"{name}, untrained (seed {seed})"
        save_adapter(model, folder / "adapter.safetensors", base=base, labels=list(LABELS), pad_to=pad_to)
    trainable, total = count_parameters(model)
    facts = dict(trainable_parameters=trainable, total_parameters=total, seconds_training=seconds)
    return facts, lambda table: spam_probabilities(model, table, tokenizer, device, pad_to)


def fit_prepared(model, loader, method, settings, weights, folder, device):
    """Train a prepared model, in place; what the frozen blocks compute is computed once.

    Output: seconds, of the training steps and of the frozen blocks
    """
    started = time.perf_counter()
    net, first = model, frozen_blocks(model)
    if first:
        net, loader = Tail(model, first), CachedBatches(loader, model, first)
        for _ in loader:    # keeps what the frozen blocks compute
            pass
    frozen = time.perf_counter() - started
    optimizer = optimizer_for(net, method)
    if weights is not None:
        weights = weights.to(device)
    dtype = TYPES[settings.get("precision", "float32")]
    scaler = loss_scaler(dtype, device)
    file = folder / "checkpoint.pt"
    checkpoint = Checkpoint(file, net, optimizer, settings, scaler=scaler, resume=file.exists())

    @computing(torch.float32 if method.rank else dtype, device)    # what is held in a type is multiplied in it anyway
    def loss_fn(net, batch):
        return class_loss(class_logits(net, *batch[:-1]), batch[-1], weights)

    progress = train(net, loader, loss_fn, optimizer, settings["epochs"], device=device, scaler=scaler,
                     schedule=schedule_for(method, settings["epochs"] * len(loader)), checkpoint=checkpoint)
    model.eval()
    return frozen + progress.seconds


def spam_probabilities(model, table, tokenizer, device, pad_to=None):
    """P(spam) of each message of a table, in its order; pad_to: see `gpt.classify.classify`."""
    if pad_to:
        loader, order = DataLoader(SpamDataset(table, tokenizer, pad_to), BATCH_SIZE), range(len(table))
    else:
        loader = BatchesByLength(table, tokenizer, None, CONTEXT)
        order = [row for rows in loader.rows for row in rows]
    _, logits = predict_logits(model, loader, device)                                 # (N, K)
    spam = dict(zip(order, logits.softmax(dim=-1)[:, 1].tolist()))
    return [spam[row] for row in range(len(table))]
