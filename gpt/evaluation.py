"""What runs with several seeds say together: means with intervals, and which of two methods is better, if any.

Read along: chapters/10_believe_the_number.py. A record is what `gpt.experiment.record_of` gives; a test is "blog",
"balanced" or "natural", and of what trained on balanced or natural messages either of the last two can be asked.
"""

import math
from itertools import combinations

from gpt.probabilities import measures, threshold_for
from gpt.repeated import compare, counted_once, holm, resampled_interval

COSTS = ("seconds_training", "peak_memory_bytes")


def tests_of(condition):
    """The tests that runs which trained on a condition have answers for."""
    return ("blog",) if condition == "blog" else ("balanced", "natural")


def answers(record, test, part="test"):
    """Labels, P(spam) and rows of the file of the messages that a test asks about; part: "test" or "validation"."""
    kept = record[part]
    n = None if test == "natural" else kept["n_balanced"]
    return kept["labels"][:n], kept["spam"][:n], kept["rows"][:n]


def spread(values):
    """Values over seeds as {"values", "mean", "sd", "low", "high"}; all but the values are None where one is None."""
    known = resampled_interval(values) if None not in values else (None,) * 4
    return {"values": values, **dict(zip(("mean", "sd", "low", "high"), known))}


def cell(values):
    """A `spread` as "97.4 -+ 1.2": mean and reach of the interval, in per cent; "-" where it is unknown."""
    if values["mean"] is None:
        return "-"
    return f"{100 * values['mean']:.1f} -+ {100 * (values['high'] - values['mean']):.1f}"


def summary(records, test, most_lost=0.01):
    """All measures of a method over its seeds, each as `spread` has it, ready for json.dump.

    Output: seeds; n_train, n_test and trainable_parameters, of the first seed (others differ a little); each of
        `measures` at threshold 0.5; seconds_training and peak_memory_bytes; and at the threshold which loses at most
        `most_lost` of the validation messages' ham: threshold (one a seed, None where nothing may be called spam),
        kept_recall and kept_ham_lost, of the test
    """
    found, thresholds = [], []
    for record in records:
        labels, spam, _ = answers(record, test)
        threshold = threshold_for(*answers(record, test, "validation")[:2], most_lost)
        thresholds.append(threshold if math.isfinite(threshold) else None)    # JSON has no infinity
        kept = measures(labels, spam, threshold)
        found.append(measures(labels, spam) | {key: record[key] for key in COSTS}
                     | {"kept_recall": kept["recall"], "kept_ham_lost": kept["ham_lost"]})
    first = {key: records[0][key] for key in ("n_train", "trainable_parameters")} | {"n_test": found[0]["n"]}
    return {"seeds": [record["seed"] for record in records], **first, "threshold": thresholds,
            **{key: spread([row[key] for row in found]) for key in found[0] if key != "n"}}


def right(records, test, texts):
    """Which messages a method calls by their right name: {text: bool}, each different text once (`counted_once`).

    Input: texts, of the rows of the file
    """
    return counted_once([{texts[row]: (p >= 0.5) == label for label, p, row in zip(*answers(record, test))}
                         for record in records])


def all_pairs(groups, test, texts):
    """Every two methods on the same messages: McNemar's test, and Holm's correction for how many pairs there are.

    Input: groups, {name: its records, with the same seeds}
    Output: a list of dicts: first, second, and what `compare` gives, p_adjusted too
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
