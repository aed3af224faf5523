"""In which type to compute: float32, or a type of half its bytes where the machine multiplies that faster.

bfloat16 has the range of float32 and 8 bits for the digits of a number: 256 + 1 is 256 in it, and most steps of
training would be lost in rounding. So what trains stays in float32, and what is frozen, and only read, need not.
float16 has 11 bits and a small range: gradients become 0, unless the loss is scaled up before the way back.

Read along: chapters/06_lora_spam.py (a frozen base), chapters/07_lora_writer.py (all weights). Source: Micikevicius et
al. 2018 (float16); Kalamkar et al. 2019 (bfloat16).
"""

import torch

from gpt.adapters import fingerprint

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
    """Hold the frozen weights of a GPTModel in `dtype`, in place. LoRAs, a head for classes and all that trains stay.

    A LoRA layer computes in the type of its frozen weight, so nothing else has to be done. The model's `fingerprint`
    stays that of the weights as they were before, so that an adapter trained on them fits both.

    Output: the model
    """
    frozen = [p for name, p in model.named_parameters() if not p.requires_grad and p.dtype != dtype
              and ".lora." not in name and not name.startswith("out_head")]    # a tied head goes by tok_emb's name
    if frozen:
        model.held_from = fingerprint(model)
    for parameter in frozen:
        parameter.data = parameter.data.to(dtype)
    return model


def computing(dtype, device):
    """A context, or a decorator for a loss: float32's matrix products inside are computed in `dtype`.

    For models of which more than a LoRA trains. Weights, gradients and optimizer stay float32; torch.autocast rounds a
    weight each time it is used. Going back through the loss needs no context.
    """
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)


def loss_scaler(dtype, device):
    """For `gpt.train.train`: a scaler that keeps float16's gradients from becoming 0, None for the other types."""
    return torch.amp.GradScaler(torch.device(device).type) if dtype == torch.float16 else None


def float32_by_onednn():
    """Let oneDNN compute float32's matrix products where MKL, torch's usual choice on a CPU, would be slow.

    On processors that are not Intel's MKL leaves AVX-512 unused: on an AMD EPYC (Zen 5) it reached 200 of the 500
    billion operations a second that oneDNN does. torch gives oneDNN these products only together with the permission
    to round their factors to bfloat16. oneDNN makes use of that where a CPU has AMX, and such a CPU is not asked for it
    here. Since a permission is no promise, one product is looked at, and if it was rounded, all stays as it was.

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
