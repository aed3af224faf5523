"""How long an epoch of LoRA takes, how much memory and where the time goes: ours, the book's own code, Hugging Face's.

Run: python tests/bench/bench_lora.py            a sample of each epoch's batches, each three times; some minutes
     python tests/bench/bench_lora.py --epoch    every batch, once; three times as long

All contenders together hold 18 GB. This is not a test. The contenders (lora_contenders.py) fine-tune on the same 1,045 messages: the book's training split. Each is a process
of its own, so that its peak memory is its own, and they take turns step by step, so that whatever else the machine
does slows all of them alike. One that is not installed is named and left out. Nothing is written.
"""

import argparse
import multiprocessing
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "chapters")]

from book import peak_memory  # noqa: E402  (the path comes first)
from lora_contenders import CONTENDERS  # noqa: E402

from gpt.download import fetch  # noqa: E402
from gpt.lora import count_parameters  # noqa: E402
from gpt.spam import create_balanced_dataset, random_split, read_sms  # noqa: E402

WANTED = [    # an epoch of the first in one of the second, at least
    ("the book's code", "ours", 5.0), ("peft", "ours", 1.25), ("ours, LoRA by hand", "ours, bfloat16", 2.2),
    ("peft, autocast", "ours, bfloat16", 1.7), ("peft, bfloat16", "ours, bfloat16", 1.3),
]
# What the names of operations hold; the last kind that fits counts. (Only attention multiplies batches of matrices.)
KINDS = {"products": ("mm",), "attention": ("bmm", "dot_product", "softmax")}


def work(name, threads, pipe):
    """A contender's process: tell how many tokens each batch has, then take a step for each number that comes in."""
    torch.set_num_threads(threads)
    messages = random_split(create_balanced_dataset(read_sms(fetch("sms"), blog=True)), 0.7, 0.1)[0]
    model, batches, step = CONTENDERS[name][0](messages)
    model.train()
    batches = list(batches)
    pipe.send(([batch[0].numel() for batch in batches], count_parameters(model)[0]))
    for numbers in iter(pipe.recv, None):
        if isinstance(numbers, int):
            started = time.perf_counter()
            step(batches[numbers])
            pipe.send((time.perf_counter() - started, peak_memory(torch.device("cpu")) or 0))
        else:
            pipe.send(shares(lambda: [step(batches[number]) for number in numbers]))


def shares(work):
    """Where the time goes by torch.profiler: {kind of operation: its share of the operations' time, 0..1}."""
    with torch.profiler.profile() as profiler:
        work()
    seconds = dict.fromkeys([*KINDS, "rest"], 0.0)
    for event in profiler.key_averages():
        kinds = [kind for kind, names in KINDS.items() if any(name in event.key for name in names)]
        seconds[(kinds or ["rest"])[-1]] += event.self_cpu_time_total
    return {kind: spent / sum(seconds.values()) for kind, spent in seconds.items()}


class Contender:
    """The near end of a contender's process, and what was measured there."""

    def __init__(self, name, threads, steps):
        self.name, (self.pipe, far) = name, multiprocessing.Pipe()
        multiprocessing.Process(target=work, args=(name, threads, far), daemon=True).start()
        far.close()    # so that the death of the process ends the wait for its answer
        self.tokens, self.trainable = self.pipe.recv()    # of each batch, padding included
        by_size = sorted(range(len(self.tokens)), key=self.tokens.__getitem__)
        every = max(1.0, len(by_size) / steps)
        self.sample = [by_size[int((i + 0.5) * every)] for i in range(round(len(by_size) / every))]
        self.seconds = {number: [] for number in self.sample}
        self.take_step(by_size[-1])    # warms up, and brings the memory to the peak of a whole epoch

    def take_step(self, number):
        self.pipe.send(number)
        seconds, self.peak = self.pipe.recv()
        return seconds

    def where(self):
        """The shares of eight steps. (The profiler notes every operation, and an epoch of them fills the memory.)"""
        self.pipe.send(self.sample[::max(1, len(self.sample) // 8)])
        return self.pipe.recv()

    def measure(self, turn):
        if turn < len(self.sample):
            self.seconds[self.sample[turn]].append(self.take_step(self.sample[turn]))

    def step(self):
        """The median of all steps, in seconds."""
        return median(second for seconds in self.seconds.values() for second in seconds)

    def epoch(self):
        """Seconds for all batches: the sample's medians, in proportion to the tokens."""
        share = sum(self.tokens[number] for number in self.sample) / sum(self.tokens)
        return sum(map(median, self.seconds.values())) / share


def contenders(threads, steps):
    """The contenders that are installed, each started and warm."""
    for name, (_, modules, command) in CONTENDERS.items():
        if all(map(find_spec, modules)):
            yield Contender(name, threads, steps)
        else:
            print(f"{name}: not installed here, so left out; {command}")


def print_table(rows):
    ours = rows[0]
    print(f"{'':22} {'s per step':>10} {'s per epoch':>11} {'to ours':>8} {'peak MB':>8} {'trainable':>10} "
          f"{'products':>9} {'attention':>9} {'rest':>5}")
    for row in rows:
        print(f"{row.name:22} {row.step():10.3f} {row.epoch():11.1f} {row.epoch() / ours.epoch():8.2f} "
              f"{row.peak / 1e6:8,.0f} {row.trainable:10,} {row.shares['products']:9.0%} {row.shares['attention']:9.0%} "
              f"{row.shares['rest']:5.0%}")
    by_name = {row.name: row for row in rows}
    for slow, fast, wanted in WANTED:
        if slow in by_name and fast in by_name:
            slow, fast = by_name[slow], by_name[fast]
            ratio = slow.epoch() / fast.epoch()
            print(f"{slow.name}: {ratio:.2f} times as long as {fast.name}, wanted {wanted} or more: "
                  f"{'yes' if ratio >= wanted else 'NO'}; no less memory: {'yes' if slow.peak >= fast.peak else 'NO'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="how many of an epoch's batches, short to long (12)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured; the median counts (3)")
    parser.add_argument("--epoch", action="store_true", help="measure every batch of an epoch, once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each contender")
    args = parser.parse_args()
    steps, rounds = (sys.maxsize, 1) if args.epoch else (args.steps, args.rounds)
    rows = list(contenders(args.threads, steps))
    for _ in range(rounds):
        for turn in range(max(len(row.sample) for row in rows)):
            for row in rows:
                row.measure(turn)
    for row in rows:
        row.shares = row.where()
        row.pipe.send(None)
    how = "measured" if args.epoch else f"extrapolated from {len(rows[0].sample)} of its batches, {rounds} times each"
    print(f"threads: {args.threads}; torch {torch.__version__}; an epoch is {how}")
    print_table(rows)


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")    # a fork would start with this process's memory
    main()
