"""One quantised linear layer, free of any file format.

Shapes: O = out_features, I = in_features, G = groups along the input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme


@dataclass(frozen=True)
class PackedWeight:
    """The integers of a linear layer and the grid that gives them meaning.

    Attributes:
        q_IO: uint8 [I, O]; stored integers in 0..2^bits-1.
        scales_GO: floating point [G, O]; step of the grid.
        zeros_GO: uint8 [G, O]; the stored integer that stands for zero.
        g_idx_I: int32 [I]; the group of each input feature.
        scheme: How it was quantised.
    """

    q_IO: Tensor
    scales_GO: Tensor
    zeros_GO: Tensor
    g_idx_I: Tensor
    scheme: QuantScheme

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Returns the weight [O, I] that the integers stand for, scale * (q - zero)."""
        groups = self.g_idx_I.long()
        steps_IO = self.q_IO.float() - self.zeros_GO.float()[groups]
        return (steps_IO * self.scales_GO.float()[groups]).to(dtype).T.contiguous()


def monotonic_g_idx(in_features: int, group_size: int) -> Tensor:
    """Returns the group of each input feature when groups are consecutive, int32 [I]."""
    if group_size == -1:
        return torch.zeros(in_features, dtype=torch.int32)
    return (torch.arange(in_features) // group_size).to(torch.int32)
