"""What README.md and the other pages say is held against the repository."""

import re
import shlex

import pytest
import torch
from conftest import ROOT

from gpt.adapters import save_adapter
from gpt.classify import swap_head
from gpt.lora import replace_linear_with_lora
from gpt.weights import load_gpt2

PAGES = [ROOT / "README.md", *(ROOT / folder / "README.md" for folder in ("chapters", "data", "figures"))]


def test_readmes_four_lines_classify_texts(tmp_path, monkeypatch, capsys):
    """The code as it stands in README.md, with an adapter that has learnt nothing: it says 50 % to everything."""
    model = load_gpt2("mini").requires_grad_(False)
    swap_head(model, 2)
    replace_linear_with_lora(model.trf_blocks, 4, 4)
    save_adapter(model, tmp_path / "spam.safetensors", base="mini", labels=["ham", "spam"])
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
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


def test_requirements_are_pinned():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[a-z]+==[\d.]+ +# (chapters? [\d, -]+|the tests).*", line), line


def test_mini_is_what_the_pages_say():
    model = load_gpt2("mini")
    assert sum(p.numel() for p in model.parameters()) == 7_259_008
    assert torch.equal(model.out_head.weight, model.tok_emb.weight)
