"""How many bytes the linear layers of a plan take in a checkpoint; no torch."""

import math
from collections.abc import Iterator

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint import FLOAT_DTYPES, linear_names
from llmopt.checkpoint.model_config import ModelConfig
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, QuantPlan
from llmopt.checkpoint.stored_quantization import (
    LayerFormat,
    QuantFormat,
    StoredLayer,
    expected_tensors,
)

DTYPE_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "I64": 8}
LAYOUTS: dict[QuantFormat, LayerFormat] = {
    "gptq": "gptq",
    "compressed-tensors": "pack-quantized",
}


def count_layer_bytes(
    scheme: QuantScheme | None, shape_OI: tuple[int, int], quant_format: QuantFormat, dtype: str
) -> int:
    """Counts the bytes of one linear layer's tensors, its bias aside.

    Args:
        scheme: How it is rounded; None leaves it as it is.
        shape_OI: (out_features, in_features).
        quant_format: What it is written as.
        dtype: The model's, as torch names it.
    """
    stored_dtype = next(name for name, torch_name in FLOAT_DTYPES.items() if torch_name == dtype)
    if scheme is None:
        return DTYPE_BYTES[stored_dtype] * math.prod(shape_OI)
    layer = StoredLayer(LAYOUTS[quant_format], scheme)
    tensors = expected_tensors(layer, shape_OI, stored_dtype).values()
    return sum(DTYPE_BYTES[kind] * math.prod(shape or ()) for kind, shape in tensors)


def planned_layers(config: ModelConfig, plan: QuantPlan) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields the layers that a plan decides on: full name and (O, I)."""
    shapes = {**dict(linear_names(config)), OUTPUT_LAYER: config.embedding_shape}
    for name in plan.schemes:
        yield name, shapes[name]


def bits_per_weight(
    config: ModelConfig, plan: QuantPlan, quant_format: QuantFormat, dtype: str
) -> float:
    """Returns the mean bits per weight over a plan's layers: integers, scales and all the rest.

    Layers that are left as they are count with their full width.
    """
    num_bytes = num_weights = 0
    for name, shape_OI in planned_layers(config, plan):
        num_bytes += count_layer_bytes(plan.schemes[name], shape_OI, quant_format, dtype)
        num_weights += math.prod(shape_OI)
    return 8 * num_bytes / num_weights
