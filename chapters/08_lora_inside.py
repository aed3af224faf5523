# %% [markdown]
"""
# 8  Inside LoRA: which rank, which matrices, what it learnt

After this chapter you can find out, for a task of yours, which rank and which matrices LoRA needs, tell a difference
from noise, say what a change of rank does to the learning rate, and look into an update. You need: chapters 5 and 6.

- Run: `python chapters/08_lora_inside.py`
- Time: --quick 17 s; on 2 CPU cores (AMD EPYC); full 29 min on one, and goes on where it was stopped
- Source: Hu et al. 2021, sections 7.1 to 7.3 ("the paper"); Kalajdzievski 2023 for `alpha/sqrt(r)`
"""

# %%
import copy
from functools import cache, partial

import torch
from book import figure, load_weights, peak_memory, predict, report, run_folder, section, show, start

from gpt.download import fetch
from gpt.evaluate.significance import beside, mean_interval
from gpt.experiments.lora_trials import SpamTask, TextTask, Trial, inject, run_trial, train_trial, trial_over_seeds
from gpt.experiments.mnist import FASHION_MNIST, SIZES, fit_network, network_accuracy, new_network, read_mnist
from gpt.experiments.run_records import remembered
from gpt.experiments.weight_updates import (
    amplification, effective_rank, energy, lora_updates, random_similarity, subspace_similarity, svd_of_update,
    weight_updates, with_updates_cut,
)
from gpt.lora import LoRALayer, count_parameters, lora_layers, replace_linear_with_lora
from gpt.plots import plot_inside, plot_rank_accuracy
from gpt.spam import read_sms
from gpt.tokenizer import gpt2_tokenizer
from gpt.train import training_step

QUICK = dict(note="--quick shows every table and trains next to nothing: its numbers say nothing.", seeds=2,
             images=10_000, image_epochs=1, image_ranks=[1, 8, 64], messages=300, epochs=1, batches=2, windows=1,
             ranks=[1, 8], scale_ranks=[1, 64], rates=[1.6e-2, 4e-3], cuts=[0, 16, 128])
FULL = dict(note="What a run before this one has trained is remembered, and not trained again.", seeds=4, images=55_000,
            image_epochs=5, image_ranks=[1, 2, 4, 8, 16, 32, 64], messages=None, epochs=3, batches=None, windows=16,
            ranks=[1, 2, 4, 8, 64], scale_ranks=[1, 16, 64], rates=[6.4e-2, 1.6e-2, 4e-3, 1e-3, 2.5e-4, 6.25e-5],
            cuts=[0, 1, 2, 4, 8, 16, 32, 64, 128])
args = start(__doc__, QUICK, FULL, "--idx")
folder, seeds = run_folder(args), [args.seed + i for i in range(args.seeds)]
print(args.note)

# %% [markdown]
# ## 8.1 LoRA on a network of three layers
#
# Any linear layer can have a LoRA. First a network that has nothing to do with language: 784 pixels, two hidden layers
# of 64, ten classes. A LoRA has r (in + out) numbers where the weight has in * out: fewer while r is below in out /
# (in + out), which is 59, 32 and 8.6 here. At r = 64 it is larger than the network, and part of it is wasted: a matrix
# of 64 x 10 has rank 10 at most, whatever the rank of the two that it is the product of.

# %%
section("8.1")
show(new_network)
predict("parameters", sum(a * b + b for a, b in SIZES), count_parameters(new_network(args.seed))[0])
#> parameters: predicted 55,050, measured 55,050
network = new_network(args.seed)
replace_linear_with_lora(network, rank=64, alpha=16)
predict("LoRA of rank 64 trains", 64 * sum(a + b for a, b in SIZES), count_parameters(network)[0])
predict("rank of (64, 64) times (64, 10)", 10, int(torch.linalg.matrix_rank(torch.randn(64, 64) @ torch.randn(64, 10))))

