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
from llmopt.serving.vllm_memory_rule import memory
from llmopt.serving.vllm_scheme_rules import SCHEME_RULES
from llmopt.serving.vllm_shape_rules import SHAPE_RULES, context_length

MAX_SHOWN = 12  # one fault per kind of layer, so that more would be a wall of text
RULES: Mapping[str, tuple[Rule, ...]] = {
    "vllm": (*SCHEME_RULES, *SHAPE_RULES, memory),
    "onnxruntime": (*ONNX_RULES, context_length),
    "tensorrt": (*TENSORRT_RULES, context_length),
}


def check_servable(weights: ServedWeights, target: Target) -> None:
    """Refuses an artifact that the target could not load.

    Raises:
        IncompatibleError: Names every rule that is broken, and for each a setting to change.
    """
    faults: dict[str, str] = {}
    for rule in RULES[target.runtime]:
        for fault in rule(weights, target):
            faults.setdefault(f"{fault.message} [{rule_name(rule)}]", fault.remedy)
    if not faults:
        return
    messages = list(faults)
    shown = "; ".join(messages[:MAX_SHOWN])
    if len(messages) > MAX_SHOWN:
        shown += f"; and {len(messages) - MAX_SHOWN} more"
    raise IncompatibleError(
        f"{target.place} could not serve this: {shown}",
        remedy="; ".join(dict.fromkeys(faults.values())),
    )
