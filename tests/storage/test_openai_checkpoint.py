"""gpt/storage/openai_checkpoint.py and crc32c.py on a checkpoint that TensorFlow wrote, whole and damaged."""

import random
import shutil
import tracemalloc
from itertools import product

import numpy as np
import pytest
from conftest import TINY
from write_openai import (HEADER, block, entry, field, index_pairs, one_block, seal, table, tail, varint,
                          write_checkpoint)

from gpt.storage import openai_checkpoint
from gpt.storage.crc32c import crc32c, masked
from gpt.storage.openai_checkpoint import open_checkpoint, read_index

INDEX = (TINY / "model.ckpt.index").read_bytes()
DATA = "model.ckpt.data-00000-of-00001"


@pytest.fixture(scope="module")
def arrays():
    """The fixture's tensors as NumPy reads them from an .npz."""
    with np.load(TINY / "arrays.npz") as stored:
        return {name.replace("|", "/"): stored[name] for name in stored.files}


@pytest.fixture
def read(tmp_path):
    """read_index of bytes."""
    def read(data):
        (tmp_path / "model.ckpt.index").write_bytes(data)
        return read_index(tmp_path / "model.ckpt.index")
    return read


# ---- the checksum -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("data, published", [
    (b"123456789", 0xE3069283),          # the check value of every catalogue of CRCs
    (bytes(32), 0x8A9136AA),             # RFC 3720, appendix B.4
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
])
def test_crc32c_gives_the_published_values(data, published):
    assert crc32c(data) == published


def by_the_byte(data):
    """crc32c as it is defined, one bit after another; the bytes' 8 steps are looked up."""
    steps = []
    for register in range(256):
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
        steps.append(register)
    register = 0xFFFFFFFF
    for byte in data:
        register = register >> 8 ^ steps[(register ^ byte) & 0xFF]
    return register ^ 0xFFFFFFFF


def test_walking_in_lanes_changes_no_checksum():
    data = random.Random(0).randbytes(1_200_000)
    large = [(1 << 20) + more for more in (-1, 0, 1, 1023, 1024, 99_999)]
    for length in [*range(200), *range(200, 3000, 37), *large]:
        assert crc32c(data[:length]) == by_the_byte(data[:length]), f"wrong for {length} bytes"


def test_lanes_that_do_not_fit_into_one_group_continue_in_the_next(monkeypatch):
    monkeypatch.setattr("gpt.storage.crc32c.AT_ONCE", 7)
    data = random.Random(1).randbytes(10_000)
    assert crc32c(np.frombuffer(data, np.uint8)) == by_the_byte(data)


# ---- numbers of several bytes -----------------------------------------------------------------------------------

@pytest.mark.exercise("E4.5")
@pytest.mark.parametrize("data, number", [
    (b"\x00", 0), (b"\x01", 1), (b"\x7f", 127), (b"\x80\x01", 128), (b"\xac\x02", 300), (b"\x80\x80\x01", 16384),
    (b"\xff" * 8 + b"\x7f", 2**63 - 1), (b"\xff" * 9 + b"\x01", 2**64 - 1)])
def test_a_number_has_7_bits_a_byte_and_the_lowest_first(data, number):
    assert openai_checkpoint.varint(data, 0) == (number, len(data)), "the number without the top bits, and the next one's place"
    assert openai_checkpoint.varint(b"\xff\x80" + data + b"\x05\x80", 2) == (number, 2 + len(data)), "it begins at `at`"


@pytest.mark.exercise("E4.5")
def test_any_number_comes_back_from_its_bytes():
    chance = random.Random(0)
    for number in [chance.getrandbits(bits) for bits in range(1, 65) for _ in range(20)]:
        assert openai_checkpoint.varint(varint(number), 0) == (number, len(varint(number)))


@pytest.mark.exercise("E4.5")
@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9])
def test_a_number_that_is_cut_short_is_an_error(data):
    with pytest.raises(ValueError):
        openai_checkpoint.varint(data, 0)


@pytest.mark.exercise("E4.5")
@pytest.mark.parametrize("data", [b"\x80" * 10 + b"\x01", b"\xff" * 1000, b"\x80\x00", b"\xac\x82\x00"],
                         ids=["11 bytes", "1000 bytes", "0 in two bytes", "a needless 0"])
def test_a_number_of_more_bytes_than_it_needs_is_an_error(data):
    with pytest.raises(ValueError, match=r"\b2\b"):    # where it begins
        openai_checkpoint.varint(b"\x01\x01" + data, 2)


# ---- the fixture ------------------------------------------------------------------------------------------------

