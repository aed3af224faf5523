"""gpt/cost/memory.py: what is predicted is what autograd, the optimizer and the allocator then hold."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile, record_function

from gpt.classify import classifier_loss, swap_head
from gpt.config import GPT2_SIZES, GPTConfig
from gpt.cost.memory import Storage, Tape, predict_memory
from gpt.lora import LinearWithLoRA, lora_layers, replace_linear_with_lora
from gpt.losses import next_token_loss
from gpt.model import GPTModel
from gpt.train import training_step

CHUNK = 5    # tokens in a chunk of the text loss: less than a batch has, and no divisor of it
KINDS = {    # how the model trains: options of the LoRA, or None; which other parameters train, by their names
    "everything": (None, lambda name: True),
    "query and value": (dict(targets=("W_query", "W_value")), lambda name: ".lora." in name),
    "key alone": (dict(targets=("W_key",)), lambda name: ".lora." in name),
    "every layer": ({}, lambda name: ".lora." in name),
    "one A for three": (dict(share_a=True), lambda name: ".lora." in name),
    "dropout before A": (dict(dropout=0.2), lambda name: ".lora." in name),
    "B alone": ({}, lambda name: name.endswith("lora.B")),
    "the last block": (None, lambda name: name.startswith(("trf_blocks.2", "final_norm"))),
    "a norm in the middle": (None, lambda name: name == "trf_blocks.1.norm1.scale"),
    "biases": (None, lambda name: name.endswith("bias")),
    "positions": (None, lambda name: name == "pos_emb.weight"),
}


def training_model(kind, classes, drop_rate=0.0, vocab=101, C=30):
    model = GPTModel(GPTConfig(vocab, context_length=70, emb_dim=C, n_heads=5, n_layers=3, drop_rate=drop_rate))
    lora, trains = KINDS[kind]
    if classes:
        swap_head(model, 4)
    if lora is not None:
        replace_linear_with_lora(model.trf_blocks, 4, 4, **lora)
    for name, p in model.named_parameters():
        p.requires_grad_(trains(name) or classes and name.startswith("out_head"))
    return model.train()


def task(classes, B, T, vocab=101, chunk=CHUNK):
    """A batch and the loss that is computed of it."""
    ids = torch.randint(vocab, (B, T + 1), generator=torch.Generator().manual_seed(0))
    if classes:
        return (ids[:, 1:].clone(), torch.arange(T, T - B, -1), torch.arange(B) % 4), classifier_loss
    return ids, lambda model, batch: next_token_loss(model, batch, chunk)


def kept_bytes(model, loss_fn, batch):
    """What autograd keeps in a forward pass: the distinct storages that it saves, parameters left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = {}    # address -> storage, held, so that no address is used twice

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = loss_fn(model, batch)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.exercise("E7.6")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("drop_rate", [0.0, 0.1])
def test_the_activations_are_to_the_byte_what_autograd_keeps(kind, classes, drop_rate):
    model = training_model(kind, classes, drop_rate)
    for B, T in ((2, 7), (1, 9)):
        batch, loss_fn = task(classes, B, T)
        predicted, measured = predict_memory(model, B, T, chunk=CHUNK).activations, kept_bytes(model, loss_fn, batch)
        assert predicted == measured, (
            f"B = {B}, T = {T}: {predicted} predicted, autograd keeps {measured}: which operation's input is counted "
            f"though nothing before it trains, twice though three layers read it, or not at all?")


@pytest.mark.parametrize("kind", ["everything", "query and value"])
def test_the_loss_that_leaves_padding_out_keeps_a_byte_a_token_more(kind):
    """Which tokens are real is kept too; of a batch with padding less is kept."""
    model, (ids, _) = training_model(kind, False), task(False, 2, 7)
    predicted = predict_memory(model, 2, 7, chunk=CHUNK).activations
    for lengths, sign in (([8, 8], 0), ([8, 5], -1)):
        kept = kept_bytes(model, lambda model, batch: next_token_loss(model, batch, CHUNK), (ids, torch.tensor(lengths)))
        assert (kept - predicted - 2 * 7 > 0) - (kept - predicted - 2 * 7 < 0) == sign


@pytest.mark.exercise("E7.6")
@pytest.mark.parametrize("A, B, weight", [(True, True, False), (True, False, False), (False, True, False),
                                          (False, False, True), (False, False, False)])
@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("grad", [False, True])
def test_a_linear_layer_keeps_what_its_own_parameters_need(A, B, weight, p, grad):
    layer = LinearWithLoRA(torch.nn.Linear(5, 8), 3, 3, dropout=p)
    layer.requires_grad_(False)
    layer.lora.A.requires_grad_(A), layer.lora.B.requires_grad_(B), layer.linear.weight.requires_grad_(weight)
    tape, x = Tape(), Storage(4 * 7 * 5, grad)    # float32, 7 tokens of 5 channels
    out = tape.linear(layer, x)
    kept = 140 * bool(p and grad)                 # the noise of dropout, for the gradient of x
    kept += 140 * (A or weight)                   # what A reads, or W
    kept += 84 * B                                # the thin product, 7 x 3
    assert tape.bytes == kept, f"{tape.bytes} bytes, not {kept}: x or what dropout left of it for A and W, x A for B"
    assert (out.bytes, out.grad) == (4 * 7 * 8, grad or A or B or weight), "bytes of the output, and has it a gradient?"


