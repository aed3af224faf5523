"""gpt/spam.py against the SMS file itself, and its errors against files that are broken on purpose."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from gpt.batches import LABELS, BatchesByLength, encode, pad, padding_share
from gpt.download import fetch
from gpt.spam import SpamDataset, create_balanced_dataset, normalised, random_split, read_sms, split_without_leaks
from gpt.tokenizer import END_OF_TEXT, gpt2_tokenizer

SEEDS = (0, 1, 123)


class Letters:
    """A tokenizer that needs no file: one token a character."""

    def encode(self, text):
        return [ord(letter) for letter in text]


@pytest.fixture(scope="module")
def sms():
    return read_sms(fetch("sms"))


@pytest.fixture(scope="module")
def blog_splits():
    """The blog's way: its reading, its balancing, the labels mapped to 0 and 1, its split."""
    balanced = create_balanced_dataset(read_sms(fetch("sms"), blog=True))
    balanced["Label"] = balanced["Label"].map(LABELS)
    return random_split(balanced, 0.7, 0.1)


@pytest.fixture
def messages():
    """40 messages of 1 to 40 characters, in no order of length; the first one's code is 1000 + the row number."""
    lengths = np.random.default_rng(0).permutation(40) + 1
    return pd.DataFrame({"Label": [row % 2 for row in range(40)],
                         "Text": [chr(1000 + row) + "x" * (length - 1) for row, length in enumerate(lengths)]})


# Reading

@pytest.mark.exercise("E5.1")
def test_every_message_of_the_file_is_read(sms):
    assert len(sms) == 5574, "is a quotation mark read as a CSV's?"
    assert sms["Label"].value_counts().to_dict() == {"ham": 4827, "spam": 747}
    lines = [f"{label}\t{text}" for label, text in zip(sms["Label"], sms["Text"])]
    assert ("\n".join(lines) + "\n").encode() == fetch("sms").read_bytes(), "the rows do not give the file back"


@pytest.mark.exercise("E5.1")
def test_the_blogs_reading_glues_three_messages_and_drops_quotes_in_52_rows(sms):
    blog = read_sms(fetch("sms"), blog=True)
    assert blog["Label"].value_counts().to_dict() == {"ham": 4825, "spam": 747}
    different = blog[~blog["Text"].isin(set(sms["Text"]))]
    assert len(different) == 53
    glued = different[different["Text"].str.contains("\n")]["Text"]
    assert [text.count("\n") + 1 for text in glued] == [3]
    unquoted = set(sms["Text"].str.replace('"', ""))
    lost = different.drop(glued.index)["Text"].str.replace('"', "")
    assert len(lost) == 52 and lost.isin(unquoted).all(), "these rows should differ by their quotes alone"


@pytest.mark.exercise("E5.1")
def test_what_pandas_takes_for_missing_is_a_message_and_so_is_what_follows_a_second_tab(tmp_path):
    path = tmp_path / "sms"
    path.write_bytes(b'ham\tNA\nspam\tnull\nham\t"\nspam\t1\t2\t\nham\t 645 \n')
    sms = read_sms(path)
    assert sms["Text"].tolist() == ["NA", "null", '"', "1\t2\t", " 645 "], "a message is text, to the last sign"
    assert sms["Label"].tolist() == ["ham", "spam", "ham", "spam", "ham"]


@pytest.mark.exercise("E5.1")
@pytest.mark.parametrize("content, line, reason", [
    (b"", 1, "empty"),
    (b"ham\thello\nham hello\n", 2, "a tab"),
    (b"ham\thello\n\nspam\twin\n", 2, "a tab"),
    (b"ham\thello\nham\t\n", 2, "a message"),
    (b"ham\thello\nspam\twin\neggs\thello\n", 3, "eggs"),
    (b"ham\thello\nspam\t\xa3500\n", 2, "0xa3 is not UTF-8"),
    (b"\xef\xbb\xbfham\thello\r\nspam\t\xa3500\r\n", 2, "0xa3 is not UTF-8"),
])
@pytest.mark.parametrize("blog", [False, True])
def test_a_broken_file_is_an_error_with_file_and_line(tmp_path, content, line, reason, blog):
    path = tmp_path / "broken file"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_sms(path, blog=blog)
    assert str(error.value).startswith(f"{path}:{line}: "), "the message must begin with file:line:, counted from 1"
    assert reason in str(error.value), "the message does not say what is wrong with the line"


