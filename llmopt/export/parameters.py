"""Fills the parameters of a traced graph, each read when the file is written.

Shapes: O = out_features, I = in_features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from llmopt.artifacts.onnx_description import OnnxWeights
from llmopt.errors import NumericalError
from llmopt.export.graph_edits import add_lazy_initializer, onnx_dtype, replace_node
from llmopt.export.weight_form import (
    IntegerLayer,
    write_dequantized_product,
    write_nbits_product,
)

PRODUCTS = {"qdq_int4": write_dequantized_product, "matmulnbits": write_nbits_product}


@dataclass(frozen=True)
class Parameters:
    """Where the values of a graph come from.

    Attributes:
        read: Reads a tensor by its name in the model of transformers.
        dtype: Of the graph.
        form: How the file holds weights; in `PRODUCTS`, how integer layers are written.
        integers: The integer layers by name; empty where all is floating point.
    """

    read: Callable[[str], Tensor]
    dtype: torch.dtype
    form: OnnxWeights
    integers: Mapping[str, IntegerLayer]


def fill_parameters(
    model: ir.Model, values: Mapping[str, ir.Value], parameters: Parameters
) -> list[str]:
    """Gives each parameter its value, and integer layers the form that is asked for.

    Args:
        model: The traced model.
        values: Its parameters by name.
        parameters: Where values come from.

    Returns:
        The integer layers that the graph holds as integers.
    """
    written = []
    for name, value in values.items():
        layer = parameters.integers.get(name.removesuffix(".weight"))
        if layer is not None and parameters.form in PRODUCTS:
            _write_integers(model.graph, value, layer, parameters)
            written.append(layer.name)
        elif value.uses():
            _write_plain(model.graph, name, value, parameters)
    return written


def _write_integers(
    graph: ir.Graph, value: ir.Value, layer: IntegerLayer, parameters: Parameters
) -> None:
    (transpose,) = value.consumers()
    (product,) = transpose.outputs[0].consumers()
    assert (transpose.op_type, product.op_type) == ("Transpose", "MatMul"), layer.name
    y = PRODUCTS[parameters.form](graph, product, layer, parameters.dtype)
    replace_node(graph, product, y)
    graph.remove(transpose, safe=True)


def _write_plain(graph: ir.Graph, name: str, value: ir.Value, parameters: Parameters) -> None:
    """Writes a parameter; one that is only ever used transposed is stored so."""
    assert value.shape is not None
    shape = value.shape.numpy()
    consumers = value.consumers()
    is_turned = len(consumers) == 1 and _is_turn(consumers[0])

    def read() -> Tensor:
        tensor = _read_finite(name, parameters)
        return tensor.T if is_turned else tensor

    stored = shape[::-1] if is_turned else shape
    new = add_lazy_initializer(graph, name, stored, onnx_dtype(parameters.dtype), read)
    if is_turned:
        (turn,) = consumers
        turn.outputs[0].replace_all_uses_with(new)
        graph.remove(turn, safe=True)
    else:
        value.replace_all_uses_with(new)


def _is_turn(node: ir.Node) -> bool:
    perm = node.attributes.get("perm")
    return node.op_type == "Transpose" and perm is not None and list(perm.as_ints()) == [1, 0]


def _read_finite(name: str, parameters: Parameters) -> Tensor:
    tensor = parameters.read(name).to(parameters.dtype)
    if not bool(torch.isfinite(tensor).all()):
        raise NumericalError(
            f"{name} holds values that {str(parameters.dtype).removeprefix('torch.')} can't",
            remedy="export with dtype: bfloat16 or float32",
        )
    return tensor
