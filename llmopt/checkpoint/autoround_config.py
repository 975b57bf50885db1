"""The `quantization_config` of checkpoints in AutoRound's own format; no torch.

`bits`, `group_size` and `sym` hold for the linear layers of the decoder blocks; `extra_config`
changes them, by a layer's full name or by a regular expression that is searched in it, and full
names come first. From 16 bits on a layer is left as it is. The tensors are GPTQ's without `g_idx`;
`packing_format` says whether zero points are stored less one. Source: intel/auto-round 0.16,
inference/convert_model.py and inference/backend.py.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER
from llmopt.checkpoint.stored_quantization import (
    LayerFormat,
    LayerRule,
    StoredLayer,
    StoredQuantization,
    compile_pattern,
    match_exactly,
)
from llmopt.errors import InputError

PACKINGS: dict[str, LayerFormat] = {
    "auto_round:auto_gptq": "gptq",
    "auto_round:gptq": "gptq",
    "auto_round": "gptq_v2",
    "auto_round:exllamav2": "gptq_v2",
    "auto_round:gptqmodel": "gptq_v2",
}
FULL_NAME = re.compile(r"[\w.]+")
UNROUNDED_BITS = 16
Settings = Mapping[str, Any]


def parse_autoround_config(config: Settings) -> StoredQuantization:
    """Reads a `quantization_config`.

    Raises:
        InputError: A packing, a kind of number or a scheme that this reader does not know.
    """
    packing = config.get("packing_format") or "auto_round:auto_gptq"
    if packing not in PACKINGS:
        known = ", ".join(PACKINGS)
        raise InputError(f"AutoRound's packing_format is {packing!r}; this reader knows {known}")
    extra = config.get("extra_config") or {}
    if not isinstance(extra, Mapping):
        raise InputError(f"quantization_config of AutoRound: extra_config is {extra!r}")
    rules = []
    for name, changes in _order_names(extra):
        pattern = _compile_name(name)
        rules.append(LayerRule(pattern, _parse_layer({**config, **changes}, PACKINGS[packing])))
    rules.append(LayerRule(match_exactly(OUTPUT_LAYER), None))
    return StoredQuantization("auto-round", _parse_layer(config, PACKINGS[packing]), tuple(rules))


def _order_names(extra: Settings) -> Iterator[tuple[str, Settings]]:
    names = sorted(extra, key=lambda name: FULL_NAME.fullmatch(name) is None)  # stable
    for name in names:
        yield name, extra[name] or {}


def _compile_name(name: str) -> re.Pattern[str]:
    if FULL_NAME.fullmatch(name):
        return match_exactly(name)
    compile_pattern(name)  # its message shows the name as it was written
    return compile_pattern(f".*?(?:{name})")  # a rule matches from the start, AutoRound searches


def _parse_layer(settings: Settings, layout: LayerFormat) -> StoredLayer | None:
    try:
        if settings["bits"] >= UNROUNDED_BITS:
            return None
        kind, activation_bits = settings.get("data_type", "int"), settings.get("act_bits")
        if kind != "int" or (activation_bits or UNROUNDED_BITS) < UNROUNDED_BITS:
            raise InputError(
                f"AutoRound's data_type is {kind!r} with act_bits {activation_bits}; this reader "
                "knows 'int' weights with activations of 16 bits"
            )
        scheme = QuantScheme(
            bits=settings["bits"],
            group_size=settings["group_size"],
            sym=settings.get("sym", True),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"quantization_config of AutoRound: {type(error).__name__}: {error}"
        ) from None
    return StoredLayer(layout, scheme, has_g_idx=False)
