"""Grade submissions: each exercise by itself, on a fresh copy of this repository, in a process of its own.

A student's files of the graded exercises are laid over the copy; tests and everything else are the instructor's. An
exercise's points are given if each of its tests reports that it passed, and otherwise not. A crash, an endless loop or
a sys.exit costs that student's points of that exercise, and nobody else anything. The table is written anew after each
student (--csv), so the rows so far survive a crash. It is no prison: a submission runs as whoever grades,
so grade what you do not trust in a container.
"""

import csv
import io
import json
import os
import secrets
import traceback
from pathlib import Path

from exercise_table import EXERCISES
from grade_submission import Grader, Result
from originals import ROOT, write
from release import INSTRUCTORS, refuse_open, tracked
from submissions import submissions


def grade(folder, exercises, args):
    """Grade every submission in the folder, print the points as a table, and write the files that args ask for."""
    refuse_open(EXERCISES.values())
    students = submissions(folder)
    seed = secrets.randbelow(10 ** 6) if args.seed is None else args.seed
    print(f"submissions: {len(students)}, exercises: {len(exercises)}, hidden numbers: --seed {seed}", flush=True)
    grader = Grader(prepare(), seed, args.seconds, args.gigabytes * 2 ** 30)
    expected = {exercise: grader.expected(exercise) for exercise in exercises}
    results = {}
    try:
        for name, files in students.items():
            print(f"{name}: ", end="", flush=True)    # first, so that one sees who was graded when the grader died
            row = {exercise: result_of(grader, exercise, files, expected[exercise]) for exercise in exercises}
            results[name] = row
            print(total(row), flush=True)
            if args.csv:
                write(args.csv, as_csv(as_table(exercises, results)))
            if args.gradescope:
                file = args.gradescope
                own = file.with_name(f"{file.stem}-{name}{file.suffix}")
                write(own if len(students) > 1 else file, as_gradescope(row))
    finally:
        print(f"\n{as_text(as_table(exercises, results))}\n")
        for name, row in results.items():
            for exercise, result in row.items():
                if result.reason:
                    print(f"{name} {exercise.id}: {result.reason}")


def result_of(grader, exercise, files, expected):
    """The Result, whatever goes wrong: a mistake in the grader, or a full disk, costs the others nothing."""
    try:
        return grader.result(exercise, files, expected)
    except Exception as error:
        reason = f"not graded, because the grader itself failed: {type(error).__name__}: {error}"
        return Result(0, reason, traceback.format_exc())


def total(row):
    return sum(result.points for result in row.values())


def prepare():
    """{name: bytes} of what git tracks here, without answers, and of two small files that tests read, if there are any.
    """
    needed = ("tests/coursework/grading_report.py", "tests/coursework/lay_student.py")
    clean = {name: (ROOT / name).read_bytes() for name in tracked() if name not in INSTRUCTORS or name in needed}
    downloads = Path(os.environ.get("GPT_DATA_DIR") or ROOT / "data").expanduser()
    found = [name for name in ("sms", "vocab.bpe") if (downloads / name).is_file()]
    return clean | {f"data/{name}": (downloads / name).read_bytes() for name in found}


def as_table(exercises, results):
    """Rows of cells: the ids, what there is to be had, and each student's points."""
    most = [exercise.points for exercise in exercises]
    rows = [[name, *(result.points for result in row.values()), total(row)] for name, row in results.items()]
    return [["", *(exercise.id for exercise in exercises), "total"], ["points", *most, sum(most)], *rows]


def as_text(table):
    widths = [max(len(str(row[column])) for row in table) for column in range(len(table[0]))]
    return "\n".join("  ".join(f"{cell:<{width}}" if column == 0 else f"{cell:>{width}}" for column, (cell, width) in
                               enumerate(zip(row, widths, strict=True))) for row in table)


def as_csv(table):
    """The table. A name that begins like a formula gets a ' in front, or a spreadsheet would compute it."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([f"'{row[0]}" if row[0].startswith(tuple("=+-@\t\r")) else row[0], *row[1:]]
                               for row in table)
    return text.getvalue()


def as_gradescope(row):
    """Gradescope's results.json for one student."""
    tests = [dict(name=f"{exercise.id} {exercise.function}", score=result.points, max_score=exercise.points,
                  output=f"{exercise.task}\n{result.reason or 'passed'}\n\n{result.output}".strip())
             for exercise, result in row.items()]
    return json.dumps({"output_format": "text", "tests": tests}, indent=1)
