"""Local control of how float32 matrix products are computed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def bf16_matmul() -> Iterator[None]:
    """Lets float32 products run on bf16 units with float32 accumulation, inside the block.

    Products of values that are bf16 already are exact in it; others lose 16 bits of mantissa. CUDA
    builds of torch take TF32 for it: 11 bits, which hold such values too; others lose 13.
    torch keeps this setting for the whole process, so it is put back at once.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
