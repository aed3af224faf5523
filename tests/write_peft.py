"""Hugging Face's GPT-2 with adapters of PEFT, around the weights of our models: the oracle of gpt/peft_adapter.py.

tests/peers compares with it where transformers and peft are installed. `python tests/write_peft.py` there writes what
the other tests compare with, fixtures/peft_tiny_*: an adapter's folder and oracle.npz, tokens and what PEFT answers.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402  (the path comes first)
import torch  # noqa: E402

from gpt.classify import swap_head  # noqa: E402
from gpt.layouts import NAMES  # noqa: E402
from gpt.lora import lora_layers, replace_linear_with_lora  # noqa: E402
from gpt.peft_adapter import export_peft  # noqa: E402
from gpt.weights import load_openai  # noqa: E402

FIXTURES = Path(__file__).parent / "fixtures"
TEXT = dict(task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=["attn.c_attn", "c_proj"],
            rank_pattern={r"^transformer\.h\.1\.attn\.c_attn$": 2, "mlp.c_proj": 3},
            alpha_pattern={r"h\.2\..*": 5}, use_rslora=True)
CLASSES = dict(task_type="SEQ_CLS", r=3, lora_alpha=7, target_modules=["mlp.c_fc", "attn.c_attn"],
               modules_to_save=["ln_f"])


def hugging_face_model(model, K=None):
    """GPT2LMHeadModel, or GPT2ForSequenceClassification of K classes, with the weights of a GPTModel without LoRA."""
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

    c, ours = model.config, dict(model.named_parameters())
    config = GPT2Config(vocab_size=c.vocab_size, n_positions=c.context_length, n_embd=c.emb_dim, n_head=c.n_heads,
                        n_layer=c.n_layers, pad_token_id=c.vocab_size - 1, **({"num_labels": K} if K else {}))
    theirs = (GPT2ForSequenceClassification if K else GPT2LMHeadModel)(config).to(model.tok_emb.weight.dtype)
    state = {}
    for _, name, our in NAMES:
        places = [("", "")] if our.partition(".")[0] in ("tok_emb", "pos_emb", "final_norm") else [
            (f"h.{i}.", f"trf_blocks.{i}.") for i in range(c.n_layers)]
        for place, our_place in places if "lm_head" not in name else ():
            which = [our.replace("c_attn", f"W_{part}") for part in ("query", "key", "value")]
            tensor = torch.cat([ours[our_place + part] for part in (which if "c_attn" in our else [our])])
            linear = tensor.ndim == 2 and place
            state[f"transformer.{place}{name}"] = tensor.T if linear else tensor
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and not [name for name in missing if "lm_head" not in name and "score" not in name]
    return theirs.eval()


def trained_by_peft(model, folder, settings, K=None, steps=3):
    """Train an adapter of PEFT around the model's weights and save it. Output: the PeftModel, in eval mode"""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    theirs = get_peft_model(hugging_face_model(model, K), LoraConfig(**settings))
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=0.02)
    ids = tokens(model, 4, 12)
    for _ in range(steps):
        labels = ids if K is None else torch.arange(len(ids)) % K
        theirs(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    theirs.eval().save_pretrained(folder)
    return theirs


def read_by_peft(model, folder, K=None):
    """The PeftModel that PEFT makes of the folder around the model's weights."""
    from peft import PeftModel

    return PeftModel.from_pretrained(hugging_face_model(model, K), str(folder)).eval()


def trained_by_us(model, K=None, seed=0, **options):
    """Put LoRA, and a head of K classes, into the model in place, as if trained: no number of A, B and head is zero."""
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    if K:
        swap_head(model, K)
    options = {"rank": 4, "alpha": 6, "generator": generator} | options
    replace_linear_with_lora(model.trf_blocks, **options)
    for _, layer in lora_layers(model):
        layer.lora.B.data.normal_(0.0, 0.1, generator=generator)
    if K:
        model.out_head.weight.data.normal_(0.0, 0.2, generator=generator)
        model.out_head.bias.data.normal_(0.0, 1.0, generator=generator)
    return model


def tokens(model, rows, length):
    """Token ids (rows, length) without the last of the vocabulary, which pads."""
    shape = (rows, min(length, model.config.context_length))
    return torch.randint(model.config.vocab_size - 1, shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def answers(theirs, ids):
    return theirs(input_ids=ids).logits.float()


def main():
    makers = {"text": (TEXT, None), "classes": (CLASSES, 3), "ours": (None, 2)}
    for name, (settings, K) in makers.items():
        folder, model = FIXTURES / f"peft_tiny_{name}", load_openai(FIXTURES / "openai_tiny")
        if settings:
            trained_by_peft(model, folder, settings, K)
        else:
            export_peft(trained_by_us(model, K), folder, base="tiny", labels=["ham", "spam"])
        base = load_openai(FIXTURES / "openai_tiny")
        theirs = read_by_peft(base, folder, K)
        for file in folder.glob("README.md"):
            file.unlink()    # a form to fill in
        ids = tokens(base, 3, 14)
        np.savez(folder / "oracle.npz", tokens=ids.numpy(), logits=answers(theirs, ids).numpy())
        print(folder, sum(file.stat().st_size for file in folder.iterdir()), "bytes")


if __name__ == "__main__":
    main()
