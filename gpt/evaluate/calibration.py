"""What a probability is worth: how well scores rank, whether they mean what they say, and where to draw the line.

There are two classes; class 1 (spam) is the positive one. Arguments are lists, arrays or tensors of n entries: labels
are 0 or 1, scores any finite numbers, higher for class 1, probabilities those of class 1. What would be 0/0 is None.

Read along: chapters/10_believe_the_number.py. Source: Brier 1950; Manning et al. 2008, section 8.4; Guo et al. 2017.
"""

import math

import torch

from gpt.evaluate.metrics import class_scores, confusion_matrix, roc_auc, share, wilson_interval

BINS = 10    # of `reliability`


def _as_tensors(labels, scores):
    """Both on the CPU, in double precision, so that 0.3 from a list equals 0.3 from a NumPy array.

    Raises: ValueError for two shapes that differ, a label other than 0 and 1, a score that is NaN or infinite
    """
    labels = torch.as_tensor(labels, device="cpu", dtype=torch.double)                # (n,)
    scores = torch.as_tensor(scores, device="cpu", dtype=torch.double)                # (n,)
    if labels.dim() != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels {tuple(labels.shape)} and scores {tuple(scores.shape)}: it takes one number per "
                         f"message of each; are these the scores of both classes?")
    wrong = int((~scores.isfinite()).sum())
    other = int(((labels != 0) & (labels != 1)).sum())
    if wrong or other:
        raise ValueError(f"{wrong} scores are NaN or infinite, {other} labels neither 0 nor 1, of {len(labels)} each")
    return labels, scores


def _as_probabilities(labels, probabilities):
    """As `_as_tensors`, which raises ValueError; so does a probability outside 0..1."""
    labels, probabilities = _as_tensors(labels, probabilities)
    if len(labels) and not 0 <= probabilities.min() <= probabilities.max() <= 1:
        raise ValueError(f"probabilities lie between {probabilities.min():g} and {probabilities.max():g}, not 0 and 1: "
                         f"are these logits, or per cent?")
    return labels, probabilities


def average_precision(labels, scores):
    """For each positive, the share of positives among all that score as much or more; the mean of these shares.

    Each distinct score is a threshold in turn, the highest first. Threshold i calls positive what scores as much or
    more, so messages with equal scores enter together, and their order in the list decides nothing.

        AP = sum over i of (recall_i - recall_{i-1}) precision_i,    recall_0 = 0

    1 is a perfect order. If all scores are equal, it is the share of the positives, where roc_auc has 0.5. Many easy
    negatives at the bottom raise roc_auc, but not this number.

    Input: labels (n,); scores (n,). Output: 0..1, or None where there is no positive
    Raises: ValueError for two shapes that differ, a label other than 0 and 1, a score that is NaN or infinite
    Source: Manning et al. 2008, section 8.4; ties, and no line between the points, as in scikit-learn
    """
    labels, scores = _as_tensors(labels, scores)
    distinct, which, counts = scores.unique(return_inverse=True, return_counts=True)  # (distinct,), (n,), (distinct,)
    found = which[labels == 1].bincount(minlength=len(distinct)).flip(0)              # (distinct,), highest score first
    if not found.sum():
        return None
    precision = found.cumsum(0).double() / counts.flip(0).cumsum(0)                   # (distinct,)
    return ((found * precision).sum() / found.sum()).item()


def brier_score(labels, probabilities):
    """The squared distance between probabilities and labels: 0 for certain and right, 1 for certain and wrong.

        mean over the messages of (p - y)^2,    p the probability of class 1, y the label, 0 or 1

    A constant 1/2 gets 0.25. The expectation is lowest for the true probability, so exaggerating does not pay.

    Input: labels (n,); probabilities (n,). Output: 0..1, or None where n is 0
    Raises: ValueError as _as_tensors, and for a probability outside 0..1
    Source: Brier 1950, who sums over both classes, which is twice this
    """
    labels, probabilities = _as_probabilities(labels, probabilities)
    return share(((probabilities - labels) ** 2).sum().item(), len(labels))


