"""Files that a model's config names or implies: versions, the model itself, labels, warm-up."""

import math
from collections.abc import Iterator
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import Repository, ServedModel, is_version

WARM_UP_FOLDER = "warmup"
MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"
ITEM_BYTES = {
    pb.TYPE_BOOL: 1, pb.TYPE_UINT8: 1, pb.TYPE_UINT16: 2, pb.TYPE_UINT32: 4, pb.TYPE_UINT64: 8,
    pb.TYPE_INT8: 1, pb.TYPE_INT16: 2, pb.TYPE_INT32: 4, pb.TYPE_INT64: 8, pb.TYPE_FP16: 2,
    pb.TYPE_FP32: 4, pb.TYPE_FP64: 8, pb.TYPE_BF16: 2,
}  # fmt: skip


def find_version_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges version folders against each other and the version policy."""
    for path in sorted(path for path in model.folder.iterdir() if path.is_dir()):
        if path.name.isdecimal() and (not is_version(path.name) or int(path.name) == 0):
            yield model.fault(
                "",
                "is no usual version",
                "1, 2, … without leading zeros are allowed",
                "rename the folder",
                file=f"{path.name}/",
            )
    if not model.versions:
        yield model.fault(
            "",
            "holds no version folder",
            "at least one numbered folder is needed",
            "make 1/ with the model's file in it",
            file="",
        )
        return
    policy = model.config.version_policy
    if policy.WhichOneof("policy_choice") == "specific":
        yield from _find_specific_faults(model, list(policy.specific.versions))
    if policy.WhichOneof("policy_choice") == "latest" and policy.latest.num_versions == 0:
        yield model.fault(
            "version_policy.latest.num_versions",
            "is not set, or 0",
            "1 or more is allowed",
            "say how many of the latest versions to serve",
        )


def _find_specific_faults(model: ServedModel, wanted: list[int]) -> Iterator[Fault]:
    present = ", ".join(map(str, model.versions))
    missing = [version for version in wanted if version not in model.versions]
    if missing or not wanted:
        yield model.fault(
            "version_policy.specific.versions",
            f"names {missing[0]}" if missing else "is empty",
            f"the folders {present} are allowed",
            "name versions that are there",
        )


def find_model_file_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges whether each served version holds the model's file."""
    if model.backend == "ensemble":
        yield from _find_placeholder_faults(model)
        return
    if not model.model_file:
        return
    for version, path in model.served_versions.items():
        if not (path / model.model_file).exists():
            named = " (default_model_filename)" if model.config.default_model_filename else ""
            yield model.fault(
                "",
                f"is missing{named}",
                f"backend {model.backend} loads it from there",
                "put it there, or name the file that is there in default_model_filename",
                file=f"{version}/{model.model_file}",
            )
    for capability, name in model.config.cc_model_filenames.items():
        for version, path in model.served_versions.items():
            if not (path / name).exists():
                yield model.fault(
                    "cc_model_filenames",
                    f'names "{name}" for capability {capability}',
                    f"files of {version}/ are allowed",
                    "put it there, or remove the entry",
                )


def _find_placeholder_faults(model: ServedModel) -> Iterator[Fault]:
    for version, path in model.versions.items():
        if not any(path.iterdir()):
            yield model.fault(
                "",
                "is empty",
                "git and object stores drop empty folders, and then the ensemble has no version",
                "put a file into it, such as .keep",
                file=f"{version}/",
            )


def find_label_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges label files of outputs."""
    for output in model.config.output:
        name = output.label_filename
        if not name:
            continue
        field = f'output "{output.name}".label_filename'
        path = model.folder / name
        if not path.is_file():
            yield model.fault(
                field,
                f'is "{name}"',
                "a file in the model's folder is allowed",
                "put it there, or remove the field",
            )
            continue
        num_labels = len(path.read_text(encoding="utf-8", errors="replace").splitlines())
        if output.dims and min(output.dims) > 0 and math.prod(output.dims) != num_labels:
            yield model.fault(
                field,
                f'is "{name}" of {num_labels} lines',
                f"one line for each of the {math.prod(output.dims)} values is allowed",
                "complete it, or shorten it",
            )


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


def _find_sample_faults(
    model: ServedModel, field: str, sample: pb.ModelWarmup
) -> Iterator[Fault]:
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
    if given.WhichOneof("input_data_type") is None:
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


def find_environment_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges the packed environment that a python model names."""
    value = model.config.parameters["EXECUTION_ENV_PATH"].string_value if (
        "EXECUTION_ENV_PATH" in model.config.parameters
    ) else ""
    field = "parameters.EXECUTION_ENV_PATH"
    if not value:
        return
    if model.backend != "python":
        yield model.fault(
            field, "is set", f"backend {model.backend} does not read it", "remove it"
        )
    elif value.startswith(MODEL_DIRECTORY):
        path = model.folder / value.removeprefix(MODEL_DIRECTORY).lstrip("/")
        if not path.exists():
            yield model.fault(
                field,
                f'is "{value}"',
                "a packed environment in the model's folder is allowed",
                "pack it, or correct the path",
            )
    elif not Path(value).is_absolute():
        yield model.fault(
            field,
            f'is "{value}"',
            f"an absolute path, or one that starts with {MODEL_DIRECTORY}, is allowed",
            "write it so: the server's working folder is not the model's",
        )
    else:
        yield Unchecked(f"{model.name}: environment {value}, a path on the server's machine")
