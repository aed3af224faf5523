"""Every bug of tests/coursework/museum.py must be rejected by the tests of its exercise, which the right source passes.

    python -m pytest -m museum            all of them; without -m museum none is run

A bug runs in a process of its own, forked from a server that has imported torch and does nothing else; where there is
no fork, in this process. In either the broken source takes the file's place as Python imports it: no file is written.
(Not multiprocessing.Pool with fork: it forks from a thread while other threads are at work, and of some 600 processes
two never answered.)
"""

import contextlib
import importlib.abc
import importlib.util
import io
import multiprocessing
import os
import re
import sys
import time
from collections import Counter
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
from exercise_table import EXERCISES
from museum import BUGS

pytestmark = pytest.mark.museum
ROOT = Path(__file__).resolve().parents[2]
FORK = sys.platform == "linux"    # macOS has fork, but its own libraries do not survive it
SECONDS = 120                     # for one bug, after which it counts as an endless loop
OUTSIDE = ("pandas", "pytest", "safetensors.torch", "tiktoken", "torch._dynamo", "torch.utils.checkpoint", "tqdm")


OPTIONS = ["-q", "--tb=short", f"--rootdir={ROOT}", "-p", "no:cacheprovider", "-p", "no:unraisableexception"]


def broken(bug):
    """The source with the bug in it. Raises: ValueError, SyntaxError, each with the bug's name"""
    source = (ROOT / bug.file).read_text(encoding="utf-8")
    if source.count(bug.old) != 1:
        raise ValueError(f"{bug.name}: its old text stands {source.count(bug.old)} times in {bug.file}, not once")
    if bug.old == bug.new:
        raise ValueError(f"{bug.name}: old and new are equal")
    source = source.replace(bug.old, bug.new)
    compile(source, f"{bug.file} with the bug: {bug.name}", "exec")
    return source


