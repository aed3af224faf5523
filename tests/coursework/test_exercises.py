"""The command line of the exercises, and pytest's option --exercise."""

import re
import subprocess

import pytest
from exercise_table import Exercise
from take_out import cut
from toy_course import TOY, call, new_course


@pytest.fixture
def course(tmp_path):
    return new_course(tmp_path / "a course")


@pytest.mark.parametrize("order", [("E1.1", "E1.2"), ("E1.2", "E1.1")])
def test_exercises_of_one_file_are_started_and_restored_in_any_order(course, order):
    file = course / "gpt" / "x.py"
    call(course, "start", "E1.1", "E1.2")
    assert file.read_text().count("NotImplementedError") == 2 and "whoever" not in file.read_text()
    states = re.findall(r"^(\S+) .* (open|-) ", call(course, "list"), re.MULTILINE)
    assert states == [("E1.1", "open"), ("E1.2", "open"), ("E2.1", "-")]
    for name in order:
        assert "is the original again" in call(course, "restore", name)
    assert file.read_bytes() == TOY.replace("\n", "\r\n").encode(), "not byte for byte"
    assert not list((course / "data" / "exercises").iterdir())


def test_restoring_saves_what_the_student_wrote(course):
    file, own = course / "gpt" / "x.py", "    def forward(self, x):\r\n        return 2 * x\r\n"
    exercise = Exercise("E1.1", "gpt/x.py", "Double.forward", "Double it.", 2, "easy", ())
    for number in (1, 2):
        call(course, "start", "E1.1")
        parts = cut(file.read_bytes().decode(), exercise)
        file.write_bytes((parts.before + own + parts.after).encode())
        assert f"yours is saved in data/exercises/E1.1-yours-{number}.py" in call(course, "restore", "E1.1")
        assert (course / "data" / "exercises" / f"E1.1-yours-{number}.py").read_bytes() == own.encode()
        assert file.read_bytes() == TOY.replace("\n", "\r\n").encode()


def test_hints_come_one_at_a_time_and_the_answer_is_the_original(course):
    assert [call(course, "hint", "E1.1") for _ in range(2)] == ["1 of 2: Add.\n", "2 of 2: Add it to itself.\n"]
    assert "1 of 2: Add.\n2 of 2: Add it to itself.\n" in call(course, "hint", "e1.1"), "a small e is no mistake"
    for _ in range(2):
        answer = "@staticmethod\ndef forward(x):\n    threefold_result = x + x + x\n\n    return threefold_result\n"
        assert call(course, "answer", "E1.2") == answer
        if not (course / "data" / "exercises" / "E1.2.py").exists():
            call(course, "start", "E1.2")


@pytest.mark.parametrize("words, complaint", [
    (["start", "E9.9"], "there is no exercise E9.9: there are E1.1, E1.2, E2.1"),
    (["start", "1.1"], "there is no exercise 1.1: its name is E1.1"),
    (["start", "E1.1"], "E1.1 is started already: write the body of Double.forward in gpt/x.py, or put the original"),
    (["restore", "E1.2"], "E1.2 is not started: nothing to restore"),
    (["list", "7"], "there is no chapter 7 with exercises: there are 1, 2"),
    (["release", "..", "1"], "is there already and not empty: name a folder that does not exist yet"),
    (["release", "week1", "1"], "lies inside this repository"),
    (["release", "../week1", "2"], "E1.1 started here: put the originals back first, with: .* restore E1.1"),
    (["grade", "..", "1"], "E1.1 started here: put the originals back first, with: .* restore E1.1")])
def test_a_command_that_cannot_be_done_says_why_in_one_line(course, words, complaint):
    call(course, "start", "E1.1")
    assert re.search(complaint, call(course, *words, expect=1))


@pytest.mark.parametrize("edit, complaint", [
    (lambda text: text.replace("class Double", "class D"), "has no Double.forward, .*kept in data/exercises/E1.1.py"),
    (lambda text: text + "def (:", "x.py, line 1[0-9]: .*must be corrected first.*kept in data/exercises/E1.1.py"),
    (lambda text: text + "\0", "gpt/x.py is no Python source")])
