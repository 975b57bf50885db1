"""Which tensors of a decoder are weights of linear layers, by their names alone; no torch.

Names hold for every supported family, and for the experts of Mixtral (`block_sparse_moe.experts`)
and Qwen-MoE (`mlp.experts`, `mlp.shared_expert`). Routers (`gate`, `shared_expert_gate`) are none:
every format keeps them, since a wrong choice of an expert costs more than their bytes.
"""

import re
from collections.abc import Iterable, Sequence

from llmopt.checkpoint.experts_config import find_mixture
from llmopt.checkpoint.fused_layers import group_fused
from llmopt.checkpoint.layer_patterns import REGEX, compile_parts
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, OUTPUT_WEIGHT
from llmopt.checkpoint.safetensors_header import TensorEntry
from llmopt.errors import InputError

LINEAR_WEIGHT = re.compile(
    r"model\.layers\.\d+\.("
    r"self_attn\.[qkvo]_proj"
    r"|mlp\.(experts\.\d+\.|shared_expert\.)?(gate|up|down)_proj"
    r"|block_sparse_moe\.experts\.\d+\.w[123]"
    r")\.weight"
)


def is_linear_weight(name: str) -> bool:
    """Tells whether a tensor is the weight of a decoder block's linear layer, or of the head."""
    return name == OUTPUT_WEIGHT or LINEAR_WEIGHT.fullmatch(name) is not None


def select_linear_weights(tensors: Iterable[str], skip: Sequence[str]) -> frozenset[str]:
    """Returns the names of the weights that are to be quantised.

    Args:
        tensors: All tensor names of a checkpoint.
        skip: Patterns of modules that stay as they are (layer_patterns.compile_parts).

    Raises:
        InputError: A pattern names no linear layer (but `lm_head`, which tied models lack), or
            nothing is left to quantise.
    """
    modules = {name.removesuffix(".weight") for name in tensors if is_linear_weight(name)}
    kept: set[str] = set()
    for pattern in skip:
        compiled = compile_parts(pattern)
        found = {module for module in modules if compiled.fullmatch(module)}
        if not found and pattern != OUTPUT_LAYER:
            raise InputError(
                f"skip: {pattern!r} names no linear layer of the model",
                remedy=f"name layers such as {min(modules, default='model.layers.0')}, or parts of "
                f"such names, with *, or {REGEX} and a regular expression of the whole name",
            )
        kept |= found
    if not modules - kept:
        raise InputError(f"skip: {', '.join(skip)} leaves no linear layer to quantise")
    return frozenset(f"{module}.weight" for module in modules - kept)


def list_kept_linears(tensors: dict[str, TensorEntry], rounded: frozenset[str]) -> list[str]:
    """Lists the modules that a loader may take for linear layers, but that are not quantised.

    That is every matrix that is no embedding: layers that were skipped, and routers.
    """
    matrices = {
        name.removesuffix(".weight")
        for name, entry in tensors.items()
        if name.endswith(".weight") and len(entry.shape) == 2 and "embed" not in name
    }
    kept = matrices - {name.removesuffix(".weight") for name in rounded}
    return sorted(kept - {OUTPUT_LAYER})


def find_split_layers(rounded: frozenset[str], tensors: Iterable[str]) -> list[str]:
    """Lists layers that servers load as one, of which only some are quantised; one of each.

    Source: vllm-project/vllm, layers/quantization/compressed_tensors/utils.py, should_ignore_layer
    ("all shards of a fused layer" must be ignored, or none).
    """
    modules = sorted(name.removesuffix(".weight") for name in tensors if is_linear_weight(name))
    groups = group_fused(modules)
    return [g[0] for g in groups if len({f"{module}.weight" in rounded for module in g}) > 1]


def is_expert(name: str) -> bool:
    """Tells whether a tensor belongs to one of a mixture's experts."""
    return find_mixture(name) is not None
