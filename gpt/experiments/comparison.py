"""Runs that are repeated and compared: each is made once, in a process of its own; then means, intervals and pairs.

A record is what `record_of` gives. A test is "blog", "balanced" or "natural" (`tests_of`).

Read along: chapters/10_believe_the_number.py.
"""

import math
import os
import platform
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import date
from itertools import combinations

import torch

from gpt.cost.fresh_process import in_fresh_process
from gpt.download import data_dir
from gpt.evaluate.calibration import measures, threshold_for
from gpt.evaluate.significance import compare, counted_once, holm, spread
from gpt.experiments.run_records import digest, made_once, over_seeds
from gpt.experiments.spam_filters import BATCH_SIZE, method_for, run_filter

BALANCED, ALL = 1045, 3902    # messages to train on: balanced, and 70 % of the file
STEPS_AT_LEAST = 100          # of a run on few messages
STOPPED = "stopped: the same command goes on where it was"


def epochs_for(method, condition, n_train):
    """How often a method goes through its messages, so that it makes about as many steps as on a balanced training set.

    On all messages of the file (natural) an epoch has 3.7 times as many steps, so there are 3.7 times fewer epochs, but
    at least one. On n_train messages there are enough for 100 steps, but no fewer than on a balanced training set.
    """
    if n_train:
        return max(method.epochs, math.ceil(STEPS_AT_LEAST * BATCH_SIZE / n_train))
    return max(1, round(method.epochs * BALANCED / ALL)) if condition == "natural" else method.epochs


def settings_for(name, condition, seed, model="mini", *, n_train=None, epochs=None, pretrained=None, precision=None):
    """All that decides the result of a run, ready for json.dump.

    Input: name, one of METHODS; condition, one of CONDITIONS: what it trains on; n_train, how many of these messages,
        None for all; epochs, None for `epochs_for`; pretrained=False, to begin untrained; precision, a name in
        gpt.cost.precision.TYPES, None for float32, which mini has in any case
    """
    method = method_for(name, model, pretrained)
    settings = dict(method=asdict(method), condition=condition, seed=seed, model=model, n_train=n_train,
                    epochs=epochs or epochs_for(method, condition, n_train))
    return settings if precision is None or model == "mini" else settings | {"precision": precision}


def folder_for(name, settings):
    """data/runs/experiment/NAME-...: readable, and different for different settings."""
    words = [settings["model"].split()[0], name, settings["condition"], settings["n_train"], f"seed{settings['seed']}"]
    readable = "-".join(re.sub(r"[^\w.]+", "", str(word)) for word in words if word)
    return data_dir() / "runs" / "experiment" / f"{readable}-{digest(settings)[:8]}"


def record_of(name, settings, device="cpu"):
    """The results of a run: trained now, or read from its results.json if it was made before.

    A run that was interrupted, or killed, goes on from its checkpoint. The trap: neither code nor device is a setting,
    so after a change that matters delete the folder.

    Output: a dict: the settings, what `run_filter` gives, what it was made with, and how much memory it took
    Raises: ValueError for a results.json that is damaged; what in_fresh_process raises
    """
    folder = folder_for(name, settings)

    def make():
        folder.mkdir(parents=True, exist_ok=True)
        result, peak = in_fresh_process(run_filter, settings=settings, folder=str(folder), device=str(device))
        weights = settings["model"] if settings["method"]["pretrained"] else f"{settings['model']}, untrained"
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
        return dict(name=name, **(settings | result), weights=weights, peak_memory_bytes=peak, device=str(device),
                    torch=torch.__version__, machine=machine, date=date.today().isoformat())

    record = made_once(folder / "results.json", make, ["seed", "test", "peak_memory_bytes"])
    (folder / "checkpoint.pt").unlink(missing_ok=True)    # of the run, which is done
    return record


def make_all(jobs, device="cpu"):
    """Make those of many runs that were not made before.

    mini's steps are too small to keep two cores busy, so each core has a run of its own; larger models go one by one.

    Input: jobs, pairs of a name and its settings
    Raises: what record_of raises, for the first run that fails; those under way are waited for, the others dropped.
        KeyboardInterrupt after Ctrl-C, which says how to go on
    """
    jobs = [job for job in jobs if not (folder_for(*job) / "results.json").exists()]
    small = str(device) == "cpu" and all(settings["model"] == "mini" for _, settings in jobs)
    with ThreadPoolExecutor(os.cpu_count() if small else 1) as pool:
        runs = [pool.submit(record_of, *job, device) for job in jobs]
        try:
            for made in runs:
                made.result()
        except BaseException as error:
            pool.shutdown(cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):    # a terminal's Ctrl-C has reached the runs under way too
                raise KeyboardInterrupt(STOPPED) from None
            raise


