"""The `quantization_config` of W8A8 checkpoints in compressed-tensors' formats; no torch.

Source: vllm-project/compressed-tensors, quantization/quant_args.py; vLLM's schemes
compressed_tensors_w8a8_int8 and compressed_tensors_w8a8_fp8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from llmopt.checkpoint.stored_quantization import ChannelLayer
from llmopt.checkpoint.w8a8_format import ScaleGrid, W8A8Format
from llmopt.errors import InputError

InputGrid = Literal["token", "group", "tensor"]
Grid = TypeVar("Grid", ScaleGrid, InputGrid)

W8A8_TYPES: dict[W8A8Format, str] = {"int-quantized": "int", "float-quantized": "float"}
NUMBER = {"num_bits": 8, "symmetric": True}
WEIGHTS = {**NUMBER, "strategy": "channel", "dynamic": False}
INPUTS = {**NUMBER, "strategy": "token", "dynamic": True}
SCALE_GRIDS: tuple[ScaleGrid, ...] = ("channel", "tensor", "block")
INPUT_GRIDS: tuple[InputGrid, ...] = ("token", "group", "tensor")
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
        InputError: Scales that are shared in another way, or asymmetric ones.
    """
    kind = {"num_bits": 8, "symmetric": True, "type": W8A8_TYPES[quant_format]}
    weights, inputs = group["weights"], group.get("input_activations")
    _require(weights, {**kind, "dynamic": False}, f"{quant_format} weights")
    scales = _choose(weights, SCALE_GRIDS, f"{quant_format} weights")
    block = tuple(weights["block_structure"]) if scales == "block" else None
    if block is not None and (len(block) != 2 or min(block) < 1):
        raise InputError(f"compressed-tensors block_structure is {list(block)}; want two counts")
    layer = ChannelLayer(quant_format, inputs is not None, scales, block)
    return layer if inputs is None else _add_inputs(layer, kind, inputs)


def _add_inputs(
    layer: ChannelLayer, kind: Mapping[str, Any], inputs: Mapping[str, Any]
) -> ChannelLayer:
    what = f"{layer.format} activations"
    strategy = _choose(inputs, INPUT_GRIDS, what)
    _require(inputs, {**kind, "dynamic": strategy != "tensor"}, what)
    if strategy == "tensor":
        return replace(layer, has_input_scale=True)
    return replace(layer, input_group_size=inputs["group_size"] if strategy == "group" else None)


def _choose(found: Mapping[str, Any], known: tuple[Grid, ...], what: str) -> Grid:
    strategy = found.get("strategy")
    for name in known:
        if strategy == name:
            return name
    raise InputError(
        f"compressed-tensors {what} have strategy {strategy!r}; this reader knows "
        f"{', '.join(known)}"
    )


def _require(found: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    for key, value in wanted.items():
        given = found.get(key, DEFAULTS.get(key))
        if given != value:
            raise InputError(
                f"compressed-tensors {what} have {key} {given!r}; this reader knows {value!r}"
            )
