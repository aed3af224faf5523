"""What the instructor does with the exercises: release and grade."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from types import SimpleNamespace

import grade_submission
import grading
import lay_student
import pytest
import release
import take_out
from conftest import ROOT
from exercise_table import EXERCISES
from toy_course import TABLE, TOY, call, new_course


@pytest.fixture
def course(tmp_path):
    return new_course(tmp_path / "a course")


def test_a_release_has_neither_bodies_nor_what_quotes_them(course, tmp_path):
    week = tmp_path / "week 1"
    assert "2 exercises, 5 points: E1.1 E1.2" in call(course, "release", str(week), "1")
    names = {path.relative_to(week).as_posix() for path in week.rglob("*") if path.is_file()}
    assert {"README.md", "gpt/x.py", "tests/exercises.py", release.RELEASED.relative_to(ROOT).as_posix()} <= names
    assert not names & {*release.INSTRUCTORS} and not [name for name in names if name.startswith(".git/")]
    toy = week / "gpt" / "x.py"
    assert "threefold" not in toy.read_text() and "return x\n" in toy.read_text(), "chapter 2's stays"
    assert [line.split()[0] for line in call(week, "list").splitlines() if " open " in line] == ["E1.1", "E1.2"]
    toy.write_text(TOY.replace("x + x + x", "3 * x"))    # a student's, and not taken for the original
    for command in ("start", "restore", "answer"):
        assert re.search("this copy|in this copy", call(week, command, "E1.2", expect=1))
    assert "the instructor's" in call(week, "release", "../week 2", "1", expect=1)
    assert "2 passed" in call(week, "pytest", "--exercise", "E1.2")


def test_a_release_that_would_quote_an_answer_is_none(course, tmp_path):
    (course / "README.md").write_text("Three times:\n\n    threefold_result  =  x + x + x   # so\n")
    assert "release" in call(course, "release", str(tmp_path / "week 2"), "2"), "chapter 2's copy may have it"
    run = subprocess.run([sys.executable, course / "tests" / "exercises.py", "release", tmp_path / "week 1", "1"],
                         capture_output=True, encoding="utf-8")
    assert run.returncode == 1 and "README.md:3 quotes E1.2: threefold_result = x + x + x" in run.stderr
    assert not (tmp_path / "week 1").exists()


GRADED = {"right": ("return x + x", 2, ""),
          "wrong": ("return x", 0, "AssertionError: not twice as much: is it added once"),
          "endless": ("while True: pass", 0, "not done after 5 seconds"),
          "raises": ("import nothing", 0, "No module named 'nothing'"),
          "exits": ("sys.exit(0)", 0, "exit status 3"),
          "vanishes": ("os._exit(0)", 0, "the process ended, with exit status 0, before"),
          "skips": ("pytest.skip()", 0, "skipped: look for pytest.skip"),
          "stops": ("pytest.exit('that is all', 4)", 0, "exit status 4, .*look for pytest.exit.*that is all"),
          "nested": (f"x = {'not ' * 6000}1", 0, "gpt/x.py: .*nested: Python cannot read the file"),
          "sums": (f"x = {'1 + ' * 100_000}1", 0, "gpt/x.py: .*nested: Python cannot read the file|RecursionError"),
          "zero": ("\0", 0, "gpt/x.py: .*null bytes: Python cannot read the file")}


def hand_in(folder, **edits):
    """Each student's gpt/x.py: the line in forward(), or at the top, where it runs while the file is imported."""
    for name, line in edits.items():
        text = TOY.replace("return x + x    # doubled", line)
        if name in ("raises", "exits", "vanishes", "nested", "sums", "zero"):
            text = f"{line}\n{TOY}"
        (folder / name / "gpt").mkdir(parents=True)
        (folder / name / "gpt" / "x.py").write_text(f"import os, sys, time, pytest\n{text}")


