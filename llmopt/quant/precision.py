"""Local control of how float32 matrix products are computed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from llmopt.quant.matrix_units import has_matrix_units


@contextmanager
def bf16_matmul(device: torch.device) -> Iterator[None]:
    """Lets float32 products run on a device's bf16 units with float32 accumulation, in the block.

    CPUs without such units do as they always do.

    Products of values that are bf16 already are exact in it; others lose 16 bits of mantissa. CUDA
    builds of torch take TF32 for it: 11 bits, which hold such values too; others lose 13.
    torch keeps this setting for the whole process, so it is put back at once.
    """
    if device.type == "cpu" and not has_matrix_units():
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
