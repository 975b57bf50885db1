"""Packs rounded integers into compressed-tensors' `int-quantized` layout."""

import torch
from torch import Tensor

from llmopt.checkpoint.packed_weight import PackedWeight


def pack_int_quantized(weight: PackedWeight, scale_dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns the tensors of one layer: `weight` int8 [O, I], `weight_scale` [O, 1].

    Raises:
        ValueError: The integers are not symmetric, of 8 bits, with one scale per channel.
    """
    scheme = weight.scheme
    if (scheme.bits, scheme.group_size, scheme.sym) != (8, -1, True):
        raise ValueError(f"int-quantized takes 8 bits, group_size -1, sym; this is {scheme}")
    signed_IO = weight.q_IO.to(torch.int16) - scheme.midpoint
    return {
        "weight": signed_IO.to(torch.int8).T.contiguous(),
        "weight_scale": weight.scales_GO.T.to(scale_dtype).contiguous(),
    }
