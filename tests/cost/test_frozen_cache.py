"""gpt/cost/frozen_cache.py: what frozen layers answer may be kept, because nobody could tell the difference."""

import copy
import itertools

import pandas as pd
import pytest
import torch

from gpt.batches import BatchesByLength
from gpt.classify import class_logits, classifier_loss, predict_logits, swap_head
from gpt.config import GPTConfig
from gpt.cost.frozen_cache import CachedBatches, Tail, frozen_blocks
from gpt.lora import replace_linear_with_lora
from gpt.model import GPTModel
from gpt.train import train

LAYERS, EPOCHS = 3, 3


class Letters:
    """A tokenizer that needs no file: one token a character."""

    def encode(self, text):
        return [ord(letter) % 101 for letter in text]


@pytest.fixture
def messages():
    return pd.DataFrame({"Label": ["ham", "spam", "ham"] * 7, "Text": ["abcdefghijklmnopqrst"[i % 9:i % 9 + 1 + i % 11]
                                                                       for i in range(21)]})


@pytest.fixture
def loader(messages):
    return BatchesByLength(messages, Letters(), batch_size=4, seed=1, pad_token_id=100)


@pytest.fixture
def classifier(small_model):
    """All frozen; a head that tells messages apart; in double precision, so that rounding does not hide a mistake."""
    model = small_model.double().requires_grad_(False)
    swap_head(model, 2)
    torch.nn.init.normal_(model.out_head.weight, generator=torch.Generator().manual_seed(0))
    return model


def trainable_from(model, first):
    """Leave block `first` and all behind it to train; first = LAYERS leaves final norm and head. Output: the model"""
    for part in (*model.trf_blocks[first:], model.final_norm, model.out_head):
        part.requires_grad_(True)
    return model


def run(model, loader, tail=None, lr=1e-2):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    train(tail or model, loader, classifier_loss, optimizer, EPOCHS)
    return model


@pytest.mark.parametrize("first", range(LAYERS + 1))
def test_the_blocks_that_are_frozen_are_counted_up_to_the_first_that_trains(classifier, first):
    assert frozen_blocks(trainable_from(classifier, first)) == first


def test_a_frozen_block_behind_one_that_trains_does_not_count(classifier):
    classifier.trf_blocks[1].norm1.shift.requires_grad_(True)
    assert frozen_blocks(classifier) == 1, "block 2 is frozen, but what it reads changes"


@pytest.mark.parametrize("embedding", ["tok_emb", "pos_emb"])
def test_nothing_is_frozen_behind_an_embedding_that_trains(classifier, embedding):
    getattr(classifier, embedding).requires_grad_(True)
    assert frozen_blocks(classifier) == 0


@pytest.mark.parametrize("first", range(LAYERS + 1))
def test_training_from_what_was_kept_is_training(classifier, loader, messages, first):
    """Same batches, same epochs, with the cache and without: the same weights and the same answers."""
    plain = run(trainable_from(copy.deepcopy(classifier), first), loader)
    cached_model = trainable_from(classifier, first)
    cached, tail = CachedBatches(loader, cached_model, first), Tail(cached_model, first)
    run(cached_model, cached, tail)
    for (name, weight), (_, other) in zip(plain.named_parameters(), cached_model.named_parameters()):
        assert (weight - other).abs().max() < 1e-9, f"{name}: is each row's own answer kept, and none of another batch?"
    everything = BatchesByLength(messages, Letters(), batch_size=4, pad_token_id=100)
    labels, logits = predict_logits(plain, everything, "cpu")
    again, from_tail = predict_logits(tail, CachedBatches(everything, cached_model, first), "cpu")
    assert torch.equal(labels, again) and (logits - from_tail).abs().max() < 1e-9
    assert (predict_logits(cached_model, everything, "cpu")[1] - logits).abs().max() < 1e-9, "the tail is a copy?"


def test_in_single_precision_the_weights_and_answers_are_those_without_the_cache(classifier, loader):
    classifier = trainable_from(classifier.float(), LAYERS - 1)
    plain = run(copy.deepcopy(classifier), loader, lr=1e-3)
    run(classifier, CachedBatches(loader, classifier, LAYERS - 1), Tail(classifier, LAYERS - 1), lr=1e-3)
    for (name, weight), (_, other) in zip(plain.named_parameters(), classifier.named_parameters()):
        if not name.endswith("W_key.bias"):    # softmax is blind to it: its gradient is rounding, which AdamW blows up
            assert (weight - other).abs().max() < 1e-5, name
    _, logits = predict_logits(plain, loader, "cpu")
    _, others = predict_logits(classifier, loader, "cpu")
    assert (logits - others).abs().max() < 1e-5 and torch.equal(logits.argmax(1), others.argmax(1))


