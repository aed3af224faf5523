"""What a page does with a chapter's prose: captions, boxes for exercises with their hints, links, the glossary."""

import html
import re
import sys
from functools import cache

from cells import CHAPTERS, ROOT, relinked
from library import definition_at

sys.path.insert(0, str(ROOT / "tests" / "coursework"))
from exercise_table import EXERCISES  # noqa: E402  (the path comes first)

CAPTION = re.compile(r"\*[^*\s][^*]*[.?!]\*")    # an italic sentence at the beginning of a paragraph
IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)$")
YOUR_TURN = re.compile(r"\*{1,2}Your turn[.:]?\*{1,2}[.:]?\s*")
SECTION = re.compile(r"^## (\d+b?\.\d+) ", re.MULTILINE)
FILE = re.compile(r"(?<!\[)`(gpt/[\w/]+\.py)`")    # a file's name that is no link yet
ROW = re.compile(r"^\| (.+?) \| (.+?) \| ([\d., b\[\]]+) \|(?: (\S+) \|)?$", re.MULTILINE)    # of the glossary


def page(markdown, follows_a_figure=False, folder="chapters"):
    """A markdown cell as its page has it.

    Input: follows_a_figure, whether the cell before it drew one, so that an italic sentence here is its caption;
        folder, where the links of this text start
    """
    paragraphs = re.split(r"\n{2,}", FILE.sub(_file_link, relinked(markdown, page_link, folder)))
    written, figure = [], follows_a_figure
    while paragraphs:
        paragraph = paragraphs.pop(0)
        if figure and CAPTION.match(paragraph):
            paragraph = "{.caption}\n" + paragraph
        elif YOUR_TURN.match(paragraph):
            command = [paragraphs.pop(0)] if paragraph.endswith(":") and paragraphs else []
            paragraph = exercise_box("\n\n".join([paragraph, *command]))
        elif paragraph.startswith("- Run:"):
            paragraph = "{.facts}\n" + paragraph
        figure = bool(IMAGE.match(paragraph))
        written.append(paragraph)
    return SECTION.sub(r"(section-\1)=\n## \1 ", "\n\n".join(written))


def listing(markdown):
    """What show() displayed, as its page has it: where it stands is a link, and its names are no links (they would
    hide the imports of the chapter)."""
    place, code = re.match(r"`(.+?)`\n\n(.*)", markdown, re.DOTALL).groups()
    file, _, line = place.partition(":")
    return f"{{py:obj}}`{file}, line {line} <{definition_at(file, int(line))}>`\n\n```{{autolink-skip}}\n```\n\n{code}"


def page_link(label, path, anchor=""):
    """A link of a page: to another page, to a picture, or else just the name of the file."""
    if re.fullmatch(r"chapters/\d\w+\.py", path):
        return f"[{label}]({path[9:-3]}.ipynb{anchor})"
    if re.fullmatch(r"gpt/[\w/]+\.py", path):
        return f"[{label}](/{path[:-3]}.rst)"
    if path.endswith((".svg", ".png")):
        return f"[{label}](/{path.removeprefix('chapters/')})"
    if path in ("chapters/GLOSSARY.md", "chapters/README.md", "README.md"):
        return f"[{label}](/{'GLOSSARY.md' if 'GLOSSARY' in path else 'index.md'})"
    return label if path in label else f"{label} (`{path}`)"


def _file_link(found):
    return page_link(found[0], found[1]) if (ROOT / found[1]).exists() else found[0]


def exercise_box(paragraph):
    """A "Your turn" paragraph as a box, with the hints of the exercises that it names folded below."""
    named = [EXERCISES[name] for name in dict.fromkeys(re.findall(r"\bE\d+\.\d+\b", paragraph)) if name in EXERCISES]
    title = " · ".join(["Your turn", *(exercise.id for exercise in named)])
    box = [f"::::{{admonition}} {title}", ":class: your-turn", "", YOUR_TURN.sub("", paragraph, count=1), ""]
    for exercise in named:
        worth = f"{exercise.difficulty}, {exercise.points} point{'s' if exercise.points > 1 else ''}"
        box.append(f"<details><summary>Hints for {exercise.id} ({worth})</summary>")
        for number, hint in enumerate(exercise.hints, 1):
            text = re.sub(r"`(.+?)`", r"<code>\1</code>", html.escape(hint))
            box.append(f"<details><summary>Hint {number}</summary>{text}</details>")
        box.append("</details>")
    return "\n".join([*box, "", "::::"])


@cache
def glossary():
    """The words of the glossary, lower case and singular, each with the id of its row there and what it means."""
    words = {}
    for row in ROW.finditer((CHAPTERS / "GLOSSARY.md").read_text(encoding="utf-8")):
        for word in re.sub(r" \(.*?\)", "", row[1]).split(", ") if row[4] else ():
            words.setdefault(re.sub("(?<=[^s])s$", "", word.lower()), (_row_id(row), row[2]))
    return words


def _row_id(row):
    return "word-" + re.sub(r"\W+", "-", row[1].lower()).strip("-")


def glossary_page():
    """The glossary, in which rows can be linked to, and section numbers and files are links."""
    text = (CHAPTERS / "GLOSSARY.md").read_text(encoding="utf-8")
    text = re.sub(r"^\[\d.*", "", text, flags=re.MULTILINE | re.DOTALL)    # the links of a code host: to lines of files

    def linked(row):
        places = re.sub(r"\[(.+?)\]", r"[\1](#section-\1)", row[3])
        first = f'<span id="{_row_id(row)}"></span>{row[1]}' if row[4] else row[1]
        file = f" {FILE.sub(_file_link, f'`{row[4]}`')} |" if row[4] else ""
        return f"| {first} | {row[2]} | {places} |{file}"

    return page(ROW.sub(linked, text))
