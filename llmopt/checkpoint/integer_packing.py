"""Packing of small unsigned integers into 32-bit words, low bits first.

Two layouts are in use where a width does not divide 32: padded words hold 32 // bits integers
each (compressed-tensors), a dense stream lets integers straddle words (GPTQ: 32 integers of 3
bits in 3 words). For 2, 4 and 8 bits they are the same.
"""

import math

import torch
from torch import Tensor

WORD_BITS = 32


def pack_int32(values: Tensor, bits: int, dim: int) -> Tensor:
    """Packs unsigned integers into padded words along one axis.

    Args:
        values: Integers in 0..2^bits-1; an incomplete last word is filled with zeros.
        bits: 1 to 8.
        dim: The axis to pack.

    Returns:
        int32, that axis ceil(length / (32 // bits)) long. The input is not modified.

    Raises:
        ValueError: A value is out of range.
    """
    _check_range(values, bits)
    num_packed = WORD_BITS // bits
    rows = values.movedim(dim, 0)
    short = -len(rows) % num_packed
    if short:
        rows = torch.cat([rows, rows.new_zeros(short, *rows.shape[1:])])
    rows = rows.reshape(-1, num_packed, *rows.shape[1:])
    words = torch.zeros(rows.shape[0], *rows.shape[2:], dtype=torch.int32, device=values.device)
    for position in range(num_packed):
        # The last shift moves into the sign bit, which int32 arithmetic keeps as is.
        words |= rows[:, position].to(torch.int32) << (bits * position)
    return words.movedim(0, dim).contiguous()


def unpack_int32(words: Tensor, bits: int, dim: int) -> Tensor:
    """Undoes `pack_int32`, but for the filling, which is left in.

    Returns:
        uint8, that axis 32 // bits times longer.
    """
    mask = (1 << bits) - 1
    rows = words.movedim(dim, 0)
    values = torch.stack([(rows >> (bits * k)) & mask for k in range(WORD_BITS // bits)], dim=1)
    return values.flatten(0, 1).to(torch.uint8).movedim(0, dim).contiguous()


def dense_multiple(bits: int) -> int:
    """Returns how many integers fill whole words of a dense stream: 32 for 3 bits, 8 for 4."""
    return math.lcm(WORD_BITS, bits) // bits


def pack_dense(values: Tensor, bits: int, dim: int) -> Tensor:
    """Packs unsigned integers into a dense stream of words along one axis.

    Args:
        values: Integers in 0..2^bits-1; the axis is a multiple of `dense_multiple(bits)`.
        bits: 1 to 8.
        dim: The axis to pack.

    Returns:
        int32, that axis length * bits / 32 long. The input is not modified.

    Raises:
        ValueError: A value is out of range, or the axis has a wrong length.
    """
    _check_range(values, bits)
    count = dense_multiple(bits)
    if values.shape[dim] % count:
        raise ValueError(f"axis {dim} has {values.shape[dim]} values, not a multiple of {count}")
    rows = values.movedim(dim, 0)
    rows = rows.reshape(-1, count, *rows.shape[1:])
    num_words = count * bits // WORD_BITS
    shape = (rows.shape[0], num_words, *rows.shape[2:])
    words = torch.zeros(shape, dtype=torch.int32, device=values.device)
    for position in range(count):
        word, shift = divmod(bits * position, WORD_BITS)
        value = rows[:, position].to(torch.int32)
        words[:, word] |= value << shift
        if shift + bits > WORD_BITS:
            words[:, word + 1] |= value >> (WORD_BITS - shift)
    return words.flatten(0, 1).movedim(0, dim).contiguous()


def unpack_dense(words: Tensor, bits: int, dim: int) -> Tensor:
    """Undoes `pack_dense`.

    Returns:
        uint8, that axis 32 / bits times longer.
    """
    count = dense_multiple(bits)
    num_words = count * bits // WORD_BITS
    mask = (1 << bits) - 1
    rows = words.movedim(dim, 0)
    rows = rows.reshape(-1, num_words, *rows.shape[1:])
    values = []
    for position in range(count):
        word, shift = divmod(bits * position, WORD_BITS)
        value = rows[:, word] >> shift
        if shift + bits > WORD_BITS:
            # The sign bit was drawn in from the left by the shift; its copies are cut off.
            value = value & ((1 << (WORD_BITS - shift)) - 1)
            value = value | (rows[:, word + 1] << (WORD_BITS - shift))
        values.append((value & mask).to(torch.uint8))
    return torch.stack(values, dim=1).flatten(0, 1).movedim(0, dim).contiguous()


def _check_range(values: Tensor, bits: int) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 1 << bits:
        raise ValueError(f"values {low}..{high} do not fit in {bits} bits")
