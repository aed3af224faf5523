"""Opens OpenAI's GPT-2 checkpoints without TensorFlow, which wrote them.

`model.ckpt.data-00000-of-00001` is nothing but numbers, one tensor after another. `model.ckpt.index` is a sorted table
in LevelDB's format, from a tensor's name to a protocol buffer that holds its shape, its place in the data file and its
checksum (gpt/storage/crc32c.py):

    data block, data block, ...    the entries, sorted by key
    metaindex block                empty in TensorFlow's files
    index block                    an entry for each data block; its value says where the block is
    footer, 48 bytes               where the metaindex and the index are, zeros, a magic number

The files come from the network, so nothing in them is trusted: the blocks must fill the index file and the tensors the
data file, each must match its checksum, and no number in a file decides how much memory or time is spent.

Read along: chapters/04_weights.py. Source: TensorFlow's tensor_bundle.proto and tensor_shape.proto; LevelDB's
doc/table_format.md.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from gpt.storage.crc32c import crc32c, masked
from gpt.storage.files import naming_file

LARGEST_INDEX = 1 << 18    # bytes; that of the largest GPT-2 has about 22,000
FLOAT32 = 1                # its number in TensorFlow's list of dtypes
MOST_AXES = 8              # a GPT-2 has 3

# ---- The table -------------------------------------------------------------------------------------------------------

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER = 48           # bytes
TRAILER = 5           # bytes after each block: its compression type (1), its checksum (4)
LONGEST_KEY = 256     # bytes; a key can repeat the one before it for a few bytes, so long ones would multiply


def checked_slice(data, start, size):
    """data[start:start + size], but never silently less: a slice beyond the end is how a cut file shows itself."""
    if not 0 <= start <= start + size <= len(data):
        raise ValueError(f"bytes {start} to {start + size} of {len(data)} are wanted: damaged or cut short")
    return data[start:start + size]


def varint(data, at):
    """One whole number, 7 bits per byte, lowest first; a set top bit says that more follow: -> (number, next at).

    Raises: ValueError where the data end first (`checked_slice` does it); and, with `at`, for a number of more than 10
        bytes, and for one whose last byte of several is 0, which nobody writes
    """
    number = 0
    for i in range(10):    # 64 bits fit into 10 bytes
        byte = checked_slice(data, at + i, 1)[0]
        number |= (byte & 0x7F) << 7 * i
        if byte == 0 and i > 0:
            break          # a number that ends in a needless 0 was not written so
        if byte < 0x80:
            return number, at + i + 1
    raise ValueError(f"the number at byte {at} has more bytes than a number needs: damaged")


def block_handle(data, at=0):
    """Where a block is: -> (offset, size, next at)."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return offset, size, at


def read_block(data, offset, size):
    """The bytes of one block. A compression type and a checksum over both follow it."""
    sealed = checked_slice(data, offset, size + TRAILER)
    if masked(crc32c(sealed[:-4])) != int.from_bytes(sealed[-4:], "little"):
        raise ValueError(f"the block at byte {offset} does not match its crc32c: damaged")
    if sealed[size] != 0:
        raise ValueError(f"the block at byte {offset} has compression type {sealed[size]}; only type 0, not "
                         f"compressed, is read here, and OpenAI's files have no other")
    return sealed[:size]


def block_entries(block):
    """(key, value) of each entry. A key is stored as how many bytes it shares with the one before it, and its rest.

    An entry is three varints, the bytes shared, the bytes of the rest and those of the value; then rest and value. The
    block ends with the positions at which nothing is shared, for binary search, and their count, 4 bytes each, lowest
    first. A reader who wants every entry skips them. A key of more than LONGEST_KEY bytes is a ValueError.
    """
    restarts = int.from_bytes(checked_slice(block, len(block) - 4, 4), "little")
    block = checked_slice(block, 0, len(block) - 4 * restarts - 4)
    at, key = 0, b""
    while at < len(block):
        shared, at = varint(block, at)
        unshared, at = varint(block, at)
        length, at = varint(block, at)
        if shared + unshared > LONGEST_KEY:
            raise ValueError(f"a name of {shared + unshared} bytes; GPT-2's have less than {LONGEST_KEY}: damaged")
        key = checked_slice(key, 0, shared) + checked_slice(block, at, unshared)
        yield key, checked_slice(block, at + unshared, length)
        at += unshared + length


def read_footer(data):
    """Where the metaindex block and the index block are: -> (offset, size), (offset, size)."""
    footer = checked_slice(data, len(data) - FOOTER, FOOTER)
    if not footer.endswith(MAGIC):
        raise ValueError("it does not end with the magic number of a table: another kind of file, or cut short")
    *metaindex, at = block_handle(footer)
    *index, at = block_handle(footer, at)
    if any(footer[at:-len(MAGIC)]):
        raise ValueError("its footer holds more than two handles and a magic number: damaged")
    return metaindex, index


def table_entries(data):
    """(key, value) of every entry of a table file, in order. Each block must begin where the one before it ends."""
    metaindex, index = read_footer(data)
    blocks = [block_handle(value)[:2] for _, value in block_entries(read_block(data, *index))]
    end = 0
    for offset, size in [*blocks, metaindex, index]:
        if offset != end:    # so no block is read twice
            raise ValueError(f"a block is said to begin at byte {offset}, the one before it ends at {end}: damaged or "
                             f"cut short")
        end += size + TRAILER
    if end + FOOTER != len(data):
        raise ValueError(f"its blocks and footer make {end + FOOTER} bytes, it has {len(data)}: damaged")
    if list(block_entries(read_block(data, *metaindex))):
        raise ValueError("its metaindex block is not empty, as TensorFlow leaves it")
    for offset, size in blocks:
        yield from block_entries(read_block(data, offset, size))


