"""Label a whole file with a small model whose tokenizer takes letters for tokens: what comes out, and what does not."""

import csv
import os
import threading

import pytest
import torch

import gpt.classify
from gpt.adapters import remove_adapter, save_adapter
from gpt.applications.own_data import NEW_COLUMNS, load_classifier, predict_file
from gpt.batches import batches_of_tokens
from gpt.classify import classify, swap_head
from gpt.config import GPTConfig
from gpt.lora import replace_linear_with_lora
from gpt.model import GPTModel
from gpt.tokenizer import END_OF_TEXT

NAMES = ["yes", "no, not that", "p\u00e9ut-\u00eatre"]


class Letters:
    """A tokenizer: each letter is a token, and none is too large for a small vocabulary."""

    def encode(self, text):
        return [ord(letter) % 97 for letter in text]


@pytest.fixture
def model():
    """As small as a model can be that knows the padding token, with a head of three classes that has opinions."""
    config = GPTConfig(vocab_size=END_OF_TEXT + 1, context_length=24, emb_dim=8, n_heads=2, n_layers=2)
    model = GPTModel(config, torch.Generator().manual_seed(0)).eval()
    swap_head(model, 3)
    with torch.no_grad():
        model.out_head.weight.normal_(std=3, generator=torch.Generator().manual_seed(5))
    return model


@pytest.fixture
def label(model, tmp_path):
    """Labels rows (lists of cells, the column names first) and returns Counts and what was written, as rows."""
    source, out = tmp_path / "in.csv", tmp_path / "new" / "out.csv"

    def label(rows, delimiter=",", pad_to=None):
        quoting = csv.QUOTE_ALL if delimiter == "\t" else csv.QUOTE_MINIMAL
        with open(source, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter, quoting=quoting).writerows(rows)
        counts = predict_file(model, source, out, "text", Letters(), NAMES, pad_to)
        with open(out, encoding="utf-8", newline="") as file:
            return counts, list(csv.reader(file, delimiter=delimiter))

    return label


