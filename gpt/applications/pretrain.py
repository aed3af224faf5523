"""How mini was trained: on WikiText-2 and 20 Newsgroups, first with a sampled softmax, then with the full one.

Read along: chapters/04_weights.py. Source: Merity et al. 2016 (WikiText-2); Lang 1995 (20 Newsgroups); AdamW's betas,
weight decay and clipping are those of Brown et al. 2020, appendix B.
"""

import gzip
import io
import pickle
import re
import tarfile
import zlib

import torch

from gpt.batches import TextWindows, encode_documents
from gpt.checkpoint import Checkpoint
from gpt.cost.precision import choose_precision, computing
from gpt.download import DownloadError, fetch
from gpt.losses import next_token_loss, sampled_softmax_loss
from gpt.model import evaluating
from gpt.train import parameter_groups, train, warmup_then_cosine

LOOK_EVERY = 500    # steps between two measurements of the held-out texts


def read_mini_texts(tokenizer, documents=None):
    """Wikipedia articles, which are edited prose, and newsgroup posts, which are people talking, as in text messages.

    WikiText-2 has a held-out part of its own. Of the posts, once cleaned and without those of at most 40 characters,
    every 40th is held out. (Which posts these are depends on the source, because each source has another order.)

    Input: documents, how many to read of each (None: all)
    Output: (N,) token ids to train on; {name: (N,) token ids} to measure on
    """
    try:
        posts = sum(read_newsgroups(fetch("20news-bydate.tar.gz")), [])
    except DownloadError:
        posts = sum(read_newsgroups(fetch("20news-bydate_py3.pkz")), [])
    posts = [post for post in map(clean_post, posts[:documents]) if len(post) > 40]
    articles = read_wikitext(fetch("wikitext-2/train.raw.gz"))[:documents]
    others = [post for i, post in enumerate(posts) if i % 40]
    held_out = {"WikiText-2": read_wikitext(fetch("wikitext-2/valid.raw.gz")), "20 Newsgroups": posts[::40]}
    training = torch.cat([encode_documents(texts, tokenizer) for texts in (articles, others)])
    return training, {name: encode_documents(texts, tokenizer) for name, texts in held_out.items()}


def shares(token_ids, vocab_size):
    """The share of a text that each token of the vocabulary has: (N,) -> (V,), sum 1.

    A token that does not occur counts as a tenth of one, because the sampled loss divides by its probability.
    """
    counts = torch.bincount(token_ids, minlength=vocab_size).float().clamp(min=0.1)                 # (V,)
    return counts / counts.sum()


def text_losses(model, held_out, windows):
    """The mean cross-entropy in each of the texts, nats per token; each token sees at most context_length before it.

    Input: held_out {name: (N,) token ids}; windows, how many to measure of each, of context_length + 1 ids
    Output: {name: loss}
    """
    losses = {}
    length = model.config.context_length + 1
    with evaluating(model):
        for name, ids in held_out.items():
            rows = ids[:windows * length].view(-1, length).long().to(model.tok_emb.weight.device)   # (windows, T + 1)
            losses[name] = sum(next_token_loss(model, row[None]).item() for row in rows) / len(rows)
    return losses


def pretrain(model, training, held_out, *, epochs, sampled_batches, full_batches, batch_size, windows, seed, folder,
             resume=False):
    """Train a fresh model on text, in place: nearly all steps score a sample of the tokens, the last ones all tokens.

    Matrix products are in bfloat16 where the machine multiplies it, else in float32.
    Both phases share the optimizer, AdamW at 4e-3 that decays matrices (`parameter_groups`), and one schedule: 100
    steps of warm-up, then a cosine down to 0.02 of the rate. Gradients are clipped to norm 1, a sample is 4,096 draws,
    and the losses of the held-out texts are printed every LOOK_EVERY steps. Each phase has a checkpoint in the folder,
    sampled-softmax.pt and full-softmax.pt. The second phase's windows come from seed + 1, all else from seed.

    Input: training (N,) token ids; sampled_batches, full_batches: at most so many steps per epoch (None: all) in the
        first phase, which has `epochs`, and in the second, which has one; held_out, windows: for `text_losses`
    Output: {phase: its Progress}
    """
    length = model.config.context_length
    device = model.tok_emb.weight.device
    unigram = shares(training, model.config.vocab_size).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=4e-3, betas=(0.9, 0.95))
    phases = {"sampled softmax": (TextWindows(training, length, batch_size, seed, sampled_batches), epochs),
              "full softmax": (TextWindows(training, length, batch_size, seed + 1, full_batches), 1)}
    cosine = warmup_then_cosine(100, sum(len(batches) * times for batches, times in phases.values()), last=0.02)

    def sampled_loss(model, token_ids):
        return sampled_softmax_loss(model, token_ids, unigram, samples=4096, generator=generator)

    def print_losses(progress):
        if progress.step % LOOK_EVERY == 0:
            losses = text_losses(model, held_out, windows)
            print(f"step {progress.step}: " + ", ".join(f"{k} {v:.3f}" for k, v in losses.items()), flush=True)

    bfloat16_is_fast = choose_precision("auto", device, "a model that trains")[0] == torch.bfloat16
    dtype = torch.bfloat16 if bfloat16_is_fast else torch.float32    # imitated, bfloat16 took 12 times as long
    steps = 0
    done = {}
    for phase, (batches, times) in phases.items():
        identity = dict(phase=phase, seed=seed, batches=len(batches), epochs=times, batch_size=batch_size)
        checkpoint = Checkpoint(folder / f"{phase.replace(' ', '-')}.pt", model, optimizer, identity,
                                generators=(generator,), resume=resume)
        loss_fn = computing(dtype, device)(next_token_loss if phase == "full softmax" else sampled_loss)
        done[phase] = train(model, batches, loss_fn, optimizer, times, device=device, clip=1.0,
                            after_step=print_losses, checkpoint=checkpoint,
                            schedule=lambda step, before=steps: cosine(before + step))
        steps += done[phase].step
    model.eval()
    return done


