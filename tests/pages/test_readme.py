"""What README.md and the other pages say is held against the repository."""

import ast
import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
import write_results
from conftest import ROOT, modules_of_gpt

from gpt.adapters import save_adapter
from gpt.classify import swap_head
from gpt.evaluate.significance import verdict
from gpt.experiments.comparison import seen_from
from gpt.lora import replace_linear_with_lora
from gpt.weights import load_gpt2

RESULTS = ROOT / "figures" / "results" / "RESULTS.md"
FOLDERS = ("chapters", "data", "figures", "tests")
PAGES = [ROOT / "README.md", RESULTS, *(ROOT / folder / "README.md" for folder in FOLDERS)]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_is_a_screen_and_a_bit():
    assert len(README.splitlines()) <= 150


def test_readmes_lines_classify_texts_and_export_the_model(tmp_path, monkeypatch, capsys):
    """The code as it stands in README.md, with an adapter that has learnt nothing: it says 50 % to everything."""
    model = load_gpt2("mini").requires_grad_(False)
    swap_head(model, 2)
    replace_linear_with_lora(model.trf_blocks, 4, 4)
    save_adapter(model, tmp_path / "spam.safetensors", base="mini", labels=["ham", "spam"])
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec("\n".join(code), {})
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"spam.safetensors", "base", "spam-lora", "spam-merged"}
    ignored = re.findall(r"^/([^/\n]+)", (ROOT / ".gitignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert files | {"labelled.csv"} <= set(ignored), "git would commit what README's lines write"
    printed = capsys.readouterr().out
    assert printed.count("Prediction(label='ham', probability=0.5)") == 2, printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    gone = []
    for name, _, heading in re.findall(r"\]\((?!http)([^)#]*)(#([^)]+))?\)", text):
        target = page.parent / name if name else page
        if not target.exists() or heading and heading not in headings(target):
            gone.append(f"{name}#{heading}")
    for command in re.findall(r"python [^`|\n]+", text):
        gone += [name for name in re.findall(r"[\w/]+\.py\b", command) if not (ROOT / name).exists()]
    assert not gone, f"{page.name} names what is not there: {gone}"


def headings(page):
    """The anchors that a code host gives a page's headings: "## How fast" is "how-fast"."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_page_has_a_gap_left_to_fill(page):
    assert "{{" not in page.read_text(encoding="utf-8"), "a number that was not measured"


def imported(path, seen):
    """The packages that a file imports, itself or through the files of this repository that it imports."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                 [node.module] if isinstance(node, ast.ImportFrom) else [])
        for name in names:
            own = ROOT / "chapters" / "book.py" if name == "book" else ROOT / f"{name.replace('.', '/')}.py"
            if not own.exists():
                packages.add(name.partition(".")[0])
            elif own not in seen:
                seen.add(own)
                packages |= imported(own, seen)
    in_notebooks_alone = {"IPython"}    # which are then there: chapters/book.py
    return packages - sys.stdlib_module_names - in_notebooks_alone


def test_requirements_are_pinned_and_say_which_chapters_need_them():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = {path.name[:2]: imported(path, set()) for path in (ROOT / "chapters").glob("[0-9]*.py")}
    named = set()
    for line in lines:
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([a-z-]+)==[\d.]+ +# (?:chapters? ([\d, -]+)|the tests).*", line)
            assert match, line
            package, chapters = match.groups()
            named.add(package)
            said = set()
            for part in (chapters or "").split(","):
                first, _, last = part.strip().partition("-")
                said |= {f"{n:02}" for n in range(int(first or 1), int(last or first or 0) + 1)}
            truth = {chapter for chapter, packages in needed.items() if package in packages}
            assert said & needed.keys() == truth, f"{line}: imported by {sorted(truth)}"
    assert set().union(*needed.values()) <= named, "a chapter imports what requirements.txt does not name"


MODULES = {name.removeprefix("gpt/").removesuffix(".py"): (ROOT / name).read_text(encoding="utf-8")
           for name in modules_of_gpt() if not name.endswith("__init__.py")}


def test_the_map_names_each_module_once_and_the_module_names_that_chapter():
    """chapters/README.md: which chapter introduces a module; in the module: Read along: chapters/NN_name.py."""
    introduced = {}
    for line in (ROOT / "chapters" / "README.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| \[(\d\d_\w+\.py)\]", line):
            for name in line.split("|")[3].replace("none: it uses them", "").split(","):
                if name.strip():
                    introduced.setdefault(name.strip(), []).append(match[1])
    assert introduced.keys() == MODULES.keys()
    for name, chapters in introduced.items():
        assert len(chapters) == 1 and f"chapters/{chapters[0]}" in MODULES[name], f"{name} is introduced in {chapters}"


def test_the_reading_order_names_each_module_once():
    text = (ROOT / "gpt" / "__init__.py").read_text(encoding="utf-8").partition("Imports go")[0]
    named = re.findall(r"^    ([a-z]+)  ", text, re.MULTILINE)
    folders = re.findall(r"^    (\w+/) +[^:]*: (.*(?:\n {20}.*)*)", text, re.MULTILINE)
    assert (len(named), len(folders)) == (16, 6), "gpt/__init__.py and README.md say sixteen files and six folders"
    for folder, files in folders:
        named += [folder + name for name in re.split(r",\s+", files)]
    assert sorted(named) == sorted(MODULES)


def test_the_page_of_the_tests_names_each_of_their_folders():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name[0].isalpha()}
    named = re.findall(r"^    (\w+)/  ", (ROOT / "tests" / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(folders)


def test_mini_is_what_the_pages_say():
    model = load_gpt2("mini")
    assert sum(p.numel() for p in model.parameters()) == 7_259_008
    assert torch.equal(model.out_head.weight, model.tok_emb.weight)


# ---- results ----------------------------------------------------------------------------------------------------

def test_the_results_on_both_pages_are_what_the_results_files_say():
    blocks = []
    for page in write_results.PAGES:
        text = page.read_text(encoding="utf-8")
        assert write_results.written(text) == text, "run tests/pages/write_results.py"
        blocks += re.findall(r"<!-- (?!end)(\w+) -->", text)
    assert sorted(blocks) == sorted(write_results.BLOCKS), "a block is on no page, or on more than one"


def test_a_result_that_changes_changes_a_page(tmp_path, monkeypatch):
    """What the test above compares could be two empty strings."""
    shutil.copytree(write_results.RESULTS, tmp_path / "results")
    monkeypatch.setattr(write_results, "RESULTS", tmp_path / "results")
    pages = README + RESULTS.read_text(encoding="utf-8")
    assert write_results.written(pages) == pages
    for name in ("10-mini-default-seed123", "06-mini-default-seed123", "06-mini-blog-seed123",
                 "07-mini-default-seed123", "08-mini-default-seed123", "09-mini-default-seed2"):
        file = tmp_path / "results" / f"{name}.json"
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"0\.9(\d+)", r"0.1\1", re.sub(r"([56])\.(\d{5})", r"1.\2", text)), encoding="utf-8")
        assert write_results.written(pages) != pages, f"nothing on the pages comes from {name}"
        file.write_text(text, encoding="utf-8")


def test_what_the_pages_read_from_the_tables_is_in_the_results():
    """The sentences beside the tables are typed: these are the ones that another run could make false."""
    run, ours = write_results.read(write_results.EVALUATION), "LoRA, r = 16"
    trained = {"head", "last block", "everything", "LoRA, r = 4", ours, "untrained, everything"}

    def against(name, test):
        return {row["second"]: verdict(row) for row in seen_from(name, run["pairs"][test])}

    for test, rows in run["results"].items():
        bayes, lora = against("naive Bayes", test), against(ours, test)
        assert not [name for name in trained if bayes[name] == "worse"], f"{test}: counting words is beaten"
        for name in lora:
            apart = abs(rows[name]["accuracy"]["mean"] - rows[ours]["accuracy"]["mean"])
            assert apart > 0.01 or lora[name] == "not told apart", f"{test}: {name}, within a point of LoRA"
    assert {against("logistic regression", "natural")[name] for name in trained} == {"better"}
    assert against(ours, "balanced")["everything"] == "not told apart"
    assert against(ours, "natural, all")["everything"] == "worse"
    few = {pair: of["16"] for pair, of in run["gains"].items()}
    above_zero = {pair for pair, (_, _, low, _) in few.items() if low > 0}
    assert above_zero == {f"{ours} - naive Bayes"}


def test_a_cell_is_the_mean_of_the_seeds_worked_out_apart():
    run = json.loads((ROOT / "figures" / "results" / "10-mini-default-seed123.json").read_text(encoding="utf-8"))
    values = np.array(run["results"]["balanced"]["LoRA, r = 16"]["accuracy"]["values"])
    assert len(values) == len(run["seeds"]) == 5
    reach = 2.776 * values.std(ddof=1) * (1 / 5 + 0.25) ** 0.5
    cell = f"{100 * values.mean():.1f} ± {100 * reach:.1f} ({100 * values.std(ddof=1):.1f})"
    tables = RESULTS.read_text(encoding="utf-8")
    line = re.search(r"^\| \*\*LoRA, r = 16\*\* \|.*$", tables, re.MULTILINE)[0]
    assert line.split(" | ")[3] == cell, line


def test_what_was_not_measured_says_so_and_how_until_it_was(tmp_path, monkeypatch):
    shutil.copytree(write_results.RESULTS, tmp_path / "results")
    monkeypatch.setattr(write_results, "RESULTS", tmp_path / "results")
    real = list((tmp_path / "results").glob("10-gpt2-small-*.json"))
    for file in real:
        file.unlink()
    row = " | ".join(write_results.large_model())
    assert "not measured" in row and f"`{write_results.UNMEASURED}`" in row
    run = json.loads((tmp_path / "results" / "10-mini-default-seed123.json").read_text(encoding="utf-8"))
    run["results"] = {test: {"LoRA, r = 16": run["results"][test]["LoRA, r = 16"]} for test in ("balanced", "natural")}
    measured = tmp_path / "results" / "10-gpt2-small-default-seed123-to-127-LoRA-r-16.json"
    measured.write_text(json.dumps(run), encoding="utf-8")
    row = " | ".join(write_results.large_model())
    assert "not measured" not in row and "±" in row


def test_only_quoted_full_runs_are_collected(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(write_results, "RESULTS", tmp_path)
    for folder in ("06_lora_spam/mini-default-full-seed123", "06_lora_spam/mini-default-quick-seed123",
                   "06_lora_spam/mini-default-full-seed7", "06b_as_published/mini-blog-full-seed123",
                   "10_believe_the_number/gpt2-small-default-full-seed123-to-127-LoRA-r-16",
                   "10_believe_the_number/mini-default-full-seed123", "experiment/mini-x-full-seed123-0a1b2c3d"):
        (tmp_path / "data" / "runs" / folder).mkdir(parents=True)
        (tmp_path / "data" / "runs" / folder / "results.json").write_text("{}", encoding="utf-8")
    write_results.collect()
    assert {file.stem for file in tmp_path.glob("*.json")} == {
        "06-mini-default-seed123", "06-mini-blog-seed123", "10-mini-default-seed123",
        "10-gpt2-small-default-seed123-to-127-LoRA-r-16"}


def test_a_block_that_nobody_writes_is_an_error():
    with pytest.raises(ValueError, match="a block 'gossip'"):
        write_results.written("<!-- gossip -->\n<!-- end -->")
