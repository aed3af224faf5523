"""The pages of the library: each file of gpt/ as it stands, in the order in which gpt/__init__.py says to read them."""

import ast
import re
import shutil
from functools import cache

from cells import ROOT

DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


@cache
def reading_order():
    """The modules of gpt/ as gpt/__init__.py lists them: pairs of a title and its modules, "storage.files" for example.

    Raises: SystemExit if a file is not listed there
    """
    text = ast.get_docstring(_tree("__init__"))
    text = re.sub(r"\n {8,}", " ", text)    # a long line goes on in the next
    order = [("The story", re.findall(r"^    ([a-z]\w+) {2,}.+$", text, re.MULTILINE))]
    for folder, what, names in re.findall(r"^    (\w+)/ {2,}(.+): (.+)$", text, re.MULTILINE):
        order.append((f"{folder}/: {what}", [f"{folder}.{name}" for name in names.split(", ")]))
    listed = {name for _, modules in order for name in modules}
    found = {".".join(file.relative_to(ROOT / "gpt").with_suffix("").parts) for file in ROOT.glob("gpt/**/[a-z]*.py")}
    if listed != found:
        raise SystemExit(f"gpt/__init__.py and the files of gpt/ differ: {', '.join(sorted(listed ^ found))}")
    return order


def _path(name):
    return ROOT / "gpt" / f"{name.replace('.', '/')}.py"


def _tree(name):
    return ast.parse(_path(name).read_text(encoding="utf-8"))


def write_library(source):
    """Write the pages of the library, and the one that leads to them, into the folder that Sphinx reads."""
    shutil.copytree(ROOT / "gpt", source / "gpt", ignore=shutil.ignore_patterns("__pycache__"))
    page = ["# The library", "The names in the chapters' code lead to these pages, which are the files as they stand."]
    for title, modules in reading_order():
        files = {name: name.replace(".", "/") for name in modules}
        page += [f"## {title}", "{.modules}"]
        for name, file in files.items():
            job = ast.get_docstring(_tree(name)).split("\n\n")[0]    # a file opens with its job
            page.append(f"- [{name}]({file}.rst) {job}")
            (source / "gpt" / f"{file}.rst").write_text(module_page(name), encoding="utf-8")
        page += ["", toctree([f"{name} <{file}>" for name, file in files.items()])]
    (source / "gpt" / "index.md").write_text("\n".join(page), encoding="utf-8")


def toctree(pages, caption=None):
    """These pages in the contents in the margin, in MyST."""
    options = [":hidden:"] + [f":caption: {caption}"] * bool(caption)
    return "\n".join(["```{toctree}", *options, "", *pages, "```", ""])


def module_page(name):
    """A file of gpt/ in reStructuredText: its whole source in order, and a place to link to at each definition."""
    path = _path(name)
    lines = path.read_text(encoding="utf-8").splitlines()
    title = f"gpt/{name.replace('.', '/')}.py"
    page, shown = [title, "=" * len(title), "", f".. py:module:: gpt.{name}", ""], 0
    for node in ast.parse("\n".join(lines)).body:
        if isinstance(node, DEFINITIONS):
            first = _first_line(node)
            page += _listing(path.name, lines, shown + 1, first - 1)
            page += [node.name, "-" * len(node.name), "", *_targets(node)]
            page += _listing(path.name, lines, first, node.end_lineno)
            shown = node.end_lineno
        else:
            page += _targets(node)    # its own lines come with the next listing
    return "\n".join(page + _listing(path.name, lines, shown + 1, len(lines)))


def _targets(node):
    """What links to a function, a class, its methods or a constant arrive at; pages.css hides it."""
    named, methods = [], []
    if isinstance(node, ast.Assign):
        named = [("data", target.id) for target in node.targets if isinstance(target, ast.Name)]
    elif isinstance(node, ast.FunctionDef):
        named = [("function", node.name)]
    elif isinstance(node, ast.ClassDef):
        named = [("class", node.name)]
        methods = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
    page = [line for kind, name in named for line in (f".. py:{kind}:: {name}", "")]
    return page + [line for name in methods for line in (f"   .. py:method:: {name}", "")]


def _listing(file, lines, first, last):
    """Lines first to last of a file with their numbers, without empty ones at either end."""
    while first <= last and not lines[first - 1].strip():
        first += 1
    while first <= last and not lines[last - 1].strip():
        last -= 1
    return [f".. literalinclude:: {file}", f"   :lines: {first}-{last}", "   :lineno-match:", ""] * (first <= last)


def definition_at(file, line):
    """The full name of the class, function or method that begins at this line of a file, such as gpt/lora.py."""
    name, body = file[:-3].replace("/", "."), ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    for _ in range(2):    # a method is inside a class
        for node in body:
            if isinstance(node, DEFINITIONS) and _first_line(node) <= line <= node.end_lineno:
                name, body = f"{name}.{node.name}", node.body
                break
    return name


def _first_line(node):
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
