"""gpt/train.py and gpt/train.py against loops written out by hand: six lines, and the book's."""

import math
import os
import signal
import threading

import pandas as pd
import pytest
import torch
from tiny_run import EPOCHS, STEPS, changed, finish, new_run, weights
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import gpt.train
from gpt.batches import BatchesByLength
from gpt.classify import calc_accuracy_loader, calc_loss_loader, class_logits, classifier_loss, swap_head
from gpt.train import (
    Progress, finishing_the_step, train, train_classifier_simple, training_step, warmup_then_cosine,
    warmup_then_linear,
)


class Letters:
    """A tokenizer that needs no file: one token a character."""

    def encode(self, text):
        return [ord(letter) - ord("0") for letter in text]


def messages(n):
    """n messages of 1 to 9 digits; those of even digits are of class 0."""
    return pd.DataFrame({"Label": [i % 2 for i in range(n)],
                         "Text": [str(i % 2 + 2 * (i % 3)) * (i % 9 + 1) for i in range(n)]})


def loader_of(table, batch_size=4, seed=None):
    return BatchesByLength(table, Letters(), batch_size, seed=seed, pad_token_id=0)


@pytest.fixture
def classifier(small_model):
    swap_head(small_model, 2)
    torch.nn.init.normal_(small_model.out_head.weight, 0.0, 0.1, generator=torch.Generator().manual_seed(0))
    return small_model    # under a head of zeros no other parameter has a gradient


def sgd(model, rate=1.0):
    return torch.optim.SGD(model.parameters(), lr=rate)


# The loop

def test_the_loop_is_these_lines_bit_for_bit():
    by_hand = new_run()
    by_hand.model.train()
    for epoch in range(EPOCHS):
        by_hand.loader.set_epoch(epoch)
        for batch in by_hand.loader:
            by_hand.optimizer.zero_grad()
            by_hand.loss_fn(by_hand.model, batch).backward()
            by_hand.optimizer.step()
    assert len(changed(weights(new_run().model), weights(by_hand.model))) > 20, "the loop of this test trains nothing"
    assert not changed(weights(by_hand.model), finish(new_run())), \
        "gradients of the step before, dropout left off, another order, or a draw too many"


@pytest.mark.exercise("E4.2")
def test_a_step_lowers_the_loss_and_ends_where_plain_descent_ends(classifier):
    batch = next(iter(loader_of(messages(8), 8)))
    before, loss = weights(classifier), classifier_loss(classifier, batch)
    gradients = torch.autograd.grad(loss, list(classifier.parameters()), allow_unused=True)
    value = training_step(classifier, batch, classifier_loss, sgd(classifier, 0.001))
    assert value == loss.item() and not value.requires_grad, "returned is the loss from before the step, detached"
    for (name, p), gradient in zip(classifier.named_parameters(), gradients):
        assert gradient is None or torch.allclose(p, before[name] - 0.001 * gradient), \
            f"{name} did not move against its gradient: are backward and step there, in this order?"
    assert classifier_loss(classifier, batch) < loss


@pytest.mark.exercise("E4.2")
def test_a_step_uses_the_gradients_of_its_own_batch_alone(classifier):
    """The loss is the sum of all parameters times the batch, so that each gradient is the batch."""
    def loss_fn(model, batch):
        return sum(p.sum() for p in model.parameters()) * batch

    optimizer, before = sgd(classifier), weights(classifier)
    for p in classifier.parameters():
        p.grad = torch.full_like(p, 100.0)    # left by whatever was computed before
    for batch, moved in ((0.25, 0.25), (0.5, 0.75)):
        training_step(classifier, batch, loss_fn, optimizer)
        for name, p in classifier.named_parameters():
            distance = (before[name] - p).mean().item()
            assert math.isclose(distance, moved, rel_tol=1e-3), f"{name} has moved by {distance:.2f} so far, " \
                f"not {moved}: are the old gradients cleared before backward, and is there one step?"


@pytest.mark.exercise("E4.2")
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(classifier, poison):
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=0.1)
    batch = next(iter(loader_of(messages(8), 8)))
    training_step(classifier, batch, classifier_loss, optimizer)
    before, memory = weights(classifier), str(optimizer.state_dict())
    value = training_step(classifier, batch, lambda *args: classifier_loss(*args) * poison, optimizer)
    assert not math.isfinite(value), "the loss is returned as it is, so that the caller sees it"
    assert not value.requires_grad, "with a gradient it would hold on to all that its computation kept"
    assert not changed(before, weights(classifier)), f"a step was taken for a loss of {poison}"
    assert str(optimizer.state_dict()) == memory, "the optimizer's memory holds the poison"


