"""One training loop, for text and for classes, that can be stopped at any moment and taken up again.

Read along: chapters/04_weights.py (text), chapters/05_spam_classifier.py (classes), chapters/07_lora_writer.py.
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

from gpt.checkpoint import check_finite
from gpt.classify import calc_accuracy_loader, calc_loss_loader, classifier_loss, to_device
from gpt.model import evaluating


READ_EVERY = 10    # steps of a GPU between two looks at their losses
NOT_SCALING = torch.amp.GradScaler("cpu", enabled=False)    # a scaler that hands everything on as it is


def train(model, loader, loss_fn, optimizer, epochs, *, device="cpu", schedule=None, clip=None, scaler=None,
          after_step=None, after_epoch=None, checkpoint=None, step=None):
    """Go through the loader `epochs` times, one step of the optimizer for each batch. The model stays in training mode.

    Input: loss_fn(model, batch) -> scalar; schedule(steps done) -> the factor of each learning rate; clip, the largest
        norm of all gradients together; scaler, as `training_step` takes it; after_step(progress) and
        after_epoch(progress), to look at the model and to add to progress.history; checkpoint, the Checkpoint that the
        run is saved to and goes on from; step, what to do with a batch: None for `training_step`, or a function that
        takes the same and returns the loss
    Output: Progress
    Raises: FloatingPointError for a loss that is not finite, which names the step and the batch's rows. On a GPU it
        comes after up to READ_EVERY - 1 more steps, because losses are read together. FloatingPointError also for
        weights that a step made NaN or infinite (`check_finite`): they are never saved. ValueError for weights that
        would train in float16. KeyboardInterrupt after Ctrl-C, once the step under way is done, and saved if there is a
        checkpoint
    """
    for name, p in model.named_parameters():
        if p.requires_grad and p.dtype == torch.float16:    # in it AdamW's eps, 1e-8, is 0, and a step may be 0 / 0
            raise ValueError(f"{name} would train in float16, where small steps become 0 or NaN: keep what trains in "
                             f"float32, and only what is frozen in float16 (gpt.cost.precision.hold)")
    progress = checkpoint.restore(Progress()) if checkpoint else Progress()
    device = torch.device(device)
    unread = []    # step, batch and loss of the steps since losses were read last
    model.train()
    bar = tqdm(initial=progress.step, total=epochs * len(loader), unit="step", disable=None, leave=False)
    with finishing_the_step() as stop, bar:
        while progress.epoch < epochs:
            for batch in rest_of_epoch(loader, progress):
                started = time.perf_counter()
                if schedule:
                    set_learning_rates(optimizer, schedule(progress.step))
                loss = (step or training_step)(model, to_device(batch, device), loss_fn, optimizer, clip, scaler)
                unread.append((progress.step, progress.batch, loss))
                if device.type == "cpu" or len(unread) == READ_EVERY or progress.batch + 1 == len(loader):
                    read_losses(unread, progress, model, loader, scaler)
                    bar.set_postfix(loss=f"{progress.losses[-1]:.3f}", refresh=False)
                progress.count(batch, time.perf_counter() - started)
                bar.update()
                run_hook(after_step, progress, model, loader)
                if unread and checkpoint and checkpoint.is_due(stop.is_set()):
                    read_losses(unread, progress, model, loader, scaler)    # a run that went wrong is not saved
                save_or_stop(progress, checkpoint, stop.is_set())
            progress.epoch += 1
            progress.batch = 0
            run_hook(after_epoch, progress, model, loader)
            save_or_stop(progress, checkpoint, stop.is_set())
    check_finite(model, progress.step)
    if checkpoint:
        checkpoint.save(progress, now=True)
    return progress


def training_step(model, batch, loss_fn, optimizer, clip=None, scaler=None):
    """Clear the old gradients, compute the loss and its gradients, and take one step of the optimizer.

    On a CPU a loss that is not finite changes nothing. A GPU's loss is not looked at here, because the program would
    have to wait for it at every step: it is used, and `read_losses` stops the run later.

    Input: loss_fn(model, batch) -> scalar; clip, the largest norm that all gradients of the optimizer's parameters
        together may have (longer ones are shortened in proportion), or None; scaler, a torch.amp.GradScaler, which
        multiplies the loss before the backward pass, divides the gradients after it, and leaves out the step if one of
        them is not finite. float16 needs it, because its small gradients would become 0; the other types do not
    Output: the loss before the step, a scalar without a gradient
    """
    loss = loss_fn(model, batch)
    if loss.device.type == "cpu" and not loss.isfinite():
        return loss.detach()
    optimizer.zero_grad()
    scaler = scaler or NOT_SCALING
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    if clip:
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip)
    scaler.step(optimizer)
    scaler.update()    # halves the scale after a step that was left out, doubles it after many that were not
    return loss.detach()


def set_learning_rates(optimizer, factor):
    """Give each parameter group its first learning rate times `factor`, in place."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def warmup_then_cosine(warmup, total, last=0.0):
    """A schedule that rises to 1 in `warmup` steps and falls along half a cosine to `last`, reached at step `total`.

        (step + 1) / warmup                        while step < warmup: the first step, step 0, is not wasted
        last + (1 - last) (1 + cos(pi f)) / 2      then, with f = (step - warmup) / max(1, total - warmup), at most 1

    Output: a function from the number of steps done (0 before the first) to the factor of the learning rate
    """
    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        fall = min(1.0, (step - warmup) / max(1, total - warmup))
        return last + (1 - last) * (1 + math.cos(math.pi * fall)) / 2
    return factor


