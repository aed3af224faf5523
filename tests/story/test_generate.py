"""gpt/generate.py against loops that keep nothing, and its draws against distributions made by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gpt.applications.text_writer import text_scores
from gpt.attention import KVCache
from gpt.classify import swap_head
from gpt.config import GPTConfig
from gpt.generate import choose, generate, generate_text_simple
from gpt.losses import next_token_loss
from gpt.model import GPTModel

SETTINGS = {
    "greedy": dict(temperature=0.0),
    "sampled": dict(temperature=1.0),
    "all at once": dict(temperature=0.8, top_k=20, top_p=0.9),
}


@pytest.fixture
@torch.no_grad()
def talkative_model(small_model):
    """Matrices 20 times as large as an untrained model's, which mostly repeats the last token (chapter 3, 3.17), and
    each token's score is moved to the next one, so that what is repeated is not the same token."""
    for parameter in small_model.parameters():
        if parameter.ndim == 2:
            parameter.mul_(20)
    small_model.out_head.weight = nn.Parameter(small_model.tok_emb.weight.roll(1, dims=0))
    return small_model.double()


class Counter(nn.Module):
    """Stands in for a model and always counts on: after token 3 its most probable one is 4."""

    def __init__(self):
        super().__init__()
        self.config = GPTConfig(vocab_size=12, context_length=8, emb_dim=12)
        self.tok_emb, self.out_head = nn.Embedding(12, 12), nn.Identity()

    def new_cache(self, padding=None):
        return [KVCache(8, padding)]    # nobody fills it

    def hidden(self, token_ids, cache):
        return 50 * F.one_hot((token_ids + 1) % 12, 12).float()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def prompts(*shape):
    return torch.randint(101, shape, generator=seeded())


@torch.no_grad()
def from_scratch(model, token_ids, max_new_tokens, generator, **settings):
    """Every step reads the last tokens that the window holds anew and scores all of them."""
    for _ in range(max_new_tokens):
        token = choose(model(token_ids[:, -model.config.context_length:])[:, -1], generator=generator, **settings)
        token_ids = torch.cat([token_ids, token], dim=1)
    return token_ids


# ---- the loop and the cache -------------------------------------------------------------------------------------

@pytest.mark.exercise("E3.6")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("length", [1, 5, "window - 1", "window", "window + 1", 40])
def test_with_the_cache_every_token_is_the_one_without_it(talkative_model, length, settings, pytestconfig):
    window = talkative_model.config.context_length
    length = {"window - 1": window - 1, "window": window, "window + 1": window + 1}.get(length, length)
    ids, more = prompts(2, length), window + 6    # all of these cross the end of the window or begin beyond it
    text = generate(talkative_model, ids, more, generator=seeded(), **settings)
    assert text.shape == (2, length + more) and torch.equal(text[:, :length], ids), "the text begins with its prompt"
    expected = from_scratch(talkative_model, ids, more, seeded(), **settings)
    differ = (text != expected).any(dim=0).nonzero().flatten().tolist()
    assert not differ, f"the first other token stands at place {differ[0]} of the text, the window has {window}: " \
        "are the last position's logits read, each token once, and past the window all of it anew?"
    if pytestconfig.getoption("--hidden") is None:    # of other sizes a right answer may be monotonous
        assert min(len(set(row[length:].tolist())) for row in text) > 5, "too monotonous a text to prove anything"


class CountsOn:
    """Called as a model is. After token 3 its most probable one is 4, at every position; it notes what it reads."""

    def __init__(self):
        self.read = []

    def __call__(self, token_ids):
        self.read.append(token_ids.tolist())
        return 50.0 * F.one_hot((token_ids + 1) % 12, 12)    # (B, T, V)


@pytest.mark.exercise("E3.4")
def test_the_simple_loop_goes_on_after_the_last_token_and_keeps_the_prompt():
    text = generate_text_simple(CountsOn(), torch.tensor([[7, 2, 3], [1, 9, 9]]), 4, context_size=8)
    assert text[:, :3].tolist() == [[7, 2, 3], [1, 9, 9]], "the text begins with its prompt, all of it"
    assert text[:, 3:].tolist() == [[4, 5, 6, 7], [10, 11, 0, 1]], \
        "what comes next is scored at the last position, over the last axis, for each row by itself"


