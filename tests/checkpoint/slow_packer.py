"""Packs integers one by one in plain Python, the oracle of the fast packer."""

import struct
from collections.abc import Sequence


def pack_words(values: Sequence[int], bits: int) -> list[int]:
    """Packs unsigned integers into signed 32-bit words, the first in the lowest bits."""
    per_word = 32 // bits
    words = []
    for start in range(0, len(values), per_word):
        word = 0
        for position, value in enumerate(values[start : start + per_word]):
            word += value * 2 ** (bits * position)
        words.append(struct.unpack("<i", struct.pack("<I", word))[0])
    return words
