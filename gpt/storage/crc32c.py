"""The checksum that guards every block and every tensor of OpenAI's files: 32 bits that change when a byte does.

Read along: chapters/04_weights.py. Source: Castagnoli et al. 1993; RFC 3720, appendix B.4.

A register of 32 bits takes the data bit by bit: the data bit is XORed into the register's lowest bit, the register
is shifted right, and where a 1 falls out the polynomial is XORed in. In a Python loop 500 MB would take minutes.

But XOR is addition without carry, and every step is linear: step(a ^ b) = step(a) ^ step(b). It follows that

* to run over n zero bytes is to multiply by one 32 x 32 matrix of bits, and that of 2 n zero bytes is its square;
* the register after left + right is the register that right makes of 0, XOR left's register run over as many zero
  bytes as right has.

So the data are cut into lanes. NumPy walks thousands of them at once, 4 bytes per step; then neighbours are joined.
"""

from functools import cache

import numpy as np

POLYNOMIAL = 0x82F63B78    # Castagnoli's, lowest bit first
BITS = np.arange(32, dtype=np.uint32)
LONG_LANE = 1024           # bytes, for large tensors: few lanes to join
SHORT_LANE = 64            # bytes, for small ones: few steps to walk
AT_ONCE = 16384            # lanes walked in step; their registers, 64 KB, stay in the processor's cache


def move(registers, matrix):
    """Matrix times vector with XOR for plus and AND for times. Row k of the matrix says where bit k alone ends up.

    Input: registers (...) uint32, matrix (32,). Output: (...)
    """
    return np.bitwise_xor.reduce((registers[..., None] >> BITS & np.uint32(1)) * matrix, axis=-1)


@cache
def over_zeros(doublings):
    """The matrix (32,) that moves a register over 2^doublings zero bits: one step, squared that many times."""
    if doublings == 0:     # bit 0 falls out and brings the polynomial in, bit k becomes bit k - 1
        return np.array([POLYNOMIAL] + [1 << k for k in range(31)], dtype=np.uint32)
    half = over_zeros(doublings - 1)
    return move(half, half)


@cache
def word_tables():
    """Every half word moved over 4 zero bytes: the low halves, the high halves; (65536,) each."""
    halves = np.arange(1 << 16, dtype=np.uint32)
    return move(halves, over_zeros(5)), move(halves << np.uint32(16), over_zeros(5))


def walk(words, registers):
    """Each register takes its own row of words, 4 bytes per step.

    A word is XORed in whole and run over 4 zero bytes: its two halves by table, and by linearity the XOR of both.

    Input: words (lanes, n) uint32, registers (lanes,) uint32. Output: registers (lanes,)
    """
    low, high = word_tables()
    for column in np.ascontiguousarray(words.T):       # (lanes,)
        eaten = registers ^ column
        registers = low.take(eaten & 0xFFFF, mode="clip") ^ high.take(eaten >> 16, mode="clip")
    return registers


def join(registers, lane):
    """Registers of neighbouring lanes -> the register of all of them, an int; each but the first began at 0.

    Input: registers (lanes,) uint32; lane, the bytes of one, a power of 2
    """
    doublings = (8 * lane).bit_length() - 1
    while len(registers) > 1:
        if len(registers) % 2:                          # one more in front: 0 stays 0 over zero bytes
            registers = np.concatenate([np.zeros(1, np.uint32), registers])
        registers = move(registers[0::2], over_zeros(doublings)) ^ registers[1::2]
        doublings += 1
    return int(registers[0])


def crc32c(data):
    """The checksum, a whole number below 2^32, of bytes or of anything that lends its memory, such as a NumPy array.

    The register begins as all ones and ends inverted. What does not fill a lane comes first, bit by bit.
    """
    data = np.frombuffer(data, dtype=np.uint8)
    lane = LONG_LANE if len(data) >= 1 << 20 else SHORT_LANE
    rest = len(data) % lane
    register = 0xFFFFFFFF
    for byte in data[:rest].tolist():
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ POLYNOMIAL * (register & 1)
    words = data[rest:].view("<u4").reshape(-1, lane // 4)
    registers = np.zeros(len(words), dtype=np.uint32)
    if len(words):
        registers[0] = register
        for start in range(0, len(words), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            registers[some] = walk(words[some], registers[some])
        register = join(registers, lane)
    return register ^ 0xFFFFFFFF


def masked(crc):
    """A checksum as TensorFlow stores it: rotated right by 15 bits, plus 0xA282EAD8, modulo 2^32.

    Data followed by their own plain checksum always give the same register, so a checksum of both would check nothing.
    """
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