@pytest.mark.exercise("E3.4")
def test_the_simple_loop_reads_no_more_than_the_last_context_size_tokens():
    model, ids = CountsOn(), torch.tensor([[7, 2, 3]])
    text = generate_text_simple(model, ids, 3, context_size=4)
    assert model.read == [[[7, 2, 3]], [[7, 2, 3, 4]], [[2, 3, 4, 5]]], "the window moves on with the text's end"
    assert text.tolist() == [[7, 2, 3, 4, 5, 6]], "what the model no longer reads still belongs to the text"
    assert ids.tolist() == [[7, 2, 3]] and torch.equal(generate_text_simple(model, ids, 0, context_size=4), ids)


@pytest.mark.exercise("E3.4")
def test_the_simple_loop_appends_the_most_probable_token(talkative_model):
    ids = prompts(2, 5)
    text = generate_text_simple(talkative_model, ids, 30, context_size=9)
    for row in text:
        for t in range(5, 35):
            logits = talkative_model(row[None, max(0, t - 9):t])[0, -1]
            assert row[t] == logits.argmax(), "does it read the last context_size tokens, and the last position?"
    assert torch.equal(text[:, :5], ids) and text.shape == (2, 35)


@pytest.mark.exercise("E3.6")
def test_a_step_reads_one_token_and_scores_one_position_until_the_window_is_full(small_model, sizes):
    window = sizes.context
    read, scored = [], []
    small_model.trf_blocks[0].register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    small_model.out_head.register_forward_hook(lambda _, args, out: scored.append((args[0].shape, out.requires_grad)))
    generate(small_model, prompts(2, window - 4), 8)
    assert read == [window - 4, 1, 1, 1, 1, window, window, window], \
        "the prompt once, then each new token, past the window all of it: was the cache not given, or kept too long?"
    assert scored == [((2, sizes.C), False)] * 8, "the head is run on all positions, or there are gradients"


@pytest.mark.exercise("E3.6")
def test_n_tokens_cost_n_vectors_with_the_cache_and_a_triangle_without(small_model):
    read = []
    small_model.trf_blocks[0].register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    generate_text_simple(small_model, prompts(1, 1), 20, 24)
    assert sum(read) == 20 * 21 // 2, "the simple loop reads the whole text at every step"
    read.clear()
    generate(small_model, prompts(1, 1), 20)
    assert sum(read) == 20, "each token is read once: its keys and values are kept"


@pytest.mark.exercise("E3.6")
def test_past_the_window_only_its_last_tokens_count(talkative_model, sizes):
    ids = prompts(2, 40)
    other = ids.clone()
    other[:, :40 - sizes.context] = (ids[:, :40 - sizes.context] + 1) % 101
    assert torch.equal(generate(talkative_model, ids, 10)[:, 40:], generate(talkative_model, other, 10)[:, 40:])


def test_a_row_does_not_depend_on_its_neighbours(talkative_model):
    ids = prompts(4, 6)
    together = generate(talkative_model, ids, 25, stop=7)
    for i, row in enumerate(ids):
        alone = generate(talkative_model, row[None], 25, stop=7)[0]
        assert torch.equal(together[i, :len(alone)], alone)


@pytest.mark.exercise("E3.6")
def test_lists_and_tensors_are_the_same_prompts_and_stay_as_they_are(talkative_model):
    ids = prompts(2, 5)
    before = ids.clone()
    assert torch.equal(generate(talkative_model, ids, 4), generate(talkative_model, ids.tolist(), 4))
    assert torch.equal(ids, before) and torch.equal(generate(talkative_model, ids, 0), ids)