# %% [markdown]
# ## 8.2 Accuracy over rank
#
# Fashion-MNIST: pictures of clothes, in MNIST's format. The network learns for some epochs as a whole; then it goes on
# with the same images, as a whole or by LoRA, which is to match what more of the same brings. The learning rates, of
# three for the whole and four for LoRA (mean over ranks 1, 8 and 64), had the highest accuracy on the last 5,000
# training images, on which nothing is trained here: one seed. No test image chose anything.

# %%
section("8.2")
image_folder = args.idx or [fetch(name) for name in FASHION_MNIST][0].parent
images, labels, *test_images = (part.to(args.device) for part in read_mnist(image_folder))
training = images[:args.images], labels[:args.images], args.image_epochs


@cache
def pretrained(seed):
    return fit_network(new_network(seed).to(args.device), *training, rate=1e-3, seed=seed)


def go_on(rank, seed):
    """The test accuracy, 0..1, after more epochs: of everything (rank None), of LoRA, or of nothing (rank 0)."""
    network = copy.deepcopy(pretrained(seed))
    if rank:
        replace_linear_with_lora(network, rank, alpha=16, generator=torch.Generator().manual_seed(seed))
    if rank != 0:
        fit_network(network, *training, rate=3e-4 if rank is None else 3e-3, seed=seed + 1000)
    return {"accuracy": network_accuracy(network, *test_images)}

# %% [markdown]
# Each result is remembered in a file of its own, found again by its settings, so this chapter can be stopped and goes
# on. Each row has several seeds, because one run is one draw: 8.3 says how to read the intervals and signs.

# %%
show(remembered)
reached = {}
for rank in (None, 0, *args.image_ranks):
    what = dict(images=args.images, epochs=args.image_epochs, folder=args.idx, rank=rank)
    reached[rank] = [remembered(folder / "trials", what | {"seed": seed}, partial(go_on, rank, seed))["accuracy"]
                     for seed in seeds]
    name = f"LoRA, r = {rank}: {1050 * rank:,}" if rank else "everything: 55,050" if rank is None else "before"
    print(f"{name:22} test accuracy {beside(reached[rank], reached[None])}")
print("< is lower, so worse, than everything (=) by more than noise, > higher, ~ within noise")
gained = [100 * (sum(reached[rank]) - sum(reached[0])) / len(seeds) for rank in (None, 1, 64)]
print("training on brings everything {:+.1f} points, rank 1 {:+.1f}, rank 64 {:+.1f}".format(*gained))

# %% [markdown]
# The blog that this experiment is from tested without `eval()`, so dropout stayed on: a fifth of the hidden numbers is
# missing from every answer, and every test draws other ones. Compare what that costs with what training on brought.

