# %% [markdown]
"""
# 7  LoRA for text: teach GPT-2 to write text messages, and count the cost

After this chapter you can fine-tune a language model on texts of your own, predict the memory that it takes and measure
it, and give one base model several adapters. You need: chapters 4 and 6.

- Run: `python chapters/07_lora_writer.py --model mini` (also with `--csv FILE --column NAME` or `--text FILE`)
- Time: --quick 31 s; full 4 min 45 s on mini, on 2 CPU cores (AMD EPYC); data there already
- Source: Sharma and Watson 2023, "Parameter-efficient fine-tuning of GPT-2 with LoRA" (keras.io); Hu et al. 2021
"""

# %%
import sys
import time

import pandas as pd
import torch
from book import at_least_one, figure, load_weights, predict, report, run_folder, section, show, start

from gpt.adapters import load_adapter, read_adapter, save_adapter
from gpt.applications.own_data import read_table
from gpt.applications.switch_adapters import AdapterSwitch
from gpt.applications.text_writer import (
    TextBatches, fine_tune, read_documents, step_in_parts, text_loss, titled,
)
from gpt.batches import LABELS, BatchesByLength
from gpt.classify import classifier_loss, classify, swap_head, to_device
from gpt.config import GPT2_SIZES
from gpt.cost.fresh_process import in_fresh_process
from gpt.cost.ledger import format_changes, format_ledger, ledger, ledger_changes
from gpt.cost.memory import predict_memory
from gpt.cost.precision import computing, hold
from gpt.download import fetch
from gpt.generate import generate
from gpt.interop.hugging_face import export_hf
from gpt.interop.peft import export_peft
from gpt.lora import count_parameters, merge_lora, replace_linear_with_lora, unmerge_lora
from gpt.losses import real_tokens
from gpt.plots import plot_cost, plot_learning, saving
from gpt.spam import create_balanced_dataset, read_sms, split_without_leaks
from gpt.tokenizer import END_OF_TEXT, gpt2_tokenizer, text_to_token_ids
from gpt.train import parameter_groups, train, warmup_then_linear
from gpt.weights import blank

QUICK, FULL = dict(texts=240, scored=40, looks=3), dict(texts=None, scored=None, looks=8)
TEXT = ("--text", dict(metavar="FILE", help="texts of your own, with empty lines between them, or one a line"))
PARTS = ("--parts", dict(type=at_least_one, default=1, help="compute each batch in so many parts"))
args = start(__doc__, QUICK, FULL, "--model", "--weights", "--precision", TEXT, "--csv", "--column", PARTS)
RANK, ALPHA, TARGETS, BATCH_SIZE = 4, 32, ("W_query", "W_value"), 8    # KerasHub's example, but for its batch of 32
# KerasHub trains both ways at 5e-5; we have not run that on 124M. mini's: by validation losses of runs that end at step
# 120, seed 123: all weights 5.98 at 5e-4, 5.91 at 1e-3, 5.90 at 2e-3 (of near equals the lower); LoRA 6.61 at 2e-3,
# 6.57 at 5e-3, 6.56 at 1e-2, 6.59 at 2e-2. Of a full run's 488 steps LoRA's turn up once: 6.740, 6.712, 6.751, 6.631.
RATES = {"mini": {"full": 1e-3, "lora": 1e-2}}.get(args.model, {"full": 5e-5, "lora": 5e-5})
WAYS, tokenizer = {"full": "all weights", "lora": "LoRA"}, gpt2_tokenizer()

# %% [markdown]
# ## 7.1 From messages to rows
#
# A language model needs no label. Each text becomes a row with `<|endoftext|>` before it, so that it can begin from
# nothing, and behind it, so that the model learns to stop. Padding is `<|endoftext|>` too: only the length tells the
# one that ends a text from those that fill the row. The texts are the SMS messages, near-copies in one split; or yours.
# A table with columns `title` and `description`, as AG News, needs no `--column`: `TITLE: ... DESCRIPTION: ...`.

# %%
section("7.1")
own = read_documents(args.text) if args.text else None
if args.csv:
    columns = [args.column] if args.column else ["title", "description"]
    own = read_table(args.csv, *columns)
    own = own[args.column].tolist() if args.column else titled(own)
