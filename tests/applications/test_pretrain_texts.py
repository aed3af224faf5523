"""The texts that mini read: what each rule of the cleaning does, and which windows a row of tokens gives."""

import gzip
import io
import os
import pickle
import sys
import tarfile
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt.applications.pretrain import clean_post, read_newsgroups, read_wikitext
from gpt.batches import TextWindows, encode_documents
from gpt.tokenizer import END_OF_TEXT, gpt2_tokenizer

# WikiText-2

WIKI = """ 
 = Robert Boulter = 
 
 Robert Boulter is an English film , television and theatre actor . He did n't win ; he 's 20 @-@ odd .
 It cost $ 1 @,@ 000 @.@ 5 ( about £ 700 ) in " the end " , or 5 % more : " why ? " 
 
 = = Career = = 
 
 The play 's run ended .
 = Second article = 
 
 Short .
"""


@pytest.fixture
def wiki(tmp_path):
    path = tmp_path / "train.raw.gz"
    path.write_bytes(gzip.compress(WIKI.encode("utf-8")))
    return read_wikitext(path)


def test_an_article_begins_at_its_title_and_keeps_its_sections(wiki):
    assert [article.splitlines()[0].strip() for article in wiki] == ["= Robert Boulter =", "= Second article ="]
    assert "= = Career = =" in wiki[0], "a section is taken for an article"
    assert wiki[1] == "= Second article = \n \n Short."


def test_the_tokens_of_wikitext_are_joined_to_running_text(wiki):
    lines = [line.strip() for line in wiki[0].splitlines()]
    assert lines[2] == ("Robert Boulter is an English film, television and theatre actor. He didn't win; "
                        "he's 20-odd.")
    assert lines[3] == 'It cost $1,000.5 (about £700) in "the end", or 5% more: "why?"'
    assert lines[7] == "The play's run ended."


# 20 Newsgroups

POST = """From: someone@example.org (A Person)
Subject: Re: bikes
Lines: 12

In article <1993Apr1.1@x.org> other@example.org (Other) writes:
> I quote this line
AB> and this one
| and this
   Bob Smith wrote:
I think that
this goes on.

Write to me at a.person@cs.example.edu today.
M9FEL;&5S(&%R92!E;F-O9&5D(&QI:V4@=&AI<RP@=VET:&]U="!S<&%C97,N

Bye   now.
-- 
A Person, somewhere
"""


def test_only_what_the_writer_of_a_post_wrote_is_left():
    assert clean_post(POST) == "I think that this goes on.\n\nWrite to me at today.\n\nBye now."


def test_a_ruler_ends_a_post_and_a_post_without_text_is_empty():
    assert clean_post("From: x\n\nmine\n----------\nan advertisement") == "mine"
    assert clean_post("From: x\nSubject: y\n\n> all of it quoted\n") == ""
    assert clean_post("From: x\n\nmine -- and mine\n--\nsignature") == "mine -- and mine", "two dashes in a line are text"


def test_posts_are_read_from_a_tar_as_the_archive_divides_them(tmp_path):
    path = tmp_path / "20news-bydate.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in [("train/sci.space/1", "first caf\xe9"), ("test/sci.space/2", "test"),
                           ("train/rec.autos/1", "second")]:
            entry = tarfile.TarInfo(f"20news-bydate-{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode("latin-1")))
        folder = tarfile.TarInfo("20news-bydate-train/empty")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert read_newsgroups(path) == (["first caf\xe9", "second"], ["test"])


def write_pkz(path, content):
    path.write_bytes(zlib.compress(pickle.dumps(content)))
    return path


def test_posts_are_read_from_scikit_learns_file_without_scikit_learn(tmp_path, monkeypatch):
    module = types.ModuleType("sklearn.utils")
    module.Bunch = type("Bunch", (dict,), {"__module__": "sklearn.utils"})
    monkeypatch.setitem(sys.modules, "sklearn", types.ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.utils", module)
    content = {part: module.Bunch(data=texts, target=np.arange(len(texts)), names=["sci.space"])
               for part, texts in (("train", ["one", "two"]), ("test", ["three"]))}
    path = write_pkz(tmp_path / "20news-bydate_py3.pkz", content)
    monkeypatch.setitem(sys.modules, "sklearn.utils", None)    # importing it is an error from here on
    assert read_newsgroups(path) == (["one", "two"], ["three"])


class Attack:
    """A pickle that calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function, argument", [(Path.touch, Path), (os.mkdir, str), (eval, "open({!r}, 'w')".format),
                                                (exec, "open({!r}, 'w')".format), (np.load, str)])
def test_a_pickle_with_a_program_in_it_is_refused_and_the_program_not_run(tmp_path, function, argument):
    harm = tmp_path / "harm"
    content = {"train": {"data": Attack(function, argument(str(harm)))}, "test": {"data": []}}
    with pytest.raises(pickle.UnpicklingError, match="does not belong into a file of newsgroup posts"):
        read_newsgroups(write_pkz(tmp_path / "posts.pkz", content))
    assert not harm.exists(), "reading the file ran what stands in it"


# Tokens

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
@pytest.mark.exercise("1.3")
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


@pytest.mark.exercise("1.3")
def test_rows_tell_where_the_windows_of_a_batch_begin():
    loader = TextWindows(torch.arange(801), window=8, batch_size=16, seed=3)
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        assert [batch[:, 0].tolist() for batch in loader] == loader.rows, "a window begins at its place, not before"


@pytest.mark.exercise("1.3")
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
