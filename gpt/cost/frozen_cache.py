"""Frozen layers are computed once, because their output for a message is the same in every epoch.

Where only the last block and the head train, the first epoch keeps what the last block reads; later epochs begin there.

Read along: chapters/05_spam_classifier.py. Source: Donahue et al. 2014 (features of a frozen network as data).
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from gpt.cost.memory import trains


def frozen_blocks(model):
    """How many blocks, from the first on, have nothing that trains; 0 where an embedding trains, at most n_layers."""
    if trains(model.tok_emb) or trains(model.pos_emb):
        return 0
    return next((i for i, block in enumerate(model.trf_blocks) if trains(block)), len(model.trf_blocks))


class Tail(nn.Module):
    """A model from block `first` on, the final norm and the head, as a model of its own.

    Nothing is copied: training the tail trains the model. (Swap the head first: the tail takes the one that is there.)
    `class_logits` and `train` take it in the model's place, with CachedBatches, which hold what block `first` reads.
    """

    def __init__(self, model, first):
        super().__init__()
        self.trf_blocks = model.trf_blocks[first:]
        self.final_norm = model.final_norm
        self.out_head = model.out_head

    def embed(self, x):
        """The input has gone through the embedding and the blocks before `first` already: (B, T, C) as it is."""
        return x


class CachedBatches:
    """The batches of a loader after the model's first blocks: (x (B, T, C), lengths (B,), labels (B,)).

    x is what block `first` reads. It is computed when a message comes for the first time and kept, without padding, on
    the model's device. Where no block trains, only the last real token is kept, and every length is 1.

    Input: loader, a BatchesByLength; model, whose blocks before `first` are frozen; first: `frozen_blocks(model)`
    Raises: ValueError where something before `first` trains or drops out, because what is kept would be wrong then
    """

    def __init__(self, loader, model, first):
        before = nn.ModuleList([model.tok_emb, model.pos_emb, model.drop_emb, *model.trf_blocks[:first]])
        if any(p.requires_grad for p in before.parameters()):
            raise ValueError(f"an embedding or a block before block {first} trains, so what that block reads changes "
                             f"with every step: freeze it, or keep fewer blocks")
        for part in before.modules():
            if isinstance(part, nn.Dropout) and part.p > 0:
                raise ValueError(f"before block {first} something drops out, with probability {part.p}: what is left "
                                 f"would be drawn once and kept for ever")
        self.loader, self.model, self.first = loader, model, first
        self.kept = {}    # row -> its part of x, without padding
        self.only_last = first == model.config.n_layers

    @property
    def rows(self):
        """The row numbers in each batch of this epoch, as the loader has them."""
        return self.loader.rows

    @property
    def predicted_bytes(self):
        """The bytes that will be held when every message has come once: C numbers for each real token."""
        tokens = len(self.loader.token_ids) if self.only_last else sum(map(len, self.loader.token_ids))
        return tokens * self.model.config.emb_dim * self.model.tok_emb.weight.element_size()

    @property
    def bytes(self):
        """The bytes that are held now."""
        return sum(x.nbytes for x in self.kept.values())

    def set_epoch(self, epoch):
        self.loader.set_epoch(epoch)

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for rows, (ids, lengths, labels) in zip(self.rows, self.loader):
            if not all(row in self.kept for row in rows):
                self._compute(rows, ids, lengths)
            x = pad_sequence([self.kept[row] for row in rows], batch_first=True)      # (B, T, C) or (B, 1, C)
            yield x, torch.ones_like(lengths) if self.only_last else lengths, labels

    @torch.no_grad()
    def _compute(self, rows, ids, lengths):
        x = self.model.trf_blocks[:self.first](self.model.embed(ids.to(self.model.tok_emb.weight.device)))
        for row, of_row, length in zip(rows, x, lengths.tolist()):
            kept = of_row[length - 1:length] if self.only_last else of_row[:length]   # (T, C), T = 1 if only_last
            self.kept[row] = kept.clone()    # a view would keep the whole batch, padding included