def records_over_seeds(name, condition, seeds, model="mini", device="cpu", **settings):
    """The records of a method with each of the seeds, in their order; settings: see `settings_for`."""
    jobs = [(name, settings_for(name, condition, seed, model, **settings)) for seed in seeds]
    make_all(jobs, device)
    return [record_of(*job, device) for job in jobs]


# ---- What runs with several seeds say together -----------------------------------------------------------------------

COSTS = ("seconds_training", "peak_memory_bytes")
MOST_LOST = 0.01    # the share of ham, 0..1, that a threshold may call spam


def tests_of(condition):
    """The tests that a run on a condition has predictions for: one for the blog's messages, two for the others."""
    return ("blog",) if condition == "blog" else ("balanced", "natural")


def answers(record, test, part="test"):
    """Labels, P(spam) and rows of the file of the messages in a test; part: "test" or "validation"."""
    kept = record[part]
    n = None if test == "natural" else kept["n_balanced"]
    return kept["labels"][:n], kept["spam"][:n], kept["rows"][:n]


def cell(values):
    """A `spread` as "97.4 -+ 1.2": the mean and half the interval's width, in per cent; "-" where it is unknown."""
    if values["mean"] is None:
        return "-"
    return f"{100 * values['mean']:.1f} -+ {100 * (values['high'] - values['mean']):.1f}"


def summary(records, test):
    """All measures of a method over its seeds, each as `spread` has it, ready for json.dump.

    Output: seeds; n_train, n_test and trainable_parameters, of the first seed (others differ a little); each of
        `measures` at threshold 0.5; seconds_training and peak_memory_bytes; and at the threshold which loses at most
        MOST_LOST of the validation messages' ham: threshold (one per seed, None where nothing may be called spam),
        kept_recall and kept_ham_lost, of the test
    """
    found = []
    thresholds = []
    for record in records:
        labels, spam, _ = answers(record, test)
        threshold = threshold_for(*answers(record, test, "validation")[:2], MOST_LOST)
        thresholds.append(threshold if math.isfinite(threshold) else None)    # JSON has no infinity
        kept = measures(labels, spam, threshold)
        found.append(measures(labels, spam) | {key: record[key] for key in COSTS}
                     | {"kept_recall": kept["recall"], "kept_ham_lost": kept["ham_lost"]})
    first = {key: records[0][key] for key in ("n_train", "trainable_parameters")} | {"n_test": found[0]["n"]}
    return {"seeds": [record["seed"] for record in records], **first, "threshold": thresholds,
            **{key: spread(values) for key, values in over_seeds(found).items() if key != "n"}}


def right(records, test, texts):
    """Whether a method labels each message correctly: {text: bool}, each once. Input: texts, of the rows of the file"""
    outcomes = []
    for record in records:
        outcomes.append({texts[row]: (p >= 0.5) == label for label, p, row in zip(*answers(record, test))})
    return counted_once(outcomes)


def all_pairs(groups, test, texts):
    """Every two methods on the same messages: McNemar's test, and Holm's correction for the number of pairs.

    Input: groups, {name: its records, with the same seeds}
    Output: a list of dicts: first, second, what `compare` gives, and p_adjusted
    """
    outcomes = {name: right(records, test, texts) for name, records in groups.items()}
    rows = [{"first": a, "second": b, **compare(outcomes[a], outcomes[b])} for a, b in combinations(groups, 2)]
    for row, p in zip(rows, holm([row["p"] for row in rows])):
        row["p_adjusted"] = p
    return rows


def seen_from(name, rows):
    """The rows of `all_pairs` that a method is in, as if it were the first of each."""
    turned = [row | {"first": name, "second": row["first"], "only_first": row["only_second"],
                     "only_second": row["only_first"]} for row in rows if row["second"] == name]
    return [row for row in rows if row["first"] == name] + turned
