"""bitsandbytes' kernels; imports the library, an extra, so import this only where it is needed."""

import logging

import torch
from torch import Tensor

from llmopt.checkpoint.bitsandbytes_format import NibbleState, QuantType

# It says at import that kernels for other work (a fused 4-bit product) can't be fetched.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

from bitsandbytes.functional import (  # noqa: E402
    QuantState,
    dequantize_4bit,
    dequantize_blockwise,
    quantize_4bit,
    quantize_blockwise,
)

__all__ = [
    "QuantState",
    "dequantize_blockwise",
    "dequantize_codes",
    "dequantize_layer",
    "quantize_4bit",
    "quantize_blockwise",
]


def dequantize_layer(
    tensors: dict[str, Tensor], state: NibbleState, quant_type: QuantType
) -> Tensor:
    """Decodes one layer.

    Args:
        tensors: The layer's tensors but for the state, by their names after the layer's.
        state: What the state says.
        quant_type: nf4 or fp4.

    Returns:
        The weight in `state.shape` and float32, before it is rounded to `state.dtype`.
    """
    absmax = tensors["weight.absmax"]
    if state.nested_block_size is not None:
        nested = QuantState(
            absmax=tensors["weight.nested_absmax"],
            code=tensors["weight.nested_quant_map"],
            blocksize=state.nested_block_size,
            dtype=torch.float32,
        )
        absmax = dequantize_blockwise(absmax, nested) + state.offset
    values = dequantize_codes(tensors["weight"], absmax, state.block_size, quant_type)
    return values[: state.shape[0] * state.shape[1]].reshape(state.shape)


def dequantize_codes(
    words: Tensor, absmax: Tensor, block_size: int, quant_type: QuantType
) -> Tensor:
    """Decodes packed codes, two per byte, by their blocks' scales; flat, in float32.

    As one long row: the CPU kernel reads wrong scales where rows are shorter than a block, and
    an odd count would be decoded by a function that is compiled first.
    """
    state = QuantState(
        absmax=absmax,
        shape=torch.Size([1, 2 * words.numel()]),
        blocksize=block_size,
        quant_type=quant_type,
        dtype=torch.float32,
    )
    values: Tensor = dequantize_4bit(words.reshape(-1, 1), state).reshape(-1)
    return values
