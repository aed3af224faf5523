"""A training run of half a second with all that has to survive a kill: dropout, draws of its own, a frozen parameter.

test_train.py and test_checkpoint.py import it; `python tests/story/tiny_run.py FOLDER` kills it again and again.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch  # noqa: E402  (the path comes first)

from gpt.batches import TextWindows  # noqa: E402
from gpt.checkpoint import Checkpoint  # noqa: E402
from gpt.config import GPTConfig  # noqa: E402
from gpt.losses import sampled_softmax_loss  # noqa: E402
from gpt.model import GPTModel  # noqa: E402
from gpt.train import train  # noqa: E402

STEPS, EPOCHS = 7, 3    # steps in an epoch


def new_run(path=None, resume=False, every=0.0, seed=1):
    """Everything that a fresh process makes before it trains."""
    config = GPTConfig(vocab_size=101, context_length=8, emb_dim=30, n_heads=5, n_layers=2, drop_rate=0.1)
    model = GPTModel(config, torch.Generator().manual_seed(seed)).eval()
    model.pos_emb.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    tokens = torch.randint(101, (8 * 28 + 1,), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    checkpoint = path and Checkpoint(path, model, optimizer, {"seed": seed}, generators=(generator,), resume=resume,
                                     every=every)
    unigram = torch.full((101,), 1 / 101)
    return SimpleNamespace(model=model, optimizer=optimizer, checkpoint=checkpoint, generator=generator,
                           loader=TextWindows(tokens, window=8, batch_size=4, seed=seed),
                           loss_fn=lambda model, ids: sampled_softmax_loss(model, ids, unigram, 20, generator))


def finish(run, **options):
    """Train the run to its end. Output: the final weights"""
    train(run.model, run.loader, run.loss_fn, run.optimizer, EPOCHS, checkpoint=run.checkpoint, **options)
    return weights(run.model)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(before, after):
    """The names of the weights that are not equal bit for bit."""
    assert before.keys() == after.keys()
    return [name for name in before if not torch.equal(before[name], after[name])]


def kill_until_done(folder):
    """Train in processes that are killed at random moments.

    Output: how many were, the weights that came out wrong, and the files that were left over
    """
    undisturbed, started = finish(new_run()), time.process_time()    # the first steps in a process are slow
    assert not changed(undisturbed, finish(new_run(folder / "undisturbed.pt"))), "saving changes the course of training"
    limit, kills = (time.process_time() - started) / 4, 0
    while True:
        child = os.fork()
        if not child:    # a timer of processor time, so that a busy machine makes no difference; SIGPROF kills at once
            signal.setitimer(signal.ITIMER_PROF, random.uniform(0.001, limit * 1.1 ** kills))
            final = finish(new_run(folder / "killed.pt", resume=(folder / "killed.pt").exists()))
            signal.setitimer(signal.ITIMER_PROF, 0)
            torch.save(final, folder / "final.pt")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert status == 0, "the run stopped, and nobody had killed it"
            left = {file.name for file in folder.iterdir()} - {"undisturbed.pt", "killed.pt", "final.pt"}
            return kills, changed(undisturbed, torch.load(folder / "final.pt")), sorted(left)
        kills += 1


if __name__ == "__main__":
    torch.set_num_threads(1)    # a forked child has none of its parent's threads and would wait for them
    kills, different, left = kill_until_done(Path(sys.argv[1]))
    print(json.dumps({"kills": kills, "different": different, "left": left}))
