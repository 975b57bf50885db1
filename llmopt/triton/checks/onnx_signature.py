"""An ONNX model's inputs and outputs against its config."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2 as pb

from llmopt.triton.checks.config_fields import VARIABLE
from llmopt.triton.checks.report import Fault, Finding
from llmopt.triton.checks.repository import Repository, ServedModel

ONNX_TYPES: dict[int, int] = {
    onnx.TensorProto.FLOAT: pb.TYPE_FP32, onnx.TensorProto.FLOAT16: pb.TYPE_FP16,
    onnx.TensorProto.BFLOAT16: pb.TYPE_BF16, onnx.TensorProto.DOUBLE: pb.TYPE_FP64,
    onnx.TensorProto.INT8: pb.TYPE_INT8, onnx.TensorProto.INT16: pb.TYPE_INT16,
    onnx.TensorProto.INT32: pb.TYPE_INT32, onnx.TensorProto.INT64: pb.TYPE_INT64,
    onnx.TensorProto.UINT8: pb.TYPE_UINT8, onnx.TensorProto.UINT16: pb.TYPE_UINT16,
    onnx.TensorProto.UINT32: pb.TYPE_UINT32, onnx.TensorProto.UINT64: pb.TYPE_UINT64,
    onnx.TensorProto.BOOL: pb.TYPE_BOOL, onnx.TensorProto.STRING: pb.TYPE_STRING,
}  # fmt: skip
INTEGER_PARAMETERS = ("intra_op_thread_count", "inter_op_thread_count")
ACCELERATORS = {
    "gpu_execution_accelerator": ("tensorrt", "cuda"),
    "cpu_execution_accelerator": ("openvino",),
}


def find_onnx_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges the graph of each served version, and the weights beside it."""
    for version, folder in model.served_versions.items():
        path = folder / model.model_file
        file = f"{version}/{model.model_file}"
        if not path.is_file():
            continue
        try:
            proto = onnx.load(str(path), load_external_data=False)
        except DecodeError as error:
            yield model.fault(
                "", f"is no ONNX model ({error})", "a ModelProto is allowed", "export anew", file
            )
            continue
        yield from find_weight_faults(model, folder, file, proto)
        weights = {tensor.name for tensor in proto.graph.initializer}
        inputs = [value for value in proto.graph.input if value.name not in weights]
        yield from _compare(model, "input", inputs)
        yield from _compare(model, "output", proto.graph.output)


def find_weight_faults(
    model: ServedModel, folder: Path, file: str, proto: onnx.ModelProto
) -> Iterator[Fault]:
    """Judges whether the files that a graph keeps its weights in are there, whole."""
    ends: dict[str, int] = {}
    for tensor in proto.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if "location" in entries:
            end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
            ends[entries["location"]] = max(ends.get(entries["location"], 0), end)
    for name, end in sorted(ends.items()):
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size is None or size < end:
            yield model.fault(
                "external data",
                f'"{name}" is missing' if size is None else f'"{name}" has {size} of {end} bytes',
                "the file beside the graph keeps the name that the graph says",
                "copy it there unchanged",
                file,
            )


def _compare(
    model: ServedModel, side: str, values: Sequence[onnx.ValueInfoProto]
) -> Iterator[Fault]:
    graph = {value.name: value.type.tensor_type for value in values}
    tensors = model.config.input if side == "input" else model.config.output
    declared = {tensor.name: tensor for tensor in tensors}
    yield from compare_names(model, side, "graph", list(graph))
    for name, tensor in graph.items():
        if name in declared:
            yield from _compare_tensor(model, f'{side} "{name}"', declared[name], tensor)


def compare_names(
    model: ServedModel, side: str, what: str, names: Sequence[str]
) -> Iterator[Fault]:
    """Yields in what the names of a config differ from those of what is served.

    Args:
        model: Whose config is judged.
        side: "input" or "output"; outputs may be left out.
        what: Is served: "graph" or "engine".
        names: Of its tensors on that side.
    """
    tensors = model.config.input if side == "input" else model.config.output
    declared = [tensor.name for tensor in tensors]
    for name in declared:
        if name not in names:
            yield model.fault(
                f'{side} "{name}"',
                f"names no {side} of the {what}",
                f"{', '.join(names)} are allowed",
                "correct the name",
            )
    for name in names:
        if name not in declared and side == "input":
            yield model.fault(
                side, f'lacks "{name}"', f"the {what} needs each of its inputs", "declare it"
            )


def _compare_tensor(
    model: ServedModel,
    field: str,
    declared: pb.ModelInput | pb.ModelOutput,
    tensor: onnx.TypeProto.Tensor,
) -> Iterator[Fault]:
    found = ONNX_TYPES.get(tensor.elem_type, pb.TYPE_INVALID)
    if declared.data_type != found:
        yield model.fault(
            f"{field}.data_type",
            f"is {pb.DataType.Name(declared.data_type)}",
            f"the graph's {pb.DataType.Name(found)} is allowed",
            "correct it, or export the model in that type",
        )
    shape = [dim.dim_value or VARIABLE for dim in tensor.shape.dim]
    yield from compare_shape(model, field, declared, shape)


def compare_shape(
    model: ServedModel, field: str, declared: pb.ModelInput | pb.ModelOutput, shape: list[int]
) -> Iterator[Fault]:
    """Judges a declared shape by that of a model, whose batch axis is its first.

    An input may be narrower than the model's; an output has to be the model's.
    """
    batched = model.config.max_batch_size > 0
    if batched and (not shape or shape[0] != VARIABLE):
        yield model.fault(
            "max_batch_size",
            f"is {model.config.max_batch_size}",
            f"the model's {field} {shape} has no open batch axis in front, which allows 0",
            "export it with a dynamic batch axis, or write 0 and the whole shape in dims",
        )
        return
    dims = list(declared.reshape.shape if declared.HasField("reshape") else declared.dims)
    whole = [VARIABLE, *dims] if batched else dims
    narrower = isinstance(declared, pb.ModelInput)
    fits = len(whole) == len(shape) and all(
        ours == theirs or (narrower and theirs == VARIABLE)
        for ours, theirs in zip(whole, shape, strict=True)
    )
    if not fits:
        yield model.fault(
            f"{field}.dims",
            f"is {dims}" + (" without the batch axis" if batched else ""),
            f"the model's {shape[1:] if batched else shape} is allowed",
            "correct it",
        )


def find_session_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges what the config says of onnxruntime's session."""
    for name in INTEGER_PARAMETERS:
        value = (
            model.config.parameters[name].string_value if name in model.config.parameters else "0"
        )
        if not value.isdecimal():
            yield model.fault(
                f"parameters.{name}", f'is "{value}"', "a whole number is allowed", "correct it"
            )
    accelerators = model.config.optimization.execution_accelerators
    for field, allowed in ACCELERATORS.items():
        for given in getattr(accelerators, field):
            if given.name not in allowed:
                yield model.fault(
                    f"optimization.execution_accelerators.{field}",
                    f'names "{given.name}"',
                    f"{', '.join(allowed)} are allowed",
                    "correct it",
                )
