"""Logistic regression on token counts: a linear model with one weight a token and class, written with torch.

Read along: chapters/10_believe_the_number.py. Source: Hastie, Tibshirani and Friedman 2009, section 4.4; Jurafsky and
Martin, Speech and Language Processing, chapter 5 (draft of the third edition). Shape letters: gpt/__init__.py, where
V is here how many different tokens training shows, N how many messages.
"""

import torch
from torch.nn import functional as F

from gpt.batches import encode
from gpt.losses import class_loss

# Chosen for the lowest validation loss: nats a message, mean over the balanced messages of seeds 0, 1 and 2, split
# without leaks. The test messages had no say. log(1 + count) was tried too: 0.106 at best.
#   penalty             0.1    0.03   0.01   0.003  0.001  3e-4   1e-4   3e-5   1e-5   3e-6   1e-6
#   each token once     0.261  0.174  0.129  0.105  0.097  0.097  0.103  0.111  0.121  0.133  0.145
#   as often as it is   0.246  0.177  0.140  0.122  0.118  0.122  0.132  0.145  0.159  0.176  0.192
PENALTY = 0.001


class LogisticRegression:
    """The tokens of a message vote for its class, as in naive Bayes, with weights that are fitted together.

        P(k | message) = softmax(b + sum over tokens t of x_t W_t)_k    x_t = 1 where t is in the message, else 0
        W and b minimise  class_loss + penalty / 2 * (sum of squares of W)        W (V, K), b (K,), x (N, V)

    With binary=False x_t is how often t comes. A token that training has not shown has no weight and is skipped; the
    order of the tokens is lost.

    Naive Bayes counts each word by itself: "free" and "prize", which come together, say the same thing twice, and its
    probabilities grow too sure. Here the gradient at a token is the error that all tokens together still make, so the
    two share what one of them would have got. W and b say only how classes differ, not how messages come about:
    a discriminative model, where naive Bayes is a generative one.

    The penalty pulls W to zero; without it, messages that can be told apart for certain would send W to infinity. It
    also leaves one minimum, but for a number added to all of b, which softmax takes out again: nothing is drawn at
    random, no seed matters. b is not pulled: how frequent a class is, is no reason to doubt it.

    Raises: ValueError for a penalty that is not above 0
    """

    def __init__(self, tokenizer, penalty=PENALTY, binary=True):
        if not penalty > 0:
            raise ValueError(f"the penalty is {penalty}: only above 0 is there a minimum to find")
        self.tokenizer, self.penalty, self.binary = tokenizer, penalty, binary

    def fit(self, texts, labels, weights=None):
        """Find the minimum, and keep `classes`, ascending; `weight` (V, K) and `bias` (K,), both float64; `row_of`, a
        dict from a token's id to its row of `weight`; and `parameters`, how many numbers were trained: (V + 1) K.

        Input: texts, N strings; labels, N class numbers; weights (K,), how much a message of each of `classes` counts,
            as in `class_loss`
        Output: self
        Raises: ValueError where there are not as many labels as texts, or not as many weights as classes
        """
        messages, self.classes = encode(texts, self.tokenizer), sorted(set(labels))
        if weights is not None and len(weights) != len(self.classes):
            raise ValueError(f"{len(weights)} weights for the {len(self.classes)} classes {self.classes}")
        targets = torch.tensor([self.classes.index(label) for _, label in zip(texts, labels, strict=True)])    # (N,)
        self.row_of = {token: row for row, token in enumerate(sorted(set().union(*messages)))}
        self.weight = torch.zeros(len(self.row_of), len(self.classes), dtype=torch.float64)                 # (V, K)
        self.bias = torch.zeros(len(self.classes), dtype=torch.float64)                                     # (K,)
        self.parameters = self.weight.numel() + self.bias.numel()
        ids, starts = self.known_tokens(messages)
        weights = None if weights is None else weights.double()

        def objective():
            loss = class_loss(self.scores(ids, starts), targets, weights)
            return loss + self.penalty / 2 * self.weight.square().sum()

        minimise(objective, [self.weight, self.bias])
        return self

    def known_tokens(self, messages):
        """The rows of `weight` that the messages name, laid end to end, and where each message starts: x without zeros.

        Output: ids (tokens,), starts (N,)
        """
        rows = [[self.row_of[token] for token in (sorted(set(message)) if self.binary else message)
                 if token in self.row_of] for message in messages]
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)                                # (N,)
        ids = torch.tensor([row for message in rows for row in message], dtype=torch.long)                  # (tokens,)
        return ids, lengths.cumsum(0) - lengths

    def scores(self, ids, starts):
        """b + x W: an embedding for each token, summed over a message. Output: (N, K)"""
        return F.embedding_bag(ids, self.weight, starts, mode="sum") + self.bias                            # (N, K)

    def predict_proba(self, texts):
        """P(k | message) for each text, in the order of `classes`; each row sums to 1."""
        return self.scores(*self.known_tokens(encode(texts, self.tokenizer))).softmax(dim=-1).tolist()

    def predict(self, texts):
        return [self.classes[row.index(max(row))] for row in self.predict_proba(texts)]


def minimise(objective, tensors):
    """Change `tensors` to where objective(), a smooth convex function of them, is least: its gradient is zero there.

    L-BFGS keeps the last steps and how the gradient changed over each, estimates the curvature from them and takes a
    step the length of which a line search fits: no learning rate. Float64, for float32 cannot see a gradient of 1e-9.
    """
    optimizer = torch.optim.LBFGS(tensors, max_iter=10_000, max_eval=20_000, history_size=20, tolerance_grad=1e-9,
                                  tolerance_change=0, line_search_fn="strong_wolfe")

    def objective_with_gradient():
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value

    for tensor in tensors:
        tensor.requires_grad_(True)
    optimizer.step(objective_with_gradient)
    for tensor in tensors:
        tensor.requires_grad_(False)
