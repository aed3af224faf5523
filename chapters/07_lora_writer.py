"""7  LoRA for text: teach GPT-2 to write text messages, and count the cost

After this chapter you can fine-tune a language model on texts of your own, predict the memory that it takes and measure
it, and give one base model several adapters. You need: chapters 4 and 6.

Run: python chapters/07_lora_writer.py --model mini                  (also with --csv FILE --column NAME or --text FILE)
Time: --quick 31 s; full 4 min 45 s on mini, on 2 CPU cores (AMD EPYC); data there already
Source: Sharma and Watson 2023, "Parameter-efficient fine-tuning of GPT-2 with LoRA" (keras.io); Hu et al. 2021
"""

import sys
import time

import pandas as pd
import torch
from book import figure, load_weights, predict, report, run_folder, section, show, start

from gpt.adapter_file import read_adapter
from gpt.adapters import load_adapter, remove_adapter, save_adapter
from gpt.batches import LABELS, BatchesByLength
from gpt.classify import classify, swap_head, to_device
from gpt.config import GPT2_SIZES
from gpt.download import fetch
from gpt.generate import generate
from gpt.hugging_face import export_hf
from gpt.ledger import format_changes, format_ledger, ledger, ledger_changes
from gpt.less_memory import mixed_precision, step_in_parts
from gpt.lora import count_parameters, merge_lora, replace_linear_with_lora, unmerge_lora
from gpt.lora_plots import plot_cost, plot_learning
from gpt.memory import predict_memory
from gpt.model import GPTModel
from gpt.own_process import in_own_process
from gpt.peft_adapter import export_peft
from gpt.spam import create_balanced_dataset, read_sms, split_without_leaks
from gpt.switch import AdapterSwitch, adapter_bytes
from gpt.tables import read_table
from gpt.tokenizer import END_OF_TEXT, gpt2_tokenizer, text_to_token_ids
from gpt.train import classifier_loss, train, warmup_then_linear
from gpt.writer import TextBatches, fine_tune, parameter_groups, read_documents, real_tokens, text_loss, titled

QUICK, FULL = dict(texts=240, scored=40, looks=3), dict(texts=None, scored=None, looks=8)
TEXT = ("--text", dict(metavar="FILE", help="texts of your own, with empty lines between them, or one a line"))
PARTS = ("--parts", dict(type=int, default=1, help="compute each batch in so many parts"))
args = start(__doc__, QUICK, FULL, "--model", "--weights", TEXT, "--csv", "--column", PARTS)
RANK, ALPHA, TARGETS, BATCH_SIZE = 4, 32, ("W_query", "W_value"), 8    # KerasHub's example, but for its batch of 32
# KerasHub trains both ways at 5e-5. mini's follow validation losses after 120 steps, seed 123: 5e-4 gave all
# weights 5.98, 1e-3 5.91, 2e-3 5.90 (of near equals the lower); 2e-3 gave LoRA 6.61, 5e-3 6.57, 1e-2 6.56, 2e-2 6.59.
RATES = {"mini": {"full": 1e-3, "lora": 1e-2}}.get(args.model, {"full": 5e-5, "lora": 5e-5})
WAYS = {"full": "all weights", "lora": "LoRA"}
tokenizer = gpt2_tokenizer()

# %%
section("7.1  From messages to rows")
# A language model learns from text alone: it needs no label. Each text becomes a row with <|endoftext|> before it, so
# that it can begin from nothing, and behind it, so that the model learns to stop. Padding is <|endoftext|> too: only
# the length tells the one that ends a text from those that fill the row. The texts are the SMS messages, spam and ham
# as they come, near-copies in one split; or yours. A table with the columns title and description, as AG News, needs
# no --column: its rows become "TITLE: ... DESCRIPTION: ...".

if args.csv and args.column is None:
    own = titled(read_table(args.csv, "title", "description"))
elif args.csv:
    own = read_table(args.csv, args.column)[args.column].tolist()
else:
    own = read_documents(args.text) if args.text else None
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

