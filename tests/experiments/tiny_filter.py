"""Runs of a spam filter that take a second: made-up messages in place of the file, a tiny GPT-2 in place of mini.

test_spam_filters_run.py and test_comparison.py import it; `run_of_a_test` is what the latter runs in a process of its own.
"""

import os
import random
import signal
from contextlib import contextmanager
from pathlib import Path

import torch

from gpt.experiments import spam_filters
from gpt.checkpoint import Checkpoint
from gpt.config import GPTConfig
from gpt.model import GPTModel

TINY = GPTConfig(vocab_size=50257, context_length=64, emb_dim=12, n_heads=2, n_layers=3)
WORDS = {"ham": "see you home late call mum ok where are lunch train sorry love work soon".split(),
         "spam": "win cash prize free now txt claim urgent call award mobile bonus offer reply stop".split()}


class Letters:
    """A tokenizer that needs no file: one token a character."""

    def encode_ordinary(self, text):
        return [ord(letter) for letter in text]

    encode = encode_ordinary


def messages(n_ham=170, n_spam=50, seed=0):
    """Lines as in the SMS file; no two messages have the same letters, and lengths differ."""
    draw, lines = random.Random(seed), {}
    while len(lines) < n_ham + n_spam:
        label = "ham" if len(lines) < n_ham else "spam"
        text = " ".join(draw.choices(WORDS[label], k=draw.randint(2, 8)))
        lines.setdefault(text.replace(" ", ""), f"{label}\t{text}")
    lines = list(lines.values())
    draw.shuffle(lines)
    return "\n".join(lines) + "\n"


@contextmanager
def one_core():
    """As the library has it for mini: a tiny model only waits for a second one, and bits depend on the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_tiny(put, folder):
    """Make the spam filters read these messages and know the model "tiny". put: setattr, or that of monkeypatch."""
    file = Path(folder) / "messages"
    if not file.exists():
        file.write_text(messages(), encoding="utf-8")
    put(spam_filters, "fetch", lambda name: file)
    put(spam_filters, "gpt2_tokenizer", Letters)
    put(spam_filters, "GPT2_SIZES", {"tiny": TINY})
    put(spam_filters, "load_gpt2", lambda name: GPTModel(TINY, torch.Generator().manual_seed(0)))
    put(spam_filters, "CONTEXT", TINY.context_length)


def note_steps(put):
    """Make each Checkpoint that saves note the step and the process in a file beside it. put: as in make_tiny."""
    save = Checkpoint.save

    def save_and_note(self, progress, now=False):
        save(self, progress, now)
        with open(self.path.parent / "steps", "a", encoding="utf-8") as steps:
            print(progress.step, os.getpid(), file=steps)
        how, at = (os.environ.get("DIE") or "never 0").split()
        if how != "never" and progress.step == int(at):
            if how == "ctrl-c":    # a terminal sends it to the whole group: to both processes
                os.kill(os.getppid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGINT)

    put(Checkpoint, "save", save_and_note)


def run_of_a_test(settings, folder, device):
    """`run_filter`, which saves after each step; $DIE is "kill 5" or "ctrl-c 5": what happens after step 5."""
    make_tiny(setattr, os.environ["GPT_DATA_DIR"])
    note_steps(setattr)
    Checkpoint.__init__.__kwdefaults__["every"] = 0.0
    with one_core():
        return spam_filters.run_filter(settings, folder, device)
