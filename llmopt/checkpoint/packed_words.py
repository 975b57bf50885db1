"""How many small integers a checkpoint's 32-bit words hold; no torch."""

import math

WORD_BITS = 32


def dense_multiple(bits: int) -> int:
    """Returns how many integers fill whole words: 32 for 3 bits, 8 for 4."""
    return math.lcm(WORD_BITS, bits) // bits


def count_words(num_values: int, bits: int) -> int:
    """Returns how many words hold so many integers, the last one perhaps not full."""
    return -(-num_values * bits // WORD_BITS)
