"""The GPTQ checkpoint format, version 1 (`checkpoint_format: gptq`).

Per linear layer: `qweight` int32 [I/p, O] (p = 32 // bits integers per word, along the
input), `qzeros` int32 [G, O/p] that store zero - 1, `scales` float16 [G, O], `g_idx` int32
[I]. It is what AutoGPTQ wrote and what vLLM's gptq and gptq_marlin paths read.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.integer_packing import pack_int32, unpack_int32
from llmopt.checkpoint.packed_weight import PackedWeight

TENSOR_NAMES = ("qweight", "qzeros", "scales", "g_idx")


def pack(weight: PackedWeight) -> dict[str, Tensor]:
    """Returns the four tensors of one layer. The input is not modified.

    Raises:
        ValueError: A zero point of 0, which version 1 can't store.
    """
    if int(weight.zeros_GO.min()) < 1:
        raise ValueError("GPTQ version 1 stores zero - 1, so a zero point must be 1 or more")
    bits = weight.scheme.bits
    return {
        "qweight": pack_int32(weight.q_IO, bits, dim=0),
        "qzeros": pack_int32(weight.zeros_GO - 1, bits, dim=1),
        "scales": weight.scales_GO.to(torch.float16).contiguous(),
        "g_idx": weight.g_idx_I.to(torch.int32).contiguous(),
    }


def unpack(tensors: Mapping[str, Tensor], scheme: QuantScheme) -> PackedWeight:
    """Undoes `pack`; zero points are taken modulo 2^bits as version 1 means them."""
    zeros_GO = (unpack_int32(tensors["qzeros"], scheme.bits, dim=1) + 1) & scheme.max_q
    return PackedWeight(
        q_IO=unpack_int32(tensors["qweight"], scheme.bits, dim=0),
        scales_GO=tensors["scales"],
        zeros_GO=zeros_GO,
        g_idx_I=tensors["g_idx"],
        scheme=scheme,
    )
