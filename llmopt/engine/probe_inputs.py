"""Inputs of given sizes, to run an exported model and its engine on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.tensor_spec import PAST, TensorDtype, TensorSpec

NUMPY_DTYPES: Mapping[TensorDtype, str] = {
    "float32": "float32", "float16": "float16", "bfloat16": "uint16",
    "int64": "int64", "int32": "int32",
}  # fmt: skip
CACHE_SCALE = 0.1  # of keys and values


def make_feeds(
    description: OnnxDescription, sizes: Mapping[str, int], seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Makes random tokens after a random cache, all of them real.

    Args:
        description: Names the inputs.
        sizes: Of each dynamic axis.
        seed: The same one gives the same inputs.

    Returns:
        Input → array; bfloat16 as the bits, uint16.
    """
    rng = np.random.default_rng(seed)
    return {spec.name: _make_input(spec, description, sizes, rng) for spec in description.inputs}


def _make_input(
    spec: TensorSpec,
    description: OnnxDescription,
    sizes: Mapping[str, int],
    rng: np.random.Generator,
) -> NDArray[Any]:
    shape = spec.shape_of(sizes)
    if spec.name in ("input_ids", "masked_positions"):
        is_token = spec.name == "input_ids"
        limit = description.vocab_size if is_token else sizes["sequence"]
        return rng.integers(0, limit, shape).astype(spec.dtype)
    if spec.name == "attention_mask":
        return np.ones(shape, spec.dtype)
    if spec.name == "position_ids":
        first = sizes.get(PAST, 0)
        return np.broadcast_to(np.arange(first, first + shape[1], dtype=spec.dtype), shape).copy()
    if spec.dtype in ("int64", "int32"):
        return np.zeros(shape, spec.dtype)
    values = CACHE_SCALE * rng.standard_normal(shape, np.float32)
    if spec.dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)  # the upper half, rounded to zero
    return values.astype(spec.dtype)
