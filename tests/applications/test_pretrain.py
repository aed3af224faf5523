"""gpt/applications/pretrain.py on a text of a few hundred tokens: what decays, what is measured, what a kill costs."""

import math
import re

import pytest
import torch

from gpt.applications.pretrain import pretrain, shares, text_losses
from gpt.checkpoint import Checkpoint
from gpt.config import GPTConfig
from gpt.cost.precision import computing
from gpt.losses import next_token_loss
from gpt.model import GPTModel

V = 101
TEXT = torch.randint(V, (8 * 40 + 1,), generator=torch.Generator().manual_seed(0))
HOW = dict(epochs=2, sampled_batches=3, full_batches=2, batch_size=4, windows=2, seed=1)


@pytest.fixture
def fresh():
    """Makes the same untrained model each time."""
    config = GPTConfig(vocab_size=V, context_length=8, emb_dim=30, n_heads=5, n_layers=2)
    return lambda: GPTModel(config, torch.Generator().manual_seed(1))


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def test_shares_are_those_of_the_text_and_no_token_is_impossible():
    counted = shares(torch.tensor([3, 3, 3, 1]), 5)
    assert torch.allclose(counted, torch.tensor([0.1, 1.0, 0.1, 3.0, 0.1]) / 4.3)
    assert counted.min() > 0, "1 / pi of a token with share 0 is infinite"


def test_the_loss_of_a_text_is_the_mean_over_its_windows(fresh):
    model = fresh().train()
    measured = text_losses(model, {"a": TEXT.int(), "b": TEXT.flip(0)}, windows=3)
    with torch.no_grad():
        expected = next_token_loss(model, TEXT[:27].view(3, 9)).item()
    assert math.isclose(measured["a"], expected, rel_tol=1e-5), "is each window T + 1 tokens, the last only a target?"
    assert measured["a"] != measured["b"] and model.training, "the model's mode should be what it was"


def test_matrices_decay_and_vectors_do_not(fresh, tmp_path, monkeypatch):
    model, groups, step = fresh(), [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: (groups.append(self.param_groups), step(self)))
    pretrain(model, TEXT, {}, **HOW, folder=tmp_path)
    assert {group["betas"] for group in groups[0]} == {(0.9, 0.95)}
    decay = {id(p): group["weight_decay"] for group in groups[0] for p in group["params"]}
    for name, p in model.named_parameters():
        assert decay.pop(id(p)) == (0.1 if p.dim() == 2 else 0.0), f"{name}: biases and LayerNorm's vectors stay"
    assert not decay, "a parameter is in two groups, or of another model"


def test_bfloat16_rounds_the_products_and_not_the_loss(fresh):
    model = fresh()
    exact = next_token_loss(model, TEXT[:9][None])
    rounded = computing(torch.bfloat16, "cpu")(next_token_loss)(model, TEXT[:9][None])
    assert rounded.dtype == torch.float32 and exact != rounded
    assert math.isclose(exact.item(), rounded.item(), rel_tol=0.01)


def test_two_phases_under_one_schedule(fresh, tmp_path, monkeypatch):
    rates, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step",
                        lambda self: (rates.append(self.param_groups[0]["lr"]), step(self)))
    done = pretrain(fresh(), TEXT, {}, **HOW, folder=tmp_path)
    assert {phase: progress.step for phase, progress in done.items()} == {"sampled softmax": 6, "full softmax": 2}
    expected = [4e-3 * (i + 1) / 100 for i in range(8)]
    assert torch.allclose(torch.tensor(rates), torch.tensor(expected)), "does the second phase begin the warm-up anew?"


@pytest.mark.parametrize("phase, step", [("sampled-softmax", 4), ("full-softmax", 2)])
def test_a_run_that_dies_in_either_phase_ends_with_the_same_weights(fresh, tmp_path, monkeypatch, phase, step):
    undisturbed = fresh()
    pretrain(undisturbed, TEXT, {}, **HOW, folder=tmp_path / "undisturbed")
    save = Checkpoint.save

    def save_and_die(self, progress, now=False):
        save(self, progress, now=True)
        if self.path.stem == phase and progress.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        pretrain(fresh(), TEXT, {}, **HOW, folder=tmp_path / "killed")
    monkeypatch.setattr(Checkpoint, "save", save)
    resumed = fresh()
    pretrain(resumed, TEXT, {}, **HOW, folder=tmp_path / "killed", resume=True)
    assert all(map(torch.equal, weights(undisturbed), weights(resumed))), \
        "is something left out of the checkpoint: the generator of the draws, the optimizer both phases share?"


def test_the_losses_are_printed_every_so_many_steps_and_change_nothing(fresh, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gpt.applications.pretrain.LOOK_EVERY", 20)
    seen, looked = fresh(), fresh()
    how = HOW | dict(epochs=3, sampled_batches=10, full_batches=1)
    pretrain(seen, TEXT, {"text": TEXT}, **how, folder=tmp_path / "a")
    assert re.findall("^step (.*): text ", capsys.readouterr().out, re.M) == ["20"]
    pretrain(looked, TEXT, {}, **how, folder=tmp_path / "b")
    assert all(map(torch.equal, weights(seen), weights(looked))), "evaluating changed the course of training"