@pytest.mark.exercise("E5.1")
def test_a_file_saved_on_windows_reads_the_same(tmp_path):
    path = tmp_path / "sms"
    path.write_bytes('\ufeffham\tsaid "hi"\r\nspam\t1\tor 2\u0085?\r\n'.encode())
    assert read_sms(path).to_dict("list") == {"Label": ["ham", "spam"], "Text": ['said "hi"', "1\tor 2\u0085?"]}, (
        "is a byte-order mark or a carriage return left, or is U+0085 taken for the end of a line?")


@pytest.mark.exercise("E5.1")
def test_only_one_carriage_return_at_the_end_of_a_line_is_not_text(tmp_path):
    path = tmp_path / "sms"
    path.write_bytes(b"ham\ta\rb\r\nspam\twin\r\r\n")
    sms = read_sms(path)
    assert sms["Text"].tolist() == ["a\rb", "win\r"], "a line ends in \\n or \\r\\n; any other \\r is of the message"
    assert list(sms.columns) == ["Label", "Text"], "the columns are Label and Text, in this order"


@pytest.mark.exercise("E5.1")
@pytest.mark.parametrize("line", ["Ham\thello", " ham\thello", "ham \thello", "\thello"])
def test_a_label_is_ham_or_spam_letter_by_letter(tmp_path, line):
    path = tmp_path / "sms"
    path.write_text(f"spam\twin\n{line}\n")
    with pytest.raises(ValueError) as error:
        read_sms(path)
    assert str(error.value).startswith(f"{path}:2: "), "it is not one of the two labels: no lower() and no strip()"


@pytest.mark.exercise("E5.1")
def test_an_empty_line_at_the_end_is_a_line_without_a_message(tmp_path):
    path = tmp_path / "sms"
    path.write_bytes(b"ham\thello\n\n")
    with pytest.raises(ValueError) as error:
        read_sms(path)
    assert str(error.value).startswith(f"{path}:2: "), "only the last line end is followed by no line: no strip()"


@pytest.mark.exercise("E5.1")
def test_the_blogs_reading_loses_a_message_that_pandas_takes_for_missing(tmp_path):
    path = tmp_path / "sms"
    path.write_bytes(b"ham\tNA\nspam\twin\n")
    assert read_sms(path, blog=True)["Text"].isna().tolist() == [True, False], \
        "blog=True shows what pandas' defaults do: other options would mend it"


# Balancing and splitting

@pytest.mark.exercise("E5.2")
def test_the_blogs_split_has_its_sizes_and_its_leaks(blog_splits):
    train, validation, test = blog_splits
    assert pd.concat(blog_splits)["Label"].value_counts().to_dict() == {0: 747, 1: 747}, "747 ham for the 747 spam"
    assert [len(split) for split in blog_splits] == [1045, 149, 300]
    assert test["Text"].isin(set(train["Text"])).sum() == 37, "another shuffle than the blog's random_state 123?"


@pytest.mark.exercise("E5.2")
def test_balancing_keeps_all_spam_and_samples_ham_with_the_seed(sms):
    balanced = create_balanced_dataset(sms)
    assert balanced[balanced["Label"] == "spam"].equals(sms[sms["Label"] == "spam"]), "all spam, as it was, numbers too"
    assert balanced["Label"].eq("ham").sum() == 747 and balanced.index.is_unique, "was ham drawn with replacement?"
    assert balanced.equals(create_balanced_dataset(sms, random_state=123)), "the same seed draws other ham"
    assert not balanced.equals(create_balanced_dataset(sms, random_state=7)), "is random_state ignored?"
    ham = sms[sms["Label"] == "ham"].sample(747, random_state=123)
    assert balanced[:747].equals(ham), "ham stands in the order in which DataFrame.sample draws it"


