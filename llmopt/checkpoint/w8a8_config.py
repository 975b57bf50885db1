"""The `quantization_config` of W8A8 checkpoints in compressed-tensors' formats; no torch.

Source: vllm-project/compressed-tensors, quantization/quant_args.py; vLLM's schemes
compressed_tensors_w8a8_int8 and compressed_tensors_w8a8_fp8.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from llmopt.checkpoint.stored_quantization import ChannelLayer
from llmopt.checkpoint.w8a8_format import W8A8Format
from llmopt.errors import InputError

W8A8_TYPES: dict[W8A8Format, str] = {"int-quantized": "int", "float-quantized": "float"}
NUMBER = {"num_bits": 8, "symmetric": True}
WEIGHTS = {**NUMBER, "strategy": "channel", "dynamic": False}
INPUTS = {**NUMBER, "strategy": "token", "dynamic": True}
DEFAULTS = {"num_bits": 8, "symmetric": True, "dynamic": False}  # of the library, where unsaid


def build_w8a8_config(quant_format: W8A8Format, kept: Sequence[str]) -> dict[str, Any]:
    """Returns the complete `quantization_config`; `kept` are the modules left as they were."""
    both: dict[str, Any] = {
        "type": W8A8_TYPES[quant_format],
        "group_size": None,
        "block_structure": None,
        "actorder": None,
        "observer_kwargs": {},
    }
    weights = {**both, **WEIGHTS, "observer": "minmax"}
    activations = {**both, **INPUTS, "observer": None}
    return {
        "quant_method": "compressed-tensors",
        "format": quant_format,
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": activations,
                "output_activations": None,
                "format": quant_format,
            }
        },
        "ignore": list(kept),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def parse_channel_layer(quant_format: W8A8Format, group: Mapping[str, Any]) -> ChannelLayer:
    """Reads a config group.

    Raises:
        InputError: Scales of another kind than one per output channel, or activations that are
            not rounded token by token.
    """
    inputs = group.get("input_activations")
    kind = W8A8_TYPES[quant_format]
    _require(group["weights"], {**WEIGHTS, "type": kind}, f"{quant_format} weights")
    if inputs is not None:
        _require(inputs, {**INPUTS, "type": kind}, f"{quant_format} activations")
    return ChannelLayer(quant_format, rounds_inputs=inputs is not None)


def _require(found: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    for key, value in wanted.items():
        given = found.get(key, DEFAULTS.get(key))
        if given != value:
            raise InputError(
                f"compressed-tensors {what} have {key} {given!r}; this reader knows {value!r}"
            )
