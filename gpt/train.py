"""One training loop, for text and for classes.

Read along: chapters/04_weights.py (text), chapters/05_spam_classifier.py (classes).
"""

import math
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import torch
from tqdm import tqdm

from gpt.classify import calc_accuracy_loader, class_logits, predict_logits, to_device
from gpt.losses import class_loss


@dataclass
class Progress:
    """How far a run has come, and what it saw on the way."""

    epoch: int = 0                     # the epoch under way, the first is 0
    batch: int = 0                     # batches of it that are done
    step: int = 0                      # optimizer steps in all
    seen: int = 0                      # rows in all
    seconds: float = 0.0               # spent in training steps
    seconds_evaluating: float = 0.0    # spent in after_step and after_epoch
    history: list = field(default_factory=list)    # what after_step and after_epoch noted


def train(model, loader, loss_fn, optimizer, epochs, *, device="cpu", schedule=None, clip=None,
          after_step=None, after_epoch=None, checkpoint=None):
    """Go through the loader `epochs` times, one step of the optimizer for each batch.

    Input: loss_fn(model, batch) -> scalar; schedule(step) -> what to multiply each learning rate by; clip, the largest
        norm of all gradients together; after_step(progress), after_epoch(progress), to look at the model and to add to
        progress.history; checkpoint, a Checkpoint that the run is saved to, and goes on from
    Output: Progress
    Raises: FloatingPointError for a loss that is not finite, naming the step and the batch's rows;
        KeyboardInterrupt after Ctrl-C, once the step under way is done and saved
    """
    progress = Progress(**(checkpoint.restore() if checkpoint else {}))
    model.train()
    with finishing_the_step() as stop, progress_bar(progress.step, epochs * len(loader)) as bar:
        for epoch in range(progress.epoch, epochs):
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(epoch)
            for batch in islice(loader, progress.batch, None):
                started = time.perf_counter()
                set_learning_rates(optimizer, schedule, progress.step)
                loss = training_step(model, to_device(batch, device), loss_fn, optimizer, clip)
                if not math.isfinite(loss):
                    raise FloatingPointError(f"the loss is {loss} at step {progress.step}, {batch_rows(loader, progress)}: "
                                             f"nothing was updated; is the learning rate too high?")
                count(progress, batch, time.perf_counter() - started)
                look(progress, after_step)
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                if checkpoint:
                    checkpoint.save(progress, now=stop.is_set())
                if stop.is_set():
                    raise KeyboardInterrupt(f"stopped after step {progress.step}")
            progress.epoch, progress.batch = epoch + 1, 0
            look(progress, after_epoch)
    if checkpoint:
        checkpoint.save(progress, now=True)
    return progress


def training_step(model, batch, loss_fn, optimizer, clip=None):
    """Loss, gradients, one step. A loss that is not finite changes nothing. Output: the loss as a float."""
    loss = loss_fn(model, batch)
    value = loss.item()
    if math.isfinite(value):
        optimizer.zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip)
        optimizer.step()
    return value


def set_learning_rates(optimizer, schedule, step):
    """Each parameter group gets its first learning rate times schedule(step), in place."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * (schedule(step) if schedule else 1.0)


def warmup_then_cosine(warmup, total, last=0.0):
    """A schedule: from 0 to 1 in `warmup` steps, then along half a cosine down to `last` at step `total`."""
    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        fall = min(1.0, (step - warmup) / max(1, total - warmup))
        return last + (1 - last) * (1 + math.cos(math.pi * fall)) / 2
    return factor


def count(progress, batch, seconds):
    """Note in `progress` that a batch is done."""
    progress.batch, progress.step = progress.batch + 1, progress.step + 1
    progress.seen += len(batch if torch.is_tensor(batch) else batch[0])
    progress.seconds += seconds


def look(progress, hook):
    """Call after_step or after_epoch, its time kept apart from the training's."""
    started = time.perf_counter()
    if hook:
        hook(progress)
    progress.seconds_evaluating += time.perf_counter() - started


def batch_rows(loader, progress):
    """Which rows of the data the batch under way holds, in words."""
    rows = getattr(loader, "rows", None)
    return f"rows {rows[progress.batch]}" if rows else f"batch {progress.batch} of epoch {progress.epoch}"


def progress_bar(done, total):
    """A tqdm bar on a terminal, nothing elsewhere."""
    return tqdm(initial=done, total=total, unit="step", disable=None, leave=False)


@contextmanager
def finishing_the_step():
    """Within the block Ctrl-C does not break off a step half done: it sets the event that is handed out.

    A second Ctrl-C breaks off at once. Only the main thread may change what a signal does.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_ctrl_c(number, frame):
        signal.signal(signal.SIGINT, before)
        stop.set()

    before = signal.signal(signal.SIGINT, on_ctrl_c)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def classifier_loss(model, batch):
    """The loss of a batch of messages, (ids, lengths, labels) or the blog's (ids, labels): a scalar, nats a message."""
    return class_loss(class_logits(model, batch), batch[-1])


def calc_loss_loader(data_loader, model, device, num_batches=None):
    """The mean loss of the messages in a loader, nats a message. (A mean of batch means would favour small batches.)"""
    labels, logits = predict_logits(model, data_loader, device, num_batches)
    return class_loss(logits, labels).item()


def train_classifier_simple(model, train_loader, val_loader, optimizer, device, num_epochs, eval_freq, eval_iter):
    """The seed's training function: after the first step and every eval_freq it looks at the losses of eval_iter
    batches, after each epoch at their accuracies.

    Output: train_losses, val_losses (nats a message), train_accs, val_accs (0..1), examples_seen
    """
    losses, accuracies = ([], []), ([], [])

    def after_step(progress):
        if (progress.step - 1) % eval_freq == 0:
            for kept, loader in zip(losses, (train_loader, val_loader)):
                kept.append(calc_loss_loader(loader, model, device, eval_iter))
            print(f"Ep {progress.epoch + 1} (Step {progress.step - 1:06d}): "
                  f"Train loss {losses[0][-1]:.3f}, Val loss {losses[1][-1]:.3f}")

    def after_epoch(progress):
        for kept, loader in zip(accuracies, (train_loader, val_loader)):
            kept.append(calc_accuracy_loader(loader, model, device, eval_iter))
        print(f"Training accuracy: {accuracies[0][-1]:.2%} | Validation accuracy: {accuracies[1][-1]:.2%}")

    progress = train(model, train_loader, classifier_loss, optimizer, num_epochs, device=device,
                     after_step=after_step, after_epoch=after_epoch)
    return *losses, *accuracies, progress.seen
