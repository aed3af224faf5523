"""Grade submissions: each exercise by itself, on a fresh copy of this repository, in a process of its own.

A student's files of the graded exercises are laid over the copy; tests and everything else are the instructor's. An
exercise's points are given if each of its tests reports that it passed, and otherwise not. A crash, an endless loop or
a sys.exit costs that student's points of that exercise, and nobody else anything. It is no prison: a submission runs as
whoever grades, so grade what you do not trust in a container.
"""

import csv
import io
import json
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from exercise_table import EXERCISES
from grade_submission import Grader
from originals import ROOT, write
from release import INSTRUCTORS, copy, refuse_open, tracked
from submissions import submissions


def grade(folder, exercises, args):
    """Grade every submission in the folder, print the points as a table, and write the files that args ask for."""
    refuse_open(EXERCISES.values())
    students = submissions(folder)
    seed = secrets.randbelow(10 ** 6) if args.seed is None else args.seed
    print(f"submissions: {len(students)}, exercises: {len(exercises)}, hidden numbers: --seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        clean = Path(place) / "clean"
        prepare(clean)
        grader = Grader(clean, seed, args.seconds, args.gigabytes * 2 ** 30)
        expected = {exercise: grader.expected(exercise) for exercise in exercises}
        results = {}
        for name, files in students.items():
            results[name] = {exercise: grader.result(exercise, files, expected[exercise]) for exercise in exercises}
            print(f"{name}: {total(results[name])}", flush=True)
    table = as_table(exercises, results)
    print(f"\n{as_text(table)}\n")
    for name, row in results.items():
        for exercise, result in row.items():
            if result.reason:
                print(f"{name} {exercise.id}: {result.reason}")
    if args.csv:
        write(args.csv, as_csv(table))
    if args.gradescope:
        write_gradescope(args.gradescope, results)


def total(row):
    return sum(result.points for result in row.values())


def prepare(clean):
    """A copy of what git tracks here, without answers, and of the two small files that tests read, if they are here."""
    copy(clean, [name for name in tracked() if name not in INSTRUCTORS or name == "tests/coursework/grading_report.py"])
    downloads = Path(os.environ.get("GPT_DATA_DIR") or ROOT / "data").expanduser()
    for name in ("sms", "vocab.bpe"):
        if (downloads / name).is_file():
            (clean / "data").mkdir(exist_ok=True)
            shutil.copy2(downloads / name, clean / "data" / name)


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
    text = io.StringIO(newline="")
    csv.writer(text).writerows(table)
    return text.getvalue()


def write_gradescope(file, results):
    """Gradescope's results.json; a file for each student, with the name in its name, if there are several."""
    for name, row in results.items():
        tests = [dict(name=f"{exercise.id} {exercise.function}", score=result.points, max_score=exercise.points,
                      output=f"{exercise.task}\n{result.reason or 'passed'}\n\n{result.output}".strip())
                 for exercise, result in row.items()]
        path = file if len(results) == 1 else file.with_name(f"{file.stem}-{name}{file.suffix}")
        write(path, json.dumps({"output_format": "text", "tests": tests}, indent=1))