@pytest.mark.exercise("E4.2")
def test_clipping_shortens_the_step_of_all_parameters_together(classifier):
    batch = next(iter(loader_of(messages(8), 8)))

    def length(clip):
        """How far one step of SGD with learning rate 1 goes: the norm of the gradient that it used."""
        before = weights(classifier)
        training_step(classifier, batch, classifier_loss, sgd(classifier), clip)
        moved = math.sqrt(sum((p - before[name]).square().sum().item() for name, p in classifier.named_parameters()))
        with torch.no_grad():
            for name, p in classifier.named_parameters():
                p.copy_(before[name])
        return moved

    plain = length(None)
    assert math.isclose(length(plain / 5), plain / 5, rel_tol=1e-3), "is each parameter clipped by itself?"
    assert math.isclose(length(5 * plain), plain, rel_tol=1e-5), "a gradient below the limit stays as it is"


@pytest.mark.exercise("E4.2")
def test_what_is_clipped_together_is_what_the_optimizer_has_in_all_its_groups(classifier):
    """A step from a loss whose gradient is 3, 4 and 12 by three numbers of the optimizer, and 100 by all the others."""
    weight, bias, outsider = classifier.out_head.weight, classifier.out_head.bias, torch.nn.Parameter(torch.zeros(1))
    groups = [{"params": [weight]}, {"params": [bias, outsider]}]

    def loss_fn(model, batch):
        others = sum(p.sum() for p in model.parameters() if p is not weight and p is not bias)
        return 3 * weight[0, 0] + 4 * bias[0] + 12 * outsider[0] + 100 * others

    for _ in range(2):    # in the second step there are old gradients
        before = [p.detach().clone() for p in (weight, bias, outsider)]
        training_step(classifier, None, loss_fn, torch.optim.SGD(groups, lr=1.0), clip=1.3)
        moved = [(old - p).abs().max().item() for old, p in zip(before, (weight, bias, outsider))]
        assert moved == pytest.approx([0.3, 0.4, 1.2], rel=1e-3), \
            "3, 4 and 12 have the norm 13, and a tenth of each the norm 1.3: all groups together, and nothing besides"


def test_progress_counts_steps_rows_and_epochs(classifier):
    seen = []

    def note(what):
        return lambda p: seen.append((what, p.epoch, p.batch, p.step, p.seen))

    progress = train(classifier, loader_of(messages(11)), classifier_loss, sgd(classifier),
                     2, after_step=note("step"), after_epoch=note("epoch"))
    assert seen == [("step", 0, 1, 1, 4), ("step", 0, 2, 2, 8), ("step", 0, 3, 3, 11), ("epoch", 1, 0, 3, 11),
                    ("step", 1, 1, 4, 15), ("step", 1, 2, 5, 19), ("step", 1, 3, 6, 22), ("epoch", 2, 0, 6, 22)]
    assert (progress.epoch, progress.step, progress.seen) == (2, 6, 22)


def test_time_spent_looking_is_not_training_time(classifier, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def waits(seconds, value=None):
        def wait(*_):
            now[0] += seconds
            return value() if value else None
        return wait

    progress = train(classifier, loader_of(messages(12)),
                     waits(1.0, lambda: classifier.out_head.bias.sum()), sgd(classifier), 2,
                     after_step=waits(10.0), after_epoch=waits(100.0))
    assert (progress.seconds, progress.seconds_evaluating) == (6.0, 260.0)


def test_a_loader_without_batches_is_an_error_and_no_training(classifier):
    loader = DataLoader(TensorDataset(torch.ones(3, 2).long(), torch.ones(3).long()), batch_size=8, drop_last=True)
    with pytest.raises(ValueError, match="no batch.*drop_last"):
        train(classifier, loader, classifier_loss, sgd(classifier), 1)


def test_a_log_file_gets_no_progress_bar(classifier, capsys):
    train(classifier, loader_of(messages(8), 8), classifier_loss, sgd(classifier), 1)
    assert capsys.readouterr().err == ""


def test_a_shuffling_loader_of_torch_gives_every_epoch_its_own_order(classifier):
    ids = torch.arange(12)[:, None]
    loader, seen = DataLoader(TensorDataset(ids, ids[:, 0] % 2), batch_size=4, shuffle=True), []

    def loss_fn(model, batch):
        seen.append(batch[0].flatten().tolist())
        return classifier_loss(model, batch)

    torch.manual_seed(5)
    train(classifier, loader, loss_fn, sgd(classifier), 3)
    torch.manual_seed(5)
    assert seen == [ids.flatten().tolist() for _ in range(3) for ids, _ in loader]
    assert seen[:3] != seen[3:6] != seen[6:], "the loader is started in the same random state each time"


# The learning rate

@pytest.mark.exercise("E4.3")
def test_the_schedule_warms_up_and_falls_along_half_a_cosine():
    factor = warmup_then_cosine(4, 104, last=0.1)
    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0], "a first step with factor 0 is wasted"
    assert factor(4) == 1.0, "the fall begins at 1, where the warmup ends: how much is between 1 and `last`?"
    assert math.isclose(factor(54), 0.55), "half way down after half of the steps: is warmup taken off both numbers?"
    assert math.isclose(factor(29), 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2), "half a cosine, not a line"


