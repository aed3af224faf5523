"""gpt/applications/own_data.py against files as people have them, and as they break them."""

import csv
import gzip
import os
import threading

import pandas as pd
import pytest

from gpt.applications.own_data import labelled_table, number_classes, open_table, read_table
from gpt.spam import read_sms, split_without_leaks


@pytest.fixture
def write(tmp_path):
    """Writes bytes, or a text as UTF-8, to a file whose path has spaces in it."""
    def write(content):
        path = tmp_path / "my own table.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# Reading

@pytest.mark.parametrize("content, texts", [
    ("label,text\nx,NA\ny,null\nz,007\n", ["NA", "null", "007"]),
    ("\ufefftext,label\r\ncaf\u00e9 \U0001f600,x\r\n", ["caf\u00e9 \U0001f600"]),
    ("label;text\nx;a,b\n", ["a,b"]),
    ("label\ttext\nx\ta,b; c\n", ["a,b; c"]),
    ('label,text\nx,"a, ""b""\r\n\r\nc"\n', ['a, "b"\r\n\r\nc']),
    ("text;label,x;y,z\na;b;c\n", ["a"]),
    ("text\n\"a, b\"\n\n c \n", ["a, b", " c "]),
    ("label,text\nx,a\u0085b\u2028c", ["a\u0085b\u2028c"]),
    ("label,text\rx,a\ry,b\r", ["a", "b"]),
    (",text,,\n1,a,,\n", ["a"]),
    ('"label";"text"\n"x";"a"\n', ["a"]),
    ("label|text\nx|a,b\n", ["a,b"]),
    ("sep=;\r\nlabel,text;text\r\nx;a\r\n", ["a"]),
    ("\ufeffsep=\t\nlabel\ttext\nx\ta\n", ["a"]),
    ('"la,bel"\t"text"\n"x"\t"a"\n', ["a"]),
])
def test_every_cell_is_the_text_that_stands_in_the_file(write, content, texts):
    assert read_table(write(content), "text").to_dict("list") == {"text": texts}, (
        "was a cell guessed at, cut at the wrong sign, or a byte-order mark left in the first name?")


