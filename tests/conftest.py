"""Puts the repository root on the path and names the fixtures that several test files share."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gpt.config import GPTConfig  # noqa: E402  (the path comes first)
from gpt.model import GPTModel  # noqa: E402

TINY = Path(__file__).parent / "fixtures" / "openai_tiny"   # written by TensorFlow in OpenAI's layout


@pytest.fixture
def small_model():
    """A GPT-2 whose sizes are all different, so that no two axes can be mistaken for each other."""
    config = GPTConfig(vocab_size=101, context_length=24, emb_dim=30, n_heads=5, n_layers=3)
    return GPTModel(config, torch.Generator().manual_seed(0)).eval()


def pytest_configure(config):
    config.addinivalue_line("markers", "chapters: runs whole chapters, minutes in all; only with -m chapters")


def pytest_collection_modifyitems(config, items):
    """Without -m the chapters are not run; pytest says how many tests were deselected."""
    if not config.getoption("-m"):
        slow = [item for item in items if item.get_closest_marker("chapters")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
