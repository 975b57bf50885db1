"""Packing of small unsigned integers into 32-bit words, low bits first."""

import torch
from torch import Tensor


def pack_int32(values: Tensor, bits: int, dim: int) -> Tensor:
    """Packs unsigned integers along one axis, the first value in the lowest bits.

    Args:
        values: Integers in 0..2^bits-1; the packed axis is a multiple of 32 // bits.
        bits: 2, 4 or 8.
        dim: The axis to pack.

    Returns:
        int32, that axis 32 // bits times shorter. The input is not modified.

    Raises:
        ValueError: A value is out of range, or the axis has a wrong length.
    """
    num_packed = 32 // bits
    if values.shape[dim] % num_packed:
        raise ValueError(
            f"axis {dim} has {values.shape[dim]} values, not a multiple of {num_packed}"
        )
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 1 << bits:
        raise ValueError(f"values {low}..{high} do not fit in {bits} bits")
    rows = values.movedim(dim, 0)
    rows = rows.reshape(-1, num_packed, *rows.shape[1:])
    words = torch.zeros(rows.shape[0], *rows.shape[2:], dtype=torch.int32, device=values.device)
    for position in range(num_packed):
        # The last shift moves into the sign bit, which int32 arithmetic keeps as is.
        words |= rows[:, position].to(torch.int32) << (bits * position)
    return words.movedim(0, dim).contiguous()


def unpack_int32(words: Tensor, bits: int, dim: int) -> Tensor:
    """Undoes `pack_int32`.

    Returns:
        uint8, that axis 32 // bits times longer.
    """
    mask = (1 << bits) - 1
    rows = words.movedim(dim, 0)
    values = torch.stack([(rows >> (bits * k)) & mask for k in range(32 // bits)], dim=1)
    return values.flatten(0, 1).to(torch.uint8).movedim(0, dim).contiguous()