# %%
section("7.2  Query and value: 147,456 numbers")
# Hu et al. put LoRA on query and value alone, and so does KerasHub's example: a matrix of C x C gets r (C + C) numbers.

C, LAYERS, r = 768, 12, 4
with torch.device("meta"):
    small, medium = GPTModel(GPT2_SIZES["gpt2-small (124M)"]), GPTModel(GPT2_SIZES["gpt2-medium (355M)"])
    replace_linear_with_lora(small, r, ALPHA, targets=TARGETS)
predict("trainable, 124M", LAYERS * 2 * r * (C + C), count_parameters(small)[0])
#> trainable, 124M: predicted 147,456, measured 147,456
predict("all, 124M", 124_439_808 + 147_456, count_parameters(small)[1])
#> all, 124M: predicted 124,587,264, measured 124,587,264

# OpenAI's own GPT-2 has query, key and value as one matrix, C x 3C. A LoRA of it has one A for the three: x A is
# computed once, and B's three parts, each (r, C), turn it into three corrections. That costs r (C + 3C), not
# 3 r (C + C): a third is saved. share_a=True does it where the three are apart, as here; it is the same sum.
x, A, B = torch.randn(5, 16), torch.randn(16, 2), torch.randn(2, 48)
apart = torch.cat([x @ A @ part for part in B.chunk(3, dim=1)], dim=1)
predict("one LoRA of C x 3C is three with one A", True, torch.allclose(apart, x @ A @ B, atol=1e-4))
#> one LoRA of C x 3C is three with one A: predicted True, measured True
C, LAYERS, r = 1024, 24, 8
with torch.device("meta"):
    replace_linear_with_lora(medium, r, ALPHA, targets=("W_query", "W_key", "W_value"), share_a=True)
predict("trainable, 355M, one A", LAYERS * r * (C + 3 * C), count_parameters(medium)[0])
#> trainable, 355M, one A: predicted 786,432, measured 786,432
predict("all, 355M", 354_823_168 + 786_432, count_parameters(medium)[1])
#> all, 355M: predicted 355,609,600, measured 355,609,600

# %%
section("7.3  The ledger")
# Surgery on a model goes wrong in silence: a tie is cut, a layer trains that should not. So list its tensors before
# and after. A layer that got a LoRA has another name, all that was there is frozen, and only A's and B's are new.

model, weights = load_weights(args)
before = ledger(model)
print(format_ledger(before))
replace_linear_with_lora(model, RANK, ALPHA, targets=TARGETS, generator=torch.Generator().manual_seed(args.seed))
changes = ledger_changes(before, ledger(model))
print(f"\nLoRA froze {sum('frozen' in change.what for change in changes)} tensors; besides:")
print(format_changes([change for change in changes if change.what != "frozen"]))
model.to(args.device)

# %%
section("7.4  AdamW's groups, and a rate that falls")
# Weight decay pulls numbers towards 0 at each step. Biases and LayerNorm's vectors are left out: 0 is no better a place
# for them than another. For A and B, 0 is the base model; for a weight that trains itself it is away from it. (In a
# full run on mini decay takes 2.4 % of A and B, or 0.2 % of all weights.) The rate rises for 20 steps and falls in a
# straight line. KerasHub's text has it fall too, its code keeps it constant. Gradients that are longer than 1, all
# together, are shortened to 1, as there.

show(parameter_groups)
A_and_B = 2 * 2 * model.config.n_layers
for decay_lora, expected in ((True, [A_and_B, 0]), (False, [0, A_and_B])):
    found = [len(group["params"]) for group in parameter_groups(model, 0.01, decay_lora)]
    predict(f"tensors that decay, and that do not, decay_lora={decay_lora}", expected, found)
#> tensors that decay, and that do not, decay_lora=True: predicted [16, 0], measured [16, 0]
rate = warmup_then_linear(20, 100)
predict("factors of steps 0, 19, 60, 100", [0.05, 1.0, 0.5, 0.0], [rate(step) for step in (0, 19, 60, 100)])
#> factors of steps 0, 19, 60, 100: predicted [0.05, 1.0, 0.5, 0.0], measured [0.05, 1.0, 0.5, 0.0]

