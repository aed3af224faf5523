# %% [markdown]
"""
# 9  Your own data: a classifier from a CSV, and labels for a file of texts

After this chapter you can make a classifier for any number of classes out of a table of your own, say whether it is
worth having, and label a whole file with it. You need: chapters 5 and 6.

- Run: `python chapters/09_your_own_data.py`, or
  `python chapters/09_your_own_data.py --csv FILE --text-column NAME --label-column NAME`, or
  `python chapters/09_your_own_data.py --predict FILE --adapter FILE --out FILE`
- Time: --quick 14 s; full 25 s on mini, on 2 CPU cores (AMD EPYC); data there already
- Source: Hu et al. 2021 (LoRA); King and Zeng 2001, section 4 (weights); Saerens et al. 2002 (undoing them); McNemar
  1947
"""

# %%
import hashlib
import math
import re
import sys
from pathlib import Path

import pandas as pd
import torch
from book import answer, figure, load_weights, peak_memory, predict, report, run_folder, section, show, start

from gpt.adapters import save_adapter
from gpt.applications.own_data import NEW_COLUMNS, labelled_table, load_classifier, predict_file, read_table
from gpt.batches import BatchesByLength, padding_share
from gpt.checkpoint import Checkpoint
from gpt.classify import calc_accuracy_loader, calc_loss_loader, class_logits, predict_logits, swap_head
from gpt.cost.precision import choose_precision, hold, loss_scaler
from gpt.download import fetch
from gpt.evaluate.baselines import LengthRule, Majority, NaiveBayes
from gpt.evaluate.metrics import classification_report, format_report, wilson_interval
from gpt.evaluate.significance import mcnemar
from gpt.lora import count_parameters, replace_linear_with_lora
from gpt.losses import class_loss, class_weights
from gpt.plots import plot_accuracies
from gpt.spam import normalised, random_split, read_sms, split_without_leaks
from gpt.storage.files import naming_file, written_whole
from gpt.tokenizer import gpt2_tokenizer
from gpt.train import train, warmup_then_cosine

QUICK, FULL = dict(epochs=1), dict(epochs=3)
RANK, ALPHA, BATCH_SIZE, RATE, WARMUP = 16, 16, 8, 5e-4, 20    # the default recipe of chapter 6
args = start(__doc__, QUICK, FULL, "--model", "--weights", "--precision", "--epochs", "--resume", "--csv",
             "--text-column", "--label-column", "--leave-out-empty", "--predict", "--text", "--adapter", "--out")
tokenizer = gpt2_tokenizer()

if args.text is not None:    # not a lesson, only an answer
    answer(args, tokenizer)
    sys.exit()
if args.predict is not None:    # nor is this: a file of labels
    if args.adapter is None or args.out is None:
        sys.exit("--predict FILE needs --adapter FILE, which a run without --predict makes, and --out FILE")
    model, adapter = load_classifier(args.adapter)
    hold(model.to(args.device), choose_precision(args.precision, args.device, adapter.base)[0])
    counts = predict_file(model, args.predict, args.out, args.text_column, tokenizer, adapter.labels, adapter.pad_to)
    print(f"{args.out}: {counts.rows:,} rows, {counts.empty:,} of them without a text and so without a label, "
          f"{counts.cut:,} too long to be read to the end")
    sys.exit()
if args.csv is not None:
    if args.text_column is None or args.label_column is None:
        sys.exit("--csv FILE needs --text-column NAME and --label-column NAME")
    place = hashlib.sha256(str(Path(args.csv).resolve()).encode()).hexdigest()
    args.recipe = f"{Path(args.csv).stem}-{place[:6]}"    # names the run's folder: two tables may have one name

