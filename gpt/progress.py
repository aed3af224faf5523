"""What happens between two steps of training: count, look, save, and stop in a way that the run can be taken up again.

Read along: chapters/04_weights.py.
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

from gpt.classify import evaluating


@dataclass
class Progress:
    """How far a run has come, and what it saw on the way."""

    epoch: int = 0                     # epochs that are done
    batch: int = 0                     # batches that are done of the epoch under way
    step: int = 0                      # optimizer steps in all
    seen: int = 0                      # rows in all
    seconds: float = 0.0               # spent in training steps
    seconds_evaluating: float = 0.0    # spent in after_step and after_epoch
    history: list = field(default_factory=list)    # what after_step and after_epoch noted: numbers, text, lists, dicts

    def count(self, batch, seconds):
        """Note that a batch is done."""
        self.batch, self.step = self.batch + 1, self.step + 1
        self.seen += len(batch if torch.is_tensor(batch) else batch[0])
        self.seconds += seconds


def rest_of_epoch(loader, progress):
    """The batches of the epoch under way that are not done yet, in the order that its seed and epoch decide."""
    if not len(loader):
        raise ValueError("the loader has no batch: are there fewer rows than one batch holds, and drop_last is set?")
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(progress.epoch)
    if not progress.batch:
        return iter(loader)
    with torch.random.fork_rng([]):    # starting a DataLoader draws a random number: it did so before the run was saved
        batches = iter(loader)
        for _ in islice(batches, progress.batch):
            pass
    return batches


def stop_if_not_finite(loss, progress, loader):
    """Raises: FloatingPointError with the number of the step, from 1, and the rows, where the loader knows them"""
    if not math.isfinite(loss):
        rows = getattr(loader, "rows", None)
        where = f"rows {rows[progress.batch]}" if rows else f"batch {progress.batch + 1} of epoch {progress.epoch + 1}"
        raise FloatingPointError(f"the loss is {loss} in step {progress.step + 1}, {where}: nothing was updated; "
                                 f"is the learning rate too high?")


def look(hook, progress, model, loader):
    """Call after_step or after_epoch in such a way that training goes on as if nobody had looked.

    Dropout and gradients are off meanwhile, and what it draws from torch's random state and the loader's is put back.
    """
    if hook:
        started, generator = time.perf_counter(), getattr(loader, "generator", None)
        state = generator.get_state() if generator else None
        with evaluating(model), tqdm.external_write_mode():    # it may print, and a progress bar would stand in its way
            hook(progress)
        if generator:
            generator.set_state(state)
        progress.seconds_evaluating += time.perf_counter() - started


def save_or_stop(progress, checkpoint, stop):
    """Save when it is time. Where Ctrl-C asked to stop, save at once, raise KeyboardInterrupt, and say how to go on."""
    how = "nothing was saved"
    if checkpoint:
        checkpoint.save(progress, now=stop)
        how = f"the same command with --resume goes on from {checkpoint.path}"
    if stop:
        raise KeyboardInterrupt(f"stopped after step {progress.step}: {how}")


@contextmanager
def finishing_the_step():
    """Within the block the first Ctrl-C only sets the event that is handed out, to be looked at between two steps.

    A second Ctrl-C breaks off at once. Where Ctrl-C is ignored or means something else than Python's own reaction, it
    stays so; and so it does in a thread, because only the main thread may change what a signal does.
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
