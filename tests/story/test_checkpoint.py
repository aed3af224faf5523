"""gpt/checkpoint.py and gpt/storage/files.py: runs that are killed, files that are damaged, options that do not fit."""

import errno
import json
import math
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_run import EPOCHS, STEPS, changed, finish, new_run, weights
from torch.utils.data import DataLoader

from gpt.checkpoint import Checkpoint
from gpt.storage.files import written_whole
from gpt.train import Progress, train


class PowerCut(Exception):
    pass


@pytest.fixture
def saved(tmp_path):
    """A run that was saved after its first epoch."""
    run = new_run(tmp_path / "run.pt")
    train(run.model, run.loader, run.loss_fn, run.optimizer, 1, checkpoint=run.checkpoint)
    return run


@pytest.fixture(scope="module")
def undisturbed():
    return finish(new_run())


def cut_after(steps, run):
    """The loss function of a run whose process dies in the middle of a step."""
    done = []

    def loss_fn(model, batch):
        if len(done) == steps:
            raise PowerCut
        done.append(1)
        return run.loss_fn(model, batch)

    return loss_fn


# Going on

@pytest.mark.parametrize("steps", [0, 1, STEPS - 1, STEPS, STEPS + 3, STEPS * EPOCHS - 1])
def test_a_run_that_dies_at_any_step_ends_with_the_same_weights(tmp_path, undisturbed, steps):
    dying = new_run(tmp_path / "run.pt")
    with pytest.raises(PowerCut):
        train(dying.model, dying.loader, cut_after(steps, dying), dying.optimizer, EPOCHS, checkpoint=dying.checkpoint)
    resumed = new_run(tmp_path / "run.pt", resume=True)
    if resumed.checkpoint.path.exists():
        torch.rand(100), torch.rand(7, generator=resumed.generator)    # another process may have drawn other numbers
    done = []
    assert not changed(undisturbed, finish(resumed, after_step=lambda progress: done.append(progress.step))), \
        "the optimizer's memory, a random generator, or the place in the epoch was not saved"
    assert done == list(range(steps + 1, STEPS * EPOCHS + 1)), "it began again, or left out a batch"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forked")
def test_a_process_that_is_killed_at_random_moments_ends_with_the_same_weights(tmp_path):
    script = Path(__file__).with_name("tiny_run.py")
    run = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, encoding="utf-8", check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    result = json.loads(run.stdout)
    assert result["different"] == [] and result["kills"] >= 2, result
    assert result["left"] == [], "a process that is killed while it saves leaves half a file for good"


def test_dying_while_looking_does_not_note_anything_twice(tmp_path):
    def note(run, dies_at=None):
        def hook(progress):
            progress.history.append(("epoch", progress.epoch, progress.step))
            if progress.epoch == dies_at:
                raise PowerCut
        return train(run.model, run.loader, run.loss_fn, run.optimizer, EPOCHS, checkpoint=run.checkpoint,
                     after_step=lambda progress: progress.history.append(("step", progress.step)), after_epoch=hook)

    with pytest.raises(PowerCut):
        note(new_run(tmp_path / "run.pt"), dies_at=2)
    resumed = note(new_run(tmp_path / "run.pt", resume=True))
    whole = note(new_run())
    assert resumed.history == whole.history and (resumed.step, resumed.seen) == (whole.step, whole.seen)
    assert len(resumed.history) == STEPS * EPOCHS + EPOCHS


def test_a_loader_of_torch_in_a_fixed_order_goes_on_too(tmp_path):
    """DataLoader draws a random number when it starts; a resumed run starts it once more than a whole one."""
    def run(steps=None, **options):
        run = new_run(**options)
        run.loader = DataLoader(torch.arange(6 * 9).view(6, 9), batch_size=2)
        loss_fn = run.loss_fn if steps is None else cut_after(steps, run)
        train(run.model, run.loader, loss_fn, run.optimizer, 2, checkpoint=run.checkpoint)
        return weights(run.model)

    with pytest.raises(PowerCut):
        run(steps=4, path=tmp_path / "run.pt")
    assert not changed(run(), run(path=tmp_path / "run.pt", resume=True)), "dropout differs after resuming"


