"""Every comment in gpt/ that names a shape is true. How such a comment is written: tests/pages/shape_comments.py.

Each module with shape comments has a run here, run_<module>: a generator that gets the module, calls it and then yields
the sizes that these calls had. They prove or refute all that can be said in the names given; a call for which T is not
the length of a row leaves T out. Two sizes are never equal, so that no two axes can be mistaken for each other.
"""

import math
import re
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, modules_of_gpt
from shape_comments import faults
from torch import nn

from gpt.batches import BatchesByLength
from gpt.classify import swap_head
from gpt.config import GPTConfig
from gpt.lora import replace_linear_with_lora
from gpt.model import GPTModel

FILES = sorted(modules_of_gpt())
CONFIG = GPTConfig(vocab_size=101, context_length=24, emb_dim=30, n_heads=5, n_layers=3)
B, T, C, H, D, V = 2, 7, 30, 5, 6, 101


class Letters:
    """A tokenizer: each letter is a token."""

    def encode(self, text):
        return [ord(letter) - 32 for letter in text]

    encode_ordinary = encode

    def encode_ordinary_batch(self, texts, num_threads):
        return [self.encode(text) for text in texts]


def new_model(K=V):
    model = GPTModel(CONFIG, torch.Generator().manual_seed(0)).eval()
    swap_head(model, K)
    return model


def tokens(*shape):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(0))


def messages(*texts):
    return pd.DataFrame({"Label": ["ham", "spam", *["ham"] * (len(texts) - 2)], "Text": texts})


# ---- the runs ---------------------------------------------------------------------------------------------------

def run_attention(module):
    S = 11
    query, key, value = (torch.randn(B, H, length, D) for length in (T, S, S))
    module.causal_attention_by_hand(query, key, value)
    module.causal_attention(query, key, value)
    module.causal_attention(query, key, value, padding=torch.tensor([0, 2]))
    cache, attention, x = module.KVCache(24), module.MultiHeadAttention(C, C, H), torch.randn(B, T, C)
    cache.extend(*torch.randn(2, B, H, S - T, D))
    attention(x, cache)
    yield dict(B=B, T=T, S=S, C=C, H=H, D=D)


def run_batches(module):
    module.BatchesByLength(messages(*"abcdefg"), Letters())
    module.pad([[1, 2, 3, 4], [5], [6, 7]])
    yield dict(messages=7, B=3, T=4)
    list(module.TextWindows(tokens(7 * T + 1), T, batch_size=3))
    module.encode_documents(["to be", "or not"], Letters())
    yield dict(B=3, T=T, N=1 + 5 + 1 + 6)


def run_classify(module):
    model, ids, of_each, labels, K = new_model(4), tokens(B, T), torch.tensor([3, 7]), torch.tensor([1, 0]), 4
    module.class_logits(model, ids)
    module.predict_logits(model, [(ids, of_each, labels)] * 3, "cpu")
    module.classify(model, ["a" * T, "b" * T], Letters(), "abcd")
    yield dict(B=B, T=T, N=3 * B, K=K)
    module.hidden_at(model, ids, torch.tensor([3, 6]))
    model.embed, model.trf_blocks = lambda x: x, model.trf_blocks[:0]
    module.hidden_at(model, torch.randn(B, T, C), torch.tensor([3, 6]))
    yield dict(B=B, T=T, C=C, H=H, D=D)


def run_contributions(module):
    model, message = new_model(2), tokens(T).tolist()
    module.spam_scores(model, [message] * 3)
    yield dict(B=3)
    module.gradient_times_input(model, message)
    module.leave_one_out(model, message)
    yield dict(T=T, C=C)


def run_crc32c(module):
    module.walk(np.zeros((5, 3), np.uint32), np.zeros(5, np.uint32))
    yield dict(lanes=5)


def run_disguises(module):
    module.withstood([0, 1, 0], [1, 1, 0], [0, 1, 1])
    yield dict(n=3)


def run_spam_filters(module):
    module.spam_probabilities(new_model(2), messages("to", "be", "or"), Letters(), torch.device("cpu"))
    yield dict(N=3, K=2)


def run_frozen_cache(module):
    model = new_model(4)
    model.requires_grad_(False)
    loader = BatchesByLength(messages("a" * T, "b" * T), Letters(), batch_size=B)
    list(module.CachedBatches(loader, model, 1))
    yield dict(B=B, T=T, C=C)
    list(module.CachedBatches(loader, model, 3))
    yield dict(B=B, C=C)


