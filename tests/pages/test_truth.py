"""What comments, docstrings and pages name is there: files, commands and their flags, names in gpt/."""

import importlib
import re
import shlex

from conftest import ROOT, modules_of_gpt

PATTERNS = ("*.md", "*.txt", "gpt/**/*.py", "chapters/*.py", "chapters/*.md", "tests/**/*.py", "tests/**/*.md",
            "data/*.md", "figures/**/*.md")
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
         for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))}
WRITTEN_LATER = re.compile(r"data/(runs|exercises|book)|NN_|/(test_)?x\.py|\.safetensors$")    # by runs, and stand-ins for a name
OWN_FLAGS = {"--quick", "--seed", "--device", "--help"}    # of every chapter: chapters/book.py, start


def commands(text):
    """Each `python chapters/...` or `python tests/...` command, as a list of words, as far as it stands on one line."""
    for line in re.findall(r"python ((?:chapters|tests)/[\w/]+\.py[^`|\n#]*)", text):
        words = re.split(r" {2,}|, | and |; |\)", line)[0]    # what follows the command on its line
        try:
            yield shlex.split(words)
        except ValueError:    # a quotation mark that closes on another line
            yield words.split()


def test_every_file_that_is_named_is_there():
    gone = []
    for name, text in TEXTS.items():
        for path in re.findall(r"(?<![\w/.])((?:gpt|chapters|tests|figures|data)/[\w/-]+\.\w+)", text):
            if not WRITTEN_LATER.search(path) and not (ROOT / path).exists():
                gone.append(f"{name} names {path}, which is not there")
    assert not gone, "\n".join(gone)


def test_every_command_is_one_that_its_script_knows():
    faults = []
    for name, text in TEXTS.items():
        for script, *words in commands(text):
            if WRITTEN_LATER.search(script):
                continue
            if not (ROOT / script).exists():
                faults.append(f"{name}: there is no {script}")
                continue
            known = OWN_FLAGS | set(re.findall(r'"(--[\w-]+)"', (ROOT / script).read_text(encoding="utf-8")))
            flags = {word.strip(".:\"')") for word in words if word.startswith("--")}
            if flags - known:
                faults.append(f"{name}: {script} has no {' '.join(sorted(flags - known))}")
    assert not faults, "\n".join(faults)


def test_every_name_of_the_library_that_is_named_is_there():
    """`gpt.weights.load_book` in backquotes, in a docstring or on a page."""
    gone = []
    for name, text in TEXTS.items():
        for module, attribute in re.findall(r"`(gpt(?:\.[a-z_]+)+)\.(\w+)", text):
            if not hasattr(importlib.import_module(module), attribute):
                gone.append(f"{name} names {module}.{attribute}, which is not there")
    assert not gone, "\n".join(gone)


def test_these_tests_find_something_to_hold():
    """A pattern that matches nothing would pass for ever."""
    assert sum(len(list(commands(text))) for text in TEXTS.values()) > 40
    assert sum(len(re.findall(r"`gpt(?:\.\w+)+", text)) for text in TEXTS.values()) >= 2
    assert len(TEXTS) > 80
    assert modules_of_gpt() <= TEXTS.keys(), "a module is not read"