def test_a_finished_run_is_not_trained_again(tmp_path):
    steps, first = [], finish(new_run(tmp_path / "run.pt", every=3600))
    again = finish(new_run(tmp_path / "run.pt", resume=True), after_step=lambda progress: steps.append(progress.step))
    assert not changed(first, again) and not steps, "its end was not saved"


def test_without_resume_a_run_begins_anew(saved, tmp_path):
    steps = []
    finish(new_run(tmp_path / "run.pt"), after_step=lambda progress: steps.append(progress.step))
    assert steps == list(range(1, STEPS * EPOCHS + 1)), "it went on from a file that nobody had asked for"
    assert new_run(tmp_path / "none.pt", resume=True).checkpoint.restore(Progress()) == Progress()


def test_saving_every_so_often_writes_only_when_the_time_has_come(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    checkpoint, writes = new_run(tmp_path / "run.pt", every=30).checkpoint, []
    for seconds in (1, 28, 1, 29, 1, 300):
        now[0] += seconds
        (tmp_path / "run.pt").unlink(missing_ok=True)
        checkpoint.save(Progress())
        writes.append((tmp_path / "run.pt").exists())
    assert writes == [False, False, True, False, True, True]
    (tmp_path / "run.pt").unlink()
    checkpoint.save(Progress(), now=True)
    assert (tmp_path / "run.pt").exists()


def test_a_frozen_parameter_is_not_in_the_file(saved, tmp_path):
    parameters = torch.load(tmp_path / "run.pt", weights_only=True)["parameters"]
    assert set(parameters) == {name for name, p in saved.model.named_parameters() if p.requires_grad}
    assert "pos_emb.weight" not in parameters, "a LoRA run would save all of GPT-2 every 30 seconds"


def test_a_tied_head_is_still_tied_after_resuming(saved, tmp_path):
    resumed = new_run(tmp_path / "run.pt", resume=True)
    resumed.checkpoint.restore(Progress())
    assert resumed.model.out_head.weight is resumed.model.tok_emb.weight
    assert not changed(weights(saved.model), weights(resumed.model))


# What does not fit

def resume(run, path, identity, generators=None):
    generators = (run.generator,) if generators is None else generators
    return Checkpoint(path, run.model, run.optimizer, identity, generators=generators, resume=True).restore(Progress())


@pytest.mark.parametrize("identity, reason", [
    ({"seed": 2}, "its seed is 1, here it is 2; take the same options, or start without --resume"),
    ({"seed": 1, "recipe": "blog"}, "its recipe is not given, here it is 'blog'"),
    ({}, "its seed is 1, here it is not given")])
def test_other_options_are_an_error_that_names_both_values(saved, tmp_path, identity, reason):
    fresh = new_run()
    before = weights(fresh.model)
    with pytest.raises(ValueError, match=reason) as error:
        resume(fresh, tmp_path / "run.pt", identity)
    assert str(tmp_path / "run.pt") in str(error.value)
    assert not changed(before, weights(fresh.model)), "the model was changed before the options were compared"


def test_options_of_any_kind_are_compared_by_value(tmp_path):
    def identity(folder):
        return dict(folder=Path(folder), device=torch.device("cpu"), rate=np.float64(0.1), none=None, both=(1, [2.5]))

    run = new_run()
    Checkpoint(tmp_path / "run.pt", run.model, run.optimizer, identity("a")).save(Progress(step=3), now=True)
    assert resume(run, tmp_path / "run.pt", identity("a"), generators=()).step == 3
    with pytest.raises(ValueError, match=r"folder is .*Path\('a'\), here it is .*Path\('b'\)"):
        resume(run, tmp_path / "run.pt", identity("b"), generators=())


@pytest.mark.parametrize("change, reason", [
    (lambda model: model.pos_emb.requires_grad_(True), r"trains pos_emb.weight as None, this model as \(\(8, 30\)"),
    (lambda model: model.trf_blocks.requires_grad_(False), r"trains trf_blocks\.\d.*, this model as None"),
    (lambda model: model.double(), r"float32.*, this model as .*float64"),
    (lambda model: setattr(model.final_norm, "shift", torch.nn.Parameter(torch.ones(7))), r"\(30,\).*, this .*\(7,\)")])
def test_a_model_that_trains_other_parameters_is_an_error(saved, tmp_path, change, reason):
    fresh = new_run()
    change(fresh.model)
    with pytest.raises(ValueError, match=reason):
        resume(fresh, tmp_path / "run.pt", {"seed": 1})


def test_what_could_not_be_read_again_does_not_replace_what_can(saved, tmp_path):
    before = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(ValueError, match="run.pt was not written: progress.history, or a setting of the optimizer"):
        saved.checkpoint.save(Progress(history=[object]), now=True)
    assert (tmp_path / "run.pt").read_bytes() == before, "hours later, --resume would refuse this file"


def test_numbers_of_numpy_and_torch_in_the_history_are_saved_as_pythons(saved, tmp_path):
    noted = [np.float64(0.5), {"losses": [np.float32(0.25), torch.tensor(2)]}, np.arange(2)]
    saved.checkpoint.save(Progress(history=noted), now=True)
    again = resume(saved, tmp_path / "run.pt", {"seed": 1})
    assert again.history == [0.5, {"losses": [0.25, 2]}, [0, 1]], "the run would end at its first save"


# What would keep it from saving or going on

def test_weights_that_are_not_finite_are_never_saved(saved, tmp_path):
    before = (tmp_path / "run.pt").read_bytes()
    with torch.no_grad():
        saved.model.final_norm.scale[3] = math.nan
    with pytest.raises(FloatingPointError, match="final_norm.scale holds numbers that are not finite after step 7"):
        saved.checkpoint.save(Progress(step=7), now=True)
    assert (tmp_path / "run.pt").read_bytes() == before, "every --resume would go on from NaN"


def test_nothing_to_resume_is_said(tmp_path, capsys):
    new_run(tmp_path / "none.pt", resume=True).checkpoint.restore(Progress())
    assert f"nothing to resume: there is no {tmp_path / 'none.pt'}" in capsys.readouterr().out


def test_a_run_goes_on_with_more_epochs_and_not_with_fewer(tmp_path):
    run = new_run(tmp_path / "run.pt")
    run.checkpoint.identity["epochs"] = "1"
    train(run.model, run.loader, run.loss_fn, run.optimizer, 1, checkpoint=run.checkpoint)
    longer = new_run(tmp_path / "run.pt", resume=True)
    longer.checkpoint.identity["epochs"] = str(EPOCHS)
    assert not changed(finish(new_run()), finish(longer)), "without a schedule it is the run of that many epochs"
    shorter = new_run(tmp_path / "run.pt", resume=True)
    shorter.checkpoint.identity["epochs"] = "1"
    with pytest.raises(ValueError, match="its epochs is 3, here it is 1"):
        finish(shorter)


def test_what_stands_in_the_way_is_found_before_training(tmp_path, monkeypatch):
    (tmp_path / "run.pt").mkdir()
    run = new_run(tmp_path / "run.pt")
    with pytest.raises(IsADirectoryError, match="run.pt is a folder"):
        train(run.model, run.loader, cut_after(0, run), run.optimizer, 1, checkpoint=run.checkpoint)
    run = new_run(tmp_path / "other.pt")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"other.pt will have some [\d,]+ bytes, .* the disk has 1,000: make room"):
        train(run.model, run.loader, cut_after(0, run), run.optimizer, 1, checkpoint=run.checkpoint)


