"""Layers that vLLM loads as one, which must therefore be stored alike."""

from collections.abc import Iterator

from llmopt.serving.rule import Fault, Rule
from llmopt.serving.served_weights import ServedWeights
from llmopt.serving.target import Target


def fused_alike(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """q, k and v, and gate and up, are stored alike: they are loaded as one layer.

    For: vllm

    Source: models/llama.py, packed_modules_mapping; gptq: utils/gptq_utils.py, "Detected some but
    not all shards of ... are quantized"; compressed-tensors: compressed_tensors/utils.py, "Found
    different quantization schemes for the shards"

    Proof: cpu
    """
    del target
    for place, layers in weights.fused():
        if len({(layer.storage, layer.scheme) for layer in layers}) > 1:
            names = ", ".join(layer.part for layer in layers)
            yield Fault(
                f"{names} are loaded as one and must be alike",
                "let an override name all of them or none",
                place,
            )


def experts_alike(weights: ServedWeights, target: Target) -> Iterator[Fault]:
    """All experts of a block, and their projections, are stored alike.

    For: vllm, mixtures of experts

    Source: compressed_tensors/compressed_tensors_moe/compressed_tensors_moe.py: "All MoE
    projections need to have same quantization scheme but found multiple"; auto_gptq.py,
    get_moe_quant_method, asks `dynamic` once, by the name of the whole

    Proof: source
    """
    del target
    kinds: dict[str, set[object]] = {}
    for layer in weights.layers:
        if layer.experts is not None:
            kinds.setdefault(layer.experts, set()).add((layer.storage, layer.scheme))
    for experts, found in kinds.items():
        if len(found) > 1:
            yield Fault(
                "a block's experts are loaded as one and must be alike",
                "let an override name all of a block's experts (*.experts.*) or none",
                experts,
            )


LAYER_RULES: tuple[Rule, ...] = (fused_alike, experts_alike)