@pytest.mark.exercise("E5.2")
def test_balancing_neither_doubles_nor_renumbers_nor_changes_a_row(sizes):
    spam = sizes.T
    df = pd.DataFrame({"Label": ["ham", "spam"] * spam + ["ham"] * sizes.context})
    df["Text"] = [f"message {row}" for row in range(len(df))]
    df["Row"] = range(1000, 1000 + len(df))    # a column of the caller's own
    df.index = range(7, 7 + len(df))           # as if it were a part of a larger table
    before = df.copy()
    balanced = create_balanced_dataset(df)
    assert balanced["Label"].tolist() == ["ham"] * spam + ["spam"] * spam, "as many ham as spam, the ham first"
    assert balanced["Text"].is_unique, "a message comes twice: was one class drawn with replacement?"
    assert df.equals(before), "the table that was given is another one now"
    assert balanced.equals(df.loc[balanced.index]), "a row has another number, label or text, or a column is lost"
    assert len(create_balanced_dataset(df[:2 * spam])) == 2 * spam, "one ham for each spam is just enough"


@pytest.mark.exercise("E5.2")
def test_balancing_says_so_when_there_is_too_little_ham():
    for ham, spam in ((3, 5), (4, 0)):
        with pytest.raises(ValueError, match=f"{ham} ham and {spam} spam"):
            create_balanced_dataset(pd.DataFrame({"Label": ["ham"] * ham + ["spam"] * spam, "Text": "a"}))


@pytest.mark.exercise("E5.2")
def test_balancing_says_so_when_the_labels_are_numbers_already():
    with pytest.raises(ValueError, match="0 ham and 0 spam"):
        create_balanced_dataset(pd.DataFrame({"Label": [0, 1], "Text": ["a", "b"]}))


@pytest.mark.parametrize("text, letters", [
    ("Call 0800-123 NOW!", "callnow"), ("call 0871\tnow", "callnow"), ("645", "645"), (":-) :-)", ":-) :-)"),
    ("Ça_va? £5, 10²", "çava"), ("I can't", "icant"), ("का", "का"), ("कि", "कि"), ("สวัสดี 5", "สวัสดี"), ("٣٤", "٣٤"),
    ("Cafe\u0301!", "caf\u00e9"), ("１２３", "１２３"), ("ＦＲＥＥ", "free"), ("❤️", "❤️"), ("1️⃣", "1️⃣"), ("❤️ love 1️⃣", "love"),
])
def test_messages_are_compared_by_their_letters_alone_if_they_have_any(text, letters):
    assert normalised(text) == letters, "different texts become one, or near-copies two"


@pytest.mark.parametrize("texts", [[str(i) for i in range(600)], ["😀" * (i + 1) for i in range(600)],
                                   [f"4711-{i}" for i in range(600)]])
def test_texts_without_letters_are_not_all_one_group(texts):
    splits = split_without_leaks(pd.DataFrame({"Label": "text", "Text": texts}), 0.7, 0.1, seed=1)
    assert [len(split) for split in splits] == [420, 60, 120]


@pytest.mark.exercise("E5.3")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("balanced", [True, False])
def test_no_message_of_a_split_was_seen_in_another(sms, seed, balanced):
    df = create_balanced_dataset(sms, seed) if balanced else sms
    splits = split_without_leaks(df, seed=seed)
    train, validation, test = (set(split["Text"].map(normalised)) for split in splits)
    assert not train & validation and not train & test and not validation & test, "a group was torn apart"
    assert sorted(pd.concat(splits)["Text"]) == sorted(df["Text"]), "a row was lost or doubled"
    assert [len(split) for split in splits] == ([1045, 149, 300] if balanced else [3901, 557, 1116]), "other sizes"