def test_every_tensor_is_the_one_that_tensorflow_wrote(arrays):
    opened = open_checkpoint(TINY)
    assert opened.keys() == arrays.keys()
    for name, array in arrays.items():
        assert opened[name].dtype == np.float32 and np.array_equal(opened[name], array), name


def test_a_prefix_opens_what_its_folder_opens():
    assert open_checkpoint(TINY / "model.ckpt").keys() == open_checkpoint(TINY).keys()


def test_an_array_is_a_view_of_the_file_and_writing_to_it_leaves_the_file_alone(tmp_path, arrays):
    folder = write_checkpoint(tmp_path, arrays, {})
    before = (folder / DATA).read_bytes()
    array = open_checkpoint(folder)["model/wpe"]
    assert isinstance(array, np.memmap), "the tensor was read into memory"
    array[:] = 7
    assert (folder / DATA).read_bytes() == before


def test_the_tests_own_writer_writes_tensorflows_index_byte_for_byte(arrays):
    assert table(index_pairs(arrays)) == INDEX


@pytest.mark.parametrize("per_block", [1, 2, 7, 40])
def test_an_index_of_several_blocks_reads_as_one(read, arrays, per_block):
    data = table(index_pairs(arrays), per_block)
    assert data != INDEX
    assert read(data) == read(INDEX)


# ---- damage -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change", [0x01, 0x80])
def test_whichever_byte_of_the_index_is_changed_the_index_is_refused(read, change):
    for at in range(len(INDEX)):
        with pytest.raises(ValueError):
            read(INDEX[:at] + bytes([INDEX[at] ^ change]) + INDEX[at + 1:])
            pytest.fail(f"byte {at} may change unnoticed")


def test_wherever_the_index_is_cut_it_is_refused(read):
    for length in range(len(INDEX)):
        with pytest.raises(ValueError):
            read(INDEX[:length])
            pytest.fail(f"the first {length} bytes pass for the whole index")


def test_more_bytes_at_either_end_are_refused(read):
    for data in (INDEX + b"\0", b"\0" + INDEX, INDEX + INDEX):
        with pytest.raises(ValueError):
            read(data)


def test_one_flipped_bit_in_the_data_names_its_tensor(tmp_path):
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    whole = (TINY / DATA).read_bytes()
    for name, place in read_index(TINY / "model.ckpt.index").items():
        at = place.offset + place.size // 2
        (tmp_path / DATA).write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1:])
        with pytest.raises(ValueError, match=f"{name}: .*crc32c"):
            open_checkpoint(tmp_path)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_a_data_file_of_another_length_is_refused(tmp_path, change):
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    (tmp_path / DATA).write_bytes(change((TINY / DATA).read_bytes()))
    with pytest.raises(ValueError):
        open_checkpoint(tmp_path)


# ---- hostility: every checksum is right, and what it guards is wrong --------------------------------------------

def one(**changes):
    """An index with one tensor of 8 bytes, but for the changes."""
    return table([(b"", HEADER), (b"t", entry(**{"shape": (2,), "offset": 0, "size": 8, "crc": ZEROS} | changes))])


ZEROS = masked(crc32c(bytes(8)))
HOSTILE_TENSORS = {
    "another dtype": one(dtype=3),
    "another data file": one(shard=1),
    "a shape that its size does not make": one(shape=(3,)),
    "a shape beyond 64 bits": one(shape=(1 << 40, 1 << 40, 1 << 40)),
    "a shape that wraps to 8 bytes in 64 bits": one(shape=((1 << 62) + 2,)),
    "an axis of -1, as TensorFlow would store it": one(shape=((1 << 64) - 1, (1 << 64) - 2)),
    "no numbers, by a shape that NumPy cannot make": one(shape=(0, 1 << 63), size=0),
    "a hundred axes": one(shape=(1,) * 99 + (2,)),
    "numbers behind the end": one(offset=8),
    "numbers far behind the end": one(offset=1 << 63),
    "more numbers than there are": one(shape=(1 << 40,), size=4 << 40),
    "another checksum": one(crc=ZEROS ^ 1),
    "two tensors in the same place": table([(b"", HEADER), (b"a", entry((2,), 0, 8, ZEROS)),
                                            (b"b", entry((2,), 0, 8, ZEROS))]),
    "no tensors": table([(b"", HEADER)]),
}