class InPlaceOf(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Serves one module of gpt/ from a text. file: "gpt/lora.py"; None: serves nothing."""

    def __init__(self, file, source):
        self.file, self.source, self.served = file, source, False

    def find_spec(self, name, path=None, target=None):
        if self.file is None or name != self.file.removesuffix(".py").replace("/", "."):
            return None
        return importlib.util.spec_from_file_location(name, ROOT / self.file, loader=self)

    def exec_module(self, module):
        self.served = True
        exec(compile(self.source, str(ROOT / self.file), "exec"), module.__dict__)


class Outcomes:
    """A pytest plugin that keeps of each test whether it passed, and of a failed one the last line of its reason."""

    def __init__(self):
        self.passed, self.failed = set(), {}

    def pytest_runtest_logreport(self, report):
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.failed[report.nodeid] = crash.message.split("\n")[0] if crash else str(report.longrepr)[-200:]
        elif report.when == "call" and report.passed:
            self.passed.add(report.nodeid)

    def pytest_collectreport(self, report):
        if report.failed:
            self.failed[report.nodeid] = str(report.longrepr)[-500:]


def of_ours():
    """The modules of this repository that are imported, by name."""
    folders = (ROOT / "gpt", ROOT / "tests", ROOT / "chapters")
    return {name: module for name, module in sys.modules.items()
            if any(folder in Path(getattr(module, "__file__", None) or "/").parents for folder in folders)}


def run_tests(arguments, file=None, source=None):
    """pytest on freshly imported modules, with `source` in place of `file`: -> passed, failed, what it printed."""
    before, paths, printed = of_ours(), sys.path[:], io.StringIO()
    outcomes, finder, threads = Outcomes(), InPlaceOf(file, source), torch.get_num_threads()
    torch.set_num_threads(1)    # the models are tiny, and several runs at once would get in each other's way
    for name in before:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            pytest.main([*OPTIONS, *arguments], [outcomes])
    finally:
        sys.meta_path.remove(finder)
        sys.path[:] = paths
        torch.set_num_threads(threads)
        for name in of_ours():
            del sys.modules[name]
        sys.modules.update(before)
    if file and not finder.served:
        printed.write(f"\nno test imported {file}")
    return outcomes.passed, outcomes.failed, printed.getvalue()


def arguments(exercise):
    """What selects the tests of an exercise, or the test that is named in its place."""
    return ["--exercise", exercise, str(ROOT / "tests")] if exercise in EXERCISES else [str(ROOT / exercise)]


def send_outcome(pipe, *job):
    pipe.send(run_tests(*job))


class Runs:
    """Runs of pytest, each begun in its turn. jobs: {key: arguments of run_tests}. Without fork, when it is wanted."""

    def __init__(self, jobs):
        self.jobs, self.waiting, self.begun, self.ended = jobs, list(jobs), {}, {}    # begun: key -> process, pipe, when
        self.context = multiprocessing.get_context("forkserver" if FORK else None)
        if FORK:
            self.context.set_forkserver_preload(list(OUTSIDE))

    def __getitem__(self, key):
        if not FORK and key not in self.ended:
            self.ended[key] = run_tests(*self.jobs[key])
        while key not in self.ended:
            self.keep_busy()
            wait([pipe for _, pipe, _ in self.begun.values()], timeout=1)
            self.collect()
        return self.ended[key]

    def keep_busy(self):
        while self.waiting and len(self.begun) < max(2, os.cpu_count() or 1):
            key = self.waiting.pop(0)
            ours, theirs = self.context.Pipe(duplex=False)
            process = self.context.Process(target=send_outcome, args=(theirs, *self.jobs[key]), daemon=True)
            process.start()
            theirs.close()    # so that the end of the process is the end of the pipe
            self.begun[key] = process, ours, time.monotonic()

    def collect(self):
        for key, (process, pipe, began) in list(self.begun.items()):
            if pipe.poll():
                try:
                    self.ended[key] = pipe.recv()
                except EOFError:
                    process.join()
                    self.ended[key] = set(), {}, f"its process ended with {process.exitcode} and no answer"
            elif time.monotonic() - began > SECONDS:
                self.ended[key] = set(), {}, f"no answer within {SECONDS} seconds: an endless loop?"
            if key in self.ended:
                process.kill()    # it has nothing more to say
                del self.begun[key]

    def end(self):
        for process, _, _ in self.begun.values():
            process.kill()


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """For the bugs that are asked for: the tests on the right source, and with the bug until the first fails."""
    jobs, folder = {}, tmp_path_factory.mktemp("runs")
    bugs = [item.callspec.params["bug"] for item in request.session.items
            if "runs" in getattr(item, "fixturenames", ())]
    for i, bug in enumerate(bugs):
        options, basetemp = arguments(bug.exercise), f"--basetemp={folder / str(i)}"
        jobs.setdefault(bug.exercise, ([*options, basetemp + "right"],))
        with contextlib.suppress(ValueError, SyntaxError):    # that bug's own test tells
            jobs[bug.name] = (["-x", *options, basetemp], bug.file, broken(bug))
    runs = Runs(jobs)
    yield runs
    runs.end()


@pytest.mark.parametrize("bug", BUGS, ids=[re.sub(r"\W+", "_", bug.name) for bug in BUGS])
def test_a_classic_mistake_is_rejected(bug, runs):
    broken(bug)
    passed, failed, printed = runs[bug.exercise]
    assert passed and not failed, f"the right source fails the tests of {bug.exercise}: {failed}\n{printed}"
    _, rejecting, printed = runs[bug.name]
    known = {test: reason for test, reason in rejecting.items() if test in passed}
    assert known, f"{bug.name}: no test of {bug.exercise} rejects it; {rejecting or printed}"
    for test, reason in known.items():
        print(f"{bug.exercise:8} {bug.name}\n    {test.partition('::')[2]}\n    {reason[:200]}")


# The museum itself

def test_every_bug_has_a_name_of_its_own_and_a_symptom():
    assert len(BUGS) >= 30
    names = Counter(re.sub(r"\W+", "_", bug.name) for bug in BUGS)
    assert max(names.values()) == 1, f"twice: {names.most_common(1)}"
    assert not [bug.name for bug in BUGS if not bug.symptom.endswith(".")], "a symptom is a sentence"


def test_every_exercise_has_a_bug_in_its_file_and_every_bug_an_exercise():
    unknown = [bug.name for bug in BUGS if bug.exercise not in EXERCISES and not bug.exercise.startswith("tests/")]
    assert not unknown, f"no such exercise: {unknown}"
    assert not EXERCISES.keys() - {bug.exercise for bug in BUGS}, "exercises without a bug"
    elsewhere = [bug.name for bug in BUGS if bug.exercise in EXERCISES and bug.file != EXERCISES[bug.exercise].file]
    assert not elsewhere, f"in another file than their exercise: {elsewhere}"


def test_every_bug_is_a_change_that_compiles():
    for bug in BUGS:
        broken(bug)


def test_every_change_of_gpt_in_a_chapters_break_it_box_is_in_the_museum():
    for chapter in sorted((ROOT / "chapters").glob("[0-9]*.py")):
        box = chapter.read_text(encoding="utf-8").partition("# ## Break it")[2].partition("# ## ")[0]
        in_box = Counter(re.findall(r"^# \| `(gpt/[\w/]+\.py)`", box, re.MULTILINE))
        here = Counter(bug.file for bug in BUGS if chapter.name.partition("_")[0] in bug.box.split())
        assert in_box == here, f"{chapter.name}: box and museum do not have the same bugs: {in_box} and {here}"


def test_the_page_says_how_many_bugs_there_are():
    page = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    assert f"in {len(BUGS)} ways" in page and f"with {len(BUGS)} mistakes" in page
