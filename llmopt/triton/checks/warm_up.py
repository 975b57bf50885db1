"""Warm-up samples: their batch, inputs and data files."""

import math
from collections.abc import Iterator
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from llmopt.triton.checks.config_fields import ITEM_BYTES
from llmopt.triton.checks.report import Fault, Finding
from llmopt.triton.checks.repository import Repository, ServedModel

WARM_UP_FOLDER = "warmup"


def find_warm_up_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges warm-up samples: their batch, inputs and data files."""
    limit = model.config.max_batch_size
    for sample in model.config.model_warmup:
        field = f'model_warmup "{sample.name}"'
        if not sample.name:
            yield model.fault("model_warmup.name", "is not set", "each has one", "name it")
        if limit and not 1 <= sample.batch_size <= limit:
            yield model.fault(
                f"{field}.batch_size",
                f"is {sample.batch_size}",
                f"1 to max_batch_size {limit} is allowed",
                "set it",
            )
        yield from _find_sample_faults(model, field, sample)


def _find_sample_faults(model: ServedModel, field: str, sample: pb.ModelWarmup) -> Iterator[Fault]:
    declared = {tensor.name: tensor for tensor in model.config.input}
    needed = [tensor.name for tensor in model.config.input if not tensor.optional]
    missing = [name for name in needed if name not in sample.inputs]
    if missing:
        yield model.fault(
            f"{field}.inputs",
            f'lacks "{missing[0]}"',
            f"the model's inputs {', '.join(needed)} are needed",
            "add it",
        )
    for name, given in sorted(sample.inputs.items()):
        if name not in declared:
            yield model.fault(
                f"{field}.inputs",
                f'names "{name}"',
                f"the model's inputs {', '.join(declared)} are allowed",
                "correct the name",
            )
            continue
        yield from _find_value_faults(model, f'{field}.inputs "{name}"', declared[name], given)


def _find_value_faults(
    model: ServedModel, field: str, declared: pb.ModelInput, given: pb.ModelWarmup.Input
) -> Iterator[Fault]:
    if given.data_type != declared.data_type:
        yield model.fault(
            f"{field}.data_type",
            f"is {pb.DataType.Name(given.data_type)}",
            f"the input's {pb.DataType.Name(declared.data_type)} is allowed",
            "correct it",
        )
    fits = len(given.dims) == len(declared.dims) and all(
        size > 0 and limit in (-1, size)
        for size, limit in zip(given.dims, declared.dims, strict=True)
    )
    if not fits:
        yield model.fault(
            f"{field}.dims",
            f"is {list(given.dims)}",
            f"sizes that the input's {list(declared.dims)} takes are allowed, without the batch",
            "write sizes of 1 or more",
        )
    source = given.WhichOneof("input_data_type")
    if source is None or (source == "input_data_file" and not given.input_data_file):
        yield model.fault(
            field,
            "has no data",
            "zero_data, random_data or input_data_file is needed",
            "choose one",
        )
    if given.input_data_file:
        yield from _find_data_file_faults(model, field, given)


def _find_data_file_faults(
    model: ServedModel, field: str, given: pb.ModelWarmup.Input
) -> Iterator[Fault]:
    path = model.folder / WARM_UP_FOLDER / given.input_data_file
    if not path.is_file():
        yield model.fault(
            f"{field}.input_data_file",
            f'is "{given.input_data_file}"',
            f"a file in {WARM_UP_FOLDER}/ is allowed",
            "put it there",
        )
    elif given.data_type == pb.TYPE_STRING and _count_texts(path) != math.prod(given.dims):
        yield model.fault(
            f"{field}.input_data_file",
            f'is "{given.input_data_file}" of another form',
            f"{math.prod(given.dims)} texts are allowed, each after its length in 4 bytes, the "
            "lowest first",
            "write it so",
        )
    elif given.data_type in ITEM_BYTES and given.dims and min(given.dims) > 0:
        wanted = math.prod(given.dims) * ITEM_BYTES[given.data_type]
        size = path.stat().st_size
        if size != wanted:
            yield model.fault(
                f"{field}.input_data_file",
                f'is "{given.input_data_file}" of {size} bytes',
                f"{wanted} bytes, one row of dims {list(given.dims)}, are allowed",
                "write the raw values anew",
            )


def _count_texts(path: Path) -> int | None:
    """Counts the texts of a data file; None where lengths and bytes do not match."""
    data, place, count = path.read_bytes(), 0, 0
    while place + 4 <= len(data):
        place += 4 + int.from_bytes(data[place : place + 4], "little")
        count += 1
    return count if place == len(data) else None
