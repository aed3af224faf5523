"""The texts that mini read: what each rule of the cleaning does, and that a pickle runs no program."""

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

from gpt.applications.pretrain import clean_post, read_newsgroups, read_wikitext

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
