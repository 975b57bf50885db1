"""The 4-bit checkpoint format of bitsandbytes, its config and its tensors' shapes; no torch.

Per linear layer of n weights, taken row by row: `weight` uint8 [ceil(n/2), 1], two per byte, the
first in the high bits; `weight.absmax`, one per block of `block_size` weights, float32, or with
double quantisation uint8 in blocks of 256 that have their own `weight.nested_absmax` and
`weight.nested_quant_map`; `weight.quant_map` float32 [16], the values that 4 bits stand for;
`weight.quant_state.bitsandbytes__nf4` (or `fp4`), JSON text with dtype, shape and block sizes.
Source: bitsandbytes, functional.py, QuantState.as_dict; transformers, BitsAndBytesConfig.to_dict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmopt.checkpoint.safetensors_header import TensorPlan

QuantType = Literal["nf4", "fp4"]
NESTED_BLOCK_SIZE = 256  # bitsandbytes' own, no option
BITS = 4


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


def build_bitsandbytes_config(
    scheme: BitsAndBytesScheme, compute_dtype: str, kept: Sequence[str] | None
) -> dict[str, Any]:
    """Returns the `quantization_config` that transformers writes for the same settings.

    Args:
        scheme: How weights are stored.
        compute_dtype: What a loader computes in.
        kept: Modules that stay as they are; None leaves that to transformers, which keeps the
            output head.
    """
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "_load_in_4bit": True,
        "_load_in_8bit": False,
        "bnb_4bit_compute_dtype": compute_dtype,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": scheme.quant_type,
        "bnb_4bit_use_double_quant": scheme.double_quant,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": None if kept is None else list(kept),
        "llm_int8_threshold": 6.0,
    }
