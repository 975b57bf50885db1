"""The layout of bitsandbytes' 4-bit checkpoints; no torch.

Per linear layer of n weights, taken row by row: `weight` uint8 [ceil(n/2), 1], two per byte, the
first in the high bits; `weight.absmax`, one per block of `block_size` weights, float32, or with
double quantisation uint8 in blocks of 256 that have their own `weight.nested_absmax` and
`weight.nested_quant_map`; `weight.quant_map` float32 [16], the values that 4 bits stand for;
`weight.quant_state.bitsandbytes__nf4` (or `fp4`), JSON text with dtype, shape and block sizes.
Source: bitsandbytes, functional.py, QuantState.as_dict.
"""

import json
from dataclasses import dataclass
from typing import Literal

from llmopt.checkpoint.safetensors_header import TensorPlan
from llmopt.errors import InputError

QuantType = Literal["nf4", "fp4"]
NESTED_BLOCK_SIZE = 256  # bitsandbytes' own, no option
BITS = 4
STATE_DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True)
class BitsAndBytesScheme:
    """How bitsandbytes stores a layer.

    Attributes:
        quant_type: nf4, values at equal shares of a normal distribution; or fp4, 4-bit floats.
        double_quant: Whether the blocks' scales are quantised to 8 bits themselves.
        block_size: Weights that share a scale.
    """

    quant_type: QuantType
    double_quant: bool
    block_size: int


def plan_bitsandbytes_tensors(
    scheme: BitsAndBytesScheme, shape_OI: tuple[int, ...]
) -> dict[str, TensorPlan]:
    """Returns the tensors of one layer, by what follows the layer's name and a dot."""
    num_weights = shape_OI[0] * shape_OI[1]
    num_blocks = -(-num_weights // scheme.block_size)
    plans = {
        "weight": TensorPlan("U8", (-(-num_weights // 2), 1)),
        "weight.absmax": TensorPlan("U8" if scheme.double_quant else "F32", (num_blocks,)),
        "weight.quant_map": TensorPlan("F32", (1 << BITS,)),
    }
    if scheme.double_quant:
        num_nested = -(-num_blocks // NESTED_BLOCK_SIZE)
        plans["weight.nested_absmax"] = TensorPlan("F32", (num_nested,))
        plans["weight.nested_quant_map"] = TensorPlan("F32", (256,))
    plans[f"weight.quant_state.bitsandbytes__{scheme.quant_type}"] = TensorPlan("U8", None)
    return plans


@dataclass(frozen=True, slots=True)
class NibbleState:
    """What a layer's `quant_state` says of it.

    Attributes:
        shape: The weight's.
        dtype: torch's name of what it was before.
        block_size: Weights that share a scale.
        nested_block_size: Scales that share a scale of their own; None without double
            quantisation.
        offset: What was taken off the scales before they were quantised.
    """

    shape: tuple[int, ...]
    dtype: str
    block_size: int
    nested_block_size: int | None
    offset: float


def parse_state(text: bytes, layer: str) -> NibbleState:
    """Reads a layer's `quant_state`.

    Raises:
        InputError: It is damaged.
    """
    try:
        state = json.loads(text)
        nested = state.get("nested_blocksize")
        found = NibbleState(
            shape=tuple(int(size) for size in state["shape"]),
            dtype=str(state["dtype"]),
            block_size=int(state["blocksize"]),
            nested_block_size=None if nested is None else int(nested),
            offset=float(state.get("nested_offset", 0.0)),
        )
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{layer}: its quant_state is damaged: {error}") from None
    sizes = (*found.shape, found.block_size, found.nested_block_size or 1)
    if len(found.shape) != 2 or min(sizes) < 1 or found.dtype not in STATE_DTYPES:
        raise InputError(f"{layer}: its quant_state is damaged: {found}")
    return found
