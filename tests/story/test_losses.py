"""gpt/losses.py against all logits at once, sums written out in Python, and averages over many draws."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gpt.config import GPTConfig
from gpt.losses import class_loss, class_weights, cross_entropy_by_hand, next_token_loss, sampled_softmax_loss
from gpt.model import GPTModel

V, N = 101, 2 * 9    # of small_model, and of the batch below


@pytest.fixture
def token_ids():
    return torch.randint(V, (2, 10), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def trained_model(small_model):
    """One that has opinions: fresh weights give every token nearly the same score."""
    with torch.no_grad():
        small_model.tok_emb.weight.mul_(20)
    return small_model


def full_loss(model, token_ids):
    return F.cross_entropy(model(token_ids[:, :-1]).flatten(0, 1), token_ids[:, 1:].flatten())


def gradients(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


class FixedHidden(nn.Module):
    """A model whose text does not matter: position n knows the n-th row of `vectors`."""

    def __init__(self, vectors, head):
        super().__init__()
        self.vectors, self.out_head = vectors, nn.Linear(*head.T.shape, bias=False)
        self.out_head.weight = nn.Parameter(head)

    def hidden(self, token_ids):
        return self.vectors[None]    # (1, N, C)


# All tokens

@pytest.mark.exercise("E4.1")
def test_equal_scores_cost_ln_v_and_a_sure_right_answer_nothing(sizes):
    N, V = sizes.B * sizes.T, sizes.V
    targets = torch.randint(V, (N,), generator=torch.Generator().manual_seed(2))
    loss = cross_entropy_by_hand(torch.zeros(N, V), targets)
    assert loss.shape == (), "one number for all tokens"
    assert math.isclose(loss.item(), math.log(V), rel_tol=1e-5), \
        f"who knows nothing is ln V = {math.log(V):.3f} surprised: is it the mean, of natural logarithms, over V?"
    assert cross_entropy_by_hand(50 * F.one_hot(targets, V).float(), targets).abs() < 1e-5, "the target's score counts"


@pytest.mark.exercise("E4.1")
def test_cross_entropy_by_hand_is_the_mean_over_tokens_of_minus_ln_p(sizes):
    logits = torch.randn(sizes.T, sizes.V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.randint(sizes.V, (sizes.T,), generator=torch.Generator().manual_seed(1))
    by_hand = 0.0
    for row, target in zip(logits.tolist(), targets.tolist()):
        by_hand -= math.log(math.exp(row[target]) / sum(math.exp(score) for score in row)) / sizes.T
    assert math.isclose(cross_entropy_by_hand(logits, targets).item(), by_hand), \
        "softmax over the V scores of a token, minus its logarithm, and the mean over tokens, not the sum"


@pytest.mark.exercise("E4.1")
def test_cross_entropy_by_hand_is_torchs_and_so_is_its_gradient():
    logits = 30 * torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([0, 4, 2, 2, 1, 3, 0])
    loss, torchs = cross_entropy_by_hand(logits, targets), F.cross_entropy(logits, targets)
    assert torch.allclose(loss, torchs)
    assert torch.allclose(*(torch.autograd.grad(one, logits)[0] for one in (loss, torchs)), atol=1e-6)
    huge = cross_entropy_by_hand(1000 + logits, targets)
    assert torch.allclose(huge, F.cross_entropy(logits, targets), atol=1e-3), "exp(1000) is infinite"


@pytest.mark.exercise("E4.1")
def test_a_target_that_is_impossible_in_float32_has_a_finite_loss_however_high_other_rows_are():
    logits = torch.tensor([[0.0, 500.0], [2000.0, 2000.0]], requires_grad=True)
    before = logits.detach().clone()
    loss = cross_entropy_by_hand(logits, torch.tensor([0, 1]))
    assert torch.equal(logits, before), "the model's scores were changed in place"
    assert math.isclose(loss.item(), (500 + math.log(2)) / 2, rel_tol=1e-6), \
        f"the first token costs 500 nats, the second ln 2, and the mean is not {loss:g}: the logarithm of a softmax " \
        "that is 0 is -inf, and the maximum to subtract is each row's own"


@pytest.mark.exercise("E4.7")
def test_the_target_of_a_token_is_the_one_after_it(trained_model):
    echo = torch.full((1, 9), 7)
    echo[0, -1] = 8    # the model has seen 7 alone; only the last target differs
    with torch.no_grad():
        scores = trained_model(echo[:, :-1]).log_softmax(dim=-1)[0]
        expected = -(scores[:-1, 7].sum() + scores[-1, 8]) / 8
        assert torch.allclose(next_token_loss(trained_model, echo), expected), "are the targets not shifted by one?"


@pytest.mark.exercise("E4.7")
def test_of_rows_with_lengths_only_the_real_tokens_are_predicted(trained_model, token_ids):
    lengths = [4, 10]
    by_hand = torch.cat([F.cross_entropy(trained_model(row[None, :n - 1])[0], row[1:n], reduction="none")
                         for row, n in zip(token_ids, lengths)])
    loss = next_token_loss(trained_model, (token_ids, torch.tensor(lengths)), chunk=5)
    assert torch.allclose(loss, by_hand.mean(), rtol=1e-5), "3 and 9 tokens are real and not the first: was padding " \
        "predicted, or divided by another number than that of the targets?"


@pytest.mark.exercise("E4.7")
@pytest.mark.parametrize("chunk", [1, 7, N, 1000])
def test_chunks_change_neither_the_loss_nor_a_gradient(trained_model, token_ids, chunk):
    expected, loss = full_loss(trained_model, token_ids), next_token_loss(trained_model, token_ids, chunk)
    assert torch.allclose(loss, expected, rtol=1e-5), "is it a mean over all tokens? The last chunk is shorter"
    assert torch.allclose(gradients(trained_model, loss), gradients(trained_model, expected), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(next_token_loss(trained_model, token_ids, chunk), expected, rtol=1e-5)


@pytest.mark.exercise("E4.7")
def test_the_head_never_makes_more_than_one_chunk_of_logits(trained_model, token_ids):
    rows, kept = [], []
    trained_model.out_head.register_forward_hook(lambda head, inputs, logits: rows.append(logits.shape[:-1].numel()))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        loss = next_token_loss(trained_model, token_ids, chunk=4)
    assert rows == [4, 4, 4, 4, 2], "18 tokens in chunks of 4: the head must not see more of them at once"
    vocab_size = trained_model.config.vocab_size
    assert not [shape for shape in kept if len(shape) == 2 and shape[0] <= 4 and shape[1] == vocab_size], \
        "the logits of every chunk are kept for the backward pass: where is checkpoint()?"
    loss.backward()
    assert sum(rows) == 2 * N and max(rows) == 4, "in training each chunk is computed twice, and never all at once"
    rows.clear()
    with torch.no_grad():
        next_token_loss(trained_model, token_ids, chunk=4)
    assert sum(rows) == N, "without gradients once is enough"


@pytest.mark.parametrize("loss_fn", [
    pytest.param(next_token_loss, marks=pytest.mark.exercise("E4.7")),
    lambda model, ids: sampled_softmax_loss(model, ids, torch.full((2000,), 1 / 2000), 1000,
                                            torch.Generator().manual_seed(0))])
def test_an_untrained_model_knows_nothing(loss_fn):
    config = GPTConfig(vocab_size=2000, context_length=16, emb_dim=32, n_heads=4, n_layers=2)
    model = GPTModel(config, torch.Generator().manual_seed(0))
    ids = torch.randint(2000, (8, 17), generator=torch.Generator().manual_seed(1))
    assert math.isclose(loss_fn(model, ids).item(), math.log(2000), rel_tol=0.02), "the first loss is ln V"


@pytest.mark.exercise("E9.3")
def test_the_class_loss_of_equal_scores_is_ln_k():
    assert math.isclose(class_loss(torch.zeros(4, 3), torch.tensor([0, 1, 2, 2])).item(), math.log(3), rel_tol=1e-6)


# Unequal classes

@pytest.fixture
def unequal():
    """12 messages of 3 classes, 8, 3 and 1, and scores for them."""
    labels = torch.tensor([0, 0, 1, 0, 0, 0, 1, 0, 2, 0, 0, 1])
    return torch.randn(12, 3, generator=torch.Generator().manual_seed(2)), labels


@pytest.mark.exercise("E9.2")
def test_a_message_weighs_what_makes_its_class_count_like_any_other(unequal):
    weights = class_weights(unequal[1], 3)
    assert weights.tolist() == pytest.approx([12 / (3 * 8), 12 / (3 * 3), 12 / (3 * 1)]), (
        "n / (K n_k): is it upside down, or without K, so that the weights are 1 on average no more?")
    assert [sum(weights[k].item() for k in unequal[1].tolist() if k == j) for j in range(3)] == pytest.approx([4, 4, 4])
    assert class_weights(torch.tensor([1, 0, 1, 0]), 2).tolist() == [1, 1], "even classes need no weights"


@pytest.mark.exercise("E9.3")
def test_the_weighted_loss_is_the_mean_of_the_messages_surprises_times_their_weights(unequal):
    logits, labels = unequal
    weights, by_hand = [0.5, 2.0, 7.0], 0.0
    for row, y in zip(logits.double().tolist(), labels.tolist(), strict=True):
        by_hand += weights[y] * (math.log(sum(math.exp(score) for score in row)) - row[y]) / len(labels)
    assert math.isclose(class_loss(logits, labels, torch.tensor(weights)).item(), by_hand, rel_tol=1e-5), (
        "is it divided by the sum of the weights, not by the number of messages?")


@pytest.mark.exercise("E9.3")
def test_over_all_messages_it_is_torchs_weighted_mean_and_so_is_the_mean_over_batches(unequal):
    """torch's own, batch by batch, is not: it divides by the weights of the batch, and in one of one class by w."""
    logits, labels = unequal
    weights = class_weights(labels, 3)
    whole = F.cross_entropy(logits, labels, weights).item()
    assert math.isclose(class_loss(logits, labels, weights).item(), whole, rel_tol=1e-5)
    batches = list(zip(logits.split(3), labels.split(3), strict=True))
    ours = sum(class_loss(*batch, weights).item() for batch in batches) / len(batches)
    torchs = sum(F.cross_entropy(*batch, weights).item() for batch in batches) / len(batches)
    assert math.isclose(ours, whole, rel_tol=1e-5) and not math.isclose(torchs, whole, rel_tol=0.01)