@pytest.mark.exercise("E3.6")
def test_dropout_is_off_while_it_writes_and_the_models_mode_stays():
    model = GPTModel(GPTConfig(101, 24, 30, 5, 3, drop_rate=0.5), seeded())
    in_training = generate(model, prompts(1, 5), 30, temperature=1.0, generator=seeded())
    assert model.training, "training would go on without dropout"
    model.eval()
    assert torch.equal(in_training, generate(model, prompts(1, 5), 30, temperature=1.0, generator=seeded())), \
        "dropout was on while it wrote"
    assert not model.training, "a model in eval mode must stay in it"
    model.train()
    model.trf_blocks[0].eval()
    modes = [module.training for module in model.modules()]
    generate(model, prompts(1, 5), 1)
    assert [module.training for module in model.modules()] == modes, "a frozen part would drop out again"


# ---- stopping ---------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E3.6")
def test_each_row_stops_for_itself_and_the_batch_when_all_have():
    text = generate(Counter(), [[1], [3], [4]], 10, stop=5)
    assert text.tolist() == [[1, 2, 3, 4, 5], [3, 4, 5, 5, 5], [4, 5, 5, 5, 5]], \
        "a row that has stopped goes on with the stop token until the last one has stopped; then it is over"


@pytest.mark.exercise("E3.6")
def test_without_a_stop_token_a_text_has_the_length_asked_for():
    assert generate(Counter(), [[1], [3]], 4).tolist() == [[1, 2, 3, 4, 5], [3, 4, 5, 6, 7]]
    assert generate(Counter(), [[1], [3]], 4, stop=9).tolist() == [[1, 2, 3, 4, 5], [3, 4, 5, 6, 7]]


@pytest.mark.exercise("E3.6")
def test_a_stop_token_in_the_prompt_stops_nothing():
    assert generate(Counter(), [[5, 1]], 3, stop=5).tolist() == [[5, 1, 2, 3, 4]]


@pytest.mark.exercise("E3.6")
def test_token_0_can_be_the_stop_token():
    assert generate(Counter(), [[10]], 5, stop=0).tolist() == [[10, 11, 0]], "`if stop` takes 0 for no stop token"


# ---- choosing ---------------------------------------------------------------------------------------------------

PROBABILITIES = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15])    # by rank: 1, 3, 4, 2, 0
DRAWS = 20_000


def frequencies(probabilities, **settings):
    """How often each token is drawn in DRAWS draws."""
    draws = choose(probabilities.log().expand(DRAWS, -1), generator=seeded(), **{"temperature": 1.0} | settings)
    return draws.flatten().bincount(minlength=len(probabilities))


def assert_drawn_from(probabilities, counts):
    """Pearson's chi-square has mean n - 1 and variance 2 (n - 1) over n possible tokens: allow five deviations."""
    assert not counts[probabilities == 0].any(), "a token was drawn that should have been cut off"
    counts, expected = counts[probabilities > 0], DRAWS * probabilities[probabilities > 0]
    freedom = len(counts) - 1
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square <= freedom + 5 * math.sqrt(2 * freedom), f"drawn {counts.tolist()}, expected {expected.tolist()}"


@pytest.mark.exercise("E4.4")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_the_softmax_of_the_divided_scores(temperature):
    expected = PROBABILITIES ** (1 / temperature)    # softmax(log p / temperature), before it is scaled to sum 1
    assert_drawn_from(expected / expected.sum(), frequencies(PROBABILITIES, temperature=temperature))


@pytest.mark.exercise("E4.4")
def test_temperature_0_takes_the_most_probable_token_and_so_does_a_very_low_one():
    logits = torch.randn(50, 101, generator=seeded())
    best = logits.argmax(dim=-1, keepdim=True)
    assert choose(logits).shape == (50, 1) and torch.equal(choose(logits), best), "at 0 the highest score is taken"
    assert torch.equal(choose(logits, temperature=1e-4), best), "low temperature sharpens: is it multiplied by?"
    for low in (1e-6, 1e-40, 5e-324):
        assert torch.equal(choose(logits * 1e4, temperature=low), best), "the division overflows"
    assert torch.equal(choose(logits.half(), temperature=1e-5), logits.half().argmax(dim=-1, keepdim=True))
    assert not torch.equal(choose(logits, temperature=100.0, generator=seeded()), best), "a high one flattens"


