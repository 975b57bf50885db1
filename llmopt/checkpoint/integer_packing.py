"""Packing of small unsigned integers into 32-bit words, low bits first.

The integers lie end to end and straddle words where their width does not divide 32: 32 integers
of 3 bits in 3 words. So do GPTQModel and compressed-tensors 0.19 (0.17 still began each word anew)
and so does vLLM 0.32 expect them.
"""

import torch
from torch import Tensor

from llmopt.checkpoint.packed_words import WORD_BITS, count_words, dense_multiple


def pack_dense(values: Tensor, bits: int, dim: int) -> Tensor:
    """Packs unsigned integers into words along one axis.

    Args:
        values: Integers in 0..2^bits-1; an incomplete last word is filled with zeros.
        bits: 1 to 8.
        dim: The axis to pack.

    Returns:
        int32, that axis ceil(length * bits / 32) long. The input is not modified.

    Raises:
        ValueError: A value is out of range.
    """
    _check_range(values, bits)
    count = dense_multiple(bits)
    num_words = count * bits // WORD_BITS
    rows = _fill_up(values.movedim(dim, 0), count)
    rows = rows.reshape(-1, count, *rows.shape[1:])
    shape = (rows.shape[0], num_words, *rows.shape[2:])
    words = torch.zeros(shape, dtype=torch.int32, device=values.device)
    for position in range(count):
        word, shift = divmod(bits * position, WORD_BITS)
        # A shift into the sign bit is kept as it is by int32 arithmetic.
        value = rows[:, position].to(torch.int32)
        words[:, word] |= value << shift
        if shift + bits > WORD_BITS:
            words[:, word + 1] |= value >> (WORD_BITS - shift)
    needed = count_words(values.shape[dim], bits)
    return words.flatten(0, 1)[:needed].movedim(0, dim).contiguous()


def unpack_dense(words: Tensor, bits: int, dim: int) -> Tensor:
    """Undoes `pack_dense`, but for the filling, which is left in.

    Returns:
        uint8, that axis as many integers long as the words hold whole.
    """
    count = dense_multiple(bits)
    num_words = count * bits // WORD_BITS
    mask = (1 << bits) - 1
    rows = _fill_up(words.movedim(dim, 0), num_words)
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
    whole = words.shape[dim] * WORD_BITS // bits
    return torch.stack(values, dim=1).flatten(0, 1)[:whole].movedim(0, dim).contiguous()


def _fill_up(rows: Tensor, multiple: int) -> Tensor:
    """Appends zeros to the first axis until it is a multiple."""
    short = -len(rows) % multiple
    return torch.cat([rows, rows.new_zeros(short, *rows.shape[1:])]) if short else rows


def _check_range(values: Tensor, bits: int) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 1 << bits:
        raise ValueError(f"values {low}..{high} do not fit in {bits} bits")