@pytest.mark.skipif(os.name != "posix", reason="locales as Unix has them")
def test_a_run_is_saved_and_goes_on_in_a_folder_whose_name_the_locale_cannot_write(tmp_path):
    script = ("import sys; sys.path[:0] = [{root!r}, {here!r}]; from tiny_run import *; path = Path(sys.argv[1]) / 'r.pt'; "
              "finish(new_run(path)); finish(new_run(path, resume=True))")
    here = Path(__file__).parent
    folder = tmp_path / "Läufe"
    folder.mkdir()
    run = subprocess.run([sys.executable, "-c", script.format(root=str(here.parents[1]), here=str(here)), str(folder)],
                         env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
                         capture_output=True, encoding="utf-8", errors="replace", check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert [file.name for file in folder.iterdir()] == ["r.pt"]


# Damage

def test_a_file_cut_anywhere_is_an_error(saved, tmp_path):
    whole = (tmp_path / "run.pt").read_bytes()
    for length in [0, 1, 3, 30, *range(100, len(whole), len(whole) // 40), len(whole) - 1]:
        (tmp_path / "run.pt").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a whole checkpoint .*without --resume"):
            resume(new_run(), tmp_path / "run.pt", {"seed": 1})


def test_a_flipped_bit_is_an_error_or_changes_nothing(saved, tmp_path):
    whole, rng, errors = bytearray((tmp_path / "run.pt").read_bytes()), np.random.default_rng(0), 0
    expected, fresh = weights(saved.model), new_run()
    for place in rng.integers(0, len(whole), 100):
        whole[place] ^= 16
        (tmp_path / "run.pt").write_bytes(whole)
        whole[place] ^= 16
        try:
            resume(fresh, tmp_path / "run.pt", {"seed": 1})
        except ValueError:
            errors += 1
        else:
            assert not changed(expected, weights(fresh.model)), "a damaged number was taken for a weight"
            assert str(fresh.optimizer.state_dict()) == str(saved.optimizer.state_dict())
    assert errors > 80, "tensors fill most of the file: are no checksums compared?"


class Attack:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [lambda content, path: torch.save({"identity": {}, "progress": content}, path),
                                   lambda content, path: path.write_bytes(pickle.dumps(content)),
                                   lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False)])
def test_a_file_with_a_program_in_it_is_refused_and_the_program_not_run(tmp_path, write):
    write(Attack(tmp_path / "harm"), tmp_path / "run.pt")
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        resume(new_run(), tmp_path / "run.pt", {})
    assert not (tmp_path / "harm").exists(), "reading a checkpoint ran what stands in it"


def test_a_file_of_something_else_is_an_error(tmp_path):
    for content in ({"model": torch.zeros(3)}, [1, 2]):
        torch.save(content, tmp_path / "run.pt")
        with pytest.raises(ValueError, match="not a whole checkpoint"):
            resume(new_run(), tmp_path / "run.pt", {})


# Writing whole

def test_a_write_that_breaks_off_leaves_the_old_checkpoint(saved, tmp_path, monkeypatch):
    before, save = (tmp_path / "run.pt").read_bytes(), torch.save

    def half(state, file):
        save(state, file)
        file.truncate(file.tell() // 2)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match=re.escape(f"{tmp_path / 'run.pt'} could not be written: the disk is full")):
        saved.checkpoint.save(Progress(step=99), now=True)
    assert (tmp_path / "run.pt").read_bytes() == before, "the file is written in place"
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"], "half a file was left behind"


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
    path, done, seen = tmp_path / "text", threading.Event(), set()
    path.write_text("0" * 10_000, encoding="utf-8")

    def read():
        while not done.is_set():
            text = path.read_text(encoding="utf-8")
            seen.add((len(text), len(set(text))))
            time.sleep(1e-4)    # or it would hardly let the writer write

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for _ in range(10):
                file.write(str(number % 10) * 1000)
                file.flush()
    done.set()
    reader.join()
    assert seen == {(10_000, 1)}, "half a file, or a mixture of two"


def test_a_file_gets_its_folders_its_content_and_ordinary_permissions(tmp_path):
    path = tmp_path / "a folder" / "of runs" / "results.json"
    with written_whole(str(path)) as temporary:
        assert not path.exists() and temporary.parents[1] == path.parent, "a rename between two disks is a copy"
        temporary.write_text("{}", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "{}" and len(list(path.parent.iterdir())) == 1
    if os.name != "nt":
        os.umask(mask := os.umask(0))
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, "others cannot read it, as with mkstemp's files"


def test_a_file_takes_its_name_only_when_its_content_is_on_the_disk(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: calls.append(name) or real(*args))
    with written_whole(tmp_path / "x") as temporary:
        temporary.write_text("x", encoding="utf-8")
    assert calls == ["fsync", "replace"], "after a power cut the file could be empty"


def test_an_interrupted_write_leaves_nothing_behind(tmp_path):
    for interruption in (KeyboardInterrupt, ValueError):
        with pytest.raises(interruption), written_whole(tmp_path / "x") as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise interruption
    assert list(tmp_path.iterdir()) == []
