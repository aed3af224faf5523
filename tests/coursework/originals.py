"""Which exercises are open in this copy of the repository, and where the originals of their functions are kept.

A function whose body was taken out is kept as data/exercises/<id>.py, as it was, so that restoring needs no git. A copy
made by `release` has no originals: released.txt beside this file names the exercises whose bodies it was made without.

Nothing here imports gpt/: the tool must work while a student's file there does not.
"""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from take_out import Problem, cut, is_out, put_back, take_out

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "data" / "exercises"        # of this copy, wherever GPT_DATA_DIR keeps the downloads
RELEASED = ROOT / "tests" / "released.txt"


def read(path):
    """The text of a file, line endings as they are."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise Problem(f"{shown(path)} is not there: was it renamed, moved or deleted?") from None
    except UnicodeDecodeError as error:
        raise Problem(f"{shown(path)} is no UTF-8 text ({error}): save it as UTF-8") from None
    if "\0" in text:
        raise Problem(f"{shown(path)} is no Python source: it has zero bytes in it")
    return text


def write(path, text):
    """Write a file whole or not at all: whoever kills the tool finds the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        else:
            os.chmod(temporary, 0o644)                  # mkstemp's files are for their owner alone
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def shown(path):
    """A path as the command line shows it: from the repository's root, where it is in it."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def unknown(name, exercises):
    """What to tell someone who names an exercise that is not there."""
    known = f"its name is E{name}" if f"E{name}" in exercises else f"there are {', '.join(exercises)}"
    return f"there is no exercise {name}: {known}"


def kept(exercise):
    return KEPT / f"{exercise.id}.py"


def released():
    """The ids of the exercises that this copy was made without."""
    return set(RELEASED.read_text(encoding="utf-8").split()) if RELEASED.exists() else set()


def is_open(exercise):
    return exercise.id in released() or kept(exercise).exists()


def start(exercise):
    """Take the body out of the exercise's file and keep the function; the number of the line where it begins."""
    source = read(ROOT / exercise.file)
    if exercise.id in released():
        raise Problem(f"{exercise.id} is open in this copy from the beginning: write the body of {exercise.function} "
                      f"in {exercise.file}")
    if kept(exercise).exists():
        raise Problem(f"{exercise.id} is started already: write the body of {exercise.function} in {exercise.file}, "
                      f"or put the original back with: python tests/exercises.py restore {exercise.id}")
    if is_out(source, exercise):
        raise Problem(f"the body of {exercise.function} is out already, and its original is not in {shown(KEPT)}: "
                      f"git restore {exercise.file} brings it back")
    opened, original = take_out(source, exercise)
    write(kept(exercise), original)                     # first: a body must never be in neither place
    write(ROOT / exercise.file, opened)
    return cut(opened, exercise).before.count("\n") + 1


def restore(exercise):
    """Put the original function back; the file in which the student's own was saved, or None if there was none yet."""
    _refuse_without_original(exercise, "nothing to restore")
    source, original = read(ROOT / exercise.file), _kept_function(exercise)
    try:
        whole, theirs = put_back(source, exercise, original)
    except Problem as problem:
        raise Problem(f"{problem} (The original function is kept in {shown(kept(exercise))}.)") from None
    saved = None
    if theirs not in (original, cut(take_out(whole, exercise)[0], exercise).function):
        numbers = (number for number in range(1, 10 ** 6) if not _own(exercise, number).exists())
        saved = _own(exercise, next(numbers))
        write(saved, theirs)
    write(ROOT / exercise.file, whole)
    kept(exercise).unlink()
    return saved


def _own(exercise, number):
    return KEPT / f"{exercise.id}-yours-{number}.py"


def original(exercise):
    """The source of the function as it was before anyone took its body out."""
    if not is_open(exercise):
        return cut(read(ROOT / exercise.file), exercise).function
    _refuse_without_original(exercise, "no answer to show")
    return _kept_function(exercise)


def alone(function, exercise):
    """The Parts of a function's own text, which may be a method's, without the class around it."""
    text = "if True:\n" + function if function[:1].isspace() else function
    return cut(text, replace(exercise, function=exercise.function.rpartition(".")[2]))


def _kept_function(exercise):
    """The text that is kept of the function. Raises: Problem if the function is not in it"""
    try:
        text = read(kept(exercise))
        alone(text, exercise)
    except Problem:
        raise Problem(f"{shown(kept(exercise))}, which kept the original of {exercise.function}, is damaged: save your "
                      f"{exercise.file} elsewhere, delete the damaged file, and get the original with: "
                      f"git checkout {exercise.file}") from None
    return text


def _refuse_without_original(exercise, what):
    if exercise.id in released():
        raise Problem(f"{exercise.id}: {what}: this copy was made without it, the instructor has it")
    if not kept(exercise).exists():
        raise Problem(f"{exercise.id} is not started: {what}")
