"""gpt/experiments/mnist.py on files that are packed here byte by byte, and on damaged ones."""

import gzip
import random
import struct

import numpy as np
import pytest
import torch

from gpt.download import ASSETS
from gpt.experiments.mnist import FASHION_MNIST, read_idx, read_mnist

NUMBERS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4) * 10


def idx(numbers, shape=None, type=8):
    shape = numbers.shape if shape is None else shape
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, type, len(shape), *shape) + numbers.tobytes()


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("name", ["a", "a.gz", "with a space.gz"])
def test_an_idx_file_is_read_packed_or_not_whatever_its_name(tmp_path, pack, name):
    for numbers in (NUMBERS, NUMBERS.reshape(24), np.zeros((1, 1), np.uint8)):
        found = read_idx(write(tmp_path / name, pack(idx(numbers))), numbers.ndim)
        assert found.dtype == torch.uint8, "the bytes are unsigned: 250 is not -6"
        assert np.array_equal(found.numpy(), numbers), "axes in another order, or the header counted among the numbers"


def test_sizes_are_read_with_the_most_significant_byte_first(tmp_path):
    assert read_idx(write(tmp_path / "a", b"\0\0\x08\x01\0\0\x01\x02" + bytes(258)), 1).shape == (258,), "513 x 2^16"


FAULTS = {
    "an empty file": (b"", "begins with b'', a 3-axis idx file"),
    "a page": (b"<!DOCTYPE html>", "<!DO.*error page"),
    "three bytes": (b"\0\0\x08", r"begins with b'\\x00\\x00\\x08'"),
    "floats": (idx(NUMBERS, type=13), r"begins with b'\\x00\\x00\\r\\x03'"),
    "no axis": (idx(np.zeros(1, np.uint8), ()), r"begins with b'\\x00\\x00\\x08\\x00', .* 3-axis"),
    "255 axes": (b"\0\0\x08\xff" + bytes(2000), r"begins with b'\\x00\\x00\\x08\\xff', .* 3-axis"),
    "four axes": (idx(NUMBERS, (2**32 - 1,) * 4), "3-axis"),
    "sizes cut short": (idx(NUMBERS)[:12], r"\[2, 3, 0\].*cut short"),
    "a size of 0": (idx(NUMBERS[:0]), r"\[0, 3, 4\], 0 bytes"),
    "a byte too few": (idx(NUMBERS)[:-1], "24 bytes, but 23 follow"),
    "a byte too many": (idx(NUMBERS) + b"\0", "24 bytes, but 25 follow"),
    "2^31 images": (idx(NUMBERS, (1 << 31, 28, 28)), "2147483648, 28, 28.*bytes, but 24 follow"),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("content, reason", FAULTS.values(), ids=FAULTS)
def test_what_is_no_idx_file_is_an_error_that_begins_with_the_path(tmp_path, pack, content, reason):
    path = write(tmp_path / "t10k-labels", pack(content))
    with pytest.raises(ValueError, match=f"(?s){reason}") as error:
        read_idx(path, 3)
    assert str(error.value).startswith(f"{path}: "), "which of the four files is it?"


@pytest.mark.parametrize("damage", [
    lambda packed: packed[:-9], lambda packed: packed[:12], lambda packed: packed[:2],
    lambda packed: packed[:-8] + b"abcd" + packed[-4:], lambda packed: packed[:15] + b"\xff" * 9 + packed[24:],
    lambda packed: packed + b"tail",
], ids=["cut short", "cut in the header", "two bytes", "another checksum", "damaged", "more behind it"])
def test_a_damaged_gzip_is_an_error_that_begins_with_the_path(tmp_path, damage):
    path = write(tmp_path / "a.gz", damage(gzip.compress(idx(NUMBERS))))
    with pytest.raises(ValueError) as error:
        read_idx(path, 3)
    assert str(error.value).startswith(f"{path}: ") and "gzip" in str(error.value)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        read_idx(tmp_path / "a", 3)
    with pytest.raises(OSError):    # a folder
        read_idx(tmp_path, 3)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_random_damage_gives_an_error_or_as_many_numbers(tmp_path, pack):
    draw, whole, path = random.Random(0), pack(idx(NUMBERS)), tmp_path / "a"
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content[:draw.randrange(len(content))] if draw.random() < 0.3 else content)
        try:
            assert read_idx(path, 3).shape == (2, 3, 4), "the damage was read as another shape"
            outcomes["read"] += 1
        except (ValueError, OSError) as error:
            assert str(path) in str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 10, f"the damage is of one kind only: {outcomes}"


