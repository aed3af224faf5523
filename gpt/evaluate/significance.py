"""What a difference is worth: intervals over seeds, and whether one method is better than another or only luckier.

Each seed splits the same messages anew, so two seeds test some messages twice and share most of their training
messages. Neither their results nor their messages are independent, and a method that treats them so is too certain.

Read along: chapters/08_lora_inside.py (independent runs), chapters/10_believe_the_number.py (shared messages).
"""

import math

# 97.5 % of Student's t distribution lie below these, for 1, 2, 3, ... degrees of freedom
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
LEVEL = 0.05    # of `verdict`


def mean_interval(values):
    """The mean of a few measurements and the range that holds the true mean with 95 % confidence.

        mean -+ t s / sqrt(n),    s^2 = sum (x - mean)^2 / (n - 1)

    t is larger than the 1.96 of a known s, because s is itself estimated from n values: 4.3 for three of them. The
    interval takes the values for independent draws from one normal distribution.

    Input: values, 2 to 10 numbers. Output: (mean, low, high)
    Raises: ValueError that says how many values there are, for another number of them. Source: Student 1908
    """
    n = len(values)
    if not 2 <= n <= len(STUDENT_T) + 1:
        raise ValueError(f"{n} values have no interval here: it takes 2 to {len(STUDENT_T) + 1}")
    mean = sum(values) / n
    spread = math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1))
    reach = STUDENT_T[n - 2] * spread / math.sqrt(n)
    return mean, mean - reach, mean + reach


def beside(values, reference):
    """A mean, half the width of its interval, both with three digits, and how it compares: "0.097 -+ 0.010 <".

    The differences are compared, value by value, because two settings with one seed share their luck. The sign is < or
    > where the interval of their mean leaves out 0, ~ where it does not: then only a small difference is known.

    Input: values, reference: one number per seed, in one order; the sign is = where they are the same
    Raises: ValueError for two lengths that differ, and what mean_interval raises
    """
    mean, _, high = mean_interval(values)
    _, least, most = mean_interval([a - b for a, b in zip(values, reference, strict=True)])
    sign = "=" if values == reference else "<" if most < 0 else ">" if least > 0 else "~"
    return f"{mean:.3f} -+ {high - mean:.3f} {sign}"


def resampled_interval(values, shared=0.2):
    """The mean of results whose seeds split the same messages anew, and a range for it that is honest about that.

    What the splits have in common moves all n values together, so the standard deviation s does not show it, and more
    seeds do not average it away. If any two values have the correlation rho, the expected variance of the mean is

        s^2 (1 / n + rho / (1 - rho)),    s^2 = sum (x - mean)^2 / (n - 1)

    and the interval is mean -+ t sqrt(that), with Student's t of n - 1 degrees of freedom. rho = shared = 0 gives
    mean_interval. No n values can tell their own rho. As a rule of thumb, rho is the share of all messages that a test
    set holds; then rho / (1 - rho) is n_test / n_train, where everything that is not tested counts as training.

    Input: values, 2 to 10 numbers, one per seed; shared, 0 <= shared < 1
    Output: (mean, sd, low, high); sd is s, how far a single seed strays
    Raises: ValueError as mean_interval, and for another `shared`: "a test set that holds 20 of all messages"
    Source: Nadeau and Bengio 2003, "Inference for the generalization error", the corrected resampled t-test
    """
    if not 0 <= shared < 1:
        raise ValueError(f"a test set that holds {shared} of all messages: it takes 0 <= shared < 1")
    mean, _, _ = mean_interval(values)    # which says so where there are too few or too many
    n = len(values)
    sd = math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1))
    reach = STUDENT_T[n - 2] * sd * math.sqrt(1 / n + shared / (1 - shared))
    return mean, sd, mean - reach, mean + reach


def spread(values):
    """Values over seeds as {"values", "mean", "sd", "low", "high"}; all but the values are None where one is None."""
    mean, sd, low, high = resampled_interval(values) if None not in values else (None,) * 4
    return {"values": values, "mean": mean, "sd": sd, "low": low, "high": high}


def mcnemar(only_first, only_second):
    """The probability p, 0..1, of a result as uneven as this or more, if two classifiers are equally good.

    Only the n messages that one of them alone gets right tell them apart, and each is like a coin toss:

        p = min(1, 2 sum over i = 0..m of C(n, i) / 2^n),    n = only_first + only_second,    m the smaller of the two

    p can be small although two intervals overlap, because the intervals do not know that the messages are the same.

    Input: only_first, on how many messages the first alone is right; only_second, the second alone
    Output: 0..1; 1 where n is 0. Raises: ValueError with both numbers where one is negative
    Source: McNemar 1947, who has the normal approximation; this is the exact binomial
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"{only_first} and {only_second} messages: a count is not negative")
    n = only_first + only_second
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(only_first, only_second) + 1)) / 2**n)


def counted_once(outcomes):
    """Each message once, with the outcome of the first seed that tested it.

    A message that two seeds tested would count twice in mcnemar, but it is hard or easy for both seeds' models alike.

    Input: outcomes, one dict {message id: outcome} per seed, the seeds in an order fixed beforehand; an outcome is
        whether the prediction is right, or whatever else is known of it
    Output: a new dict {message id: outcome}
    """
    once = {}
    for outcome in outcomes:
        for message, right in outcome.items():
            once.setdefault(message, right)
    return once


def compare(first, second):
    """Two methods on the same messages: how often one alone is right, and how probable that is if they are equal.

    Input: first, second: {message id: right or not}, the ids of both the same, in any order
    Output: a dict: messages, how many; only_first, only_second: how many one alone has right; p of mcnemar
    Raises: ValueError with how many ids only one of them has
    """
    missing = len(first.keys() ^ second.keys())
    if missing:
        raise ValueError(f"{missing} ids are in one result only, of {len(first)} and {len(second)} messages: do both "
                         f"methods have the same seeds, and so the same test sets?")
    only_first = sum(bool(first[message]) and not second[message] for message in first)
    only_second = sum(bool(second[message]) and not first[message] for message in first)
    return {"messages": len(first), "only_first": only_first, "only_second": only_second,
            "p": mcnemar(only_first, only_second)}


def holm(p_values):
    """p values adjusted for their number: one of m comparisons of equals falls below 0.05 in at most 5 % of cases.

    Without this, one of twenty comparisons of equals falls below 0.05 by luck. With the p values in ascending order,

        adjusted_i = max over j = 1..i of min(1, (m - j + 1) p_j)

    so the smallest counts m times, the next m - 1 times, and the order is kept. The comparisons may be dependent.

    Input: p_values, m numbers, 0..1. Output: a list of m numbers, 0..1, in the order of the input
    Raises: ValueError for one outside 0..1, or nan: "p value 1 of 3, counted from 0, is 1.2"
    Source: Holm 1979
    """
    m = len(p_values)
    adjusted = [0.0] * m
    least = 0.0
    for place, i in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        if not 0 <= p_values[i] <= 1:
            raise ValueError(f"p value {i} of {m}, counted from 0, is {p_values[i]}, not within 0..1")
        least = max(least, min(1.0, (m - place) * p_values[i]))
        adjusted[i] = least
    return adjusted


def verdict(row):
    """What a comparison says of the first method: "better", "worse" or "not told apart", which is not "equal".

    Input: row, with only_first and only_second as from compare, and p_adjusted as from holm, which must be below LEVEL
    """
    if not row["p_adjusted"] < LEVEL or row["only_first"] == row["only_second"]:
        return "not told apart"
    return "better" if row["only_first"] > row["only_second"] else "worse"
