"""Take the body out of one function of a source text, and put it back: text in, text out, no file is touched.

What goes is everything behind the docstring, with the comments in it and those that stand behind it, indented as the
body is. Decorators, signature, docstring, line endings and the rest of the text stay as they are, byte for byte.
"""

import ast
import io
import json
import re
import textwrap
import tokenize
from dataclasses import dataclass
from functools import lru_cache


class Problem(Exception):
    """What went wrong and what to do about it, in a sentence for the command line."""


@dataclass(frozen=True)
class Parts:
    """A source text cut at one function: before + function + after is the whole of it."""

    before: str
    function: str    # decorators, signature, docstring and body
    after: str
    head: str        # decorators and signature, to the end of the line of its colon
    docstring: str   # its lines, or ""
    body: str        # the lines behind the docstring
    indent: str      # of the body


def cut(source, exercise):
    """The Parts of a source text for the exercise's function.

    Raises: Problem if Python cannot read the text, or if it does not have this function exactly once
    """
    lines = list(io.StringIO(source, newline=""))        # as Python counts lines, their endings kept
    node = _find(source, exercise)
    start, end = min(part.lineno for part in (*node.decorator_list, node)) - 1, _end(lines, node)
    row, column = _colon(lines[node.lineno - 1:])
    row += node.lineno                                   # how many lines come before the body
    head = "".join(lines[start:row])
    first, documented = node.body[0], ast.get_docstring(node, clean=False) is not None
    if first.lineno == row:                              # def f(x): return x
        ending = re.search(r"[\r\n]*$", lines[row - 1])[0] or "\n"
        head = "".join(lines[start:row - 1]) + lines[row - 1][:column] + ending
        docstring, body, indent = "", lines[row - 1][column:], " " * (node.col_offset + 4)
    else:
        indent = re.match(r"\s*", lines[first.lineno - 1])[0]
        docstring = "".join(lines[first.lineno - 1:first.end_lineno]) if documented else ""
        body = "".join(lines[first.end_lineno if documented else row:end])
    before, function, after = ("".join(part) for part in (lines[:start], lines[start:end], lines[end:]))
    return Parts(before, function, after, head, docstring, body, indent)


@lru_cache(maxsize=64)    # a release reads some files eight times
def parsed(source, file):
    """The syntax tree of a source text. Raises: Problem, which names the file, if Python cannot read the text"""
    try:
        return ast.parse(source.removeprefix("\ufeff"))    # an editor's mark, no part of the program
    except (RecursionError, MemoryError):
        where, what = file, "something in it is too long or too deeply nested"
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)    # there is none for a zero byte, and some versions call that ValueError
        where, what = f"{file}, line {line}" if line else file, getattr(error, "msg", error)
    raise Problem(f"{where}: {what}: Python cannot read the file, so this must be corrected first")


def _find(source, exercise):
    """The exercise's function as a node of the syntax tree."""
    found = [node for name, node in functions(source, exercise.file) if name == exercise.function]
    if len(found) != 1:
        raise Problem(f"{exercise.file} has {len(found) or 'no'} {exercise.function}, and exercise {exercise.id} needs "
                      f"exactly one: was it renamed, moved, deleted or written twice?")
    return found[0]


@lru_cache(maxsize=64)
def functions(source, file):
    """Every function of a source text, its name as Python qualifies it: [("LoRALayer.forward", node), ...]."""
    found, waiting = [], [(parsed(source, file), "")]    # a list, because recursion fails on a deep tree
    while waiting:
        node, prefix = waiting.pop()
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if not isinstance(node, ast.ClassDef):
                found.append((prefix + node.name, node))
            prefix = f"{prefix}{node.name}."
        waiting += [(child, prefix) for child in ast.iter_child_nodes(node)]
    return found


def _end(lines, node):
    """The number of the function's last line: of its code, or of the comments behind it that are indented with it."""
    end = node.end_lineno
    for number in range(end, len(lines)):
        text = lines[number].lstrip()
        if text and (not text.startswith("#") or len(lines[number]) - len(text) <= node.col_offset):
            break
        end = number + 1 if text else end
    return end


def _colon(lines):
    """Row and column behind the colon that ends the signature which begins in the first of these lines."""
    depth = 0
    for token in tokenize.generate_tokens(iter(lines).__next__):
        depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
        if token.string == ":" and depth == 0:
            return token.end[0] - 1, token.end[1]


def is_out(source, exercise):
    """Whether the sentence that `take_out` writes stands in the body."""
    return f'"exercise {exercise.id}: ' in cut(source, exercise).body


def take_out(source, exercise):
    """The text without the function's body, and the function as it was: what `put_back` needs.

    Whoever calls the function reads: exercise E6.1: <its task> (hint: python tests/exercises.py hint E6.1)
    """
    parts = cut(source, exercise)
    ending = re.search(r"[\r\n]*$", parts.head)[0]
    task = textwrap.wrap(f"exercise {exercise.id}: {exercise.task} ", 90, drop_whitespace=False, break_on_hyphens=False)
    pieces = [*task, f"(hint: python tests/exercises.py hint {exercise.id})"]
    inner = f"{ending}{parts.indent}    "
    said = inner.join(json.dumps(piece, ensure_ascii=False) for piece in pieces)
    stub = f"{parts.indent}raise NotImplementedError({inner}{said})"
    last = re.search(r"[\r\n]*$", parts.function)[0]     # a file may end without an end of line
    return parts.before + parts.head + parts.docstring + stub + last + parts.after, parts.function


def put_back(source, exercise, original):
    """The text with the original function in the place of the one that stands there, and the latter."""
    parts = cut(source, exercise)
    return parts.before + original + parts.after, parts.function
