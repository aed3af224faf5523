"""gpt/classify.py: the answer to a message depends on that message alone, and looking at a model does not change it."""

import copy
import itertools
import math
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import gpt.classify
from gpt.classify import calc_accuracy_loader, class_logits, classify, hidden_at, predict_logits, swap_head
from gpt.config import GPTConfig
from gpt.lora import count_parameters, lora_layers, replace_linear_with_lora
from gpt.losses import class_loss
from gpt.model import GPTModel, evaluating

LABELS = ["ham", "spam", "eggs"]


class Letters:
    """A tokenizer that needs no file: one token a character."""

    def encode(self, text):
        return [ord(letter) for letter in text]


def with_random_head(model, seed=2):
    """A new head for three classes that tells messages apart."""
    swap_head(model, len(LABELS))
    for p in model.out_head.parameters():
        p.data.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(seed))
    return model


@pytest.fixture
def classifier(small_model):
    return with_random_head(small_model)


@pytest.fixture
def reader():
    """A classifier with room for GPT-2's padding token, for texts; its context is 24 tokens."""
    config = GPTConfig(vocab_size=50257, context_length=24, emb_dim=30, n_heads=5, n_layers=3, drop_rate=0.5)
    return with_random_head(GPTModel(config, torch.Generator().manual_seed(0)).eval())


