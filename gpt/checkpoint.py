"""Save a training run so that it can be killed at any moment and go on as if nothing had happened.

Read along: chapters/04_weights.py.
"""

import pickle
import shutil
import time
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import torch

from gpt.storage.files import BadFile, written_whole


class Checkpoint:
    """One file that holds all that training changes: the trainable parameters, the optimizer's memory, the states of
    the random generators, the counters and the history. Frozen parameters are not in it, because the base has them.
    Nor is the loader, so its order must depend on its seed and the epoch alone (`set_epoch`).

    Input: path; identity, a dict of the settings that make this run this run (recipe, seed, ...), compared on resuming;
        generators, the torch.Generators that the run draws from; scaler, float16's torch.amp.GradScaler; resume,
        whether to go on from the file if it is there; every, the seconds between two saves, which is what a kill can
        cost
    """

    def __init__(self, path, model, optimizer, identity, *, generators=(), scaler=None, resume=False, every=30.0):
        self.path = Path(path)
        self.model = model
        self.optimizer = optimizer
        self.identity = {key: repr(value) for key, value in identity.items()}    # any value, as text
        self.generators = generators
        self.scaler = scaler
        self.resume = resume
        self.every = every
        self.saved_at = time.monotonic()

    def is_due(self, now=False):
        """Whether `save` would write: `every` seconds have passed since it did, or it is asked for `now`."""
        return now or time.monotonic() - self.saved_at >= self.every

    def save(self, progress, now=False):
        """Write the run's state, whole or not at all, if it `is_due`.

        Raises: what `check_finite` does; ValueError for a history that could not be read back; OSError
        """
        if not self.is_due(now):
            return
        check_finite(self.model, progress.step)
        random = {"cpu": torch.get_rng_state(),
                  "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                  "own": [generator.get_state() for generator in self.generators]}
        state = {"identity": self.identity, "progress": as_python(asdict(progress)), "random": random,
                 "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict() if self.scaler else {},
                 "parameters": {name: p.detach() for name, p in self._trainable().items()}}
        with written_whole(self.path) as temporary:
            with open(temporary, "wb") as file:    # torch cannot open every name that Python can (LC_ALL=C)
                torch.save(state, file)
            try:
                with open(temporary, "rb") as file:    # what `restore` would refuse never becomes the file
                    torch.load(file, map_location="meta", weights_only=True)
            except pickle.UnpicklingError as error:
                raise ValueError(f"{self.path} was not written: progress.history, or a setting of the optimizer, holds "
                                 f"something else than numbers, texts, lists and dicts") from error
        self.saved_at = time.monotonic()

    def restore(self, progress):
        """Put the saved run back into model, optimizer and generators, in place; bit for bit on a CPU.

        A run of fewer epochs goes on too; its next steps follow the longer run's schedule.

        Output: the progress that was saved, or the `progress` given where there is nothing to go on from
        Raises: ValueError for a file that is damaged, of another run, or of a model that trains other parameters;
            OSError where a folder is in the file's place, or the disk has no room for the file
        """
        self._check_place()
        if not self.resume:
            return progress
        if not self.path.exists():
            print(f"nothing to resume: there is no {self.path}, so this run begins at its first step")
            return progress
        state = self._read()
        self._check(state["identity"], state["parameters"])
        self._put_back(state)
        return replace(progress, **state["progress"])

    def _check_place(self):
        """Find out before training, not after an hour of it, if a folder or a full disk is in the way of `save`."""
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder, but the checkpoint needs this name: move it away")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        size = 3 * sum(p.nbytes for p in self._trainable().values())    # AdamW remembers two numbers for each
        wanted = size if self.path.exists() else 2 * size    # the old one is there until the new one is whole
        free = shutil.disk_usage(self.path.parent).free
        if free < wanted:
            raise OSError(f"{self.path} will have some {size:,} bytes, and {wanted:,} must be free to write it whole; "
                          f"the disk has {free:,}: make room, or use another disk (for chapters: GPT_DATA_DIR)")

    def _read(self):
        """What `save` wrote. Reading a pickle can call any function; weights_only=True admits plain values only."""
        try:
            with zipfile.ZipFile(self.path) as file:
                damaged = file.testzip()    # torch.load compares no checksums
            if damaged:
                raise ValueError(f"{damaged} has another checksum")
            with open(self.path, "rb") as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
            state.setdefault("scaler", {})    # files from before November 2026 have none
            return {key: state[key] for key in ("identity", "progress", "optimizer", "parameters", "random", "scaler")}
        except (OSError, MemoryError):      # the file may be whole
            raise
        except Exception as error:          # damage shows in a dozen ways
            why = f"{self.path} is not a whole checkpoint ({error!r:.100}): start without --resume"
            raise BadFile(why) from error

    def _check(self, identity, parameters):
        for key in sorted(self.identity.keys() | identity.keys()):
            here, there = self.identity.get(key, "not given"), identity.get(key, "not given")
            longer = key == "epochs" and here.isdecimal() and there.isdecimal() and int(there) < int(here)
            if here != there and not longer:
                raise BadFile(f"{self.path} is of another run: its {key} is {there}, here it is {here}; "
                              f"take the same options, or start without --resume")
        here = {name: (tuple(p.shape), p.dtype) for name, p in self._trainable().items()}
        there = {name: (tuple(p.shape), p.dtype) for name, p in parameters.items()}
        if here != there:
            name = min(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
            raise BadFile(f"{self.path} trains {name} as {there.get(name)}, this model as {here.get(name)}: was "
                          f"the code changed in between? Then start without --resume")

    @torch.no_grad()
    def _put_back(self, state):
        for name, parameter in self._trainable().items():
            parameter.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"]["cpu"])
        if torch.cuda.is_available() and state["random"]["cuda"]:
            torch.cuda.set_rng_state_all(state["random"]["cuda"])
        for generator, saved in zip(self.generators, state["random"]["own"], strict=True):
            generator.set_state(saved)

    def _trainable(self):
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}


def check_finite(model, step):
    """Raise FloatingPointError, with the name, if a parameter that trains is not finite after this many steps."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not parameter.isfinite().all():
            raise FloatingPointError(f"{name} holds numbers that are not finite after step {step}, which was not "
                                     f"saved: is the learning rate too high?")


def as_python(value):
    """A copy of the value, the numbers of NumPy and torch in it made Python's, however deep in lists and dicts."""
    if isinstance(value, dict):
        return {as_python(key): as_python(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(as_python, value))
    return value.tolist() if hasattr(value, "tolist") else value
