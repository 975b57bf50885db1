"""What is checked of an ONNX file before a TensorRT parser sees it.

The parser takes a text file for a model without inputs, and dies of some foreign operators.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from llmopt.artifacts.onnx_description import DESCRIPTION_NAME, EXPORT_REMEDY, OnnxDescription
from llmopt.artifacts.onnx_graph import list_inputs, list_outputs
from llmopt.artifacts.tensor_spec import describe_differences
from llmopt.errors import IncompatibleError, InputError

STANDARD_DOMAINS = ("", "ai.onnx")
UNSIGNED_NARROW = {TensorProto.UINT4: "uint4", TensorProto.UINT2: "uint2"}
ZERO_POINT_INPUT = 2  # of DequantizeLinear and QuantizeLinear
QUANTIZERS = ("DequantizeLinear", "QuantizeLinear")


@dataclass(frozen=True)
class OnnxFile:
    """A graph that was read without its weights, and how large it is with them."""

    path: Path
    model: onnx.ModelProto
    num_bytes: int


def open_onnx(path: Path) -> OnnxFile:
    """Reads a graph and sees to it that its weights are there.

    Raises:
        InputError: It is no ONNX model, has no inputs or outputs, or its external data is
            missing or too short.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist", remedy=EXPORT_REMEDY) from None
    except (DecodeError, ValueError, OSError) as error:
        raise InputError(
            f"{path} is no ONNX model, or a truncated one ({error})",
            remedy=EXPORT_REMEDY,
        ) from None
    graph = model.graph
    if not graph.node or not graph.input or not graph.output:
        raise InputError(
            f"{path} is no ONNX model: {len(graph.input)} inputs, {len(graph.output)} outputs, "
            f"{len(graph.node)} nodes",
            remedy="export it with llmopt export-onnx",
        )
    external = dict(_measure_external(path, model))
    return OnnxFile(path, model, path.stat().st_size + sum(external.values()))


def _measure_external(path: Path, model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Yields the files beside the graph with their sizes, each long enough."""
    needed: dict[str, tuple[int, str]] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
        location = entries.get("location", "")
        needed[location] = max(needed.get(location, (0, "")), (end, tensor.name))
    for location, (end, tensor_name) in needed.items():
        file = path.parent / location
        if not file.is_file():
            raise InputError(
                f"{path}: its weights file {location} is missing",
                remedy=f"put {location} beside {path.name}",
            )
        size = file.stat().st_size
        if size < end:
            raise InputError(
                f"{file} is truncated: {size:,} bytes, but tensor {tensor_name} ends at {end:,}",
                remedy=EXPORT_REMEDY,
            )
        yield location, size


def check_signature(file: OnnxFile, description: OnnxDescription) -> None:
    """Holds the graph's inputs and outputs against `onnx.json`, which profiles are read by.

    Raises:
        InputError: Names all that differ.
    """
    graph = file.model.graph
    differences = [
        *describe_differences("input", description.inputs, list_inputs(graph)),
        *describe_differences("output", description.outputs, list_outputs(graph)),
    ]
    if differences:
        raise InputError(
            f"{file.path} is not as {DESCRIPTION_NAME} beside it says: {'; '.join(differences)}",
            remedy=EXPORT_REMEDY,
        )


def check_parsable(file: OnnxFile) -> None:
    """Refuses what TensorRT's parser does not take, or dies of.

    Raises:
        IncompatibleError: Names the node or tensor, and the way out.
    """
    nodes = list(_list_nodes(file.model.graph))
    nodes += [node for function in file.model.functions for node in function.node]
    constants = {tensor.name: tensor for tensor in file.model.graph.initializer}
    for node in nodes:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value":
                    constants[node.output[0]] = attribute.t
    for node in nodes:
        _check_domain(file, node)
    for name, tensor in constants.items():
        if tensor.data_type in UNSIGNED_NARROW:
            raise IncompatibleError(
                f"{file.path}: tensor {name} is {UNSIGNED_NARROW[tensor.data_type]}, which "
                "TensorRT lacks",
                remedy="export with weights: qdq_int4, which writes int4",
            )
    for node in nodes:
        if node.op_type in QUANTIZERS and len(node.input) > ZERO_POINT_INPUT:
            _check_zero_point(file, node, constants.get(node.input[ZERO_POINT_INPUT]))


def _list_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yields the nodes of a graph and of the branches and loops in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _list_nodes(inner)


def _check_domain(file: OnnxFile, node: onnx.NodeProto) -> None:
    if node.domain not in STANDARD_DOMAINS:
        raise IncompatibleError(
            f"{file.path}: node {node.name or node.op_type} is {node.domain}::{node.op_type}; "
            "TensorRT takes operators of the standard domain alone",
            remedy="export with weights: qdq_int4"
            if node.op_type == "MatMulNBits"
            else "export the model with llmopt export-onnx",
        )


def _check_zero_point(file: OnnxFile, node: onnx.NodeProto, zero: TensorProto | None) -> None:
    if zero is not None and not _read_values(file, zero).astype("float64").any():
        return
    raise IncompatibleError(
        f"{file.path}: node {node.name or node.op_type} has a zero point "
        f"({node.input[ZERO_POINT_INPUT]}) that is not "
        f"{'known before it runs' if zero is None else '0'}, which TensorRT refuses",
        remedy="export with weights: qdq_int4, which writes an asymmetric grid's offsets as a "
        "product of their own",
    )


def _read_values(file: OnnxFile, tensor: TensorProto) -> NDArray[Any]:
    whole = TensorProto()
    whole.CopyFrom(tensor)
    if tensor.data_location == TensorProto.EXTERNAL:
        load_external_data_for_tensor(whole, str(file.path.parent))
    return numpy_helper.to_array(whole)