# ---- The entries -----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Entry:
    """What the index says of one tensor, with the numbers of the fields that say it."""

    shape: tuple    # 2, a message whose field 2 is there once for each axis: a message with its size in field 1
    dtype: int      # 1
    shard: int      # 3, which data file
    offset: int     # 4, in bytes of the data file
    size: int       # 5, in bytes
    crc32c: int     # 6, masked


def message_fields(message):
    """(field number, value) of a protocol buffer: a whole number, or bytes where the field is a message or text.

    Each field begins with a tag, a varint: 8 times the field's number, plus how the value is stored: 0, as a varint; 1,
    in eight bytes, or 5, in four, lowest first; 2, as a length, a varint, and so many bytes. All else is a ValueError.
    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        stored = tag & 7
        if stored == 0:
            value, at = varint(message, at)
        elif stored in (1, 5):
            size = 8 if stored == 1 else 4
            value, at = int.from_bytes(checked_slice(message, at, size), "little"), at + size
        elif stored == 2:
            size, at = varint(message, at)
            value, at = checked_slice(message, at, size), at + size
        else:
            raise ValueError(f"a value is stored in way {stored}, which TensorFlow never takes: damaged")
        yield tag >> 3, value


def read_message(message, known):
    """A protocol buffer -> {field number: [values]}. `known`: {field number: int or bytes}; no other may occur."""
    found = {number: [] for number in known}
    for number, value in message_fields(message):
        if not isinstance(value, known.get(number, ())):
            raise ValueError(f"field {number} is unknown or of the wrong type: damaged, or of another format")
        found[number].append(value)
    return found


def only_value(values):
    """The value of a field that occurs once, or 0, because TensorFlow leaves out what is 0 or empty."""
    if len(values) > 1:
        raise ValueError("a field is there twice: damaged")
    return values[0] if values else 0


def read_entry(message):
    """A tensor's BundleEntryProto -> Entry."""
    found = read_message(message, {1: int, 2: bytes, 3: int, 4: int, 5: int, 6: int})
    dims = read_message(only_value(found[2]) or b"", {2: bytes})[2]
    shape = tuple(only_value(read_message(dim, {1: int})[1]) for dim in dims)
    dtype, shard, offset, size, crc = (only_value(found[number]) for number in (1, 3, 4, 5, 6))
    return Entry(shape, dtype, shard, offset, size, crc)


def read_index(path):
    """A model.ckpt.index -> {tensor name: Entry}, sorted by name; ValueError where it is damaged, cut or no index.

    The first entry has an empty key and is a header: field 1, the number of data files, must be 1; 2, the byte order, 0
    or left out for lowest first; 3 is a version.
    """
    with open(path, "rb") as file:
        data = file.read(LARGEST_INDEX + 1)
    with naming_file(path):    # a UnicodeDecodeError is a ValueError, too
        if len(data) > LARGEST_INDEX:
            raise ValueError(f"more than {LARGEST_INDEX:,} bytes; the index of a GPT-2 has about 20,000")
        entries = list(table_entries(data))
        if not entries:
            raise ValueError("it is empty")
        header = read_message(entries[0][1], {1: int, 2: int, 3: bytes})
        if entries[0][0] or header[1] != [1] or any(header[2]):
            raise ValueError("its header is not that of a single data file with the lowest byte first")
        for (before, _), (key, _) in pairwise(entries):
            if key <= before:
                raise ValueError(f"the name {key} comes after {before}: they must be sorted, and each there once")
        return {key.decode("utf-8"): read_entry(value) for key, value in entries[1:]}


# ---- The tensors -----------------------------------------------------------------------------------------------------

def read_tensor(data, name, entry):
    """The tensor that `entry` describes, as a view of the data file's bytes, checked."""
    if entry.dtype != FLOAT32 or entry.shard != 0:
        raise ValueError(f"{name}: dtype number {entry.dtype} in data file {entry.shard}; GPT-2's tensors are "
                         f"float32, number {FLOAT32}, in file 0")
    if len(entry.shape) > MOST_AXES or entry.size != 4 * math.prod(entry.shape) or entry.size == 0:
        raise ValueError(f"{name}: {entry.size} bytes are not a float32 tensor of shape {entry.shape}")
    stored = checked_slice(data, entry.offset, entry.size)
    if masked(crc32c(stored)) != entry.crc32c:
        raise ValueError(f"{name}: its numbers do not match their crc32c: the file is damaged; delete it, and it is "
                         f"fetched again")
    return stored.view("<f4").reshape(entry.shape)


def open_checkpoint(directory_or_prefix):
    """{tensor name: float32 array}, every one checked. The arrays are views of the memory-mapped file.

    Input: the folder that holds model.ckpt.*, or the path up to and with "model.ckpt"
    Raises: ValueError that names the tensor at fault; FileNotFoundError
    """
    prefix = Path(directory_or_prefix)
    prefix = prefix / "model.ckpt" if prefix.is_dir() else prefix
    index = read_index(f"{prefix}.index")
    path = f"{prefix}.data-00000-of-00001"
    with naming_file(path):
        data = np.memmap(path, dtype=np.uint8, mode="c")    # "c": writing to an array never reaches the file
        end = 0    # of the tensors so far: the next must begin here
        for name, entry in sorted(index.items(), key=lambda item: item[1].offset):
            if entry.offset != end:
                raise ValueError(f"{name} is said to begin at byte {entry.offset}, the tensor before it ends at "
                                 f"{end}: is the index that of another data file?")
            end += entry.size
        if end != len(data):
            raise ValueError(f"its tensors make {end:,} bytes, the file has {len(data):,}: is it cut short?")
        return {name: read_tensor(data, name, entry) for name, entry in index.items()}
