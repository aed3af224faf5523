"""Run one exercise's tests on one submission, in a process of its own, and say what came of it."""

import ast
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections import namedtuple
from pathlib import Path

from exercise_table import EXERCISES
from take_out import Problem, cut, functions, put_back

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
        try:
            alone = self.file_to_grade(exercise, files)
        except Problem as problem:
            return Result(0, str(problem), "")
        outcomes, reason, output = self.run(exercise, {exercise.file: alone})
        failed = [outcome for outcome in outcomes.values() if outcome != "passed"]
        reason = reason or (failed[0] if failed else "not every test was run" if expected - outcomes.keys() else "")
        return Result(0 if reason else exercise.points, reason, output)

    def file_to_grade(self, exercise, files):
        """The exercise's file as it will be tested: the student's; or, of a submission that was begun when gpt/ had
        another layout, ours with the student's function in it (`transplanted`).
        """
        source = text_of(exercise.file, files[exercise.file]) if exercise.file in files else None
        if source is not None and has_function(source, exercise) and not self.older(exercise, source):
            return self.alone(exercise, source)
        for name, content in sorted(files.items(), key=lambda item: item[0] != exercise.file):
            with contextlib.suppress(Problem):    # of another file; what is wrong with the exercise's own is said below
                other = text_of(name, content)
                if has_function(other, exercise):
                    clean = (self.clean / exercise.file).read_bytes().decode("utf-8")
                    return transplanted(clean, other, exercise, files).encode("utf-8")
        if source is None:
            raise Problem(f"there is no {exercise.file} in the submission")
        cut(source, exercise)    # says what is wrong with it

    def older(self, exercise, source):
        """Whether a file was begun when gpt/ was another: it lacks a name of ours, or imports what is not there."""
        clean = (self.clean / exercise.file).read_text("utf-8")
        if definitions(clean) - definitions(source) or names_of(clean) - names_of(source):
            return True
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpt."):
                file = self.clean / f"{node.module.replace('.', '/')}.py"
                if not file.is_file() or {alias.name for alias in node.names} - names_of(file.read_text("utf-8")):
                    return True
        return False

    def alone(self, exercise, source):
        """The student's file with the functions of all other exercises as they were: one mistake costs one exercise."""
        clean = (self.clean / exercise.file).read_bytes().decode("utf-8")
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


def text_of(name, content):
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Problem(f"{name} is no UTF-8 text: {error}") from None


def has_function(source, exercise):
    try:
        return bool(cut(source, exercise))
    except Problem:
        return False


def bound(statement):
    """The names that a statement at the top of a module gives a meaning."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def definitions(source):
    """The functions and methods of a source text, as Python qualifies them."""
    return {name for name, _ in functions(ast.parse(source))}


def names_of(source):
    return {name for statement in ast.parse(source).body for name in bound(statement)}


def transplanted(clean, source, exercise, files):
    """Our file with the student's function, and behind our imports what this function needs of the student's own:
    helpers, constants, imports of packages, and what it imported from another of the student's files. Names that our
    file has already mean what they mean in it.
    """
    function = cut(source, exercise).function
    needed = {node.id for node in ast.walk(ast.parse(textwrap.dedent(function))) if isinstance(node, ast.Name)}
    known, helpers = names_of(clean), []
    for statement in reversed(ast.parse(source).body):    # backwards: a helper stands below what it uses, as a rule
        if not bound(statement) & needed - known:
            continue
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("gpt"):
            there = text_of(statement.module, files.get(f"{statement.module.replace('.', '/')}.py", b""))
            found = [other for other in ast.parse(there).body if bound(other) & bound(statement) & needed - known]
        else:
            found = [statement]
        for one in found:
            helpers.insert(0, ast.unparse(one))
            needed |= {node.id for node in ast.walk(one) if isinstance(node, ast.Name)}
    lines = put_back(clean, exercise, function)[0].splitlines(keepends=True)
    imports = [node.end_lineno for node in ast.parse(clean).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    place = max(imports, default=0)
    return "".join([*lines[:place], *(f"{helper}\n" for helper in helpers), *lines[place:]])


def run_pytest(name, seed, tree, order, output, seconds):
    """Run an exercise's tests; their exit status, or None if time was up. No process of its group is left behind."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "grading_report", "-p", "no:cacheprovider",
               "--exercise", name, "--hidden", str(seed)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= dict(PYTHONPATH=str(tree / "tests" / "coursework"), GPT_DATA_DIR=str(tree / "data"),
                        OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1", PYTHONIOENCODING="utf-8")
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