def run_generate(module):
    model, limit = new_model(), CONFIG.context_length
    module.generate_text_simple(model, tokens(B, T), 1, limit)
    for temperature in (0.0, 1.0):
        module.generate(model, tokens(B, T), 1, temperature=temperature, top_p=0.9)
    yield dict(B=B, T=T, C=C, V=V, limit=limit)
    module.generate(model, tokens(B, T), 2)    # reads T tokens, then one
    yield dict(B=B, C=C)
    module.generate(model, tokens(B, limit + 5), 1)
    yield dict(B=B, limit=limit)


def run_mnist(module):
    with tempfile.TemporaryDirectory() as folder:
        for split in module.SPLITS:
            for part, sizes in {"images-idx3": (5, 2, 3), "labels-idx1": (5,)}.items():
                content = bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)
                Path(folder, f"{split}-{part}-ubyte").write_bytes(content + bytes(math.prod(sizes)))
        module.read_mnist(folder)
    yield dict(N=5, pixels=2 * 3)


def run_hugging_face(module):
    module.hf_tensors(new_model(4))
    yield dict(C=C)
    model = GPTModel(CONFIG)
    replace_linear_with_lora(model.trf_blocks, 2, 1, targets=["layers.0"])
    module.merged_weights(model)
    yield {"out": 4 * C, "in": C}


def run_weights(module):
    module.from_openai({"h0/mlp/c_fc/w": torch.zeros(1, 5, 8)})
    yield {"in": 5, "out": 8}
    module.from_openai({"h0/attn/c_attn/w": torch.zeros(1, C, 3 * C), "h0/attn/c_attn/b": torch.zeros(3 * C)})
    yield dict(C=C)


def run_baselines(module):
    model = module.LogisticRegression(Letters())
    texts = ["aabb", "ccd", "b", "d", "cccccc"]
    model.fit(texts, [0, 1, 2, 1, 0]).predict(texts)
    yield dict(N=5, K=3, V=4, tokens=7)


def run_lora(module):
    layer = module.LinearWithLoRA(nn.Linear(5, 8), rank=3, alpha=1, dropout=0.5)
    x = torch.randn(B, T, 5, requires_grad=True)
    layer.by_hand(x)
    layer(x).sum().backward()
    layer.eval().merge()
    layer(torch.randn(T, 5))
    yield {"in": 5, "out": 8, "r": 3, "B": B, "T": T}


def run_losses(module):
    model, M, samples = new_model(), 13, 400
    unigram = torch.zeros(V).index_fill(0, torch.arange(M), 1 / M)    # so many draws make all M tokens candidates
    module.cross_entropy_by_hand(torch.randn(B * T, V), tokens(B * T))
    module.next_token_loss(model, tokens(B, T + 1))
    module.sampled_softmax_loss(model, tokens(B, T + 1) % M, unigram, samples, torch.Generator().manual_seed(0))
    module.class_weights(torch.tensor([0, 1, 2, 2]), 3)
    yield dict(N=B * T, C=C, V=V, M=M, samples=samples, K=3)
    module.next_token_loss(model, (tokens(B, T + 1), torch.tensor([5, T + 1])))
    yield dict(B=B, T=T, C=C, N=4 + T)


def run_metrics(module):
    labels, probabilities = [0, 1, 2, 0, 1, 2, 2], torch.rand(7, 3, generator=torch.Generator().manual_seed(0))
    module.confusion_matrix(labels, labels, 3)
    module.classification_report(labels, probabilities)
    yield dict(n=7, K=3)


def run_model(module):
    model, ids = module.GPTModel(CONFIG), tokens(B, T)
    model(ids)
    model.hidden(ids, model.new_cache(torch.tensor([0, 2])))
    yield dict(B=B, T=T, C=C, V=V)


def run_peft(module):
    model, K = new_model(4), 4
    nn.init.normal_(model.out_head.bias), nn.init.normal_(model.out_head.weight)
    module.head_of(model, module.head_tensors(model))
    yield dict(K=K, C=C)
    part = module.Part(torch.randn(11, 3), torch.randn(3, 5), 1, "alpha/r")
    module.pack([None, part, part._replace(A=torch.randn(11, 4), B=torch.randn(4, 5))])
    yield {"in": 11, "R": 3 + 4}
    packed, _ = module.pack([None, part, None])
    yield {"out": 5, "r": 3}
    module.unpack(packed, 3)
    yield {"in": 11, "r": 3}


def run_pretrain(module):
    module.shares(tokens(7), V)
    module.text_losses(new_model(), {"text": tokens(3 * (CONFIG.context_length + 1))}, windows=3)
    yield dict(V=V, windows=3, T=CONFIG.context_length)