@pytest.mark.exercise("E7.6")
def test_a_lora_on_the_head_is_counted_too():
    model = training_model("everything", classes=True)
    replace_linear_with_lora(model, 4, 4)
    batch, loss_fn = task(True, 2, 7)
    assert predict_memory(model, 2, 7).activations == kept_bytes(model, loss_fn, batch)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_gradients_and_the_optimizers_memory_are_what_they_are_after_a_step(kind):
    model = training_model(kind, classes=False)
    batch, loss_fn = task(False, 2, 7)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    training_step(model, batch, loss_fn, optimizer)
    memory = predict_memory(model, 2, 7)
    assert memory.weights == sum(p.nbytes for p in model.parameters()), "a tied or shared tensor is held once"
    assert memory.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert memory.optimizer == sum(t.nbytes for state in optimizer.state.values() for t in state.values()), (
        "AdamW holds two numbers for each that trains, and a step counter a tensor")


def allocated_peak(step):
    """The most that one more step allocates on top of what the one before has left, by the allocator's own record."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
        with record_function("the second step"):
            step()
    events = list(record.profiler.kineto_results.events())
    start = next(event.start_ns() for event in events if event.name() == "the second step")
    held = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        if event.start_ns() >= start:
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.parametrize("kind, classes, B, T, vocab, chunk", [
    ("everything", False, 4, 64, 701, 1024),        # the end of the forward pass, or the loss going back
    ("everything", False, 4, 64, 31, 1024),
    ("everything", True, 4, 16, 101, 1024),
    ("everything", False, 2, 64, 2001, 64),         # the loss going back, with the head's gradient from chunk 1
    ("everything", False, 4, 64, 701, 100),
    ("everything", False, 2, 4, 701, 1024),         # three matrices of the embedding's size
    ("query and value", False, 4, 64, 701, 1024),
    ("query and value", False, 4, 64, 31, 1024),    # a block going back
    ("query and value", True, 4, 64, 101, 1024),
    ("every layer", False, 4, 64, 701, 100),
    ("the last block", True, 4, 64, 101, 1024),     # a frozen block
])
def test_the_peak_of_a_step_is_predicted_within_four_per_cent(kind, classes, B, T, vocab, chunk):
    model = training_model(kind, classes, vocab=vocab)
    batch, loss_fn = task(classes, B, T, vocab, chunk)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    memory = predict_memory(model, B, T, chunk=chunk)
    between_steps = memory.weights + memory.gradients + memory.optimizer
    measured = between_steps + allocated_peak(lambda: training_step(model, batch, loss_fn, optimizer))
    assert memory.peak == pytest.approx(measured, rel=0.04)


def test_a_model_without_memory_of_its_own_can_be_asked():
    with torch.device("meta"):
        model = GPTModel(GPT2_SIZES["gpt2-small (124M)"])
        full = predict_memory(model, 8, 128)
        assert (full.weights, full.gradients, full.optimizer) == (497_759_232, 497_759_232, 995_518_464 + 4 * 196)
        replace_linear_with_lora(model.trf_blocks, 4, 32, targets=("W_query", "W_value"))
        model.requires_grad_(False)
        for _, layer in lora_layers(model):
            layer.lora.requires_grad_(True)
    lora = predict_memory(model, 8, 128)
    assert (lora.weights, lora.gradients, lora.optimizer) == (4 * 124_587_264, 4 * 147_456, 8 * 147_456 + 4 * 48)
    assert lora.activations > full.activations / 2, "LoRA saves gradients and optimizer; most activations stay"


def test_frozen_blocks_below_what_trains_keep_nothing():
    deep, flat = training_model("the last block", True), training_model("the last block", True)
    flat.trf_blocks = flat.trf_blocks[1:]
    object.__setattr__(flat, "config", GPTConfig(101, 70, 30, 5, n_layers=2))
    assert predict_memory(deep, 2, 7).activations == predict_memory(flat, 2, 7).activations


def test_another_type_of_number_is_refused():
    with pytest.raises(ValueError, match="float32, this model is in torch.bfloat16"):
        predict_memory(training_model("everything", False).bfloat16(), 2, 7)


@pytest.mark.parametrize("B, T", [(0, 5), (2, 0), (2, 10_000)])
def test_what_is_no_batch_has_no_prediction(small_model, B, T):
    with pytest.raises(ValueError, match=f"{B} rows of {T} tokens are no batch"):
        predict_memory(small_model, B, T)
