"""Frozen layers are computed once: what they answer for a message is the same in every epoch, so it is kept.

Where only the last block and the head train, a training step needs nothing of the blocks before them but their answer,
and that changes only when a weight does. The first epoch computes and keeps it; later epochs begin where training does.

Read along: chapters/05_spam_classifier.py. Source: Donahue et al. 2014 (features of a frozen network as data).
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from gpt.cost.memory import trains


def frozen_blocks(model):
    """How many blocks, from the first on, have nothing that trains; 0 where the embeddings train.

    Output: 0 (block 0 or an embedding trains) to n_layers (the final norm and the head at most)
    """
    if trains(model.tok_emb) or trains(model.pos_emb):
        return 0
    return next((i for i, block in enumerate(model.trf_blocks) if trains(block)), len(model.trf_blocks))


class Tail(nn.Module):
    """A model from block `first` on, the final norm and the head, as a model of its own.

    Nothing is copied: training the tail trains the model. (Swap the head first: the tail takes the one that is there.)
    `class_logits`, `train` and what else calls them take it in the model's place, with batches of CachedBatches, which
    hold what block `first` reads in place of token ids.
    """

    def __init__(self, model, first):
        super().__init__()
        self.trf_blocks, self.final_norm, self.out_head = model.trf_blocks[first:], model.final_norm, model.out_head

    def embed(self, x):
        """What comes in has been embedded, and has gone through the blocks before `first`: (B, T, C) as it is."""
        return x


class CachedBatches:
    """The batches of a loader after the model's first blocks: (x (B, T, C), lengths (B,), labels (B,)).

    x is what block `first` reads. It is computed when a message comes for the first time and kept, without its
    padding, on the model's device. Where no block is left to train, nothing is read but the last real token, so only
    that one is kept, and every length is 1.

    Input: loader, a BatchesByLength; model, whose blocks before `first` are frozen; first: `frozen_blocks(model)`
    Raises: ValueError where something before `first` trains or drops out: what is kept would be wrong from then on
    """

    def __init__(self, loader, model, first):
        before = nn.ModuleList([model.tok_emb, model.pos_emb, model.drop_emb, *model.trf_blocks[:first]])
        if any(p.requires_grad for p in before.parameters()):
            raise ValueError(f"an embedding or a block before block {first} trains, so what that block reads changes "
                             f"with every step: freeze it, or keep fewer blocks")
        if dropping := [part.p for part in before.modules() if isinstance(part, nn.Dropout) and part.p > 0]:
            raise ValueError(f"before block {first} something drops out, with probability {dropping[0]}: what is left "
                             f"would be drawn once and kept for ever")
        self.loader, self.model, self.first, self.kept = loader, model, first, {}    # kept: row -> its rows of x
        self.only_last = first == model.config.n_layers

    @property
    def rows(self):
        """The row numbers in each batch of this epoch: the loader's own, whoever set its epoch last."""
        return self.loader.rows

    @property
    def predicted_bytes(self):
        """What will be held when every message has come once: C numbers for each real token."""
        tokens = len(self.loader.token_ids) if self.only_last else sum(map(len, self.loader.token_ids))
        return tokens * self.model.config.emb_dim * self.model.tok_emb.weight.element_size()

    @property
    def bytes(self):
        """What is held now."""
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
