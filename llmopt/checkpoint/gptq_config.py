"""The `quantization_config` of GPTQ checkpoints; no torch.

`bits`, `group_size`, `sym` and `desc_act` hold for every layer that `dynamic` does not name:
its keys are regular expressions over full layer names, `-:` for layers left as they are, `+:`
or nothing for layers with other values; the first that matches decides. Source: GPTQModel's
QuantizeConfig, and vLLM's auto_gptq, which reads the same.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.experts_config import EXPERT_NUMBER, find_mixture
from llmopt.checkpoint.model_config import DECODER_STAGES
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, QuantPlan
from llmopt.checkpoint.stored_quantization import (
    LayerFormat,
    LayerRule,
    StoredLayer,
    StoredQuantization,
    compile_pattern,
    match_exactly,
)
from llmopt.errors import InputError

FORMATS: dict[str, LayerFormat] = {"gptq": "gptq", "gptq_v2": "gptq_v2"}
LEAVE, CHANGE = "-:", "+:"
BLOCK_NUMBER = re.compile(r"\.layers\.(\d+)\.")
BLOCK_MARK, EXPERT_MARK = "@", "%"  # of no meaning in names and regular expressions
# Servers load these layers as one and ask `dynamic` by the name of the whole.
FUSED_NAMES = {"qkv": "self_attn.qkv_proj", "gate_up": "mlp.gate_up_proj"}


def build_gptq_config(
    plan: QuantPlan, *, damp_percent: float | None, quantizer: str
) -> dict[str, Any]:
    """Returns the complete `quantization_config`; vLLM's checks read the first five keys."""
    config = {
        "quant_method": "gptq",
        **_scheme_keys(plan.base),
        "lm_head": plan.rounds_output_layer,
        "checkpoint_format": "gptq",
        "true_sequential": True,
        "damp_percent": damp_percent,
        "pack_dtype": "int32",
        "meta": {"quantizer": [quantizer]},
    }
    dynamic = dict(_describe_exceptions(plan))
    return {**config, "dynamic": dynamic} if dynamic else config


def parse_gptq_config(config: Mapping[str, Any]) -> StoredQuantization:
    """Reads a `quantization_config`.

    Raises:
        InputError: A version or a scheme that this reader does not know.
    """
    version = config.get("checkpoint_format") or "gptq"
    if version not in FORMATS:
        known = ", ".join(FORMATS)
        raise InputError(f"GPTQ checkpoint_format is {version!r}; this reader knows {known}")
    rules = [] if config.get("lm_head") else [LayerRule(match_exactly(OUTPUT_LAYER), None)]
    dynamic = config.get("dynamic") or {}
    if not isinstance(dynamic, Mapping):
        raise InputError(f"quantization_config of a GPTQ checkpoint: dynamic is {dynamic!r}")
    for pattern, changes in dynamic.items():
        stored = None
        if not pattern.startswith(LEAVE):
            stored = StoredLayer(FORMATS[version], _parse_scheme({**config, **(changes or {})}))
        regex = compile_pattern(pattern.removeprefix(LEAVE).removeprefix(CHANGE))
        rules.append(LayerRule(regex, stored))
    base = StoredLayer(FORMATS[version], _parse_scheme(config))
    return StoredQuantization("gptq", base, tuple(rules))


def _scheme_keys(scheme: QuantScheme) -> dict[str, Any]:
    # With static groups g_idx is in order, and that is all that a reader wants to know.
    keys = ("bits", "group_size", "sym", "desc_act")
    values = {**asdict(scheme), "desc_act": scheme.desc_act and not scheme.static_groups}
    return {key: values[key] for key in keys}


def _parse_scheme(config: Mapping[str, Any]) -> QuantScheme:
    try:
        return QuantScheme(
            bits=config["bits"],
            group_size=config["group_size"],
            sym=config.get("sym", True),
            desc_act=config.get("desc_act") or False,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"quantization_config of a GPTQ checkpoint: {error}") from None


def _describe_exceptions(plan: QuantPlan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields `dynamic` entries: one pattern for the layers of one kind and one scheme.

    Blocks of a kind are alternatives in one pattern, and so are experts that are changed in the
    same blocks.
    """
    by_layer: dict[tuple[str, QuantScheme | None], list[str]] = {}
    for name, scheme in _fuse(plan).items():
        layer, block = _cut_number(BLOCK_NUMBER, name, BLOCK_MARK)
        by_layer.setdefault((layer, scheme), []).append(block)
    by_kind: dict[tuple[str, QuantScheme | None, tuple[str, ...]], list[str]] = {}
    for (layer, scheme), blocks in by_layer.items():
        kind, expert = _cut_number(EXPERT_NUMBER, layer, EXPERT_MARK)
        by_kind.setdefault((kind, scheme, tuple(blocks)), []).append(expert)
    base = _scheme_keys(plan.base)
    for (kind, scheme, found), experts in by_kind.items():
        pattern = re.escape(kind) + "$"
        pattern = pattern.replace(BLOCK_MARK, _any_of(found)).replace(EXPERT_MARK, _any_of(experts))
        if scheme is None:
            yield LEAVE + pattern, {}
        else:
            keys = _scheme_keys(scheme)
            yield CHANGE + pattern, {k: v for k, v in keys.items() if v != base[k]}


def _cut_number(pattern: re.Pattern[str], name: str, mark: str) -> tuple[str, str]:
    """Puts a mark in the place of a number; returns both, the number empty where there is none."""
    match = pattern.search(name)
    if match is None:
        return name, ""
    return f"{name[: match.start(1)]}{mark}{name[match.end(1) :]}", match[1]


def _any_of(numbers: Sequence[str]) -> str:
    return f"(?:{'|'.join(numbers)})"


def _fuse(plan: QuantPlan) -> dict[str, QuantScheme | None]:
    """Adds the fused name after layers that servers fuse, where they all have one scheme."""
    exceptions = dict(plan.exceptions())
    fused = dict(exceptions)
    for stage in DECODER_STAGES:
        first, *others = stage.layers
        for name, scheme in exceptions.items():
            prefix = name.removesuffix(first)
            if stage.name not in FUSED_NAMES or prefix == name:
                continue
            missing = object()
            if all(exceptions.get(prefix + other, missing) == scheme for other in others):
                fused[prefix + FUSED_NAMES[stage.name]] = scheme
    return fused | _fuse_experts(plan)


def _fuse_experts(plan: QuantPlan) -> dict[str, QuantScheme | None]:
    """Names mixtures whose experts all have one scheme that is not the base."""
    schemes: dict[str, set[QuantScheme | None]] = {}
    for name, scheme in plan.schemes.items():
        mixture = find_mixture(name)
        if mixture is not None:
            schemes.setdefault(mixture, set()).add(scheme)
    return {
        name: next(iter(found))
        for name, found in schemes.items()
        if len(found) == 1 and found != {plan.base}
    }
