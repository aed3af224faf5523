# %% [markdown]
"""
# 6  LoRA: fine-tune with two per cent of the parameters

After this chapter you can write LoRA by hand, predict how many numbers it trains, fine-tune a spam filter with it,
and carry the result away as one small file. You need: chapters 3 and 5.

- Run: python chapters/06_lora_spam.py
- Time: --quick 5 s; full 8 s on mini; on 124M, estimated from one epoch, 95 s in bfloat16 or 160 s in float32; on 2 CPU
      cores (AMD EPYC), data there already
- Source: Hu et al. 2021, sections 4.1 and 7.2; Raschka 2024, appendix E, for --recipe blog
"""

# %%
import statistics
import sys

import torch
from book import (answer, figure, load_weights, peak_memory, predict, repeat, report, run_folder, section, show,
                  start)
from torch.utils.data import DataLoader

from gpt.adapters import load_adapter, save_adapter
from gpt.batches import LABELS, BatchesByLength, SeededLoader, padding_share
from gpt.checkpoint import Checkpoint
from gpt.classify import calc_accuracy_loader, calc_loss_loader, classifier_loss, classify, predict_logits, swap_head
from gpt.config import GPT2_SIZES
from gpt.cost.precision import hold, loss_scaler
from gpt.download import fetch
from gpt.evaluate.baselines import baseline_table
from gpt.evaluate.metrics import classification_report, format_report, wilson_interval
from gpt.lora import (
    LinearWithLoRA, LoRAFunction, LoRALayer, count_parameters, merge_lora, replace_linear_with_lora, trainable_report,
    unmerge_lora,
)
from gpt.losses import class_loss
from gpt.plots import plot_accuracies, plot_values
from gpt.spam import SpamDataset, create_balanced_dataset, random_split, read_sms, split_without_leaks
from gpt.tokenizer import gpt2_tokenizer
from gpt.train import train, warmup_then_cosine
from gpt.weights import blank

QUICK, FULL = dict(epochs=1), {}
RECIPES = {    # the default's settings had the lowest validation loss on mini, mean of seeds 123, 1 and 2
    "default": dict(epochs=3, learning_rate=5e-4, warmup=20, weight_decay=0.0, scale="alpha/r", init=None),
    "blog": dict(epochs=6, learning_rate=5e-5, warmup=None, weight_decay=0.1, scale="alpha", init="blog"),
}
PUBLISHED = {"train": 1.0, "validation": 0.9664, "test": 0.98}    # Raschka 2024, appendix E, 6 epochs of 124M
args = start(__doc__, QUICK, FULL, "--model", "--weights", "--precision", "--compile", "--recipe", "--epochs",
             "--resume", "--text", "--adapter", "--seeds")
recipe, RANK, ALPHA, BATCH_SIZE, names = RECIPES[args.recipe], 16, 16, 8, list(LABELS)
epochs = args.epochs or recipe["epochs"]
CONTEXT = 256    # tokens that mini can read; of 5,574 messages one has 257, and loses the last
tokenizer = gpt2_tokenizer()

if args.text is not None:    # not a lesson, only an answer
    answer(args, tokenizer)
    sys.exit()
if args.seeds:    # the same once for each seed: how much is luck? (chapter 10)
    condition, method = {"default": ("balanced", "LoRA, r = 16"), "blog": ("blog", "the blog's LoRA")}[args.recipe]
    repeat(args, condition, {method: args.epochs})
    sys.exit()

# %% [markdown]
# ## 6.1 A simple change needs few numbers
#
# Fine-tuning moves a weight matrix W by some dW. Suppose that dW has rank 1: each of its rows is a multiple of one row.
# Then a column times a row says all of it: here 4 + 4 numbers in place of 16. No real dW has a low rank. But of what
# training everything in chapter 5 adds to mini, 16 of 128 directions hold 88 to 97 % of the squares in the attention
# matrices and 68 to 94 % in the feed-forward ones (seeds 123, 1, 2). LoRA, low-rank adaptation, trains thin matrices.