# %% [markdown]
# ## 9.1 A cell is text, until a library guesses
#
# pandas guesses what a cell means: `007` becomes the number 7, and whoever answered "NA" has not answered. For texts
# and labels both are damage. `read_table` guesses only what stands between the cells: a comma, a semicolon, a tab or a
# vertical bar. Where a column is missing or a cell is empty it stops and says where. (`--leave-out-empty` skips rows
# with an empty cell.)

# %%
section("9.1")
folder = run_folder(args)
with written_whole(folder / "typed.csv") as temporary:
    temporary.write_text("text,label\nNA,007\nnull,7\n", encoding="utf-8")
guessed, typed = pd.read_csv(folder / "typed.csv"), read_table(folder / "typed.csv", "text", "label")
predict("pandas: missing texts, labels", [2, [7, 7]], [int(guessed["text"].isna().sum()), guessed["label"].tolist()])
#> pandas: missing texts, labels: predicted [2, [7, 7]], measured [2, [7, 7]]
predict("read_table", [["NA", "007"], ["null", "7"]], typed.to_numpy().tolist())
#> read_table: predicted [['NA', '007'], ['null', '7']], measured [['NA', '007'], ['null', '7']]

# %% [markdown]
# ## 9.2 Labels become numbers
#
# Labels are sorted, whatever the order of the rows. A table with one class only stops here, and so does one with a
# class of two rows, which cannot be in training, validation and test. Where you give no table, the messages of chapter
# 5 become one of three classes: ham, spam with a phone number in it and spam without. A phone number is what this
# pattern finds: five digits or more, with or without a space or a hyphen between them.

# %%
section("9.2")
if args.csv is None:
    sms, number = read_sms(fetch("sms")), re.compile(r"(?:\d[ -]?){5,}")
    kinds = [label if label == "ham" else "spam with number" if number.search(text) else "spam without"
             for label, text in zip(sms["Label"], sms["Text"])]
    with written_whole(folder / "example.csv") as temporary:
        sms.assign(Label=kinds).to_csv(temporary, index=False, encoding="utf-8", lineterminator="\r\n")
    args.csv, args.text_column, args.label_column = folder / "example.csv", "Text", "Label"
table, names = labelled_table(args.csv, args.text_column, args.label_column, args.leave_out_empty)
K, counts = len(names), table["Label"].value_counts()
print(f"{len(table):,} rows, {K} classes: " + "; ".join(f"{k} {names[k]} ({counts[k]:,})" for k in range(K)))
#> 5,574 rows, 3 classes: 0 ham (4,827); 1 spam with number (607); 2 spam without (140)

# %% [markdown]
# **Your turn.** `labelled_table` leaves the numbering to `number_classes`, which also refuses labels that cannot become
# classes. `python tests/exercises.py start E9.1` takes out its body; `python -m pytest --exercise E9.1` checks yours.

# %% [markdown]
# ## 9.3 Split it without leaks, and count what is left to test
#
# A leak makes a test too kind, and not to all classes alike: whoever sends many messages sends copies. In a random cut
# of this table, how many test messages of each class have a near-copy among those that are trained on?

# %%
section("9.3")
cut = random_split(table, 0.7, 0.1, args.seed)
seen = set(map(normalised, cut[0]["Text"]))
for k, name in enumerate(names):
    own = [normalised(text) in seen for text in cut[2]["Text"][cut[2]["Label"] == k]]
    print(f"{name}: {sum(own)} of the {len(own)} test messages of a random cut")
#> spam with number: 39 of the 117 test messages of a random cut
splits = split_without_leaks(table, 0.7, 0.1, args.seed)
for split, what in zip(splits, ("to train on", "to choose settings", "to test")):
    print(f"{len(split):,} {what}: {', '.join(str((split['Label'] == k).sum()) for k in range(K))} of each class")
#> 1,116 to test: 967, 121, 28 of each class
if not all(map(len, splits)):
    sys.exit(f"{args.csv}: {len(table)} rows are too few to be cut in three: {[len(split) for split in splits]}")
