"""gpt/cost/precision.py: which machine gets which type, what is held in it, and that training goes on as if it were not."""

import copy
import math
import re

import pytest
import torch
from torch import nn

from gpt.adapters import fingerprint, load_adapter, save_adapter
from gpt.checkpoint import Checkpoint
from gpt.classify import class_logits, classifier_loss, predict_logits, swap_head
from gpt.config import GPTConfig
from gpt.cost.precision import choose_precision, computing, float32_by_onednn, hold, loss_scaler
from gpt.interop.hugging_face import export_hf
from gpt.interop.peft import export_peft
from gpt.lora import lora_layers, merge_lora, replace_linear_with_lora, unmerge_lora
from gpt.losses import next_token_loss
from gpt.model import GPTModel, evaluating
from gpt.train import train

SMALL = "gpt2-small (124M)"
HALF = [torch.bfloat16, torch.float16]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def new_filter(scale="alpha/r", whole=False, dropout=0.0):
    """A frozen GPT-2 of two blocks with LoRAs and a head of two classes, which trains unless it has a LoRA too."""
    model = GPTModel(GPTConfig(101, 24, 32, 4, 2), seeded()).requires_grad_(False)
    swap_head(model, 2)
    if whole:
        model.out_head.requires_grad_(False)
    replace_linear_with_lora(model if whole else model.trf_blocks, 4, 8, scale=scale, dropout=dropout, generator=seeded())
    return model


def batches(n=6):
    """Messages of 3 to 8 tokens whose class is that of their last token: odd or even."""
    made = []
    for i in range(n):
        ids = torch.randint(101, (8, 8), generator=seeded(i))
        lengths = torch.randint(3, 9, (8,), generator=seeded(100 + i))
        made.append((ids, lengths, ids[torch.arange(8), lengths - 1] % 2))
    return made


def trained(dtype, epochs, checkpoint=None, resume=False, dropout=0.0):
    """A filter that was trained while its base was held in dtype, and the losses of its steps."""
    model = hold(new_filter(dropout=dropout), dtype)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, fused=True)
    torch.manual_seed(0)
    scaler = loss_scaler(dtype, "cpu")
    if checkpoint:
        checkpoint = Checkpoint(checkpoint, model, optimizer, {}, scaler=scaler, resume=resume, every=0.0)
    progress = train(model, batches(), classifier_loss, optimizer, epochs, scaler=scaler, checkpoint=checkpoint)
    return model, progress.losses, scaler


# ---- the choice -----------------------------------------------------------------------------------------------------

def has(monkeypatch, **units):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)


@pytest.mark.parametrize("units, expected, reason", [
    (dict(avx2=True, avx512_f=True), torch.float32, "neither amx_bf16 nor avx512_bf16"),
    (dict(avx512_bf16=True), torch.bfloat16, r"\(avx512_bf16\)"),
    (dict(avx512_bf16=True, amx_bf16=True), torch.bfloat16, r"\(amx_bf16, avx512_bf16\)"),
    (dict(avx512_bf16=False, amx_bf16=False), torch.float32, "neither"),
    ({}, torch.float32, "neither"),
])
def test_a_cpu_gets_bfloat16_where_it_multiplies_it(monkeypatch, units, expected, reason):
    has(monkeypatch, **units)
    dtype, why = choose_precision("auto", "cpu", SMALL)
    assert dtype == expected and re.search(reason, why)