table = read_sms(fetch("sms")) if own is None else pd.DataFrame({"Label": "text", "Text": own})
texts = {name: split["Text"].tolist()[:args.texts if name == "train" else args.scored] for name, split in
         zip(("train", "validation", "test"), split_without_leaks(table, 0.7, 0.1, seed=args.seed), strict=True)}
if not all(texts.values()):
    sys.exit(f"{len(table)} texts are too few to hold some of them out")
ids, lengths = next(iter(TextBatches(["Ok lar", "Joking wif u oni"], tokenizer)))
print(ids)
#> tensor([[50256, 18690, 26371, 50256, 50256, 50256, 50256, 50256, 50256],
#>         [50256,    41,  5730,   266,   361,   334,   319,    72, 50256]])
predict("tokens to predict", 3 + 8, real_tokens((ids, lengths)))
#> tokens to predict: predicted 11, measured 11

# %% [markdown]
# **Your turn.** The loss finds the tokens that were counted here with `hidden_and_targets`, which no section shows.
# `python tests/exercises.py start E7.1` takes out its body; `python -m pytest --exercise E7.1` checks yours.

# %% [markdown]
# ## 7.2 Query and value: 147,456 numbers
#
# Hu et al. put LoRA on query and value alone, and so does KerasHub's example: a matrix of C x C gets r (C + C) numbers.

# %%
section("7.2")
C, LAYERS, r = 768, 12, 4
small, medium = blank(GPT2_SIZES["gpt2-small (124M)"]), blank(GPT2_SIZES["gpt2-medium (355M)"])    # shapes alone
replace_linear_with_lora(small, r, ALPHA, targets=TARGETS)
replace_linear_with_lora(medium, 8, ALPHA, targets=("W_query", "W_key", "W_value"), share_a=True)
predict("trainable, 124M", LAYERS * 2 * r * (C + C), count_parameters(small)[0])
predict("all, 124M", 124_439_808 + 147_456, count_parameters(small)[1])

# %% [markdown]
# OpenAI's own GPT-2 has query, key and value as one matrix, C x 3C. A LoRA of it has one A for the three: x A is
# computed once, and B's three parts, each (r, C), turn it into three corrections: r (C + 3C) numbers, not 3 r (C + C).
# `share_a=True` does so where they are apart, as here. (355M is a published talk's; r = 8 on that matrix PEFT's
# default.)

# %%
x, A, B = torch.randn(5, 16), torch.randn(16, 2), torch.randn(2, 48)
apart = torch.cat([x @ A @ part for part in B.chunk(3, dim=1)], dim=1)
predict("one LoRA of C x 3C is three with one A", True, torch.allclose(apart, x @ A @ B, atol=1e-4))
predict("trainable, 355M, one A", 24 * 8 * (1024 + 3 * 1024), count_parameters(medium)[0])
#> trainable, 355M, one A: predicted 786,432, measured 786,432
predict("all, 355M", 354_823_168 + 786_432, count_parameters(medium)[1])

# %% [markdown]
# ## 7.3 The ledger
#
# Surgery on a model goes wrong in silence: a tie is cut, a layer trains that should not. So list its tensors before and
# after. `replace_linear_with_lora` freezes all that it is given: here the model; in chapter 6 only the blocks, and the
# rest was frozen first. A layer that got a LoRA has another name, and only A's and B's are new.