# %%
section("6.1")
A = torch.tensor([[1.0], [2.0], [0.0], [-1.0]])    # (in, r) = (4, 1)
B = torch.tensor([[0.5, 0.0, 1.0, -0.5]])          # (r, out) = (1, 4)
dW = A @ B                                         # (in, out) = (4, 4)
print(dW)
predict("rank of dW", 1, int(torch.linalg.matrix_rank(dW)))
#> rank of dW: predicted 1, measured 1

# %% [markdown]
# dW need not be formed at all: x (A B) and (x A) B are the same, and the second makes x thin first.

# %%
x = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
predict("(x A) B", (x @ dW).tolist(), ((x @ A) @ B).tolist())
#> (x A) B: predicted [[1.0, 0.0, 2.0, -1.0]], measured [[1.0, 0.0, 2.0, -1.0]]

# %% [markdown]
# ## 6.2 The update starts as nothing
#
# The gradient of A is multiplied by B and that of B by A: were both zero, neither would ever move. So A is drawn at
# random and B is zero, and the model starts exactly as good as it was. A B is a sum of r products, so it would
# grow with r. Dividing by r is meant to keep its size, so that one learning rate works for every r: the factor is
# alpha / r. Here alpha = r, a factor of 1; the blog multiplies by alpha, 16.

# %%
section("6.2")
A, B = torch.empty(4, 1).uniform_(-0.5, 0.5), torch.zeros(1, 4)    # 0.5 is 1/sqrt(in)
predict("x A B at the start", [[0.0] * 4], ((x @ A) @ B).abs().tolist())
show(LoRALayer.forward)
show(LinearWithLoRA.by_hand)
linear = torch.nn.Linear(4, 4)
with_lora = LinearWithLoRA(linear, rank=1, alpha=1)
predict("a fresh LoRA changes the answer by", 0.0, (with_lora(x) - linear(x)).abs().max().item())
#> a fresh LoRA changes the answer by: predicted 0, measured 0

# %% [markdown]
# With r = 2, alpha = 6 and B at 1/2 the answer moves by 3 x (A B), whether the correction stands beside W or is merged.

# %%
with_lora = LinearWithLoRA(linear, rank=2, alpha=6)
with torch.no_grad():
    A, B, plain = with_lora.lora.A, with_lora.lora.B.fill_(0.5), linear(x)
    for how in ("beside", "merged"):
        if how == "merged":
            with_lora.merge()
        moved = with_lora(x) - plain
        predict(f"{how}: the answer moves by 3 x (A B)", True, torch.allclose(moved, 3 * (x @ A) @ B, atol=1e-6))
#> merged: the answer moves by 3 x (A B): predicted True, measured True

# %% [markdown]
# What runs is LoRAFunction: the same sum, with a backward pass written by us in place of autograd's. Its forward adds
# the correction into the linear layer's own output (by_hand makes three tensors of that size) and keeps in ctx what
# backward needs. backward gets g, the gradient of the loss with respect to the output, and returns one gradient for
# each argument of forward. dx is the gradient for x. Of dA and dB we print how far they are from by_hand's.
#     dx = g W + scale (g B^T) A^T        dA = scale x^T (g B^T)        dB = scale (x A)^T g

# %%
show(LoRAFunction.backward)
with_lora.unmerge()
gradients = []
for form in (with_lora.by_hand, with_lora):
    with_lora.zero_grad()
    form(x).square().sum().backward()
    gradients.append([A.grad.clone(), B.grad.clone()])
print("dA and dB differ by", max((one - other).abs().max().item() for one, other in zip(*gradients)), "at the most")

# %% [markdown]
# ## 6.3 How many numbers is that?
#
# A layer with `in` inputs and `out` outputs gets r (in + out) numbers. Counted on the shapes of the full-size model
# ("meta" tensors have a shape and no numbers), first as the blog does it: LoRA on every linear layer, head included.