def reliability(labels, probabilities):
    """Whether probabilities mean what they say: of all messages that get about 0.7, are seven in ten spam?

    Bin k of BINS, counted from 0, holds k/BINS <= p < (k + 1)/BINS; p = 1 belongs to the last bin. A p less than 1e-7
    below a boundary counts as on it, because 0.7 in float32 is 0.69999999.

    Input: labels (n,); probabilities (n,)
    Output: a list with a dict for each bin that is not empty, lowest first: low, high; n, its messages; predicted,
        the mean of their p; observed, the share of class 1 among them; interval [low, high], Wilson's for that share
    Raises: ValueError as brier_score
    Source: Guo et al. 2017, section 2, reliability diagrams, but there a boundary belongs to the bin below
    """
    labels, probabilities = _as_probabilities(labels, probabilities)
    bin_of = ((probabilities + 1e-7) * BINS).long().clamp(max=BINS - 1)               # (n,)
    rows = []
    for k in bin_of.unique().tolist():
        y, p = labels[bin_of == k], probabilities[bin_of == k]
        rows.append({"low": k / BINS, "high": (k + 1) / BINS, "n": len(y), "predicted": p.mean().item(),
                     "observed": y.mean().item(), "interval": list(wilson_interval(int(y.sum()), len(y)))})
    return rows


def threshold_for(labels, scores, most_lost=0.01):
    """The threshold at which a filter that calls score >= threshold spam loses hardly any ham.

    A score may be called spam if at most a share most_lost of the ham scores as much or more. The threshold is halfway
    between the lowest score, of any message, that may be called spam and the next lower score of any message. No
    message has it, so rounding elsewhere flips none. (Of two neighbouring doubles, which have none between them, it is
    the upper one.) Equal scores are called spam together or not at all. Where even the highest score may not be called
    spam, the threshold is infinity. Where the lowest may (only if most_lost is 1), it is 0, or that score if negative.
    The bound holds for these messages, so choose the threshold on validation messages, then test it.

    Input: labels (n,); scores (n,); most_lost, 0..1: of 80 ham messages 0.01 lets none go
    Output: a float, to be compared in double precision, because float32 has no number between two neighbours
    Raises: ValueError as average_precision; for no ham, "0 of 2 messages are ham"; for most_lost outside 0..1, or nan,
        "most_lost is 1.5"
    Source: Neyman and Pearson 1933, for the idea: bound the worse mistake, then make the other one rare
    """
    labels, scores = _as_tensors(labels, scores)
    ham, distinct = scores[labels == 0].sort().values, scores.unique()                # (n_ham,), (distinct,), ascending
    if not len(ham) or not 0 <= most_lost <= 1:
        raise ValueError(f"{len(ham)} of {len(labels)} messages are ham, and most_lost is {most_lost}: it takes at "
                         f"least one, and 0..1, not per cent")
    lost = (len(ham) - torch.searchsorted(ham, distinct)).double() / len(ham)         # (distinct,)
    too_many = int((lost > most_lost).sum())
    if too_many in (0, len(distinct)):
        return math.inf if too_many else min(0.0, distinct[0].item())
    below, lowest = distinct[too_many - 1:too_many + 1].tolist()
    middle = (below + lowest) / 2
    return middle if middle > below else lowest    # two neighbouring numbers have none between them


def measures(labels, probabilities, threshold=0.5):
    """All of a filter's numbers at once, ready for json.dump: a message is called spam where p >= threshold.

    Input: labels (n,); probabilities (n,); threshold
    Output: a dict: n, accuracy; precision, recall, f1 of class 1; ham_lost, the share of class 0 that is called 1;
        roc_auc, average_precision and brier, which no threshold changes. Each 0..1, or None
    Raises: ValueError as brier_score
    """
    labels, probabilities = _as_probabilities(labels, probabilities)
    confusion = confusion_matrix(labels, probabilities >= threshold, 2)               # (2, 2)
    spam, ham = class_scores(confusion, 1), confusion[0]
    return {"n": len(labels), "accuracy": share(int(confusion.trace()), len(labels)),
            "precision": spam["precision"], "recall": spam["recall"], "f1": spam["f1"],
            "ham_lost": share(int(ham[1]), int(ham.sum())), "roc_auc": roc_auc(labels, probabilities),
            "average_precision": average_precision(labels, probabilities),
            "brier": brier_score(labels, probabilities)}
