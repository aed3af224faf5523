"""How long an epoch of LoRA takes and how much memory: ours beside the book's own code and Hugging Face's. Not a test.

Run: python tests/bench_lora.py              a sample of each epoch's batches
     python tests/bench_lora.py --epoch      all of them, three times as long

Four contenders fine-tune a GPT-2 of 124M, untrained, in float32 on the CPU, on the same 1,045 messages: the book's
training split. Each is a process of its own, so that its peak memory is its own, and they take turns step by step, so
that whatever else the machine does slows all of them alike. A contender that is not installed is named and left out.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "chapters")]

from book import peak_memory  # noqa: E402  (the path comes first)
from gpt.batches import PAD, BatchesByLength, SeededLoader, label_ids  # noqa: E402
from gpt.classify import swap_head  # noqa: E402
from gpt.config import GPT2_SIZES  # noqa: E402
from gpt.download import fetch  # noqa: E402
from gpt.lora import count_parameters, replace_linear_with_lora  # noqa: E402
from gpt.model import GPTModel  # noqa: E402
from gpt.spam import SpamDataset, create_balanced_dataset, random_split, read_sms  # noqa: E402
from gpt.tokenizer import gpt2_tokenizer  # noqa: E402
from gpt.train import classifier_loss, training_step  # noqa: E402

BATCH_SIZE, RANK, ALPHA, SEED = 8, 16, 16, 123


def ours(messages):
    """chapters/06_lora_spam.py: LoRA on the blocks, a new head trained plainly, batches of similar length."""
    model = lora_gpt2(lambda model: model.trf_blocks, zero=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    batches = BatchesByLength(messages, gpt2_tokenizer(), BATCH_SIZE, context_length=256, seed=SEED)
    return model, batches, lambda batch: training_step(model, batch, classifier_loss, optimizer)


def blog(messages):
    """chapters/06_lora_spam.py --recipe blog: LoRA on everything, all messages padded to 120 tokens."""
    model = lora_gpt2(lambda model: model, zero=False, scale="alpha", init="blog")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5, weight_decay=0.1)
    batches = SeededLoader(SpamDataset(messages, gpt2_tokenizer()), BATCH_SIZE, SEED)
    return model, batches, lambda batch: training_step(model, batch, classifier_loss, optimizer)


def lora_gpt2(part, zero, **options):
    """Our 124M with a head for two classes and LoRA in the part of it that `part` picks."""
    model = GPTModel(GPT2_SIZES["gpt2-small (124M)"], torch.Generator().manual_seed(SEED)).requires_grad_(False)
    swap_head(model, 2, zero)
    replace_linear_with_lora(part(model), RANK, ALPHA, generator=torch.Generator().manual_seed(SEED), **options)
    return model


def book(messages):
    """The book's own model, LoRA, data set and training step: its chapters 4 and 6 and appendix E."""
    from llms_from_scratch.appendix_e import replace_linear_with_lora
    from llms_from_scratch.ch04 import GPTModel
    from llms_from_scratch.ch06 import SpamDataset, calc_loss_batch
    model = GPTModel(dict(vocab_size=50257, context_length=1024, emb_dim=768, n_heads=12, n_layers=12, drop_rate=0.0,
                          qkv_bias=True)).requires_grad_(False)
    model.out_head = torch.nn.Linear(768, 2).requires_grad_(False)
    replace_linear_with_lora(model, RANK, ALPHA)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.csv"
        messages.assign(Label=label_ids(messages)).to_csv(file, index=None)
        dataset = SpamDataset(file, gpt2_tokenizer())

    def step(batch):
        optimizer.zero_grad()
        loss = calc_loss_batch(*batch, model, "cpu")
        loss.backward()
        optimizer.step()
    return model, DataLoader(dataset, BATCH_SIZE, shuffle=True, drop_last=True), step


