"""chapters/GLOSSARY.md: each word is explained where it says, and stands where it says."""

import contextlib
import io
import re
import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT / "chapters" / "pages"))
from cells import with_section_links  # noqa: E402  (the path comes first)

PAGE = (ROOT / "chapters" / "GLOSSARY.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines()
        if re.match(r"\| [^-]", line) and not re.match(r"\| (word|symbol) \|", line)]


def sections():
    """{"3.2": the text of this section, with prose and code}"""
    found = {}
    for path in (ROOT / "chapters").glob("[0-9]*.py"):
        for part in re.split(r"^# ## (?=\d)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            found[part.split()[0]] = part.replace("\n#", "\n").replace("*", "").replace("`", "")
    return found


SECTIONS = sections()


def test_the_self_test_prints_what_it_says():
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    said = re.findall(r"print\(.*# (.*)$", code, re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue().splitlines() == said and len(said) >= 5


def test_a_word_is_explained_where_the_glossary_says():
    assert len(ROWS) > 60
    for row in ROWS:
        assert len(row) in (3, 4) and row[1], f"{row[0]}: a row of {len(row)} cells"
        word, _, places, *files = row
        places = [place.strip("[]") for place in places.split(", ")]
        for place in places:
            assert place in SECTIONS, f"{word}: there is no section {place}"
        text = " ".join(" ".join(SECTIONS[place].split()) for place in places)
        for name in re.split(r", (?:and )?| and ", re.sub(r"\(.*?\)", "", word)):
            if len(name) == 1:
                assert re.search(rf"\b{name}\b", text), f"{word}: no {name} in {places}"
            else:
                assert name.strip().lower() in text.lower(), f"{word}: {name!r} does not occur in {places}"
        for file in files:
            assert file == "torch" or (ROOT / file).exists(), f"{word}: there is no {file}"


def test_the_number_of_a_section_leads_to_its_line():
    assert PAGE == with_section_links(PAGE), "run: python chapters/pages/build.py --notebooks"


def test_the_glossary_is_sorted():
    words = [row[0].lower() for row in ROWS if len(row) == 4]
    assert words == sorted(words) and len(words) > 50
