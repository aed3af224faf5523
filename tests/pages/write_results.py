"""Writes the results in README.md and figures/results/RESULTS.md from the results files: nobody types a number.

    python tests/pages/write_results.py --collect    first copies the results.json of full runs from data/runs/ to
                                                     figures/results/
    python tests/pages/write_results.py              writes what stands between <!-- NAME --> and <!-- end --> on the
                                                     two pages

A block stands on lines of its own, or within a line. README's map comes from gpt/__init__.py in the same way.
tests/pages/test_readme.py holds that both pages are as this writes them.
"""

import json
import re
import shutil
import sys
import textwrap
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from gpt.download import data_dir  # noqa: E402  (the path comes first)
from gpt.evaluate.significance import resampled_interval, verdict  # noqa: E402
from gpt.experiments.comparison import seen_from  # noqa: E402
from gpt.experiments.spam_filters import METHODS  # noqa: E402

EVALUATION = "10-mini-default-seed123"
RESULTS = ROOT / "figures" / "results"
PAGES = (ROOT / "README.md", RESULTS / "RESULTS.md")
QUOTED = ("0[4678]-mini-*-seed123", "05-mini-default-seed123", "10-gpt2-small-default-seed*-LoRA-r-16", EVALUATION,
          *(f"09-mini-default-seed{seed}" for seed in (123, 1, 2)))
OURS = "LoRA, r = 16"
UNMEASURED = f'python chapters/10_believe_the_number.py --model 124M --method "{OURS}" --seeds 5'
TESTS = {"blog": "the blog's split", "balanced": "balanced", "natural": "13 % spam", "natural, all": "13 % spam, all"}