# %%
section("6.3")
C, LAYERS = 768, 12
block = 4 * RANK * (C + C) + 2 * RANK * (C + 4 * C)    # query, key, value, out_proj; two feed-forward layers: 18 r C
full_size = blank(GPT2_SIZES["gpt2-small (124M)"])
swap_head(full_size, 2)
predict("124M with a head for 2 classes", 124_439_808 + 2 * (C + 1), count_parameters(full_size)[0])
#> 124M with a head for 2 classes: predicted 124,441,346, measured 124,441,346
full_size.requires_grad_(False)
predict("trainable when all is frozen", 0, count_parameters(full_size)[0])
#> trainable when all is frozen: predicted 0, measured 0
replace_linear_with_lora(full_size, RANK, ALPHA)
predict("the blog's LoRA", LAYERS * block + RANK * (C + 2), count_parameters(full_size)[0])
#> the blog's LoRA: predicted 2,666,528, measured 2,666,528
print(trainable_report(full_size))
#> trainable params: 2,666,528 || all params: 127,107,874 || trainable%: 2.0978
print(f"ours: LoRA on the blocks alone, and the head, which is new anyway, trained plainly: "
      f"{LAYERS * block + 2 * (C + 1):,}")
#> ours: LoRA on the blocks alone, and the head, which is new anyway, trained plainly: 2,655,746

# %% [markdown]
# ## 6.4 The messages
#
# Our way reads every line of the file, balances as in 5.3, keeps near-copies of a message in one split, and pads a
# batch to its longest message. The blog's way loses two messages to quotation marks, tests on copies of training
# messages, and pads all to 120.

# %%
section("6.4")
if args.recipe == "blog":
    table = create_balanced_dataset(read_sms(fetch("sms"), blog=True), random_state=args.seed)
    splits = random_split(table, 0.7, 0.1, random_state=args.seed)    # the published one has the seed 123, as here
    train_set = SpamDataset(splits[0], tokenizer)
    pad_to, train_loader = train_set.max_length, SeededLoader(train_set, BATCH_SIZE, args.seed)
    asked = splits
    loaders = [DataLoader(SpamDataset(split, tokenizer, pad_to), BATCH_SIZE) for split in asked]
else:
    messages = create_balanced_dataset(read_sms(fetch("sms")), random_state=args.seed)
    splits = split_without_leaks(messages, 0.7, 0.1, seed=args.seed)
    pad_to, train_loader = None, BatchesByLength(splits[0], tokenizer, BATCH_SIZE, CONTEXT, seed=args.seed)
    asked = splits[0][:len(splits[1])], *splits[1:]    # 149 messages for the training accuracy: all would take long
    loaders = [BatchesByLength(split, tokenizer, None, CONTEXT) for split in asked]    # None: larger batches
print(f"{len(splits[0]):,} messages to train on, {len(splits[1])} to choose settings, {len(splits[2])} to test; "
      f"{padding_share(train_loader):.1%} of the training tokens are padding")
#> 1,045 messages to train on, 149 to choose settings, 300 to test; 4.4% of the training tokens are padding

# %% [markdown]
# ## 6.5 Train
#
# The new head starts at zero, like B: it gives every class the same score, so the first loss is ln 2. In the first step
# only the head moves, because the gradient of every layer before it is multiplied by its weights, which are 0. B moves
# in the second step, because the head is no longer 0, and A in the third, because B is no longer 0.

# %%
section("6.5")
model, weights = load_weights(args)
model.requires_grad_(False)
torch.manual_seed(args.seed)    # the blog's head starts at random
swap_head(model, len(names), zero=args.recipe == "default")
replace_linear_with_lora(model if args.recipe == "blog" else model.trf_blocks, RANK, ALPHA, scale=recipe["scale"],
                         init=recipe["init"], generator=torch.Generator().manual_seed(args.seed))
model.to(args.device)
# On a machine that multiplies bfloat16 faster than float32, a model larger than mini has its frozen weights held in
# that type, in half the bytes. It keeps only 8 binary digits. A frozen weight never changes, so it is rounded once. A,
# B and the head are changed by many small steps, which bfloat16 would lose, so they stay in float32:
predict("0.03 + 0.00005 in bfloat16", 0.03, round((torch.tensor(0.03, dtype=torch.bfloat16) + 0.00005).item(), 4))
hold(model, args.dtype)
if args.compile:
    for block in model.trf_blocks:
        block.compile(dynamic=True)    # batches differ in length
