"""What a difference is worth: intervals over seeds, and whether one method is better than another or was lucky.

Read along: chapters/08_lora_inside.py (independent runs), chapters/10_believe_the_number.py (shared messages).
Source: Student 1908 and Nadeau and Bengio 2003 for the intervals; McNemar 1947 for pairs; Holm 1979 for many
comparisons. Each seed splits the same messages anew, so two seeds test some messages twice and train on many of the
same: neither their results nor their messages are independent witnesses, and what counts them so is too sure.
"""

import math

# 97.5 % of Student's t distribution lie below these, for 1, 2, 3, ... degrees of freedom
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def mean_interval(values):
    """The mean of a few measurements and the range that holds the true mean with 95 % confidence.

        mean -+ t s / sqrt(n),    s^2 = sum (x - mean)^2 / (n - 1)

    t is larger than the 1.96 of a known s, for s is itself guessed from n values: 4.3 for three of them. It takes the
    values for independent draws from one normal distribution.

    Input: values, 2 to 10 numbers. Output: (mean, low, high)
    Raises: ValueError that says how many values there are, for another number of them
    Source: Student 1908
    """
    n = len(values)
    if not 2 <= n <= len(STUDENT_T) + 1:
        raise ValueError(f"{n} values have no interval here: it takes 2 to {len(STUDENT_T) + 1}")
    mean = sum(values) / n
    spread = math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1))
    reach = STUDENT_T[n - 2] * spread / math.sqrt(n)
    return mean, mean - reach, mean + reach


def beside(values, reference):
    """A mean, how far its interval reaches, both with three digits, and how it compares: "0.097 -+ 0.010 <".

    Compared are the differences, value by value, because two settings with one seed share their luck: < or > where the
    interval of their mean leaves out 0, ~ where it does not, and nothing is known but that the difference is small.

    Input: values, reference: a number for each seed, in one order; the sign is = where they are the same
    Raises: ValueError for two lengths that differ, and what mean_interval raises
    """
    mean, _, high = mean_interval(values)
    _, least, most = mean_interval([a - b for a, b in zip(values, reference, strict=True)])
    sign = "=" if values == reference else "<" if most < 0 else ">" if least > 0 else "~"
    return f"{mean:.3f} -+ {high - mean:.3f} {sign}"


def resampled_interval(values, shared=0.2):
    """The mean of results whose seeds split the same messages anew, and a range for it that is honest about that.

    What the splits have in common moves all n values together: the spread s does not show it, and more seeds do not
    average it away. If any two values have the correlation rho, the mean's variance is not s^2 / n but, expected,

        s^2 (1 / n + rho / (1 - rho)),    s^2 = sum (x - mean)^2 / (n - 1)

    and the interval is mean -+ t sqrt(that), with Student's t of n - 1 degrees of freedom. rho = shared = 0 gives
    mean_interval. That rho is the share of all messages that a test set holds is a rule of thumb: no n values can tell
    their own rho. rho / (1 - rho) is n_test / n_train then, with whatever is not tested counted as training.

    Input: values, 2 to 10 numbers, one a seed; shared, 0 <= shared < 1
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
    known = resampled_interval(values) if None not in values else (None,) * 4
    return {"values": values, **dict(zip(("mean", "sd", "low", "high"), known))}


def mcnemar(only_first, only_second):
    """How probable so uneven a result, or a more uneven one, is of two classifiers that are equally good: p, 0..1.

    Both answer the same messages. Where both are right, or both wrong, nothing tells them apart; each of the other n
    falls to either like a coin; m is the smaller of the two numbers:

        p = min(1, 2 sum over i = 0..m of C(n, i) / 2^n),    n = only_first + only_second

    It can be small where two intervals overlap: they do not know that the messages are the same.

    Input: only_first, on how many messages the first alone is right; only_second, the second alone
    Output: 0..1; 1 where n is 0
    Raises: ValueError with both numbers where one is negative
    Source: McNemar 1947, who has the normal approximation; this is the exact binomial
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"{only_first} and {only_second} messages: a count is not negative")
    n = only_first + only_second
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(only_first, only_second) + 1)) / 2**n)


def counted_once(outcomes):
    """Each message once, with the outcome of the first seed that tested it.

    A message that two seeds tested would count as two witnesses in mcnemar, and it is one: what makes it hard for
    one seed's model makes it hard for the other's.

    Input: outcomes, one dict {message id: outcome} for each seed, the seeds in an order fixed beforehand; an outcome
    is right or not, or whatever else is known of the answer
    Output: a new dict {message id: outcome}
    """
    once = {}
    for outcome in outcomes:
        for message, right in outcome.items():
            once.setdefault(message, right)
    return once


def compare(first, second):
    """Two methods on the same messages: how often one alone is right, and how probable that is of two equals.

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
    """p values adjusted for their number: that any of m comparisons of equals falls below 0.05 stays as rare as 0.05.

    As they are, of twenty comparisons of equals one falls below by luck alone. With the p values in ascending order,

        adjusted_i = max over j = 1..i of min(1, (m - j + 1) p_j)

    so the smallest counts m times, the next m - 1 times, and none comes out below one that was smaller. It asks nothing
    of how the comparisons hang together.

    Input: p_values, m numbers, 0..1
    Output: a list of m numbers, 0..1, in the order of the input
    Raises: ValueError for one outside 0..1, or nan: "p value 1 of 3, counted from 0, is 1.2"
    Source: Holm 1979
    """
    m, least, adjusted = len(p_values), 0.0, [0.0] * len(p_values)
    for place, i in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        if not 0 <= p_values[i] <= 1:
            raise ValueError(f"p value {i} of {m}, counted from 0, is {p_values[i]}, not within 0..1")
        least = max(least, min(1.0, (m - place) * p_values[i]))
        adjusted[i] = least
    return adjusted


LEVEL = 0.05


def verdict(row):
    """What a comparison says of the first method: "better", "worse" or "not told apart", which is not "equal".

    Input: row, a dict with only_first and only_second as from compare, and p_adjusted as from holm; it takes
    p_adjusted < LEVEL for one of the first two
    """
    if not row["p_adjusted"] < LEVEL or row["only_first"] == row["only_second"]:
        return "not told apart"
    return "better" if row["only_first"] > row["only_second"] else "worse"
