"""README.md's way from here to transformers and peft, as it stands there."""

import re

import pytest
import torch
from conftest import ROOT

from gpt.adapters import save_adapter
from gpt.classify import swap_head
from gpt.lora import replace_linear_with_lora
from gpt.weights import load_gpt2

pytestmark = pytest.mark.peers


def test_what_readme_exports_answers_there_as_here(tmp_path, monkeypatch):
    """A head and a LoRA of random numbers: both roads lead to our answers."""
    torch.manual_seed(0)
    model = load_gpt2("mini").requires_grad_(False)
    swap_head(model, 2, zero=False)
    replace_linear_with_lora(model.trf_blocks, 4, 4)
    for name, p in model.named_parameters():
        if ".lora.B" in name:
            p.data.normal_(0, 0.1)
    save_adapter(model, tmp_path / "spam.safetensors", base="mini", labels=["ham", "spam"])
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"```py(?:thon)?\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL):
        exec(code, names)
    ids = torch.randint(50257, (1, 20))
    ours = model.eval()(ids)[:, -1]
    for theirs in ("with_lora", "merged"):
        found = names[theirs].eval()(ids).logits
        assert torch.allclose(found, ours, atol=1e-5 * ours.abs().max().item(), rtol=0), f"{theirs}: other answers"
    assert names["merged"].config.id2label == {0: "ham", 1: "spam"}
