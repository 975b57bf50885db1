"""The compressed-tensors checkpoint format, `pack-quantized` (W4A16, W8A16).

Per linear layer: `weight_packed` int32 [O, ceil(I * bits / 32)] (along the input, signed integers
shifted by 2^(bits-1)), `weight_scale` [O, G] in the model's dtype, `weight_shape` int64 [2], for
an asymmetric grid `weight_zero_point` int32 [ceil(O * bits / 32), G] (packed along the output),
for act-order `weight_g_idx` int32 [I]. Source: vllm-project/compressed-tensors 0.19,
compressors/pack_quantized, which no longer writes `weight_g_idx`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.integer_packing import pack_dense, unpack_dense
from llmopt.checkpoint.packed_weight import PackedWeight, monotonic_g_idx
from llmopt.checkpoint.packed_words import count_words
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
        "weight_packed": pack_dense(weight.q_IO.T, bits, dim=1),
        "weight_scale": weight.scales_GO.T.to(scale_dtype).contiguous(),
        "weight_shape": torch.tensor([out_features, in_features], dtype=torch.int64),
    }
    if not weight.scheme.sym:
        tensors["weight_zero_point"] = pack_dense(weight.zeros_GO.T, bits, dim=0)
    if weight.scheme.has_moved_groups:
        tensors["weight_g_idx"] = weight.g_idx_I.to(torch.int32).contiguous()
    return tensors


def unpack(tensors: Mapping[str, Tensor], scheme: QuantScheme) -> PackedWeight:
    """Undoes `pack`.

    Raises:
        InputError: The stored shape is not that of the packed integers.
    """
    out_features, in_features = (int(n) for n in tensors["weight_shape"])
    packed = tensors["weight_packed"]
    if packed.shape != (out_features, count_words(in_features, scheme.bits)):
        raise InputError(
            f"weight_shape is {[out_features, in_features]}, but weight_packed has "
            f"{list(packed.shape)} words for {scheme.bits} bits"
        )
    q_OI = unpack_dense(packed, scheme.bits, dim=1)[:, :in_features]
    scales_GO = tensors["weight_scale"].T.contiguous()
    if scheme.sym:
        zeros_GO = torch.full_like(scales_GO, scheme.midpoint, dtype=torch.uint8)
    else:
        zeros_OG = unpack_dense(tensors["weight_zero_point"], scheme.bits, dim=0)[:out_features]
        zeros_GO = zeros_OG.T.contiguous()
    g_idx_I = tensors.get("weight_g_idx")
    if g_idx_I is None:
        g_idx_I = monotonic_g_idx(in_features, scheme.group_size).to(q_OI.device)
    return PackedWeight(q_OI.T.contiguous(), scales_GO, zeros_GO, g_idx_I, scheme)