def read(name):
    """A results file by its name without .json; None where there is none."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def collect():
    """Copy the results.json of those full runs in data/runs/ that the pages quote, as NN-MODEL-RECIPE-seedN.json."""
    for file in sorted((data_dir() / "runs").glob("[0-9]*/*-full-seed*/results.json")):
        name = f"{file.parts[-3][:2]}-{file.parts[-2].replace('-full', '')}"
        if any(fnmatch(name, pattern) for pattern in QUOTED):
            shutil.copy(file, RESULTS / f"{name}.json")
            print(f"figures/results/{name}.json")


# Cells

def interval(values, digits=1, unit=100, sd=False):
    """Mean ± reach of the 95 % interval over seeds and, where asked, the standard deviation."""
    mean, deviation, _, high = resampled_interval(values)
    said = f"{unit * mean:.{digits}f} ± {unit * (high - mean):.{digits}f}"
    return f"{said} ({unit * deviation:.{digits}f})" if sd else said


def known(row, key, **how):
    """A cell of a summary row: its interval, or a dash where the row or a value is missing."""
    return "–" if row is None or None in row[key]["values"] else interval(row[key]["values"], **how)


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def made(run):
    """Where and when a run was made."""
    said = f"{run['machine']}, torch {run['torch']}"
    return f"{said}, {run['date']}" if "date" in run else said


def listed(names):
    """*a*, *b* and *c*: names have commas of their own."""
    names = [f"*{name}*" for name in names]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) if names else "none"


# README.md: each block is a function that returns Markdown

def first():
    """Three sentences: how good, beside what, and what LoRA is for."""
    results, gains = read(EVALUATION)["results"], read(EVALUATION)["gains"]
    mini, bayes = (results["balanced"][name]["accuracy"] for name in (OURS, "naive Bayes"))
    lora, everything = (results["blog"][name]["seconds_training"]["mean"] for name in (OURS, "everything"))
    gained = {}
    for name in (OURS, "everything"):
        gain, _, least, most = gains[f"{name} - naive Bayes"]["16"]
        gained[name] = f"{gain:.1f} points ({least:.1f} to {most:.1f}{', perhaps luck' if least <= 0 else ''})"
    run = read("06-mini-default-seed123")
    trained, of_all = run["trainable_parameters"], run["total_parameters"]
    text = (
        f"*mini*, a GPT-2 of 7.3 million parameters (14 MiB) in this repository, learns from {run['n_train']:,} "
        f"messages with LoRA in a command of 9 seconds on two CPU cores and gets {100 * mini['mean']:.1f} % of the "
        f"test messages right (mean of five seeds, 95 % interval {100 * mini['low']:.1f} to {100 * mini['high']:.1f} "
        f"%). Counting words gets {100 * bayes['mean']:.1f} %; with only 16 messages, LoRA beats that by "
        f"{gained[OURS]}, training all of mini by {gained['everything']}. LoRA saves time and space at the same accuracy or less: it "
        f"trains {100 * trained / of_all:.0f} % of the parameters in {100 * lora / everything:.0f} % of the time that "
        f"training all of them takes, and what it learnt is a file of {4 * trained / 1e6:.1f} MB.")
    lines = textwrap.fill(text.replace(" %", "\N{NO-BREAK SPACE}%"), 120, break_on_hyphens=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def one_run():
    run = read("06-mini-default-seed123")
    return f"{100 * run['test_accuracy']:.1f} % of {run['n_test']}"


def tree_of_gpt():
    """The reading order in gpt/__init__.py: the files, then the folders."""
    order = (ROOT / "gpt" / "__init__.py").read_text(encoding="utf-8").partition("Imports go")[0]
    return "\n".join(line for line in order.splitlines() if line.startswith("    "))


# RESULTS.md: the spam filters of chapter 10

def comparison():
    run = read(EVALUATION)
    results, seeds = run["results"], run["seeds"]
    rows = []
    for name in METHODS:
        of = [results[test].get(name) for test in TESTS]
        one = next(filter(None, of))
        rows.append([f"**{name}**" if name == OURS else name, f"{one['trainable_parameters']:,}",
                     *(known(row, "accuracy", sd=True) for row in of),
                     f"{one['seconds_training']['mean']:.1f} s", f"{one['peak_memory_bytes']['mean'] / 1e6:.0f} MB"])
    rows.append(large_model())
    return (f"Test accuracy of mini in %: the mean over seeds {seeds[0]} to {seeds[-1]} ± half the width of the 95 % "
            f"interval (in brackets the standard deviation over the seeds). Each seed has a split, an order and "
            f"starting values of its own. {made(run)}; `python chapters/10_believe_the_number.py`.\n\n"
            + table(["", "trained parameters", *TESTS.values(), "training", "peak memory"], rows))


def large_model():
    """The row of the real GPT-2: "not measured" until its results file is there."""
    found = sorted(RESULTS.glob("10-gpt2-small-default-seed*-LoRA-r-16.json"))
    if not found:
        return [f"GPT-2 124M, {OURS}", "2,655,746", f"not measured: `{UNMEASURED}`", "not measured", "not measured",
                "–", "–", "–"]
    run = json.loads(found[-1].read_text(encoding="utf-8"))
    balanced, natural = (run["results"][test][OURS] for test in ("balanced", "natural"))
    return [f"GPT-2 124M, {OURS} ({made(run)})", f"{balanced['trainable_parameters']:,}", "–",
            known(balanced, "accuracy", sd=True), known(natural, "accuracy", sd=True), "–",
            f"{balanced['seconds_training']['mean']:.1f} s", f"{balanced['peak_memory_bytes']['mean'] / 1e6:.0f} MB"]


def told_apart():
    lines = []
    for test, rows in read(EVALUATION)["pairs"].items():
        said = {"better": [], "worse": [], "not told apart": []}
        for row in seen_from(OURS, rows):
            said[verdict(row)].append(row["second"])
        lines.append(f"* {TESTS[test]} ({rows[0]['messages']:,} different texts, {len(rows)} pairs): better than "
                     f"{listed(said['better'])}; worse than {listed(said['worse'])}; not told apart from "
                     f"{listed(said['not told apart'])}.")
    return "\n".join(lines)


def measures():
    results = read(EVALUATION)["results"]["natural"]
    keys = {"precision": "precision", "recall": "recall", "f1": "F1", "roc_auc": "ROC AUC",
            "average_precision": "average precision"}
    rows = [[name, *(known(row, key) for key in keys), known(row, "brier", digits=3, unit=1),
             known(row, "kept_recall"), known(row, "kept_ham_lost", digits=2)] for name, row in results.items()]
    return table(["", *(f"{title}, %" for title in keys.values()), "Brier score",
                  "spam found where validation lost 1 % of ham, %", "ham lost there, %"], rows)


def brier_moved():
    before, after = read(EVALUATION)["brier"]
    return f"{before:.4f} to {after:.4f}"


def gains():
    rows = [[f"{int(n):,}", pair.replace(" - ", " against "), f"{mean:+.1f}", f"{low:+.1f} to {high:+.1f}"]
            for pair, of in read(EVALUATION)["gains"].items() for n, (mean, _, low, high) in of.items()]
    return table(["messages", "", "points, mean", "95 % interval"], rows)


def disguises():
    found = read(EVALUATION)["disguises"]
    rows = [[disguise, *(f"{100 * of[disguise]['recall']:.1f} %, {100 * of[disguise]['ham_lost']:.1f} %"
                         for of in found.values())] for disguise in found[OURS]]
    return table(["", *(f"{name}: spam found, ham lost" for name in found)], rows)


def as_published():
    run = read("06-mini-blog-seed123")
    said = [f"{100 * run[f'{split}_accuracy']:.2f} %" for split in ("train", "validation", "test")]
    return "{}, {} and {}".format(*said)


# RESULTS.md: chapters 7 to 9

def text_lora():
    run = read("07-mini-default-seed123")
    before = run["full"]["before"]["test"]
    rows = [["before", "", f"{before['loss']:.3f}", f"{100 * before['accuracy']:.1f} %", "", "", ""]]
    for name, way in (("all weights", run["full"]), ("LoRA", run["lora"])):
        after = way["after"]["test"]
        predicted = way["predicted_memory_bytes"]["peak"]
        rows.append([name, f"{way['trainable_parameters']:,}", f"{after['loss']:.3f}",
                     f"{100 * after['accuracy']:.1f} %", f"{1000 * way['seconds_per_step']:.0f} ms",
                     f"{predicted / 1e6:.0f} MB", f"{way['peak_memory_bytes'] / 1e6:.0f} MB"])
    head = ["", "trained parameters", "test loss, nats per token", "token accuracy", "a step takes",
            "peak memory, predicted", "measured"]
    return (f"One seed, {run['seed']}; one pass over {run['n_train']:,} messages, tested on {run['n_test']:,} others. "
            f"{made(run)}; `python chapters/07_lora_writer.py --model mini`.\n\n" + table(head, rows))


def text_lora_saves():
    run = read("07-mini-default-seed123")
    time, memory = (1 - run["lora"][key] / run["full"][key] for key in ("seconds_per_step", "peak_memory_bytes"))
    return f"{100 * time:.0f} % of a step's time and {100 * memory:.0f} % of the memory"


def matrices():
    run, found = read("08-mini-default-seed123"), {}
    short = {"W_query": "q", "W_key": "k", "W_value": "v", "out_proj": "o", "layers.0": "up", "layers.2": "down"}
    for row in run["tables"]:
        parts = ",".join(short[part] for part in row["matrices"])
        name = f"{parts}, r = {row['rank']}" if row["rank"] else "everything"
        found.setdefault(name, {})[row["measure"]] = row["values"]
    shown = ["q, r = 8", "k, r = 8", "v, r = 8", "o, r = 8", "q,k, r = 4", "q,v, r = 4", "q,k,v,o, r = 2", "up, r = 3",
             "down, r = 3", "q,v, r = 1", "q,v, r = 64", "q,k,v,o, r = 64", "everything"]
    rows = [[name, interval(found[name]["spam accuracy"]) + " %", interval(found[name]["spam loss"], 3, 1),
             interval(found[name]["text loss"], 3, 1)] for name in shown]
    head = ["", "spam: accuracy", "spam: loss, nats per message", "next token of text messages: loss, nats per token"]
    return (f"Seeds {run['seeds'][0]} to {run['seeds'][-1]}. {made(run)}; `python chapters/08_lora_inside.py`.\n\n"
            + table(head, rows))


def enough_directions():
    """From which rank on an update that is cut to it has a test loss within 5 % of the whole update's."""
    cuts = read("08-mini-default-seed123")["cuts"]
    enough = next(cut["rank"] for cut in cuts if cut["loss"] <= 1.05 * cuts[-1]["loss"])
    return f"{enough} of {cuts[-1]['rank']} directions"


