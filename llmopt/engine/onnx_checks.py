"""What is checked of an ONNX file before a TensorRT parser sees it.

The parser takes a text file for a model without inputs, and dies of some foreign operators.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import psutil
from google.protobuf.message import DecodeError

from llmopt.artifacts.files import format_bytes
from llmopt.errors import IncompatibleError, InputError, ResourceError

STANDARD_DOMAINS = ("", "ai.onnx")
RAM_FACTOR = 3.5  # of the file, measured with TensorRT-RTX 1.7
UNSIGNED_NARROW = {onnx.TensorProto.UINT4: "uint4", onnx.TensorProto.UINT2: "uint2"}
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
        raise InputError(f"{path} does not exist") from None
    except (DecodeError, ValueError, OSError) as error:
        raise InputError(f"{path} is no ONNX model: {error}") from None
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
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
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
                remedy="copy it again, or export the model anew",
            )
        yield location, size


def check_parsable(file: OnnxFile) -> None:
    """Refuses what TensorRT's parser does not take, or dies of.

    Raises:
        IncompatibleError: Names the node or tensor, and the way out.
    """
    for node in file.model.graph.node:
        if node.domain not in STANDARD_DOMAINS:
            raise IncompatibleError(
                f"{file.path}: node {node.name or node.op_type} is {node.domain}::{node.op_type}; "
                "TensorRT takes operators of the standard domain alone",
                remedy="export with weights: qdq_int4"
                if node.op_type == "MatMulNBits"
                else "export the model with llmopt export-onnx",
            )
    kinds = {tensor.name: tensor for tensor in file.model.graph.initializer}
    for name, tensor in kinds.items():
        if tensor.data_type in UNSIGNED_NARROW:
            raise IncompatibleError(
                f"{file.path}: tensor {name} is {UNSIGNED_NARROW[tensor.data_type]}, which TensorRT "
                "lacks",
                remedy="export with weights: qdq_int4, which writes int4",
            )
    for node in file.model.graph.node:
        if node.op_type in QUANTIZERS and len(node.input) > ZERO_POINT_INPUT:
            zero = kinds.get(node.input[ZERO_POINT_INPUT])
            if zero is None or not _is_zero(zero):
                raise IncompatibleError(
                    f"{file.path}: node {node.name or node.op_type} has a zero point that is not "
                    "0, which TensorRT refuses",
                    remedy="export with weights: qdq_int4, which writes an asymmetric grid's "
                    "offsets as a product of their own",
                )


def _is_zero(tensor: onnx.TensorProto) -> bool:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False  # not read here: no exporter writes zeros there
    return not onnx.numpy_helper.to_array(tensor).astype("float64").any()


def check_memory(file: OnnxFile) -> None:
    """Refuses to begin a build that the machine's memory would end.

    Raises:
        ResourceError: Names what is needed and what is free.
    """
    needed, free = math.ceil(RAM_FACTOR * file.num_bytes), psutil.virtual_memory().available
    if needed > free:
        raise ResourceError(
            f"building from {file.path} takes about {format_bytes(needed)} of memory "
            f"({RAM_FACTOR:g} × the model's {format_bytes(file.num_bytes)}); "
            f"{format_bytes(free)} are free",
            remedy="build on a machine with more, or export with weights: qdq_int4",
        )
