"""Reads a sorted table in LevelDB's format, which TensorFlow uses for a checkpoint's index: bytes -> (key, value).

    data block, data block, ...    the entries, sorted by key
    metaindex block                empty in TensorFlow's files
    index block                    an entry for each data block; its value says where the block is
    footer, 48 bytes               where the metaindex and the index are, zeros, a magic number

The file comes from the network, so nothing in it is believed: the blocks must fill the file in order, each must
match its checksum, and no number in it decides how much memory or time is spent. What is wrong is a ValueError.

Read along: chapters/04_weights.py. Source: LevelDB's doc/table_format.md.
"""

from gpt.crc32c import crc32c, masked

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER = 48           # bytes
TRAILER = 5           # bytes after each block: its compression type (1), its checksum (4)
LONGEST_KEY = 256     # bytes; a key can repeat the one before it for a few bytes, so long ones would multiply


def part(data, start, size):
    """data[start:start + size], but never silently less: a slice beyond the end is how a cut file shows itself."""
    if not 0 <= start <= start + size <= len(data):
        raise ValueError(f"bytes {start} to {start + size} of {len(data)} are wanted: damaged or cut short")
    return data[start:start + size]


def varint(data, at):
    """One whole number, 7 bits a byte, lowest first; a set top bit says that more follow: -> (number, next at).

    Raises: ValueError where the data end first (`part` does it); and, with `at`, for a number of more than 10 bytes,
        and for one whose last byte of several is 0, which nobody writes
    """
    number = 0
    for i in range(10):    # 64 bits fit into 10 bytes
        byte = part(data, at + i, 1)[0]
        number |= (byte & 0x7F) << 7 * i
        if byte == 0 and i > 0:
            break          # a number that ends in a needless 0 was not written so
        if byte < 0x80:
            return number, at + i + 1
    raise ValueError(f"the number at byte {at} has more bytes than a number needs: damaged")


def handle(data, at=0):
    """Where a block is: -> (offset, size, next at)."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return offset, size, at


def block(data, offset, size):
    """The bytes of one block. Behind them stand a compression type and a checksum over both."""
    sealed = part(data, offset, size + TRAILER)
    if masked(crc32c(sealed[:-4])) != int.from_bytes(sealed[-4:], "little"):
        raise ValueError(f"the block at byte {offset} does not match its crc32c: damaged")
    if sealed[size] != 0:
        raise ValueError(f"the block at byte {offset} has compression type {sealed[size]}; only type 0, not "
                         f"compressed, is read here, and OpenAI's files have no other")
    return sealed[:size]


def entries(block):
    """(key, value) of each entry. A key is stored as how much it shares with the one before it, and its own rest.

    An entry is three varints, the bytes shared, the bytes of the rest and those of the value; then rest and value. The
    block ends with the positions at which nothing is shared, for binary search, and their count, 4 bytes each, lowest
    first; a reader who wants everything skips them.

    Raises: ValueError for a key of more than LONGEST_KEY bytes and where a part of an entry is missing
    """
    restarts = int.from_bytes(part(block, len(block) - 4, 4), "little")
    block = part(block, 0, len(block) - 4 * restarts - 4)
    at, key = 0, b""
    while at < len(block):
        shared, at = varint(block, at)
        unshared, at = varint(block, at)
        length, at = varint(block, at)
        if shared + unshared > LONGEST_KEY:
            raise ValueError(f"a name of {shared + unshared} bytes; GPT-2's have less than {LONGEST_KEY}: damaged")
        key = part(key, 0, shared) + part(block, at, unshared)
        yield key, part(block, at + unshared, length)
        at += unshared + length


def read_footer(data):
    """Where the metaindex block and the index block are: -> (offset, size), (offset, size)."""
    footer = part(data, len(data) - FOOTER, FOOTER)
    if not footer.endswith(MAGIC):
        raise ValueError("it does not end with the magic number of a table: another kind of file, or cut short")
    *metaindex, at = handle(footer)
    *index, at = handle(footer, at)
    if any(footer[at:-len(MAGIC)]):
        raise ValueError("its footer holds more than two handles and a magic number: damaged")
    return metaindex, index


def table(data):
    """(key, value) of every entry of a table file, in order."""
    metaindex, index = read_footer(data)
    end = 0    # of the blocks so far: the next must begin here
    for _, value in entries(block(data, *index)):
        offset, size, _ = handle(value)
        end = next_end(end, offset, size)
        yield from entries(block(data, offset, size))
    if list(entries(block(data, *metaindex))):
        raise ValueError("its metaindex block is not empty, as TensorFlow leaves it")
    for offset, size in metaindex, index:
        end = next_end(end, offset, size)
    if end + FOOTER != len(data):
        raise ValueError(f"its blocks and footer make {end + FOOTER} bytes, it has {len(data)}: damaged")


def next_end(end, offset, size):
    """Where the next block ends. It must begin where the last one ended, so no block can be read twice."""
    if offset != end:
        raise ValueError(f"a block is said to begin at byte {offset}, the one before it ends at {end}: damaged")
    return end + size + TRAILER