@pytest.mark.parametrize("index", HOSTILE_TENSORS.values(), ids=HOSTILE_TENSORS)
def test_a_tensor_that_cannot_be_is_refused(tmp_path, index):
    (tmp_path / DATA).write_bytes(bytes(8))
    (tmp_path / "model.ckpt.index").write_bytes(one())
    assert open_checkpoint(tmp_path)["t"].tolist() == [0, 0], "not even the harmless index passes"
    (tmp_path / "model.ckpt.index").write_bytes(index)
    with pytest.raises(ValueError):
        open_checkpoint(tmp_path)


GOOD = entry((2,), 0, 8, ZEROS)
FIRST = seal(block([(b"", HEADER)]))
WHERE = varint(0) + varint(len(FIRST) - 5)


def around(data, handles, metaindex=seal(block([]))):
    """An index file around these data blocks, whose index block says that they are where `handles` say."""
    return data + tail(len(data), metaindex, seal(block([(b"z", handle) for handle in handles])))


HOSTILE_INDEXES = {
    "compression": (one_block(block([(b"", HEADER)]), compression=1), "compression type 1"),
    "one block again and again": (around(FIRST, [WHERE] * 1000), "begin at byte 0"),
    "a gap between blocks": (around(FIRST + b"\0", [WHERE]), "begin at byte"),
    "a metaindex that holds something": (around(FIRST, [WHERE], metaindex=FIRST), "metaindex"),
    "a block of 2^60 bytes": (around(FIRST, [varint(0) + varint(1 << 60)]), "cut short"),
    "a name twice": (table([(b"", HEADER), (b"a", GOOD), (b"a", GOOD)]), "sorted"),
    "names out of order": (table([(b"", HEADER), (b"b", GOOD), (b"a", GOOD)]), "sorted"),
    "a name that is no text": (table([(b"", HEADER), (b"a\xff", GOOD)]), "decode"),
    "a long name": (table([(b"", HEADER), (b"a" * 300, GOOD)]), "a name of 300 bytes"),
    "no header": (table([(b"a", GOOD)]), "field|header"),
    "two data files": (table([(b"", field(1, 2))]), "header"),
    "highest byte first": (table([(b"", field(1, 1) + field(2, 1))]), "header"),
    "a number without end": (table([(b"", HEADER), (b"a", b"\x08" + b"\x80" * 20)]), "more bytes than a number"),
    "text where a number belongs": (table([(b"", HEADER), (b"a", field(4, b"zero"))]), "field 4"),
    "a group, which protocol buffers gave up": (table([(b"", HEADER), (b"a", b"\x0b")]), "way 3"),
    "a field twice": (table([(b"", HEADER), (b"a", GOOD + field(5, 8))]), "twice"),
    "a tensor in slices": (table([(b"", HEADER), (b"a", GOOD + field(7, b""))]), "field 7"),
    "no entries": (one_block(block([])), "empty"),
    "more restarts than bytes": (one_block(b"\xff" * 4), "cut short"),
    "nothing": (b"", "cut short"),
    "another kind of file": (bytes(range(256)) * 8, "another kind of file"),
    "a megabyte": (bytes(1 << 20), "more than 262,144 bytes"),
}


@pytest.mark.parametrize("index, message", HOSTILE_INDEXES.values(), ids=HOSTILE_INDEXES)
def test_an_index_that_cannot_be_is_refused_with_its_name_and_the_reason(read, index, message):
    with pytest.raises(ValueError, match=f"model.ckpt.index: .*({message})"):
        read(index)


def test_no_index_makes_the_reader_take_much_memory(read):
    """The worst is names of 251 bytes for 6 bytes of file each, as many as the largest index can hold."""
    name = varint(0) + varint(251) + varint(0) + b"a" * 251
    names = [varint(248) + varint(3) + varint(0) + bytes(rest) for rest in product(range(98, 128), repeat=3)]
    first = varint(0) + varint(0) + varint(len(HEADER)) + HEADER
    bomb = one_block(first + name + b"".join(names) + bytes([0, 0, 0, 0, 1, 0, 0, 0]))
    tracemalloc.start()
    assert len(read(bomb)) == 1 + 30**3
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    for data, _ in HOSTILE_INDEXES.values():
        tracemalloc.reset_peak()
        with pytest.raises(ValueError):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_random_changes_behind_right_checksums_are_read_or_refused_and_nothing_else(read):
    """The fuzz that gets past the checksums: changed entries, sealed again."""
    chance = random.Random(0)
    whole = block([(b"", HEADER)] + [(name.encode(), entry(e.shape, e.offset, e.size, e.crc32c))
                                     for name, e in read(INDEX).items()])
    for _ in range(600):
        body = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        body = bytes(body[:chance.choice([len(body), chance.randrange(len(body))])])
        try:
            read(one_block(body))
        except ValueError:
            pass