C, LAYERS = model.config.emb_dim, model.config.n_layers
head = RANK * (C + 2) if args.recipe == "blog" else 2 * (C + 1)
predict(f"trainable, {weights}", LAYERS * 18 * RANK * C + head, count_parameters(model)[0])
#> trainable, mini: predicted 147,714, measured 147,714
print(trainable_report(model))
#> trainable params: 147,714 || all params: 7,406,722 || trainable%: 1.9943
eight = [tuple(part[:8] for part in next(iter(loaders[1])))]    # with a head at zero all messages have one loss
first = calc_loss_loader(eight if args.recipe == "default" else loaders[1], model, args.device)
if args.recipe == "default":
    predict("first loss, nats a message (ln 2)", 0.6931, first, 0.001)

optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=recipe["learning_rate"],
                              weight_decay=recipe["weight_decay"], fused=True)
schedule = warmup_then_cosine(recipe["warmup"], epochs * len(train_loader)) if recipe["warmup"] else None


def look(progress):
    """Twice an epoch: the mean loss of the training steps since the last look, and that of all validation messages."""
    if progress.batch in (len(train_loader) // 2, len(train_loader)):
        right, logits = predict_logits(model, loaders[1], args.device)
        since = progress.history[-1]["read"] if progress.history else 0
        losses = [statistics.mean(progress.losses[since:]), class_loss(logits, right).item()]
        accuracy = (logits.argmax(dim=1) == right).float().mean().item()
        progress.history.append({"step": progress.step, "seen": progress.seen, "read": len(progress.losses),
                                 "losses": losses, "accuracy": accuracy})
        if progress.batch == len(train_loader):
            print(f"epoch {progress.epoch + 1}: validation accuracy {accuracy:.2%}")


folder = run_folder(args)
identity = dict(recipe=args.recipe, weights=weights, seed=args.seed, epochs=epochs, rank=RANK, alpha=ALPHA,
                precision=args.precision)
scaler = loss_scaler(args.dtype, args.device)    # None, but for float16
checkpoint = Checkpoint(folder / "checkpoint.pt", model, optimizer, identity, scaler=scaler, resume=args.resume)
progress = train(model, train_loader, classifier_loss, optimizer, epochs, device=args.device, schedule=schedule,
                 scaler=scaler, after_step=look, checkpoint=checkpoint)
model.eval()
print(f"{progress.step} steps in {progress.seconds:.0f} s")

# %% [markdown]
# ## 6.6 Is it any good?
#
# Intervals and measures as in 5.10. By default the training accuracy is measured on 149 of the 1,045 messages, which is
# enough to see whether they are known by heart. (figures/results/RESULTS.md has chapter 5's three ways on the same 300
# messages.)

# %%
section("6.6")
baselines = baseline_table(*splits)
labels, logits = predict_logits(model, loaders[2], args.device)
test_report = classification_report(labels, logits.softmax(dim=-1), names)
accuracies = {"train": calc_accuracy_loader(loaders[0], model, args.device),
              "validation": progress.history[-1]["accuracy"], "test": test_report["accuracy"]}
ours = f"GPT-2 {weights}, LoRA"
rows = {}
for row in [*baselines, {"name": ours, **accuracies}]:
    low, high = wilson_interval(round(row["test"] * len(labels)), len(labels))
    print(f"{row['name']:30} train {row['train']:7.2%}   validation {row['validation']:7.2%}   "
          f"test {row['test']:7.2%} ({low:.1%} to {high:.1%})")
    rows[row["name"]] = (row["test"], low, high)
if args.recipe == "blog":
    print(f"{'published, 124M':30} train {PUBLISHED['train']:7.2%}   validation {PUBLISHED['validation']:7.2%}   "
          f"test {PUBLISHED['test']:7.2%}")
print(format_report(test_report))

# %% [markdown]
# ## 6.7 Merge: the correction disappears into the weight
#
# (alpha / r) (A B)^T has the shape of W, so it can be added to W, and then the layer takes no more time than a plain
# one. The sum is rounded to W's type. In bfloat16 that loses the small parts of the correction, so answers may differ
# by some per cent: the tolerance is 0.06 there, 0.001 in float32. Unmerging puts the old W back instead of subtracting,
# so no rounding stays. Eight messages are enough to see it.

# %%
section("6.7")
few = [tuple(part[:8] for part in next(iter(loaders[2])))]
_, beside = predict_logits(model, few, args.device)
before = {name: p.detach().clone() for name, p in model.named_parameters()}
merge_lora(model)
_, merged = predict_logits(model, few, args.device)
tolerance = max(1e-3, 8 * torch.finfo(args.dtype).eps)
predict(f"merged answers equal to {tolerance:.2g}", True, torch.allclose(merged, beside, tolerance, tolerance))
unmerge_lora(model)
predict("tensors changed after unmerging", 0, sum(not torch.equal(p, before[n]) for n, p in model.named_parameters()))
#> tensors changed after unmerging: predicted 0, measured 0

# %% [markdown]
# ## 6.8 Carry it away
#
# An adapter is a file with A and B of each layer, the new head, the names of the labels and that of the base model: 0.6
# MB on mini, whose own file has 14. Without that base it is worth nothing.

# %%
section("6.8")
adapter_file = folder / "adapter.safetensors"
save_adapter(model, adapter_file, base=weights, labels=names, pad_to=pad_to)
print(f"{adapter_file}: {adapter_file.stat().st_size / 1e6:.1f} MB")
load_adapter(model, adapter_file)    # takes the old one off first
_, reloaded = predict_logits(model, few, args.device)
predict("the reloaded adapter changes an answer by", 0.0, (reloaded - beside).abs().max().item())
#> the reloaded adapter changes an answer by: predicted 0, measured 0
texts = ["Congratulations! You have won a 2000 pound prize. Call 09061701461 now to claim.",
         "Are we still on for dinner tonight? I can bring the wine."]
for text, (label, probability) in zip(texts, classify(model, texts, tokenizer, names, pad_to)):
    print(f"{label} ({probability:.1%}): {text}")

# %% [markdown]
# ## 6.9 Two pictures
#

# %%
section("6.9")
looks = [{"step": 0, "seen": 0, "losses": (first, first)}, *progress.history]
figure(plot_values([note["step"] / len(train_loader) for note in looks], [note["seen"] for note in looks],
                   *zip(*(note["losses"] for note in looks))), folder, "06_losses")
figure(plot_accuracies([(name, *row) for name, row in rows.items()],
                       f"What LoRA has to beat, on {len(labels)} test messages"), folder, "06_accuracy")
trainable, total = count_parameters(model)
report(folder, args, recipe=args.recipe, weights=weights, split="blog" if args.recipe == "blog" else "leak-free",
       n_train=len(splits[0]), n_validation=len(splits[1]), n_test=len(splits[2]), trainable_parameters=trainable,
       total_parameters=total, epochs=epochs, train_accuracy_of=len(asked[0]), seconds_training=progress.seconds,
       seconds_evaluating=progress.seconds_evaluating, peak_memory_bytes=peak_memory(args.device),
       **{f"{split}_accuracy": accuracy for split, accuracy in accuracies.items()}, test=test_report,
       baselines=baselines, settings=recipe | dict(rank=RANK, alpha=ALPHA, batch_size=BATCH_SIZE))

# %% [markdown]
# ## What you have now
#
# A spam filter, its accuracy with an interval, and a file that carries it elsewhere.
#
# ## Break it
#
# Change one thing, run the chapter, and see whether you expected what happens:
#
# - gpt/lora.py: draw B by normal_() in place of zeros → 6.2 stops: a fresh LoRA changes the answer
# - 6.5: requires_grad_(False) after replace_linear_with_lora → 6.5 stops: 0 parameters are trainable
# - gpt/lora.py, unmerge: subtract the update from the weight → 6.7 counts tensors that changed
# - gpt/classify.py, class_logits: last = ids.shape[1] - 1 for every row → answers depend on a message's neighbours
# - gpt/train.py, rest_of_epoch: leave out set_epoch → every epoch has the same order
#
# ## Try it
#
#     python chapters/06_lora_spam.py --model mini --weights random    what did pretraining give?
#     python chapters/06_lora_spam.py --model mini --recipe blog       what do the blog's choices cost?
#     python chapters/06_lora_spam.py --model mini --seeds 5           how much of a difference is luck?
#     python chapters/06_lora_spam.py --text "Free entry! Text WIN to 80082"
