"""Writes the results in README.md from figures/results/: nobody types a number.

    python tests/pages/write_readme.py --collect    first copies there the results.json of full runs, from data/runs/
    python tests/pages/write_readme.py              writes what stands between README's lines <!-- NAME --> and <!-- end -->

tests/pages/test_readme.py holds that README.md is as this writes it.
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
QUOTED = ("0[4678]-mini-*-seed123", "05-mini-default-seed123", "06-gpt2-small-default-seed*-to-*", EVALUATION,
          *(f"09-mini-default-seed{seed}" for seed in (123, 1, 2)))
OURS, UNMEASURED = "LoRA, r = 16", "python chapters/06_lora_spam.py --model 124M --seeds 5"
TESTS = {"blog": "the blog's split", "balanced": "balanced", "natural": "13 % spam", "natural, all": "13 % spam, all"}


def read(name):
    """A results file by its name without .json; None where there is none."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def collect():
    """Copy the results.json of those full runs in data/runs/ that README.md quotes, as NN-MODEL-RECIPE-seedN.json."""
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
    return f"{run['machine']}, torch {run['torch']}, {run['date']}" if "date" in run else f"{run['machine']}, torch {run['torch']}"


def listed(names):
    """*a*, *b* and *c*: names have commas of their own."""
    names = [f"*{name}*" for name in names]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) if names else "none"


# Blocks, each a function that returns Markdown

def first():
    results = read(EVALUATION)["results"]
    mini, bayes, untrained = (results["balanced"][name]["accuracy"] for name in (OURS, "naive Bayes", "untrained, everything"))
    kept, gains = results["natural"][OURS], read(EVALUATION)["gains"]
    gain, _, least, most = gains["everything - naive Bayes"]["16"]
    return textwrap.fill(
        f"A GPT-2 of 14 MiB that comes with this repository, fine-tuned with LoRA by a command of 13 seconds on two CPU cores: "
        f"{100 * mini['mean']:.1f} % of the test messages right, the mean of five seeds (95 % interval {100 * mini['low']:.1f} to "
        f"{100 * mini['high']:.1f} %). Counting words gets {100 * bayes['mean']:.1f} %, the same model trained from nothing "
        f"{100 * untrained['mean']:.1f} %; with 16 messages to learn from, the pretrained model trained as a whole is better than "
        f"counting by {gain:.1f} points ({least:.1f} to {most:.1f}). Where 13 % of the messages are spam, and the threshold is set to lose 1 % of the "
        f"others, it finds {100 * kept['kept_recall']['mean']:.0f} % of the spam and loses "
        f"{100 * kept['kept_ham_lost']['mean']:.1f} % of the others.", 120)


def comparison():
    run = read(EVALUATION)
    results, seeds = run["results"], run["seeds"]
    rows = []
    for name in METHODS:
        of = [results[test].get(name) for test in TESTS]
        first = next(filter(None, of))
        rows.append([f"**{name}**" if name == OURS else name, f"{first['trainable_parameters']:,}",
                     *(known(row, "accuracy", sd=True) for row in of),
                     f"{first['seconds_training']['mean']:.1f} s", f"{first['peak_memory_bytes']['mean'] / 1e6:.0f} MB"])
    rows.append(large_model())
    return (f"Test accuracy in %, mini, seeds {seeds[0]} to {seeds[-1]}, each with a split, an order and a start of its own: mean "
            f"± reach of the 95 % interval (standard deviation of a seed). {made(run)}; `python "
            "chapters/10_believe_the_number.py`.\n\n"
            + table(["", "trained numbers", *TESTS.values(), "training", "peak memory"], rows))


def large_model():
    """The row of the real GPT-2: "not measured" until its results file is there."""
    found = sorted(RESULTS.glob("06-gpt2-small-default-seed*-to-*.json"))
    if not found:
        return [f"GPT-2 124M, {OURS}", "2,655,746", f"not measured: `{UNMEASURED}`", "not measured", "not measured", "–", "–", "–"]
    run = json.loads(found[-1].read_text(encoding="utf-8"))
    balanced, natural = (run["results"][test][OURS] for test in ("balanced", "natural"))
    return [f"GPT-2 124M, {OURS} ({made(run)})", f"{balanced['trainable_parameters']:,}", "–", known(balanced, "accuracy", sd=True),
            known(natural, "accuracy", sd=True), "–", f"{balanced['seconds_training']['mean']:.1f} s",
            f"{balanced['peak_memory_bytes']['mean'] / 1e6:.0f} MB"]


def measures():
    results = read(EVALUATION)["results"]["natural"]
    keys = {"precision": "precision", "recall": "recall", "f1": "F1", "roc_auc": "ROC AUC", "average_precision": "average precision"}
    rows = [[name, *(known(row, key) for key in keys), known(row, "brier", digits=3, unit=1),
             known(row, "kept_recall"), known(row, "kept_ham_lost", digits=2)] for name, row in results.items()]
    return table(["", *(f"{title}, %" for title in keys.values()), "Brier score", "spam found where validation lost 1 % of ham, %",
                  "ham lost there, %"], rows)