# ---- four files ---------------------------------------------------------------------------------------------------

def write_mnist(folder, dot="-", ending="", **changed):
    """Four small files; `changed`: other numbers for one, train_images for train-images."""
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (7, 2, 3), np.uint8), draw.integers(0, 10, 7, np.uint8)
    labels[3] = 9
    parts = {"train_images": images, "train_labels": labels, "t10k_images": images[:4], "t10k_labels": labels[:4]}
    for name, numbers in (parts | changed).items():
        path = folder / f"{name.replace('_', '-')}{dot}idx{parts[name].ndim}-ubyte{ending}"
        path.write_bytes((gzip.compress if ending else bytes)(idx(numbers)))
    return images, labels


@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_the_four_files_become_images_from_0_to_1_and_labels(tmp_path, dot, ending):
    images, labels = write_mnist(tmp_path, dot, ending)
    (tmp_path / "train-images-idx3-ubyte").mkdir(exist_ok=True) if dot == "." else None    # as Kaggle's archive has it
    train_images, train_labels, test_images, test_labels = read_mnist(str(tmp_path))
    assert train_images.dtype == torch.float32 and train_labels.dtype == torch.int64, "what a network and its loss take"
    expected = images.reshape(7, 6).astype(np.float32) / 255
    np.testing.assert_allclose(train_images, expected, rtol=1e-6, err_msg="0 is 0 and 255 is 1; row after row")
    np.testing.assert_allclose(test_images, expected[:4], rtol=1e-6, err_msg="t10k is what is tested on")
    assert train_labels.tolist() == labels.tolist() and test_labels.tolist() == labels[:4].tolist()


@pytest.mark.parametrize("changed, name, reason", [
    (dict(train_labels=np.zeros(6, np.uint8)), "train-labels-idx1-ubyte", "6 labels for 7 images"),
    (dict(t10k_labels=np.zeros(5, np.uint8)), "t10k-labels-idx1-ubyte", "5 labels for 4 images"),
    (dict(train_images=np.zeros(7, np.uint8)), "train-images-idx3-ubyte", "3-axis.*interchanged"),
    (dict(t10k_labels=np.zeros((4, 2, 3), np.uint8)), "t10k-labels-idx1-ubyte", "1-axis.*interchanged"),
    (dict(t10k_labels=np.full(4, 26, np.uint8)), "t10k-labels-idx1-ubyte", "labels go up to 26.*EMNIST"),
])
def test_files_that_do_not_belong_together_are_an_error_that_names_one(tmp_path, changed, name, reason):
    write_mnist(tmp_path, **changed)
    with pytest.raises(ValueError, match=reason) as error:
        read_mnist(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / name}: "), "which file is it?"


def test_a_missing_file_is_named_with_all_the_names_it_could_have(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError) as error:
        read_mnist(tmp_path)
    for name in ("t10k-labels-idx1-ubyte", "t10k-labels-idx1-ubyte.gz", "t10k-labels.idx1-ubyte.gz", str(tmp_path)):
        assert name in str(error.value), "what is to be put where?"


def test_fashion_mnists_four_files_can_be_fetched():
    assert set(FASHION_MNIST) == {name for name in ASSETS if name.startswith("fashion-mnist/")}
