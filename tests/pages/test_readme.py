"""What README.md and the other pages say is held against the repository."""

import ast
import json
import re
import shlex
import shutil
import sys

import numpy as np
import pytest
import torch
import write_readme
from conftest import ROOT, modules_of_gpt

from gpt.adapters import save_adapter
from gpt.classify import swap_head
from gpt.lora import replace_linear_with_lora
from gpt.weights import load_gpt2

PAGES = [ROOT / "README.md", *(ROOT / folder / "README.md" for folder in ("chapters", "data", "figures"))]


def test_readmes_lines_classify_texts_and_export_the_model(tmp_path, monkeypatch, capsys):
    """The code as it stands in README.md, with an adapter that has learnt nothing: it says 50 % to everything."""
    model = load_gpt2("mini").requires_grad_(False)
    swap_head(model, 2)
    replace_linear_with_lora(model.trf_blocks, 4, 4)
    save_adapter(model, tmp_path / "spam.safetensors", base="mini", labels=["ham", "spam"])
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec("\n".join(code), {})
    assert {path.name for path in tmp_path.iterdir()} == {"spam.safetensors", "base", "spam-lora", "spam-merged"}
    printed = capsys.readouterr().out
    assert printed.count("Prediction(label='ham', probability=0.5)") == 2, printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    commands = [word for line in re.findall(r"python [^`|\n]+", text) for word in shlex.split(line) if word.endswith(".py")]
    gone = [name for name in links if not (page.parent / name).exists()]
    gone += [name for name in commands if not (ROOT / name).exists()]
    assert not gone, f"{page.name} names what is not there: {gone}"


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
    return packages - sys.stdlib_module_names


def test_requirements_are_pinned_and_say_which_chapters_need_them():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = {path.name[:2]: imported(path, set()) for path in (ROOT / "chapters").glob("[0-9]*.py")}
    named = set()
    for line in lines:
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([a-z]+)==[\d.]+ +# (?:chapters? ([\d, -]+)|the tests).*", line)
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
    for folder, files in re.findall(r"^    (\w+/) +[^:]*: (.*(?:\n {20}.*)*)", text, re.MULTILINE):
        named += [folder + name for name in re.split(r",\s+", files)]
    assert sorted(named) == sorted(MODULES)


def test_mini_is_what_the_pages_say():
    model = load_gpt2("mini")
    assert sum(p.numel() for p in model.parameters()) == 7_259_008
    assert torch.equal(model.out_head.weight, model.tok_emb.weight)


# ---- results ----------------------------------------------------------------------------------------------------

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readmes_results_are_what_the_results_files_say():
    assert write_readme.written(README) == README, "run tests/pages/write_readme.py"
    assert set(re.findall(r"<!-- (\w+) -->", README)) - {"end"} == set(write_readme.BLOCKS), "a block is not in README.md"


def test_a_result_that_changes_changes_the_page(tmp_path, monkeypatch):
    """What the test above compares could be two empty strings."""
    shutil.copytree(write_readme.RESULTS, tmp_path / "results")
    monkeypatch.setattr(write_readme, "RESULTS", tmp_path / "results")
    assert write_readme.written(README) == README
    for name in ("10-mini-default-seed123", "07-mini-default-seed123", "08-mini-default-seed123", "09-mini-default-seed2"):
        file = tmp_path / "results" / f"{name}.json"
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"0\.9(\d+)", r"0.1\1", re.sub(r"([56])\.(\d{5})", r"1.\2", text)), encoding="utf-8")
        assert write_readme.written(README) != README, f"nothing in README.md comes from {name}"
        file.write_text(text, encoding="utf-8")


def test_a_cell_is_the_mean_of_the_seeds_worked_out_apart():
    run = json.loads((ROOT / "figures" / "results" / "10-mini-default-seed123.json").read_text(encoding="utf-8"))
    values = np.array(run["results"]["balanced"]["LoRA, r = 16"]["accuracy"]["values"])
    assert len(values) == len(run["seeds"]) == 5
    reach = 2.776 * values.std(ddof=1) * (1 / 5 + 0.25) ** 0.5
    cell = f"{100 * values.mean():.1f} ± {100 * reach:.1f} ({100 * values.std(ddof=1):.1f})"
    line = re.search(r"^\| \*\*LoRA, r = 16\*\* \|.*$", README, re.MULTILINE)[0]
    assert line.split(" | ")[3] == cell, line


def test_what_was_not_measured_says_so_and_how_until_it_was(tmp_path, monkeypatch):
    shutil.copytree(write_readme.RESULTS, tmp_path / "results")
    monkeypatch.setattr(write_readme, "RESULTS", tmp_path / "results")
    real = list((tmp_path / "results").glob("06-gpt2-small-default-seed*-to-*.json"))
    for file in real:
        file.unlink()
    row = " | ".join(write_readme.large_model())
    assert "not measured" in row and "`python chapters/06_lora_spam.py --model 124M --seeds 5`" in row
    run = json.loads((tmp_path / "results" / "10-mini-default-seed123.json").read_text(encoding="utf-8"))
    run["results"] = {test: {"LoRA, r = 16": run["results"][test]["LoRA, r = 16"]} for test in ("balanced", "natural")}
    (tmp_path / "results" / "06-gpt2-small-default-seed123-to-127.json").write_text(json.dumps(run), encoding="utf-8")
    row = " | ".join(write_readme.large_model())
    assert "not measured" not in row and "±" in row


def test_only_quoted_full_runs_are_collected(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(write_readme, "RESULTS", tmp_path)
    for folder in ("06_lora_spam/mini-default-full-seed123", "06_lora_spam/mini-default-quick-seed123",
                   "06_lora_spam/mini-default-full-seed7", "06_lora_spam/gpt2-small-default-full-seed123-to-127",
                   "10_believe_the_number/mini-default-full-seed123", "experiment/mini-x-full-seed123-0a1b2c3d"):
        (tmp_path / "data" / "runs" / folder).mkdir(parents=True)
        (tmp_path / "data" / "runs" / folder / "results.json").write_text("{}", encoding="utf-8")
    write_readme.collect()
    assert {file.stem for file in tmp_path.glob("*.json")} == {
        "06-mini-default-seed123", "06-gpt2-small-default-seed123-to-127", "10-mini-default-seed123"}


def test_a_block_that_nobody_writes_is_an_error():
    with pytest.raises(ValueError, match="a block 'gossip'"):
        write_readme.written("<!-- gossip -->\n<!-- end -->")
