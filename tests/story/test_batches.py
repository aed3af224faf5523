"""Windows of a long text, gpt/batches.py: which pieces they are, and in which order. (Messages: test_spam.py.)"""

import pytest
import torch

from gpt.batches import TextWindows, encode_documents
from gpt.tokenizer import END_OF_TEXT, gpt2_tokenizer


def test_each_document_begins_with_end_of_text():
    ids = encode_documents(["Hello world", "", "<|endoftext|>"], gpt2_tokenizer())
    assert ids.dtype == torch.int32
    starts = (ids == END_OF_TEXT).nonzero().flatten().tolist()
    assert starts == [0, 3, 4], "the text <|endoftext|> is text, and may not end a document"
    assert gpt2_tokenizer().decode(ids[1:3].tolist()) == "Hello world"
    assert gpt2_tokenizer().decode(ids[5:].tolist()) == "<|endoftext|>"


def windows(loader, epoch=0):
    """All windows of an epoch, (windows, T + 1)."""
    loader.set_epoch(epoch)
    return torch.cat(list(loader))


@pytest.mark.parametrize("length", [17, 40, 41, 47, 48, 49])
@pytest.mark.exercise("E1.3")
def test_windows_are_pieces_of_the_text_that_overlap_in_one_token(length):
    loader = TextWindows(torch.arange(100, 100 + length, dtype=torch.int32), window=8, batch_size=2)
    for epoch in range(30):
        rows = windows(loader, epoch)
        assert rows.dtype == torch.int64, "an embedding and a loss want int64; the text may be int32"
        assert rows.shape == ((length - 1) // 8 - 1, 9), "T tokens to read and one more, the last to predict"
        assert (rows.diff(dim=1) == 1).all(), "a window is a row of tokens in the order of the text"
        assert rows.min() >= 100 and rows.max() < 100 + length, "are these the places in the text, and not its tokens?"
        starts = rows[:, 0].sort().values
        assert (starts.diff() == 8).all(), "a token is predicted twice in an epoch, or left out between two windows"


def test_epochs_cut_the_text_at_other_places_and_shuffle_the_pieces():
    loader = TextWindows(torch.arange(801), window=8, batch_size=16)
    epochs = [windows(loader, epoch)[:, 0] for epoch in range(20)]
    assert len({int(starts.min()) for starts in epochs}) > 4, "a token is always read at the same position"
    assert all(int(starts.min()) < 8 for starts in epochs)
    assert not any(torch.equal(starts, starts.sort().values) for starts in epochs), "the text is read in order"
    assert len({str(starts - starts.min()) for starts in epochs}) == 20, "every epoch has the same order"


def test_seed_and_epoch_alone_decide_the_windows():
    def order(seed, *epochs):
        torch.rand(3)
        loader = TextWindows(torch.arange(801), window=8, batch_size=16, seed=seed)
        for epoch in epochs:
            rows = windows(loader, epoch)
        return str(rows.tolist())

    assert order(1, 0, 1, 2) == order(1, 2), "a resumed run would see other windows"
    assert len({order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_batches_are_full_but_the_last_and_an_epoch_may_end_early():
    tokens = torch.arange(8 * 12 + 1)    # 11 windows
    loader = TextWindows(tokens, window=8, batch_size=4)
    assert [len(batch) for batch in loader] == [4, 4, 3] and len(loader) == 3
    short = TextWindows(tokens, window=8, batch_size=4, batches=2)
    assert [len(batch) for batch in short] == [4, 4] and len(short) == 2
    assert all(torch.equal(a, b) for a, b in zip(short, loader)), "it is the same epoch, ended early"
    assert len(TextWindows(tokens, window=8, batch_size=4, batches=100)) == 3


@pytest.mark.exercise("E1.3")
def test_rows_tell_where_the_windows_of_a_batch_begin():
    loader = TextWindows(torch.arange(801), window=8, batch_size=16, seed=3)
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        assert [batch[:, 0].tolist() for batch in loader] == loader.rows, "a window begins at its place, not before"


@pytest.mark.exercise("E1.3")
def test_the_tokens_are_the_texts_and_not_their_places():
    text = torch.tensor([7, 3, 3, 9, 1, 50256, 2, 8, 4, 6, 5], dtype=torch.int32)
    loader = TextWindows(text, window=2, batch_size=3)
    loader.rows = [[4, 0, 8], [2]]
    expected = [[[1, 50256, 2], [7, 3, 3], [4, 6, 5]], [[3, 9, 1]]]
    assert [batch.tolist() for batch in loader] == expected, "for each beginning in self.rows what the text holds"
    assert [batch.tolist() for batch in loader] == expected, "a second pass over the same epoch gives the same batches"


def test_a_text_shorter_than_two_windows_is_an_error_with_both_numbers():
    with pytest.raises(ValueError, match="16 tokens .* windows of 8: at least 17"):
        TextWindows(torch.arange(16), window=8, batch_size=1)