@pytest.mark.exercise("E5.3")
@pytest.mark.parametrize("balanced", [True, False])
def test_every_split_has_the_same_share_of_spam(sms, balanced):
    df = create_balanced_dataset(sms) if balanced else sms
    spam = df["Label"].eq("spam").mean()
    for seed in SEEDS:
        for split in split_without_leaks(df, seed=seed):
            assert abs(split["Label"].eq("spam").sum() - spam * len(split)) < 2, "the split is not stratified"


@pytest.mark.exercise("E5.3")
def test_the_seed_alone_fixes_the_split(sms):
    def texts(seed):
        return [split["Text"].tolist() for split in split_without_leaks(sms, seed=seed)]

    assert texts(1) == texts(1)
    assert all(set(one) != set(other) for one, other in zip(texts(1), texts(2))), "is the seed ignored?"


@pytest.mark.exercise("E5.3")
def test_a_split_is_shuffled_and_numbered_from_0(sms):
    for split in split_without_leaks(sms):
        assert split.index.tolist() == list(range(len(split))), "rows keep the numbers of the old table"
        spam = split["Label"].eq("spam")
        changes = (spam != spam.shift()).sum()
        assert changes > 0.15 * len(split), "the labels stand in blocks: a batch would see one class only"


@pytest.mark.exercise("E5.3")
def test_a_group_of_two_labels_stays_together_and_large_groups_find_room():
    df = pd.DataFrame({"Label": ["spam", "ham"] * 10 + ["ham"] * 80,
                       "Text": ["Free!", "free"] * 10 + ["a" * n for n in range(1, 81)]})
    for seed in range(60):
        splits = split_without_leaks(df, seed=seed)
        free = sorted(split["Text"].str.lower().str.startswith("free").sum() for split in splits)
        assert free == [0, 0, 20], "a group has one split, also where its rows have different labels"
        assert [len(split) for split in splits] == [70, 10, 20], "a group went where there was no room for all of it"


@pytest.mark.exercise("E5.3")
def test_a_row_without_a_label_is_an_error_and_not_lost():
    with pytest.raises(ValueError, match="row 1 .*nan"):
        split_without_leaks(pd.DataFrame({"Label": ["ham", float("nan")], "Text": ["a", "b"]}))


@pytest.mark.exercise("E5.3")
def test_fractions_may_leave_nothing_to_test_but_not_less(messages):
    assert [len(split) for split in split_without_leaks(messages, 0.75, 0.25)] == [30, 10, 0]
    with pytest.raises(ValueError, match="0.9.*0.2"):
        split_without_leaks(messages, 0.9, 0.2)


@pytest.mark.exercise("E5.3")
@pytest.mark.parametrize("fractions", [(-0.1, 0.5), (0.5, -0.1)])
def test_a_negative_fraction_is_an_error(messages, fractions):
    with pytest.raises(ValueError, match="{}.*{}".format(*fractions)):
        split_without_leaks(messages, *fractions)


@pytest.mark.exercise("E5.3")
def test_the_sizes_are_rounded_down_and_the_test_gets_the_rest():
    df = pd.DataFrame({"Label": "ham", "Text": ["a" * n for n in range(1, 20)]}, index=range(5, 24))
    splits = split_without_leaks(df)    # of 19 rows 13.3 and 1.9
    assert [len(split) for split in splits] == [13, 1, 5], "a fraction of a row is no row: is one rounded up?"
    assert all(list(split.columns) == ["Label", "Text"] for split in splits), "a column was added or lost"