# %%
network = copy.deepcopy(pretrained(seeds[0]))
right = network_accuracy(network, *test_images)
predict("two tests with eval() agree", True, right == network_accuracy(network, *test_images))
tries = [network_accuracy(network.train(), *test_images) for _ in range(10)]
print(f"with eval() {right:.2%}; ten tests without it: {min(tries):.2%} to {max(tries):.2%}")

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E8.1` takes out the body of `remembered`;
# `python -m pytest --exercise E8.1` checks yours.

# %% [markdown]
# ## 8.3 One run is one draw
#
# Another seed: another split, another order, another A. Let three runs reach 96, 97 and 98 %: mean 97, spread s = 1. A
# mean of three is less uncertain than one, $s/\sqrt{3}$. But s itself is a guess from three numbers, and for 95 % one
# must go 4.3 times that far, or 3.2 times with four; were s known, 1.96 times. (Student's t. Where seeds split the same
# messages, as from 8.4 on, even that is too sure: 10.1 says by how much, and `RESULTS.md` allows for it.)

# %%
section("8.3")
predict("reach", 4.303 * 1 / 3**0.5, mean_interval([96.0, 97.0, 98.0])[2] - 97, 1e-3)

# %% [markdown]
# To compare two settings, take their difference seed by seed, paired: both had the same messages in the same order, and
# the luck that they share cancels. Intervals overlap in both lines; in the first the left is lower all the same (`<`),
# by about 1 with each seed. In the second the right's seeds have changed places: -3.4, 0 and 0.4, nothing is known
# (`~`).

# %%
for right in ([97.0, 98.1, 99.4], [99.4, 97.0, 98.1]):
    print(beside([96.0, 97.0, 98.5], right), "|", beside(right, right))
#> 97.167 -+ 3.126 < | 98.167 -+ 2.985 =
#> 97.167 -+ 3.126 ~ | 98.167 -+ 2.985 =

base, weights = load_weights(args)
base.to(args.device)
messages, read = read_sms(fetch("sms"))[:args.messages], base.config.context_length
tasks = {"spam": SpamTask(messages, gpt2_tokenizer(), read),
         "text": TextTask(messages, gpt2_tokenizer(), read, args.windows, args.batches)}
EPOCHS, RATES = {"spam": args.epochs, "text": 1}, {"spam": (5e-4, 1e-3), "text": (1.6e-2, 3e-3)}    # LoRA, everything

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E8.2` takes out the body of `mean_interval`, and
# `python tests/exercises.py start E8.3` that of `beside`, which prints the sign. `python -m pytest --exercise E8.2` and
# `--exercise E8.3` check yours.

# %% [markdown]
# ## 8.4 Which matrices, for the same number of parameters?
#
# The paper's table 5: a large LoRA on one matrix, or smaller ones on several? On mini $W_q$, $W_k$, $W_v$ and $W_o$ are
# 128 x 128; those of the feed-forward part, 128 x 512 and 512 x 128, come nearest with rank 3. Two tasks: spam, judged
# by its loss too, for an accuracy of 300 messages is uncertain by 2 points; and the next token of text messages.
# alpha = 16, `alpha/r` and spam's learning rates are those of chapters 5 and 6. Text's had the lowest validation loss
# (seed 123), for LoRA of 4e-3, 8e-3, 1.6e-2 and 3.2e-2 with q,v of rank 4, which favours q,v; for everything of 1e-3
# and 3e-3.

# %%
section("8.4")
C, LAYERS = base.config.emb_dim, base.config.n_layers
SHORT = {"W_query": "q", "W_key": "k", "W_value": "v", "out_proj": "o", "layers.0": "up", "layers.2": "down"}
Q, K, V, OUT, UP, DOWN = SHORT


def measured(matrices, rank):
    """{measure: a number for each seed} of both tasks, trained or remembered; rank None: everything trains."""
    row = {}
    for name, task in tasks.items():
        trial = Trial(rank, matrices, learning_rate=RATES[name][rank is None], epochs=EPOCHS[name])
        found = trial_over_seeds(folder / "trials", base, weights, task, trial, seeds)
        row |= {f"{name} {key}": values for key, values in found.items()}
    return row


def print_table(rows, reference):
    print(f"mean of {len(seeds)} seeds   numbers   spam: accuracy, 0..1  spam: nats per message  text: nats per token")
    for matrices, rank in rows:
        widths = sum(5 * C if name in (UP, DOWN) else 2 * C for name in matrices)    # in + out
        numbers = LAYERS * rank * widths if rank else count_parameters(base)[1]
        cells = [beside(values, results[reference][key]) for key, values in results[matrices, rank].items()]
        name = f"{','.join(SHORT[m] for m in matrices):8}r = {rank}" if rank else "everything"
        print(f"{name:15}{numbers:10,}   {'      '.join(cells)}")
    n = (len(rows) - 1) * len(cells)
    print(f"<, > beside =: accuracy > is better, loss <. Of {n} chance alone makes {n / 20:.1f}, if nothing differs.")