@pytest.mark.exercise("E4.3")
def test_the_schedule_ends_at_its_last_value_and_stays_there():
    factor = warmup_then_cosine(4, 104, last=0.1)
    assert math.isclose(factor(104), 0.1) and math.isclose(factor(500), 0.1), "past the end it stays at the last value"
    assert warmup_then_cosine(4, 104)(104) == 0.0, "`last` is 0 where nothing is said"


@pytest.mark.exercise("E4.3")
def test_a_schedule_may_have_no_warmup_and_may_be_nothing_else():
    assert warmup_then_cosine(0, 10)(0) == 1.0 and warmup_then_cosine(0, 10)(10) == 0.0
    assert [warmup_then_cosine(5, 5)(step) for step in (4, 5)] == [1.0, 1.0], "a run that is all warmup divides by no 0"


def test_each_group_keeps_its_own_rate_under_the_schedule(classifier):
    head, rest = classifier.out_head.parameters(), classifier.trf_blocks.parameters()
    optimizer = torch.optim.SGD([{"params": head, "lr": 0.5}, {"params": rest, "lr": 0.25}])
    rates, loader = [], loader_of(messages(12))

    def note(progress):
        rates.append([group["lr"] for group in optimizer.param_groups])

    for _ in range(2):
        train(classifier, loader, classifier_loss, optimizer, 1, schedule=lambda step: 1 / (step + 1), after_step=note)
    assert rates == 2 * [[0.5, 0.25], [0.25, 0.125], [0.5 / 3, 0.25 / 3]], \
        "the factor multiplies the first rate, not the one of the step before, nor of the run before"


def test_without_a_schedule_another_one_is_left_alone(classifier):
    optimizer = sgd(classifier)
    torchs = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    train(classifier, loader_of(messages(12)), classifier_loss, optimizer, 1,
          after_step=lambda progress: torchs.step())
    assert optimizer.param_groups[0]["lr"] == 0.125


# Looking changes nothing

def look_at_losses(run):
    data = TensorDataset(torch.randint(101, (12, 5)), torch.zeros(12).long())
    calc_loss_loader(DataLoader(data, batch_size=3, shuffle=True), run.model, "cpu")


def look_roughly(run):
    for _ in DataLoader(TensorDataset(torch.arange(10)), shuffle=True):
        torch.rand(3)
    run.model.eval()


def look_at_the_training_data(run):
    next(iter(run.loader))
    run.loader.generator and torch.rand(3, generator=run.loader.generator)


@pytest.mark.parametrize("look", [look_at_losses, look_roughly, look_at_the_training_data])
@pytest.mark.parametrize("loader", ["windows", "torch's"])
def test_looking_does_not_change_the_course_of_training(look, loader):
    def run(hook):
        run = new_run()
        run.loader.generator = None
        if loader == "torch's":
            rows = torch.randint(101, (4 * STEPS, 9), generator=torch.Generator().manual_seed(0))
            run.loader = DataLoader(rows, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0))
        hooks = {name: lambda progress: hook(run) for name in ("after_step", "after_epoch")} if hook else {}
        return finish(run, **hooks)

    assert not changed(run(None), run(look)), "dropout left off, or a random number drawn that training would have got"


def test_a_hook_sees_the_model_without_dropout_and_without_gradients():
    run, seen = new_run(), []
    finish(run, after_step=lambda progress: seen.append((run.model.training, torch.is_grad_enabled())))
    assert set(seen) == {(False, False)} and len(seen) == STEPS * EPOCHS


# A loss that is not finite

