"""How fast a GPT-2 of 124M loads and writes: with its cache and without, in both precisions, beside transformers.

Run: python tests/bench/bench_generate.py                200 tokens each time, some minutes
     python tests/bench/bench_generate.py --tokens 20    a first impression; what is wanted is wanted of 200

The weights are random, in a checkpoint of OpenAI's format and size that is written to a temporary folder. The ways of
generating take turns, and those in float32 must choose the same tokens. This is not a test.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fixtures")]

from write_openai import write_checkpoint  # noqa: E402

from gpt.config import GPT2_SIZES  # noqa: E402
from gpt.cost.precision import float32_by_onednn, hold  # noqa: E402
from gpt.generate import generate, generate_text_simple  # noqa: E402
from gpt.interop.hugging_face import export_hf  # noqa: E402
from gpt.weights import load_openai  # noqa: E402

CONFIG = GPT2_SIZES["gpt2-small (124M)"]
LOAD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from gpt.weights import load_openai
started = time.perf_counter()
load_openai(sys.argv[2])
print(time.perf_counter() - started)
"""
WANTED = {4: 3.0, 300: 8.0}    # length of the prompt: how many times faster the cache must be
WANTED_OF = [("transformers", "ours", 1.15), ("ours, products by MKL", "ours, bfloat16", 1.6),
             ("transformers, bfloat16", "ours, bfloat16", 1.0)]
SECONDS_TO_LOAD = 3.0


def openai_shapes(config):
    """{OpenAI's name: shape} of all tensors of a GPT-2."""
    C, F = config.emb_dim, 4 * config.emb_dim
    block = {"ln_1/g": (C,), "ln_1/b": (C,), "attn/c_attn/w": (1, C, 3 * C), "attn/c_attn/b": (3 * C,),
             "attn/c_proj/w": (1, C, C), "attn/c_proj/b": (C,), "ln_2/g": (C,), "ln_2/b": (C,),
             "mlp/c_fc/w": (1, C, F), "mlp/c_fc/b": (F,), "mlp/c_proj/w": (1, F, C), "mlp/c_proj/b": (C,)}
    shapes = {"wte": (config.vocab_size, C), "wpe": (config.context_length, C), "ln_f/g": (C,), "ln_f/b": (C,)}
    shapes |= {f"h{i}/{name}": shape for i in range(config.n_layers) for name, shape in block.items()}
    return {f"model/{name}": shape for name, shape in shapes.items()}


def write_random(folder):
    """A checkpoint of 124M random weights, N(0, 0.02) around GPT-2's starting values."""
    rng, arrays = np.random.default_rng(0), {}
    for name, shape in openai_shapes(CONFIG).items():
        arrays[name] = 0.02 * rng.standard_normal(shape, np.float32) + (1 if name.endswith("/g") else 0)
    write_checkpoint(folder, arrays, dict(n_vocab=CONFIG.vocab_size, n_ctx=CONFIG.context_length, n_embd=CONFIG.emb_dim,
                                          n_head=CONFIG.n_heads, n_layer=CONFIG.n_layers))


def seconds_to_load(folder):
    """Of load_openai in a process of its own, its imports not counted; the files were just read or written."""
    command = [sys.executable, "-c", LOAD, str(ROOT), str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def seconds_to_generate(model, length, new_tokens, rounds):
    """The median seconds with the cache and without it, from a prompt of `length` random tokens."""
    prompt = torch.randint(CONFIG.vocab_size, (1, length), generator=torch.Generator().manual_seed(length))
    seconds, answers = ([], []), {}
    for _ in range(rounds):
        started = time.perf_counter()
        answers["cached"] = generate(model, prompt, new_tokens)
        between = time.perf_counter()
        answers["uncached"] = generate_text_simple(model, prompt, new_tokens, CONFIG.context_length)
        seconds[0].append(between - started)
        seconds[1].append(time.perf_counter() - between)
        assert torch.equal(answers["cached"], answers["uncached"]), "the cache changes what is written"
    return tuple(map(median, seconds))


def writers(model, folder):
    """{name: a function from prompt and number of tokens to the text, as ids}; transformers where it is installed."""
    half = hold(deepcopy(model).requires_grad_(False), torch.bfloat16)
    ways = {"ours": partial(by_onednn, partial(generate, model)), "ours, products by MKL": partial(generate, model),
            "ours, bfloat16": partial(generate, half)}
    if not find_spec("transformers"):
        print("transformers is not installed here, so left out: pip install transformers")
        return ways
    import transformers
    transformers.logging.set_verbosity_error()
    export_hf(model, folder)
    for name, dtype in (("transformers", torch.float32), ("transformers, bfloat16", torch.bfloat16)):
        peer = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
        ways[name] = partial(peers_text, peer)
    return ways


def by_onednn(write, *arguments):
    """Write while oneDNN computes float32's products, where `float32_by_onednn` says that it should."""
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    float32_by_onednn()
    try:
        return write(*arguments)
    finally:
        setting.fp32_precision = before


def peers_text(peer, prompt, new_tokens):
    return peer.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, do_sample=False,
                         min_new_tokens=new_tokens, pad_token_id=50256)


def compare(ways, new_tokens, rounds):
    """Let all write in turns, and print seconds and ratios."""
    prompt = torch.randint(CONFIG.vocab_size, (1, 8), generator=torch.Generator().manual_seed(8))
    seconds, texts = {name: [] for name in ways}, {}
    for turn in range(rounds + 1):
        for name, write in ways.items():
            started = time.perf_counter()
            texts[name] = write(prompt, new_tokens if turn else 5)    # the first turn warms up
            if turn:
                seconds[name].append(time.perf_counter() - started)
    for name in ways:
        print(f"{name:24} {median(seconds[name]):6.2f} s, {new_tokens / median(seconds[name]):6.1f} tokens per second; "
              f"the tokens of the first: {(texts[name] == texts['ours']).float().mean():.0%}")
    for slow, fast, wanted in WANTED_OF:
        if slow in ways:
            ratio = median(seconds[slow]) / median(seconds[fast])
            print(f"{slow}: {ratio:.2f} times as long as {fast}, wanted {wanted} or more: {verdict(ratio >= wanted)}")


def verdict(good):
    return "yes" if good else "NO"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200, help="how many tokens to write (200)")
    parser.add_argument("--rounds", type=int, default=1, help="how often to do so; the median counts (1)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"threads: {args.threads}; torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        write_random(folder)
        loads = [seconds_to_load(folder) for _ in range(3)]
        model = load_openai(folder)
        ways = writers(model, Path(folder) / "exported")
    print(f"loading OpenAI's 124M from a warm file cache: {', '.join(f'{s:.2f}' for s in loads)} s; median under "
          f"{SECONDS_TO_LOAD} s: {verdict(median(loads) < SECONDS_TO_LOAD)}")
    compare(ways, args.tokens, max(3, args.rounds))
    for length, wanted in WANTED.items():
        cached, uncached = seconds_to_generate(model, length, args.tokens, args.rounds)
        print(f"{args.tokens} tokens after {length}: with the cache {cached:.1f} s, without {uncached:.1f} s, "
              f"{uncached / cached:.1f} times; at least {wanted}: {verdict(uncached >= wanted * cached)}")


if __name__ == "__main__":
    main()
