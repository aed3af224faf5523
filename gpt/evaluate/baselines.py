"""What GPT-2 has to beat: three classifiers that only count, and logistic regression on what they count.

Each has fit(texts, labels), which returns itself, and predict(texts), a list of classes. Texts are strings, labels
class numbers 0..K-1; of equally good classes the lowest is predicted. Training has N messages, V different tokens.

Read along: chapters/05_spam_classifier.py, chapters/10_believe_the_number.py (logistic regression). Source: Manning,
Raghavan and Schütze 2008, chapter 13 (naive Bayes); Hastie, Tibshirani and Friedman 2009, section 4.4, and Jurafsky
and Martin, Speech and Language Processing, chapter 5 of the third edition's draft (logistic regression).
"""

import math
import re
from collections import Counter
from itertools import groupby

import torch

from gpt.batches import encode, label_ids, message_texts
from gpt.losses import class_loss


def most_frequent(counts):
    """The key of a Counter with the highest count; of several keys the lowest."""
    return min(counts, key=lambda key: (-counts[key], key))


class Majority:
    """Predicts the most frequent class of the training set, whatever the message says."""

    parameters = 1    # how many numbers `fit` finds

    def fit(self, texts, labels):
        self.label = most_frequent(Counter(labels))
        return self

    def predict(self, texts):
        return [self.label for _ in texts]


class LengthRule:
    """One class up to `threshold` characters, one for longer messages, because spam fills the SMS that it pays for.

    The threshold, one of the lengths that occur, and the two classes are those with the most correct predictions on
    the training messages; of several, the lowest. Where no message is longer, both classes are the same.
    """

    parameters = 3

    def fit(self, texts, labels):
        short, long = Counter(), Counter(labels)
        best = 0
        by_length = sorted(zip(map(len, texts), labels, strict=True))
        for threshold, rows in groupby(by_length, key=lambda row: row[0]):
            moved = Counter(label for _, label in rows)
            short, long = short + moved, long - moved
            classes = most_frequent(short), most_frequent(long or short)
            right = short[classes[0]] + long[classes[1]]
            if right > best:
                best, self.threshold, self.classes = right, threshold, classes
        return self

    def predict(self, texts):
        return [self.classes[len(text) > self.threshold] for text in texts]


def words(text):
    """Lower-case words and numbers, and each other sign by itself: "Win £500!" -> win, £, 500, !"""
    return re.findall(r"\w+|[^\w\s]", text.lower())


class NaiveBayes:
    """Multinomial naive Bayes: each word of a message votes for the classes in which it is frequent.

        log P(k | message) = log P(k) + sum over its words w of log P(w | k) + constant
        P(k) = share of class k in the messages,  P(w | k) = (count of w in class k + 1) / (words in class k + V)

    It is naive because words are not independent. The + 1 keeps a word that a class has not shown from ruling it out.
    V is the number of different words in training; a word that training has not shown is skipped.

    Source: Manning, Raghavan and Schütze 2008, figure 13.2
    """

    def fit(self, texts, labels):
        """Count, and keep the logarithms: `classes`, ascending; `log_prior`, a list of log P(k) in their order; and
        `log_likelihood`, a dict that has such a list of log P(w | k) for each word of training.

        Output: self
        Raises: ValueError where there are not as many labels as texts
        """
        counts = {}
        messages = Counter(labels)
        for text, label in zip(texts, labels, strict=True):
            counts.setdefault(label, Counter()).update(words(text))
        self.classes = sorted(counts)
        self.log_prior = [math.log(messages[k] / messages.total()) for k in self.classes]
        vocabulary = set().union(*counts.values())
        self.log_likelihood = {}                       # word -> one number per class
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
        """log P(k) + sum of log P(w | k), one number per class."""
        votes = [self.log_likelihood[word] for word in words(text) if word in self.log_likelihood]
        return [math.fsum(column) for column in zip(self.log_prior, *votes)]

    def predict(self, texts):
        return [self.classes[scores.index(max(scores))] for scores in map(self.log_scores, texts)]

    def predict_proba(self, texts):
        """P(k | message) for each text, in the order of `classes`; each row sums to 1."""
        rows = []
        for scores in map(self.log_scores, texts):    # minus the highest, because every P of a long message is 0 in exp
            weights = [math.exp(score - max(scores)) for score in scores]
            rows.append([weight / sum(weights) for weight in weights])
        return rows


