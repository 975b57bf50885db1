"""Inputs and outputs of an ONNX graph, in the terms that descriptions have; imports onnx."""

from collections.abc import Iterable

import onnx

from llmopt.artifacts.tensor_spec import FoundTensor

DTYPES = {
    "FLOAT": "float32", "FLOAT16": "float16", "BFLOAT16": "bfloat16", "INT64": "int64",
    "INT32": "int32",
}  # fmt: skip


def list_inputs(graph: onnx.GraphProto) -> list[FoundTensor]:
    """Describes what a graph takes; weights may stand among its inputs too, and are left out."""
    weights = {tensor.name for tensor in graph.initializer}
    return _describe(value for value in graph.input if value.name not in weights)


def list_outputs(graph: onnx.GraphProto) -> list[FoundTensor]:
    """Describes what a graph gives."""
    return _describe(graph.output)


def _describe(values: Iterable[onnx.ValueInfoProto]) -> list[FoundTensor]:
    found = []
    for value in values:
        tensor = value.type.tensor_type
        name = onnx.TensorProto.DataType.Name(tensor.elem_type)
        shape = tuple(dim.dim_value or -1 for dim in tensor.shape.dim)
        found.append(FoundTensor(value.name, DTYPES.get(name, name), shape))
    return found
