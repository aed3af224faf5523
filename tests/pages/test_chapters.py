"""Each chapter runs with --quick and prints what its `#>` lines say. Run with: python -m pytest -m chapters"""

import ast
import os
import re
import statistics
import subprocess
import sys

import pytest
from conftest import ROOT, modules_of_gpt
from exercise_table import EXERCISES

from gpt.tokenizer import gpt2_tokenizer

sys.path.insert(0, str(ROOT / "chapters" / "pages"))
from cells import raw_cells  # noqa: E402  (the path comes first)

CHAPTERS = sorted(path for path in (ROOT / "chapters").glob("[0-9]*.py"))


@pytest.mark.chapters
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_prints_what_its_comments_say(chapter, tmp_path):
    source = chapter.read_text(encoding="utf-8")
    run = subprocess.run([sys.executable, str(chapter), "--quick"], cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, f"{chapter.name} --quick stopped:\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}"
    printed = iter(run.stdout.splitlines())
    for line in re.findall(r"^ *#> ?(.*)$", source, flags=re.MULTILINE):
        assert any(line.rstrip() == said.rstrip() for said in printed), f"{chapter.name} no longer prints: {line}"


OFFLINE = """
import os, runpy, sys

def refuse(event, arguments):    # Python reports to it whatever it is about to do
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        raise AssertionError(f"{event}{arguments}")

sys.addaudithook(refuse)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_first_minute_needs_no_network_and_no_file_from_elsewhere(tmp_path):
    """Chapter 0 with sockets forbidden and an empty data folder: a fresh clone on a train."""
    run = subprocess.run([sys.executable, "-c", OFFLINE, ROOT / "chapters" / "00_first_minute.py"], cwd=tmp_path,
                         env=os.environ | {"GPT_DATA_DIR": str(tmp_path / "data")}, capture_output=True,
                         encoding="utf-8")
    assert run.returncode == 0, run.stderr[-2000:]
    assert "the two answers: predicted ['spam', 'ham'], measured ['spam', 'ham']" in run.stdout
    assert not (tmp_path / "data").exists(), "something was fetched or written"


def test_the_ids_of_the_first_minute_are_those_of_the_tokenizer():
    source = (ROOT / "chapters" / "00_first_minute.py").read_text(encoding="utf-8")
    tables = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body
              if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)}
    assert (len(tables["MESSAGES"]), len(tables["NEW"])) == (8, 2)
    for *_, text, ids in tables["MESSAGES"] + tables["NEW"]:
        assert gpt2_tokenizer().encode_ordinary(text) == ids, text


# The form of a chapter: one file that is a script, a notebook, a page of the book, and text on a code host

REWRITTEN = ("00", "01", "02", "03", "04", "05", "06")    # and 06b: the others still have long cells
every_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def cells_of(chapter):
    return raw_cells(chapter.read_text(encoding="utf-8"))


def number_of(chapter):
    """0, 6 or 6b: what a chapter's sections begin with."""
    return re.match(r"0?(\d+b?)_", chapter.name)[1]


@every_chapter
def test_a_chapter_begins_by_saying_what_it_is_for(chapter):
    kind, first = cells_of(chapter)[0]
    doc = ast.get_docstring(ast.parse(chapter.read_text(encoding="utf-8")))
    assert kind == "markdown" and first.strip('"').strip() == doc.strip(), "the first cell is the script's --help"
    assert doc.startswith(f"# {number_of(chapter)}  ") and "After this chapter you " in doc
    assert re.search(rf"^- Run: `?python chapters/{chapter.name}", doc, re.MULTILINE), "how is it run?"
    assert re.search(r"^- Time: --quick \d+ s", doc, re.MULTILINE), "how long does it take? Measure it"
    assert re.search(r"^- Source: ", doc, re.MULTILINE)


@every_chapter
def test_each_section_is_a_heading_and_its_first_cell_prints_it(chapter):
    source, number = chapter.read_text(encoding="utf-8"), number_of(chapter)
    headings = re.findall(r"^# ## (\d+b?\.\d+) \S", source, re.MULTILINE)
    first = int(headings[0].partition(".")[2])
    assert first <= 1 and headings == [f"{number}.{first + i}" for i in range(len(headings))] and len(headings) >= 5
    assert re.findall(r'^section\("(.*)"\)$', source, re.MULTILINE) == headings
    ends = ["What you have now", "Break it", "Try it" if "# ## Try it" in source else "Exercises"]
    assert [h for h in re.findall(r"^# ## (\D.*)$", source, re.MULTILINE) if h in ends] == ends


@every_chapter
def test_a_chapter_is_read_from_top_to_bottom(chapter):
    source = chapter.read_text(encoding="utf-8")
    assert "args.quick" not in source, "QUICK and FULL are all that --quick changes"
    assert "__main__" not in source, "its variables stay to be played with"
    assert max(map(len, source.splitlines())) <= 120
    for kind, text in cells_of(chapter):
        assert text.strip(), "an empty cell"
        prose = kind == "markdown" and not text.startswith('"""')
        assert not prose or all(line.startswith("#") for line in text.splitlines() if line), text[:200]


@pytest.mark.parametrize("chapter", [path for path in CHAPTERS if path.name.startswith(REWRITTEN)],
                         ids=lambda path: path.stem)
def test_a_cell_of_code_is_one_idea(chapter):
    cells = [text.splitlines() for kind, text in cells_of(chapter) if kind == "code"]
    lengths = [sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in cell) for cell in cells]
    assert statistics.median(lengths) <= 8
    data = re.compile(r"^ *(\(?\"|\d|\[\d)")    # messages and their ids
    for line in (line for cell in cells for line in cell if not data.match(line)):
        assert len(line) <= 88, line


