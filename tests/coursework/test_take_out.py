"""The table of the exercises, and bodies taken out and put back."""

import ast
import re

import pytest
from conftest import ROOT, draw_sizes, marked
from exercise_table import EXERCISES, Exercise
from take_out import Problem, cut, is_out, put_back, take_out

TEXTS = {"as it is": lambda text: text, "Windows": lambda text: text.replace("\n", "\r\n"),
         "no last line ending": str.rstrip, "byte order mark": lambda text: "\ufeff" + text}


# Taking out and putting back

@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
def test_a_body_that_is_taken_out_and_put_back_is_there_byte_for_byte(exercise):
    for kind, made in TEXTS.items():
        out_and_back(made((ROOT / exercise.file).read_text(encoding="utf-8")), exercise, kind)


def out_and_back(source, exercise, kind):
    opened, original = take_out(source, exercise)
    assert is_out(opened, exercise) and not is_out(source, exercise)
    whole, stub = put_back(opened, exercise, original)
    assert whole == source and stub == cut(opened, exercise).function
    before, after = cut(source, exercise), cut(opened, exercise)
    for part in ("before", "head", "docstring", "after"):
        assert getattr(before, part) == getattr(after, part), f"{part} was changed"
    assert kind != "Windows" or "\n" not in opened.replace("\r\n", ""), "mixed line endings"
    [said] = ast.parse("if True:\n" + after.body).body[0].body
    assert ast.literal_eval(said.exc.args[0]) == (
        f"exercise {exercise.id}: {exercise.task} (hint: python tests/exercises.py hint {exercise.id})")
    compile(opened.removeprefix("\ufeff"), exercise.file, "exec")


ODD = '''class A:
    @property
    # a comment between them
    @cache
    async def f(self, a: dict[str, int] = {1: 2},  # a colon: here
                b=lambda x: x) -> list[int]:       # why
        # gone 1
        """Kept: all of it."""
        # gone 2
        def g():
            return 1  # gone 3

        return g
        # gone 4

    # stays

    def g(self): return "gone 5"

class B:
    def f(self):
        return "stays too"
# stays as well'''


def test_signature_and_docstring_stay_and_the_bodys_comments_go():
    for function in ("A.f", "A.g"):
        exercise = Exercise("E1.1", "odd.py", function, 'say "it"', 1, "easy", ())
        opened, original = take_out(ODD, exercise)
        compile(opened, "odd.py", "exec")
        assert put_back(opened, exercise, original) == (ODD, cut(opened, exercise).function)
        assert ("gone 5" in opened) == (function == "A.f"), "the wrong function"
        for number in range(1, 5):
            assert (f"gone {number}" in opened) == (function == "A.g"), f"gone {number} in\n{opened}"
        for line in ODD.splitlines():
            assert "gone" in line or "return" in line or "def g" in line or line in opened, f"lost: {line}"
        assert "stays too" in opened


@pytest.mark.parametrize("function, source, complaint", [
    ("A.f", "class A:\n    def g(self): pass\n", "x.py has no A.f, and exercise E1.1 needs exactly one: was it"),
    ("f", "def f(): pass\ndef f(): pass\n", "x.py has 2 f, .* or written twice"),
    ("f", "def f(:\n    pass\n", "x.py, line 1: .*: Python cannot read the file, so this must be corrected first"),
    ("f", f"def f():\n    return {'not ' * 6000}1\n", "x.py: .* too long or too deeply nested: Python cannot read"),
    ("f", "def f(): pass\n\0", "^x.py: .*null bytes: Python cannot read the file")])
def test_a_function_that_cannot_be_found_is_an_error_that_says_why(function, source, complaint):
    with pytest.raises(Problem, match=complaint):
        take_out(source, Exercise("E1.1", "x.py", function, "do it", 1, "easy", ()))


# The table and the tests

def test_the_table_names_functions_of_the_library_and_says_all_that_is_needed():
    assert len({(e.file, e.function) for e in EXERCISES.values()}) == len(EXERCISES) >= 24
    for name, exercise in EXERCISES.items():
        assert name == exercise.id and re.fullmatch(r"E[1-9][0-9]?\.[1-9][0-9]?", name)
        assert exercise.file.startswith("gpt/")
        assert exercise.points > 0 and exercise.difficulty in ("easy", "medium", "hard")
        assert 2 <= len(exercise.hints) <= 4 and "\n" not in exercise.task, f"{name}: two or three hints, or four"
    for chapter in range(1, 11):
        assert sum(name.startswith(f"E{chapter}.") for name in EXERCISES) >= 3, f"chapter {chapter} has too few"


def test_the_page_says_how_many_exercises_and_points_there_are():
    points = sum(exercise.points for exercise in EXERCISES.values())
    assert f"{len(EXERCISES)} exercises, {points} points" in (ROOT / "tests" / "README.md").read_text(encoding="utf-8")


def test_every_exercise_has_two_tests_and_every_mark_an_exercise():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    calls = [line for source in sources for line in re.findall(r"mark\.exercise\([^)]*\)", source)]
    marks = [name for line in calls for name in marked(line)]
    assert set(marks) == set(EXERCISES), f"without tests, or unknown: {set(marks) ^ set(EXERCISES)}"
    assert not [name for name in EXERCISES if marks.count(name) < 2], "one test is soon passed by chance"


def test_hidden_sizes_are_others_and_no_two_are_equal():
    assert vars(draw_sizes(None)) == dict(B=2, T=7, C=30, H=5, D=6, V=101, context=24, layers=3)
    drawn = [draw_sizes(seed) for seed in range(50)]
    for sizes in drawn:
        axes = [sizes.B, sizes.T, sizes.C, sizes.H, sizes.D, sizes.V, sizes.context]
        assert len(set(axes)) == len(axes) and sizes.C == sizes.H * sizes.D and sizes.T < sizes.context
    assert len({tuple(vars(sizes).values()) for sizes in drawn}) > 40 and draw_sizes(3) == draw_sizes(3)