def test_what_csv_writes_is_read_back_whatever_is_in_the_cells(write, tmp_path):
    cells = [["a,b;c\td", '"', "\n"], ["\r\n", "''", "NA"], ["\\", '","', "\u00a0"]]
    for delimiter in ",;|\t":
        quoting = csv.QUOTE_ALL if delimiter == "\t" else csv.QUOTE_MINIMAL
        with open(tmp_path / "t.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter, quoting=quoting).writerows([["x", "y", "z"], *cells])
        assert read_table(tmp_path / "t.csv", "z", "x", "y").to_numpy().tolist() == [[c, a, b] for a, b, c in cells]
        found, header, rows = open_table(tmp_path / "t.csv")
        assert (found, header, [row for _, row in rows]) == (delimiter, ["x", "y", "z"], cells)


@pytest.mark.parametrize("content, where, reasons", [
    ("", "", ["empty"]),
    ("text,label\n", "", ["no rows", "['text', 'label']"]),
    ("Text,label\na,x\n", "", ["no column is named text", "['Text', 'label']"]),
    ("text,label,text\na,x,b\n", "", ["2 columns are named text"]),
    ("text,label\na,x\n,y\n\n,\n", ":3", ["column text is empty", "3 cells in 3 rows", "lines 3, 5"]),
    ("text,label\na\n", ":2", ["1 cells, but 2 columns"]),
    ('text,label\n"a\nb",x\nc,d,y\n', ":4", ["3 cells, but 2 columns", "commas"]),
    ('text,label\nc,x\n"a,x\nb,y\n', ":3", ["quotation mark"]),
    ('text,label\nc,x\n"a" b,x\n', ":3", ["quotation mark"]),
    ("text,label\n" + '"' + "a\n" * 100_000, ":2", ["unexpected end of data", "quotation mark"]),
    ('text\tlabel\n"a\nb"\tx\n', ":2", ["1 cells, but 2 columns"]),
    ("sep=;\ntext;label\na;x\n;y\n", ":4", ["column text is empty"]),
    (b"PK\x03\x04\xa3", ":1", ["spreadsheet"]),
    (b"\x1f\x8b\x08\x00damaged", "", ["gzip cannot unpack it"]),
    (b"text,label\r\nok,x\r\ncaf\xe9,x\r\n", ":3", ["byte 0xe9", "UTF-8"]),
    ("text,label\na,x\n".encode("utf-16"), ":1", ["byte 0xff"]),
    (b"text,label\na," + b"x" * 20_000 + b"\n\xc3\xa9,y\n\xa3,z\n", ":4", ["byte 0xa3"]),
    (b"text,label\na,\xc3", ":2", ["byte 0xc3"]),
])
def test_what_is_wrong_with_a_file_is_said_with_its_line_and_numbers(write, content, where, reasons):
    path = write(content)
    with pytest.raises(ValueError) as error:
        read_table(path, "text", "label")
    assert str(error.value).startswith(f"{path}{where}: "), f"line {where} is where a reader would look: {error.value}"
    assert all(reason in str(error.value) for reason in reasons), error.value


def test_a_missing_file_and_a_folder_are_the_systems_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv", "text")
    with pytest.raises(OSError):
        read_table(tmp_path, "text")


# Classes

def table(**texts):
    return pd.DataFrame([(label, text) for label, own in texts.items() for text in own], columns=["Label", "Text"])


@pytest.mark.exercise("E9.1")
def test_the_numbers_of_classes_depend_on_the_labels_alone():
    rows = pd.DataFrame({"Label": ["b", "a", "\u00e9 \U0001f600", "c d"] * 3,
                         "Text": [f"text {'x' * i}" for i in range(12)]})
    numbered, names = number_classes(rows)
    other, same = number_classes(rows[::-1])
    assert names == same == ["a", "b", "c d", "\u00e9 \U0001f600"], "in the order of the table, not the alphabet?"
    assert [names[k] for k in numbered["Label"]] == rows["Label"].tolist(), "a row has another's label"
    assert other["Label"].tolist() == numbered["Label"].tolist()[::-1]
    assert rows["Label"][0] == "b", "the table that was given has changed"


@pytest.mark.exercise("E9.1")
def test_labels_that_are_numbers_are_ordered_by_value_and_stay_texts():
    rows = pd.DataFrame({"Label": ["10", "2", "-1"] * 3, "Text": ["x" * i for i in range(1, 10)]})
    assert number_classes(rows)[1] == ["-1", "2", "10"]
    rows["Label"] = rows["Label"].replace({"-1": "1st"})
    assert number_classes(rows)[1] == ["10", "1st", "2"]


@pytest.mark.exercise("E9.1")
@pytest.mark.parametrize("texts, words", [
    (dict(ham="xyz"), ["ham", "3"]),
    (dict(ham=["x", "y", "z"], eggs=["u", "v"]), ["eggs", "2"]),
    (dict(ham=["x", "y", "z"], eggs=["u 1", "U 2", "u!", "v"]), ["eggs", "4", "2"]),
    ({"Spam": ["x", "y", "z"], "spam ": ["u"]}, ["Spam", "3", "spam ", "1"]),
])
def test_what_cannot_become_a_classifier_is_refused_with_numbers(texts, words):
    with pytest.raises(ValueError) as error:
        number_classes(table(**texts))
    missing = [word for word in words if word not in str(error.value)]
    assert not missing, f"the message lacks {missing}, a label or how many rows or texts it has: {error.value}"


def test_the_smallest_table_that_is_taken_gives_its_splits_a_row_of_each_class():
    """With 30 rows a class; the three that `number_classes` asks for are the least that could."""
    words = [a + b for a in "abcdef" for b in "ghijk"]
    numbered, names = number_classes(table(x=words, y=[word * 2 for word in words]))
    splits = split_without_leaks(numbered)
    assert all(set(split["Label"]) == {0, 1} for split in splits)


def test_a_labelled_table_comes_from_any_two_columns(write):
    path = write("id;category;body\n" + "".join(f"{i};{'odd' if i % 2 else 'even'};{'x' * i}\n" for i in range(1, 9)))
    rows, names = labelled_table(path, "body", "category")
    assert list(rows.columns) == ["Label", "Text"] and names == ["even", "odd"]
    assert rows["Label"].tolist() == [1, 0] * 4 and rows["Text"].tolist() == ["x" * i for i in range(1, 9)]
    with pytest.raises(ValueError, match="column body cannot be text and label"):
        labelled_table(path, "body", "body")
    with pytest.raises(ValueError) as error:
        labelled_table(write("text,label\na,x\nb,x\n"), "text", "label")
    assert str(error.value).startswith(f"{path}: all 2 rows"), "which file?"


def test_a_cell_may_be_of_any_length(tmp_path):
    """Python's csv stops at 131,072 characters, and a mail can have more; the model reads its first tokens."""
    for text in ("a" * 300_734, '"' + "a, " * 100_000 + '"'):
        (tmp_path / "long.csv").write_text(f"text,label\n{text},x\n", encoding="utf-8")
        assert read_table(tmp_path / "long.csv", "text")["text"][0] == text.strip('"')


def test_a_quotation_mark_in_a_file_with_tabs_is_a_sign_like_any_other(write):
    """pandas' and Python's csv would make one message of three, as chapter 5 shows with the SMS file."""
    path = write('label\ttext\nham\t"Wait for me\nspam\tYou won, call now\nham\t"Yes!"\nham\tsays 5" and "\n')
    assert read_table(path, "label", "text").to_numpy().tolist() == [
        ["ham", '"Wait for me'], ["spam", "You won, call now"], ["ham", '"Yes!"'], ["ham", 'says 5" and "']]


@pytest.mark.skipif(os.name != "posix", reason="pipes as Unix has them")
@pytest.mark.parametrize("rows", [1, 9000])
@pytest.mark.parametrize("read, line", [
    (lambda path: read_table(path, "label", "text"), "row of words,x\n"), (lambda path: open_table(path)[2], "a,b\n"),
    (lambda path: labelled_table(path, "text", "label")[0], "row {letters} of words,{label}\n"),
    (read_sms, "ham\thello there\n"), (lambda path: read_sms(path, blog=True), "ham\thello there\n")])
def test_a_pipe_is_read_once_and_loses_no_row(tmp_path, read, line, rows):
    """A pipe can be read once: whoever opens it a second time finds what is left, cut anywhere."""
    rows = max(rows, 6) if "{" in line else rows
    lines = [line.format(letters="x" * (i % 50), label="xy"[i % 2]) for i in range(rows)]
    content = "".join(lines if line.startswith("ham") else ["text,label\n", *lines])
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(content,), kwargs={"encoding": "utf-8"})
    writer.start()
    assert len(read(tmp_path / "pipe")) == rows
    writer.join()


