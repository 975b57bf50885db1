"""Linear layers that servers load as one, and that so must be stored alike; no torch.

Source: vllm-project/vllm, `packed_modules_mapping` of its Llama and Qwen models, and its
FusedMoE layer for experts.
"""

from collections.abc import Iterable

from llmopt.checkpoint.experts_config import find_mixture
from llmopt.checkpoint.model_config import DECODER_STAGES

FUSED_STAGES = tuple(stage.layers for stage in DECODER_STAGES if len(stage.layers) > 1)


def group_fused(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups full layer names: those that are loaded as one stand together, in their order."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_name_whole(name), []).append(name)
    return [tuple(members) for members in groups.values()]


def _name_whole(name: str) -> str:
    mixture = find_mixture(name)
    if mixture is not None:
        return mixture  # its experts are one kernel's operands
    for layers in FUSED_STAGES:
        for layer in layers:
            if name.endswith("." + layer):
                return name.removesuffix(layer) + layers[0]
    return name