# %%
section("7.5  In parts, and in half the bytes")
# A batch that is too large can be computed part by part: the parts' gradients add up (gradient accumulation). The
# trap: the mean over a batch is not the mean of its parts' means. 2 tokens at 4 nats and 8 at 1 nat have a mean of 1.6
# nats a token; the mean of the two means is 2.5, as if the few tokens of the short texts were as many.

predict("2 tokens at 4 nats, 8 at 1", 1.6, (2 * 4.0 + 8 * 1.0) / (2 + 8))
#> 2 tokens at 4 nats, 8 at 1: predicted 1.6, measured 1.6
show(step_in_parts)
trained = [p for p in model.parameters() if p.requires_grad]
for what, lengths in (("equal lengths", [30] * 8), ("short and long", [6] * 4 + [33] * 4)):
    ids = torch.randint(50257, (8, 33), generator=torch.Generator().manual_seed(0))
    batch, gradients = to_device((ids, torch.tensor(lengths)), args.device), []
    for parts, size in ((1, real_tokens), (2, real_tokens), (2, None)):
        step_in_parts(model, batch, text_loss, torch.optim.SGD(trained, lr=0.0), parts=parts, size=size)
        gradients.append(torch.cat([p.grad.flatten() for p in trained]))
    errors = [((gradient - gradients[0]).norm() / gradients[0].norm()).item() for gradient in gradients[1:]]
    print(f"{what}, 2 x 4 rows against 1 x 8: by tokens {errors[0]:.0e} off, by rows {errors[1]:.0e}")
    predict(f"{what}: right by tokens, by rows", [True, lengths[0] == lengths[7]], [error < 1e-3 for error in errors])
#> short and long: right by tokens, by rows: predicted [True, False], measured [True, False]

# On a GPU that multiplies bfloat16 training does (mixed precision). Weights stay float32: small steps would round to 0.
predict("256 + 1 in bfloat16", 256.0, (torch.tensor(256.0, dtype=torch.bfloat16) + 1).item())
#> 256 + 1 in bfloat16: predicted 256, measured 256
show(mixed_precision)

# %%
section("7.6  How much memory, before it is taken")
# The weights are there either way. A number that trains takes 12 bytes besides its own 4: a gradient and two numbers of
# AdamW's. LoRA saves these on nearly all of them. Of the activations it saves less: the gradient has to go back through
# every block to reach the first A, and only what a frozen matrix reads need not be kept for it. The peak has the scores
# of 256 tokens besides, 50,257 each, up to three times. Counted in float32, for the batch with the most tokens:

