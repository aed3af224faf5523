"""One recipe, several seeds: a mean and how far to trust it, and whether one method is better than another.

Read along: chapters/10_believe_the_number.py. Source: Nadeau and Bengio 2003 for the interval; Holm 1979 for many
comparisons. Each seed splits the same messages anew, so two seeds test some messages twice and train on many of the
same: neither their results nor their messages are independent witnesses, and what counts them so is too sure.
"""

import math

from gpt.metrics import mcnemar
from gpt.trials import STUDENT_T, mean_interval


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


def verdict(row, level=0.05):
    """What a comparison says of the first method: "better", "worse" or "not told apart", which is not "equal".

    Input: row, a dict with only_first and only_second as from compare, and p_adjusted as from holm; it takes
    p_adjusted < level for one of the first two
    """
    if not row["p_adjusted"] < level or row["only_first"] == row["only_second"]:
        return "not told apart"
    return "better" if row["only_first"] > row["only_second"] else "worse"