@pytest.mark.exercise("E5.3")
def test_a_row_has_the_same_chance_of_each_split_wherever_it_stands():
    letters = "abcdefghij"
    df = pd.DataFrame({"Label": "ham", "Text": list(letters)})
    before, found = np.random.get_state()[1].copy(), dict.fromkeys(letters, 0)
    for seed in range(200):
        for letter in split_without_leaks(df, seed=seed)[1]["Text"]:
            found[letter] += 1
    assert all(5 <= times <= 40 for times in found.values()), f"of 10 rows 1 is validated, each in 20 of 200 splits: " \
        f"{found}. Are chances in proportion to the room that is left, and does what fits exactly have a chance?"
    assert (np.random.get_state()[1] == before).all(), "the seed is for a generator of its own, not for np.random"


@pytest.mark.exercise("E5.3")
def test_large_groups_are_placed_first_and_a_group_may_fill_a_split():
    df = pd.DataFrame({"Label": "ham", "Text": ["x", "y", "z"] + ["free!"] * 7})
    for seed in range(20):
        assert [len(split) for split in split_without_leaks(df, seed=seed)] == [7, 1, 2], \
            "the group of 7 fits into training alone, if nothing else was put there before"


@pytest.mark.exercise("E5.3")
def test_a_fraction_of_a_row_that_one_label_leaves_is_the_next_ones():
    labels = [label for label in "abcdefgh" for _ in range(3)]    # of three rows training gets 2.1, validation 0.3
    texts = [first + second for first in "pqrs" for second in "uvwxyz"]
    for seed in range(20):
        sizes = [len(split) for split in split_without_leaks(pd.DataFrame({"Label": labels, "Text": texts}), seed=seed)]
        assert abs(sizes[0] - 16) <= 1 and abs(sizes[1] - 2) <= 1, \
            f"16.8 and 2.4 of 24 rows, and it is {sizes}: is the room of each label rounded, or not carried on?"


# Encoding and batches

def test_the_text_endoftext_is_text_and_an_empty_message_is_one_token():
    end, empty = encode(["<|endoftext|>", ""], gpt2_tokenizer())
    assert gpt2_tokenizer().decode(end) == "<|endoftext|>" and len(end) > 1, "a message could end the text"
    assert empty == [END_OF_TEXT]


@pytest.mark.exercise("E5.4")
def test_padding_stands_on_the_right():
    ids, lengths = pad([[5, 6, 7], [8]], pad_token_id=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]], "is the padding on the right, and is it pad_token_id?"
    assert lengths.tolist() == [3, 1], "a length counts the tokens of the message, not the padding"
    assert ids.dtype == lengths.dtype == torch.long, "token ids and lengths are whole numbers"


@pytest.mark.exercise("E5.4")
@pytest.mark.parametrize("extra", [None, 0, 4])
def test_a_row_is_as_wide_as_asked_and_a_padding_token_in_a_message_counts(sizes, extra):
    rows = [torch.randint(sizes.V, (length,)).tolist() for length in (sizes.T, 1, sizes.T - 2)]
    rows[0][-1] = rows[2][0] = 3    # the padding token, which <|endoftext|> may be in a message too
    ids, lengths = pad(rows, 3, None if extra is None else sizes.T + extra)
    assert ids.shape == (3, sizes.T + (extra or 0)), "T is width, or the longest row's length where width is None"
    assert lengths.tolist() == [sizes.T, 1, sizes.T - 2], "were the tokens counted that are not the padding token?"
    for row, padded in zip(rows, ids.tolist()):
        assert padded == row + [3] * (len(padded) - len(row)), "the tokens stand in another place or order"
    assert (pad([[1], [2, 3]])[0] == torch.tensor([[1, END_OF_TEXT], [2, 3]])).all(), "without a padding token?"


@pytest.mark.exercise("E5.4")
def test_padding_leaves_the_lists_alone_and_an_empty_one_has_length_0():
    rows = [[5, 6, 7], [], [8]]
    ids, lengths = pad(rows, pad_token_id=9)
    assert rows == [[5, 6, 7], [], [8]], "the caller's lists were padded: row += [...] changes them in place"
    assert ids[1].tolist() == [9, 9, 9] and lengths.tolist() == [3, 0, 1], "a length counts what is in the list"