def test_the_frozen_blocks_run_once_for_each_message(classifier, loader):
    read = []
    trainable_from(classifier, 2).trf_blocks[1].register_forward_hook(lambda *_: read.append(1))
    cached = CachedBatches(loader, classifier, 2)
    run(classifier, cached, Tail(classifier, 2))
    assert len(read) == len(loader), f"{len(read)} forward passes for {len(loader)} batches: kept and never used?"


def test_an_epoch_that_ends_early_is_filled_up_later(classifier, loader):
    cached = CachedBatches(trainable_from(classifier, 2) and loader, classifier, 2)
    for _ in itertools.islice(cached, 2):
        pass
    assert len(cached.kept) == sum(map(len, loader.rows[:2]))
    cached.set_epoch(1)
    assert cached.rows == loader.rows
    for rows, (x, lengths, labels) in zip(cached.rows, cached):
        assert torch.equal(labels, loader.labels[rows]) and lengths.tolist() == [len(loader.token_ids[r]) for r in rows]
    assert len(cached.kept) == len(loader.labels)


def test_two_caches_of_one_loader_do_not_mix_up_its_epochs(classifier, loader):
    one, other = CachedBatches(loader, classifier, 2), CachedBatches(loader, classifier, LAYERS)
    list(one)
    other.set_epoch(1)
    for rows, (x, lengths, labels) in zip(one.rows, one):
        assert torch.equal(labels, loader.labels[rows]), "labels of this epoch, vectors of the last"
        for row, of_row, length in zip(rows, x, lengths):
            assert torch.equal(of_row[:length], one.kept[row])


@pytest.mark.parametrize("first", [0, 2, LAYERS])
def test_the_memory_is_what_was_predicted(classifier, loader, first):
    cached = CachedBatches(loader, trainable_from(classifier, first), first)
    assert cached.bytes == 0
    for epoch in range(2):
        cached.set_epoch(epoch)
        list(cached)
        assert cached.bytes == cached.predicted_bytes, "padding kept too, or a view of a whole batch?"
        assert sum(x.untyped_storage().nbytes() for x in cached.kept.values()) == cached.bytes
    tokens = len(loader.labels) if first == LAYERS else sum(map(len, loader.token_ids))
    assert cached.bytes == tokens * 30 * 8, "C = 30 numbers of 8 bytes for each token"


def test_a_batch_of_what_was_kept_gives_the_scores_of_its_messages(classifier, loader):
    for first in range(LAYERS + 1):
        cached, tail = CachedBatches(loader, classifier, first), Tail(classifier, first)
        for _ in range(2):
            for batch, plain in zip(cached, loader):
                assert (class_logits(tail, *batch[:-1]) - class_logits(classifier, *plain[:-1])).abs().max() < 1e-12


def test_keeping_what_still_trains_is_refused(classifier, loader):
    trainable_from(classifier, 1)
    with pytest.raises(ValueError, match="before block 2 trains"):
        CachedBatches(loader, classifier, 2)


@pytest.mark.parametrize("first", range(LAYERS + 1))
@pytest.mark.parametrize("embedding", ["tok_emb", "pos_emb"])
def test_keeping_what_embeddings_that_train_say_is_refused(classifier, loader, embedding, first):
    getattr(classifier, embedding).requires_grad_(True)
    with pytest.raises(ValueError, match=f"an embedding .*before block {first} trains"):
        CachedBatches(loader, classifier, first)


@pytest.mark.parametrize("first", range(LAYERS + 1))
def test_keeping_what_drops_out_is_refused(loader, first):
    model = GPTModel(GPTConfig(101, 24, 30, 5, 3, drop_rate=0.25)).requires_grad_(False)
    with pytest.raises(ValueError, match=f"before block {first} something drops out, with probability 0.25"):
        CachedBatches(loader, model, first)


def test_a_lora_with_dropout_may_stand_behind_what_is_kept_and_not_before(classifier, loader):
    replace_linear_with_lora(classifier.trf_blocks[1], rank=2, alpha=1, dropout=0.5)
    classifier.requires_grad_(False)    # nothing trains, but in training mode it would still drop out
    CachedBatches(loader, classifier, 1)
    with pytest.raises(ValueError, match="before block 2 something drops out, with probability 0.5"):
        CachedBatches(loader, classifier, 2)