# %%
section("7.3")
model, weights = load_weights(args)
before = ledger(model)
print(format_ledger(before))
replace_linear_with_lora(model, RANK, ALPHA, targets=TARGETS, generator=torch.Generator().manual_seed(args.seed))
changes = ledger_changes(before, ledger(model))
predict("tensors that LoRA froze", len(before), sum("frozen" in change.what for change in changes))
print("some of these it renamed, and A's and B's are new:")
print(format_changes([change for change in changes if change.what != "frozen"]))
model = model.to(args.device)

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E7.2` takes out the body of `ledger_changes`, which found what is new
# and what is frozen; `python -m pytest --exercise E7.2` checks yours.

# %% [markdown]
# ## 7.4 AdamW's groups, and a rate that falls
#
# Weight decay pulls numbers towards 0 at each step. Biases and LayerNorm's vectors are left out: 0 is no better a place
# for them than another. For A and B, 0 is the base model; for a W that trains, 0 lies far from the base. (In a full run
# on mini decay takes 2.4 % of A and B, or 0.2 % of all weights.) The rate rises for 20 steps and falls in a straight
# line (KerasHub's text has it fall, its code does not). Gradients longer than 1, all together, are cut to 1, as there.

# %%
section("7.4")
show(parameter_groups)
for decay_lora, expected in ((True, [4 * model.config.n_layers, 0]), (False, [0, 4 * model.config.n_layers])):
    found = [len(group["params"]) for group in parameter_groups(model, 0.01, decay_lora)]
    predict(f"tensors that decay, and that do not, decay_lora={decay_lora}", expected, found)
rate = warmup_then_linear(20, 100)
predict("factors of steps 0, 19, 60, 100", [0.05, 1.0, 0.5, 0.0], [rate(step) for step in (0, 19, 60, 100)])

# %% [markdown]
# **Your turn.** Two short ones: `python tests/exercises.py start E7.3` takes out the body of `parameter_groups`,
# `python tests/exercises.py start E7.4` that of `warmup_then_linear`. `python -m pytest --exercise E7.3` and
# `--exercise E7.4` check yours.

# %% [markdown]
# ## 7.5 In parts, and in half the bytes
#
# A batch that is too large can be computed part by part: the parts' gradients add up (gradient accumulation). The trap:
# the mean over a batch is not the mean of its parts' means, in which a token of a short text counts more.

# %%
section("7.5")
short, long = torch.full((2,), 4.0), torch.full((8,), 1.0)    # losses of tokens, nats
predict("mean over 2 tokens at 4 nats and 8 at 1", 1.6, torch.cat([short, long]).mean().item(), 1e-6)
predict("mean of the two means", 2.5, torch.stack([short.mean(), long.mean()]).mean().item())
show(step_in_parts)
trained = [p for p in model.parameters() if p.requires_grad]
still = torch.optim.SGD(trained, lr=0.0)    # moves nothing


def gradient(parts, size):
    """The gradient of `batch` as one vector, computed in `parts` parts, each weighted by `size` (None: by its rows)."""
    step_in_parts(model, batch, text_loss, still, parts=parts, size=size)
    return torch.cat([p.grad.flatten() for p in trained])


ids = torch.randint(50257, (8, 33), generator=torch.Generator().manual_seed(0))
for what, lengths in (("equal lengths", [30] * 8), ("short and long", [6] * 4 + [33] * 4)):
    batch = to_device((ids, torch.tensor(lengths)), args.device)
    whole, by_tokens, by_rows = gradient(1, real_tokens), gradient(2, real_tokens), gradient(2, None)
    errors = [((found - whole).norm() / whole.norm()).item() for found in (by_tokens, by_rows)]
    print(f"{what}, in two parts: gradient off by {errors[0]:.0%} of its length by tokens, {errors[1]:.0%} by rows")
    predict(f"{what}: right by tokens, by rows", [True, lengths[0] == lengths[7]], [error < 1e-3 for error in errors])

# %% [markdown]
# Where the machine multiplies bfloat16 faster, models above mini compute their matrix products in it. It has 8 binary
# digits, so small steps would be lost. With LoRA the frozen weights can be held in it, because no step is added to
# them. If all weights train, they stay in float32, and `torch.autocast` makes bfloat16 copies of them for the products.
# This is called mixed precision.

# %%
predict("0.03 + 0.00005 in bfloat16", 0.03, round((torch.tensor(0.03, dtype=torch.bfloat16) + 0.00005).item(), 4))
show(hold)
show(computing)

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E7.5` takes out the body of `step_in_parts`; mind the trap.
# `python -m pytest --exercise E7.5` checks yours.