@pytest.mark.parametrize("capability, expected", [
    ((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float16),
])
def test_a_gpu_gets_bfloat16_from_capability_8_on_and_float16_before(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", "cuda", SMALL)[0] == choose_precision("auto", torch.device("cuda", 1), SMALL)[0] \
        == expected


def test_mini_is_float32_everywhere_and_what_is_asked_for_is_given(monkeypatch):
    has(monkeypatch, amx_bf16=True)
    for asked in ("auto", "bfloat16", "float16"):
        assert choose_precision(asked, "cpu", "mini")[0] == torch.float32, "a text's numbers would be others here"
    assert choose_precision("float32", "cpu", SMALL) == (torch.float32, "as asked")
    assert choose_precision("float16", "cpu", SMALL)[0] == torch.float16
    assert choose_precision("auto", "mps", SMALL)[0] == torch.float32


def test_only_float16_has_its_loss_scaled():
    assert loss_scaler(torch.float32, "cpu") is None and loss_scaler(torch.bfloat16, "cpu") is None
    assert loss_scaler(torch.float16, "cpu").get_scale() > 1000


# ---- float32 by oneDNN ----------------------------------------------------------------------------------------------

@pytest.fixture
def setting():
    return torch.backends.mkldnn.matmul    # conftest.py puts it back


@pytest.mark.parametrize("units", [
    dict(cpu_name="Intel(R) Xeon(R)", avx512_f=True), dict(cpu_name="AMD EPYC", avx512_f=False),
    dict(cpu_name="AMD EPYC", avx512_f=True, amx_bf16=True), {},
])
def test_a_cpu_on_which_mkl_is_fast_or_which_would_round_is_left_as_it_is(monkeypatch, setting, units):
    has(monkeypatch, **units)
    before = setting.fp32_precision
    assert not float32_by_onednn() and setting.fp32_precision == before


def test_a_product_in_float32_stays_one_whoever_computes_it(setting):
    asked = float32_by_onednn()
    assert asked == (setting.fp32_precision == "bf16")
    for shape in ((7, 64, 48), (240, 768, 768), (1, 768, 3072)):
        x = torch.randn(*shape[:2], generator=seeded())
        W = torch.randn(*shape[1:], generator=seeded(1))
        error = (x @ W - x.double() @ W.double()).abs().max() / (x.double().abs() @ W.double().abs()).max()
        assert error < 1e-6, "bfloat16 would be off by 1e-3"


def test_a_machine_that_rounds_does_not_keep_the_setting(monkeypatch, setting):
    has(monkeypatch, cpu_name="AMD EPYC", avx512_f=True)
    before = setting.fp32_precision
    plain = torch.randn

    def rounded(*shape, **options):
        """What comes out of a product is then off by as much as if its factors had been rounded."""
        class Rounding(torch.Tensor):
            def __matmul__(self, other):
                return (self.as_subclass(torch.Tensor).bfloat16() @ torch.Tensor(other).bfloat16()).float()

            def double(self):
                return self.as_subclass(torch.Tensor).double()
        return plain(*shape, **options).as_subclass(Rounding)

    monkeypatch.setattr(torch, "randn", rounded)
    assert not float32_by_onednn() and setting.fp32_precision == before


# ---- what is held ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("whole", [False, True])
def test_only_frozen_weights_of_the_base_are_held_in_fewer_bytes(dtype, whole):
    model = new_filter(whole=whole)
    parameters = dict(model.named_parameters())
    assert hold(model, dtype) is model
    for name, p in model.named_parameters():
        assert p is parameters[name], "an optimizer that knows the Parameter would train a copy"
        trains_or_is_new = ".lora." in name or name.startswith("out_head")
        assert p.dtype == (torch.float32 if trains_or_is_new else dtype), name
    logits = class_logits(model, *batches(1)[0][:2])
    assert logits.dtype == torch.float32


def test_what_trains_is_not_held():
    model = new_filter()
    model.trf_blocks[1].norm2.requires_grad_(True)
    hold(model, torch.bfloat16)
    assert model.trf_blocks[1].norm2.scale.dtype == torch.float32 and model.final_norm.scale.dtype == torch.bfloat16


def test_a_tied_head_stays_tied_and_a_language_model_answers():
    model = hold(GPTModel(GPTConfig(101, 24, 32, 4, 2), seeded()).requires_grad_(False).eval(), torch.bfloat16)
    assert model.out_head.weight is model.tok_emb.weight and model.tok_emb.weight.dtype == torch.bfloat16
    ids = torch.randint(101, (3, 9), generator=seeded())
    loss = next_token_loss(model, ids)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(math.log(101), rel=0.02)


@pytest.mark.parametrize("dtype", HALF)
def test_held_weights_cost_only_their_rounding(dtype):
    exact, held = new_filter(), hold(new_filter(), dtype)
    for model in (exact, held):
        nn.init.normal_(model.out_head.weight, generator=seeded(5))
        for i, (_, layer) in enumerate(lora_layers(model)):
            nn.init.normal_(layer.lora.B, generator=seeded(i))
    with evaluating(exact), evaluating(held):
        a, b = (class_logits(model, *batches(1)[0][:2]) for model in (exact, held))
        merge_lora(held)
        merged = class_logits(held, *batches(1)[0][:2])
        unmerge_lora(held)
        again = class_logits(held, *batches(1)[0][:2])
    assert 0 < (a - b).norm() < 0.05 * a.norm() and (merged - b).norm() < 0.05 * b.norm() and torch.equal(again, b)


def test_float32_changes_nothing():
    model = new_filter()
    before = copy.deepcopy(model.state_dict())
    hold(model, torch.float32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not hasattr(model, "held_from")


@pytest.mark.parametrize("whole", [False, True])
def test_an_adapter_fits_the_base_in_whatever_type_it_is_held(tmp_path, whole):
    model = hold(new_filter(whole=whole), torch.bfloat16)
    if not whole:    # the blog's head is frozen, and no adapter would be asked for its numbers
        nn.init.normal_(model.out_head.weight, generator=seeded(5))
    for i, (_, layer) in enumerate(lora_layers(model)):
        nn.init.normal_(layer.lora.B, std=0.1, generator=seeded(i))
    save_adapter(model, tmp_path / "a.safetensors", base="tiny", labels=["ham", "spam"])
    _, expected = predict_logits(model, batches(2), "cpu")
    for dtype in (torch.float32, torch.bfloat16):
        other = hold(GPTModel(model.config, seeded()).requires_grad_(False), dtype)
        load_adapter(other, tmp_path / "a.safetensors")
        trained = {name: p for name, p in other.named_parameters() if ".lora." in name or name == "out_head.weight"}
        for name, p in trained.items():
            assert p.dtype == torch.float32 and torch.equal(p, dict(model.named_parameters())[name]), name
        _, found = predict_logits(other, batches(2), "cpu")
        assert torch.allclose(found, expected, rtol=0.02, atol=0.3) and torch.equal(found, expected) == (dtype == torch.bfloat16)
        save_adapter(other, tmp_path / "b.safetensors", base="tiny", labels=["ham", "spam"])
        assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    stranger = GPTModel(model.config, seeded(1)).requires_grad_(False)
    assert fingerprint(hold(stranger, torch.bfloat16)) != fingerprint(model)
    with pytest.raises(ValueError, match="load the same base first"):
        load_adapter(stranger, tmp_path / "a.safetensors")


# ---- training -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", HALF)
def test_training_beside_a_held_base_goes_the_way_of_float32(dtype):
    (_, exact, _), (_, held, _) = trained(torch.float32, 24), trained(dtype, 24)
    assert exact[0] == pytest.approx(math.log(2)) == held[0]
    assert max(abs(a - b) for a, b in zip(exact[:6], held)) < 0.01 and held != exact
    for losses in (exact, held):    # of six batches an epoch; the last epoch depends on the processor's rounding
        best = min(sum(losses[i:i + 6]) / 6 for i in range(0, len(losses), 6))
        assert best < 0.7 * math.log(2), "nothing is learnt"


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_a_run_in_any_type_goes_on_bit_for_bit(tmp_path, dtype, dropout):
    whole, losses, scaler = trained(dtype, 4, dropout=dropout)
    trained(dtype, 2, tmp_path / "run.pt", dropout=dropout)
    resumed, went_on, again = trained(dtype, 4, tmp_path / "run.pt", resume=True, dropout=dropout)
    assert went_on == losses
    for (name, p), (_, other) in zip(whole.named_parameters(), resumed.named_parameters()):
        assert torch.equal(p, other), name
    assert dtype != torch.float16 or again.state_dict() == scaler.state_dict()


def test_a_scale_that_is_too_large_is_halved_and_the_halved_one_is_in_the_checkpoint(tmp_path):
    """65,536 times the gradients of these first steps overflow nothing; 2^40 times them do."""
    def run(resume=False):
        model = hold(new_filter(), torch.float16)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
        checkpoint = Checkpoint(tmp_path / "run.pt", model, optimizer, {}, scaler=scaler, resume=resume, every=0.0)
        train(model, batches(), classifier_loss, optimizer, 1, scaler=scaler, checkpoint=checkpoint)
        return model, scaler.get_scale()
    model, scale = run()
    assert scale < 2.0**40 and all(p.isfinite().all() for p in model.parameters())
    assert run(resume=True)[1] == scale


def test_products_within_the_context_are_in_bfloat16_and_weights_and_gradients_are_not(small_model):
    seen, ids = [], torch.randint(101, (4, 9), generator=seeded())
    small_model.trf_blocks[0].ff.layers[0].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    loss = computing(torch.bfloat16, "cpu")(next_token_loss)(small_model, ids)
    loss.backward()
    plain = next_token_loss(small_model, ids)
    assert seen[:1] == [torch.bfloat16] and seen[-1] == torch.float32, "only within the loss"
    assert math.isclose(loss.item(), plain.item(), rel_tol=0.02) and loss.item() != plain.item()
    assert {p.grad.dtype for p in small_model.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.filterwarnings("error")
def test_the_context_of_float32_is_none(small_model):
    ids = torch.randint(101, (4, 9), generator=seeded())
    with computing(torch.float32, "cpu"):
        inside = next_token_loss(small_model, ids)
    assert torch.equal(inside, next_token_loss(small_model, ids))


# ---- what a held model refuses --------------------------------------------------------------------------------------

def test_what_is_made_on_a_held_base_is_in_float32():
    model = hold(GPTModel(GPTConfig(101, 24, 32, 4, 2), seeded()).requires_grad_(False), torch.bfloat16)
    swap_head(model, 2)
    replace_linear_with_lora(model.trf_blocks, 4, 8)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_a_merged_model_is_not_held_and_a_held_one_is_not_exported(tmp_path):
    model = new_filter()
    merge_lora(model)
    with pytest.raises(ValueError, match="unmerge it first"):
        hold(model, torch.bfloat16)
    unmerge_lora(model)
    hold(model, torch.bfloat16)
    for export in (export_hf, export_peft):
        with pytest.raises(ValueError, match="load the base again"):
            export(model, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_gradients_that_overflow_at_every_scale_stop_a_run_in_float16():
    model = hold(new_filter(), torch.float16)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, fused=True)
    model.out_head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match="not finite in float16, even at a scale below 1; try"):
        train(model, batches(), classifier_loss, optimizer, 9, scaler=loss_scaler(torch.float16, "cpu"))