# %%
rows, counts = [((Q,), 8), ((K,), 8), ((V,), 8), ((OUT,), 8), ((Q, K), 4), ((Q, V), 4), ((Q, K, V, OUT), 2)], set()
for matrices, rank in rows:
    model = inject(copy.deepcopy(base).requires_grad_(False), Trial(rank, matrices))
    counts.add(count_parameters(model)[0])
predict("how many numbers these seven train", {LAYERS * 8 * (C + C)}, counts)
which, everything, paper = [*rows, ((UP,), 3), ((DOWN,), 3)], ((), None), ((Q, V), 4)    # paper: its choice
results = {row: measured(*row) for row in (*which, everything)}
print_table([*which, everything], reference=paper)

# %% [markdown]
# A sign rests on the differences seed by seed (8.3), not on whether intervals overlap. Why everything is so far ahead
# on text the table cannot tell: it trains more numbers, and the token embedding, which no LoRA here reaches.

# %%
apart = [one - other for one, other in zip(results[(Q,), 8]["text loss"], results[paper]["text loss"])]
print(f"text, q minus q,v, seed by seed: {', '.join(f'{a:+.3f}' for a in apart)}; {beside(apart, [0] * len(apart))}")

# %% [markdown]
# ## 8.5 Which rank?
#
# The paper's table 6: on GPT-3 a rank of 1 did for q,v what 64 did. alpha stays 16, so alpha / r falls as r rises.

# %%
section("8.5")
ranks = [(matrices, rank) for matrices in ((Q, V), (Q, K, V, OUT)) for rank in args.ranks]
results |= {row: measured(*row) for row in ranks}
print_table(ranks, reference=((Q, V), 8))

# %% [markdown]
# ## 8.6 What the rank does to the learning rate
#
# AdamW's first step moves every number of B by the learning rate, up or down, however small its gradient. With one
# input x, output k moves by $s \sum_j (xA)_j B_{jk}$, s the scale, and the signs of B are such that all r terms pull
# one way: in proportion to s r. From rank 1 to 64 that stays the same under `alpha/r`, grows 8 times under
# `alpha/sqrt(r)`, and 64 times under the bare alpha.

# %%
section("8.6")


def first_move(rank, rule):
    """How far one step moves an output: the mean over 200 draws of A and x."""
    generator, moves = torch.Generator().manual_seed(0), []
    for _ in range(200):
        layer, x = LoRALayer(C, 1, rank, 16, scale=rule, generator=generator), torch.randn(C, generator=generator)
        training_step(layer, x, lambda layer, x: layer(x).sum(), torch.optim.AdamW(layer.parameters()))
        moves.append(layer(x).abs().item())
    return sum(moves) / len(moves)


RULES = {"alpha/r": 0, "alpha/sqrt(r)": 0.5, "alpha": 1}    # the power of r that s r grows by
for rule, power in RULES.items():
    predict(f"{rule}: first move, rank 64 : rank 1", 64**power, first_move(64, rule) / first_move(1, rule), 0.2)

# %% [markdown]
# If a learning rate has to fit the move, the best one stays under `alpha/r`, and falls by $f = \sqrt{r}$ or $f = r$
# under the others. That is about the first step. Later A moves too: once both A and B grow with the rate, A B grows
# with its square, so a rate $\sqrt{f}$ lower is enough. Between these two we expect it, give or take a factor of 2, for
# each rate tried is 4 times the next. Text, q,v, one seed; `*` is the lowest loss of a line. Compare those of three
# rules at one rank: does a rule do more than move the rate? (Kalajdzievski recommends `alpha/sqrt(r)`, from another
# argument.)