@every_chapter
def test_every_link_and_every_picture_is_there_and_described(chapter):
    source = chapter.read_text(encoding="utf-8").replace("\n#", "")    # a link may be broken over two lines
    for bang, text, target in re.findall(r"(!?)\[([^\]\[]*)\]\(([^)\s]+)\)", source):
        if not target.startswith(("http", "#")):
            assert (chapter.parent / target.partition("#")[0]).exists(), target
        assert not bang or len(text.split()) >= 5, f"{target}: what would somebody miss who cannot see it?"


def test_every_diagram_is_used_and_has_a_text_alternative():
    sources = "".join(chapter.read_text(encoding="utf-8") for chapter in CHAPTERS)
    for diagram in sorted((ROOT / "chapters" / "diagrams").glob("*")):
        assert f"](diagrams/{diagram.name})" in sources, f"no chapter shows {diagram.name}"
        content = diagram.read_text(encoding="utf-8")
        assert "<title" in content and "<script" not in content and "http://www.w3.org/2000/svg" in content, diagram


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=lambda exercise: exercise.id)
def test_every_exercise_is_named_once_in_the_chapter_that_teaches_its_function(exercise):
    where = [number_of(chapter) for chapter in CHAPTERS for _ in
             re.findall(rf"\bstart {re.escape(exercise.id)}(?!\d)", chapter.read_text(encoding="utf-8"))]
    assert where == [exercise.id[1:].partition(".")[0]], where


PRIVATE = {    # a word of our own -> what the field calls it
    r"(?<!residual )\bstreams?\b(?!\.)": "residual stream", r"\bslopes?\b": "gradient, derivative",
    r"\bbends?\b": "activation function", r"\bshortcuts?\b(?! connection)": "residual connection",
    r"\b(nats|ms|bytes) a (token|message|step|number|second)\b": "nats per token, ms per step"}


@pytest.mark.parametrize("path", [*CHAPTERS, *(ROOT / "chapters").glob("*.md"), ROOT / "README.md"],
                         ids=lambda path: path.name)
def test_things_have_the_names_that_the_field_gives_them(path):
    prose = " ".join(path.read_text(encoding="utf-8").replace("\n#", "\n").split())
    for word, name in PRIVATE.items():
        found = re.search(rf".{{,40}}{word}.{{,40}}", prose, re.IGNORECASE)
        assert not found, f"the field says {name}: {found[0]}"
    assert "surprise" not in prose or "cross-entropy" in prose, "surprise is cross-entropy, or the loss"


def test_every_definition_of_the_library_stands_there_once():
    """A name defined in gpt/ is not defined again in a chapter."""
    defined = {}
    for path in [*(ROOT / name for name in modules_of_gpt()), *(ROOT / "chapters").glob("*.py")]:
        for name in re.findall(r"^(?:def|class) ([A-Za-z]\w*)", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            defined.setdefault(name, []).append(path.relative_to(ROOT).as_posix())
    twice = {name: places for name, places in defined.items() if len(places) > 1}
    assert not twice, f"defined more than once: {twice}"
