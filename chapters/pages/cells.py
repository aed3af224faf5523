"""A chapter as the cells of a notebook. Only the standard library: the tests compare the committed notebooks by it."""

import hashlib
import inspect
import json
import posixpath
import re
from pathlib import Path

PAGES = Path(__file__).resolve().parent
CHAPTERS, ROOT = PAGES.parent, PAGES.parents[1]
NOTEBOOKS = CHAPTERS / "notebooks"

FIND_BOOK = 'import sys\n\nsys.path.insert(0, "..")    # book.py, which the chapters share, is one folder up'
ONLY_ON_A_TERMINAL = re.compile(r"^(section\(.*\)|\s*#>.*)\n?", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\(([\w./-]+\.(?:py|md|svg|png|csv|txt))(#[\w-]+)?\)")    # to a file of the repository


def chapter_files():
    """The chapters in the order in which they are read."""
    return sorted(CHAPTERS.glob("[0-9]*.py"))


def section_links():
    """What the sections' numbers in the glossary lead to on a code host: "[2.5]: 02_attention.py#L320", one a line."""
    links = []
    for chapter in chapter_files():
        for line, text in enumerate(chapter.read_text(encoding="utf-8").splitlines(), 1):
            if heading := re.match(r"# ## (\d+b?\.\d+) ", text):
                links.append(f"[{heading[1]}]: {chapter.name}#L{line}\n")
    return "".join(links)


def with_section_links(glossary):
    """The glossary's text with the links as the chapters now have them."""
    return re.sub(r"^\[\d.*", "", glossary, flags=re.MULTILINE | re.DOTALL).rstrip() + "\n\n" + section_links()


def cells(text):
    """The cells of a chapter: pairs of "markdown" or "code", and its text as a notebook has it.

    The notebook leaves out what only a terminal needs: section(...), which prints a heading, and the #> lines.
    """
    found = []
    for kind, body in raw_cells(text):
        if kind == "markdown":
            found.append((kind, _without_comment_signs(body)))
        else:
            code = ONLY_ON_A_TERMINAL.sub("", body).strip()
            found.append((kind, re.sub(r"\n{4,}", "\n\n\n", code)))
    return [(kind, source) for kind, source in found if source]


def raw_cells(text):
    """The cells of a file in percent format as they stand there: pairs of "markdown" or "code", and a text."""
    parts = (part.partition("\n") for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:])
    return [("markdown" if kind.strip() == "[markdown]" else "code", body.strip()) for kind, _, body in parts]


def _without_comment_signs(body):
    if body.startswith('"""'):
        return inspect.cleandoc(body.strip('"'))
    return re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip()


def relinked(markdown, change, folder="chapters"):
    """Markdown in which each link to a file of the repository is change(label, path from the root, #anchor)."""
    def replace(found):
        label, target, anchor = found.groups(default="")
        return change(label, posixpath.normpath(posixpath.join(folder, target)), anchor)

    return LINK.sub(replace, markdown)


def notebook_link(label, path, anchor):
    """A link of a notebook: a chapter is the notebook beside it, any other file lies where it always does."""
    is_chapter = re.fullmatch(r"chapters/\d\w+\.py", path)
    target = path[9:-3] + ".ipynb" if is_chapter else posixpath.relpath(path, "chapters/notebooks")
    return f"[{label}]({target}{anchor})"


def notebook_cells(chapter):
    """The cells of chapters/notebooks/NN_name.ipynb without their outputs, as nbformat 4.5 has them."""
    (_, title), *others = cells(chapter.read_text(encoding="utf-8"))
    written, times = [], {}
    for kind, source in [("markdown", title), ("code", FIND_BOOK), *others]:
        if kind == "markdown":
            source = relinked(source, notebook_link)
        times[source] = times.get(source, 0) + 1
        cell_id = hashlib.sha256(f"{times[source]}{kind}{source}".encode()).hexdigest()[:8]    # a cell keeps its own
        cell = {"cell_type": kind, "id": cell_id, "metadata": {}, "source": source.splitlines(keepends=True)}
        written.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    return written


def notebook(cells_of_it):
    """A notebook of these cells."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells_of_it, "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
            "nbformat": 4, "nbformat_minor": 5}


def as_text(cells_of_it):
    """The notebook's file, the same for the same cells."""
    return json.dumps(notebook(cells_of_it), indent=1, ensure_ascii=False) + "\n"
