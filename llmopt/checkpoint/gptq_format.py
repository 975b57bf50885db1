"""The GPTQ checkpoint format (`checkpoint_format: gptq`, and `gptq_v2` to read).

Per linear layer: `qweight` int32 [I * bits / 32, O] (a dense stream along the input; for 3 bits
32 integers in 3 words), `qzeros` int32 [G, O * bits / 32] that store zero - 1 in version 1 and
zero in version 2, `scales` float16 [G, O], `g_idx` int32 [I]. It is what AutoGPTQ and GPTQModel
write and what vLLM reads; AutoRound leaves `g_idx` out, its groups are in order.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.integer_packing import pack_dense, unpack_dense
from llmopt.checkpoint.packed_weight import PackedWeight, monotonic_g_idx
from llmopt.checkpoint.packed_words import dense_multiple

TENSOR_NAMES = ("qweight", "qzeros", "scales", "g_idx")


def pack(weight: PackedWeight) -> dict[str, Tensor]:
    """Returns the four tensors of one layer. The input is not modified.

    Raises:
        ValueError: A zero point of 0, which version 1 can't store, or features that fill no
            whole words.
    """
    if int(weight.zeros_GO.min()) < 1:
        raise ValueError("GPTQ version 1 stores zero - 1, so a zero point must be 1 or more")
    bits = weight.scheme.bits
    for count, side in zip(weight.q_IO.shape, ("input", "output"), strict=True):
        if count % dense_multiple(bits):
            raise ValueError(f"{count} {side} features are no multiple of {dense_multiple(bits)}")
    return {
        "qweight": pack_dense(weight.q_IO, bits, dim=0),
        "qzeros": pack_dense(weight.zeros_GO - 1, bits, dim=1),
        "scales": weight.scales_GO.to(torch.float16).contiguous(),
        "g_idx": weight.g_idx_I.to(torch.int32).contiguous(),
    }


def unpack(tensors: Mapping[str, Tensor], scheme: QuantScheme, version: int = 1) -> PackedWeight:
    """Undoes `pack`; zero points of version 1 are taken modulo 2^bits as it means them."""
    zeros_GO = unpack_dense(tensors["qzeros"], scheme.bits, dim=1)
    if version == 1:
        zeros_GO = (zeros_GO + 1) & scheme.max_q
    q_IO = unpack_dense(tensors["qweight"], scheme.bits, dim=0)
    g_idx_I = tensors.get("g_idx")
    if g_idx_I is None:
        g_idx_I = monotonic_g_idx(len(q_IO), scheme.group_size).to(q_IO.device)
    return PackedWeight(
        q_IO=q_IO,
        scales_GO=tensors["scales"],
        zeros_GO=zeros_GO,
        g_idx_I=g_idx_I,
        scheme=scheme,
    )
