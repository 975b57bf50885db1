"""Whether a planned artifact could be served as asked, from config.json's shapes alone.

Each rule is a small function that names its source (llmopt/serving/*_rules.py);
docs/serving-preflight.md lists them all.
"""

from collections.abc import Mapping

from llmopt.errors import IncompatibleError
from llmopt.serving.export_rules import ONNX_RULES, TENSORRT_RULES
from llmopt.serving.rule import Rule, rule_name
from llmopt.serving.served_weights import ServedWeights
from llmopt.serving.target import Target
from llmopt.serving.vllm_gpu_rules import GPU_RULES
from llmopt.serving.vllm_layer_rules import LAYER_RULES
from llmopt.serving.vllm_memory_rule import memory
from llmopt.serving.vllm_scheme_rules import SCHEME_RULES
from llmopt.serving.vllm_shape_rules import SHAPE_RULES, context_length

MAX_NAMED = 3  # layers or blocks by name; more are counted
RULES: Mapping[str, tuple[Rule, ...]] = {
    "vllm": (*SCHEME_RULES, *LAYER_RULES, *GPU_RULES, *SHAPE_RULES, memory),
    "onnxruntime": (*ONNX_RULES, context_length),
    "tensorrt": (*TENSORRT_RULES, context_length),
}


def check_servable(weights: ServedWeights, target: Target, *, is_whole: bool = True) -> None:
    """Refuses an artifact that the target could not load.

    Args:
        weights: What would have to be loaded.
        target: What would load it.
        is_whole: Whether all layers come to be as described, so that memory can be judged.

    Raises:
        IncompatibleError: Names every rule that is broken, and for each a setting to change.
    """
    places: dict[tuple[str, str], list[str]] = {}
    remedies: dict[str, None] = {}
    for rule in RULES[target.runtime]:
        if rule is memory and not is_whole:
            continue
        for fault in rule(weights, target):
            found = places.setdefault((rule_name(rule), fault.message), [])
            if fault.where is not None and fault.where not in found:
                found.append(fault.where)
            remedies[fault.remedy] = None
    if not places:
        return
    kinds = len({layer.kind for layer in weights.rounded()})
    told = [
        f"{message}{_name_places(found, kinds)} [{rule}]"
        for (rule, message), found in places.items()
    ]
    raise IncompatibleError(
        f"{target.place} could not serve this: {'; '.join(told)}", remedy="; ".join(remedies)
    )


def _name_places(found: list[str], num_kinds: int) -> str:
    if not found:
        return ""
    if len(found) == num_kinds > 1:
        return " (all layers)"
    named = ", ".join(found[:MAX_NAMED])
    more = len(found) - MAX_NAMED
    return f" ({named} and {more} more)" if more > 0 else f" ({named})"