@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_does_harm(poison):
    run, kept = new_run(), []

    def loss_fn(model, batch):
        if len(kept) == STEPS + 2:
            kept.append(str(run.optimizer.state_dict()))
            return run.loss_fn(model, batch) * poison
        kept.append(weights(model))
        return run.loss_fn(model, batch)

    last = []
    with pytest.raises(FloatingPointError, match=f"the loss is {poison} in step {STEPS + 3}, rows") as error:
        train(run.model, run.loader, loss_fn, run.optimizer, EPOCHS,
              after_step=lambda progress: last.append(weights(run.model)))
    assert not changed(last[-1], weights(run.model)), "the step was taken in spite of it"
    assert str(run.optimizer.state_dict()) == kept[-1], "the optimizer's memory holds the poison"
    run.loader.set_epoch(1)
    assert str(run.loader.rows[2]) in str(error.value), "these are not the rows of the third batch of the second epoch"


def test_weights_that_a_step_has_ruined_are_named_and_not_the_messages_after_it(classifier, tmp_path):
    """A loss of 1e30 is finite, and so is its gradient; at this rate the weights are not."""
    optimizer = torch.optim.SGD(classifier.parameters(), lr=1e30)
    with pytest.raises(FloatingPointError, match="holds numbers that are not finite after step 1, which"):
        train(classifier, loader_of(messages(12)), lambda *args: classifier_loss(*args) * 1e30, optimizer, 2)


def test_weights_that_the_last_step_has_ruined_are_no_result(classifier):
    optimizer = torch.optim.SGD(classifier.parameters(), lr=1e30)
    with pytest.raises(FloatingPointError, match="not finite after step 1"):
        train(classifier, list(loader_of(messages(3)))[:1], lambda *args: classifier_loss(*args) * 1e30, optimizer, 1)


def test_what_trains_is_not_held_in_float16(classifier):
    """AdamW divides by the square root of v plus 1e-8, which float16 rounds to 0: in the first step 0 / 0 is NaN."""
    with pytest.raises(ValueError, match="tok_emb.weight would train in float16"):
        train(classifier.half(), loader_of(messages(12)), classifier_loss, sgd(classifier), 1)


def test_the_rows_that_it_names_are_those_of_the_message(classifier):
    table = messages(30)
    table.loc[17, "Text"] = "99"
    loader = loader_of(table, 3, seed=5)

    def loss_fn(model, batch):
        return classifier_loss(model, batch) * (math.nan if 9 in batch[0] else 1.0)

    with pytest.raises(FloatingPointError, match=r"rows \[.*\b17\b.*\]"):
        train(classifier, loader, loss_fn, sgd(classifier), 1)


def test_a_loader_that_knows_no_rows_is_named_by_batch_and_epoch(classifier):
    batches = list(loader_of(messages(12)))
    losses = iter([1.0] * 4 + [math.nan])
    with pytest.raises(FloatingPointError, match="nan in step 5, batch 2 of epoch 2"):
        train(classifier, batches, lambda *args: classifier_loss(*args) * next(losses), sgd(classifier), 2)


def test_a_gpu_is_not_made_to_wait_for_each_loss_and_the_right_step_is_named_all_the_same(classifier, monkeypatch):
    """On the device "meta" nothing can be computed, so the step is one of this test."""
    losses, reads = [1.0] * 12 + [math.nan] + [1.0] * 20, []
    monkeypatch.setattr(gpt.train, "to_device", lambda batch, device: batch)
    read_losses = gpt.train.read_losses

    def counted(unread, *where):
        reads.append(len(unread))
        return read_losses(unread, *where)

    monkeypatch.setattr(gpt.train, "read_losses", counted)

    def step(*arguments):
        return torch.tensor(losses.pop(0))

    loader = loader_of(messages(64), 4)
    with pytest.raises(FloatingPointError, match="nan in step 13, rows") as error:
        train(classifier, loader, classifier_loss, sgd(classifier), 1, device="meta", step=step)
    assert reads == [10, 6] and str(loader.rows[12]) in str(error.value), "sixteen batches: ten, and six at the end"


# float16