def baseline_table(train, validation, test):
    """Fit each baseline on train; a dict for each, with its name and its accuracy, 0..1, on all three splits.

    Input: DataFrames with the columns Label and Text, such as the splits of gpt/spam.py
    """
    table = []
    for name, model in (("majority", Majority()), ("length", LengthRule()), ("naive Bayes", NaiveBayes())):
        model.fit(message_texts(train), label_ids(train).tolist())
        row = {"name": name}
        for split, messages in (("train", train), ("validation", validation), ("test", test)):
            labels = label_ids(messages).tolist()
            predicted = model.predict(message_texts(messages))
            row[split] = sum(a == b for a, b in zip(predicted, labels)) / len(labels)
        table.append(row)
    return table


# Chosen for the lowest validation loss: nats per message, mean over the balanced messages of seeds 0, 1 and 2, split
# without leaks. The test messages had no say.
#   penalty   0.1    0.03   0.01   0.003  0.001  3e-4   1e-4   3e-5   1e-5   3e-6   1e-6
#   loss      0.261  0.174  0.129  0.105  0.097  0.097  0.103  0.111  0.121  0.133  0.145
PENALTY = 0.001


class LogisticRegression:
    """The tokens of a message vote for its class, as in naive Bayes, with weights that are fitted together.

        P(k | message) = softmax(b + sum over tokens t of x_t W_t)_k    x_t = 1 where t is in the message, else 0
        W and b minimise  class_loss + PENALTY / 2 * (sum of squares of W)        W (V, K), b (K,), x (N, V)

    A token that training has not shown has no weight and is skipped; the order of the tokens is lost.

    Naive Bayes counts each word by itself. "free" and "prize" often come together and say the same thing twice, so its
    probabilities become too certain. Here the gradient of a token's weight is the error that all tokens together still
    make, so the two share the weight that one of them would have got. It is a discriminative model: W and b say how
    classes differ, not how messages come about. Naive Bayes is a generative one.

    The penalty pulls W towards zero, because messages that can be separated perfectly would send it to infinity. So
    there is one minimum and no seed matters. (A number added to all of b changes nothing in the softmax.) b is not
    pulled, because the frequency of a class is no reason to doubt it.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def fit(self, texts, labels, weights=None):
        """Find the minimum, and keep `classes`, ascending; `weight` (V, K) and `bias` (K,), both float64; `row_of`, a
        dict from a token's id to its row of `weight`; and `parameters`, how many numbers were trained: (V + 1) K.

        L-BFGS estimates the curvature from its last steps, and a line search finds the length of each step, so there is
        no learning rate. The numbers are float64, because float32 cannot see a gradient of 1e-9.

        Input: texts, N strings; labels, N class numbers; weights (K,), one per class, as in `class_loss`. Output: self
        Raises: ValueError for more or fewer labels than texts; torch's RuntimeError for more or fewer weights than K
        """
        messages = encode(texts, self.tokenizer)
        self.classes = sorted(set(labels))
        targets = torch.tensor([self.classes.index(label) for _, label in zip(texts, labels, strict=True)])    # (N,)
        weights = None if weights is None else weights.double()
        self.row_of = {token: row for row, token in enumerate(sorted(set().union(*messages)))}
        x = self.token_matrix(messages)                                                                     # (N, V)
        self.weight = torch.zeros(len(self.row_of), len(self.classes), dtype=torch.float64)                 # (V, K)
        self.bias = torch.zeros(len(self.classes), dtype=torch.float64)                                     # (K,)
        trained = [self.weight.requires_grad_(), self.bias.requires_grad_()]
        self.parameters = sum(tensor.numel() for tensor in trained)
        optimizer = torch.optim.LBFGS(trained, max_iter=10_000, tolerance_grad=1e-9, tolerance_change=0,
                                      line_search_fn="strong_wolfe")

        def objective():
            optimizer.zero_grad()
            loss = class_loss(x @ self.weight + self.bias, targets, weights) + PENALTY / 2 * self.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(objective)
        for tensor in trained:
            tensor.requires_grad_(False)
        return self

    def token_matrix(self, messages):
        """x of messages that are lists of token ids: (N, V), float64, sparse, so that zeros take no memory."""
        places = [(n, self.row_of[token]) for n, message in enumerate(messages)
                  for token in sorted(set(message)) if token in self.row_of]
        indices = torch.tensor(places, dtype=torch.long).view(-1, 2).T                                     # (2, tokens)
        ones = torch.ones(len(places), dtype=torch.float64)                                                 # (tokens,)
        size = len(messages), len(self.row_of)
        return torch.sparse_coo_tensor(indices, ones, size, check_invariants=True)                          # (N, V)

    def predict_proba(self, texts):
        """P(k | message) for each text, in the order of `classes`; each row sums to 1."""
        x = self.token_matrix(encode(texts, self.tokenizer))                                                # (N, V)
        return (x @ self.weight + self.bias).softmax(dim=-1).tolist()

    def predict(self, texts):
        return [self.classes[row.index(max(row))] for row in self.predict_proba(texts)]