def three_classes():
    runs = [read(f"09-mini-default-seed{seed}") for seed in (123, 1, 2)]
    test = runs[0]["test"]
    with_number, without = (100 * test["classes"][name]["messages"] / test["n"]
                            for name in ("spam with number", "spam without"))
    names = ("GPT-2 mini, LoRA", "GPT-2 mini, LoRA, weights divided out", "naive Bayes", "naive Bayes, classes even",
             "majority")
    rows = [[name, *(interval([run["results"][name][key] for run in runs]) + " %" for key in ("accuracy", "recall"))]
            for name in names]
    return (f"Seeds 123, 1 and 2. {runs[0]['n_train']:,} messages to train on, {runs[0]['n_validation']:,} to choose "
            f"settings with and {test['n']:,} to test; {with_number:.1f} % of these are spam with a phone number, "
            f"{without:.1f} % spam without. {made(runs[0])}; "
            f"`python chapters/09_your_own_data.py --model mini --seed N`.\n\n"
            + table(["", "accuracy", "mean recall"], rows))


BLOCKS = {function.__name__: function for function in (
    first, one_run, tree_of_gpt, comparison, told_apart, measures, brier_moved, gains, disguises, as_published,
    text_lora, text_lora_saves, matrices, enough_directions, three_classes)}


def written(page):
    """A page's text with each block as the results files have it. Raises: ValueError for a block that is not known."""
    def block(match):
        name, line_end, _ = match.groups()
        if name not in BLOCKS:
            raise ValueError(f"a page has a block {name!r}: there are {', '.join(BLOCKS)}")
        return f"<!-- {name} -->{line_end}{BLOCKS[name]()}{line_end}<!-- end -->"

    return re.sub(r"<!-- (\w+) -->(\n?)(.*?)<!-- end -->", block, page, flags=re.DOTALL)


if __name__ == "__main__":
    if "--collect" in sys.argv[1:]:
        collect()
    for page in PAGES:
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