@pytest.mark.exercise("E4.2")
def test_a_scaled_loss_gives_the_step_of_a_plain_one_and_small_gradients_survive_float16(classifier):
    """The gradients of this loss are 1e-8, and the smallest number of float16 is 6e-8."""
    def loss_fn(model, batch):
        return sum(p.to(torch.float16).sum() for p in model.parameters()).float() * 1e-8

    moved = {}
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**16)):
        before = weights(classifier)
        training_step(classifier, None, loss_fn, sgd(classifier, 1e5), scaler=scaler)
        moved[scaler is None] = (before["pos_emb.weight"] - classifier.pos_emb.weight).mean().item()
    assert moved[True] == 0.0, "this test's gradients do not become 0 in float16, so it shows nothing"
    assert math.isclose(moved[False], 1e-3, rel_tol=0.02)


@pytest.mark.exercise("E4.2")
def test_clipping_sees_gradients_that_are_scaled_back(classifier):
    moved = []
    for scale in (1.0, 1024.0):
        before = weights(classifier)
        training_step(classifier, next(iter(loader_of(messages(8), 8))), classifier_loss, sgd(classifier), clip=0.01,
                      scaler=torch.amp.GradScaler("cpu", init_scale=scale))
        after = weights(classifier)
        moved.append(math.sqrt(sum((before[name] - after[name]).square().sum().item() for name in before)))
        classifier.load_state_dict(before, strict=False)
    assert moved == pytest.approx([0.01, 0.01], rel=1e-3)


@pytest.mark.exercise("E4.2")
def test_a_step_whose_gradients_are_not_finite_is_left_out_and_the_scale_halved(classifier):
    def loss_fn(model, batch):
        return sum((0 * p).sum() for p in model.parameters()).sqrt() + 1.0    # 1, with a slope of infinity times 0

    optimizer, scaler, before = sgd(classifier), torch.amp.GradScaler("cpu", init_scale=64.0), weights(classifier)
    assert training_step(classifier, None, loss_fn, optimizer, scaler=scaler) == 1.0
    assert not changed(before, weights(classifier)), "scaler.step leaves such a step out, optimizer.step takes it"
    assert scaler.get_scale() == 32.0, "scaler.update halves the scale after a step that was left out"


# Ctrl-C

def press_ctrl_c(at_step, run):
    """A loss function in the middle of which Ctrl-C is pressed, once."""
    calls = []

    def loss_fn(model, batch):
        calls.append(1)
        if len(calls) == at_step:
            os.kill(os.getpid(), signal.SIGINT)
        return run.loss_fn(model, batch)

    return loss_fn


not_on_windows = pytest.mark.skipif(os.name == "nt", reason="os.kill ends a process there")


@not_on_windows
@pytest.mark.parametrize("step", [1, STEPS + 2, STEPS, STEPS * EPOCHS])
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, step):
    run = new_run(tmp_path / "run.pt", every=3600)
    seen = []
    with pytest.raises(KeyboardInterrupt) as error:
        train(run.model, run.loader, press_ctrl_c(step, run), run.optimizer, EPOCHS, checkpoint=run.checkpoint,
              after_step=lambda progress: seen.append(progress.step))
    assert seen == list(range(1, step + 1)), "the step under way was not finished, or another one begun"
    assert str(error.value) == (f"stopped after step {step}: the same command with --resume goes on from "
                                f"{tmp_path / 'run.pt'}")
    resumed = new_run(tmp_path / "run.pt", resume=True)
    assert not changed(finish(new_run()), finish(resumed)), "what it said is not true"


@not_on_windows
def test_ctrl_c_while_looking_for_the_last_time_is_not_lost():
    run = new_run()
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {STEPS}: nothing was saved"):
        train(run.model, run.loader, run.loss_fn, run.optimizer, 1,
              after_epoch=lambda progress: os.kill(os.getpid(), signal.SIGINT))


@not_on_windows
def test_a_second_ctrl_c_breaks_off_at_once(tmp_path):
    run, reached = new_run(tmp_path / "run.pt"), []

    def loss_fn(model, batch):
        for number in (1, 2, 3):
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(number)

    with pytest.raises(KeyboardInterrupt, match="inside a step.*--resume"):
        train(run.model, run.loader, loss_fn, run.optimizer, 1, checkpoint=run.checkpoint)
    assert reached == [1] and not (tmp_path / "run.pt").exists(), "half a step must not be saved"


