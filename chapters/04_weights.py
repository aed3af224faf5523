"""4  Weights: train them

After this chapter you can pretrain a small GPT-2 on plain text and read its loss in nats. You need: chapter 3.
Run: python chapters/04_weights.py             a few steps, to see how it goes
     python chapters/04_weights.py --full      trains mini as it is shipped, data/mini/model.safetensors
Time: 14 s; --full 51 min on 2 CPU cores (AMD EPYC) that other work shared
Source: Radford et al. 2019; Merity et al. 2016 (WikiText-2); Lang 1995 (20 Newsgroups)
"""

import math

import torch
from book import predict, report, run_folder, section, start

from gpt.checkpoint import Checkpoint
from gpt.classify import evaluating
from gpt.config import GPT2_SIZES
from gpt.corpus import TextWindows, clean_post, encode_documents, read_newsgroups, read_wikitext
from gpt.download import DownloadError, fetch
from gpt.generate import generate
from gpt.losses import next_token_loss, sampled_softmax_loss
from gpt.model import GPTModel
from gpt.tokenizer import gpt2_tokenizer, text_to_token_ids, token_ids_to_text
from gpt.train import train, warmup_then_cosine
from gpt.weights import MINI, save_model

QUICK = dict(epochs=1, sampled_batches=15, full_batches=2, batch_size=8, validation_windows=4)
FULL = dict(epochs=4, sampled_batches=None, full_batches=100, batch_size=16, validation_windows=150)
args = start(__doc__, QUICK, FULL, "--full", "--resume")
config, folder, WINDOW = GPT2_SIZES["mini"], run_folder(args), 256

# %%
section("4.1  Something to read")
# Wikipedia articles are edited prose; newsgroup posts are people talking, as text messages are. Mini reads both.
# Every 40th post is kept aside, to measure on text that the model has not seen.

tokenizer = gpt2_tokenizer()
try:
    posts = sum(read_newsgroups(fetch("20news-bydate.tar.gz")), [])
except DownloadError:
    posts = sum(read_newsgroups(fetch("20news-bydate_py3.pkz")), [])
posts = [post for post in map(clean_post, posts) if len(post) > 40]
texts = {
    "WikiText-2": (read_wikitext(fetch("wikitext-2/train.raw.gz")), read_wikitext(fetch("wikitext-2/valid.raw.gz"))),
    "20 Newsgroups": ([post for i, post in enumerate(posts) if i % 40], posts[::40]),
}
training = torch.cat([encode_documents(documents, tokenizer) for documents, _ in texts.values()])
held_out = {name: encode_documents(documents, tokenizer) for name, (_, documents) in texts.items()}
print(f"{len(training):,} tokens to train on; held out: "
      + ", ".join(f"{len(ids):,} of {name}" for name, ids in held_out.items()))

# %%
section("4.2  A model that knows nothing")
# Fresh weights give every token nearly the same score, so its surprise is ln V whatever comes.

model = GPTModel(config, torch.Generator().manual_seed(args.seed)).to(args.device)


def validation_losses():
    """Nats a token on held-out text, 255 tokens of context at the most."""
    losses = {}
    with evaluating(model):
        for name, ids in held_out.items():
            rows = ids[:args.validation_windows * (WINDOW + 1)].view(-1, WINDOW + 1).long().to(args.device)
            losses[name] = sum(next_token_loss(model, row[None]).item() for row in rows) / len(rows)
    return losses


untrained = validation_losses()
predict("first loss, nats a token (ln 50,257)", math.log(config.vocab_size), untrained["WikiText-2"], 0.02)

# %%
section("4.3  Train")
# A score for each of 50,257 words is most of the work of so small a model, so nearly all steps score a few thousand
# candidates only; the last ones score all words. bfloat16 halves the bytes that the matrix products move.

generator = torch.Generator(args.device).manual_seed(args.seed)
unigram = torch.bincount(training, minlength=config.vocab_size).float().clamp(min=0.1).to(args.device)
unigram /= unigram.sum()
matrices = [p for p in model.parameters() if p.dim() > 1]
vectors = [p for p in model.parameters() if p.dim() == 1]
optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                              lr=4e-3, betas=(0.9, 0.95))
phases = {
    "sampled softmax": (TextWindows(training, WINDOW, args.batch_size, args.seed, args.sampled_batches), args.epochs),
    "full softmax": (TextWindows(training, WINDOW, args.batch_size, args.seed + 1, args.full_batches), 1),
}
total = sum(len(windows) * epochs for windows, epochs in phases.values())
cosine = warmup_then_cosine(100, total, last=0.02)


def loss_of(phase):
    def loss_fn(model, token_ids):
        with torch.autocast(args.device.type, torch.bfloat16):
            if phase == "full softmax":
                return next_token_loss(model, token_ids)
            return sampled_softmax_loss(model, token_ids, unigram, samples=4096, generator=generator)
    return loss_fn


def print_losses(progress):
    if progress.step % 500 == 0:
        print(f"step {progress.step}: " + ", ".join(f"{k} {v:.3f}" for k, v in validation_losses().items()), flush=True)


steps_before, tokens_seen, seconds = 0, 0, 0.0
for phase, (windows, epochs) in phases.items():
    identity = dict(phase=phase, seed=args.seed, batches=len(windows), epochs=epochs, batch_size=args.batch_size)
    checkpoint = Checkpoint(folder / f"{phase.replace(' ', '-')}.pt", model, optimizer, identity,
                            generators=(generator,), resume=args.resume)
    progress = train(model, windows, loss_of(phase), optimizer, epochs, device=args.device, clip=1.0,
                     schedule=lambda step, before=steps_before: cosine(before + step),
                     after_step=print_losses, checkpoint=checkpoint)
    print(f"{phase}: {progress.seen * WINDOW:,} tokens in {progress.seconds:.0f} s, "
          f"{progress.seen * WINDOW / progress.seconds:,.0f} a second")
    steps_before, seconds = steps_before + progress.step, seconds + progress.seconds
    tokens_seen += progress.seen * WINDOW

# %%
section("4.4  What it learnt")

model.eval()
losses = validation_losses()
for name, loss in losses.items():
    print(f"{name}: {untrained[name]:.3f} nats a token before, {loss:.3f} after: perplexity {math.exp(loss):.0f}")
for prompt in ("I think that", "The city of"):
    ids = generate(model, text_to_token_ids(prompt, tokenizer), 40, temperature=0.8, top_p=0.9,
                   generator=torch.Generator().manual_seed(args.seed))
    print(repr(token_ids_to_text(ids, tokenizer)))
file = MINI if args.full else folder / "model.safetensors"
save_model(model, file, dtype=torch.float16, tokens_seen=tokens_seen, command="python chapters/04_weights.py --full")
print(f"saved: {file}, {file.stat().st_size / 2**20:.1f} MiB")
report(folder, args, tokens_seen=tokens_seen, training_tokens=len(training), seconds_training=seconds,
       untrained_loss=untrained, validation_loss=losses)