def hugging_face(messages):
    """transformers and peft at their fastest: fused attention, fused AdamW, no Trainer, our batches of similar length.

    Padding on the right needs no attention mask: a causal model's last real token never sees it.
    """
    import peft
    import transformers
    config = transformers.GPT2Config(num_labels=2, pad_token_id=PAD, use_cache=False, attn_implementation="sdpa",
                                     resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = peft.get_peft_model(transformers.GPT2ForSequenceClassification(config), peft.LoraConfig(
        task_type="SEQ_CLS", r=RANK, lora_alpha=ALPHA, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)

    def step(batch):
        ids, _, labels = batch
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, BatchesByLength(messages, gpt2_tokenizer(), BATCH_SIZE, context_length=256, seed=SEED), step


CONTENDERS = {    # function, what it imports, how to install that
    "ours": (ours, [], ""),
    "ours, --recipe blog": (blog, [], ""),
    "the book's code": (book, ["llms_from_scratch"], "pip install --no-deps llms-from-scratch"),
    "transformers + peft": (hugging_face, ["transformers", "peft"], "pip install transformers peft"),
}


def work(name, threads, pipe):
    """A contender's process: tell the sizes of the epoch's batches, then take a step for each number that comes in."""
    torch.set_num_threads(threads)
    messages = random_split(create_balanced_dataset(read_sms(fetch("sms"), blog=True)), 0.7, 0.1)[0]
    model, batches, step = CONTENDERS[name][0](messages)
    model.train()
    batches = list(batches)
    pipe.send(([batch[0].numel() for batch in batches], count_parameters(model)[0]))
    for number in iter(pipe.recv, None):
        started = time.perf_counter()
        step(batches[number])
        pipe.send((time.perf_counter() - started, peak_memory(torch.device("cpu")) or 0))


class Contender:
    """The near end of a contender's process."""

    def __init__(self, name, threads, steps):
        self.name, (self.pipe, far) = name, multiprocessing.Pipe()
        multiprocessing.Process(target=work, args=(name, threads, far), daemon=True).start()
        far.close()    # so that a process that dies ends the wait for its answer
        self.sizes, self.trainable = self.pipe.recv()
        by_size = sorted(range(len(self.sizes)), key=self.sizes.__getitem__)
        steps = min(steps, len(by_size))
        self.sample = [by_size[int((i + 0.5) * len(by_size) / steps)] for i in range(steps)]
        self.seconds = {number: [] for number in self.sample}
        self.ask(by_size[-1])    # warms up, and brings the memory to the peak that a whole epoch has

    def ask(self, number):
        self.pipe.send(number)
        seconds, self.peak = self.pipe.recv()
        return seconds

    def epoch(self):
        """Seconds for all batches: those of the sample, in proportion to the tokens (padding included)."""
        share = sum(self.sizes[number] for number in self.sample) / sum(self.sizes)
        return sum(median(seconds) for seconds in self.seconds.values()) / share

    def row(self, ours):
        step = median(second for seconds in self.seconds.values() for second in seconds)
        return (f"{self.name:20} {step:9.3f} {self.epoch():9.1f} {self.epoch() / ours.epoch():9.2f} "
                f"{self.peak / 1e6:9,.0f} {self.trainable:12,}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="how many of an epoch's batches, short to long (12)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured; the median counts (3)")
    parser.add_argument("--epoch", action="store_true", help="every batch of an epoch, once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each contender, in its turn")
    args = parser.parse_args()
    steps, rounds = (10**6, 1) if args.epoch else (args.steps, args.rounds)
    contenders = []
    for name, (_, modules, command) in CONTENDERS.items():
        if all(map(find_spec, modules)):
            contenders.append(Contender(name, args.threads, steps))
        else:
            print(f"{name}: not installed, left out; to have it: {command}")
    for turn in range(rounds * max(len(each.sample) for each in contenders)):
        for each in contenders:
            if turn < rounds * len(each.sample):
                number = each.sample[turn % len(each.sample)]
                each.seconds[number].append(each.ask(number))
    how = "measured" if args.epoch else f"extrapolated from {len(contenders[0].sample)} of its batches, {rounds} times each"
    print(f"{args.threads} threads, torch {torch.__version__}; an epoch is {how}")
    print(f"{'':20} {'s a step':>9} {'s an epoch':>9} {'to ours':>8} {'peak MB':>9} {'trainable':>12}")
    for each in contenders:
        print(each.row(contenders[0]))


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")    # a fork would inherit the parent's memory
    main()