# %% [markdown]
# ## 7.6 How much memory, before it is taken
#
# The weights are there either way. A number that trains takes 12 bytes besides its own 4: a gradient and two numbers of
# AdamW's. LoRA saves these on nearly all of them. Of the activations it saves less: the gradient has to go back through
# every block to reach the first A, and only what a frozen matrix reads need not be kept for it. The peak is the largest
# of five moments (`gpt/cost/memory.py`); on mini the way back has begun then, and the only gradient there is the
# head's:
#
#     weights + optimizer + activations + 3 x scores of 256 tokens + the head's gradient, where it trains
#
# (3 x: as logarithms, their gradient, the logits' gradient.) Counted in float32, for the batch with the most tokens:

# %%
section("7.6")
batches = TextBatches(texts["train"], tokenizer, BATCH_SIZE, GPT2_SIZES[args.model].context_length, args.seed)
B, T = max(((len(ids), ids.shape[1] - 1) for ids, _ in batches), key=lambda shape: shape[0] * shape[1])
B = -(-B // args.parts)    # rounded up
counted = {way: blank(GPT2_SIZES[args.model]) for way in WAYS}
replace_linear_with_lora(counted["lora"], RANK, ALPHA, targets=TARGETS)
memory = {way: predict_memory(counted[way], B, T, chunk=256) for way in WAYS}
print(f"{f'MB, for {B} x {T} tokens':22}" + "".join(f"{name:>13}" for name in memory["full"]._fields))
for way, parts in memory.items():
    print(f"{WAYS[way]:22}" + "".join(f"{part / 1e6:13,.1f}" for part in parts))
scores, head = 4 * min(256, B * T) * 50257, model.tok_emb.weight.nbytes
print(f"3 x {scores / 1e6:.1f} MB of scores, which LoRA does not touch, are {3 * scores / memory['lora'].peak:.0%} of "
      f"its peak on mini; the head's gradient: {head / 1e6:.1f} MB")

# %% [markdown]
# **Your turn.** `predict_memory` goes through the model layer by layer and notes what each keeps for the way back.
# `python tests/exercises.py start E7.6` takes out `Tape.linear`, which does so for linear layers, with a LoRA or
# without; `python -m pytest --exercise E7.6` checks yours.

# %% [markdown]
# ## 7.7 Train, each way in a process of its own
#
# A process that has trained once keeps memory and loaded libraries: what comes second would seem to need nothing more,
# or as much. So each way gets a fresh Python, which says what it held at most; what it held before it had a model is
# taken off. (Not in the prediction: what kernels take for themselves, and freed blocks that `malloc` keeps, glibc those
# below 4 MB.) LoRA leaves out the weights' gradients, which is about a third of the work: forward, and back through the
# model, it has to go all the same. And it learns less, on mini far less: 89 % of mini's numbers are token embeddings
# (31 % of 124M's), which it leaves as they are. Token accuracy: how often the first choice is the next token.

# %%
section("7.7")
folder = run_folder(args)
files = {name: folder / f"{name}.safetensors" for name in ("writer", "filter")}
same = dict(model=args.model, base=weights, untrained=args.weights == "random", seed=args.seed, texts=texts,
            rank=RANK, alpha=ALPHA, batch_size=BATCH_SIZE, parts=args.parts, looks=args.looks, device=str(args.device),
            precision=args.precision)
runs, seconds, predicted, peaks = {}, {}, {}, {}
for way, name in WAYS.items():
    run, peak = in_fresh_process(fine_tune, method=way, learning_rate=RATES[way], **same,
                                 adapter_file=str(files["writer"]) if way == "lora" else None)
    runs[way], seconds[name], predicted[name] = run, run["seconds_training"], memory[way].peak
    peaks[name] = None if peak is None else peak - run["start_memory_bytes"]
    print(f"{name}: {run['steps']} steps of {1000 * seconds[name] / run['steps']:.0f} ms; peak in MB: "
          f"{predicted[name] / 1e6:.0f} predicted, {'not' if peak is None else f'{peaks[name] / 1e6:.0f}'} measured")
    for when in ("before", "after"):
        print("    {}: test loss {loss:.3f}, token accuracy {accuracy:.1%}".format(when, **run[when]["test"]))
print(f"LoRA saves {saving(seconds):.0%} of a step's time; of the peak {saving(predicted):.0%} predicted, "
      f"{'unknown' if peak is None else f'{saving(peaks):.0%}'} measured")
rounding = max(1e-5, torch.finfo(args.dtype).eps)    # in bfloat16 the two round at different places
predict("loss of the base and of a fresh LoRA", *(run["before"]["test"]["loss"] for run in runs.values()), rounding)
predict("LoRA trained", count_parameters(model)[0], runs["lora"]["trainable_parameters"])
print("published (KerasHub, 124M, 500 steps of 32 x 128 tokens of Reddit posts, float16, one T4; training loss and\n"
      "accuracy): all weights 632 ms, 3.299, 32.7 %; LoRA 505 ms, 20 % less, 3.540, 30.1 %, and about 35 % less memory")

# %% [markdown]
# ## 7.8 Merge, then write
#
# The merged model computes what the base computes, with other numbers in two matrices a block: the text that it writes
# with A and B beside them, in the base's time. Greedy, so that nothing is drawn, 40 tokens. On mini a clock's noise can
# be as large as the differences, so the three take turns, and the median of nine counts. Then 20 texts from nothing:
# what was learnt by heart comes back word for word. (So may "Ok", which says nothing.)

# %%
section("7.8")
base = load_weights(args)[0].to(args.device)
load_adapter(model.eval(), files["writer"])
export_hf(base, folder / "base")    # as Hugging Face has it; 7.9 says what for
prompt, unmerged = text_to_token_ids("I", tokenizer), ledger(model)
written, timed = {}, {"base": [], "beside": [], "merged": []}
for _ in range(9):
    for way in timed:
        if way == "merged":
            merge_lora(model)
        started = time.perf_counter()
        written[way] = generate(base if way == "base" else model, prompt, 40)[0].tolist()
        timed[way].append(time.perf_counter() - started)
    unmerge_lora(model)
predict("merged: the same text, token for token", True, written["merged"] == written["beside"])
predict("tensors changed after unmerging", 0, len(ledger_changes(unmerged, ledger(model))))
timed = {way: sorted(times)[4] for way, times in timed.items()}
print(f"time, base = 1: {timed['beside'] / timed['base']:.2f} beside, {timed['merged'] / timed['base']:.2f} merged")
generator, nothing = torch.Generator(args.device).manual_seed(args.seed), torch.tensor([[END_OF_TEXT]] * 20)
rows = generate(model, nothing, 30, temperature=0.8, top_p=0.9, generator=generator, stop=END_OF_TEXT).tolist()
drawn = [tokenizer.decode(row).split("<|endoftext|>")[1:] for row in rows]    # [text], and "" behind it if it ended
print(f"base: {tokenizer.decode(written['base'])!r}\nLoRA: {tokenizer.decode(written['beside'])!r}")
print("LoRA, from nothing:", *(repr(text) for text, *_ in drawn[:3]), sep="\n    ")
ended = [text for text, *end in drawn if end]
print(f"{len(ended)} of 20 such texts end; training messages among them: {[t for t in ended if t in texts['train']]}")

# %% [markdown]
# ## 7.9 Two adapters, one base
#
# What is off needs the memory of its A's and B's, not that of a second model. A small spam filter in 32 steps, then
# both on one base, in turn, without copying. For Hugging Face's libraries `export_hf` wrote the base, now the merged
# writer; `export_peft` the writer alone, with its base's folder: `AutoPeftModelForCausalLM.from_pretrained` of `peft/`
# loads both. It is twice as large as ours: query and value are one `c_attn` there, of rank 8, and B is filled up with
# zeros.

# %%
section("7.9")
balanced = create_balanced_dataset(read_sms(fetch("sms")), args.seed)[::6]    # 249 messages are enough to show it
model = base.requires_grad_(False)
swap_head(model, len(LABELS))
replace_linear_with_lora(model.trf_blocks, 4, 4, generator=torch.Generator().manual_seed(args.seed))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.0)
train(model.to(args.device), BatchesByLength(balanced, tokenizer, 8, 256, args.seed), classifier_loss, optimizer, 1,
      device=args.device)