def test_the_blogs_loaders_have_its_lengths_batches_and_padding(blog_splits):
    train, validation, test = blog_splits
    dataset = SpamDataset(train, gpt2_tokenizer())
    others = [SpamDataset(df, gpt2_tokenizer(), dataset.max_length) for df in (validation, test)]
    assert dataset.max_length == 120
    assert len(DataLoader(dataset, 8, drop_last=True)) == 130
    assert [len(DataLoader(other, 8)) for other in others] == [19, 38]
    assert round(100 * padding_share(dataset), 1) == 74.7
    ids, labels = next(iter(DataLoader(others[1], 8)))
    assert ids.shape == (8, 120) and ids.dtype == labels.dtype == torch.long
    assert labels.tolist() == test["Label"][:8].tolist()
    assert gpt2_tokenizer().decode(ids[0][ids[0] != END_OF_TEXT].tolist()) == test["Text"].iloc[0]


@pytest.mark.exercise("E5.4")
def test_a_dataset_cuts_and_pads_to_the_length_asked_for():
    df = pd.DataFrame({"Label": ["ham", "spam"], "Text": ["abcdef", ""]})
    dataset = SpamDataset(df, Letters(), max_length=4, pad_token_id=0)
    assert dataset.ids.tolist() == [[97, 98, 99, 100], [0, 0, 0, 0]] and dataset.labels.tolist() == [0, 1]
    assert SpamDataset(df, Letters(), max_length=9).ids.shape == (2, 9), "padding stopped at the longest message"


def test_a_message_na_in_a_csv_is_a_message(tmp_path):
    df = pd.DataFrame({"Label": [0, 1, 0], "Text": ["NA", 'a "quoted", text', "645"]})
    df.to_csv(tmp_path / "own.csv", index=False)
    from_file, from_table = SpamDataset(tmp_path / "own.csv", Letters()), SpamDataset(df, Letters())
    assert torch.equal(from_file.ids, from_table.ids) and torch.equal(from_file.labels, from_table.labels)