def warmup_then_linear(warmup, total):
    """A schedule that rises to 1 in `warmup` steps and falls along a straight line to 0, reached at step `total`.

        (step + 1) / warmup                                        while step < warmup
        1 - min(1, (step - warmup) / max(1, total - warmup))       then

    Output: a function from the number of steps done (0 before the first) to the factor of the learning rate
    """
    def factor(step):
        if step < warmup:
            return (1 + step) / warmup
        return 1 - min(1.0, (step - warmup) / max(1, total - warmup))
    return factor


def parameter_groups(model, weight_decay, decay_lora=True):
    """The parameters that train as AdamW's two groups: matrices are decayed; biases, scales and shifts are not.

    Decay pulls a number towards 0. For a bias, or a scale or shift of LayerNorm, 0 is no simpler than another value.
    For A and B it is the base model, where dW = 0; for W itself it leads away from what pretraining found.
    decay_lora=False leaves A and B alone. (A bias, scale or shift has one axis; A and B have .lora. in their names.)

    Output: two dicts with params, a list, and weight_decay: what is decayed, then what is not, with 0
    """
    plain, decayed = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            vector = p.dim() == 1    # bias, scale or shift
            if vector or ".lora." in name and not decay_lora:
                plain.append(p)
            else:
                decayed.append(p)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def train_classifier_simple(model, train_loader, val_loader, optimizer, device, num_epochs, eval_freq, eval_iter):
    """The blog's training function, which looks at the losses of eval_iter batches after the first step and every
    eval_freq steps, and at their accuracies after each epoch.

    Output: train_losses, val_losses (nats per message), train_accs, val_accs (0..1), examples_seen
    """
    train_losses, val_losses, train_accs, val_accs = [], [], [], []

    def after_step(progress):
        if (progress.step - 1) % eval_freq == 0:
            train_losses.append(calc_loss_loader(train_loader, model, device, eval_iter))
            val_losses.append(calc_loss_loader(val_loader, model, device, eval_iter))
            print(f"Ep {progress.epoch + 1} (Step {progress.step - 1:06d}): "
                  f"Train loss {train_losses[-1]:.3f}, Val loss {val_losses[-1]:.3f}")

    def after_epoch(progress):
        train_accs.append(calc_accuracy_loader(train_loader, model, device, eval_iter))
        val_accs.append(calc_accuracy_loader(val_loader, model, device, eval_iter))
        print(f"Training accuracy: {train_accs[-1]:.2%} | Validation accuracy: {val_accs[-1]:.2%}")

    progress = train(model, train_loader, classifier_loss, optimizer, num_epochs, device=device,
                     after_step=after_step, after_epoch=after_epoch)
    return train_losses, val_losses, train_accs, val_accs, progress.seen


# ---- Between two steps: count, look, save, stop ----------------------------------------------------------------------

