"""Fields that every model's config.pbtxt has: name, backend, batch size, inputs and outputs."""

import difflib
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import (
    MODEL_FILES,
    OTHER_BACKENDS,
    PLATFORM_BACKENDS,
    Repository,
    ServedModel,
)

VARIABLE = -1
ITEM_BYTES = {
    pb.TYPE_BOOL: 1, pb.TYPE_UINT8: 1, pb.TYPE_UINT16: 2, pb.TYPE_UINT32: 4, pb.TYPE_UINT64: 8,
    pb.TYPE_INT8: 1, pb.TYPE_INT16: 2, pb.TYPE_INT32: 4, pb.TYPE_INT64: 8, pb.TYPE_FP16: 2,
    pb.TYPE_FP32: 4, pb.TYPE_FP64: 8, pb.TYPE_BF16: 2,
}  # fmt: skip


def find_identity_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges name, backend and batch size."""
    config = model.config
    if config.name and config.name != model.name:
        yield model.fault(
            "name",
            f'is "{config.name}"',
            f'the folder\'s name "{model.name}" is allowed',
            "rename one of the two",
        )
    yield from _find_backend_faults(model)
    if config.HasField("ensemble_scheduling") and model.backend not in ("", "ensemble"):
        yield model.fault(
            "ensemble_scheduling",
            "is set",
            f'only platform: "ensemble" takes it, not backend {model.backend}',
            "remove it, or write the platform",
        )
    if config.max_batch_size < 0:
        yield model.fault(
            "max_batch_size",
            f"is {config.max_batch_size}",
            "0 or more is allowed",
            "write 0 for a model without a batch axis, else the largest batch",
        )


def _find_backend_faults(model: ServedModel) -> Iterator[Finding]:
    backend, platform = model.config.backend, model.config.platform
    known = (*MODEL_FILES, *OTHER_BACKENDS)
    if not model.backend:
        yield model.fault(
            "backend", "is not set", "every model needs one", f"name one: {', '.join(MODEL_FILES)}"
        )
    elif platform and PLATFORM_BACKENDS.get(platform) is None and not backend:
        yield model.fault(
            "platform",
            f'is "{platform}"',
            f"{', '.join(PLATFORM_BACKENDS)} are allowed",
            "correct it, or write backend",
        )
    elif platform and backend and PLATFORM_BACKENDS.get(platform) not in (None, backend):
        yield model.fault(
            "platform",
            f'is "{platform}"',
            f'it contradicts backend "{backend}"',
            "remove one of the two",
        )
    elif backend and backend not in known:
        close = difflib.get_close_matches(backend, known, n=1)
        if close:
            yield model.fault(
                "backend", f'is "{backend}"', f"{', '.join(known)} are allowed", f"write {close[0]}"
            )
        else:
            yield Unchecked(f"{model.name}: whether the server has backend {backend}")


def find_tensor_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges each input and output by itself."""
    for side, tensors in (("input", model.config.input), ("output", model.config.output)):
        if not tensors and model.backend == "vllm":
            yield Unchecked(f"{model.name}: its {side}s, which the vllm backend declares itself")
        elif not tensors:
            yield model.fault(
                side,
                "is empty",
                "each tensor has to be declared, or the server guesses (and max_batch_size 0 "
                "becomes 4)",
                f"declare every {side} of the model",
            )
        counts = Counter(tensor.name for tensor in tensors)
        for index, tensor in enumerate(tensors):
            field = f"{side}[{index}]" + (f' "{tensor.name}"' if tensor.name else "")
            if not tensor.name:
                yield model.fault(f"{field}.name", "is not set", "each needs one", "name it")
            elif counts[tensor.name] > 1:
                yield model.fault(
                    field, "is declared twice", f"each {side} has a name of its own", "remove one"
                )
            yield from _find_type_faults(model, field, tensor)
            yield from _find_dims_faults(model, field, tensor)


def _find_type_faults(model: ServedModel, field: str, tensor: Any) -> Iterator[Fault]:
    if tensor.data_type == pb.TYPE_INVALID:
        yield model.fault(
            f"{field}.data_type", "is not set", "TYPE_FP32, TYPE_INT64, … are allowed", "set it"
        )
    if tensor.is_shape_tensor and model.backend != "tensorrt":
        yield model.fault(
            f"{field}.is_shape_tensor",
            "is true",
            f"backend {model.backend} has none",
            "remove it",
        )
    if not isinstance(tensor, pb.ModelInput):
        return
    if tensor.format != pb.ModelInput.FORMAT_NONE and len(tensor.dims) != 3:
        yield model.fault(
            f"{field}.format",
            f"is {pb.ModelInput.Format.Name(tensor.format)} with {len(tensor.dims)} dims",
            "images have 3",
            "remove it, or give the three dims",
        )
    if tensor.optional and model.backend == "ensemble":
        yield model.fault(
            f"{field}.optional",
            "is true",
            "an ensemble needs each of its inputs",
            "remove it",
        )


def _find_dims_faults(model: ServedModel, field: str, tensor: Any) -> Iterator[Fault]:
    dims = list(tensor.dims)
    if not dims:
        yield model.fault(
            f"{field}.dims",
            "is empty",
            "at least one dim is allowed (the batch axis is not among them)",
            "write dims: [ 1 ], with reshape { shape: [ ] } for a tensor of the batch axis alone",
        )
    wrong = [size for size in dims if size < 1 and size != VARIABLE]
    if wrong:
        yield model.fault(
            f"{field}.dims",
            f"is {dims}",
            "1 or more, or -1 for what a request decides, is allowed",
            f"replace {wrong[0]}",
        )
    elif tensor.HasField("reshape"):
        yield from _find_reshape_faults(model, field, dims, list(tensor.reshape.shape))


def _find_reshape_faults(
    model: ServedModel, field: str, dims: list[int], shape: list[int]
) -> Iterator[Fault]:
    known, told = ([size for size in sizes if size != VARIABLE] for sizes in (dims, shape))
    if math.prod(known) == math.prod(told) and dims.count(VARIABLE) == shape.count(VARIABLE):
        return
    yield model.fault(
        f"{field}.reshape",
        f"is {shape}",
        f"as many elements as dims {dims} are allowed",
        "give both the same product and number of -1",
    )