letters = [set(map(normalised, split["Text"])) for split in splits]
predict("texts that two splits share", 0, sum(map(len, letters)) - len(set.union(*letters)))

# %% [markdown]
# How many rows does one need? A fifth of a class is there to test it. If 9 of 10 are found, then the true share may be:

# %%
for n in (10, 30, 100, 1000):
    low, high = wilson_interval(round(0.9 * n), n)
    print(f"{5 * n:5,} rows of a class, {n:5,} to test it: {low:.0%} to {high:.0%} of the class are found")
#>   500 rows of a class,   100 to test it: 83% to 94% of the class are found

# %% [markdown]
# ## 9.4 Unequal classes
#
# Whoever always answers "ham" is right on 87 % of this table and finds no spam. So let every class count alike in the
# loss: a message of class k counts $w_k = n / (K n_k)$ times. Of 90 messages and 10:

# %%
section("9.4")
weights = class_weights(torch.tensor([0] * 90 + [1] * 10), 2)                         # (K,)
predict("weights", [round(100 / (2 * 90), 4), 100 / (2 * 10)], [round(w, 4) for w in weights.tolist()])

# %% [markdown]
# The weights have a price: a text that could be either gets 1/2 and 1/2, where 0.9 and 0.1 are true. Dividing each
# probability by its weight, and all by their sum, brings the true ones back. (As scores: take $\ln w_k$ off score k.)

# %%
even = torch.tensor([0.5, 0.5]) / weights
predict("weights divided out", [0.9, 0.1], [round(p, 4) for p in (even / even.sum()).tolist()])
#> weights divided out: predicted [0.9, 0.1], measured [0.9, 0.1]
show(class_loss)
with naming_file(args.csv):
    weights = class_weights(torch.tensor(splits[0]["Label"].to_numpy()), K).to(args.device)    # (K,)
