"""How good a classifier is: accuracy with its uncertainty, and what each class gets right and wrong.

Arguments are lists, arrays or tensors with an entry for each of n messages; classes are numbers 0..K-1. A share that
would be 0/0 is None: the precision of a class that was never predicted is unknown, and 0 would look measured.

Read along: chapters/05_spam_classifier.py. Source: Wilson 1927; Fawcett 2006 (ROC).
"""

import math

import torch


def wilson_interval(correct, total, z=1.96):
    """The range that holds the true accuracy with 95 % confidence, after `correct` of `total` predictions were right.

        (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n),    p = correct / n, n = total

    Unlike p -+ z sqrt(p (1 - p)/n), it stays within 0..1, which rounding must not undo, and 20 of 20 is not certain.

    Input: z, how many standard deviations; the normal distribution holds 95 % within 1.96
    Output: (low, high), 0..1
    Raises: ValueError with both numbers, "3 correct out of 2", unless 0 <= correct <= total and total > 0
    Source: Wilson 1927
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} correct out of {total}: is no answer given, or one counted twice?")
    p, n = correct / total, total
    middle, reach = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, (middle - reach) / (1 + z**2 / n)), min(1.0, (middle + reach) / (1 + z**2 / n))


def confusion_matrix(labels, predictions, n_classes):
    """How often each class was taken for each: entry [i, j] counts the messages of class i predicted as class j.

    Input: labels, predictions (n,); n_classes, K
    Output: (K, K) whole numbers; a row sums to how often its class occurs, a column to how often it was predicted
    Raises: ValueError for two lengths that differ and for a class outside 0..K-1
    """
    labels = torch.as_tensor(labels, device="cpu").long()                             # (n,)
    predictions = torch.as_tensor(predictions, device="cpu").long()                   # (n,)
    if labels.shape != predictions.shape:
        raise ValueError(f"{len(labels)} labels but {len(predictions)} predictions")
    for name, classes in (("labels", labels), ("predictions", predictions)):
        if len(classes) and not 0 <= classes.min() <= classes.max() < n_classes:
            raise ValueError(f"{name} lie between {classes.min()} and {classes.max()}, classes between 0 and "
                             f"{n_classes - 1}: was the head made for fewer classes?")
    pairs = labels * n_classes + predictions                                          # (n,), [i, j] as K i + j
    return pairs.bincount(minlength=n_classes**2).view(n_classes, n_classes)          # (K, K)


def roc_auc(labels, scores):
    """The chance that a random positive scores higher than a random negative; a tie counts one half.

    It needs no threshold: 0.5 is guessing, 1 a perfect order. With P positives, N negatives, and ranks counted
    from 1 at the lowest score, averaged among equal scores:

        AUC = (sum of the positives' ranks - P (P + 1) / 2) / (P N)

    Input: labels (n,), 1 for positive and 0 for negative; scores (n,)
    Output: 0..1, or None where there is no positive or no negative
    Raises: ValueError for two lengths that differ and for a score that is NaN
    Source: Mann and Whitney 1947; Fawcett 2006, section 7
    """
    labels = torch.as_tensor(labels, device="cpu")                                    # (n,)
    scores = torch.as_tensor(scores, device="cpu")                                    # (n,)
    if labels.shape != scores.shape or scores.isnan().any():
        raise ValueError(f"{len(labels)} labels, {len(scores)} scores, {int(scores.isnan().sum())} scores are NaN")
    positive = labels == 1
    P, N = int(positive.sum()), int((~positive).sum())
    if P == 0 or N == 0:
        return None
    _, which, counts = scores.unique(return_inverse=True, return_counts=True)         # distinct scores, ascending
    ranks = counts.cumsum(0) - (counts.double() - 1) / 2                              # the mean rank of each
    return ((ranks[which][positive].sum() - P * (P + 1) / 2) / (P * N)).item()


def share(part, whole):
    """part / whole, or None where the whole is 0."""
    return part / whole if whole else None


def class_scores(confusion, k):
    """Precision TP/(TP+FP), recall TP/(TP+FN) and F1 = 2 TP/(2 TP+FP+FN), their harmonic mean, for class k."""
    true_positives = int(confusion[k, k])
    true, predicted = int(confusion[k].sum()), int(confusion[:, k].sum())
    return {"messages": true, "precision": share(true_positives, predicted), "recall": share(true_positives, true),
            "f1": share(2 * true_positives, predicted + true)}


def classification_report(labels, probabilities, names=None):
    """All measures at once, ready for json.dump.

    Input: labels (n,); probabilities (n, K), the most probable class is the prediction; names, K strings
    Output: a dict: n, accuracy, interval [low, high], confusion (K rows of K), classes (name -> messages, precision,
        recall, f1, roc_auc against the rest), mean_recall (over the classes that occur), roc_auc (of class 1 if K = 2,
        else the mean over the classes whose own is known, None if none is)
    Raises: ValueError for sizes that do not fit together, no messages, and a probability that is NaN
    """
    labels = torch.as_tensor(labels, device="cpu")                                    # (n,)
    probabilities = torch.as_tensor(probabilities, device="cpu")                      # (n, K)
    n_classes = probabilities.shape[1]
    names = [str(k) for k in range(n_classes)] if names is None else list(names)
    if len(names) != n_classes:
        raise ValueError(f"{len(names)} names for {n_classes} classes: {names}")
    confusion = confusion_matrix(labels, probabilities.argmax(dim=1), n_classes)      # (K, K)
    correct, n = int(confusion.trace()), len(labels)
    aucs = [roc_auc((labels == k).long(), probabilities[:, k]) for k in range(n_classes)]
    known = [auc for auc in aucs if auc is not None]
    classes = {name: class_scores(confusion, k) | {"roc_auc": aucs[k]} for k, name in enumerate(names)}
    recalls = [scores["recall"] for scores in classes.values() if scores["recall"] is not None]
    return {"n": n, "accuracy": correct / n, "interval": list(wilson_interval(correct, n)),
            "confusion": confusion.tolist(), "classes": classes, "mean_recall": share(sum(recalls), len(recalls)),
            "roc_auc": aucs[1] if n_classes == 2 else share(sum(known), len(known))}


def format_report(report):
    """A classification_report as a few lines of text; a dash stands for what is unknown.

    With 12 classes or more it shows, of their pairs, only the ten that are confused most.
    """
    def cell(value):
        return f"{'-' if value is None else f'{value:.3f}':>11}"

    low, high = report["interval"]
    names = list(report["classes"])
    few, width = len(names) < 12, max(map(len, names))
    head = "".join(f"{title:>11}" for title in ("messages", "precision", "recall", "F1", "ROC AUC"))
    lines = [f"accuracy {100 * report['accuracy']:.2f} % of {report['n']:,} messages "
             f"(95 % interval: {100 * low:.2f} to {100 * high:.2f} %)",
             f"{'':{width}}{head}" + (f"   taken for {', '.join(names)}" if few else "")]
    for (name, scores), row in zip(report["classes"].items(), report["confusion"]):
        cells = "".join(cell(scores[key]) for key in ("precision", "recall", "f1", "roc_auc"))
        pairs = f"   {', '.join(map(str, row))}" if few else ""
        lines.append(f"{name:{width}}{scores['messages']:>11,}{cells}{pairs}")
    pairs = [(n, i, j) for i, row in enumerate(report["confusion"]) for j, n in enumerate(row) if n and i != j]
    for n, i, j in [] if few else sorted(pairs, key=lambda pair: -pair[0])[:10]:
        lines.append(f"{n:,} times {names[i]} taken for {names[j]}")
    return "\n".join(lines)