@dataclass
class Progress:
    """How far a run has come, and what it saw on the way."""

    epoch: int = 0                     # epochs done
    batch: int = 0                     # batches done in the current epoch
    step: int = 0                      # optimizer steps in all, those that a scaler left out included
    seen: int = 0                      # rows in all
    seconds: float = 0.0               # spent in training steps
    seconds_evaluating: float = 0.0    # spent in after_step and after_epoch
    losses: list = field(default_factory=list)     # of the steps, as far as they have been read (see READ_EVERY)
    history: list = field(default_factory=list)    # what after_step and after_epoch noted: numbers, text, lists, dicts

    def count(self, batch, seconds):
        """Note that a batch is done."""
        self.batch += 1
        self.step += 1
        self.seen += len(batch if torch.is_tensor(batch) else batch[0])
        self.seconds += seconds


def rest_of_epoch(loader, progress):
    """The batches of the current epoch that are not done yet, in the order that its seed and epoch decide."""
    if not len(loader):
        raise ValueError("the loader has no batch: are there fewer rows than one batch holds, and drop_last is set?")
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(progress.epoch)
    if not progress.batch:
        return iter(loader)
    with torch.random.fork_rng([]):    # starting a DataLoader draws a random number, and the saved run has drawn it
        batches = iter(loader)
        for _ in islice(batches, progress.batch):
            pass
    return batches


def read_losses(unread, progress, model, loader, scaler=None):
    """Add the losses of the last steps to progress.losses, and empty the list `unread`.

    Input: unread, a list of triples step, batch, loss, the first two counted from 0, all of one epoch
    Raises: FloatingPointError with the number of the step, from 1, and the rows, where the loader knows them; what
        `check_finite` does, where on a CPU the loss is not finite because the weights are not; FloatingPointError also
        for a scaler whose scale fell below 1: from 65,536 that is 17 halvings, each for a step that was left out
    """
    steps, batches, losses = zip(*unread)
    unread.clear()
    values = torch.stack(losses).tolist()
    for step, batch, loss in zip(steps, batches, values):
        if not math.isfinite(loss):
            if losses[0].device.type == "cpu":    # a GPU has used the loss by now, so the weights tell nothing
                check_finite(model, step)
            rows = getattr(loader, "rows", None)
            where = f"rows {rows[batch]}" if rows else f"batch {batch + 1} of epoch {progress.epoch + 1}"
            updated = "nothing was updated" if losses[0].device.type == "cpu" else "nothing was saved since"
            raise FloatingPointError(f"the loss is {loss} in step {step + 1}, {where}: {updated}; "
                                     f"is the learning rate too high?")
    if scaler and scaler.get_scale() < 1:
        raise FloatingPointError(f"step {steps[-1] + 1}: the gradients are not finite in float16, even at a scale "
                                 f"below 1; try bfloat16 or float32")
    progress.losses += values


def run_hook(hook, progress, model, loader):
    """Call after_step or after_epoch in such a way that training goes on as if nobody had looked.

    Dropout and gradients are off meanwhile, and the random states of torch and of the loader are put back.
    """
    if hook:
        started = time.perf_counter()
        generator = getattr(loader, "generator", None)
        state = generator.get_state() if generator else None
        with evaluating(model), tqdm.external_write_mode():    # it may print, and a progress bar would stand in its way
            hook(progress)
        if generator:
            generator.set_state(state)
        progress.seconds_evaluating += time.perf_counter() - started


def save_or_stop(progress, checkpoint, stop):
    """Save when it is time. After Ctrl-C save at once, and raise a KeyboardInterrupt that says how to go on."""
    how = "nothing was saved"
    if checkpoint:
        checkpoint.save(progress, now=stop)
        how = f"the same command with --resume goes on from {checkpoint.path}"
    if stop:
        raise KeyboardInterrupt(f"stopped after step {progress.step}: {how}")


@contextmanager
def finishing_the_step():
    """Within the block the first Ctrl-C only sets the event that is handed out, to be looked at between two steps.

    A second Ctrl-C breaks off at once. Where Ctrl-C is ignored or has been given another meaning than Python's own,
    nothing is changed; nor is it in a thread, because only the main thread may change what a signal does.
    """
    stop = threading.Event()
    if (threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGINT) is not signal.default_int_handler):
        yield stop
        return

    def on_ctrl_c(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt("broken off inside a step: --resume goes on from the last checkpoint, if any")
        stop.set()

    signal.signal(signal.SIGINT, on_ctrl_c)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
