"""The chapters as a book in the browser, and as notebooks.

    python chapters/pages/build.py                then open data/book/html/index.html: it needs no network
    python chapters/pages/build.py --notebooks    chapters/notebooks/NN_name.ipynb, with outputs, and the glossary's links
"""

import argparse
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from cells import CHAPTERS, NOTEBOOKS, PAGES, ROOT, as_text, cells, chapter_files, with_section_links
from library import reading_order, toctree, write_library
from markup import glossary_page, listing, page
from run import executed, without_times

BOOK = ROOT / "data" / "book"
SOURCE, HTML = BOOK / "source", BOOK / "html"
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2")    # of 30 MB all that a page asks for
PLAIN = re.compile(r'<span class="(?:n|nn|o|p|w)">([^<]*)</span>')    # names, signs and spaces get no colour
LARGEST = 300_000    # bytes of a notebook


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebooks", action="store_true", help="write the notebooks, and no pages")
    args = parser.parse_args()
    return write_notebooks() if args.notebooks else write_pages()


def write_notebooks():
    """Write chapters/notebooks/, and the glossary's links to the lines of the chapters where sections begin.

    A notebook has the same bytes each time but for what the chapter itself prints differently.
    """
    for chapter in chapter_files():
        text = as_text(without_times(executed(chapter)))
        if len(text.encode()) > LARGEST:
            raise SystemExit(f"{chapter.stem}.ipynb would have {len(text):,} bytes, more than {LARGEST:,}")
        (NOTEBOOKS / f"{chapter.stem}.ipynb").write_text(text, encoding="utf-8", newline="\n")
    for old in NOTEBOOKS.glob("*.ipynb"):
        if not (CHAPTERS / f"{old.stem}.py").exists():
            old.unlink()
    glossary = CHAPTERS / "GLOSSARY.md"
    text = with_section_links(glossary.read_text(encoding="utf-8"))
    glossary.write_text(text, encoding="utf-8", newline="\n")


def write_pages():
    """Write what Sphinx reads, let it make the pages, and take away what no page needs.

    Output: 0, or what Sphinx exits with where anything is wrong: a warning counts as an error
    """
    from sphinx.cmd.build import main as sphinx

    for folder in (SOURCE, HTML, BOOK / "doctrees", BOOK / "static"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(CHAPTERS / "diagrams", SOURCE / "diagrams")
    for chapter in chapter_files():
        (SOURCE / f"{chapter.stem}.ipynb").write_text(as_text(page_cells(executed(chapter))), encoding="utf-8")
    (SOURCE / "GLOSSARY.md").write_text(glossary_page(), encoding="utf-8")
    (SOURCE / "index.md").write_text(title_page(), encoding="utf-8")
    write_library(SOURCE)
    copy_mathjax(BOOK / "static" / "mathjax")
    sys.path.insert(0, str(ROOT))    # sphinx-codeautolink looks names up in gpt itself
    options = ["-W", "--keep-going", "-q", "-c", str(PAGES), "-d", str(BOOK / "doctrees")]
    wrong = sphinx([*options, str(SOURCE), str(HTML)])
    for file in HTML.rglob("*.html"):
        file.write_text(PLAIN.sub(r"\1", file.read_text(encoding="utf-8")), encoding="utf-8")
    return wrong


def copy_mathjax(folder):
    """Copy the part of MathJax that the pages need from the package that brings it."""
    package = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    for name in MATHJAX:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (package / name).is_dir() else shutil.copy
        copy(package / name, folder / name)


def page_cells(notebook):
    """The cells of a notebook as its page has them: prose with captions, boxes and links; settings folded."""
    written, drew = [], False
    for cell in notebook[:1] + notebook[2:]:    # a page need not find book.py
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell = cell | {"source": page(source, follows_a_figure=drew)}
        else:
            outputs = [_linked(output) for output in cell["outputs"]]
            folded = {"tags": ["hide-input"]} if re.search(r"^args = start\(", source, re.MULTILINE) else {}
            cell = cell | {"outputs": outputs, "metadata": folded}
        drew = any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        written.append(cell)
    return written


def _linked(output):
    """An output in which a listing of show() leads to the page of its file."""
    if "text/markdown" in output.get("data", {}):
        return output | {"data": {"text/markdown": listing(output["data"]["text/markdown"])}}
    return output


def title_page():
    """The first page: what README says first, the chapters with what each is for, and the library."""
    readme = re.sub(r"<!--.*?-->\n?", "", (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[0])
    for picture in re.findall(r"\((figures/[\w/]+\.(?:png|svg))\)", readme):
        (SOURCE / picture).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / picture, SOURCE / picture)
    title, first, *more = page(readme, folder=".").split("\n\n")
    chapters = {chapter.stem: cells(chapter.read_text(encoding="utf-8"))[0][1] for chapter in chapter_files()}
    parts = [title, first, "{.begin}\n[Begin with the first minute](/00_first_minute.ipynb)", *more]
    parts += ["## The chapters", "\n".join(["{.chapters}", *(_entry(stem, text) for stem, text in chapters.items())])]
    parts += ["## The library", "Each name of [the library](/gpt/index.md) in a chapter's code leads to its source."]
    for group, modules in reading_order():
        links = [f"[{name.split('.')[-1]}](/gpt/{name.replace('.', '/')}.rst)" for name in modules]
        parts.append(f"**{group}**\\\n" + " · ".join(links))
    toc = [f"{_short_title(text)} <{stem}>" for stem, text in chapters.items()]
    parts += [toctree([*toc, "Glossary <GLOSSARY>"], "The chapters"), toctree(["gpt/index"], "The library")]
    return "\n\n".join(parts)


def _entry(stem, first_cell):
    """A chapter in the list on the title page: its title, and the sentence that says what it is for."""
    title, text = first_cell.removeprefix("# ").split("\n\n")[:2]
    text = " ".join(text.split())
    said = re.search(r"((?:After this chapter|At its end|At the end of this chapter).*?)[.;]( |$)", text)
    return f"- [{title}](/{stem}.ipynb)\n\n  {said[1] + '.' if said else text}"


def _short_title(first_cell):
    """A chapter's title in the margin: up to the colon."""
    return re.match(r"# (\w+  .*?)(?=:|\n|(?<=\?) )", first_cell)[1].replace("  ", " ")


if __name__ == "__main__":
    sys.exit(main())
