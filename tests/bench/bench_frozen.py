"""What it saves to compute frozen layers once: five epochs of last-block training, three ways. Not a test.

Run: python tests/bench/bench_frozen.py        ten minutes on 2 CPU cores; --model mini: seconds

The last block, the final norm and a new head of an untrained GPT-2 train on the 1,045 messages of the book's training
split, three ways from the same weights: padded to the longest message and read at the last position, as the book
does; batches by length; the same with what the frozen blocks answer kept. They take turns epoch by epoch, so that
whatever else the machine does slows all of them alike. Nothing is written.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from gpt.batches import BatchesByLength, SeededLoader  # noqa: E402  (the path comes first)
from gpt.classify import classifier_loss, predict_logits, swap_head  # noqa: E402
from gpt.config import GPT2_SIZES  # noqa: E402
from gpt.cost.frozen_cache import CachedBatches, Tail, frozen_blocks  # noqa: E402
from gpt.download import fetch  # noqa: E402
from gpt.model import GPTModel  # noqa: E402
from gpt.spam import SpamDataset, create_balanced_dataset, random_split, read_sms  # noqa: E402
from gpt.tokenizer import gpt2_tokenizer  # noqa: E402
from gpt.train import training_step  # noqa: E402

BATCH_SIZE, SEED, WANTED = 8, 123, 5.0    # the book's way takes so many times as long as ours, at least


class Way:
    """One way to train: a model of its own, its batches, and the seconds of each of its epochs."""

    def __init__(self, name, size, messages, by_length, keep):
        self.name, self.seconds = name, []
        model = GPTModel(GPT2_SIZES[size], torch.Generator().manual_seed(SEED)).requires_grad_(False)
        swap_head(model, 2)
        for part in (model.trf_blocks[-1], model.final_norm, model.out_head):
            part.requires_grad_(True)
        if by_length:
            context = model.config.context_length
            self.batches = BatchesByLength(messages, gpt2_tokenizer(), BATCH_SIZE, context, seed=SEED)
        else:
            self.batches = SeededLoader(SpamDataset(messages, gpt2_tokenizer()), BATCH_SIZE, SEED)
        self.model = model
        if keep:
            self.batches = CachedBatches(self.batches, model, frozen_blocks(model))
            self.model = Tail(model, frozen_blocks(model))
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5, fused=True)

    def train_epoch(self, epoch):
        self.batches.set_epoch(epoch)
        self.model.train()
        started = time.perf_counter()
        for batch in self.batches:
            training_step(self.model, batch, classifier_loss, self.optimizer)
        self.seconds.append(time.perf_counter() - started)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(GPT2_SIZES), default="gpt2-small (124M)")
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    messages = random_split(create_balanced_dataset(read_sms(fetch("sms"), blog=True)), 0.7, 0.1)[0]
    ways = [Way("kept", args.model, messages, True, True), Way("by length", args.model, messages, True, False),
            Way("padded", args.model, messages, False, False)]
    for epoch in range(args.epochs):
        for way in ways:
            way.train_epoch(epoch)
            print(f"epoch {epoch + 1}, {way.name}: {way.seconds[-1]:.1f} s", flush=True)
    kept, by_length, padded = ways
    for way in ways:
        print(f"{way.name:10} {sum(way.seconds):8.1f} s for {args.epochs} epochs, "
              f"{sum(way.seconds) / sum(kept.seconds):6.2f} times what keeping takes")
    print(f"held: {kept.batches.bytes:,} bytes, predicted {kept.batches.predicted_bytes:,}")
    (_, a), (_, b) = (predict_logits(way.model, way.batches, "cpu") for way in (kept, by_length))
    print(f"kept against by length, after training: answers differ by at most {(a - b).abs().max():.1e}")
    others, apart = dict(by_length.model.trf_blocks[-1].named_parameters()), {}
    for name, weight in kept.model.trf_blocks[-1].named_parameters():
        apart[name] = (weight - others[name]).abs().max().item()
    # softmax is blind to a bias of the keys: its true gradient is 0, and AdamW makes steps of what rounding leaves
    key_bias = apart.pop("att.W_key.bias")
    print(f"... weights of the last block by {max(apart.values()):.1e}, the key's bias, which no answer depends on, by "
          f"{key_bias:.1e}")
    ratio = sum(padded.seconds) / sum(kept.seconds)
    good = "yes" if ratio >= WANTED else "NO"
    print(f"{ratio:.1f} times faster than the book's way, wanted {WANTED} or more: {good}")


if __name__ == "__main__":
    main()