@pytest.mark.parametrize("csv, reason", [
    ("Label,Message\nham,hello\n", "no column named Text.*Message"),
    ("Label,Text\n", "no messages"),
    ("Label,Text\nham,hello\nham,\n", r"row 1 .*nan"),
    ("Label,Text\n0,hello\n,win\n", r"row 1 .*nan"),
    ("Label,Text\nham,hello\neggs,win\n", r"row 1 .*'eggs'"),
    ("Label,Text\n1,hello\n-1,win\n", r"row 1 .*-1"),
    ("Label,Text\n1,hello\n0.5,win\n", r"row 1 .*0\.5"),
])
def test_a_broken_table_is_an_error_with_its_row(tmp_path, csv, reason):
    path = tmp_path / "own.csv"
    path.write_text(csv, encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        SpamDataset(path, Letters())
    with pytest.raises(ValueError, match=reason):
        BatchesByLength(pd.read_csv(path), Letters())


def read_rows(loader):
    """The row numbers in the batches of a loader over `messages`."""
    return [(ids[:, 0] - 1000).tolist() for ids, _, _ in loader]


@pytest.mark.exercise("E5.5")
@pytest.mark.parametrize("seed", [None, 5])
def test_a_pass_yields_every_message_once_with_its_label_and_length(messages, seed):
    loader = BatchesByLength(messages, Letters(), batch_size=7, seed=seed, pad_token_id=0)
    for ids, lengths, labels in loader:
        assert ids.shape == (len(labels), lengths.max()), "padded to more than the longest of the batch"
        for row, length, label in zip(ids, lengths, labels):
            number = int(row[0]) - 1000
            text = [ord(letter) for letter in messages["Text"][number]]
            assert row.tolist() == text + [0] * (len(row) - len(text)) and length == len(text)
            assert label == messages["Label"][number]
    assert sorted(sum(read_rows(loader), [])) == list(range(40))
    assert read_rows(loader) == loader.rows, "training would name the wrong messages"


@pytest.mark.exercise("E5.5")
def test_batches_are_as_many_as_needed_and_of_even_size(messages):
    loader = BatchesByLength(messages[:33], Letters(), batch_size=8, seed=1)
    assert len(loader) == len(loader.rows) == 5
    assert sorted(map(len, loader.rows)) == [6, 6, 7, 7, 7], "the longest message is in a batch of its own"


@pytest.mark.exercise("E5.5")
def test_the_order_depends_on_seed_and_epoch_alone(messages):
    def order(seed, *epochs):
        loader = BatchesByLength(messages, Letters(), seed=seed)
        for epoch in epochs:
            loader.set_epoch(epoch)
            list(loader)
        return loader.rows

    assert order(1, 0, 1, 2) == order(1, 2), "a resumed run would see another order"
    assert order(1) == order(1, 0)
    orders = {str(order(*case)) for case in ((1, 0), (1, 1), (2, 0), (2, 1))}
    assert len(orders) == 4, "two seeds or two epochs have one order: is the epoch ignored, or added to the seed?"


@pytest.mark.exercise("E5.5")
def test_an_epoch_changes_the_company_of_a_message_not_just_the_order_of_batches(messages):
    loader = BatchesByLength(messages, Letters(), seed=1)
    first = {frozenset(rows) for rows in loader.rows}
    loader.set_epoch(1)
    assert first != {frozenset(rows) for rows in loader.rows}, "lengths are not blurred, or all by one factor"


@pytest.mark.exercise("E5.5")
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_message_is_blurred_past_its_neighbours_in_length_and_no_further(messages, seed):
    """Lengths are 1 to 40: times 0.95 to 1.05 they still fill rank r with r / 1.105 to 1.105 r characters."""
    loader = BatchesByLength(messages, Letters(), batch_size=5, seed=seed)
    for epoch in range(4):
        loader.set_epoch(epoch)
        batches = sorted((sorted(len(messages["Text"][row]) for row in rows) for rows in loader.rows), key=sum)
        for number, lengths in enumerate(batches):
            low, high = 5 * number + 1, 5 * number + 5
            assert low / 1.11 < lengths[0] and lengths[-1] < 1.11 * high, "messages of one batch differ too much"


@pytest.mark.exercise("E5.5")
def test_an_epoch_does_not_begin_with_the_short_messages(messages):
    longest = [int(lengths.max()) for _, lengths, _ in BatchesByLength(messages, Letters(), batch_size=4, seed=1)]
    assert longest != sorted(longest), "the batches were not shuffled"


@pytest.mark.exercise("E5.5")
def test_without_a_seed_messages_come_by_length_in_every_epoch(messages):
    loader = BatchesByLength(messages, Letters())
    lengths = torch.cat([lengths for _, lengths, _ in loader])
    assert lengths.tolist() == list(range(1, 41))
    rows = loader.rows
    loader.set_epoch(3)
    assert loader.rows == rows


@pytest.mark.exercise("E5.5")
def test_equal_lengths_stay_in_the_tables_order_and_seed_0_is_a_seed():
    table = pd.DataFrame({"Label": 0, "Text": ["x" * (1 + row % 3) for row in range(300)]})
    in_order = [row for length in range(3) for row in range(length, 300, 3)]
    loader = BatchesByLength(table, Letters(), batch_size=300)
    assert loader.rows == [in_order], "equal lengths keep the table's order: numpy sorts so with kind='stable' alone"
    shuffled = BatchesByLength(table, Letters(), batch_size=4, seed=0)
    assert sum(shuffled.rows, []) != in_order, "seed 0 shuffles too: only None does not, and `if not seed` is true of 0"


@pytest.mark.exercise("E5.5")
def test_lengths_are_blurred_by_a_twentieth_and_no_more():
    table = pd.DataFrame({"Label": 0, "Text": ["x" * 100] * 20 + ["x" * 112] * 20})
    loader = BatchesByLength(table, Letters(), batch_size=20, seed=1)
    for epoch in range(5):
        loader.set_epoch(epoch)
        assert sorted(map(sorted, loader.rows)) == [list(range(20)), list(range(20, 40))], \
            "100 characters are at most 105 when they are blurred, and 112 at least 106.4"


@pytest.mark.exercise("E5.5")
def test_the_shortest_messages_come_at_another_time_in_each_epoch(messages):
    loader, places = BatchesByLength(messages, Letters(), batch_size=4, seed=1), set()
    for epoch in range(10):
        loader.set_epoch(epoch)
        means = [sum(len(messages["Text"][row]) for row in rows) / len(rows) for rows in loader.rows]
        places.add(means.index(min(means)))
    assert len(places) > 3, "ten batches are put into the same order in every epoch: their shuffle depends on it too"


@pytest.mark.exercise("E5.5")
@pytest.mark.parametrize("thousands", [1, 10, 100, 1000, 1_000_003])
def test_no_epoch_of_one_seed_is_an_epoch_of_another(messages, thousands):
    first, second = (BatchesByLength(messages, Letters(), seed=seed) for seed in (1, 2))
    first.set_epoch(thousands)
    assert first.rows != second.rows, \
        f"epoch {thousands} of seed 1 is epoch 0 of seed 2: the two numbers are made one, and not handed on as two"


@pytest.mark.exercise("E5.5")
@pytest.mark.parametrize("seed", [None, 1])
def test_without_a_batch_size_batches_are_filled_up_with_tokens(seed):
    table = pd.DataFrame({"Label": 0, "Text": ["x" * (100 + row % 5) for row in range(23)]})
    loader = BatchesByLength(table, Letters(), batch_size=None, seed=seed)
    assert len(loader) == 3, "of 23 messages of some 100 tokens, 9 or 10 go into a batch of up to 1,024"
    if seed is None:
        assert [len(rows) for rows in loader.rows] == [10, 9, 4], \
            "11 x 102 and 10 x 103 are more than 1,024: each batch takes as many as fit with their padding"
    assert sorted(sum(loader.rows, [])) == list(range(23)), "each message once"


def test_similar_lengths_meet_in_a_batch(sms):
    train, _, test = split_without_leaks(create_balanced_dataset(sms))
    loader = BatchesByLength(train, gpt2_tokenizer(), seed=123)
    assert len(loader) == 131
    for epoch in range(3):
        loader.set_epoch(epoch)
        assert padding_share(loader) < 0.1, "in random batches 44 % of all tokens are padding"
    assert padding_share(BatchesByLength(test, gpt2_tokenizer())) < 0.06


def test_a_message_longer_than_the_context_loses_its_end_and_is_counted(messages):
    loader = BatchesByLength(messages, Letters(), context_length=30)
    assert loader.cut == 10
    assert max(int(lengths.max()) for _, lengths, _ in loader) == 30
    assert BatchesByLength(messages, Letters(), context_length=40).cut == 0


def test_an_empty_message_has_a_last_token_to_be_read_at():
    loader = BatchesByLength(pd.DataFrame({"Label": [1], "Text": [""]}), Letters(), pad_token_id=3)
    ids, lengths, labels = next(iter(loader))
    assert (ids.tolist(), lengths.tolist(), labels.tolist()) == ([[3]], [1], [1])


def test_a_table_whose_rows_are_wider_than_its_names_is_refused(tmp_path):
    """pandas takes the first cell of each row for its name, and the label becomes the text."""
    (tmp_path / "wide.csv").write_text("Label,Text\n0,1,hello\n", encoding="utf-8")
    with pytest.raises(ValueError, match="wide.csv: its rows have more cells than its first line has names"):
        SpamDataset(tmp_path / "wide.csv", None)