TEXTS = ["win now", "a", "hello, you", 'said "hi"\r\nand left; so', "x" * 23, "\u00e9\U0001f600", " ", "a\rb", "win"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_row_comes_out_as_it_went_in_with_the_answer_of_its_text_alone(label, model, delimiter, monkeypatch):
    monkeypatch.setattr(gpt.batches, "TOKENS", 24)
    given = [["id", "text", "note"], *([str(i), text, "a,b;\tc"] for i, text in enumerate(TEXTS))]
    counts, written = label(given, delimiter)
    assert counts == (len(TEXTS), 0, 0)
    assert written[0] == ["id", "text", "note", *NEW_COLUMNS]
    assert [row[:3] for row in written[1:]] == given[1:], "cells changed, or rows in the order of their lengths?"
    for text, (name, probability) in zip(TEXTS, (row[3:] for row in written[1:]), strict=True):
        alone = classify(model, [text], Letters(), NAMES)[0]
        assert (name, float(probability)) == (alone.label, pytest.approx(alone.probability, abs=1e-4)), text
    assert len({row[3] for row in written[1:]}) > 1, "one answer for all would prove nothing"


def test_an_adapter_of_the_blogs_way_reads_its_padding(label, model):
    _, written = label([["text"], *([text] for text in TEXTS)], pad_to=24)
    for text, row in zip(TEXTS, written[1:], strict=True):
        assert float(row[2]) == pytest.approx(classify(model, [text], Letters(), NAMES, 24)[0].probability, abs=1e-4)


def test_an_empty_text_has_an_empty_label_and_a_long_one_is_cut_and_both_are_counted(label, model):
    limit = model.config.context_length
    counts, written = label([["text", "id"], ["ab" * limit, "1"], ["", "2"], ["ab" * (limit // 2), "3"], ["", "4"]])
    assert counts == (4, 2, 1)
    assert written[2] == ["", "2", "", ""] and written[4] == ["", "4", "", ""]
    assert written[1][2:] == written[3][2:], "its first tokens are what is read of a long text"


def test_a_table_without_rows_gives_one_without_rows(label):
    assert label([["text", "id"]]) == ((0, 0, 0), [["text", "id", *NEW_COLUMNS]])


def folder_contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_interrupted_run_leaves_the_older_file_and_nothing_else(model, tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_text("text\n" + "abc\n" * 10, encoding="utf-8")
    (tmp_path / "out.csv").write_text("older", encoding="utf-8")
    before, calls, real = folder_contents(tmp_path), [], gpt.classify.class_logits

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(gpt.classify, "class_logits", interrupted)
    monkeypatch.setattr(gpt.batches, "TOKENS", 6)
    with pytest.raises(KeyboardInterrupt):
        predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv", "text", Letters(), NAMES)
    assert folder_contents(tmp_path) == before, "half a file under the final name, or a temporary one left behind"


def test_what_is_wrong_with_the_last_row_is_said_before_the_model_starts(model, tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_text("text,id\n" + "abc,1\n" * 10 + "abc\n", encoding="utf-8")
    monkeypatch.setattr(gpt.classify, "class_logits", lambda *_: pytest.fail("the model was asked"))
    with pytest.raises(ValueError, match=":12: 1 cells, but 2 columns"):
        predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv", "text", Letters(), NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_the_file_that_is_read_is_never_the_one_that_is_written(model, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("text\nabc\n", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    names = [source, tmp_path / "folder" / ".." / "in.csv"]
    if hasattr(os, "symlink") and os.name != "nt":
        (tmp_path / "link.csv").symlink_to(source)
        names.append(tmp_path / "link.csv")
    for out in names:
        with pytest.raises(ValueError, match="would be overwritten"):
            predict_file(model, source, out, "text", Letters(), NAMES)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        predict_file(model, source, tmp_path / "folder", "text", Letters(), NAMES)
    assert source.read_text(encoding="utf-8") == "text\nabc\n"


def test_a_column_called_text_is_found_and_another_must_be_named(model, tmp_path):
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    for header, column, found in (("id,Text", None, 1), ("text,id", None, 0), ("text,body", "body", 1)):
        source.write_text(f"{header}\n,\nabc,\n,abc\n", encoding="utf-8")
        predict_file(model, source, out, column, Letters(), NAMES)
        rows = [line.split(",") for line in out.read_text(encoding="utf-8").splitlines()[1:]]
        assert [bool(row[2]) for row in rows] == [bool(row[found]) for row in rows], f"{column} of {header}"
    source.write_text("id,body\n1,abc\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"which one holds the texts\? \['id', 'body'\]"):
        predict_file(model, source, out, None, Letters(), NAMES)
    with pytest.raises(ValueError, match="no column is named Body"):
        predict_file(model, source, out, "Body", Letters(), NAMES)


def test_a_column_that_is_there_already_is_not_written_twice(model, tmp_path):
    (tmp_path / "in.csv").write_text("text,predicted_label\nabc,yes\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has a column predicted_label already"):
        predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv", "text", Letters(), NAMES)


@pytest.mark.exercise("E9.4")
def test_a_batch_holds_as_many_tokens_as_it_may_with_its_padding(monkeypatch):
    monkeypatch.setattr(gpt.batches, "TOKENS", 12)
    lengths = {0: 5, 1: 2, 2: 30, 3: 5, 4: 3, 5: 6, 6: 3, 9: 3}
    batches = list(batches_of_tokens(lengths))
    assert batches == [[1, 4, 6, 9], [0, 3], [5], [2]], "4 x 3, 2 x 5 for 3 x 6 are too many, and one too long for any"
    assert list(batches_of_tokens({0: 1, 1: 2, 2: 6})) == [[0, 1], [2]], (
        "9 tokens would fit, but with the padding they are 3 x 6: count a row as long as the longest of its batch")
    assert list(batches_of_tokens({7: 3, 2: 3, 5: 3, 0: 2})) == [[0, 7, 2, 5]], (
        "equal lengths keep the order in which they come")


@pytest.mark.exercise("E9.4")
def test_a_text_that_is_too_long_for_any_batch_has_one_of_its_own(monkeypatch):
    monkeypatch.setattr(gpt.batches, "TOKENS", 12)
    assert list(batches_of_tokens({0: 13, 1: 14})) == [[0], [1]], "a batch without a row, or a row that is lost"
    assert list(batches_of_tokens({})) == [], "of no rows no batch, not even an empty one"


# The model of an adapter

@pytest.fixture
def saved(model, tmp_path):
    """Saves an adapter of the small model, as if it were of the base that is named."""
    def saved(base, labels):
        remove_adapter(model)
        model.requires_grad_(False)
        if labels:
            swap_head(model, len(labels))
        replace_linear_with_lora(model.trf_blocks, 2, 2)
        save_adapter(model, tmp_path / "a.safetensors", base=base, labels=labels)
        return tmp_path / "a.safetensors"

    return saved


def test_an_adapter_that_cannot_label_is_refused_by_its_name(saved, model, monkeypatch):
    with pytest.raises(ValueError, match=r"a\.safetensors was trained on 'mini, untrained \(seed 1\)'"):
        load_classifier(saved("mini, untrained (seed 1)", NAMES))
    with pytest.raises(ValueError, match=r"a\.safetensors was trained on 'mini' with weights .* load the same base"):
        load_classifier(saved("mini", NAMES))
    file = saved("mini", [])
    monkeypatch.setattr(gpt.applications.own_data, "load_gpt2", lambda base: model)
    with pytest.raises(ValueError, match=r"a\.safetensors has no labels"):
        load_classifier(file)


def test_an_adapter_gives_its_model_back_ready_to_answer(saved, model, monkeypatch):
    file = saved("mini", NAMES)
    monkeypatch.setattr(gpt.applications.own_data, "load_gpt2", lambda base: model.train())
    loaded, adapter = load_classifier(file)
    assert adapter.labels == NAMES and loaded.out_head.out_features == 3
    assert not any(module.training for module in loaded.modules()), "dropout would make the answers a matter of luck"


def test_labels_that_do_not_fit_the_head_are_refused_before_anything_is_written(model, tmp_path):
    (tmp_path / "in.csv").write_text("text\nhello\n", encoding="utf-8")
    with pytest.raises(ValueError, match="2 labels, but the head has 3 outputs"):
        predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv", "text", Letters(), NAMES[:2])
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("start", ["", "\ufeff", "sep=;\r\n", "\ufeffsep=;\r\n"])
def test_the_copy_begins_as_the_source_does(model, tmp_path, start):
    """Without the mark Excel shows "cafÃ©" for "café"."""
    (tmp_path / "in.csv").write_text(f"{start}id;text\r\n1;café\r\n", encoding="utf-8", newline="")
    predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv", None, Letters(), NAMES)
    content = (tmp_path / "out.csv").read_bytes().decode("utf-8")
    assert content.startswith(f"{start}id;text;predicted_label;predicted_probability\r\n1;café;")


def test_a_file_with_tabs_goes_out_without_new_quotation_marks(model, tmp_path):
    (tmp_path / "in.tsv").write_text('id\ttext\n1\t"Wait\n2\ta "b"\n', encoding="utf-8")
    predict_file(model, tmp_path / "in.tsv", tmp_path / "out.tsv", None, Letters(), NAMES)
    lines = (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[:2] for line in lines] == [["id", "text"], ["1", '"Wait'], ["2", 'a "b"']]


@pytest.mark.skipif(os.name != "posix", reason="pipes as Unix has them")
@pytest.mark.parametrize("column", [None, "text"])
def test_texts_may_come_from_a_pipe_and_labels_go_into_one(model, tmp_path, column):
    for name in ("in", "out"):
        os.mkfifo(tmp_path / name)
    got, content = [], "text\n" + "win now\n" * 9000
    threads = [threading.Thread(target=(tmp_path / "in").write_text, args=(content,), kwargs={"encoding": "utf-8"}),
               threading.Thread(target=lambda: got.append((tmp_path / "out").read_text(encoding="utf-8")))]
    for thread in threads:
        thread.start()
    assert predict_file(model, tmp_path / "in", tmp_path / "out", column, Letters(), NAMES).rows == 9000
    for thread in threads:
        thread.join(20)
    assert len(got[0].splitlines()) == 9001