save_adapter(model, files["filter"], base=weights, labels=list(LABELS))
switch = AdapterSwitch(model.eval())
C, LAYERS = model.config.emb_dim, model.config.n_layers
numbers = LAYERS * 2 * RANK * (C + C) + LAYERS * 4 * (4 * (C + C) + 2 * (C + 4 * C)) + len(LABELS) * (C + 1)
for name, file in files.items():
    switch.add(name, file)
by_file = sum(tensor.nbytes for file in files.values() for tensor in read_adapter(file)[1].values())
predict("bytes of both, as their files say and as held", [4 * numbers, 4 * numbers], [by_file, switch.bytes])
#> bytes of both, as their files say and as held: predicted [181256, 181256], measured [181256, 181256]
switch.use("filter")
for label, probability in classify(model, ["Free prize! Call 09061701461", "See you later"], tokenizer, list(LABELS)):
    print(f"the filter: {label} ({probability:.0%})")
switch.use("writer")
predict("the writer writes as before", True, generate(model, prompt, 40)[0].tolist() == written["beside"])
export_peft(model, folder / "peft", base=str(folder / "base"))
export_hf(model, folder / "merged")
for file in (files["writer"], folder / "peft/adapter_model.safetensors", folder / "merged/model.safetensors"):
    print(f"{file}: {file.stat().st_size / 1e6:.3f} MB")