def test_each_submission_gets_its_points_whatever_the_others_do(course, tmp_path):
    folder = tmp_path / "handed in"
    hand_in(folder, **{name: line for name, (line, _, _) in GRADED.items()})
    (folder / "nothing").mkdir()
    (folder / "damaged.zip").write_bytes(b"PK")
    with zipfile.ZipFile(folder / "zipped.zip", "w") as archive:
        archive.writestr("week 1/gpt/x.py", TOY)
        archive.writestr("__MACOSX/week 1/gpt/._x.py", b"\0")
    points = {name: points for name, (_, points, _) in GRADED.items()} | {"nothing": 0, "damaged": 0, "zipped": 2}
    (course / "tests" / "coursework" / "exercise_table.py").write_text(re.sub(r'    Exercise\("E1.2".*\n', "", TABLE))
    said = call(course, "grade", str(folder), "1", "--csv", "points.csv", "--seconds", "5", "--seed", "7")
    table = [line.split(",") for line in (course / "points.csv").read_text().split()]
    assert table == [["", "E1.1", "total"], ["points", "2", "2"], *(
        [name, str(points[name]), str(points[name])] for name in sorted(points))], said
    for name, (_, _, reason) in GRADED.items():
        assert not reason or re.search(rf"^{name} E1.1: .*({reason})", said, re.M), f"{name}: {said}"
    assert re.search("^nothing E1.1: no gpt/", said, re.M) and re.search("^damaged E1.1: not a zip file", said, re.M)


def test_a_loop_in_one_exercise_does_not_cost_another_that_calls_it(course, tmp_path):
    folder = tmp_path / "handed in"
    for name, line in (("loop", "while True: pass"), ("renamed", "return 3 * x")):
        (folder / name / "gpt").mkdir(parents=True)
        text = TOY.replace("threefold_result = x + x + x", line)
        text = text.replace("class Triple", "class Threefold") if name == "renamed" else text
        (folder / name / "gpt" / "x.py").write_text(text)
    call(course, "grade", str(folder), "1", "--csv", "points.csv", "--seconds", "5")
    table = [line.split(",") for line in (course / "points.csv").read_text().split()]
    assert table[2:] == [["loop", "2", "0", "2"], ["renamed", "2", "0", "2"]], "E1.1's tests call E1.2's function"


@pytest.mark.skipif(os.name == "nt", reason="no process can be forked there")
def test_gradescopes_file_for_one_submission_whose_forked_child_ends_with_it(course, tmp_path):
    alive = tmp_path / "alive"
    leave = "os.setsid()" if sys.platform == "linux" else "pass"    # its group: elsewhere it would then live on
    child = f"while True: open({str(alive)!r}, 'a').write('.'), time.sleep(0.01)"
    hand_in(tmp_path, fork=f"if not os.fork():\n            {leave}\n            {child}\n        return 2 * x")
    call(course, "grade", str(tmp_path / "fork"), "1", "--gradescope", str(tmp_path / "results.json"))
    tests = json.loads((tmp_path / "results.json").read_text())["tests"]
    assert [(test["name"], test["score"], test["max_score"]) for test in tests] == [
        ("E1.1 Double.forward", 2, 2), ("E1.2 Triple.forward", 3, 3)] and "passed" in tests[0]["output"]
    size = alive.stat().st_size
    time.sleep(0.2)
    assert alive.stat().st_size == size > 0, "a child that it forked goes on"


HOSTILE = """
import os, tempfile, time
from pathlib import Path

def poison():
    for test in Path(PLACE).rglob("test_toy.py"):
        if Path.cwd() not in test.parents:
            with open(test, "a") as file:
                file.write("\\n@pytest.mark.exercise('E1.1')\\ndef test_poison(): assert False, 'POISON'\\n")

def attack():
    poison()
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        for second in range(20):
            Path(PLACE, "alive").write_text(str(second))
            time.sleep(1)
            poison()
    for number in range(5):
        Path(tempfile.gettempdir(), str(number)).write_bytes(bytes(10 ** 7))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process that leaves its group lives on there")
@pytest.mark.parametrize("place", ["first", "in the middle", "last"])
def test_the_points_do_not_depend_on_when_a_hostile_submission_is_graded(course, tmp_path, monkeypatch, place):
    """It looks for the tests of the others, leaves a process that goes on doing so, and litters."""
    folder, temporary = tmp_path / "handed in", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    right, hostile = "bcemno", {"first": "a", "in the middle": "k", "last": "z"}[place]
    hand_in(folder, **dict.fromkeys(right, "return 2 * x"), d="return x", l="return 3 * x", p="import nothing",
            **{hostile: "return attack() or 2 * x"})
    with open(folder / hostile / "gpt" / "x.py", "a") as file:
        file.write(HOSTILE.replace("PLACE", repr(str(tmp_path))))
    (course / "tests" / "coursework" / "exercise_table.py").write_text(re.sub(r'    Exercise\("E1.2".*\n', "", TABLE))
    said = call(course, "grade", str(folder), "1", "--csv", "points.csv")
    table = [line.split(",") for line in (course / "points.csv").read_text().split()]
    points = dict.fromkeys([*right, hostile], "2") | dict.fromkeys("dlp", "0")
    assert {name: theirs for name, theirs, _ in table[2:]} == points, said
    assert not list(temporary.iterdir()), "what it wrote for the time being is still there"
    alive = tmp_path / "alive"
    before = alive.exists() and alive.read_text()
    time.sleep(1.5)
    assert (alive.exists() and alive.read_text()) == before, "a process that it left behind goes on"


@pytest.mark.skipif(sys.platform != "linux", reason="not all of these limits are there")
def test_memory_that_processes_share_and_files_and_processes_are_limited(course, tmp_path):
    hand_in(tmp_path, greedy="return greedy() or 2 * x")
    with open(tmp_path / "greedy" / "gpt" / "x.py", "a") as file:
        file.write("""
