"""The `quantization_config` of bitsandbytes' 4-bit checkpoints; no torch.

Source: transformers, BitsAndBytesConfig.to_dict, and quantizers_utils.should_convert_module for
what `llm_int8_skip_modules` names (of 4-bit models too).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from llmopt.checkpoint.bitsandbytes_format import BitsAndBytesScheme, QuantType
from llmopt.checkpoint.experts_config import EXPERT_NUMBER
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER
from llmopt.checkpoint.stored_quantization import (
    LayerRule,
    NibbleLayer,
    StoredQuantization,
    compile_pattern,
)
from llmopt.errors import InputError

MODULE_END = r"(?:(?<=\.)|(?=\.|$))"


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


def parse_bitsandbytes_config(config: Mapping[str, Any]) -> StoredQuantization:
    """Reads a `quantization_config`.

    Raises:
        InputError: 8-bit weights, or a type that this reader does not know.
    """
    quant_type = config.get("bnb_4bit_quant_type", "fp4")
    storage = config.get("bnb_4bit_quant_storage", "uint8")
    if not config.get("load_in_4bit") or quant_type not in get_args(QuantType):
        raise InputError(
            f"bitsandbytes with load_in_4bit {config.get('load_in_4bit')!r}, quant_type "
            f"{quant_type!r}; this reader knows 4 bits, {' and '.join(get_args(QuantType))}"
        )
    if storage != "uint8":
        raise InputError(f"bitsandbytes with quant_storage {storage!r}; this reader knows 'uint8'")
    base = NibbleLayer(quant_type, bool(config.get("bnb_4bit_use_double_quant", False)))
    named = config.get("llm_int8_skip_modules")
    skipped = [OUTPUT_LAYER] if named is None else named
    # transformers holds experts in one tensor, which bitsandbytes has no layer for.
    rules = [LayerRule(re.compile(f".+{EXPERT_NUMBER.pattern}"), None)]
    rules += [LayerRule(_compile_skip(str(name)), None) for name in skipped]
    return StoredQuantization("bitsandbytes", base, tuple(rules))


def _compile_skip(name: str) -> re.Pattern[str]:
    """A name skips modules that begin with it, as a regular expression, or end with it."""
    return compile_pattern(rf"(?:{name}){MODULE_END}|.*{re.escape(name)}\Z")
