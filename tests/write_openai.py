"""Writes checkpoints as TensorFlow does, for the tests: whole ones, and ones that are wrong in a chosen way.

It proves itself by writing the index of fixtures/openai_tiny, which TensorFlow wrote, again byte for byte.
"""

import json
from pathlib import Path

import numpy as np

from gpt.crc32c import crc32c, masked

MAGIC = bytes.fromhex("57fb808b247547db")
HEADER = bytes.fromhex("08011a020801")    # one data file, lowest byte first, version 1


def varint(number):
    """A whole number as 7 bits a byte, lowest first."""
    if number < 0x80:
        return bytes([number])
    return bytes([number & 0x7F | 0x80]) + varint(number >> 7)


def field(number, value):
    """One field of a protocol buffer: a whole number or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def entry(shape, offset, size, crc, dtype=1, shard=0):
    """A BundleEntryProto. As in every protocol buffer of TensorFlow's, zeros are left out."""
    dims = b"".join(field(2, field(1, dim)) for dim in shape)
    numbers = b"".join(field(i, value) for i, value in ((3, shard), (4, offset), (5, size)) if value)
    return field(1, dtype) + field(2, dims) + numbers + varint(6 << 3 | 5) + crc.to_bytes(4, "little")


def seal(block, compression=0):
    """A block with its compression type and its checksum behind it."""
    block += bytes([compression])
    return block + masked(crc32c(block)).to_bytes(4, "little")


def block(pairs):
    """(key, value) pairs as one block; every 16th key shares nothing with the one before it."""
    body, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(pairs):
        shared = 0
        if i % 16 == 0:
            restarts.append(len(body))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    numbers = [*(restarts or [0]), len(restarts or [0])]
    return body + b"".join(number.to_bytes(4, "little") for number in numbers)


def table(pairs, per_block=10**9):
    """A whole table file, `per_block` entries in each data block."""
    pairs, data, handles = list(pairs), b"", []
    for start in range(0, len(pairs), per_block):
        some = pairs[start:start + per_block]
        sealed, last = seal(block(some)), some[-1][0]
        if start + per_block >= len(pairs) and last:
            last = bytes([last[0] + 1])    # any name that follows the last will do; TensorFlow takes a short one
        handles.append((last, varint(len(data)) + varint(len(sealed) - 5)))
        data += sealed
    return data + tail(len(data), seal(block([])), seal(block(handles)))


def one_block(body, compression=0):
    """A whole table file around one data block, however wrong that is; the checksums are right."""
    sealed = seal(body, compression)
    return sealed + tail(len(sealed), seal(block([])), seal(block([(b"z", varint(0) + varint(len(body)))])))


def tail(start, metaindex, index):
    """What follows the data blocks, which end at `start`: metaindex, index, footer."""
    places = [(start, len(metaindex) - 5), (start + len(metaindex), len(index) - 5)]
    footer = b"".join(varint(offset) + varint(size) for offset, size in places)
    return metaindex + index + footer.ljust(40, b"\0") + MAGIC


def index_pairs(arrays):
    """(key, value) of an index whose tensors stand in the data file in the order of their names."""
    yield b"", HEADER
    offset = 0
    for name, array in sorted(arrays.items()):
        data = np.ascontiguousarray(array, dtype="<f4")
        yield name.encode(), entry(array.shape, offset, data.nbytes, masked(crc32c(data.reshape(-1))))
        offset += data.nbytes


def write_checkpoint(folder, arrays, hparams, per_block=10**9):
    """OpenAI's three files in `folder`. arrays: {OpenAI's name: array}."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hparams.json").write_text(json.dumps(hparams), encoding="utf-8")
    (folder / "model.ckpt.index").write_bytes(table(index_pairs(arrays), per_block))
    with open(folder / "model.ckpt.data-00000-of-00001", "wb") as file:
        for _, array in sorted(arrays.items()):
            file.write(np.ascontiguousarray(array, dtype="<f4"))
    return folder
