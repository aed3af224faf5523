"""Run one exercise's tests on one submission, in processes of their own, and say what came of it."""

import contextlib
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from functools import partial
from pathlib import Path

from take_out import Problem

Result = namedtuple("Result", "points reason output")    # the reason is "" where the points are given
Run = namedtuple("Run", "outcomes reason output space")  # {test: "passed" or why not}; space: bytes of addresses in use
PARSING = 10    # seconds in which Python must have read a student's file: our longest takes half a second
LINUX = sys.platform == "linux"


class Grader:
    """Runs exercises on copies of a clean tree. The tree is in memory, so that no submission can change it.

    Input: clean, {"gpt/lora.py": its bytes, ...}; seed, of the hidden numbers; seconds and bytes of memory for one
        exercise
    """

    def __init__(self, clean, seed, seconds, memory):
        self.clean, self.seed, self.seconds, self.memory = clean, seed, seconds, memory

    def expected(self, exercise):
        """The Run of the original. A submission has to pass the same tests, in about as many addresses."""
        run = self.run(exercise, None, None)
        failed = [f"{test}: {outcome}" for test, outcome in run.outcomes.items() if outcome != "passed"]
        if failed or run.reason or not run.outcomes:
            raise Problem(f"{run.output}\nnobody is graded, because the original of {exercise.id} itself does not pass "
                          f"with --seed {self.seed} (try another): {run.reason or (failed or ['no test was run'])[0]}")
        return run

    def result(self, exercise, files, expected):
        """A student's Result: the points if each of the expected tests passed and nothing else happened."""
        if isinstance(files, Problem):
            return Result(0, str(files), "")
        run = self.run(exercise, files, expected.space)
        failed = [outcome for outcome in run.outcomes.values() if outcome != "passed"]
        missing = expected.outcomes.keys() - run.outcomes.keys()
        reason = run.reason or (failed[0] if failed else "not every test was run" if missing else "")
        return Result(0 if reason else exercise.points, reason, run.output)

    def run(self, exercise, files, space):
        """A Run of one exercise on a fresh copy: of a submission's files, or of the original where they are None."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            tree, temporary, report = (Path(place) / name for name in ("tree", "temporary", "report"))
            temporary.mkdir()    # for the submission's temporary files: it goes with the place
            for name, content in self.clean.items():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                (tree / name).write_bytes(content)
            problem = lay_student(tree, exercise, files, self.memory) if files is not None else ""
            if problem:
                return Run({}, problem, "", None)
            secret = secrets.token_hex()
            order = dict(report=str(report), secret=secret)
            limit = limits(self.memory, self.seconds, space)
            # Both files are open before the submission runs: whatever it puts in their places is not read.
            with open(report, "w+b") as told, tempfile.TemporaryFile() as output:
                status = run_pytest(exercise.id, self.seed, tree, temporary, order, output, self.seconds, limit)
                output.seek(0)
                said = output.read()[-8000:].decode("utf-8", errors="replace")
                outcomes, _, key = told.read(2 ** 24).decode("utf-8", errors="replace").rpartition("\n")
        if status is None:
            return Run({}, f"not done after {self.seconds:g} seconds: an endless loop?", said, None)
        if key != secret:
            return Run({}, f"the process ended, with exit status {status}, before its tests were done: look for "
                           f"sys.exit, os._exit or a crash", said, None)
        told, reason = json.loads(outcomes), ""
        if status and all(outcome == "passed" for outcome in told["outcomes"].values()):
            last = said.strip().rpartition("\n")[2][:200]
            reason = (f"pytest ended with exit status {status}, though no test failed: look for pytest.exit in the "
                      f"submission; the last line that was printed is: {last}")
        return Run(told["outcomes"], reason, said, told["space"])


def lay_student(tree, exercise, files, memory):
    """Put the student's file of the exercise into the tree (lay_student.py). Output: "", or why there is none to test.
    """
    order = dict(exercise=exercise.id, files={name: content.decode("latin-1") for name, content in files.items()})
    try:
        run = subprocess.run([sys.executable, "-W", "ignore", tree / "tests" / "coursework" / "lay_student.py"],
                             cwd=tree, input=json.dumps(order).encode(), capture_output=True, timeout=PARSING,
                             preexec_fn=limits(memory, PARSING, None))
        if run.returncode == 0:
            return json.loads(run.stdout)
        what = run.stderr.decode("utf-8", errors="replace").strip().rpartition("\n")[2]
        if run.returncode == 1 and not what.startswith("MemoryError"):    # a traceback: Python itself has not crashed
            return f"{exercise.file}: the grader could not prepare the file: {what}"
        what = f"exit status {run.returncode}{what and ', '}{what}"
    except subprocess.TimeoutExpired:
        what = f"not done after {PARSING} seconds"
    return f"{exercise.file}: Python cannot read the file ({what}): look for an expression that is far too long"


def limits(memory, seconds, space):
    """A function that sets a process's limits before it begins; None on Windows, which has no such limits.

    Input: bytes of memory; seconds that it may last (twice as many of computing, because of threads); space, the bytes
        of addresses that the original used, or None. Only the limit of addresses counts the memory that processes
        share, and importing torch alone takes many addresses
    """
    if os.name != "posix":
        return None
    most = dict(RLIMIT_DATA=memory, RLIMIT_CPU=2 * seconds + 1, RLIMIT_FSIZE=2 ** 26, RLIMIT_CORE=0,
                RLIMIT_NPROC=4096)    # of all processes and threads of this user; root has no such limit
    return partial(set_limits, most if space is None else most | dict(RLIMIT_AS=space + memory))


def set_limits(most):
    import resource    # Windows has none

    for name, value in most.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):    # unknown there, or a lower limit is set
            resource.setrlimit(getattr(resource, name), (int(value), int(value)))


def run_pytest(name, seed, tree, temporary, order, output, seconds, limit):
    """Run an exercise's tests; their exit status, or None if time was up. No process of theirs is left behind."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "grading_report", "-p", "no:cacheprovider",
               "--exercise", name, "--hidden", str(seed)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= dict(PYTHONPATH=str(tree / "tests" / "coursework"), GPT_DATA_DIR=str(tree / "data"),
                        TMPDIR=str(temporary), TEMP=str(temporary), TMP=str(temporary),
                        OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1", PYTHONIOENCODING="utf-8")
    group = dict(start_new_session=True) if os.name == "posix" else dict(creationflags=0x200)    # NEW_PROCESS_GROUP
    if LINUX:    # PR_SET_CHILD_SUBREAPER: a process whose parent has ended becomes a child of this one (`children`)
        ctypes.CDLL(None).prctl(36, 1)
    process = subprocess.Popen(command, cwd=tree, env=environment, stdin=subprocess.PIPE,
                               stdout=output,    # a file, not a pipe, which a forked child would hold open
                               stderr=subprocess.STDOUT, preexec_fn=limit, **group)
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
    """Kill the process and whatever it has started; on macOS only what is still in its group."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):    # nobody is left; macOS calls it the latter
            os.killpg(process.pid, signal.SIGKILL)
    else:
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
    process.kill()
    process.wait()
    until = time.monotonic() + 10    # one that may not be killed must not hold up the others
    while (left := children()) and time.monotonic() < until:
        for child in left:           # first all, then wait: no time for them to start others
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(OSError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def children():
    """The process numbers of this process's children, as far as Linux tells them."""
    try:
        return [int(number) for number in Path("/proc/thread-self/children").read_text().split()]
    except OSError:
        return []