import contextlib, mmap, resource

def greedy():
    with contextlib.suppress(OSError):
        mmap.mmap(-1, 2 << 30)
        raise AssertionError("2 GB of shared memory under a limit of 1 GB")
    with contextlib.suppress(OSError), open("large", "wb") as file:
        file.write(bytes(65 << 20))
    assert os.stat("large").st_size <= 64 << 20, "a file of more than 64 MB"
    assert resource.getrlimit(resource.RLIMIT_NPROC)[0] <= 4096, "any number of processes"
""")
    said = call(course, "grade", str(tmp_path / "greedy"), "1", "--gigabytes", "1")
    assert "greedy: 5" in said, said


def test_a_parser_that_crashes_or_does_not_end_costs_that_file_alone(tmp_path, monkeypatch):
    """Whatever Python's parser does, it does so in a process of its own."""
    monkeypatch.setattr(grade_submission, "PARSING", 1)
    script = tmp_path / "tests" / "coursework" / "lay_student.py"
    script.parent.mkdir(parents=True)
    for does, complaint in (("import os; os.abort()", "exit status"), ("while True: pass", "not done after 1 seconds"),
                            ("raise MemoryError", "MemoryError")):
        script.write_text(does)
        said = grade_submission.lay_student(tmp_path, EXERCISES["E6.2"], {"gpt/lora.py": b""}, 2 ** 30)
        assert said.startswith("gpt/lora.py: Python cannot read the file (") and complaint in said


def test_a_students_file_is_parsed_once(monkeypatch):
    """And not for each of the other exercises in it, whose functions become the original ones."""
    parsed, parse = [], take_out.ast.parse
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(take_out.ast, "parse", lambda text: parsed.append(text) or parse(text))
    clean = lay_student.ours("gpt/lora.py")
    theirs = clean + "\nMINE = 1\n"
    for exercise in ("E6.1", "E6.3"):
        theirs = take_out.take_out(theirs, EXERCISES[exercise])[0]
    parsed.clear()
    laid = lay_student.file_to_grade(EXERCISES["E6.2"], {"gpt/lora.py": theirs.encode()})
    assert laid.decode() == clean + "\nMINE = 1\n" and parsed.count(theirs) <= 1 and len(parsed) <= 20


def test_the_table_has_the_rows_so_far_whatever_ends_the_grading(tmp_path, monkeypatch, capsys):
    """A mistake in the grader costs one student a row of 0, and Ctrl-C nobody the row that is written."""
    class Grader:
        def __init__(self, *settings):
            pass

        def expected(self, exercise):
            return set()

        def result(self, exercise, files, expected):
            if isinstance(files, BaseException):
                raise files
            return grading.Result(exercise.points, "", "")

    students = {"ann": {}, "bob": ZeroDivisionError("a mistake"), "cat": {}, "dan": KeyboardInterrupt(), "eve": {}}
    for name, value in (("Grader", Grader), ("submissions", lambda folder: students), ("prepare", dict),
                        ("refuse_open", list)):
        monkeypatch.setattr(grading, name, value)
    args = SimpleNamespace(seed=1, seconds=1, gigabytes=1, csv=tmp_path / "points.csv",
                           gradescope=tmp_path / "points.json")
    with pytest.raises(KeyboardInterrupt):
        grading.grade(tmp_path, [EXERCISES["E2.1"], EXERCISES["E6.2"]], args)
    assert args.csv.read_text().split() == [",E2.1,E6.2,total", "points,4,1,5", "ann,4,1,5", "bob,0,0,0", "cat,4,1,5"]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        "points-ann.json", "points-bob.json", "points-cat.json"]
    said = capsys.readouterr().out
    assert "bob E6.2: not graded, because the grader itself failed: ZeroDivisionError: a mistake" in said
    assert re.search(r"^cat +4 +1 +5$", said, re.M), f"the table is not printed: {said}"