# ---- The texts -------------------------------------------------------------------------------------------------------

def read_wikitext(path):
    """WikiText-2's articles as running text.

    The file has spaces around its tokens: "a 5 @-@ year @-@ old ship of 1 @,@ 200 tons , sunk in 1 @.@ 5 hours" becomes
    "a 5-year-old ship of 1,200 tons, sunk in 1.5 hours". An article begins at a line " = Title = ", without = inside.

    Input: path of train.raw.gz or valid.raw.gz. Output: list of str, one for each article
    """
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    text = re.sub(r" @([-,.])@ ", r"\1", text)                                # inside words and numbers: 1 @,@ 200
    text = re.sub(r" ([,.;:!?%)\]]|'s\b|n't\b|'[a-z]+\b)", r"\1", text)     # what stands close to the word before it
    text = re.sub(r"([(\[$£#]) ", r"\1", text)                               # what stands close to the word after it
    text = re.sub(r'" ([^"\n]*?) "', r'"\1"', text)                          # a pair of quotation marks
    articles = re.split(r"\n (?== [^=\n]+ = \n)", text)                      # before each title: = Robert Boulter =
    return [article.strip() for article in articles if article.strip()]


class _PlainUnpickler(pickle.Unpickler):
    """Reads a pickle of lists, strings and arrays; it refuses to import anything else."""

    ALLOWED = {("sklearn.utils", "Bunch"), ("sklearn.utils._bunch", "Bunch"), ("sklearn.datasets.base", "Bunch"),
               ("numpy", "ndarray"), ("numpy", "dtype"),
               ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into a file of newsgroup posts")
        return dict if name == "Bunch" else super().find_class(module, name)


def read_newsgroups(path):
    """The posts of 20 Newsgroups: (training posts, test posts), two lists of str, as the archive divides them.

    Input: path of 20news-bydate.tar.gz, or of 20news-bydate_py3.pkz, which has the same posts, shuffled
    """
    if path.name.endswith(".pkz"):
        posts = _PlainUnpickler(io.BytesIO(zlib.decompress(path.read_bytes()))).load()
        return posts["train"]["data"], posts["test"]["data"]
    parts = {"20news-bydate-train": [], "20news-bydate-test": []}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                parts[member.name.split("/")[0]].append(archive.extractfile(member).read().decode("latin-1"))
    return parts["20news-bydate-train"], parts["20news-bydate-test"]


# A quoted line (> | : or } after at most 4 letters or digits, the initials of the person quoted), the line that
# introduces it (it ends in writes, wrote, says or said, or begins with "In article"), or 40 signs without a space, as
# an encoded file has. It removes some lines of the writer's own too, such as "PS: ...".
QUOTED_OR_CODE = re.compile(r"^\s*\w{0,4}[>|:}]|(writes|wrote|says|said) ?:?\s*$|^In article|\S{40,}")


def clean_post(post):
    """The writer's own text, without headers, quoted lines, e-mail addresses and encoded files, paragraphs as one line.

    Behind its first line it ends at a signature ("--" alone on a line) or a line that begins with 10 of - _ = * +.
    """
    body = post.partition("\n\n")[2]    # the headers end at the first empty line
    body = re.split(r"\n-- ?\n|\n[-_=*+]{10,}", body)[0]
    body = re.sub(r"<?\b[\w.+-]+@[\w-]+\.[\w.-]*\w>?", "", body)
    lines = [" ".join(line.split()) for line in body.split("\n") if not QUOTED_OR_CODE.search(line)]
    return re.sub(r"(?<=\S)\n(?=\S)", " ", "\n".join(lines)).strip()
