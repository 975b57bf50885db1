"""Reads a quantised linear layer of a checkpoint, whatever its format.

Shapes: O = out_features, I = in_features.
"""

import importlib.util

import torch
from torch import Tensor

from llmopt.checkpoint.bitsandbytes_format import NibbleState, parse_state
from llmopt.checkpoint.checkpoint import FLOAT_DTYPES, Checkpoint
from llmopt.checkpoint.compressed_tensors_format import TENSOR_NAMES as COMPRESSED_NAMES
from llmopt.checkpoint.compressed_tensors_format import unpack as unpack_compressed
from llmopt.checkpoint.gptq_format import TENSOR_NAMES as GPTQ_NAMES
from llmopt.checkpoint.gptq_format import unpack as unpack_gptq
from llmopt.checkpoint.packed_weight import PackedWeight
from llmopt.checkpoint.stored_quantization import (
    ChannelLayer,
    LayerStorage,
    NibbleLayer,
    StoredLayer,
)
from llmopt.checkpoint.tensor_files import read_tensor
from llmopt.errors import CapabilityError, InputError

STATE_NAME = "weight.quant_state.bitsandbytes__"


def is_stored_weight(checkpoint: Checkpoint, name: str) -> bool:
    """Tells whether a tensor, by its name in the plain model, is quantised in the checkpoint."""
    entry = checkpoint.tensors.get(name)
    return entry is None or (
        checkpoint.quantization is not None and entry.dtype not in FLOAT_DTYPES
    )


def read_stored_weight(
    checkpoint: Checkpoint, layer: str, device: torch.device | None, dtype: torch.dtype
) -> Tensor:
    """Reads one quantised linear layer and returns its weight [O, I], dequantised.

    Raises:
        InputError: The layer is not there, or damaged.
        CapabilityError: It is bitsandbytes' and that is not installed.
    """
    stored = _find_storage(checkpoint, layer)
    if isinstance(stored, StoredLayer):
        return read_packed_weight(checkpoint, layer, device).dequantize(dtype)
    if isinstance(stored, ChannelLayer):
        weight = _read_channel_weight(checkpoint, layer, stored, device)
    else:
        weight = _read_nibble_weight(checkpoint, layer, stored, device)
    if not bool(torch.isfinite(weight).all()):
        raise InputError(f"{checkpoint.folder}: layer {layer} holds NaN or infinity")
    return weight.to(dtype)


def read_packed_weight(
    checkpoint: Checkpoint, layer: str, device: torch.device | None = None
) -> PackedWeight:
    """Reads one linear layer of packed integers, whatever their layout.

    Raises:
        InputError: The layer is not there, or names groups that are not.
    """
    stored = _find_storage(checkpoint, layer)
    assert isinstance(stored, StoredLayer), stored
    names = COMPRESSED_NAMES if stored.format == "pack-quantized" else GPTQ_NAMES
    tensors = {
        name: read_tensor(checkpoint.tensors[f"{layer}.{name}"]).to(device)
        for name in names
        if f"{layer}.{name}" in checkpoint.tensors
    }
    if stored.format == "pack-quantized":
        weight = unpack_compressed(tensors, stored.scheme)
    else:
        weight = unpack_gptq(tensors, stored.scheme, 2 if stored.format == "gptq_v2" else 1)
    low, high = int(weight.g_idx_I.min()), int(weight.g_idx_I.max())
    if low < 0 or high >= len(weight.scales_GO):
        raise InputError(
            f"{layer}: g_idx runs {low}..{high}, but there are {len(weight.scales_GO)} groups",
            remedy=f"{checkpoint.folder} is damaged: get it again from where it was made",
        )
    return weight


def _find_storage(checkpoint: Checkpoint, layer: str) -> LayerStorage:
    quantization = checkpoint.quantization
    stored = None if quantization is None else quantization.find_layer(layer)
    if stored is None:
        raise InputError(f"{checkpoint.folder} holds no tensor {layer}.weight")
    return stored


def read_input_scale(
    checkpoint: Checkpoint, layer: str, stored: ChannelLayer, device: torch.device | None
) -> Tensor | None:
    """Reads the one scale of a layer's inputs, float32 [1]; None where there is none.

    Raises:
        InputError: It is not above 0.
    """
    if not stored.has_input_scale:
        return None
    scale = read_tensor(checkpoint.tensors[f"{layer}.input_scale"]).to(device).float()
    if not bool((scale > 0).all()):
        raise InputError(f"{checkpoint.folder}: {layer}.input_scale is {scale.tolist()}")
    return scale


def _read_channel_weight(
    checkpoint: Checkpoint, layer: str, stored: ChannelLayer, device: torch.device | None
) -> Tensor:
    stored_OI = read_tensor(checkpoint.tensors[f"{layer}.weight"]).to(device)
    scale = read_tensor(checkpoint.tensors[f"{layer}.weight_scale"]).to(device).float()
    if stored.block_shape is not None:
        rows, columns = stored.block_shape
        scale = scale.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
        scale = scale[: len(stored_OI), : stored_OI.shape[1]]
    return stored_OI.float() * scale


def _read_nibble_weight(
    checkpoint: Checkpoint, layer: str, stored: NibbleLayer, device: torch.device | None
) -> Tensor:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise CapabilityError(
            f"{checkpoint.folder} is in bitsandbytes' format, and that is not installed",
            remedy="pip install 'llmopt[quant]'",
        )
    from llmopt.checkpoint.bitsandbytes_kernels import dequantize_layer  # noqa: PLC0415 - an extra

    prefix = f"{layer}."
    tensors = {
        name.removeprefix(prefix): read_tensor(entry)
        for name, entry in checkpoint.tensors.items()
        if name.startswith(prefix + "weight")
    }
    state = parse_state(bytes(tensors.pop(STATE_NAME + stored.quant_type).tolist()), layer)
    _check_lengths(layer, tensors, state)
    on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
    return dequantize_layer(on_device, state, stored.quant_type)


def _check_lengths(layer: str, tensors: dict[str, Tensor], state: NibbleState) -> None:
    """Refuses tensors that the kernels would read beyond the end of."""
    num_weights = state.shape[0] * state.shape[1]
    num_blocks = -(-num_weights // state.block_size)
    expected = {"weight": -(-num_weights // 2), "weight.absmax": num_blocks}
    if "weight.nested_absmax" in tensors:
        expected["weight.nested_absmax"] = -(-num_blocks // (state.nested_block_size or 1))
    found = {name: tensors[name].numel() for name in expected}
    if found != expected or ("weight.nested_absmax" in tensors) != bool(state.nested_block_size):
        raise InputError(f"{layer}: its quant_state and its tensors disagree: {expected}, {found}")