def test_a_name_in_the_table_is_no_formula():
    names = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "ann", "'=1", "a=b"]
    rows = list(csv.reader(io.StringIO(grading.as_csv([["", "E1.1"], *([name, 2] for name in names)]), newline="")))
    assert [row[0] for row in rows] == ["", *(f"'{name}" for name in names[:6]), *names[6:]]


def test_grading_runs_all_tests_of_an_exercise_though_a_learner_sees_the_first_that_fails(course, tmp_path):
    hand_in(tmp_path, wrong="return x")
    call(course, "grade", str(tmp_path / "wrong"), "1", "--gradescope", str(tmp_path / "results.json"))
    output = json.loads((tmp_path / "results.json").read_text())["tests"][0]["output"]
    assert "2 failed" in output and "\nAssertionError: not twice as much: is it added once?\n" in output


def test_every_chapter_can_be_released_and_the_tests_that_a_release_keeps_can_be_collected(tmp_path, monkeypatch):
    """With all bodies out: none is called while a test file is imported."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]    # also what is not added yet
    names = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8").stdout.split("\0")
    ours = {name.partition("/")[0] for name in release.tracked()}    # no virtual environment that lies here
    names = [name for name in names if (ROOT / name).is_file() and name.partition("/")[0] in ours - {"data", "figures"}]
    monkeypatch.setattr(release, "tracked", lambda: names)
    everything = EXERCISES.values()
    for chapter in sorted({name.partition(".")[0] for name in EXERCISES}):
        exercises = [exercise for exercise in everything if exercise.id.startswith(f"{chapter}.")]
        release.release(tmp_path / chapter, exercises, everything)
    release.release(tmp_path / "all", everything, everything)
    said = call(tmp_path / "all", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider")
    assert re.search(r"\d\d\d+(/\d+)? tests collected", said), said


def test_a_submission_of_an_older_layout_is_graded_like_one_of_todays(tmp_path):
    """gpt/x.py has become gpt/deep/x.py since these were handed in, and what it imported has moved on too."""
    course = new_course(tmp_path / "a course")
    (course / "gpt" / "deep").mkdir()
    (course / "gpt" / "x.py").rename(course / "gpt" / "deep" / "x.py")
    tests = course / "tests" / "test_toy.py"
    tests.write_text(tests.read_text().replace("gpt.x", "gpt.deep.x"))
    (course / "tests" / "coursework" / "exercise_table.py").write_text(TABLE.replace("gpt/x.py", "gpt/deep/x.py"))
    subprocess.run(["git", "add", "-A"], cwd=course, check=True)
    own = TOY.replace("return x + x    # doubled", "return times(TWO, x)").replace("class Double", (
        "from gpt.gone import what_has_moved\nTWO = 2\n\ndef times(a, b):\n    return a * b\n\nclass Double"))
    for student, file, text in (("new", "gpt/deep/x.py", TOY), ("old", "gpt/x.py", own),
                                ("old-in-its-place", "gpt/deep/x.py", own),
                                ("old-wrong", "gpt/x.py", own.replace("TWO = 2", "TWO = 3")),
                                ("old-broken", "gpt/x.py", own.replace("from gpt.gone", "from gpt.helper").replace(
                                    "what_has_moved", "times").replace("def times", "def other"))):
        path = tmp_path / "handed in" / student / file
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (tmp_path / "handed in" / "old-broken" / "gpt" / "helper.py").write_text("def times(a, b:\n")
    said = call(course, "grade", str(tmp_path / "handed in"), "1", "--csv", "points.csv")
    assert re.search(r"old-broken E1.1: gpt.helper.py, line 1: .*Python cannot read the file", said), said
    table = [line.split(",") for line in (course / "points.csv").read_text().split()]
    assert table[2:] == [["new", "2", "3", "5"], ["old", "2", "3", "5"], ["old-broken", "0", "3", "3"], ["old-in-its-place", "2", "3", "5"],
                         ["old-wrong", "0", "3", "3"]]