@pytest.mark.exercise("E9.3")
@pytest.mark.parametrize("weights", [None, [1.0, 4.0]])
def test_a_certain_and_wrong_answer_costs_what_its_scores_say(weights):
    logits = torch.tensor([[0.0, 300.0], [300.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = class_loss(logits, torch.tensor([0, 1, 0]), None if weights is None else torch.tensor(weights))
    one, other = weights or (1.0, 1.0)
    assert math.isclose(loss.item(), (one * 300 + other * 300 + one * math.log(2)) / 3, rel_tol=1e-6), \
        "log softmax is to be taken in one: a softmax first gives 0, and its logarithm is -inf. Class 0 counts as well"
    loss.backward()
    assert logits.grad.abs().sum(dim=-1).tolist() == pytest.approx([one * 2 / 3, other * 2 / 3, one / 3]), \
        "each message pulls at its own scores"


@pytest.mark.exercise("E9.2")
def test_a_class_without_messages_has_no_weight():
    with pytest.raises(ValueError, match=r"\b1\b"):    # its number, so that it can be found
        class_weights(torch.tensor([0, 2, 2]), 3)
    with pytest.raises(ValueError, match=r"\b2\b"):
        class_weights(torch.tensor([0, 1]), 3)
    with pytest.raises(ValueError, match=r"\b3\b"):    # classes 3 and 5 have none, and 3 is the first
        class_weights(torch.tensor([0, 1, 2, 4, 0, 1]), 6)
    with pytest.raises(ValueError, match=r"\b0\b"):
        class_weights(torch.tensor([], dtype=torch.long), 2)


# A sample of the tokens

def sampled(model, token_ids, unigram, samples, seed=0):
    return sampled_softmax_loss(model, token_ids, unigram, samples, torch.Generator().manual_seed(seed))


def test_with_every_token_certain_to_be_drawn_the_estimate_is_the_loss(trained_model, token_ids):
    expected = full_loss(trained_model, token_ids)
    loss = sampled(trained_model, token_ids, torch.full((V,), 1 / V), 40 * V)
    assert torch.allclose(loss, expected, rtol=1e-5)
    assert torch.allclose(gradients(trained_model, loss), gradients(trained_model, expected), rtol=1e-4, atol=1e-6)


def test_the_estimate_is_the_sum_of_its_formula(trained_model, token_ids, monkeypatch):
    unigram = torch.arange(1.0, V + 1) / torch.arange(1.0, V + 1).sum()
    draws = torch.tensor([3, 3, 50, 99, int(token_ids[0, 1])])    # one twice, one that is a target as well
    monkeypatch.setattr(torch, "multinomial", lambda *args, **options: draws)
    loss = sampled(trained_model, token_ids, unigram, samples=5)
    targets = token_ids[:, 1:].flatten().tolist()
    scores = trained_model(token_ids[:, :-1]).flatten(0, 1).double().tolist()
    pi = [1 - (1 - q) ** (N + 5) for q in unigram.double().tolist()]
    by_hand = 0.0
    for row, y in zip(scores, targets):
        others = {*targets, *draws.tolist()} - {y}
        z = math.exp(row[y]) + sum(math.exp(row[v]) / pi[v] for v in others)
        by_hand += (math.log(z) - row[y]) / N
    assert math.isclose(loss.item(), by_hand, rel_tol=1e-5), \
        "a token drawn twice counts once, each other one 1 / pi, and the target, which is certain to be there, 1"


def test_over_many_draws_the_estimate_of_z_is_right():
    generator = torch.Generator().manual_seed(0)
    vectors, head = torch.randn(1, 6, generator=generator), torch.randn(60, 6, generator=generator)
    unigram = torch.arange(1.0, 61) / torch.arange(1.0, 61).sum()
    model, scores = FixedHidden(vectors, head), (vectors @ head.T)[0]
    with torch.no_grad():
        losses = torch.stack([sampled_softmax_loss(model, torch.tensor([[0, 17]]), unigram, 100, generator)
                              for _ in range(1000)])
    estimates = (losses + scores[17]).exp() / scores.exp().sum()    # of Z, its true value being 1
    error = estimates.std() / math.sqrt(len(estimates))
    assert error < 0.01 and abs(estimates.mean() - 1) < 0.01 + 4 * error, \
        f"Z comes out {estimates.mean():.3f} times what it is: are the candidates not weighted by 1 / pi?"


def test_its_gradient_points_where_the_full_one_does(trained_model, token_ids):
    exact = gradients(trained_model, full_loss(trained_model, token_ids))
    unigram = torch.arange(1.0, V + 1) / torch.arange(1.0, V + 1).sum()
    mean = sum(gradients(trained_model, sampled(trained_model, token_ids, unigram, 60, seed)) for seed in range(30))
    assert F.cosine_similarity(mean, exact, dim=0) > 0.95


def test_a_token_that_makes_up_the_whole_text_has_weight_1(trained_model):
    unigram = torch.zeros(V)
    unigram[7] = 1.0
    assert sampled(trained_model, torch.full((1, 6), 7), unigram, 4).item() == 0.0, "one candidate alone is certain"


def test_a_target_that_the_text_never_held_is_an_error_and_not_nan(trained_model):
    unigram = torch.full((V,), 1 / (V - 1))
    unigram[9] = 0.0
    assert sampled(trained_model, torch.tensor([[9, 5, 6]]), unigram, 50).isfinite(), "9 is read, not predicted"
    with pytest.raises(ValueError, match="token 9 .*share.* is 0"):
        sampled(trained_model, torch.tensor([[5, 9, 6]]), unigram, 50)


def test_the_generator_alone_decides_the_draws(trained_model, token_ids):
    unigram, state = torch.full((V,), 1 / V), torch.get_rng_state()
    one, again, other = (sampled(trained_model, token_ids, unigram, 30, seed) for seed in (1, 1, 2))
    assert one == again and one != other
    assert torch.equal(torch.get_rng_state(), state), "torch's global generator was drawn from: dropout would change"


def test_in_bfloat16_the_sum_over_candidates_stays_in_float32(trained_model, token_ids):
    unigram = torch.full((V,), 1 / V)
    with torch.autocast("cpu", torch.bfloat16):
        for loss_fn in (next_token_loss, lambda model, ids: sampled(model, ids, unigram, 200)):
            loss = loss_fn(trained_model, token_ids)
            assert loss.dtype == torch.float32, "nats with three digits: were the logits not made float32?"
    with torch.no_grad():
        assert torch.allclose(loss, sampled(trained_model, token_ids, unigram, 200), rtol=0.01)


@pytest.mark.exercise("E9.2")
@pytest.mark.parametrize("labels, number", [([0, 1, 2], 2), ([0, 1, -1], -1)])
def test_a_label_beyond_the_classes_has_no_weight(labels, number):
    with pytest.raises(ValueError, match=rf"(?<![-\d]){number}\b"):    # whatever torch would make of it
        class_weights(torch.tensor(labels), 2)
