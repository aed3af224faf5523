"""One training loop, for text and for classes.

Read along: chapters/04_weights.py (text), chapters/05_spam_classifier.py (classes), chapters/07_lora_writer.py.
"""

import math
import time

import torch
from tqdm import tqdm

from gpt.classify import calc_accuracy_loader, class_logits, predict_logits, to_device
from gpt.losses import class_loss
from gpt.progress import Progress, finishing_the_step, look, rest_of_epoch, save_or_stop, stop_if_not_finite


def train(model, loader, loss_fn, optimizer, epochs, *, device="cpu", schedule=None, clip=None,
          after_step=None, after_epoch=None, checkpoint=None, step=None):
    """Go through the loader `epochs` times, one step of the optimizer for each batch. The model stays in training mode.

    Input: loss_fn(model, batch) -> scalar; schedule(steps done) -> what to multiply each learning rate by; clip, the
        largest norm of all gradients together; after_step(progress), after_epoch(progress), to look at the model and to
        add to progress.history; checkpoint, a Checkpoint that the run is saved to, and goes on from; step, what to do
        with a batch: None for `training_step`, or a function that takes the same and returns the loss
    Output: Progress
    Raises: FloatingPointError for a loss that is not finite, naming the step and the batch's rows;
        KeyboardInterrupt after Ctrl-C, once the step under way is done, and saved if there is a checkpoint
    """
    progress = checkpoint.restore(Progress()) if checkpoint else Progress()
    model.train()
    bar = tqdm(initial=progress.step, total=epochs * len(loader), unit="step", disable=None, leave=False)
    with finishing_the_step() as stop, bar:
        while progress.epoch < epochs:
            for batch in rest_of_epoch(loader, progress):
                started = time.perf_counter()
                if schedule:
                    set_learning_rates(optimizer, schedule(progress.step))
                loss = (step or training_step)(model, to_device(batch, device), loss_fn, optimizer, clip)
                stop_if_not_finite(loss, progress, loader)
                progress.count(batch, time.perf_counter() - started)
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()
                look(after_step, progress, model, loader)
                save_or_stop(progress, checkpoint, stop.is_set())
            progress.epoch, progress.batch = progress.epoch + 1, 0
            look(after_epoch, progress, model, loader)
            save_or_stop(progress, checkpoint, stop.is_set())
    if checkpoint:
        checkpoint.save(progress, now=True)
    return progress


def training_step(model, batch, loss_fn, optimizer, clip=None):
    """Loss, gradients of this loss alone, one step of the optimizer. A loss that is not finite changes nothing.

    Input: loss_fn(model, batch) -> scalar; clip, the largest norm that all gradients of the optimizer's parameters
        together may have, or None: longer ones are shortened, in proportion
    Output: the loss, from before the step, as a float
    """
    loss = loss_fn(model, batch)
    value = loss.item()
    if math.isfinite(value):
        optimizer.zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip)
        optimizer.step()
    return value


def set_learning_rates(optimizer, factor):
    """Each parameter group gets its first learning rate times `factor`, in place."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def warmup_then_cosine(warmup, total, last=0.0):
    """A schedule: up to 1 in `warmup` steps, then along half a cosine down to `last`, which step `total` would get.

        (step + 1) / warmup                        while step < warmup: the first step, step 0, is not wasted
        last + (1 - last) (1 + cos(pi f)) / 2      then, with f = (step - warmup) / max(1, total - warmup), at most 1

    Output: a function, from how many steps are done (0 before the first) to the factor
    """
    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        fall = min(1.0, (step - warmup) / max(1, total - warmup))
        return last + (1 - last) * (1 + math.cos(math.pi * fall)) / 2
    return factor


def warmup_then_linear(warmup, total):
    """A schedule: up to 1 in `warmup` steps, then along a straight line down to 0, which step `total` would get.

        (step + 1) / warmup                                        while step < warmup
        1 - min(1, (step - warmup) / max(1, total - warmup))       then

    Output: a function, from how many steps are done (0 before the first) to the factor
    """
    def factor(step):
        if step < warmup:
            return (1 + step) / warmup
        return 1 - min(1.0, (step - warmup) / max(1, total - warmup))
    return factor


def classifier_loss(model, batch):
    """The loss of a batch of messages, (ids, lengths, labels) or the blog's (ids, labels): a scalar, nats a message."""
    return class_loss(class_logits(model, batch), batch[-1])


def calc_loss_loader(data_loader, model, device, num_batches=None):
    """The mean loss of the messages in a loader, nats a message. (A mean of batch means would favour small batches.)"""
    labels, logits = predict_logits(model, data_loader, device, num_batches)
    return class_loss(logits, labels).item()


def train_classifier_simple(model, train_loader, val_loader, optimizer, device, num_epochs, eval_freq, eval_iter):
    """The blog's training function: after the first step and every eval_freq it looks at the losses of eval_iter
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
