"""In which type to compute: float32, or a type of half its bytes where the machine multiplies that faster.

bfloat16 has the range of float32 but only 8 binary digits. A frozen weight never changes, so it is rounded once, by at
most 1/256 of its size, and the error does not grow. What trains is changed by many small steps, and in bfloat16 a step
below 1/512 of a number changes nothing: 0.03 + 0.00005 stays 0.03. So what trains, and the optimizer, stay in float32.
float16 has 11 digits and a small range. Small gradients would become 0 in it, so the loss, and with it every gradient,
is multiplied by a large number before the backward pass, and the gradients are divided by it afterwards.

Read along: chapters/06_lora_spam.py (a frozen base), chapters/07_lora_writer.py (all weights). Source: Micikevicius et
al. 2018 (float16); Kalamkar et al. 2019 (bfloat16).
"""

import torch

from gpt.adapters import fingerprint
from gpt.lora import lora_layers
from gpt.model import unwrapped

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_precision(asked, device, model):
    """The type that a model should compute in on this machine, and why.

    Input: asked, "auto" or a name in TYPES; device; model, a name in GPT2_SIZES. mini always gets float32, so that
        what a text says of it is true on every machine
    Output: a torch.dtype, and a str that goes on after its name
    """
    device = torch.device(device)
    if model == "mini":
        return torch.float32, "as mini always has it"
    if asked != "auto":
        return TYPES[asked], "as asked"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return torch.bfloat16, "which this GPU multiplies"
        return torch.float16, "because this GPU is older than bfloat16"
    if device.type == "cpu":
        units = [unit for unit in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(unit)]
        if units:
            return torch.bfloat16, f"which this CPU multiplies ({', '.join(units)})"
        return torch.float32, "because this CPU has neither amx_bf16 nor avx512_bf16"
    return torch.float32, f"because bfloat16 is untried on {device.type}"


def hold(model, dtype):
    """Convert the frozen parameters of a GPTModel to `dtype`, in place. LoRAs, a head for classes and what trains stay.

    Call it when the LoRA layers are in and it is settled what trains. Embeddings, biases and LayerNorms are converted
    too, so all that the blocks compute is in `dtype`. A LoRA layer converts its A and B as it uses them, and
    `gpt.classify.class_logits` converts what a head in float32 reads; model(ids) does not, and fails with such a head.
    The `fingerprint` stays that of the weights in their old type, so an adapter trained in one type loads in the other.
    It would not show a later change, so do not change the base after this call.

    Output: the model
    Raises: ValueError for a model whose LoRA is merged
    """
    inner = unwrapped(model)
    if any(layer.original is not None for _, layer in lora_layers(inner)):
        raise ValueError("this model's LoRA is merged, and the weights before could not come back: unmerge it first")
    frozen = [p for name, p in inner.named_parameters() if not p.requires_grad and p.dtype != dtype
              and ".lora." not in name and not name.startswith("out_head")]    # a tied head goes by tok_emb's name
    if frozen:
        inner.held_from = fingerprint(inner)
    for parameter in frozen:
        parameter.data = parameter.data.to(dtype)
    return model


def computing(dtype, device):
    """A context, or a decorator for a loss, in which torch.autocast computes matrix products of float32 in `dtype`.

    Use it where more than a LoRA and a head trains. Weights, gradients and optimizer stay in float32. Only the forward
    pass must be inside: in the backward pass each operation takes the type that it had in the forward pass.
    """
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)


def loss_scaler(dtype, device):
    """For `gpt.train.train`: a scaler that keeps float16's gradients from becoming 0, None for the other types."""
    return torch.amp.GradScaler(torch.device(device).type) if dtype == torch.float16 else None


def float32_by_onednn():
    """Let oneDNN multiply matrices of float32 where MKL, which torch uses by itself on a CPU, is slow.

    Both are libraries for matrix products. MKL does not use AVX-512, the widest instructions of a CPU, on processors of
    other makers than Intel: an AMD EPYC (Zen 5, 2 cores) did 200 billion operations per second with it, and 450 with
    oneDNN. But torch lets oneDNN multiply float32 only if it also allows oneDNN to round the factors to bfloat16.
    oneDNN does round on a CPU with AMX. So only on an AMD CPU with AVX-512 and without AMX does this function change
    the setting. It then tests one product, and puts the old setting back if that was rounded. GPUs do not notice.

    Output: whether oneDNN computes them now
    """
    has, setting = torch.cpu.get_capabilities(), torch.backends.mkldnn.matmul
    if not has.get("avx512_f") or has.get("amx_bf16") or not has.get("cpu_name", "").startswith("AMD"):
        return False
    before, setting.fp32_precision = setting.fp32_precision, "bf16"
    x = torch.randn(128, 256, generator=torch.Generator().manual_seed(0))
    exact = x.double() @ x.double().T
    if (x @ x.T - exact).abs().max() > 1e-5 * exact.max():    # bfloat16 is off by some 1e-3
        setting.fp32_precision = before
    return setting.fp32_precision == "bf16"
