"""What a trial trains for: a class of messages, or their next token. Each task brings its messages and its measures.

Read along: chapters/08_lora_inside.py.

A task has
    facts                   what tells it from others: a dict
    data(seed)              a loader of training batches; for validation and for test, what `measure` takes
    prepare(model, seed)    fits the model to the task, in place, and gives back the loss to train by
    measure(model, data)    a dict of numbers
"""

from functools import cache

import torch

from gpt.batches import BatchesByLength
from gpt.classify import calc_accuracy_loader, swap_head
from gpt.corpus import TextWindows, encode_documents
from gpt.losses import sampled_softmax_loss
from gpt.pretrain import shares, text_losses
from gpt.spam import create_balanced_dataset, split_without_leaks
from gpt.train import calc_loss_loader, classifier_loss


class SpamTask:
    """Ham or spam, by chapter 6's default recipe: balanced, split without leaks, a new head that starts at zero."""

    def __init__(self, messages, tokenizer, context_length):
        self.facts = {"task": "spam", "messages": len(messages)}
        self.messages, self.tokenizer, self.context_length = messages, tokenizer, context_length
        self.data = cache(self.data)    # trials of one seed share their messages, which are encoded once

    def data(self, seed):
        """Loaders of the training, validation and test messages that a seed gives."""
        splits = split_without_leaks(create_balanced_dataset(self.messages, random_state=seed), seed=seed)
        return [BatchesByLength(split, self.tokenizer, 8, self.context_length, order)
                for split, order in zip(splits, (seed, None, None))]

    def prepare(self, model, seed):
        """Swap the head, in place; give back the loss to train by."""
        swap_head(model, 2)
        return classifier_loss

    def measure(self, model, loader):
        """The loss, nats a message, and the accuracy, 0..1."""
        device = model.tok_emb.weight.device
        return {"accuracy": calc_accuracy_loader(loader, model, device),
                "loss": calc_loss_loader(loader, model, device)}


class TextTask:
    """The next token of text messages, split without leaks, in windows as long as the model's context.

    Trained by the sampled loss of chapter 4, because scoring all words of the vocabulary is more work than the rest of
    mini; measured by the full loss, on the first `windows` windows of each held-out part. batches: at most so many
    steps an epoch.
    """

    def __init__(self, messages, tokenizer, context_length, windows=16, batches=None):
        self.facts = {"task": "text", "messages": len(messages), "windows": windows, "batches": batches}
        self.messages, self.tokenizer, self.context_length = messages, tokenizer, context_length
        self.windows, self.batches, self.data = windows, batches, cache(self.data)

    def data(self, seed):
        """Batches of two windows of a seed's training messages; its validation and test messages as token ids."""
        training, *held_out = (encode_documents(split["Text"].tolist(), self.tokenizer)
                               for split in split_without_leaks(self.messages, seed=seed))
        return TextWindows(training, self.context_length, 2, seed, self.batches), *held_out

    def prepare(self, model, seed):
        """Give back the loss to train by, which draws its words from the seed; the model stays as it is."""
        device = model.tok_emb.weight.device
        unigram = shares(self.data(seed)[0].tokens, model.config.vocab_size).to(device)
        generator = torch.Generator(device).manual_seed(seed)
        return lambda model, ids: sampled_softmax_loss(model, ids, unigram, samples=1024, generator=generator)

    def measure(self, model, ids):
        """The loss, nats a token."""
        return {"loss": text_losses(model, {"text": ids}, self.windows)["text"]}