def test_afterwards_ctrl_c_means_what_it_meant_before(classifier):
    def fail(model, batch):
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        train(classifier, [[torch.ones(1, 1)]], fail, sgd(classifier), 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@not_on_windows
@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_a_program_with_its_own_ctrl_c_keeps_it(handler):
    signal.signal(signal.SIGINT, handler)
    with finishing_the_step() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is handler and not stop.is_set()


def test_training_works_in_a_thread_where_no_signal_may_be_changed():
    result = []
    thread = threading.Thread(target=lambda: result.append(finish(new_run())))
    thread.start()
    thread.join()
    assert result and not changed(finish(new_run()), result[0])


# Classes

def test_the_mean_loss_counts_messages_and_not_batches(classifier):
    with torch.no_grad():
        classifier.out_head.bias[1] = 3.0    # far from even, so that the batches' losses differ
    loader = loader_of(messages(9), 5)
    batches = [tuple(part[:1] for part in batch) for batch in loader] + list(loader)    # of 1, 1, 5 and 4 messages
    by_hand = [F.cross_entropy(class_logits(classifier, ids[i:i + 1], lengths[i:i + 1]),
                               labels[i:i + 1]).item() for ids, lengths, labels in batches for i in range(len(ids))]
    assert math.isclose(calc_loss_loader(batches, classifier, "cpu"), sum(by_hand) / len(by_hand), rel_tol=1e-5)
    first = len(batches[0][0]) + len(batches[1][0])
    assert math.isclose(calc_loss_loader(batches, classifier, "cpu", 2), sum(by_hand[:first]) / first, rel_tol=1e-5)


def the_books_training(model, train_loader, val_loader, optimizer, device, epochs, eval_freq, eval_iter):
    """Raschka's train_classifier_simple, abridged: it reads the last position and means over batches."""
    def loss_of(batch):
        return F.cross_entropy(model(batch[0])[:, -1, :], batch[1])

    def mean_loss(loader):
        model.eval()
        losses = [loss_of(batch).item() for _, batch in zip(range(eval_iter), loader)]
        model.train()
        return sum(losses) / len(losses)

    losses, accuracies, seen, step = ([], []), ([], []), 0, -1
    for _ in range(epochs):
        model.train()
        for batch in train_loader:
            optimizer.zero_grad()
            loss_of(batch).backward()
            optimizer.step()
            seen, step = seen + len(batch[0]), step + 1
            if step % eval_freq == 0:
                for kept, loader in zip(losses, (train_loader, val_loader)):
                    kept.append(mean_loss(loader))
        for kept, loader in zip(accuracies, (train_loader, val_loader)):
            kept.append(calc_accuracy_loader(loader, model, "cpu", eval_iter))
    return *losses, *accuracies, seen


def test_the_blogs_training_function_gives_what_the_books_gives(small_model, capsys):
    def loader(n, seed):
        ids = torch.randint(101, (n, 7), generator=torch.Generator().manual_seed(seed))
        return DataLoader(TensorDataset(ids, ids[:, 0] % 2), batch_size=4)

    swap_head(small_model, 2)
    start, results = weights(small_model), []
    for function in (the_books_training, train_classifier_simple):
        small_model.load_state_dict(start)
        results.append(function(small_model, loader(20, 0), loader(12, 1), sgd(small_model, 0.02), "cpu", 3, 4, 2))
    book, ours = results
    assert [len(values) for values in ours[:4]] == [4, 4, 3, 3], "it looks after steps 1, 5, 9 and 13 of 15"
    assert ours[4] == book[4] == 60
    for values, expected in zip(ours[:4], book[:4]):
        assert values == pytest.approx(expected, rel=1e-4)
    assert len(set(ours[0])) == len(set(ours[1])) == 4, "a model that does not train would pass"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"Ep 1 (Step 000000): Train loss {ours[0][0]:.3f}, Val loss {ours[1][0]:.3f}")
    assert printed[-1] == f"Training accuracy: {ours[2][-1]:.2%} | Validation accuracy: {ours[3][-1]:.2%}"


def test_a_fresh_progress_has_done_nothing():
    assert Progress() == Progress(0, 0, 0, 0, 0.0, 0.0, [])
    assert Progress().history is not Progress().history, "two runs would write into one list"


@pytest.mark.exercise("E7.4")
def test_after_warmup_the_rate_falls_in_a_straight_line_to_zero():
    rate = warmup_then_linear(4, 12)
    assert [rate(step) for step in range(14)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0, 0.0]), \
        "is the first step wasted, does the fall begin before the warm-up ends, or go below 0?"


@pytest.mark.exercise("E7.4")
def test_a_straight_fall_may_have_no_warmup_and_a_run_may_be_nothing_else():
    assert [warmup_then_linear(0, 2)(step) for step in range(3)] == [1.0, 0.5, 0.0], "the first step has the whole rate"
    assert warmup_then_linear(3, 3)(3) == 1.0, "a run that is all warm-up divides by zero"