@pytest.mark.exercise("E4.4")
@pytest.mark.parametrize("k, kept", [(1, [1]), (2, [1, 3]), (3, [1, 3, 4]), (5, range(5)), (99, range(5))])
def test_top_k_draws_from_the_k_most_probable_in_proportion(k, kept):
    expected = torch.tensor([p if token in kept else 0.0 for token, p in enumerate(PROBABILITIES.tolist())])
    assert_drawn_from(expected / expected.sum(), frequencies(PROBABILITIES, top_k=k))


@pytest.mark.exercise("E4.4")
@pytest.mark.parametrize("k", [1, 3, 8])
def test_top_k_keeps_exactly_k_of_equals(k):
    counts = frequencies(torch.full((8,), 1 / 8), top_k=k)
    assert (counts > 0).sum() == k, "`logits < kth` lets all that equal the k-th through"


@pytest.mark.exercise("E4.4")
@pytest.mark.parametrize("p, kept", [(0.001, [1]), (0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 3, 4]),
                                     (0.86, [1, 2, 3, 4]), (0.96, range(5)), (1.0, range(5))])
def test_top_p_draws_from_the_smallest_set_that_reaches_p(p, kept):
    expected = torch.tensor([p if token in kept else 0.0 for token, p in enumerate(PROBABILITIES.tolist())])
    assert_drawn_from(expected / expected.sum(), frequencies(PROBABILITIES, top_p=p))


@pytest.mark.exercise("E4.4")
def test_top_p_that_is_just_reached_needs_no_further_token_and_equals_are_drawn_at_any_temperature():
    equal = torch.full((4,), 0.25)    # a quarter, and so its multiples, are exact
    for p, kept in ((0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)):
        assert (frequencies(equal, top_p=p) > 0).sum() == kept, f"{kept} of four equals reach {p}: > in place of >=?"
    assert (frequencies(equal, temperature=0.01) > 1000).all(), "however cold, equals are drawn: only 0 is greedy"


@pytest.mark.exercise("E4.4")
def test_top_p_is_a_share_of_what_top_k_left():
    counts = frequencies(torch.tensor([0.4, 0.3, 0.2, 0.1]), top_k=2, top_p=0.5)
    assert counts.tolist() == [DRAWS, 0, 0, 0], "after top_k=2 the first token has 4/7, and 4/7 alone reaches 0.5"


@pytest.mark.exercise("E4.4")
def test_top_p_is_taken_after_the_temperature():
    counts = frequencies(torch.tensor([0.4, 0.3, 0.2, 0.1]), temperature=0.25, top_p=0.7)
    assert counts.tolist() == [DRAWS, 0, 0, 0], "at temperature 1/4 the first token has 0.72"


@pytest.mark.exercise("E4.4")
def test_each_row_is_cut_and_drawn_by_its_own_scores():
    rows = torch.stack([PROBABILITIES, PROBABILITIES.flip(0)]).log()
    assert choose(rows, temperature=1.0, top_p=0.3).tolist() == [[1], [3]], "each row has an order of its own"
    assert choose(rows, temperature=1.0, top_k=1).tolist() == choose(rows).tolist() == [[1], [3]]
    sure, unsure = torch.tensor([0.9, 0.06, 0.04]).log(), torch.tensor([0.4, 0.35, 0.25]).log()
    draws = choose(torch.stack([sure, unsure] * 200), temperature=1.0, top_p=0.5, generator=seeded()).view(200, 2)
    assert set(draws[:, 0].tolist()) == {0} and set(draws[:, 1].tolist()) == {0, 1}, \
        "one row reaches p with one token, the next with two: each is cut where its own probabilities reach p"


@pytest.mark.exercise("E4.4")
def test_choosing_leaves_the_scores_as_they_are():
    logits = PROBABILITIES.log()[None]
    choose(logits, temperature=0.7, top_k=2, top_p=0.5)
    assert torch.equal(logits, PROBABILITIES.log()[None]), "-inf was written into the caller's logits"