def told_apart():
    lines = []
    for test, rows in read(EVALUATION)["pairs"].items():
        said = {"better": [], "worse": [], "not told apart": []}
        for row in seen_from(OURS, rows):
            said[verdict(row)].append(row["second"])
        lines.append(f"* {TESTS[test]} ({rows[0]['messages']:,} different texts, {len(rows)} pairs): better than "
                     f"{listed(said['better'])}; worse than {listed(said['worse'])}; not told apart from {listed(said['not told apart'])}.")
    return "\n".join(lines)


def gains():
    rows = [[f"{int(n):,}", pair.replace(" - ", " against "), f"{mean:+.1f}", f"{low:+.1f} to {high:+.1f}"]
            for pair, of in read(EVALUATION)["gains"].items() for n, (mean, _, low, high) in of.items()]
    return table(["messages", "", "points, mean", "95 % interval"], rows)


def disguises():
    found = read(EVALUATION)["disguises"]
    return table(["", *(f"{name}: spam found, ham lost" for name in found)],
                 [[disguise, *(f"{100 * of[disguise]['recall']:.1f} %, {100 * of[disguise]['ham_lost']:.1f} %" for of in found.values())]
                  for disguise in found[OURS]])


def text_lora():
    run = read("07-mini-default-seed123")
    before = run["full"]["before"]["test"]
    rows = [["before", "", f"{before['loss']:.3f}", f"{100 * before['accuracy']:.1f} %", "", "", ""]]
    for name, way in (("all weights", run["full"]), ("LoRA", run["lora"])):
        after = way["after"]["test"]
        rows.append([name, f"{way['trainable_parameters']:,}", f"{after['loss']:.3f}", f"{100 * after['accuracy']:.1f} %",
                     f"{1000 * way['seconds_per_step']:.0f} ms", f"{way['predicted_memory_bytes']['peak'] / 1e6:.0f} MB",
                     f"{way['peak_memory_bytes'] / 1e6:.0f} MB"])
    return f"One seed, 123. {made(run)}.\n\n" + table(
        ["", "trained parameters", "test loss, nats a token", "token accuracy", "a step", "peak memory, predicted", "measured"], rows)


def matrices():
    run, found = read("08-mini-default-seed123"), {}
    short = {"W_query": "q", "W_key": "k", "W_value": "v", "out_proj": "o", "layers.0": "up", "layers.2": "down"}
    for row in run["tables"]:
        name = f"{','.join(short[part] for part in row['matrices'])}, r = {row['rank']}" if row["rank"] else "everything"
        found.setdefault(name, {})[row["measure"]] = row["values"]
    shown = ["q, r = 8", "k, r = 8", "v, r = 8", "o, r = 8", "q,k, r = 4", "q,v, r = 4", "q,k,v,o, r = 2", "up, r = 3", "down, r = 3",
             "q,v, r = 1", "q,v, r = 64", "q,k,v,o, r = 64", "everything"]
    rows = [[name, interval(found[name]["spam accuracy"]) + " %", interval(found[name]["spam loss"], 3, 1),
             interval(found[name]["text loss"], 3, 1)] for name in shown]
    return f"Seeds {run['seeds'][0]} to {run['seeds'][-1]}. {made(run)}.\n\n" + table(
        ["", "spam: accuracy", "spam: loss, nats a message", "next token of text messages: loss, nats a token"], rows)


def three_classes():
    runs = [read(f"09-mini-default-seed{seed}") for seed in (123, 1, 2)]
    names = ("GPT-2 mini, LoRA", "GPT-2 mini, LoRA, weights divided out", "naive Bayes", "naive Bayes, classes even", "majority")
    rows = [[name, *(interval([run["results"][name][key] for run in runs]) + " %" for key in ("accuracy", "recall"))] for name in names]
    return f"Seeds 123, 1 and 2. {made(runs[0])}.\n\n" + table(["", "accuracy", "mean recall"], rows)


BLOCKS = {function.__name__: function for function in
          (first, comparison, measures, told_apart, gains, disguises, text_lora, matrices, three_classes)}


def written(readme):
    """README's text with each block as the results files have it. Raises: ValueError for a block that is not known."""
    def block(match):
        if match[1] not in BLOCKS:
            raise ValueError(f"README.md has a block {match[1]!r}: there are {', '.join(BLOCKS)}")
        return f"<!-- {match[1]} -->\n{BLOCKS[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", block, readme, flags=re.DOTALL)


if __name__ == "__main__":
    if "--collect" in sys.argv[1:]:
        collect()
    page = ROOT / "README.md"
    page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
