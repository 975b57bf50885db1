"""Packs integers one by one in plain Python, the oracle of the fast packer."""

import struct
from collections.abc import Sequence


def pack_stream(values: Sequence[int], bits: int) -> list[int]:
    """Packs unsigned integers end to end, the first lowest, and cuts the number into words."""
    number = 0
    for position, value in enumerate(values):
        number += value * 2 ** (bits * position)
    num_words = (len(values) * bits + 31) // 32
    return [_as_signed(number // 2 ** (32 * k) % 2**32) for k in range(num_words)]


def _as_signed(word: int) -> int:
    signed: int = struct.unpack("<i", struct.pack("<I", word))[0]
    return signed
