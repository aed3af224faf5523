"""Each run of a comparison is made once, told apart by its settings, and goes on where it was stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_filter import make_tiny, note_steps, one_core, run_of_a_test

from gpt.experiments import comparison
from gpt.cost.fresh_process import Outcome, FreshProcessError
from gpt.experiments.comparison import (
    STOPPED, epochs_for, folder_for, make_all, records_over_seeds, record_of, settings_for,
)
from gpt.experiments.spam_filters import METHODS, run_filter

HERE = Path(__file__).resolve().parent
LORA = "LoRA, r = 4"
ANSWER = {"n_train": 84, "train_accuracy": 0.5, "test": {"spam": [0.1 + 0.2]}}
not_on_windows = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def calls(data, monkeypatch):
    """What record_of asks a process of its own to do, and nothing is done."""
    seen = []
    monkeypatch.setattr(comparison, "in_fresh_process",
                        lambda function, **given: (seen.append((function, given)), Outcome(ANSWER, 123))[1])
    return seen


# Once

def test_a_run_is_made_once_and_remembered_to_the_last_digit(calls, data):
    settings = settings_for(LORA, "balanced", 7)
    first = record_of(LORA, settings)
    assert record_of(LORA, settings) == first and len(calls) == 1, "it was trained twice"
    folder = folder_for(LORA, settings)
    assert calls == [(run_filter, {"settings": settings, "folder": str(folder), "device": "cpu"})]
    assert folder.parent == data / "runs" / "experiment" and folder.name.startswith("mini-LoRAr4-balanced-seed7-")
    assert [file.name for file in folder.iterdir()] == ["results.json"]


def test_a_record_says_what_was_run_what_came_out_and_on_what(calls):
    record = record_of(LORA, settings_for(LORA, "natural", 7, n_train=None))
    assert record | ANSWER == record, "the answers are not as they came"
    expected = dict(name=LORA, method=asdict(METHODS[LORA]), condition="natural", seed=7, model="mini", epochs=1,
                    peak_memory_bytes=123, weights="mini", device="cpu")
    assert record | expected == record and {"torch", "machine", "date"} <= record.keys()
    assert record["n_train"] == 84, "how many messages there were, not how many were asked for"
    untrained = record_of("head", settings_for("head", "balanced", 7, pretrained=False))
    assert untrained["weights"] == "mini, untrained" and not untrained["method"]["pretrained"]


def test_another_setting_is_another_run(calls):
    plain = dict(name=LORA, condition="balanced", seed=1, model="mini", n_train=None, epochs=None, pretrained=None)
    others = [{}, dict(name="head"), dict(condition="natural"), dict(condition="blog"), dict(seed=2), dict(n_train=16),
              dict(model="gpt2-small (124M)"), dict(n_train=32), dict(epochs=2), dict(pretrained=False)]
    for other in others:
        settings = settings_for(**plain | other)
        record_of((plain | other)["name"], settings)
        json.dumps(settings, allow_nan=False)
    folders = {folder_for((plain | other)["name"], settings_for(**plain | other)) for other in others}
    assert len(calls) == len(folders) == len(others), "two runs that differ have one folder"


def test_the_records_of_seeds_come_in_their_order(calls):
    assert [record["seed"] for record in records_over_seeds(LORA, "balanced", [5, 4, 6], n_train=16)] == [5, 4, 6]
    records_over_seeds(LORA, "balanced", [6, 7], n_train=16)
    assert len(calls) == 4 and {call[1]["settings"]["n_train"] for call in calls} == {16}


@pytest.mark.parametrize("model, device, at_once", [("mini", "cpu", 3), ("mini", "cuda", 1),
                                                    ("gpt2-small (124M)", "cpu", 1)])
def test_a_small_model_has_a_run_on_each_core_and_others_go_alone(calls, monkeypatch, model, device, at_once):
    count, most, lock = [0], [0], threading.Lock()

    def busy(function, **given):
        with lock:
            count[0] += 1
            most[0] = max(most[0], count[0])
        time.sleep(0.05)
        with lock:
            count[0] -= 1
        return Outcome(ANSWER, 1)

    monkeypatch.setattr(comparison.os, "cpu_count", lambda: 3)
    monkeypatch.setattr(comparison, "in_fresh_process", busy)
    jobs = [(LORA, settings_for(LORA, "balanced", seed, model)) for seed in range(6)]
    make_all(jobs, device)
    assert most == [at_once] and all((folder_for(*job) / "results.json").exists() for job in jobs)
    monkeypatch.setattr(comparison, "in_fresh_process", None)    # must not be called
    make_all(jobs, device)
    make_all([], device)


def test_when_a_run_fails_those_that_did_not_begin_are_dropped(data, monkeypatch):
    begun = []

    def fail(function, settings, **given):
        begun.append(settings["seed"])
        time.sleep(0.05)
        if settings["seed"] == 1:
            raise FreshProcessError("the loss is nan")
        return Outcome(ANSWER, 1)

    monkeypatch.setattr(comparison.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(comparison, "in_fresh_process", fail)
    with pytest.raises(FreshProcessError, match="the loss is nan"):
        records_over_seeds(LORA, "balanced", list(range(8)))
    assert len(begun) <= 3, "hours of runs whose results nobody asked for any more"


def test_a_damaged_record_is_one_error_that_says_what_to_delete(calls):
    settings = settings_for(LORA, "balanced", 7)
    record_of(LORA, settings)
    file = folder_for(LORA, settings) / "results.json"
    whole = file.read_bytes()
    for damaged in (whole[:-20], b"", b"\xff\xfe" + whole):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{file}: .*: delete this file"):
            record_of(LORA, settings)
    file.unlink()
    record_of(LORA, settings)
    assert file.read_bytes() == whole and len(calls) == 2, "to delete it was not enough"


@pytest.mark.parametrize("condition, n_train, epochs", [
    ("balanced", None, {LORA: 3, "head": 30, "the blog's LoRA": 6, "naive Bayes": 0}),
    ("blog", None, {LORA: 3, "head": 30, "the blog's LoRA": 6}),
    ("natural", None, {LORA: 1, "head": 8, "the blog's LoRA": 2}),    # 3.7 times as many messages
    ("balanced", 16, {LORA: 50, "head": 50}),    # 2 batches of 8 an epoch: 100 steps
    ("balanced", 256, {LORA: 4, "head": 30}), ("balanced", 512, {LORA: 3}), ("natural", 16, {LORA: 50})])
def test_how_often_a_method_goes_through_its_messages(condition, n_train, epochs):
    for name, expected in epochs.items():
        assert epochs_for(METHODS[name], condition, n_train) == expected, f"{name}: see epochs_for"
        assert settings_for(name, condition, 1, n_train=n_train)["epochs"] == expected
    assert settings_for(LORA, condition, 1, n_train=n_train, epochs=2)["epochs"] == 2, "what is asked for wins"


# Stopped, and on again

SETTINGS = settings_for(LORA, "balanced", 1, "tiny", epochs=3)
STEPS = 3 * 9    # of 70 messages


@pytest.fixture
def tiny(data, monkeypatch):
    """Runs are those of tiny_filter.py, in a process of their own. A call: where it dies -> what `make` gives"""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setattr(comparison, "run_filter", run_of_a_test)
    make_tiny(monkeypatch.setattr, data)

    def call(die="", make=record_of):
        monkeypatch.setenv("DIE", die)
        return make(LORA, SETTINGS)

    with one_core():
        yield call


def make_it_among_others(name, settings):
    make_all([(name, settings | {"seed": seed}) for seed in (settings["seed"], 8, 9)])


def steps_done(folder):
    """For each process that trained, in turn, the steps that it saved."""
    found = {}
    for line in (folder / "steps").read_text(encoding="utf-8").splitlines():
        step, process = map(int, line.split())
        found.setdefault(process, []).append(step)
    return list(found.values())


def assert_it_is_that_of_one_run_at_once(record, folder):
    folder.mkdir()
    at_once = run_filter(SETTINGS, folder, "cpu")
    assert {key: record[key] for key in ("validation", "test", "train_accuracy")} == \
        {key: at_once[key] for key in ("validation", "test", "train_accuracy")}, (
        "not bit for bit: is something drawn, or kept, that no checkpoint holds?")
    adapters = [place / "adapter.safetensors" for place in (folder, folder_for(LORA, SETTINGS))]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


@not_on_windows
def test_a_run_that_was_killed_and_then_stopped_ends_as_one_that_was_not(tiny, tmp_path, monkeypatch):
    folder = folder_for(LORA, SETTINGS)
    with pytest.raises(FreshProcessError, match="exit status -9 "):
        tiny(die="kill 5")
    assert not (folder / "results.json").exists() and (folder / "checkpoint.pt").exists()
    with pytest.raises(KeyboardInterrupt, match=f"^{STOPPED}$"):
        tiny(die="ctrl-c 14", make=make_it_among_others)    # in the second epoch
    assert not (folder / "results.json").exists(), "a run that was stopped counts as done"
    monkeypatch.setattr(comparison, "run_filter", run_filter)    # the third time here: a process costs seconds
    monkeypatch.setattr(comparison, "in_fresh_process", lambda function, **given: Outcome(function(**given), 123))
    note_steps(monkeypatch.setattr)
    record = tiny()
    first, second, third = (sorted(set(steps)) for steps in steps_done(folder))
    assert first == list(range(1, 6)) and second[0] == 6, "it began again, or lost a step"
    assert second[-1] in (14, 15) and third == list(range(second[-1] + 1, STEPS + 1)), "it lost what Ctrl-C left"
    assert {file.name for file in folder.iterdir()} == {"steps", "results.json", "adapter.safetensors"}, (
        "the checkpoint stays, or half a file")
    assert_it_is_that_of_one_run_at_once(record, tmp_path / "at once")


CALLER = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}, {str(HERE)!r}]
import test_comparison
test_comparison.comparison.run_filter = test_comparison.run_of_a_test
test_comparison.make_it_among_others(test_comparison.LORA, test_comparison.SETTINGS)
"""


@not_on_windows
@pytest.mark.chapters
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_goes_on_whenever_it_is_killed_or_its_terminal_sends_ctrl_c(tiny, tmp_path, how):
    folder, command = folder_for(LORA, SETTINGS), [sys.executable, "-c", CALLER]
    for wanted in (3, 12):
        caller = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True,
                                  preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
        while not (folder / "steps").exists() or steps_done(folder)[-1][-1] < wanted:
            assert caller.poll() is None, caller.communicate()[1]
            time.sleep(0.001)
        os.killpg(caller.pid, how)
        said = caller.communicate()[1]    # to its end, which is that of the other process too
        assert how == signal.SIGKILL or said.endswith(f"KeyboardInterrupt: {STOPPED}\n"), said
        assert not (folder / "results.json").exists(), "it ended before it could be stopped: this proves nothing"
    record = tiny()
    begun = [steps[0] for steps in steps_done(folder)]
    assert begun[0] == 1 and begun[1] > 3 and begun[2] > 12, "it began again"
    assert not (folder / "checkpoint.pt").exists()
    assert_it_is_that_of_one_run_at_once(record, tmp_path / "at once")
