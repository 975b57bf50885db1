"""The compressed-tensors checkpoint format, `pack-quantized` (W4A16, W8A16).

Per linear layer: `weight_packed` int32 [O, ceil(I/p)] (p = 32 // bits, along the input, signed
integers shifted by 2^(bits-1)), `weight_scale` [O, G] in the model's dtype, `weight_shape`
int64 [2], for an asymmetric grid `weight_zero_point` int32 [ceil(O/p), G] (packed along the
output), for act-order `weight_g_idx` int32 [I]. Source: vllm-project/compressed-tensors,
compressors/pack_quantized.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.integer_packing import WORD_BITS, pack_int32, unpack_int32
from llmopt.checkpoint.packed_weight import PackedWeight, monotonic_g_idx
from llmopt.errors import InputError

TENSOR_NAMES = (
    "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx",
)  # fmt: skip


def pack(weight: PackedWeight, scale_dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns the tensors of one layer. The input is not modified."""
    in_features, out_features = weight.q_IO.shape
    bits = weight.scheme.bits
    # Shifting to signed and back to unsigned storage cancels: the stored integers are q itself.
    tensors = {
        "weight_packed": pack_int32(weight.q_IO.T, bits, dim=1),
        "weight_scale": weight.scales_GO.T.to(scale_dtype).contiguous(),
        "weight_shape": torch.tensor([out_features, in_features], dtype=torch.int64),
    }
    if not weight.scheme.sym:
        tensors["weight_zero_point"] = pack_int32(weight.zeros_GO.T, bits, dim=0)
    if weight.scheme.has_moved_groups:
        tensors["weight_g_idx"] = weight.g_idx_I.to(torch.int32).contiguous()
    return tensors


def unpack(tensors: Mapping[str, Tensor], scheme: QuantScheme) -> PackedWeight:
    """Undoes `pack`.

    Raises:
        InputError: The stored shape is not that of the packed integers.
    """
    out_features, in_features = (int(n) for n in tensors["weight_shape"])
    q_OI = unpack_int32(tensors["weight_packed"], scheme.bits, dim=1)
    if out_features != len(q_OI) or not 0 <= q_OI.shape[1] - in_features < WORD_BITS // scheme.bits:
        raise InputError(
            f"weight_shape is {[out_features, in_features]}, "
            f"but weight_packed holds {list(q_OI.shape)}"
        )
    q_OI = q_OI[:, :in_features]
    scales_GO = tensors["weight_scale"].T.contiguous()
    if scheme.sym:
        zeros_GO = torch.full_like(scales_GO, scheme.midpoint, dtype=torch.uint8)
    else:
        zeros_OG = unpack_int32(tensors["weight_zero_point"], scheme.bits, dim=0)[:out_features]
        zeros_GO = zeros_OG.T.contiguous()
    g_idx_I = tensors.get("weight_g_idx")
    if g_idx_I is None:
        g_idx_I = monotonic_g_idx(in_features, scheme.group_size).to(q_OI.device)
    return PackedWeight(q_OI.T.contiguous(), scales_GO, zeros_GO, g_idx_I, scheme)
