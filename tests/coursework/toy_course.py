"""A small repository with three exercises in one file: what the tests of the exercises' tool run it on."""

import shutil
import subprocess
import sys

from conftest import ROOT

TOOL = ["conftest", "exercises", *(f"coursework/{name}" for name in (
    "take_out originals release grading grade_submission lay_student grading_report submissions").split())]
TABLE = '''from dataclasses import dataclass

@dataclass(frozen=True)
class Exercise:
    id: str; file: str; function: str; task: str; points: int; difficulty: str; hints: tuple

EXERCISES = {e.id: e for e in (
    Exercise("E1.1", "gpt/x.py", "Double.forward", "Double it.", 2, "easy", ("Add.", "Add it to itself.")),
    Exercise("E1.2", "gpt/x.py", "Triple.forward", "Triple it.", 3, "hard", ("Add.", "Add twice.")),
    Exercise("E2.1", "gpt/x.py", "untested", "Return it.", 1, "easy", ("Return.", "Return x.")))}
'''
TOY = '''class Double:
    """Twice x."""

    def forward(self, x):
        # whoever adds a number to itself has doubled it
        return x + x    # doubled

class Triple:
    @staticmethod
    def forward(x):
        """Three times x."""
        threefold_result = x + x + x

        return threefold_result

def untested(x):
    return x
'''
TESTS = '''import pytest
from gpt.x import Double, Triple

@pytest.mark.exercise("E1.1")
def test_double(sizes):
    assert Double().forward(sizes.T) == 2 * sizes.T, "not twice as much: is it added once?"

@pytest.mark.exercise("E1.1", "E1.2")
def test_six():
    assert Double().forward(Triple.forward(1)) == 6

@pytest.mark.exercise("E1.2")
def test_triple():
    assert Triple.forward(2) == 6, "not three times as much"
'''


def new_course(root):
    """Make the repository, with Windows' line endings in gpt/x.py; root may have a space in it, and should."""
    for folder, name, text in (("gpt", "__init__.py", ""), ("gpt", "x.py", TOY.replace("\n", "\r\n")),
                               ("tests", "test_toy.py", TESTS), ("tests/coursework", "exercise_table.py", TABLE),
                               ("tests/coursework", "museum.py", "BUGS = []"), (".", "README.md", "A course.\n"),
                               (".", ".gitignore", "/data/*\n__pycache__/\n.pytest_cache/\n")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_bytes(text.encode())
    for name in TOOL:
        shutil.copy(ROOT / "tests" / f"{name}.py", root / "tests" / f"{name}.py")
    for command in (["git", "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(command, cwd=root, check=True)
    return root


def call(root, *words, expect=0):
    """Run the tool, or pytest where the first word says so; what it printed."""
    command = ["-m", *words] if words[0] == "pytest" else [root / "tests" / "exercises.py", *words]
    run = subprocess.run([sys.executable, *command], cwd=root, capture_output=True, encoding="utf-8")
    assert run.returncode == expect, f"{words}: {run.stdout}{run.stderr}"
    assert "Traceback" not in run.stderr
    assert words[0] == "pytest" or run.stderr.count("\n") == expect, f"an error of the tool is one line: {run.stderr}"
    return run.stdout + run.stderr
