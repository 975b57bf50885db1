"""Packs integers one by one in plain Python, the oracle of the fast packers."""

import struct
from collections.abc import Sequence


def pack_words(values: Sequence[int], bits: int) -> list[int]:
    """Packs unsigned integers into signed 32-bit words, 32 // bits to each, the first lowest."""
    per_word = 32 // bits
    words = []
    for start in range(0, len(values), per_word):
        word = 0
        for position, value in enumerate(values[start : start + per_word]):
            word += value * 2 ** (bits * position)
        words.append(_as_signed(word))
    return words


def pack_stream(values: Sequence[int], bits: int) -> list[int]:
    """Packs unsigned integers end to end, the first lowest, and cuts the number into words."""
    number = 0
    for position, value in enumerate(values):
        number += value * 2 ** (bits * position)
    assert len(values) * bits % 32 == 0
    return [_as_signed(number // 2 ** (32 * k) % 2**32) for k in range(len(values) * bits // 32)]


def _as_signed(word: int) -> int:
    signed: int = struct.unpack("<i", struct.pack("<I", word))[0]
    return signed