batches = TextBatches(texts["train"], tokenizer, BATCH_SIZE, GPT2_SIZES[args.model].context_length, args.seed)
B, T = max(((len(ids), ids.shape[1] - 1) for ids, _ in batches), key=lambda shape: shape[0] * shape[1])
B, memory = -(-B // args.parts), {}    # rounded up
for way in WAYS:
    with torch.device("meta"):
        counted = GPTModel(GPT2_SIZES[args.model])
        if way == "lora":
            replace_linear_with_lora(counted, RANK, ALPHA, targets=TARGETS)
    memory[way] = predict_memory(counted, B, T, chunk=256)
print(f"{f'MB, for {B} x {T} tokens':22}" + "".join(f"{name:>13}" for name in memory["full"]._fields))
for way, counted in memory.items():
    print(f"{WAYS[way]:22}" + "".join(f"{part / 1e6:13,.1f}" for part in counted))

# %%
section("7.7  Train, each way in a process of its own")
# A process that has trained once keeps memory and loaded libraries: what comes second would look cheap, or as dear. So
# each way gets a fresh Python, which says what it held at most; what it held before it had a model is taken off. (What
# kernels take for themselves is not in the prediction.) LoRA leaves out the weights' gradients, which is about a third
# of the work: forward, and back through the model, it has to go all the same. And it learns less, on mini far less:
# 89 % of mini's numbers are token embeddings (31 % of 124M's), which it leaves as they are.

folder = run_folder(args)
adapter_file = folder / "writer.safetensors"
settings = dict(model=args.model, base=weights, untrained=args.weights == "random", seed=args.seed, texts=texts,
                rank=RANK, alpha=ALPHA, batch_size=BATCH_SIZE, parts=args.parts, looks=args.looks,
                device=str(args.device))
runs, peaks = {}, {}
for way in WAYS:
    runs[way], peak = in_own_process(fine_tune, method=way, learning_rate=RATES[way], **settings,
                                     adapter_file=str(adapter_file) if way == "lora" else None)
    run, old, new = runs[way], runs[way]["before"]["test"], runs[way]["after"]["test"]
    peaks[way] = None if peak is None else peak - run["start_memory_bytes"]
    print(f"{WAYS[way]}: {run['steps']} steps of {1000 * run['seconds_training'] / run['steps']:.0f} ms; test loss "
          f"{old['loss']:.3f} -> {new['loss']:.3f}, token accuracy {old['accuracy']:.1%} -> {new['accuracy']:.1%}; "
          f"peak {memory[way].peak / 1e6:,.0f} MB predicted, "
          + ("not told by this system" if peak is None else f"{peaks[way] / 1e6:,.0f} MB measured"))
losses = [run["before"]["test"]["loss"] for run in runs.values()]
predict("a fresh LoRA starts from the loss of the base", *losses, 1e-5)
predict("LoRA trained", count_parameters(model)[0], runs["lora"]["trainable_parameters"])
#> LoRA trained: predicted 8,192, measured 8,192
print("published (KerasHub, 124M, 500 steps of 32 x 128 tokens of Reddit posts, float16, one T4; training loss and\n"
      "accuracy): all weights 632 ms, 3.299, 32.7 %; LoRA 505 ms, 3.540, 30.1 %, and about 35 % less memory")

# %%
section("7.8  Merge, then write")
# The merged model computes what the base computes, with other numbers in two matrices a block: the text that it writes
# with A and B beside them, in the base's time. Greedy, so that nothing is drawn, 40 tokens, the fastest of 10 times.

load_adapter(model, adapter_file)
model.eval()
prompt = text_to_token_ids("I", tokenizer)


def write():
    """The ids that greedy writing gives, and the seconds that it takes."""
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        ids = generate(model, prompt, 40)
        seconds.append(time.perf_counter() - started)
    return ids[0].tolist(), min(seconds)


unmerged = ledger(model)
beside, seconds_beside = write()
merge_lora(model)
merged, seconds_merged = write()
predict("merged: the same text, token for token", True, merged == beside)
#> merged: the same text, token for token: predicted True, measured True
unmerge_lora(model)
predict("tensors changed after unmerging", 0, len(ledger_changes(unmerged, ledger(model))))
#> tensors changed after unmerging: predicted 0, measured 0
generator, nothing = torch.Generator(args.device).manual_seed(args.seed), torch.tensor([[END_OF_TEXT]])
drawn = [generate(model, nothing, 30, temperature=0.8, top_p=0.9, generator=generator, stop=END_OF_TEXT)[0].tolist()
         for _ in range(3)]
remove_adapter(model)
plain, seconds_plain = write()
print(f"time, of the base's: {seconds_beside / seconds_plain:.2f} beside, {seconds_merged / seconds_plain:.2f} merged")
for who, ids in (("base", plain), ("LoRA", beside), *(("LoRA, drawn from nothing", ids) for ids in drawn)):
    print(f"{who}: {tokenizer.decode(ids)!r}")

# %%
section("7.9  Two adapters, one base")
# What is off needs the memory of its A's and B's, not that of a second model. A spam filter in 32 steps, as in chapter
# 6, then both on one base, in turn, without a copy. The last two lines carry the writer to Hugging Face's libraries.

balanced = create_balanced_dataset(read_sms(fetch("sms")), args.seed)[::6]    # 249 messages are enough to show it
model.requires_grad_(False)
swap_head(model, len(LABELS))
replace_linear_with_lora(model.trf_blocks, 4, 4, generator=torch.Generator().manual_seed(args.seed))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.0)
train(model.to(args.device), BatchesByLength(balanced, tokenizer, 8, 256, args.seed), classifier_loss, optimizer, 1,
      device=args.device)