def run_calibration(module):
    labels, spam = [0, 1, 0, 0, 1, 0, 0, 0, 1], [0.5, 0.5, 0.0, 0.25, 0.75, 0.25, 0.0, 0.5, 1.0]
    module.average_precision(labels, spam)
    module.reliability(labels, spam)
    module.threshold_for(labels, spam)
    module.measures(labels, spam)
    yield dict(n=9, n_ham=6, distinct=5)


def run_spam(module):
    module.SpamDataset(messages("to", "be", "or"), Letters(), max_length=11)
    yield dict(messages=3, max_length=11)


def run_tokenizer(module):
    module.text_to_token_ids("a" * T, Letters())
    yield dict(T=T)


def run_weight_updates(module):
    module.svd_of_update(torch.randn(5, 3), torch.randn(3, 8), 1)
    yield {"in": 5, "out": 8, "r": 3}
    linear = nn.Linear(5, 8)
    module.with_updates_cut(nn.Sequential(linear), {"0": torch.linalg.svd(linear.weight, full_matrices=False)}, 2)
    yield {"in": 5, "out": 8}
    module.subspace_similarity(torch.randn(7, 4), torch.randn(7, 6))
    module.random_similarity(11, 9, 10)
    yield {"r1": 4, "r2": 6, "first_rank": 9, "second_rank": 10}


def run_text_writer(module):
    model, batch, N = new_model(), (tokens(B, T + 1), torch.tensor([5, T + 1])), 4 + T
    module.text_scores(model, [batch], "cpu")
    yield dict(V=V, N=N)


# ---- the tests --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", FILES)
def test_every_comment_that_names_a_shape_is_true(name):
    run = globals().get(f"run_{Path(name).stem}")
    found = faults(name, (ROOT / name).read_text(encoding="utf-8"), run)
    assert not found, "\n".join(found)


def faults_of(line):
    """The faults of a function of one line, x being (2, 7)."""
    def run(module):
        module.f(torch.zeros(2, 7))
        yield dict(B=2, T=7)

    return faults("gpt/x.py", f"def f(x):\n    {line}\n    return x", run)


@pytest.mark.parametrize("line", [
    "y = x.T                           # (T, B), prose",
    "y, z = x, x.T                     # (B, T), (T, B)",
    "y, _ = x, 1                       # (B, T)",
    "y = x[None]                       # (..., T)",
    "for row in x:                     # (T,)\n        pass",
    "rows = [row                       # (T,)\n            for row in x]",
    "y = x; f(x.T) if len(x) < 7 else 0; y = x    # (B, T) or (T, B)",
    "'-> (B, T), or (T, B) for such'; f(x.T) if len(x) < 7 else 0",
    "'(B, T) -> (b, t), names without a size'",
])
def test_a_true_comment_passes(line):
    assert faults_of(line) == []


@pytest.mark.parametrize("line, fault", [
    ("y = x.T                          # (B, T)", r"x.py:2 says \(B, T\): \(7, 2\) came out of sizes B = 2, T = 7"),
    ("y = len(x)                       # (B,)", "a int came out"),
    ("y = x                            # (B, T), (T, B)", "2 shapes for 1 values"),
    ("y = x                            # (..., B)", r"\(2, 7\) came out"),
    ("if not len(x): y = x             # (B, T)", r"\(B, T\) is on a line that is never reached"),
    ("y = x                            # (B, K)", r"\(B, K\) never comes out, or a name in it has no size"),
    ("y = x                            # (B, T) or (T, B)", r"\(T, B\) never comes out"),
    ("y = x                            # (B, T), T = 1 later", r"\(B, 1\) never comes out"),
    ("y = x                            # (B, T) or (B, B + 5)", r"B \+ 5 and T are the same number"),
    ("y = x                            # (B T)", r"x.py:2 says \(B T\): see"),
    ("y = x                            # (B, T) or (B, T)", "x.py:2 .*: see"),
    ("y = x                            # row -> (B, T)", "x.py:2 .*: see"),
    ("# (B, T)", "x.py:2 .*: see"),
    ("'-> (T, B)'", r"x.py:2 says \(T, B\): \(2, 7\) came out"),
])
def test_a_comment_that_is_false_or_not_proved_is_a_fault(line, fault):
    assert re.search(fault, "\n".join(faults_of(line)))


def test_a_module_without_a_run_is_a_fault():
    assert "x.py:1 says (3,): there is no run_x" in faults("gpt/x.py", "x = [1, 2, 3]    # (3,)", None)[0]