def test_a_compressed_table_is_a_table(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress("text,label\né,x\n".encode()))
    assert read_table(tmp_path / "t.csv.gz", "text", "label").to_numpy().tolist() == [["é", "x"]]


def test_rows_with_an_empty_cell_are_left_out_on_request_and_named(write, capsys):
    path = write("text,label\na,x\n,y\nb,\nc,z\n,\n")
    assert read_table(path, "text", "label", leave_out_empty=True).to_numpy().tolist() == [["a", "x"], ["c", "z"]]
    assert capsys.readouterr().out == f"{path}: 3 of 5 rows have an empty cell and are left out: lines 3, 4, 6\n"
    assert read_table(path, "label", leave_out_empty=True)["label"].tolist() == ["x", "y", "z"]


@pytest.mark.exercise("E9.1")
@pytest.mark.parametrize("one, other", [
    ("caf\u00e9", "cafe\u0301"), ("ham", "ham\u200b"), ("ham", "\u00a0ham"), ("not ham", "not  ham"), ("1", "1.0"),
    ("01", "1"), ("-0", "0"), (".5", "0.50"), ("Ham", "hAM"), ("\uff28am", "ham"), ("stra\u00dfe", "STRASSE"),
    ("\u2764\ufe0f", "\u2764"), ("-1", "\u22121"), ("e-mail", "e\u2011mail"), ("don't", "don\u2019t"), ("a\u034f", "a"),
    ("9" * 5000, "0" + "9" * 5000)])
def test_labels_that_look_alike_are_asked_about(one, other):
    with pytest.raises(ValueError, match="look alike: .*Are they one class"):
        number_classes(table(**{one: ["x", "y", "z"], other: ["u", "v", "w"]}))


@pytest.mark.exercise("E9.1")
@pytest.mark.parametrize("one, other", [("1", "2"), ("1.0", "1.5"), ("9007199254740993", "9007199254740992"), ("a b", "ab"),
                                        ("\u0915\u093e", "\u0915\u093f"), ("+", "-"), ("$", "$$"), ("1-2", "12")])
def test_labels_that_differ_to_the_eye_are_classes_of_their_own(one, other):
    assert len(number_classes(table(**{one: ["x", "y", "z"], other: ["u", "v", "w"]}))[1]) == 2


@pytest.mark.exercise("E9.1")
@pytest.mark.parametrize("label", ["a\x1b[2J", "a\nb", " ", "\u00a0", "\u200b"])
def test_a_label_that_cannot_be_seen_or_that_a_terminal_would_obey_is_refused_before_training(label):
    with pytest.raises(ValueError, match="cannot be seen, or holds a line end, a tab or another control"):
        number_classes(table(**{label: ["x", "y", "z"], "b": ["u", "v", "w"]}))


@pytest.mark.exercise("E9.1")
@pytest.mark.parametrize("texts", [["का", "कि", "की"], ["1000", "1001", "1002"], ["4711-1", "4711-2", "4711-3"],
                                   [":-)", ":-(", ":-|"], ["😀", "😁", "😂"], ["❤️", "⭐️", "1️⃣"]])
def test_texts_of_any_script_are_different_texts(texts):
    assert number_classes(table(a=texts, b=["x", "y", "z"]))[1] == ["a", "b"]


@pytest.mark.exercise("E9.1")
def test_a_score_in_the_place_of_a_label_is_recognised():
    scores = pd.DataFrame({"Label": [f"{i / 10 - 4:.1f}" for i in range(80)], "Text": [f"film {'x' * i}" for i in range(80)]})
    with pytest.raises(ValueError, match="There are 80 labels in 80 rows: are they scores, or of another column"):
        number_classes(scores)