filter_file = folder / "filter.safetensors"
save_adapter(model, filter_file, base=weights, labels=list(LABELS))

switch, files = AdapterSwitch(model.eval()), {"writer": adapter_file, "filter": filter_file}
expected = sum(adapter_bytes(model, read_adapter(file)[0]) for file in files.values())
for name, file in files.items():
    switch.add(name, file)
predict("bytes of both, besides the base's", expected, switch.bytes)
#> bytes of both, besides the base's: predicted 181,256, measured 181,256
switch.use("filter")
for label, probability in classify(model, ["Free prize! Call 09061701461", "See you later"], tokenizer, list(LABELS)):
    print(f"the filter: {label} ({probability:.0%})")
switch.use("writer")
predict("the writer writes as before", True, write()[0] == beside)
#> the writer writes as before: predicted True, measured True
export_peft(model, folder / "peft")
export_hf(model, folder / "merged")
for file in ("peft/adapter_model.safetensors", "merged/model.safetensors"):
    print(f"{folder / file}: {(folder / file).stat().st_size / 1e6:.2f} MB")

# %%
section("7.10  Two pictures")
figure(plot_cost({WAYS[way]: runs[way]["seconds_training"] for way in WAYS}, {WAYS[way]: peaks[way] for way in WAYS},
                 {WAYS[way]: memory[way].peak for way in WAYS}, f"{weights}: {run['steps']} steps"), folder, "07_cost")
curves = {WAYS[way]: [{"step": 0} | run["before"]["validation"], *run["history"]] for way, run in runs.items()}
figure(plot_learning(curves, f"{weights}: learning from {len(texts['train']):,} texts"), folder, "07_learning")
report(folder, args, recipe="default", weights=weights, split="leak-free", epochs=1, rank=RANK, alpha=ALPHA,
       batch_size=BATCH_SIZE, parts=args.parts, learning_rates=RATES, largest_batch=[B, T],
       **{f"n_{name}": len(part) for name, part in texts.items()},
       seconds_writing=dict(base=seconds_plain, beside=seconds_beside, merged=seconds_merged),
       **{way: run | dict(seconds_per_step=run["seconds_training"] / run["steps"], peak_memory_bytes=peaks[way],
                          predicted_memory_bytes=memory[way]._asdict()) for way, run in runs.items()})

# %% What you have now: a model that writes text messages, a 35 KB file of it, and the price in time and bytes.
#
# Break it, and see what you should see:
#   gpt/less_memory.py: loss / len(pieces) in place of loss * (n / sum(sizes)) -> 7.5 stops: by tokens is wrong too
#   gpt/writer.py, hidden_and_targets: real is True everywhere                 -> 7.5 stops: padding counts like text
#   7.3: model.trf_blocks in place of model, so only the blocks freeze         -> 7.4 stops: embeddings train as well
#   7.7: call fine_tune here, and peak_bytes() after it                        -> 7.7: LoRA took 0 MB more
#   gpt/own_process.py: leave out GIVE_BACK (glibc)                            -> 7.7: peaks 60 to 180 MB higher
#
# Try it:
#   python chapters/07_lora_writer.py --quick --text README.md           another text: what does it write?
#   python chapters/07_lora_writer.py --model mini --parts 4             as good? how much less memory?
#   python chapters/07_lora_writer.py --model mini --weights random      how much of it did pretraining give?
#   python chapters/07_lora_writer.py --model mini --seed 1              how much of a difference is luck?
