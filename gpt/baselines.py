"""What GPT-2 has to beat: three classifiers that only count.

Read along: chapters/05_spam_classifier.py. Source: Manning, Raghavan and Schütze 2008, chapter 13 (naive Bayes).
Each has fit(texts, labels), which returns itself, and predict(texts), a list of classes. Texts are strings, labels
class numbers 0..K-1; of classes that are equally good the lowest is answered.
"""

import math
import re
from collections import Counter
from itertools import groupby

from gpt.batches import label_ids, message_texts


def most_frequent(counts):
    """The key of a Counter with the highest count, of several the lowest key."""
    return min(counts, key=lambda key: (-counts[key], key))


class Majority:
    """Answers with the most frequent class of the training set, whatever the message says."""

    parameters = 1    # how many numbers `fit` finds

    def fit(self, texts, labels):
        self.answer = most_frequent(Counter(labels))
        return self

    def predict(self, texts):
        return [self.answer for _ in texts]


class LengthRule:
    """One class up to `threshold` characters, one for longer messages: spam fills the SMS that it pays for.

    The threshold, one of the lengths that occur, and the two classes are those that answer most training messages
    rightly; of several, the lowest. Where no message is longer, both classes are the same.
    """

    parameters = 3

    def fit(self, texts, labels):
        short, long, best = Counter(), Counter(labels), 0
        by_length = sorted(zip(map(len, texts), labels, strict=True))
        for threshold, rows in groupby(by_length, key=lambda row: row[0]):
            moved = Counter(label for _, label in rows)
            short, long = short + moved, long - moved
            answers = most_frequent(short), most_frequent(long or short)
            right = short[answers[0]] + long[answers[1]]
            if right > best:
                best, self.threshold, self.answers = right, threshold, answers
        return self

    def predict(self, texts):
        return [self.answers[len(text) > self.threshold] for text in texts]


def words(text):
    """Lower-case words and numbers, and each other sign by itself: "Win £500!" -> win, £, 500, !"""
    return re.findall(r"\w+|[^\w\s]", text.lower())


class NaiveBayes:
    """Multinomial naive Bayes: each word of a message votes for the classes in which it is frequent.

        log P(k | message) = log P(k) + sum over its words w of log P(w | k) + constant
        P(k) = share of class k in the messages,  P(w | k) = (count of w in class k + 1) / (words in class k + V)

    Naive, for words are not independent. The + 1 keeps a word that a class has not shown from ruling it out; V is
    the number of different words in training; a word that training has not shown is skipped.

    Source: Manning, Raghavan and Schütze 2008, figure 13.2
    """

    def fit(self, texts, labels):
        """Count, and keep the logarithms: `classes`, ascending; `log_prior`, a list of log P(k) in their order; and
        `log_likelihood`, a dict that has for each word of training such a list of log P(w | k).

        Output: self
        Raises: ValueError where there are not as many labels as texts
        """
        counts, messages = {}, Counter(labels)
        for text, label in zip(texts, labels, strict=True):
            counts.setdefault(label, Counter()).update(words(text))
        self.classes = sorted(counts)
        self.log_prior = [math.log(messages[k] / messages.total()) for k in self.classes]
        vocabulary = set().union(*counts.values())
        self.log_likelihood = {}                       # word -> one number a class
        totals = [counts[k].total() + len(vocabulary) for k in self.classes]
        for word in vocabulary:
            self.log_likelihood[word] = [math.log((counts[k][word] + 1) / total)
                                         for k, total in zip(self.classes, totals)]
        return self

    @property
    def parameters(self):
        """How many numbers were counted: V words and one prior for each class."""
        return len(self.classes) * (1 + len(self.log_likelihood))

    def log_scores(self, text):
        """log P(k) + sum of log P(w | k), a number for each of `classes`."""
        votes = [self.log_likelihood[word] for word in words(text) if word in self.log_likelihood]
        return [math.fsum(column) for column in zip(self.log_prior, *votes)]

    def predict(self, texts):
        return [self.classes[scores.index(max(scores))] for scores in map(self.log_scores, texts)]

    def predict_proba(self, texts):
        """P(k | message) for each text, in the order of `classes`; each row sums to 1.

        The highest score is subtracted before exp: of a long message every P underflows to 0, and 0/0 is nothing.
        """
        rows = []
        for scores in map(self.log_scores, texts):
            weights = [math.exp(score - max(scores)) for score in scores]
            rows.append([weight / sum(weights) for weight in weights])
        return rows


def baseline_table(train, validation, test):
    """Fit each baseline on train; a dict for each, with its name and its accuracy, 0..1, on all three splits.

    Input: DataFrames with the columns Label and Text, such as the splits of gpt/spam.py
    """
    splits = {name: (message_texts(df), label_ids(df).tolist())
              for name, df in (("train", train), ("validation", validation), ("test", test))}
    table = []    # of {"name", "train", "validation", "test"}
    for name, model in (("majority", Majority()), ("length", LengthRule()), ("naive Bayes", NaiveBayes())):
        model.fit(*splits["train"])
        accuracies = {split: sum(a == b for a, b in zip(model.predict(texts), labels)) / len(labels)
                      for split, (texts, labels) in splits.items()}
        table.append({"name": name, **accuracies})
    return table
