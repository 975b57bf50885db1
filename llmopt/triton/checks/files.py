"""Files that a model's config names or implies: versions, models, labels, environments."""

import math
from collections.abc import Iterator
from pathlib import Path

from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import Repository, ServedModel, is_version

MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"


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
    """Refuses a list without any folder; the server serves what is there of one with some."""
    if any(version in model.versions for version in wanted):
        return
    yield model.fault(
        "version_policy.specific.versions",
        f"names {', '.join(map(str, wanted))}" if wanted else "is empty",
        f"the folders {', '.join(map(str, model.versions))} are allowed",
        "name a version that is there",
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


def find_environment_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges the packed environment that a python model names."""
    value = (
        model.config.parameters["EXECUTION_ENV_PATH"].string_value
        if ("EXECUTION_ENV_PATH" in model.config.parameters)
        else ""
    )
    field = "parameters.EXECUTION_ENV_PATH"
    if not value:
        return
    if model.backend != "python":
        yield model.fault(field, "is set", f"backend {model.backend} does not read it", "remove it")
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
