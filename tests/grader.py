"""Run one exercise's tests on one submission, in a process of its own, and say what came of it."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

from exercise_table import EXERCISES
from take_out import Problem, cut, put_back

Result = namedtuple("Result", "points reason output")    # the reason is "" where the points are given


class Grader:
    """Runs exercises on copies of a clean tree."""

    def __init__(self, clean, seed, seconds, memory):
        self.clean, self.seed, self.seconds, self.memory = clean, seed, seconds, memory

    def expected(self, exercise):
        """The tests that the original passes: what a submission has to pass too."""
        outcomes, reason, output = self.run(exercise, {})
        failed = [f"{test}: {outcome}" for test, outcome in outcomes.items() if outcome != "passed"]
        if failed or reason or not outcomes:
            raise Problem(f"{output}\nnobody is graded, because the original of {exercise.id} itself does not pass "
                          f"with --seed {self.seed} (try another): {reason or (failed or ['no test was run'])[0]}")
        return set(outcomes)

    def result(self, exercise, files, expected):
        """A student's Result: the points if each of the expected tests passed and nothing else happened."""
        if isinstance(files, Problem):
            return Result(0, str(files), "")
        if exercise.file not in files:
            return Result(0, f"there is no {exercise.file} in the submission", "")
        try:
            alone = self.alone(exercise, files[exercise.file])
        except Problem as problem:
            return Result(0, str(problem), "")
        outcomes, reason, output = self.run(exercise, {exercise.file: alone})
        failed = [outcome for outcome in outcomes.values() if outcome != "passed"]
        reason = reason or (failed[0] if failed else "not every test was run" if expected - outcomes.keys() else "")
        return Result(0 if reason else exercise.points, reason, output)

    def alone(self, exercise, content):
        """The student's file with the functions of all other exercises as they were: one mistake costs one exercise."""
        try:
            source = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Problem(f"{exercise.file} is no UTF-8 text: {error}") from None
        clean = (self.clean / exercise.file).read_bytes().decode("utf-8")
        cut(source, exercise)    # what Python cannot read, or has lost the function, earns no points
        for other in EXERCISES.values():
            if other.file == exercise.file and other != exercise:
                with contextlib.suppress(Problem):    # a function that the student lost is missed where it is needed
                    source, _ = put_back(source, other, cut(clean, other).function)
        return source.encode("utf-8")

    def run(self, exercise, files):
        """One exercise on a fresh copy with these files in it: ({test: outcome}, what went wrong or "", output)."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            tree, report, output = (Path(place) / name for name in ("tree", secrets.token_hex(8), "output"))
            shutil.copytree(self.clean, tree)
            for name, content in files.items():
                (tree / name).write_bytes(content)
            secret = secrets.token_hex()
            order = dict(report=str(report), secret=secret, bytes=self.memory, seconds=2 * self.seconds + 1)
            status = run_pytest(exercise.id, self.seed, tree, order, output, self.seconds)
            said = output.read_bytes()[-8000:].decode("utf-8", errors="replace")
            try:
                told = json.loads(report.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                told = {}
        if status is None:
            return {}, f"not done after {self.seconds:g} seconds: an endless loop?", said
        if told.get("secret") != secret:
            return {}, f"the process ended, with exit status {status}, before its tests were done", said
        failed = any(outcome != "passed" for outcome in told["outcomes"].values())
        return told["outcomes"], f"pytest ended with exit status {status}" if status and not failed else "", said


def run_pytest(name, seed, tree, order, output, seconds):
    """Run an exercise's tests; their exit status, or None if time was up. No process of its group is left behind."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "grading_report", "-p", "no:cacheprovider",
               "--exercise", name, "--hidden", str(seed)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= dict(PYTHONPATH=str(tree / "tests"), GPT_DATA_DIR=str(tree / "data"), OMP_NUM_THREADS="1",
                        PYTHONDONTWRITEBYTECODE="1", PYTHONIOENCODING="utf-8")
    group = dict(start_new_session=True) if os.name == "posix" else dict(creationflags=0x200)    # NEW_PROCESS_GROUP
    with open(output, "wb") as file:    # not a pipe: a forked child would hold it open
        process = subprocess.Popen(command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=file,
                                   stderr=subprocess.STDOUT, **group)
        try:
            with contextlib.suppress(OSError):    # it has ended already
                process.stdin.write(json.dumps(order).encode() + b"\n")
                process.stdin.close()
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            end(process)


def end(process):
    """Kill the process and whatever it has started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):    # nobody is left; macOS calls it the latter
            os.killpg(process.pid, signal.SIGKILL)
    else:
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
    process.kill()
    process.wait()