# %% [markdown]
# **Your turn.** `export_peft` puts the LoRAs of query and value into one with `pack`, whose body
# `python tests/exercises.py start E7.8` takes out. `python tests/exercises.py start E7.7` takes out that of
# `fold_bias`, which only the export of a classifier needs: our head for classes has a bias, and theirs has none.
# `python -m pytest --exercise E7.7` and `--exercise E7.8` check yours.

# %% [markdown]
# ## 7.10 Two pictures

# %%
section("7.10")
figure(plot_cost(seconds, peaks, predicted, weights), folder, "07_cost")
curves = {WAYS[way]: [{"step": 0} | run["before"]["validation"], *run["history"]] for way, run in runs.items()}
figure(plot_learning(curves, f"{weights}: learning from {len(texts['train']):,} texts"), folder, "07_learning")
report(folder, args, recipe="default", weights=weights, split="leak-free", epochs=1, rank=RANK, alpha=ALPHA,
       batch_size=BATCH_SIZE, parts=args.parts, learning_rates=RATES, largest_batch=[B, T],
       **{f"n_{name}": len(part) for name, part in texts.items()}, seconds_writing=timed,
       **{way: run | dict(seconds_per_step=run["seconds_training"] / run["steps"], peak_memory_bytes=peaks[WAYS[way]],
                          predicted_memory_bytes=memory[way]._asdict()) for way, run in runs.items()})

# %% [markdown]
# ## What you have now
#
# A model that writes text messages, a 35 KB file of it, and the price in time and bytes.
#
# ## Break it
#
# Change one thing, run the chapter, and see whether you expected what happens:
#
# | where | change | what you should see |
# |---|---|---|
# | `gpt/applications/text_writer.py` | weight a part's loss by `1 / len(pieces)` | 7.5 stops: by tokens is wrong too |
# | `gpt/losses.py`, `hidden_and_targets` | `real` is `True` everywhere | 7.5 stops: padding counts like text |
# | 7.3 | `model.trf_blocks` in place of `model`, so only the blocks freeze | 7.3 stops: the embeddings still train |
# | 7.7 | call `fine_tune` here, and `peak_bytes()` after it | 7.7: LoRA took 0 MB more |
# | `gpt/cost/fresh_process.py` | leave out `GIVE_BACK` (glibc) | 7.7: peaks 60 to 180 MB higher |
#
# ## Try it
#
#     python chapters/07_lora_writer.py --quick --text README.md           another text: what does it write?
#     python chapters/07_lora_writer.py --model mini --parts 4             as good? how much less memory?
#     python chapters/07_lora_writer.py --model mini --weights random      how much of it did pretraining give?
#     python chapters/07_lora_writer.py --model mini --seed 1              how much of a difference is luck?
