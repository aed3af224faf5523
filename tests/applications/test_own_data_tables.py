"""gpt/applications/own_data.py against files as people have them, and as they break them."""

import csv

import pandas as pd
import pytest

from gpt.applications.own_data import labelled_table, number_classes, open_table, read_table
from gpt.spam import split_without_leaks


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
    ('"la,bel"\t"text"\n"x"\t"a"\n', ["a"]),
])
def test_every_cell_is_the_text_that_stands_in_the_file(write, content, texts):
    assert read_table(write(content), "text").to_dict("list") == {"text": texts}, (
        "was a cell guessed at, cut at the wrong sign, or a byte-order mark left in the first name?")


def test_what_csv_writes_is_read_back_whatever_is_in_the_cells(write, tmp_path):
    cells = [["a,b;c\td", '"', "\n"], ["\r\n", "''", "NA"], ["\\", '","', "\u00a0"]]
    for delimiter in ",;\t":
        with open(tmp_path / "t.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([["x", "y", "z"], *cells])
        assert read_table(tmp_path / "t.csv", "z", "x", "y").to_numpy().tolist() == [[c, a, b] for a, b, c in cells]
        found, header, rows = open_table(tmp_path / "t.csv")
        assert (found, header, [row for _, row in rows]) == (delimiter, ["x", "y", "z"], cells)


@pytest.mark.parametrize("content, where, reasons", [
    ("", "", ["empty"]),
    ("text,label\n", "", ["no rows", "['text', 'label']"]),
    ("Text,label\na,x\n", "", ["no column is named text", "['Text', 'label']"]),
    ("text,label,text\na,x,b\n", "", ["2 columns are named text"]),
    ("text,label\na,x\n,y\n\n,\n", ":3", ["column text is empty", "3 cells in 3 rows"]),
    ("text,label\na\n", ":2", ["1 cells, but 2 columns"]),
    ('text,label\n"a\nb",x\nc,d,y\n', ":4", ["3 cells, but 2 columns", "commas"]),
    ('text,label\nc,x\n"a,x\nb,y\n', ":3", ["quotation mark"]),
    ('text,label\nc,x\n"a" b,x\n', ":3", ["quotation mark"]),
    ("text,label\n" + '"' + "a\n" * 100_000, ":2", ["larger than field limit", "quotation mark"]),
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


@pytest.mark.exercise("9.1")
def test_the_numbers_of_classes_depend_on_the_labels_alone():
    rows = pd.DataFrame({"Label": ["b", "a", "\u00e9 \U0001f600", "c d"] * 3,
                         "Text": [f"text {'x' * i}" for i in range(12)]})
    numbered, names = number_classes(rows)
    other, same = number_classes(rows[::-1])
    assert names == same == ["a", "b", "c d", "\u00e9 \U0001f600"], "in the order of the table, not the alphabet?"
    assert [names[k] for k in numbered["Label"]] == rows["Label"].tolist(), "a row has another's label"
    assert other["Label"].tolist() == numbered["Label"].tolist()[::-1]
    assert rows["Label"][0] == "b", "the table that was given has changed"


@pytest.mark.exercise("9.1")
def test_labels_that_are_numbers_are_ordered_by_value_and_stay_texts():
    rows = pd.DataFrame({"Label": ["10", "2", "-1"] * 3, "Text": ["x" * i for i in range(1, 10)]})
    assert number_classes(rows)[1] == ["-1", "2", "10"]
    rows["Label"] = rows["Label"].replace({"-1": "1st"})
    assert number_classes(rows)[1] == ["10", "1st", "2"]


@pytest.mark.exercise("9.1")
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


def test_a_cell_that_is_too_long_is_called_so(tmp_path):
    (tmp_path / "long.csv").write_text(f'text,label\n"{"a" * 150_000}",x\n', encoding="utf-8")
    with pytest.raises(ValueError, match="long.csv:2: field larger than field limit .131072."):
        read_table(tmp_path / "long.csv", "text")
