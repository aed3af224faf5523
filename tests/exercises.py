"""Exercises on the library's own code: a function's body is taken out, and tests say whether yours does the same.

    python tests/exercises.py list               # id, place, points, difficulty, open or not, task; list 6: chapter 6
    python tests/exercises.py start E6.1         # the body leaves its file; signature and docstring stay
    python -m pytest --exercise E6.1             # its tests: red until your body does what the docstring says
    python tests/exercises.py hint E6.1          # one more hint each time
    python tests/exercises.py answer E6.1        # the original body
    python tests/exercises.py restore E6.1       # puts the original back, byte for byte, and saves yours
For instructors (tests/README.md):
    python tests/exercises.py release ../week6 6 # a copy to hand out, without chapter 6's bodies
    python tests/exercises.py grade submissions 6 --csv points.csv       # points for each of the submissions
"""

import argparse
import json
import os
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "coursework"))

import originals  # noqa: E402  (the path comes first)
from exercise_table import EXERCISES  # noqa: E402
from originals import KEPT, shown, unknown, write  # noqa: E402
from take_out import Problem  # noqa: E402

HINTS = KEPT / "hints.json"    # how many hints were given: {"E6.1": 2}


def exercise_of(name):
    if name.upper() not in EXERCISES:
        raise Problem(unknown(name, EXERCISES))
    return EXERCISES[name.upper()]


def chapter_of(name):
    """"10" of "E10.2"."""
    return name[1:].partition(".")[0]


def exercises_of(chapters):
    """The exercises of these chapters, in the table's order; of all where none is named."""
    known = list(dict.fromkeys(map(chapter_of, EXERCISES)))
    for chapter in chapters:
        if chapter not in known:
            raise Problem(f"there is no chapter {chapter} with exercises: there are {', '.join(known)}")
    return [exercise for name, exercise in EXERCISES.items() if not chapters or chapter_of(name) in chapters]


def show_list(args):
    exercises = exercises_of(args.chapters)
    width = max(len(f"{e.file}:{e.function}") for e in exercises)
    for e in exercises:
        points = f"{e.points} point{'s' if e.points > 1 else ' '}"
        state = "open" if originals.is_open(e) else "-"
        print(f"{e.id:5} {f'{e.file}:{e.function}':{width}}  {points}  {e.difficulty:6}  {state:4}  {e.task}")


def show_start(args):
    for exercise in map(exercise_of, args.ids):
        line = originals.start(exercise)
        worth = f"{exercise.points} point{'s' if exercise.points > 1 else ''}"
        print(f"{exercise.id}  {exercise.file}:{line}  {exercise.function}  ({worth}, {exercise.difficulty})")
        print(textwrap.fill(exercise.task, 100, initial_indent="    ", subsequent_indent="    "))
        print(f"    The docstring says what it must do. Check it: python -m pytest --exercise {exercise.id}")


def show_hint(args):
    exercise = exercise_of(args.id)
    try:
        given = json.loads(HINTS.read_text(encoding="utf-8"))
    except (OSError, ValueError):    # none yet, or damaged: begin again
        given = {}
    count = given.get(exercise.id, 0)
    if count >= len(exercise.hints):
        print(f"That was all: the {len(exercise.hints)} hints again. (python tests/exercises.py answer {exercise.id})")
        hints = enumerate(exercise.hints, 1)
    else:
        hints = [(count + 1, exercise.hints[count])]
        write(HINTS, json.dumps(given | {exercise.id: count + 1}))
    for number, hint in hints:
        print(textwrap.fill(f"{number} of {len(exercise.hints)}: {hint}", 100, subsequent_indent="        "))


def show_answer(args):
    exercise = exercise_of(args.id)
    parts = originals.alone(originals.original(exercise).replace("\r\n", "\n"), exercise)
    print(textwrap.dedent(parts.head + parts.body.rstrip()))


def show_restore(args):
    for exercise in map(exercise_of, args.ids):
        saved = originals.restore(exercise)
        yours = f"; yours is saved in {shown(saved)}" if saved else ""
        print(f"{exercise.id}  {exercise.function} is the original again{yours}")


def show_release(args):
    from release import release  # a released copy does not have it

    print(release(Path(args.destination), exercises_of(args.chapters), EXERCISES.values()))


def show_grade(args):
    from grading import grade

    grade(Path(args.submissions), exercises_of(args.chapters), args)


def parser():
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(metavar="COMMAND", required=True)
    for run, arguments in ((show_list, ("chapters*",)), (show_start, ("ids+",)), (show_hint, ("id",)),
                           (show_answer, ("id",)), (show_restore, ("ids+",)),
                           (show_release, ("destination", "chapters+")), (show_grade, ("submissions", "chapters+"))):
        command = commands.add_parser(run.__name__.removeprefix("show_"))
        command.set_defaults(run=run)
        for name in arguments:
            command.add_argument(name.rstrip("+*"), nargs=name[-1] if name[-1] in "+*" else None)
    command.add_argument("--csv", metavar="FILE", type=Path, help="write the points as a table")
    command.add_argument("--gradescope", metavar="FILE", type=Path, help="write Gradescope's results.json")
    command.add_argument("--seed", type=int, help="of the hidden sizes and numbers; by default drawn, and printed")
    command.add_argument("--seconds", type=float, default=60, help="for one exercise (default: 60)")
    command.add_argument("--gigabytes", type=float, default=4, help="of memory for each process (default: 4)")
    return result


def main():
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")
    args = parser().parse_args()
    try:
        args.run(args)
    except ModuleNotFoundError as error:
        if error.name not in ("release", "grading"):
            raise
        sys.exit("this is a released copy: the instructor's has release and grade")
    except Problem as problem:
        sys.exit(str(problem))
    except KeyboardInterrupt:
        sys.exit("stopped")
    except BrokenPipeError:    # list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
