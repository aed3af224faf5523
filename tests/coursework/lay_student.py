"""Put a student's file into the copy that it is tested in. Run as a script there, in a process of its own.

A student's file is parsed here and nowhere else, because a file can be made on which Python's parser crashes, or works
for minutes. None of its code is run here.

The input on stdin is {"exercise": id, "files": {"gpt/lora.py": its bytes as latin-1, ...}}. The script writes the
exercise's file, and prints "" or the sentence that says why there is none to test, as JSON.
"""

import ast
import contextlib
import json
import re
import sys
import textwrap
from pathlib import Path

from exercise_table import EXERCISES
from take_out import Problem, cut, functions, parsed, put_back


def file_to_grade(exercise, files):
    """The exercise's file as it will be tested. It is the student's. If the submission was begun in an older layout of
    gpt/, it is ours with the student's function in it (`transplanted`).

    Input: files, {"gpt/lora.py": its bytes}
    Raises: Problem if there is none
    """
    source = text_of(exercise.file, files[exercise.file]) if exercise.file in files else None
    if source is not None and has_function(source, exercise) and not older(exercise, source):
        return alone(exercise, source)
    for name, content in sorted(files.items(), key=lambda item: item[0] != exercise.file):
        try:
            other = text_of(name, content)
        except Problem:    # what is wrong with a file that has not the function does not matter
            continue
        if has_function(other, exercise):
            return transplanted(ours(exercise.file), other, exercise, files).encode("utf-8")
    if source is None:
        raise Problem(f"there is no {exercise.file} in the submission")
    cut(source, exercise)    # says what is wrong with it


def ours(file):
    """A file of the copy as it was handed out, line endings as they are."""
    return Path(file).read_bytes().decode("utf-8")


def text_of(name, content):
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Problem(f"{name} is no UTF-8 text: {error}") from None


def has_function(source, exercise):
    """Whether the function is there. A file without its `def` is not parsed, so faults in it do not matter."""
    if not re.search(rf"\bdef\s+{exercise.function.rpartition('.')[2]}\b", source):
        return False
    try:
        return bool(cut(source, exercise))
    except Problem:
        return False


def older(exercise, source):
    """Whether a file was begun when gpt/ was another: it lacks a name of ours, or imports what is not there."""
    clean, file = ours(exercise.file), exercise.file
    if definitions(clean, file) - definitions(source, file) or names_of(clean, file) - names_of(source, file):
        return True
    for node in ast.walk(parsed(source, file)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpt."):
            wanted = f"{node.module.replace('.', '/')}.py"
            if not Path(wanted).is_file() or {alias.name for alias in node.names} - names_of(ours(wanted), wanted):
                return True
    return False


def alone(exercise, source):
    """The student's file with the functions of all other exercises as they were: one mistake costs one exercise."""
    clean, found = ours(exercise.file), []
    for other in EXERCISES.values():
        if other.file == exercise.file and other != exercise:
            with contextlib.suppress(Problem):    # a function that the student lost is missed where it is needed
                theirs = cut(source, other)
                found.append((len(theirs.before), len(theirs.function), cut(clean, other).function))
    for start, length, function in sorted(found, reverse=True):    # from the end, so that the places before it stay
        source = source[:start] + function + source[start + length:]
    return source.encode("utf-8")


def bound(statement):
    """The names that a statement at the top of a module gives a meaning."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def definitions(source, file):
    """The functions and methods of a source text, as Python qualifies them."""
    return {name for name, _ in functions(source, file)}


def names_of(source, file):
    return {name for statement in parsed(source, file).body for name in bound(statement)}


def transplanted(clean, source, exercise, files):
    """Our file with the student's function, and behind our imports what this function needs of the student's own:
    helpers, constants, imports of packages, and what it imported from another of the student's files. Names that our
    file has already mean what they mean in it.
    """
    function = cut(source, exercise).function
    needed = {node.id for node in ast.walk(ast.parse(textwrap.dedent(function))) if isinstance(node, ast.Name)}
    known, helpers = names_of(clean, exercise.file), []
    for statement in reversed(parsed(source, exercise.file).body):    # backwards: a helper stands below what it uses,
        if not bound(statement) & needed - known:                     # as a rule
            continue
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("gpt"):
            file = f"{statement.module.replace('.', '/')}.py"
            there = parsed(text_of(file, files.get(file, b"")), file).body
            found = [other for other in there if bound(other) & bound(statement) & needed - known]
        else:
            found = [statement]
        for one in found:
            helpers.insert(0, ast.unparse(one))
            needed |= {node.id for node in ast.walk(one) if isinstance(node, ast.Name)}
    lines = put_back(clean, exercise, function)[0].splitlines(keepends=True)
    body = parsed(clean, exercise.file).body
    place = max([node.end_lineno for node in body if isinstance(node, (ast.Import, ast.ImportFrom))], default=0)
    return "".join([*lines[:place], *(f"{helper}\n" for helper in helpers), *lines[place:]])


def main():
    order = json.load(sys.stdin)
    exercise, problem = EXERCISES[order["exercise"]], ""
    try:
        content = file_to_grade(exercise, {name: text.encode("latin-1") for name, text in order["files"].items()})
        Path(exercise.file).write_bytes(content)
    except Problem as error:
        problem = str(error)
    print(json.dumps(problem))


if __name__ == "__main__":
    main()
