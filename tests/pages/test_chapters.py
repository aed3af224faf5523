"""Each chapter runs with --quick and prints what its `#>` lines say. Run with: python -m pytest -m chapters"""

import ast
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, modules_of_gpt

from gpt.tokenizer import gpt2_tokenizer

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


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_has_the_form_of_a_chapter(chapter):
    source = chapter.read_text(encoding="utf-8")
    doc, number = ast.get_docstring(ast.parse(source)), str(int(chapter.name[:2]))
    assert doc.startswith(f"{number}  ") and "After this chapter you " in doc
    assert re.search(rf"^Run: python chapters/{chapter.name}", doc, re.MULTILINE), "how is it run?"
    assert re.search(r"^Time: --quick \d+ s", doc, re.MULTILINE), "how long does it take? Measure it"
    assert re.search(r"^Source: ", doc, re.MULTILINE)
    sections = re.findall(r'^section\("(\d+)\.(\d+)  ', source, re.MULTILINE)
    assert sections == [(number, str(i + 1)) for i in range(len(sections))] and len(sections) >= 5
    for box in ("# %% What you have now: ", "# Break it", "# Try it"):
        assert box in source, f"it does not end with {box}"
    assert "args.quick" not in source, "QUICK and FULL are all that --quick changes"
    assert max(map(len, source.splitlines())) <= 120


def test_every_definition_of_the_library_stands_there_once():
    """A name defined in gpt/ is not defined again in a chapter."""
    defined = {}
    for path in [*(ROOT / name for name in modules_of_gpt()), *(ROOT / "chapters").glob("*.py")]:
        for name in re.findall(r"^(?:def|class) ([A-Za-z]\w*)", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            defined.setdefault(name, []).append(path.relative_to(ROOT).as_posix())
    twice = {name: places for name, places in defined.items() if len(places) > 1}
    assert not twice, f"defined more than once: {twice}"