# %%
grid, best = {}, {}
print("validation loss at rate " + "".join(f"{rate:9.2g} " for rate in args.rates) + " expected best rate")
for rule, rank in [("alpha/r", 1), *((rule, rank) for rule in RULES for rank in args.scale_ranks[1:])]:
    tried = [run_trial(folder / "trials", base, weights, tasks["text"], Trial(
        rank, (Q, V), scale=rule, learning_rate=rate, epochs=1, seed=seeds[0])) for rate in args.rates]
    found = [result["validation"]["loss"] if result else float("inf") for result in tried]    # None: not finite
    name, f = f"{rule}, r = {rank}" if rank > 1 else "r = 1, any rule", rank**RULES[rule]
    grid[name], best[rule, rank] = found, args.rates[found.index(min(found))]
    print(f"{name:24}" + "".join(f"{loss:9.3f}{' *'[loss == min(found)]}" for loss in found)
          + f"  {best['alpha/r', 1] / f:.2g} to {best['alpha/r', 1] / f**0.5:.2g}")

# %% [markdown]
# ## 8.7 What A learnt, and what it was drawn as
#
# Any matrix is a sum of products, column times row, the columns at right angles to each other, and the rows too (its
# SVD). A direction is such a column or row; its strength is the length of the product, $\|\cdot\|$: the root of the sum
# of the squares. phi(i, j) says how much the i strongest directions of one matrix share with the j strongest of
# another: of two planes with one line in common, half. By chance it is max(i, j) / in, so that large subspaces look
# alike.

# %%
section("8.7")
plane, other = torch.eye(4)[:, [0, 1]] * torch.tensor([2.0, 1.0]), torch.eye(4)[:, [0, 2]] * torch.tensor([2.0, 1.0])
predict("phi(i, j)", [[1.0, 1.0], [1.0, 0.5]], subspace_similarity(plane, other).tolist())
#> phi(i, j): predicted [[1.0, 1.0], [1.0, 0.5]], measured [[1.0, 1.0], [1.0, 0.5]]
draw = partial(torch.randn, C, 8, generator=torch.Generator().manual_seed(args.seed))
phis = torch.stack([subspace_similarity(draw(), draw())[7, 7] for _ in range(50)])
predict("phi(8, 8) of random A's", random_similarity(C, 8, 8)[7, 7].item(), phis.mean().item(), 0.1)

# %% [markdown]
# The paper compares A's, of ranks 8 and 64 and of two seeds. But A begins as random numbers, and most of what it holds
# may be what was drawn: so compare it with its own start, too, and the rows of dW, the inputs that it reacts to. If two
# runs found one and the same first direction, and the other seven are each run's own, phi(1, 1) is 1 and phi(8, 8), by
# chance 8 / 128 = 0.06, only (1 + 7 * 7 / 127) / 8 = 0.17.

# %%


def filters(rank, seed):
    """A spam filter of 8.5, as its A's were drawn and as it was trained."""
    trial = Trial(rank, (Q, V), epochs=args.epochs, seed=seed)
    return inject(copy.deepcopy(base), trial), train_trial(base, tasks["spam"], trial)[0]


def similarity(*models, of="A"):
    """phi of two models' A's, or of the rows of their dW's; the mean over the LoRAs."""
    one, other = ([layer.lora.A for _, layer in lora_layers(model)] if of == "A" else
                  [Vh.T * S for _, S, Vh in lora_updates(model).values()] for model in models)
    return torch.stack([subspace_similarity(a, b) for a, b in zip(one, other)]).mean(dim=0)


(fresh, small), (_, large), (_, again) = filters(8, seeds[0]), filters(64, seeds[0]), filters(8, seeds[1])
phis = {"A: as drawn and trained": similarity(fresh, small), "A: ranks 8 and 64": similarity(small, large),
        "A: two seeds": similarity(small, again), "dW: ranks 8 and 64": similarity(small, large, of="dW"),
        "dW: two seeds": similarity(small, again, of="dW"), "chance": random_similarity(C, 8, 64)}
for name, phi in phis.items():
    print(f"{name:24} phi(1, 1) {phi[0, 0]:.2f}   phi(1, 8) {phi[0, 7]:.2f}   phi(8, 8) {phi[7, 7]:.2f}")

