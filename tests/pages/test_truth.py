"""What comments, docstrings and pages name is there: files, commands and their flags, names in gpt/."""

import importlib
import re
import shlex

import pytest
from conftest import ROOT, modules_of_gpt

PATTERNS = ("*.md", "*.txt", "gpt/**/*.py", "chapters/*.py", "chapters/*.md", "tests/**/*.py", "tests/**/*.md",
            "data/*.md", "figures/**/*.md")
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
         for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))}
WRITTEN_LATER = re.compile(r"data/(runs|exercises)|NN_|/(test_)?x\.py|\.safetensors$")    # by runs, and stand-ins for a name
OWN_FLAGS = {"--quick", "--seed", "--device", "--help"}    # of every chapter: chapters/book.py, start


def commands(text):
    """Each `python chapters/...` or `python tests/...` command, as a list of words, as far as it stands on one line."""
    for line in re.findall(r"python ((?:chapters|tests)/\w+\.py[^`|\n#]*)", text):
        words = re.split(r" {2,}|, | and |; |\)", line)[0]    # what follows the command on its line
        try:
            yield shlex.split(words)
        except ValueError:    # a quotation mark that closes on another line
            yield words.split()


@pytest.mark.parametrize("name", TEXTS)
def test_every_file_that_is_named_is_there(name):
    named = re.findall(r"(?<![\w/.])((?:gpt|chapters|tests|figures|data)/[\w/-]+\.\w+)", TEXTS[name])
    gone = {path for path in named if not WRITTEN_LATER.search(path) and not (ROOT / path).exists()}
    assert not gone, f"{name} names what is not there: {sorted(gone)}"


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_is_one_that_its_script_knows(name):
    for script, *words in commands(TEXTS[name]):
        if WRITTEN_LATER.search(script):
            continue
        assert (ROOT / script).exists(), f"{name}: there is no {script}"
        known = OWN_FLAGS | set(re.findall(r'"(--[\w-]+)"', (ROOT / script).read_text(encoding="utf-8")))
        flags = {word.strip(".:\"')") for word in words if word.startswith("--")}
        assert flags <= known, f"{name}: {script} has no {sorted(flags - known)}"


@pytest.mark.parametrize("name", TEXTS)
def test_every_name_of_the_library_that_is_named_is_there(name):
    """`gpt.weights.load_book` in backquotes, in a docstring or on a page."""
    for module, attribute in re.findall(r"`(gpt(?:\.[a-z_]+)+)\.(\w+)", TEXTS[name]):
        assert hasattr(importlib.import_module(module), attribute), f"{name} names {module}.{attribute}"


def test_these_tests_find_something_to_hold():
    """A pattern that matches nothing would pass for ever."""
    assert sum(len(list(commands(text))) for text in TEXTS.values()) > 40
    assert sum(len(re.findall(r"`gpt(?:\.\w+)+", text)) for text in TEXTS.values()) >= 2
    assert len(TEXTS) > 80
    assert modules_of_gpt() <= TEXTS.keys(), "a module is not read"
