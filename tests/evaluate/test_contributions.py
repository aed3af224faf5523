"""Contributions against finite differences, a model that can be worked out by hand, and a loop over messages."""

import copy
import dataclasses
import re

import pytest
import torch
from torch import nn

from gpt.classify import class_logits, swap_head
from gpt.config import GPTConfig
from gpt.evaluate import contributions
from gpt.evaluate.contributions import gradient_times_input, leave_one_out, marked, spam_scores, token_vectors
from gpt.lora import merge_lora, replace_linear_with_lora
from gpt.model import GPTModel
from gpt.tokenizer import gpt2_tokenizer

SLOPE, LEFT_OUT = (pytest.mark.exercise("E10.8"), pytest.mark.exercise("E10.9"))
MEASURES = [pytest.param(gradient_times_input, marks=SLOPE), pytest.param(leave_one_out, marks=LEFT_OUT)]


def with_random_weights(model, classes=2, seed=2):
    """A head that tells messages apart, and weights large enough for each token to have a say."""
    generator = torch.Generator().manual_seed(seed)
    swap_head(model, classes)
    for p in model.parameters():
        if p.dim() == 2:
            p.data.normal_(0.0, 0.3, generator=generator)
    return model


def message(length=9, seed=0):
    return torch.randint(100, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def by_hand(model, token_ids):
    """The score of one message without padding, from all logits of the model."""
    with torch.no_grad():
        ham, spam = model(torch.tensor([token_ids]))[0, -1]
    return (spam - ham).item()


@pytest.fixture
def classifier(small_model):
    return with_random_weights(small_model)


def with_a_longer_copy(model, token, factor):
    """The model with one token more, the last: `token` with its vector times `factor`."""
    vectors = model.tok_emb.weight.detach()
    model = copy.deepcopy(model)
    model.tok_emb = nn.Embedding.from_pretrained(torch.cat([vectors, factor * vectors[token:token + 1]]))
    model.config = dataclasses.replace(model.config, vocab_size=len(vectors) + 1)
    return model


def finite_differences(model, token_ids, eps=1e-5):
    """(score with token t's vector (1 + eps) times as long - score with it (1 - eps) times) / 2 eps, for each t."""
    extra, slopes = model.config.vocab_size, []
    for t, token in enumerate(token_ids):
        changed = [*token_ids[:t], extra, *token_ids[t + 1:]]
        up, down = (by_hand(with_a_longer_copy(model, token, factor), changed) for factor in (1 + eps, 1 - eps))
        slopes.append((up - down) / (2 * eps))
    return torch.tensor(slopes)


# ---- the slope ------------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E10.8")
def test_gradient_times_input_is_the_slope_of_the_score_when_a_tokens_vector_grows(classifier):
    model, token_ids = classifier.double(), message()
    token_ids[6] = token_ids[2]    # one token at two places: each has a slope of its own
    slopes = gradient_times_input(model, token_ids).float()
    assert not slopes.requires_grad, "with a gradient the numbers hold on to the whole model's graph"
    expected = finite_differences(model, token_ids)
    assert expected.abs().median() > 1e-3, "slopes of nothing prove nothing"
    torch.testing.assert_close(slopes, expected, rtol=1e-4, atol=1e-6, msg=lambda text: (
        f"is it spam minus ham, at the last token, by the token's vector alone, times it?\n{text}"))


@pytest.mark.exercise("E10.8")
def test_the_slope_is_the_same_in_a_frozen_model_and_under_no_grad(classifier):
    expected = gradient_times_input(classifier, message())
    with torch.no_grad():
        assert torch.equal(gradient_times_input(classifier, message()), expected)
    classifier.requires_grad_(False)
    assert torch.equal(gradient_times_input(classifier, message()), expected), "a frozen model still has slopes"
    with torch.no_grad():
        assert torch.equal(gradient_times_input(classifier, message()), expected)


@pytest.mark.exercise("E10.8")
def test_the_slope_of_a_model_with_lora_is_that_of_the_merged_model(classifier):
    plain = gradient_times_input(classifier, message())
    replace_linear_with_lora(classifier, 3, 6)
    for name, p in classifier.named_parameters():
        if name.endswith("lora.B"):
            p.data.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    slopes = gradient_times_input(classifier, message())
    expected = finite_differences(copy.deepcopy(classifier).double(), message())
    torch.testing.assert_close(slopes, expected, rtol=1e-3, atol=1e-4)
    assert (slopes - plain).abs().max() > 1e-3, "the LoRA has no part in it"
    merge_lora(classifier)
    torch.testing.assert_close(gradient_times_input(classifier, message()), slopes, rtol=1e-3, atol=1e-4)


# ---- leaving out ----------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E10.9")
@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_leave_one_out_is_the_loop_over_messages_that_lack_one_token(classifier, batch_size):
    token_ids = message()
    token_ids[6] = token_ids[2]    # one token at two places: without either there is still the other
    expected = []
    for t in range(len(token_ids)):
        expected.append(by_hand(classifier, token_ids) - by_hand(classifier, token_ids[:t] + token_ids[t + 1:]))
    added = leave_one_out(classifier, token_ids, batch_size)
    torch.testing.assert_close(added, torch.tensor(expected), rtol=1e-4, atol=1e-5, msg=lambda text: (
        f"is it the whole minus the rest, and is the rest without the token rather than with padding?\n{text}"))
    assert not added.requires_grad


@pytest.mark.exercise("E10.9")
def test_the_shorter_messages_are_read_batch_size_at_a_time(classifier):
    read = []
    classifier.tok_emb.register_forward_hook(lambda module, inputs, output: read.append(len(inputs[0])))
    leave_one_out(classifier, message(), batch_size=4)
    assert sorted(read) == [1, 1, 4, 4], "the message itself, and nine shorter ones in batches of up to 4"


@pytest.mark.exercise("E10.9")
def test_of_a_message_of_one_token_a_padding_token_is_left():
    config = GPTConfig(vocab_size=50257, context_length=8, emb_dim=30, n_heads=5, n_layers=1)
    model = with_random_weights(GPTModel(config, torch.Generator().manual_seed(0)).eval())
    added = leave_one_out(model, [17])
    assert added.tolist() == pytest.approx([by_hand(model, [17]) - by_hand(model, [50256])], abs=1e-5)
    added = leave_one_out(model, [17, 5])
    rest = [by_hand(model, [17, 5]) - by_hand(model, [left]) for left in (5, 17)]
    assert added.tolist() == pytest.approx(rest, abs=1e-5), "a padding token is read where something is left"


# ---- both -----------------------------------------------------------------------------------------------------------

class Sum(nn.Module):
    """A classifier whose logits are linear in its token vectors: `power` 1. With 2 the vectors are squared first.

    Like a GPT-2 without blocks, of which each position knows the sum of what has come.
    """

    def __init__(self, vectors, power=1):
        super().__init__()
        self.tok_emb, self.power = nn.Embedding.from_pretrained(torch.tensor(vectors)), power
        self.trf_blocks, self.final_norm = nn.Sequential(), nn.Identity()
        self.out_head = nn.Linear(len(vectors[0]), 2)
        self.out_head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        self.out_head.bias.data = torch.tensor([0.0, 10.0])

    def embed(self, ids):
        return (self.tok_emb(ids) ** self.power).cumsum(dim=1)


VECTORS = [[1.0, 0.0], [0.0, 2.0], [4.0, 1.0]]    # ham -1, spam +6, both: 3 - 4 = -1


@pytest.mark.parametrize("measure", MEASURES)
def test_in_a_linear_model_both_measures_are_each_tokens_own_part_of_the_score(measure):
    model = Sum(VECTORS)
    assert measure(model, [1, 0, 2, 1]).tolist() == pytest.approx([6, -1, -1, 6])
    assert spam_scores(model, [[1, 0, 2, 1]]).item() == pytest.approx(6 - 1 - 1 + 6 + 10), "the bias is nobody's part"


@pytest.mark.parametrize("measure, expected", [pytest.param(gradient_times_input, [-2, 24, -26], marks=SLOPE),
                                               pytest.param(leave_one_out, [-1, 12, -13], marks=LEFT_OUT)])
def test_where_the_model_bends_the_two_measures_disagree(measure, expected):
    """Squared vectors: ham -1, spam 3 * 4 = 12, both 3 - 16 = -13; a slope of x^2 times x is twice that."""
    assert measure(Sum(VECTORS, power=2), [0, 1, 2]).tolist() == pytest.approx(expected)


def test_spam_scores_are_read_at_the_last_real_token_of_each_message():
    config = GPTConfig(vocab_size=50257, context_length=16, emb_dim=30, n_heads=5, n_layers=2)
    model = with_random_weights(GPTModel(config, torch.Generator().manual_seed(0)).eval())
    rows = [message(5), message(1, seed=1), message(12, seed=2)]
    assert spam_scores(model, rows).tolist() == pytest.approx([by_hand(model, row) for row in rows], abs=1e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_measuring_leaves_the_model_as_it_was_even_after_an_error(measure, classifier, sizes):
    classifier.train()
    classifier.trf_blocks[1].eval()
    classifier.trf_blocks[0].requires_grad_(False)
    class_logits(classifier, torch.tensor([message()]), torch.tensor([9])).sum().backward()
    others = []
    classifier.tok_emb.register_forward_hook(lambda *_: others.append(None))    # somebody's, to be left alone

    def state():
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
                 for m in classifier.modules()]
        grads = [None if p.grad is None else p.grad.clone() for p in classifier.parameters()]
        return (grads, [p.detach().clone() for p in classifier.parameters()], [torch.get_rng_state()], hooks,
                [p.requires_grad for p in classifier.parameters()], [m.training for m in classifier.modules()])

    before = state()
    measure(classifier, message())
    with pytest.raises(ValueError, match="tokens do not fit"):
        measure(classifier, [1] * (sizes.context + 1))
    with pytest.raises(ValueError, match="0 tokens do not fit"):
        measure(classifier, [])
    for what, old, new in zip(("a .grad", "a weight", "the random state"), before, state()):
        assert all(one is other is None or torch.equal(one, other) for one, other in zip(old, new, strict=True)), what
    assert before[3:] == state()[3:], "hooks, requires_grad or modes are not what they were"
    assert torch.is_grad_enabled() and others, "gradients, or the other's hook, are off"


@pytest.mark.parametrize("measure", MEASURES)
def test_dropout_has_no_part_in_it(measure):
    config = GPTConfig(vocab_size=101, context_length=24, emb_dim=30, n_heads=5, n_layers=2, drop_rate=0.5)
    model = with_random_weights(GPTModel(config, torch.Generator().manual_seed(0)).eval())
    expected = measure(model, message())
    assert torch.equal(measure(model.train(), message()), expected), "is dropout at work?"


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("classes", [1, 3])
def test_a_head_that_has_not_two_outputs_is_an_error(measure, classes, small_model):
    with pytest.raises(ValueError, match=f"the head has {classes} outputs.*of 2"):
        measure(with_random_weights(small_model, classes), message())


@pytest.mark.exercise("E10.9")
def test_a_language_model_is_an_error(small_model, sizes):
    with pytest.raises(ValueError, match=f"{sizes.V} outputs.*language model"):
        leave_one_out(small_model, message())


def test_the_hook_that_keeps_the_token_vectors_is_gone_afterwards_even_after_an_error(classifier):
    ids = torch.tensor([message()])
    with pytest.raises(KeyError):
        with token_vectors(classifier) as kept:
            classifier(ids)
            raise KeyError
    assert torch.equal(kept[0], classifier.tok_emb(ids)) and kept[0].is_leaf and kept[0].requires_grad
    assert not classifier.tok_emb._forward_hooks, "every later call would keep its vectors for ever"


# ---- shown in the text ----------------------------------------------------------------------------------------------

def marking(count, token_ids, numbers):
    """marked(), with so many tokens in brackets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contributions, "MARKED", count)
        return marked(token_ids, numbers, gpt2_tokenizer())


def show(text, numbers, count=contributions.MARKED):
    """marked() of a text; numbers: {token's place: contribution}, 0 for the others."""
    token_ids = gpt2_tokenizer().encode_ordinary(text)
    return marking(count, token_ids, [numbers.get(t, 0.0) for t in range(len(token_ids))])


CLAIM = "Call now to claim your prize!"    # 7 tokens: Call, now, to, claim, your, prize, !


def test_what_counts_most_is_marked_for_or_against():
    assert show(CLAIM, {0: 0.2, 3: -3.0, 5: 2.0, 6: 0.1}, count=2) == "Call now to [claim] your [prize]!"
    assert show(CLAIM, {0: 0.2, 3: -3.0, 5: 2.0, 6: 0.1}) == "[Call] now to [claim] your [prize]!", "three"


def test_of_equals_the_first_is_marked():
    assert show(CLAIM, {1: 1.0, 3: -1.0, 5: 1.0}, count=1) == "Call [now] to claim your prize!"
    assert show(CLAIM, {1: 1.0, 3: -1.0, 5: 1.0}, count=2) == "Call [now] to [claim] your prize!"
    assert show("a " * 40, {}, count=2) == "[a a]" + " a" * 38 + " ", "torch's sort is only stable when asked"


def test_neighbours_share_brackets_and_only_the_first_space_stays_outside():
    assert show(CLAIM, {4: 1.0, 5: -1.0, 6: 1.0}) == "Call now to claim [your prize!]"
    assert show(CLAIM, {0: 1.0, 1: 1.0, 6: 1.0}) == "[Call now] to claim your prize[!]"


def test_a_count_beyond_the_message_marks_all_of_it_and_0_nothing():
    assert show(CLAIM, {}, count=99) == f"[{CLAIM}]"
    assert show(CLAIM, {2: 1.0}, count=0) == CLAIM


@pytest.mark.parametrize("text, tokens, expected", [
    (" 😀!", [0], " [😀]!"),        # the emoji is two tokens: a space with three bytes, and the fourth
    (" 😀!", [1], " [😀]!"),
    (" 😀!", [0, 1], " [😀]!"),
    (" 😀!", [2], " 😀[!]"),
    ("win £500", [1], "win [£]500"),
    ("日本x", [1], "[日]本x"),       # 日 and 本 are two tokens each
    ("日本x", [2], "日[本]x"),
    ("日本x", [1, 2], "[日本]x"),
    ("日本x", [3, 4], "日[本x]"),
])
def test_a_bracket_never_stands_inside_a_character(text, tokens, expected):
    assert show(text, {t: 1.0 for t in tokens}, count=len(tokens)) == expected


TEXTS = ["Win £500 now 😀😀! Reply\tYES\r\nor\n\nSTOP  ", " 日本語 🇬🇧 naïve é\u200bx\u00a0y", "<|endoftext|> a", "   ", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_without_its_brackets_it_is_the_text_on_one_line(text):
    tokens = len(gpt2_tokenizer().encode_ordinary(text))
    for place in range(max(tokens, 1)):
        for count in (0, 1, 2, tokens):
            shown = show(text, {place: 1.0}, count=count)
            assert shown.replace("[", "").replace("]", "") == re.sub(r"\s", " ", text)
            assert bool(count and tokens) == ("[" in shown), "one marked token can be seen, white space or not"
            assert len(shown.splitlines()) <= 1 and "[]" not in shown


def test_bytes_that_are_no_character_are_shown_as_decode_shows_them():
    """A message that was cut inside an emoji, and one that a model wrote."""
    whole = gpt2_tokenizer().encode_ordinary("so 😀 A")
    broken = [whole[:2], [*whole[:2], *whole[3:]], whole[2:], [whole[2], whole[2], *whole]]
    for token_ids in broken:
        for count in range(len(token_ids) + 1):
            shown = marking(count, token_ids, [1.0] * len(token_ids))
            assert re.sub(r"[\[\]]", "", shown) == gpt2_tokenizer().decode(token_ids)
    assert marking(1, broken[0], [0.0, 1.0]) == "so [\ufffd]"


def test_numbers_of_another_message_are_an_error():
    with pytest.raises(ValueError, match="7 tokens but 3 contributions"):
        marked(gpt2_tokenizer().encode_ordinary(CLAIM), [1.0, 2.0, 3.0], gpt2_tokenizer())


def test_contributions_can_be_a_tensor():
    token_ids = gpt2_tokenizer().encode_ordinary(CLAIM)
    numbers = torch.tensor([0.0, 0, 0, -2, 0, 1, 0])
    assert marked(token_ids, numbers, gpt2_tokenizer()) == marked(token_ids, numbers.tolist(), gpt2_tokenizer())
