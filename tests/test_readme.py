"""What README.md and the other pages say is held against the repository."""

import ast
import json
import re
import shlex
import sys

import pytest
import torch
from conftest import ROOT

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


MODULES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "gpt").glob("[a-z]*.py")}


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
    order = re.search(r"Reading order:\n(.*?)\n\n", (ROOT / "gpt" / "__init__.py").read_text(encoding="utf-8"), re.DOTALL)[1]
    named = [name for line in order.splitlines() for name in re.split(r",? +", line[20:].strip())]
    assert sorted(named) == sorted(MODULES)


def test_mini_is_what_the_pages_say():
    model = load_gpt2("mini")
    assert sum(p.numel() for p in model.parameters()) == 7_259_008
    assert torch.equal(model.out_head.weight, model.tok_emb.weight)


def test_readmes_table_is_that_of_the_results_files():
    """Each row of the table of three seeds, against the results.json files that were committed with it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    ways = [(f"chapter 5: {way}", "05-mini-default", lambda r, way=way: r["results"][f"GPT-2 mini, {way}"]["test_accuracy"])
            for way in ("everything", "last block", "head")]
    for row, name, of in (*ways, ("GPT-2 mini, LoRA", "06-mini-default", lambda r: r["test_accuracy"]),
                          ("the same LoRA on mini untrained", "06-mini-untrained-default", lambda r: r["test_accuracy"]),
                          ("naive Bayes", "06-mini-default", lambda r: r["baselines"][2]["test"]),
                          ("message length", "06-mini-default", lambda r: r["baselines"][1]["test"])):
        files = [ROOT / "figures" / "results" / f"{name}-seed{seed}.json" for seed in (123, 1, 2)]
        values = [of(json.loads(file.read_text(encoding="utf-8"))) for file in files]
        said = re.search(rf"^\| {row} \|.*$", text, re.MULTILINE)[0]
        wanted = [f"{100 * value:.2f} %" for value in [*values, sum(values) / 3]]
        assert re.findall(r"\d+\.\d\d %", said) == wanted, f"README says {said}"


def results(name):
    return json.loads((ROOT / "figures" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def row_of(name):
    """The cells of README's last row that begins with this name."""
    lines = re.findall(rf"^\| {re.escape(name)} \|.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    return [cell.strip() for cell in lines[-1].strip("|").split("|")][1:]


def test_readmes_table_of_lora_for_text_is_that_of_the_results_file():
    run = results("07-mini-default-seed123")
    before = run["full"]["before"]["test"]
    assert row_of("before") == ["", f"{before['loss']:.3f}", f"{before['accuracy']:.1%}".replace("%", " %"), "", "", ""]
    for name, way in (("all weights", run["full"]), ("LoRA", run["lora"])):
        after = way["after"]["test"]
        assert row_of(name) == [f"{way['trainable_parameters']:,}", f"{after['loss']:.3f}",
                                f"{after['accuracy']:.1%}".replace("%", " %"), f"{1000 * way['seconds_per_step']:.0f} ms",
                                f"{way['predicted_memory_bytes']['peak'] / 1e6:.0f} MB",
                                f"{way['peak_memory_bytes'] / 1e6:.0f} MB"]


def test_readmes_table_of_three_classes_is_that_of_the_results_files():
    runs = [results(f"09-mini-default-seed{seed}")["results"] for seed in (123, 1, 2)]
    for name in ("GPT-2 mini, LoRA", "GPT-2 mini, LoRA, weights divided out", "naive Bayes", "naive Bayes, classes even",
                 "majority"):
        means = [sum(run[name][key] for run in runs) / 3 for key in ("accuracy", "recall")]
        assert row_of(name) == [f"{100 * mean:.2f} %" for mean in means], name


def test_readmes_table_of_matrices_and_ranks_is_that_of_the_results_file():
    short = {"W_query": "q", "W_key": "k", "W_value": "v", "out_proj": "o", "layers.0": "up", "layers.2": "down"}
    found = {}
    for row in results("08-mini-default-seed123")["tables"]:
        matrices = ",".join(short[name] for name in row["matrices"])
        mean, _, high = row["interval"]
        found.setdefault(f"{matrices}, r = {row['rank']}" if row["rank"] else "everything", {})[row["measure"]] = (
            f"{100 * mean:.1f} ± {100 * (high - mean):.1f} %" if "accuracy" in row["measure"] else
            f"{mean:.3f} ± {high - mean:.3f}")
    said = [name for name in found if f"| {name} |" in (ROOT / "README.md").read_text(encoding="utf-8")]
    assert len(said) == 13
    for name in said:
        assert row_of(name) == [found[name][key] for key in ("spam accuracy", "spam loss", "text loss")], name