def messages(lengths, width, seed=0):
    """Rows of random tokens; what stands after a row's length is random too."""
    ids = torch.randint(101, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    return ids, torch.tensor(lengths)


def batches():
    """Three batches of the kind that our loaders yield: (ids, lengths, labels)."""
    labels = torch.tensor([0, 1, 2, 0, 2, 1, 1, 0])
    parts = [((1, 5, 9), 9), ((7, 24), 24), ((3, 3, 11), 20)]
    return [(*messages(lengths, width, seed), part)
            for seed, ((lengths, width), part) in enumerate(zip(parts, labels.split([3, 2, 3])))]


def by_hand(model, ids, length):
    """One message without padding: all logits, and the last of them."""
    with torch.no_grad():
        return model(ids[None, :length])[0, -1]


# ---- where the class is read ----------------------------------------------------------------------------------------

@pytest.mark.exercise("E5.7")
@pytest.mark.parametrize("width", [11, 12, 17, 24])
@pytest.mark.parametrize("seed", range(3))
def test_the_class_does_not_depend_on_how_much_padding_there_is_or_of_what_tokens(classifier, width, seed):
    lengths = [1, 4, 10, 11]
    rows, _ = messages(lengths, 11)
    ids, lengths = messages(lengths, width, seed)
    for row, message, length in zip(ids, rows, lengths):
        row[:length] = message[:length]
    with torch.no_grad():
        logits = class_logits(classifier, ids, lengths)
    expected = torch.stack([by_hand(classifier, row, length) for row, length in zip(rows, lengths)])
    assert logits.shape == (4, 3) and (logits - expected).abs().max() < 1e-5, "is a padding token read, or seen?"
    last = by_hand(classifier, ids[0], width)
    assert (last - expected[0]).abs().max() > 0.01, "the last position says the same, so that this test proves nothing"


@pytest.mark.exercise("E5.7")
def test_a_token_of_the_message_does_change_the_answer(classifier):
    ids, lengths = messages([1, 4, 10], 12)
    for place in (0, -1):
        changed = ids.clone()
        for row, length in zip(changed, lengths):
            row[place % length] = (row[place % length] + 1) % 101
        with torch.no_grad():
            one, other = (class_logits(classifier, each, lengths) for each in (ids, changed))
        assert ((one - other).abs().amax(dim=1) > 1e-4).all(), "the first or the last token of a message is not read"


@pytest.mark.exercise("E5.7")
def test_without_lengths_rows_are_read_at_their_last_position_as_in_the_blog(classifier):
    ids, lengths = messages([2, 7, 12], 12)
    with torch.no_grad():
        torch.testing.assert_close(class_logits(classifier, ids), classifier(ids)[:, -1, :],
                                   msg="where no lengths are known a row is read at its last position")
    loaders = {"the blog's": [(ids, lengths)], "ours": [(ids, lengths, lengths)]}
    blogs, ours = (predict_logits(classifier, loader, "cpu")[1] for loader in loaders.values())
    with torch.no_grad():
        assert torch.equal(blogs, class_logits(classifier, ids)), "a batch of ids and labels has no lengths"
        assert torch.equal(ours, class_logits(classifier, ids, lengths))


@pytest.mark.exercise("E5.7")
def test_without_lengths_the_padding_token_is_read_like_any_other(reader):
    ids = torch.tensor([[5, 6, 50256], [7, 8, 9]])
    with torch.no_grad():
        answers, last = class_logits(reader, ids), reader(ids)[:, -1]
    assert torch.allclose(answers, last, atol=1e-5), "nobody said what is padding: the last position is read"


@pytest.mark.exercise("E5.7")
@pytest.mark.parametrize("body, head", [("float32", "float32"), ("bfloat16", "float32"), ("float64", "float64")])
def test_reading_changes_nothing_in_the_model_and_lets_gradients_through(classifier, body, head):
    classifier.train().to(getattr(torch, body)).out_head.to(getattr(torch, head))
    ids, lengths = messages([1, 4, 9], 9)
    logits = class_logits(classifier, ids, lengths)
    assert logits.dtype == getattr(torch, head), "what is known of a message is given to the head in the head's type"
    assert classifier.training, "class_logits is used in training as well: the mode is the caller's"
    assert lengths.tolist() == [1, 4, 9], "the lengths that were given are others now"
    logits.square().sum().backward()
    for name in ("trf_blocks.0.ff.layers.0.weight", "tok_emb.weight", "out_head.weight"):
        assert classifier.get_parameter(name).grad is not None, f"{name} gets no gradient, so that it could not train"


@pytest.mark.parametrize("drop_rate, rank", [(0.0, None), (0.3, None), (0.0, 2)])
def test_one_position_gets_what_it_gets_among_all_in_value_and_gradient(drop_rate, rank, sizes):
    """hidden_at against hidden. With dropout only that it drops out at all: the draws differ."""
    config = GPTConfig(101, sizes.context, sizes.C, sizes.H, sizes.layers, drop_rate)
    model = GPTModel(config, torch.Generator().manual_seed(0)).double()
    if rank:
        replace_linear_with_lora(model.trf_blocks, rank, 3)
        for _, layer in lora_layers(model):
            torch.nn.init.normal_(layer.lora.B)
    token_ids, at = torch.randint(101, (4, 9)), torch.tensor([0, 8, 3, 5])
    model.train(drop_rate > 0)
    if drop_rate:
        assert not torch.equal(hidden_at(model, token_ids, at), hidden_at(model, token_ids, at)), "no dropout"
        model.eval()
    found = []
    for hidden in (hidden_at(model, token_ids, at), model.hidden(token_ids)[torch.arange(4), at]):
        model.zero_grad()
        hidden.square().sum().backward()
        found.append([hidden, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert found[0][0].shape == (4, sizes.C)
    for alone, among in zip(*found, strict=True):
        assert torch.allclose(alone, among, atol=1e-10), "may it look past itself, or is another position's x added?"


# ---- the new head ---------------------------------------------------------------------------------------------------

@pytest.mark.exercise("E5.6")
@pytest.mark.parametrize("classes", [2, 7])
def test_a_head_that_starts_at_zero_has_a_first_loss_of_ln_K(small_model, classes):
    swap_head(small_model, classes)
    ids, lengths = messages([1, 5, 9], 9)
    loss = class_loss(class_logits(small_model, ids, lengths), torch.tensor([0, 1, 1]))
    assert loss.item() == pytest.approx(math.log(classes), abs=1e-6), "do weight and bias both start at zero?"
    loss.backward()
    assert small_model.out_head.weight.grad.any() and small_model.out_head.bias.grad.any(), "it could never leave zero"


@pytest.mark.exercise("E5.6")
def test_the_blogs_head_starts_as_torchs_linear_layer_does(small_model):
    torch.manual_seed(4)
    expected = nn.Linear(small_model.config.emb_dim, 2)
    torch.manual_seed(4)
    swap_head(small_model, 2, zero=False)
    assert torch.equal(small_model.out_head.weight, expected.weight), "zero=False keeps the start of nn.Linear"
    assert torch.equal(small_model.out_head.bias, expected.bias), "zero=False keeps the start of nn.Linear"


@pytest.mark.exercise("E5.6")
def test_swapping_the_head_leaves_the_rest_alone_and_the_head_trains_in_a_frozen_model(small_model):
    before = copy.deepcopy(small_model)
    swap_head(small_model.requires_grad_(False), 2)
    assert torch.equal(small_model.tok_emb.weight, before.tok_emb.weight), "zeroed together with the tied head?"
    ids, _ = messages([9], 9)
    assert torch.equal(small_model.hidden(ids), before.hidden(ids)), "more than the head was changed"
    head = 2 * small_model.config.emb_dim + 2
    assert count_parameters(small_model) == (head, count_parameters(before)[1] + head), (
        "the new head has weight and bias and must train; all else stays as it was, frozen or not")


@pytest.mark.exercise("E5.6")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_new_head_has_the_models_type_and_mode(small_model, dtype):
    swap_head(small_model.to(dtype), 2)
    assert small_model.out_head.weight.dtype == small_model.out_head.bias.dtype == dtype, "not the embedding's type"
    assert not small_model.out_head.training, "a new module is in training mode: this model was not"
    swap_head(small_model.train(), 2)
    assert small_model.out_head.training, "the model is in training mode and its head is not"


@pytest.mark.exercise("E5.6")
def test_the_new_head_stands_where_the_model_is_and_freezes_nothing(small_model):
    small_model.pos_emb.requires_grad_(False)
    trained = {name for name, p in small_model.named_parameters() if p.requires_grad and "out_head" not in name}
    swap_head(small_model, 2)
    after = {name for name, p in small_model.named_parameters() if p.requires_grad and "out_head" not in name}
    assert after == trained, "what trains besides the head is the caller's choice"
    swap_head(small_model.to("meta"), 2)    # a device without numbers
    assert small_model.out_head.weight.is_meta and small_model.out_head.bias.is_meta, "made on the CPU"


@pytest.mark.exercise("E5.6")
def test_the_head_of_a_model_that_is_held_in_fewer_bytes_trains_in_float32(small_model):
    small_model.bfloat16().held_from = "the fingerprint that it had before"    # as gpt.cost.precision.hold leaves it
    swap_head(small_model, 2)
    assert small_model.out_head.weight.dtype == small_model.out_head.bias.dtype == torch.float32, \
        "bfloat16 rounds small steps away, and the head is what trains"


# ---- looking without touching ---------------------------------------------------------------------------------------

@pytest.mark.exercise("E5.11")
def test_evaluating_gives_back_every_modules_mode_and_the_random_state_even_after_an_error(classifier):
    classifier.train()
    classifier.trf_blocks[1].eval()    # as one does to keep a part from dropping out
    modes, state = [module.training for module in classifier.modules()], torch.get_rng_state()
    with pytest.raises(KeyError):
        with evaluating(classifier):
            assert not any(module.training for module in classifier.modules()), "dropout would be at work"
            assert not torch.is_grad_enabled(), "gradients would be kept"
            torch.rand(3)
            raise KeyError
    assert [module.training for module in classifier.modules()] == modes, "a part in eval mode was put into training"
    assert torch.equal(torch.get_rng_state(), state), "the next step of training would draw other dropout"
    assert torch.is_grad_enabled(), "training would go on without gradients"


@pytest.mark.exercise("E5.11")
def test_evaluating_leaves_what_trains_and_whether_gradients_are_on(classifier):
    classifier.pos_emb.requires_grad_(False)
    trains = [p.requires_grad for p in classifier.parameters()]
    with torch.no_grad():
        with evaluating(classifier):
            pass
        assert not torch.is_grad_enabled(), "gradients were off before: they are put back, not switched on"
    assert [p.requires_grad for p in classifier.parameters()] == trains, "a frozen parameter trains now, or the reverse"


@pytest.mark.exercise("E5.11")
@pytest.mark.parametrize("look", [
    pytest.param(lambda model, loader: calc_accuracy_loader(loader, model, "cpu", 2),
                 marks=pytest.mark.exercise("E5.8")),
    lambda model, loader: predict_logits(model, loader, "cpu"),
    lambda model, loader: classify(model, ["a", "bc"], Letters(), LABELS),
])
def test_evaluating_during_training_does_not_change_its_course(reader, look):
    """Dropout and the order of the messages come from torch's random state, and so does the start of any DataLoader."""
    rows = [(torch.arange(i, i + 6), i % 3) for i in range(8)]

    def trained(often):
        model = copy.deepcopy(reader).train()
        torch.manual_seed(0)
        loader = DataLoader(rows, batch_size=2, shuffle=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in itertools.chain(loader, loader):    # two epochs
            optimizer.zero_grad()
            class_loss(class_logits(model, *batch[:-1]), batch[-1]).backward()
            optimizer.step()
            for _ in range(often):
                look(model, loader)
        return model.state_dict()

    never, twice = trained(0), trained(2)
    assert all(torch.equal(never[name], twice[name]) for name in never), "the random state or the mode was left changed"


# ---- over a whole loader --------------------------------------------------------------------------------------------

def test_predictions_come_in_the_loaders_order_each_at_its_last_real_token(classifier):
    labels, logits = predict_logits(classifier.train(), batches(), "cpu")
    assert labels.tolist() == [0, 1, 2, 0, 2, 1, 1, 0]
    classifier.eval()
    expected = [by_hand(classifier, row, n) for ids, lengths, _ in batches() for row, n in zip(ids, lengths)]
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert not logits.requires_grad


@pytest.mark.exercise("E5.8")
@pytest.mark.parametrize("num_batches, share", [(1, 1 / 3), (2, 2 / 5), (None, 4 / 8), (99, 4 / 8)])
def test_accuracy_is_the_share_of_messages_and_not_a_mean_over_batches(classifier, num_batches, share):
    _, logits = predict_logits(classifier, batches(), "cpu")
    best, right = logits.argmax(dim=-1), [True, False, False, True, False, True, True, False]
    marked = torch.where(torch.tensor(right), best, (best + 1) % 3).split([3, 2, 3])
    loader = [(ids, lengths, labels) for (ids, lengths, _), labels in zip(batches(), marked)]
    accuracy = calc_accuracy_loader(loader, classifier, "cpu", num_batches)
    assert accuracy == pytest.approx(share), "is it right answers / messages, of the first num_batches alone?"
    assert isinstance(accuracy, float), "a tensor holds on to more than the number"


@pytest.mark.exercise("E5.8")
def test_accuracy_on_the_blogs_loader_is_the_blogs(classifier):
    """The blog: argmax of model(ids)[:, -1, :], correct predictions divided by examples seen."""
    loader = DataLoader([(row, label) for ids, _, labels in [(*messages([9] * 7, 9), torch.arange(7) % 3)]
                         for row, label in zip(ids, labels)], batch_size=3)
    with torch.no_grad():
        right = sum((classifier(ids)[:, -1, :].argmax(dim=-1) == labels).sum().item() for ids, labels in loader)
    assert calc_accuracy_loader(loader, classifier, "cpu") == pytest.approx(right / 7), "the last batch has one message"


@pytest.mark.exercise("E5.8")
@pytest.mark.parametrize("training", [False, True])
def test_accuracy_is_of_the_messages_that_were_read_and_leaves_the_mode(classifier, training):
    rows = [(row, 0) for row in messages([9] * 7, 9)[0]]
    with torch.no_grad():
        classifier.out_head.weight.zero_()
        classifier.out_head.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))    # so that all are right
    classifier.train(training)
    loader = DataLoader(rows, batch_size=3, drop_last=True)
    for num_batches in (1, None):
        assert calc_accuracy_loader(loader, classifier, "cpu", num_batches) == 1.0, \
            "it is a share of the messages in the batches, not of the whole data set"
    assert classifier.training is training, "the model's mode is another one now"


@pytest.mark.exercise("E5.8")
def test_a_loader_without_batches_is_an_error_with_the_likely_cause(classifier):
    rows = [(torch.arange(4), 0)] * 3
    with pytest.raises(ValueError, match="no batch.*drop_last"):
        calc_accuracy_loader(DataLoader(rows, batch_size=4, drop_last=True), classifier, "cpu")


# ---- texts ----------------------------------------------------------------------------------------------------------

TEXTS = ["hello there", "a", "", "WIN a prize now, call", "ok", "", "exactly 24 characters!!!", "see you at eight"]


def test_each_text_gets_its_own_label_and_probability_in_the_order_asked(reader, monkeypatch):
    monkeypatch.setattr(gpt.batches, "TOKENS", 24)    # more than one batch
    answers = classify(reader, TEXTS, Letters(), LABELS)
    assert len(answers) == len(TEXTS)
    for text, (label, probability) in zip(TEXTS, answers):
        ids = torch.tensor(Letters().encode(text) or [50256])    # no tokens: one padding token is read
        expected = by_hand(reader, ids, len(ids)).softmax(dim=-1)
        assert label == LABELS[expected.argmax()], f"{text!r} has the answer of another, or padding was read"
        assert probability == pytest.approx(expected.max().item(), abs=1e-5), text
    assert len({label for label, _ in answers}) > 1, "one label for all proves nothing about the order"


@pytest.mark.parametrize("most", [1, 24, 48, 4096])
def test_the_neighbours_in_a_batch_have_no_influence(reader, most, monkeypatch):
    monkeypatch.setattr(gpt.batches, "TOKENS", most)
    together = classify(reader, TEXTS, Letters(), LABELS)
    alone = [classify(reader, [text], Letters(), LABELS)[0] for text in TEXTS]
    assert [label for label, _ in together] == [label for label, _ in alone]
    assert [p for _, p in together] == pytest.approx([p for _, p in alone], abs=1e-5)


def test_no_texts_have_no_answers(reader):
    assert classify(reader, [], Letters(), LABELS) == []


def test_a_text_that_is_too_long_is_cut_and_said_to_be(reader):
    long = ["x" * 25, "short", "The end of this one cannot be read", "y" * 24]
    with pytest.warns(UserWarning, match="2 of 4 texts have more than 24 tokens: only their first 24") as caught:
        answers = classify(reader, long, Letters(), LABELS)
    assert len(caught) == 1 and caught[0].filename == __file__, "the warning should point at the caller"
    with warnings.catch_warnings():
        warnings.simplefilter("error")    # what just fits is not cut
        cut = classify(reader, [text[:24] for text in long], Letters(), LABELS)
    assert [label for label, _ in answers] == [label for label, _ in cut]
    assert [p for _, p in answers] == pytest.approx([p for _, p in cut], abs=1e-5), "was another part of it read?"


def test_with_pad_to_a_text_is_padded_or_cut_and_read_at_the_last_position_as_in_the_blog(reader, monkeypatch):
    monkeypatch.setattr(gpt.batches, "TOKENS", 26)    # two texts a batch
    texts = ["hello there", "", "thirteen char", "far too long for this"]
    with pytest.warns(UserWarning, match="1 of 4 texts have more than 13 tokens"):
        answers = classify(reader, texts, Letters(), LABELS, pad_to=13)
    for text, answer in zip(texts, answers):
        ids = torch.tensor((Letters().encode(text) + [50256] * 13)[:13])
        expected = by_hand(reader, ids, 13).softmax(dim=-1)
        assert answer == (LABELS[expected.argmax()], pytest.approx(expected.max().item(), abs=1e-5)), text


def test_a_model_in_training_answers_without_dropout_and_goes_on_training(reader):
    expected = classify(reader, TEXTS, Letters(), LABELS)
    assert classify(reader.train(), TEXTS, Letters(), LABELS) == expected, "is dropout at work?"
    assert all(module.training for module in reader.modules())


def test_labels_that_do_not_fit_the_head_are_an_error(reader):
    for labels in (LABELS[:2], LABELS + ["more"]):
        with pytest.raises(ValueError, match=f"{len(labels)} labels, but the head has 3 outputs"):
            classify(reader, TEXTS, Letters(), labels)


def test_one_text_outside_a_list_is_an_error_instead_of_an_answer_for_each_letter(reader):
    with pytest.raises(ValueError, match="list of texts"):
        classify(reader, "hello", Letters(), LABELS)


@pytest.mark.parametrize("text", [None, math.nan, 7, b"bytes"])
def test_what_is_no_text_is_named_with_its_row(reader, text):
    with pytest.raises(ValueError, match=r"row 1 \(from 0\): expected a text, got"):
        classify(reader, ["one", text], Letters(), LABELS)


def test_scores_that_are_not_finite_are_no_answer(reader):
    reader.final_norm.scale.data[0] = math.nan
    with pytest.raises(ValueError, match="scores are not finite"):
        classify(reader, ["one"], Letters(), LABELS)


def test_texts_may_come_from_a_generator(reader):
    assert classify(reader, (text for text in TEXTS), Letters(), LABELS) == classify(reader, TEXTS, Letters(), LABELS)
