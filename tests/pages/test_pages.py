"""chapters/notebooks/: the chapters as notebooks, with the outputs of a run, and nothing of the machine that ran them.

python chapters/pages/build.py --notebooks writes them. What the pages themselves look like, chapters/pages/check.py sees.
"""

import json
import re
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "chapters" / "pages"))
from cells import cells, chapter_files, notebook_cells  # noqa: E402  (the path comes first)

NOTEBOOKS = ROOT / "chapters" / "notebooks"
every_chapter = pytest.mark.parametrize("chapter", chapter_files(), ids=lambda path: path.stem)


def notebook_of(chapter):
    return json.loads((NOTEBOOKS / f"{chapter.stem}.ipynb").read_text(encoding="utf-8"))


def outputs_of(chapter):
    """All text that the cells of a chapter's notebook have put out."""
    outputs = [output for cell in notebook_of(chapter)["cells"] for output in cell.get("outputs", [])]
    texts = [output.get("text", []) for output in outputs]
    texts += [output.get("data", {}).get(kind, []) for output in outputs for kind in ("text/plain", "text/markdown")]
    return "\n".join("".join(text) for text in texts)


@every_chapter
def test_a_notebook_has_the_cells_of_its_chapter(chapter):
    without_outputs = [cell | ({"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {})
                       for cell in notebook_of(chapter)["cells"]]
    assert without_outputs == notebook_cells(chapter), "python chapters/pages/build.py --notebooks"


@every_chapter
def test_a_notebook_shows_what_its_chapter_prints(chapter):
    printed = iter(outputs_of(chapter).splitlines())
    for line in re.findall(r"^ *#> ?(.*)$", chapter.read_text(encoding="utf-8"), re.MULTILINE):
        assert any(line.rstrip() == said.rstrip() for said in printed), f"not in the notebook's outputs: {line}"


@every_chapter
def test_a_notebook_is_small_and_tells_nothing_of_the_machine_that_made_it(chapter):
    assert (NOTEBOOKS / f"{chapter.stem}.ipynb").stat().st_size < 300_000
    told = outputs_of(chapter)
    assert str(ROOT) not in told and not re.search(r"(?<![\w.])/(home|root|tmp|work)/", told)
    assert not re.search(r"\d (s|ms|min)\b", told), "a time"
    assert not [cell for cell in notebook_of(chapter)["cells"] if cell["metadata"].get("execution")]


@every_chapter
def test_a_notebook_shows_nothing_that_its_chapter_does_not_print(chapter):
    """The value of a cell's last line: a model, all its layers, or a number that nobody asked for."""
    values = ["".join(cell["source"]).splitlines()[-1] for cell in notebook_of(chapter)["cells"]
              for output in cell.get("outputs", []) if output["output_type"] == "execute_result"]
    assert not values


def test_there_is_a_notebook_for_each_chapter_and_no_other():
    assert {path.stem for path in NOTEBOOKS.glob("*")} == {chapter.stem for chapter in chapter_files()}


def test_cells_are_split_as_percent_format_says():
    text = '# %% [markdown]\n"""\n# 1  Title\n\nText\n"""\n\n# %%\nx = 1\n\n\n# %% [markdown]\n# ## 1.1 Here\n#\n# More\n\n' \
           '# %%\nsection("1.1")\nprint(x)\n#> 1\n'
    assert cells(text) == [("markdown", "# 1  Title\n\nText"), ("code", "x = 1"), ("markdown", "## 1.1 Here\n\nMore"),
                           ("code", "print(x)")]
