"""How fast a GPT-2 of 124M loads and writes: with its cache of keys and values, and without. Not a test.

Run: python tests/bench/bench_generate.py                200 tokens each time, some minutes
     python tests/bench/bench_generate.py --tokens 20    a first impression; what is wanted is wanted of 200

The weights are random, in a checkpoint of OpenAI's format and size that is written to a temporary folder. The two
ways of generating take turns, and must choose the same tokens.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fixtures")]

from write_openai import write_checkpoint  # noqa: E402

from gpt.config import GPT2_SIZES  # noqa: E402
from gpt.generate import generate, generate_text_simple  # noqa: E402
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
    print(f"loading OpenAI's 124M from a warm file cache: {', '.join(f'{s:.2f}' for s in loads)} s; median under "
          f"{SECONDS_TO_LOAD} s: {verdict(median(loads) < SECONDS_TO_LOAD)}")
    for length, wanted in WANTED.items():
        cached, uncached = seconds_to_generate(model, length, args.tokens, args.rounds)
        print(f"{args.tokens} tokens after {length}: with the cache {cached:.1f} s, without {uncached:.1f} s, "
              f"{uncached / cached:.1f} times; at least {wanted}: {verdict(uncached >= wanted * cached)}")


if __name__ == "__main__":
    main()
