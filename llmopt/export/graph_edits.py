"""Small edits of an ONNX graph: lazy initialisers and nodes put before others."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor

Read = Callable[[], Tensor]
CONTRIB_DOMAIN = "com.microsoft"


def add_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Adds a named constant to a graph."""
    value = ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def add_lazy_initializer(
    graph: ir.Graph, name: str, shape: tuple[int, ...], dtype: ir.DataType, read: Read
) -> ir.Value:
    """Adds a constant that is read when it is written to the file, and then let go.

    Args:
        graph: Where to.
        name: Of the constant.
        shape: Of what `read` returns.
        dtype: Of the constant; for INT4 `read` returns int8.
        read: Returns the contents.
    """

    def evaluate() -> ir.TensorProtocol:
        tensor = read().contiguous()
        assert tuple(tensor.shape) == shape, (name, tensor.shape, shape)
        if dtype == ir.DataType.INT4:
            return ir.Tensor(tensor.numpy().astype(dtype.numpy()), dtype=dtype, name=name)
        return TorchTensor(tensor, name=name)

    return add_initializer(
        graph, name, ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(shape), name=name)
    )


def add_integers(graph: ir.Graph, name: str, integers: list[int]) -> ir.Value:
    """Adds a constant list of int64."""
    return add_initializer(graph, name, ir.tensor(np.array(integers, np.int64), name=name))


def insert_node(
    graph: ir.Graph,
    before: ir.Node,
    operator: str,
    inputs: list[ir.Value],
    name: str,
    **attributes: Any,
) -> ir.Value:
    """Puts a node of one output before another; returns the output."""
    domain = CONTRIB_DOMAIN if operator == "MatMulNBits" else ""
    node = ir.node(operator, inputs, attributes=attributes, domain=domain, name=name)
    node.outputs[0].name = name
    graph.insert_before(before, node)
    return node.outputs[0]


def replace_node(graph: ir.Graph, node: ir.Node, by: ir.Value) -> None:
    """Puts a value in the place of a node's only output and removes the node."""
    (old,) = node.outputs
    by.shape, by.type = old.shape, old.type
    old.replace_all_uses_with(by)
    graph.remove(node, safe=True)


def onnx_dtype(dtype: torch.dtype) -> ir.DataType:
    """Returns ONNX's name of a dtype of torch."""
    return ir.tensor_adapters.from_torch_dtype(dtype)