# %% [markdown]
# **Your turn.** In the library phi is called `subspace_similarity`: `python tests/exercises.py start E8.4` takes out
# its body, and `python tests/exercises.py start E8.5` that of `random_similarity`, which says what chance gives.
# `python -m pytest --exercise E8.4` and `--exercise E8.5` check yours.

# %% [markdown]
# ## 8.8 Is the update something new?
#
# The paper's table 7 looks at how much of W there is in the directions of dW, and divides $\|dW\|$ by it: the factor.
# It is large for any dW that avoids W, so look at the rest, too: is there more of W than in random directions?

# %%
section("8.8")
A, B = torch.eye(3)[:, :2], torch.diag(torch.tensor([3.0, 2.0, 1.0]))[:2]
_, S, _ = svd_of_update(A, B, scale=1.0)    # by QR (A = Q R, Q's columns at right angles, R small): no A B
predict("strengths of A B", [3.0, 2.0], [round(strength, 4) for strength in S.tolist()])
strengths = {}
print("lengths ||.||, mean of the layers: dW's 4 strongest directions; all of W; of W what lies in those 4 of dW, in\n"
      "its own 4, in 4 random ones; factor, the paper's amplification: dW / in dW")
for rank, model, target in ((8, small, Q), (8, small, V), (64, large, Q), (64, large, V)):
    updates, layers = lora_updates(model), dict(lora_layers(model))
    own = [amplification(updates[name], layers[name].linear.weight, 4) for name in layers if name.endswith(target)]
    row = strengths[f"{target}, r = {rank}"] = {key: sum(layer[key] for layer in own) / len(own) for key in own[0]}
    print(f"{target:8} r = {rank:2}: " + "   ".join(f"{key} {value:.3f}" for key, value in row.items()))