print("weights: " + "; ".join(f"{name} {weight:.2f}" for name, weight in zip(names, weights.tolist())))
#> weights: ham 0.38; spam with number 3.06; spam without 13.27

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E9.2` takes out the body of `class_weights`, and
# `python tests/exercises.py start E9.3` that of `class_loss`; `python -m pytest --exercise E9.2` and `--exercise E9.3`
# check yours.

# %% [markdown]
# ## 9.5 K classes: one row of the head each, and a first loss of ln K
#
# Nothing else changes with K. A head that starts at zero gives each class 1/K, a loss of ln K.

# %%
section("9.5")
model, base = load_weights(args)
model.requires_grad_(False)
swap_head(model, K)
replace_linear_with_lora(model.trf_blocks, RANK, ALPHA, generator=torch.Generator().manual_seed(args.seed))
hold(model.to(args.device), args.dtype)
C, context = model.config.emb_dim, model.config.context_length
predict(f"trainable, {base}", model.config.n_layers * 18 * RANK * C + K * (C + 1), count_parameters(model)[0])
#> trainable, mini: predicted 147,843, measured 147,843
train_loader = BatchesByLength(splits[0], tokenizer, BATCH_SIZE, context, args.seed)
loaders = [BatchesByLength(split, tokenizer, None, context) for split in splits]    # None: larger batches, to read
print(f"{sum(loader.cut for loader in loaders):,} of {len(table):,} texts have more than the {context:,} tokens that "
      f"the model reads, and lose the rest; {padding_share(train_loader):.1%} of the training tokens are padding")
predict(f"first loss, nats per message (ln {K})", math.log(K), calc_loss_loader(loaders[1], model, args.device), 1e-4)

# %% [markdown]
# Why `class_loss` divides by B: torch's weighted mean divides by the weights that are in the batch, and in a batch of
# one class they cancel. How often is that?

# %%
alone = sum(len(set(train_loader.labels[rows].tolist())) == 1 for rows in train_loader.rows)
print(f"{alone} of {len(train_loader)} batches of the first epoch hold one class only")
#> 308 of 488 batches of the first epoch hold one class only

# %% [markdown]
# ## 9.6 Train
#
# With the settings of chapter 6, which took 393 steps: a small table makes fewer, and wants more `--epochs`. `--resume`
# goes on only where the table is the same: its checksum is compared.

# %%
section("9.6")
steps = args.epochs * len(train_loader)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], RATE, weight_decay=0.0, fused=True)
identity = dict(weights=base, seed=args.seed, epochs=args.epochs, rank=RANK, alpha=ALPHA, names=names,
                precision=args.precision, table=hashlib.sha256(table.to_csv().encode()).hexdigest())
scaler = loss_scaler(args.dtype, args.device)
checkpoint = Checkpoint(folder / "checkpoint.pt", model, optimizer, identity, scaler=scaler, resume=args.resume)
progress = train(
    model, train_loader, lambda model, batch: class_loss(class_logits(model, *batch[:-1]), batch[-1], weights),
    optimizer, args.epochs, device=args.device, scaler=scaler,
    schedule=warmup_then_cosine(min(WARMUP, steps // 5), steps),
    after_epoch=lambda progress: print(f"epoch {progress.epoch}: validation mean recall " "{mean_recall:.2%}".format(
        **classification_report(*predict_logits(model, loaders[1], args.device), names))), checkpoint=checkpoint)
model.eval()
save_adapter(model, folder / "adapter.safetensors", base=base, labels=names)
print(f"{progress.step:,} steps in {progress.seconds:.0f} s; saved: {folder / 'adapter.safetensors'}")

# %% [markdown]
# ## 9.7 Is it any good?
#
# Where classes are unequal, accuracy says little. Beside it stands the mean recall: what share of a class is found,
# averaged over the classes that the test has. Naive Bayes has a remedy of its own: without log P(k) all classes are
# equally probable before the first word. Where GPT-2 is beaten, or level, in what you need, take naive Bayes.

# %%
section("9.7")
labels, logits = predict_logits(model, loaders[2], args.device)                       # (N,), (N, K)
order = [row for batch in loaders[2].rows for row in batch]    # the loader sorts by length
right, test = labels.tolist(), splits[2].iloc[order]
undone = (logits - weights.cpu().log()).softmax(dim=-1)    # as in 9.4: each probability over its weight, and sum 1
ours, divided, bayes, rows = f"GPT-2 {base}, LoRA", f"GPT-2 {base}, LoRA, weights divided out", NaiveBayes(), {}
answers = {name: method.fit(splits[0]["Text"].tolist(), splits[0]["Label"].tolist()).predict(test["Text"])
           for name, method in (("majority", Majority()), ("length", LengthRule()), ("naive Bayes", bayes))}
counted = torch.tensor(bayes.predict_proba(test["Text"]), dtype=torch.double)         # (N, K)
bayes.log_prior = [0.0] * K
answers |= {"naive Bayes, classes even": bayes.predict(test["Text"]), ours: logits.argmax(dim=1).tolist(),
            divided: undone.argmax(dim=1).tolist()}
for name, answer in answers.items():
    result = classification_report(labels, torch.eye(K)[answer], names)    # 1 for the answer, 0 for the others
    (low, high), recall = result["interval"], result["mean_recall"]
    rows[name] = dict(accuracy=result["accuracy"], low=low, high=high, recall=recall)
    print(f"{name:38} accuracy {result['accuracy']:7.2%} ({low:.1%} to {high:.1%})   mean recall {recall:7.2%}")
predict("majority: mean recall", (answers["majority"][0] in right) / len(set(right)), rows["majority"]["recall"], 1e-9)

# %% [markdown]
# The intervals do not know that all answer the same messages, and may overlap where one is clearly better. So count the
# messages on which one alone is right. p: how often coins fall so unevenly, or more. (Mean recall is left untested.)

# %%
for name in (ours, divided):
    pairs = [(a == y, b == y) for a, b, y in zip(answers[name], answers["naive Bayes"], right)]
    p = mcnemar(first := pairs.count((True, False)), second := pairs.count((False, True)))
    verdict = "no clear difference" if p >= 0.05 else "clearly higher" if first > second else "clearly lower"
    print(f"{name}: right alone {first} times, naive Bayes {second} times, p = {p:.2g}: accuracy {verdict}; "
          f"mean recall {100 * (rows[name]['recall'] - rows['naive Bayes']['recall']):+.1f} points")

# %% [markdown]
# ## 9.8 What is taken for what
#
# A line for each class. On the right, what its messages were taken for, the confusion matrix: on the diagonal what is
# right, beside it the mistakes; look at the largest first, and read those messages. A class that the test does not have
# gets a dash: 0 of 0 is unknown. Recall has a price: whoever names a class more often finds more of it and is wrong
# more often, which is its precision. ROC AUC has none: it asks only whether the class's messages come before others.

# %%
section("9.8")
probable = logits.softmax(dim=-1)                                                     # (N, K)
of_test, of_bayes = classification_report(labels, probable, names), classification_report(labels, counted, names)
print(f"{format_report(of_test)}\nnaive Bayes: {format_report(of_bayes)}")
i, j = divmod(torch.tensor(of_test["confusion"]).fill_diagonal_(-1).argmax().item(), K)
mistakes = [text for text, a, y in zip(test["Text"], answers[ours], right) if (y, a) == (i, j)]
print(f"the most frequent mistake: {names[i]} taken for {names[j]}, {len(mistakes)} times")
print(*(f"  {text[:100]!r}" for text in mistakes[::len(mistakes) // 3 or 1][:3]), sep="\n")    # short, middling, long
bars = []    # of many classes the four rarest
for k in sorted(set(right), key=right.count)[:4]:
    for name, result in (("GPT-2", of_test), ("naive Bayes", of_bayes)):
        n, found, said = right.count(k), result["confusion"][k][k], sum(row[k] for row in result["confusion"])
        bars.append((f"{name}: {names[k][:24]} ({n})\n{said - found} others called so", found / n,
                     *wilson_interval(found, n)))
print("found: " + "; ".join(f"{share:.0%} by {name}" for name, share, *_ in bars[:2]).replace("\n", ", "))
figure(plot_accuracies(bars, "What is found, and at what price", "recall", by_value=False), folder, "09_recall")

# %% [markdown]
# Where a probability means what it says, a class gets as much of it, on average, as it has of the messages. With the
# weights the rare ones get more. Divided out, that should go, and the loss, which rewards true probabilities, fall. For
# "spam without" it overshoots: with 98 messages to learn from and 28 to test, so small a class stays uncertain.

# %%
for k, (more, plain) in enumerate(zip(probable.mean(dim=0), undone.mean(dim=0))):
    print(f"{names[k]}: {right.count(k) / len(right):.1%} of the messages, {more:.1%} of the probability, "
          f"{plain:.1%} with the weights divided out")
print(f"loss: {class_loss(logits, labels):.3f}; {class_loss(undone.log(), labels):.3f} with the weights divided out")

# %% [markdown]
# ## 9.9 Carry it away, and label a file
#
# The adapter's file, saved in 9.6, has the names of the classes in it. `predict_file` sorts the texts of a table by
# length, so that little padding is computed, and writes the rows in their old order. Here: the texts of the test.

# %%
section("9.9")
with written_whole(folder / "to_label.csv") as temporary:
    splits[2][["Text"]].to_csv(temporary, index=False, encoding="utf-8", lineterminator="\r\n")
counts = predict_file(model, folder / "to_label.csv", folder / "labelled.csv", "Text", tokenizer, names)
print(f"{folder / 'adapter.safetensors'} labelled {counts.rows:,} rows")
labelled, truth = read_table(folder / "labelled.csv", "Text", *NEW_COLUMNS), [names[k] for k in splits[2]["Label"]]
predict("texts in their order", True, labelled["Text"].tolist() == splits[2]["Text"].tolist())
#> texts in their order: predicted True, measured True
agrees = int((labelled["predicted_label"] == truth).sum())
predict("right labels, as many as in 9.8", round(of_test["accuracy"] * len(right)), agrees, 0.01)
print(labelled.assign(Text=labelled["Text"].str[:40], truth=truth)[::max(1, len(truth) // 3)].to_string(index=False))
report(folder, args, recipe="default", weights=base, split="leak-free", classes=names, n_train=len(splits[0]),
       n_validation=len(splits[1]), n_test=len(splits[2]), trainable_parameters=count_parameters(model)[0],
       total_parameters=count_parameters(model)[1], epochs=args.epochs, seconds_training=progress.seconds,
       seconds_evaluating=progress.seconds_evaluating, peak_memory_bytes=peak_memory(args.device), test=of_test,
       results=rows, **{f"{split}_accuracy": calc_accuracy_loader(loader, model, args.device)
                        for split, loader in zip(("train", "validation", "test"), loaders)},
       settings=dict(rank=RANK, alpha=ALPHA, batch_size=BATCH_SIZE, learning_rate=RATE, warmup=WARMUP))

# %% [markdown]
# The adapter's file finds rare classes. Another, with ln w off the bias of its head (9.4), has probabilities to go by:
# what the model is sure of is taken as it is, and a person reads the rest. You choose one of them for `--adapter`.

# %%
with torch.no_grad():
    model.out_head.bias -= weights.log()
save_adapter(model, folder / "adapter_divided_out.safetensors", base=base, labels=names)
predict("loss of 9.8", class_loss(undone.log(), labels).item(), calc_loss_loader(loaders[2], model, args.device), 1e-3)
for name, (sure, best) in (("adapter", probable.max(dim=1)), ("adapter_divided_out", undone.max(dim=1))):
    counts = [(least, (sure >= least).sum(), (best == labels)[sure >= least].sum()) for least in (0.0, 0.9, 0.99)]
    print(f"{name}: " + "; ".join(f"{least:.2f} or more: {n:,} rows, {good:,} right" for least, n, good in counts))

# %% [markdown]
# **Your turn.** A file's texts are read in batches that `batches_of_tokens` cuts: never too many tokens at once,
# padding included. `python tests/exercises.py start E9.4` takes out its body; `python -m pytest --exercise E9.4` checks
# yours.

# %% [markdown]
# ## What you have now
#
# A classifier of your own, what it is worth beside counting words, and a way to use it on a file.
#
# ## Break it
#
# Change one thing, run the chapter with `--quick`, and see whether you expected what happens:
#
# | where | change | what you should see |
# |---|---|---|
# | 9.3 | `random_split` in place of `split_without_leaks` | 9.3 stops: two splits share 158 texts |
# | 9.5 | `weights = torch.ones(K, device=args.device)`, at its end | 96.8 % right, and 1 of 28 "spam without" found |
# | `gpt/losses.py`, `class_loss` | torch's own weighted mean | 9.8: divided out, 0.6 % for a class of 2.5 % |
# | `gpt/applications/own_data.py`, `read_table` | `pd.read_csv(file, dtype=str)` | 9.1 stops: `"NA"` is nan |
# | `gpt/classify.py`, `most_probable_labels` | `sorted(rows)` in its `zip` | 9.9 stops: 900 right labels, not 1,047 |
#
# ## Try it
#
#     python chapters/09_your_own_data.py --model mini --seed 1          another split: how much is luck?
#     python chapters/09_your_own_data.py --model mini --epochs 1        was one epoch enough?
#     python chapters/09_your_own_data.py --text "Call 09061701461 now"  the newest adapter answers, and this is it