def test_a_students_file_that_cannot_be_restored_is_left_alone(course, edit, complaint):
    call(course, "start", "E1.1")
    file = course / "gpt" / "x.py"
    edited = edit(file.read_text())
    file.write_text(edited)
    assert re.search(complaint, call(course, "restore", "E1.1", expect=1)) and file.read_text() == edited


@pytest.mark.parametrize("kept", [b"", b"    def other(self, x):\n        return x\n", b"def f(:", b"\xff"])
def test_a_damaged_original_is_named_with_the_way_out(course, kept):
    call(course, "start", "E1.1")
    (course / "data" / "exercises" / "E1.1.py").write_bytes(kept)
    before = (course / "gpt" / "x.py").read_bytes()
    for command in ("answer", "restore"):
        said = call(course, command, "E1.1", expect=1)
        assert re.search("data/exercises/E1.1.py, which kept the original .* is damaged: .* git checkout gpt/x.py", said)
    assert (course / "gpt" / "x.py").read_bytes() == before
    (course / "data" / "exercises" / "E1.1.py").unlink()
    subprocess.run(["git", "checkout", "-q", "gpt/x.py"], cwd=course, check=True)
    assert "doubled" in call(course, "answer", "E1.1"), "the way out is none"


def test_the_last_line_on_the_screen_says_what_is_wrong_with_the_exercise(course):
    file = course / "gpt" / "x.py"
    file.write_text(TOY.replace("x + x    # doubled", "x"))
    said = call(course, "pytest", "--exercise", "E1.1", expect=1)
    assert said.splitlines()[-1] == "not twice as much: is it added once?"
    assert "1 failed" in said and "def test_double" not in said, "more than the first failing test, or a long traceback"
    assert "2 failed" in call(course, "pytest", "--exercise", "E1.1", "--maxfail=9", expect=1)
    assert "def test_double" in call(course, "pytest", "--exercise", "E1.1", "--tb=long", expect=1)
    assert "2 failed" in call(course, "pytest", "--exercise", "E1.1", "--hidden", "7", expect=1), "grading runs all"
    for text, last in ((TOY.replace("x + x    # doubled", "other"), "NameError: name 'other' is not defined"),
                       ("\ndef (:\n", 'File "gpt/x.py", line 2: SyntaxError: invalid syntax'),
                       ("import nothing", "ModuleNotFoundError: No module named 'nothing'")):
        file.write_text(text)
        assert call(course, "pytest", "--exercise", "E1.1", expect=1).splitlines()[-1] == last
    file.write_text(TOY)
    assert " passed" in call(course, "pytest", "--exercise", "E1.1").splitlines()[-1]


def test_the_option_exercise_runs_its_tests_and_says_how_they_went(course):
    assert "2 passed, 1 deselected" in call(course, "pytest", "--exercise", "E1.2")
    (course / "tests" / "test_other.py").write_text("raise RuntimeError('imported')")
    assert "2 passed" in call(course, "pytest", "--exercise", "e1.1"), "a file without its tests was imported"
    assert "no exercise E9.9: there are E1.1, E1.2, E2.1" in call(course, "pytest", "--exercise", "E9.9", expect=4)
    assert "no exercise 1.1: its name is E1.1" in call(course, "pytest", "--exercise", "1.1", expect=4)
    assert "exercise E2.1 has no test" in call(course, "pytest", "--exercise", "E2.1", expect=4)
    call(course, "start", "E1.1")
    said = call(course, "pytest", "--exercise", "E1.1", expect=1)
    assert "NotImplementedError: exercise E1.1: Double it. (hint: " in said
    (course / "gpt" / "x.py").write_text("def (:")
    assert "SyntaxError" in call(course, "pytest", "--exercise", "E1.1", expect=1), "what cannot be imported has failed"
