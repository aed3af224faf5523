"""Does bfloat16 cost accuracy? Mini with seeds, and the losses of 100 steps at 124M, beside float32. Not a test.

Run: python tests/bench/bench_precision.py            five seeds and 100 steps, some minutes; draws a figure
     python tests/bench/bench_precision.py --seeds 2 --steps 20

Both train as chapter 6 does. Mini, which is float32 everywhere else, is held in bfloat16 for this comparison. The figure
goes to figures/06_precision.png.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean

import matplotlib.pyplot as plt
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from gpt.batches import BatchesByLength  # noqa: E402  (the path comes first)
from gpt.classify import calc_accuracy_loader, classifier_loss, swap_head  # noqa: E402
from gpt.config import GPT2_SIZES  # noqa: E402
from gpt.cost.precision import float32_by_onednn, hold  # noqa: E402
from gpt.download import fetch  # noqa: E402
from gpt.lora import replace_linear_with_lora  # noqa: E402
from gpt.model import GPTModel  # noqa: E402
from gpt.plots import BLUE, ORANGE, STYLE  # noqa: E402
from gpt.spam import create_balanced_dataset, read_sms, split_without_leaks  # noqa: E402
from gpt.storage.files import written_whole  # noqa: E402
from gpt.tokenizer import gpt2_tokenizer  # noqa: E402
from gpt.train import train, warmup_then_cosine  # noqa: E402
from gpt.weights import load_gpt2  # noqa: E402

SMALL = "gpt2-small (124M)"
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WANTED = 0.3    # points between the means, at most


class First:
    """The first batches of a loader."""

    def __init__(self, loader, n):
        self.batches = [batch for batch, _ in zip(loader, range(n))]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def fine_tuned(model, splits, dtype, seed, steps=None):
    """Chapter 6's default recipe, or its first steps. Output: test accuracy (None for some steps), the steps' losses"""
    tokenizer = gpt2_tokenizer()
    model.requires_grad_(False)
    swap_head(model, 2)
    replace_linear_with_lora(model.trf_blocks, 16, 16, generator=torch.Generator().manual_seed(seed))
    hold(model, dtype)
    loader = BatchesByLength(splits[0], tokenizer, 8, 256, seed=seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 5e-4, weight_decay=0.0, fused=True)
    schedule = warmup_then_cosine(20, 3 * len(loader))
    progress = train(model, First(loader, steps) if steps else loader, classifier_loss, optimizer, 1 if steps else 3,
                     schedule=schedule)
    test = BatchesByLength(splits[2], tokenizer, None, 256)
    return None if steps else calc_accuracy_loader(test, model, "cpu"), progress.losses


@plt.rc_context(STYLE)
def plot(losses):
    """The losses of both types over the steps, and below how far they are apart. Output: a matplotlib Figure"""
    fig, (above, below) = plt.subplots(2, sharex=True, height_ratios=(3, 1), figsize=(7, 5.2))
    steps = range(1, len(losses["float32"]) + 1)
    for (name, values), colour, line in zip(losses.items(), (BLUE, ORANGE), ("-", "--")):
        above.plot(steps, values, line, color=colour, linewidth=1.4, label=name)
    below.plot(steps, [b - a for a, b in zip(*losses.values())], color=ORANGE, linewidth=1.4)
    below.axhline(0, color=BLUE, linewidth=0.8)
    above.set(title="A base held in bfloat16 trains as one in float32 does (124M, LoRA)",
              ylabel="loss of a batch,\nnats per message", ylim=(0, None))
    below.set(xlabel="step", ylabel="bfloat16\n- float32")
    above.legend()
    fig.tight_layout()
    return fig


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 123 on (5)")
    parser.add_argument("--steps", type=int, default=100, help="of 124M, at most an epoch's 131 (100)")
    args = parser.parse_args()
    messages = read_sms(fetch("sms"))
    splits = {seed: split_without_leaks(create_balanced_dataset(messages, random_state=seed), 0.7, 0.1, seed=seed)
              for seed in range(123, 123 + args.seeds)}
    accuracies = {name: [100 * fine_tuned(load_gpt2("mini"), splits[seed], dtype, seed)[0] for seed in splits]
                  for name, dtype in TYPES.items()}
    for name, values in accuracies.items():
        print(f"mini, {name:8}: test accuracy {mean(values):.2f} %, each: {', '.join(f'{v:.2f}' for v in values)}")
    apart = abs(mean(accuracies["float32"]) - mean(accuracies["bfloat16"]))
    print(f"means {apart:.2f} points apart, wanted {WANTED} or less: {'yes' if apart <= WANTED else 'NO'}")
    float32_by_onednn()
    losses = {name: fine_tuned(GPTModel(GPT2_SIZES[SMALL], torch.Generator().manual_seed(123)), splits[123], dtype, 123,
                               args.steps)[1] for name, dtype in TYPES.items()}
    differences = [abs(a - b) for a, b in zip(*losses.values())]
    print(f"{SMALL}, {args.steps} steps: losses differ by {mean(differences):.4f} on average, {max(differences):.4f} at "
          f"the most, {max(differences[:20]):.5f} in the first 20; means of the last 20: "
          + ", ".join(f"{name} {mean(values[-20:]):.4f}" for name, values in losses.items()))
    with written_whole(ROOT / "figures" / "06_precision.png") as temporary:
        plot(losses).savefig(temporary, format="png", dpi=150)


if __name__ == "__main__":
    main()
