"""The `quantization_config` of compressed-tensors checkpoints; no torch.

A config group names its layers by `targets`: full names, `re:` and a regular expression, or the
class `Linear` for all that no other target names; `ignore` comes before them all. Source:
vllm-project/compressed-tensors, `quantization/quant_config.py` and `quant_args.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.layer_patterns import REGEX
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, QuantPlan
from llmopt.checkpoint.stored_quantization import (
    LayerRule,
    LayerStorage,
    StoredLayer,
    StoredQuantization,
    compile_pattern,
    match_exactly,
)
from llmopt.checkpoint.w8a8_config import W8A8_TYPES, parse_channel_layer
from llmopt.errors import InputError

LINEAR_CLASS = "Linear"
MOVED_GROUPS = ("group", "dynamic")  # the second is the library's other word for the first
STATIC_ORDER = ("weight", "static")


def build_compressed_tensors_config(plan: QuantPlan) -> dict[str, Any]:
    """Returns the complete `quantization_config`."""
    targets: dict[QuantScheme, list[str]] = {plan.base: [LINEAR_CLASS]}
    ignore = []
    for name, scheme in plan.exceptions():
        if scheme is None:
            ignore.append(name)
        else:
            targets.setdefault(scheme, []).append(name)
    if plan.rounds_output_layer and plan.schemes[OUTPUT_LAYER] == plan.base:
        targets[plan.base].append(OUTPUT_LAYER)  # servers' class for it is not named Linear
    if not plan.rounds_output_layer:
        ignore.append(OUTPUT_LAYER)
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{index}": {
                "targets": names,
                "weights": _describe_weights(scheme),
                "input_activations": None,
                "output_activations": None,
            }
            for index, (scheme, names) in enumerate(targets.items())
        },
        "ignore": ignore,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def parse_compressed_tensors_config(config: Mapping[str, Any]) -> StoredQuantization:
    """Reads a `quantization_config`.

    Raises:
        InputError: A compression format or a scheme that this reader does not know.
    """
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise InputError("compressed-tensors without config_groups; this reader needs them")
    ignored = config.get("ignore") or []
    rules = [LayerRule(_compile_target(str(target)), None) for target in ignored]
    base = None
    for group in groups.values():
        stored, targets = _parse_group(group, config.get("format"))
        for target in targets:
            if target == LINEAR_CLASS:
                base = stored
            else:
                rules.append(LayerRule(_compile_target(target), stored))
    return StoredQuantization("compressed-tensors", base, tuple(rules))


def _describe_weights(scheme: QuantScheme) -> dict[str, Any]:
    by_channel = scheme.group_size == -1
    order = "group" if scheme.has_moved_groups else None
    if scheme.desc_act and scheme.static_groups:
        order = "weight"
    return {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.sym,
        "strategy": "channel" if by_channel else "group",
        "group_size": None if by_channel else scheme.group_size,
        "actorder": order,
        "block_structure": None,
        "dynamic": False,
        "observer": "minmax",
        "observer_kwargs": {},
    }


def _parse_group(group: Any, default_format: Any) -> tuple[LayerStorage, Iterator[str]]:
    try:
        layout = group.get("format") or default_format
        weights, targets = group["weights"], [str(target) for target in group["targets"]]
        kind = weights.get("type", "int")
        if layout in W8A8_TYPES and kind == W8A8_TYPES[layout]:
            return parse_channel_layer(layout, group), iter(targets)
        if layout != "pack-quantized" or kind != "int":
            known = ", ".join(["'pack-quantized'", *map(repr, W8A8_TYPES)])
            raise InputError(
                f"compressed-tensors format is {layout!r} ({kind}); this reader knows {known}"
            )
        scheme = _parse_weights(weights)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"quantization_config of compressed-tensors: {type(error).__name__}: {error}"
        ) from None
    return StoredLayer(layout, scheme), iter(targets)


def _parse_weights(weights: Mapping[str, Any]) -> QuantScheme:
    order = weights.get("actorder")
    return QuantScheme(
        bits=weights["num_bits"],
        group_size=-1 if weights["strategy"] == "channel" else weights["group_size"],
        sym=weights.get("symmetric", True),
        desc_act=order in (*MOVED_GROUPS, *STATIC_ORDER),
        static_groups=order in STATIC_ORDER,
    )


def _compile_target(target: str) -> Any:
    if target.startswith(REGEX):
        return compile_pattern(target.removeprefix(REGEX))
    return match_exactly(target)