more, part = ([row["in dW"] / row[key] for row in strengths.values()] for key in ("in random", "in W"))
print(f"'in dW' is {min(more):.1f} to {max(more):.1f} times 'in random', {min(part):.0%} to {max(part):.0%} of 'in W'")

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E8.6` takes out the body of `svd_of_update`, which never multiplies A
# by B; `python -m pytest --exercise E8.6` checks yours.

# %% [markdown]
# ## 8.9 How many directions does full fine-tuning need?
#
# LoRA bets that they are few. Strictly, every direction of dW gets something. Effective rank counts weak ones for less,
# energy is the share of the squares, and to see what the model needs we cut dW to rank k in every layer. (The rest
# stays as it was trained, so rank 0 is not the model from before.) Watch the loss: accuracy is too coarse for this.

# %%
section("8.9")
trial = Trial(None, learning_rate=RATES["spam"][1], epochs=args.epochs, seed=seeds[0])
whole, result = train_trial(base, tasks["spam"], trial)
updates, inside = weight_updates(whole, base), {}
for target, name in SHORT.items():
    S = [strength for place, (_, strength, _) in updates.items() if place.endswith(target)]
    n, e = [effective_rank(s) for s in S], [energy(s, 16) for s in S]
    inside[target] = {"effective rank": n, "energy of 16": e}
    print(f"{name:5} effective rank {min(n):.0f} to {max(n):.0f} of {C}; energy of 16, {min(e):.0%} to {max(e):.0%}")
cuts, test = {}, tasks["spam"].data(seeds[0])[2]
for k in args.cuts:
    cuts[k] = tasks["spam"].measure(with_updates_cut(whole, updates, k), test)
    print(f"dW cut to rank {k:3}: test accuracy {cuts[k]['accuracy']:.2%}, loss {cuts[k]['loss']:.4f}")
predict("a rank that cuts nothing: loss", result["test"]["loss"], cuts[C]["loss"])

# %% [markdown]
# **Your turn.** `python tests/exercises.py start E8.7` takes out the body of `effective_rank`, and
# `python tests/exercises.py start E8.8` that of `with_updates_cut`; `python -m pytest --exercise E8.7` and
# `--exercise E8.8` check yours.

# %% [markdown]
# ## 8.10 What to begin with, and two pictures
#
# Which rows of 8.4 and of 8.5 have the lowest mean loss, or cannot be told from it (`~`)? For a task of yours begin
# with the cheapest of a line and `alpha/r`, whose best rate should not depend on the rank (8.6): find it by validation
# loss.

# %%
section("8.10")
for key, rows in (("spam loss", which), ("text loss", which), ("spam loss", ranks), ("text loss", ranks)):
    lowest = min((results[row][key] for row in rows), key=sum)
    near = [row for row in rows if beside(results[row][key], lowest)[-1] in "=~"]
    print(f"{key}, lowest or ~:", "; ".join(f"{','.join(SHORT[m] for m in names)} r = {r}" for names, r in near))
figure(plot_rank_accuracy(args.image_ranks, [mean_interval(reached[rank]) for rank in args.image_ranks],
       {"everything": mean_interval(reached[None]), "before": mean_interval(reached[0])}), folder, "08_rank")
phis = {name: phi.diagonal().tolist() for name, phi in phis.items()}
one, eight = ([f"{phis[name][i]:.0%}" for name in ("dW: two seeds", "chance")] for i in (0, 7))
print(f"two seeds share {one[0]} of dW's strongest row (chance: {one[1]}), {eight[0]} of its 8 strongest ({eight[1]})")
few = next(k for k, row in cuts.items() if row["loss"] <= 1.05 * cuts[C]["loss"])
print(f"all dW's cut to rank {few} of {C}: the loss is at most 5 % above that of the whole dW's")
figure(plot_inside(dict(list(phis.items())[1:]), {k: row["loss"] for k, row in cuts.items()}), folder, "08_inside")
report(folder, args, recipe="default", weights=weights, seeds=seeds, peak_memory_bytes=peak_memory(args.device),
       images=[dict(rank=rank, values=values, interval=mean_interval(values)) for rank, values in reached.items()],
       tables=[dict(matrices=matrices, rank=rank, measure=key, values=values, interval=mean_interval(values))
               for (matrices, rank), row in results.items() for key, values in row.items()],
       rates=dict(tried=args.rates, validation_losses=grid), similarity=phis, amplification=strengths, inside=inside,
       cuts=[{"rank": k} | row for k, row in cuts.items()], settings=dict(alpha=16, rates=RATES, epochs=EPOCHS))

# %% [markdown]
# ## What you have now
#
# A way to ask which rank and which matrices, with an interval, and to see what an update is.
#
# ## Break it
#
# What is remembered would hide it, so first delete `data/runs/08_lora_inside`. Change one thing, run the chapter, and
# see whether you expected what happens:
#
# | where | change | what you should see |
# |---|---|---|
# | `gpt/experiments/mnist.py`, `fit_network` | return without `.eval()` | 8.2 stops: two tests of one network differ |
# | `gpt/evaluate/significance.py`, `mean_interval` | divide by n, not n - 1 | 8.3 stops: the reach is 2.03, not 2.48 |
# | `gpt/experiments/lora_trials.py`, `train_trial` | leave out `deepcopy` | 8.4 stops: there are LoRA layers already |
# | `gpt/experiments/run_records.py`, `digest` | `sorted(settings)`, no values | all rows of 8.4 and 8.5 are the same |
# | `gpt/lora.py` | `alpha / rank ** 2` for `"alpha/sqrt(r)"` | 8.6 stops: the first move shrinks |
# | `gpt/experiments/weight_updates.py` | `torch.maximum` for `torch.minimum` | 8.7 stops: phi(1, 2) is 0.5, not 1 |
#
# ## Try it
#
#     python chapters/08_lora_inside.py --quick --seed 1       which signs of 8.4 stay? Those of --quick are all luck
#     python chapters/08_lora_inside.py --idx FOLDER           MNIST itself, as the blog had it: its four files