@pytest.mark.exercise("E4.4")
def test_the_choice_draws_from_the_generator_that_it_is_given_and_greedily_from_none():
    logits, before = torch.randn(50, 101, generator=seeded()), torch.random.get_rng_state()
    drawn = [choose(logits, temperature=1.0, top_k=50, generator=seeded(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2]), "the generator fixes the draw"
    assert torch.equal(torch.random.get_rng_state(), before), "torch's global generator was drawn from"
    greedy = seeded()
    choose(logits, generator=greedy)
    assert torch.equal(greedy.get_state(), seeded().get_state()), "at temperature 0 nothing is drawn"


# ---- randomness -------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E3.6")
def test_a_generator_fixes_the_text_and_leaves_torchs_own_alone(talkative_model):
    def text(seed):
        return generate(talkative_model, prompts(2, 5), 20, temperature=1.0, generator=seeded(seed))

    before = torch.random.get_rng_state()
    assert torch.equal(text(1), text(1)) and not torch.equal(text(1), text(2))
    assert torch.equal(torch.random.get_rng_state(), before), "sampling changed what else is drawn in this program"


def test_without_a_generator_torchs_seed_fixes_the_text_and_moves_on(talkative_model):
    torch.manual_seed(1)
    first, second = (generate(talkative_model, prompts(1, 5), 20, temperature=1.0) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(generate(talkative_model, prompts(1, 5), 20, temperature=1.0), first)
    assert not torch.equal(first, second), "a second text must not be the first one again"


# ---- prompts of unequal length -----------------------------------------------------------------------------------

@pytest.mark.exercise("E3.6")
@pytest.mark.parametrize("lengths", [(3, 7, 1), (6, 6, 5), (1, "window"), ("window + 9", 2, "window - 1"),
                                     ("window + 9", "window + 4")])
def test_each_prompt_of_a_batch_is_continued_as_it_is_alone(talkative_model, lengths):
    window = talkative_model.config.context_length
    places = {"window": window, "window + 9": window + 9, "window + 4": window + 4, "window - 1": window - 1}
    batch = [prompts(40)[i:i + places.get(length, length)].tolist() for i, length in enumerate(lengths)]
    texts = generate(talkative_model, batch, window + 6)    # all cross the end of the window
    for prompt, text in zip(batch, texts, strict=True):
        alone = generate(talkative_model, [prompt], window + 6)[0]
        assert text[:len(prompt)].tolist() == prompt, "a row begins with its prompt, and without its padding"
        assert text.shape == alone.shape and torch.equal(text, alone), \
            "does somebody look at padding, or are positions counted from the padding on?"
        assert len(set(text[len(prompt):].tolist())) > 3, "too monotonous a text to prove anything"


@pytest.mark.exercise("E3.6")
def test_a_row_of_unequal_ones_stops_for_itself(talkative_model):
    batch = [prompts(9)[:4].tolist(), prompts(9)[4:6].tolist()]
    stop = int(generate(talkative_model, [batch[0]], 8)[0][6])
    for text, prompt in zip(generate(talkative_model, batch, 12, stop=stop), batch, strict=True):
        alone = generate(talkative_model, [prompt], 12, stop=stop)[0].tolist()
        assert text.tolist()[:len(alone)] == alone and set(text.tolist()[len(alone):]) <= {stop}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_on_the_left_changes_no_score(small_model, dtype):
    """The last position of each row, read at once and in two pieces, beside the same row alone."""
    model = small_model.to(dtype).eval()
    long, short = prompts(9).tolist(), prompts(4).tolist()
    ids, padding = torch.tensor([long, [50] * 5 + short]), torch.tensor([0, 5])
    for first in (9, 3, 7):
        cache = model.new_cache(padding)
        pieces = [model.hidden(part, cache) for part in (ids[:, :first], ids[:, first:]) if part.shape[1]]
        for found, row in zip(pieces[-1][:, -1], (long, short)):
            alone = model.hidden(torch.tensor([row]))[0, -1]
            assert torch.allclose(found, alone, rtol=1e-4 if dtype == torch.float32 else 0.05,
                                  atol=1e-4 if dtype == torch.float32 else 0.05)


# ---- errors -----------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E3.6")
@pytest.mark.parametrize("ids, reason", [
    ([[1, 2, 3], [], [6]], r"at least one token.* \[3, 0, 1\]"),
    ([], r"a batch one prompt; these have \[\]"),
    ([[]], r"at least one token.* \[0\]"),
    (torch.zeros(1, 0, dtype=torch.long), r"at least one token, got \(1, 0\)"),
    (torch.zeros(3, dtype=torch.long), r"shape \(B, T\) .* got \(3,\)"),
    ([[1, 50256]], "between 1 and 50256, the vocabulary has 0 to 1"),
    ("a text", "prompts are token ids"), (["a text"], "prompts are token ids"), ([1, 2, 3], "prompts are token ids"),
    ([[1, -1]], "between -1 and 1, the vocabulary has 0 to 1"),
])
def test_a_prompt_that_cannot_be_read_is_an_error(small_model, ids, reason):
    with pytest.raises(ValueError, match=reason):
        generate(small_model, ids, 3)


@pytest.mark.exercise("E3.6")
@pytest.mark.parametrize("settings, reason", [
    (dict(max_new_tokens=-1), "got -1 and 0.0"),
    (dict(max_new_tokens=3, temperature=-0.5), "got 3 and -0.5"),
    (dict(max_new_tokens=3, temperature=math.nan), "got 3 and nan"),
    (dict(max_new_tokens=3, temperature=math.inf), "got 3 and inf"),
    (dict(max_new_tokens=3, stop=[0]), r"stop is one token id, such as 50256, not \[0\]"),
    (dict(max_new_tokens=3, stop="."), "stop is one token id"),
    (dict(max_new_tokens=3, stop=torch.tensor([1.5])), "stop is one token id"),
    (dict(max_new_tokens=math.inf), "got inf and 0.0"),
    (dict(max_new_tokens=3, temperature=1.0, top_k=0), "got 0 and None"),
    (dict(max_new_tokens=3, temperature=1.0, top_p=0.0), "got None and 0.0"),
    (dict(max_new_tokens=3, temperature=1.0, top_p=1.5), "got None and 1.5"),
])
def test_settings_that_leave_nothing_to_choose_from_are_an_error(small_model, settings, reason):
    with pytest.raises(ValueError, match=reason):
        generate(small_model, [[1, 2]], **settings)


@pytest.mark.exercise("E3.6")
def test_a_classifier_does_not_write(small_model):
    """Its head has two outputs, and the "tokens" would be 0 and 1."""
    swap_head(small_model, 2)
    with pytest.raises(ValueError, match="this model is a classifier"):
        generate(small_model, [[1, 2]], 3)
    with pytest.raises(ValueError, match="this model is a classifier"):
        next_token_loss(small_model, torch.tensor([[1, 2, 3]]))
    with pytest.raises(ValueError, match="this model is a classifier"):
        text_scores(small_model, [(torch.tensor([[1, 2, 3]]), torch.tensor([3]))], "cpu")


@pytest.mark.exercise("E4.4")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_nan_choose_nothing(temperature):
    with pytest.raises(ValueError, match="scores are NaN or infinite"):
        choose(torch.tensor([[0.0, math.nan, 1.0]]), temperature)


@pytest.mark.exercise("E4.4")
def test_probabilities_of_half_precision_are_summed_in_float32():
    """Of 1,000 equal tokens, top_p = 0.5 keeps half. bfloat16 stops counting at 0.25 + 0.001."""
    logits = torch.zeros(2000, 1000, dtype=torch.bfloat16)
    drawn = choose(logits, temperature=1.0, top_p=0.5, generator=seeded())
    assert 480 <= len(drawn.unique()) <= 505, "the sum of the probabilities has lost the small ones"


@pytest.mark.exercise("E4.4")
def test_top_p_of_1_keeps_every_token():
    """Rounded, the sum of 50,257 probabilities reaches 1 before the last of them."""
    logits = torch.randn(1, 50_257, generator=seeded()) * 3
    assert torch.equal(choose(logits, 1.0, top_p=1.0, generator=seeded()), choose(logits, 1.0, generator=seeded()))
    rare = logits.argmin()
    alone = torch.where(torch.arange(50_257) == rare, 0.0, float("-inf"))[None]
    assert choose(alone, 1.0, top_p=1.0, generator=seeded()).item() == rare
