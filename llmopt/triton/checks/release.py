"""A repository against the server's release: Python, onnxruntime, TensorRT, numpy."""

import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from llmopt.artifacts.triton_description import (
    REQUIREMENTS_NAME,
    TRITON_DESCRIPTION_NAME,
    TritonDescription,
)
from llmopt.triton.checks.python_source import read_python_source
from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import Repository, ServedModel
from llmopt.triton.releases import TritonRelease, find_release, list_releases

# Up to this release the python backend breaks with numpy 2: strings fail, integers come empty.
LAST_NUMPY_1 = "24.11"
NUMPY_1_PINS = ("<2", "==1", "~=1")
PROVIDED = {"numpy", "triton_python_backend_utils"}


def get_release(description: TritonDescription | None) -> TritonRelease | None:
    """Returns the release that a repository is for; None where it is not said, or not known."""
    if description is None:
        return None
    try:
        return find_release(description.triton_release)
    except ValueError:
        return None


def find_python_version(description: TritonDescription | None) -> tuple[int, int]:
    """Returns the Python of the server's python backend, where not known that of the newest."""
    release = get_release(description) or list_releases()[-1]
    major, minor = release.python.split(".")
    return int(major), int(minor)


def find_release_faults(repository: Repository) -> Iterator[Finding]:
    """Judges the release that triton.json names."""
    description = repository.description
    if description is None:
        yield Unchecked(
            f"versions of Python, onnxruntime and TensorRT: no {TRITON_DESCRIPTION_NAME} names "
            "the server's release"
        )
        return
    try:
        find_release(description.triton_release)
    except ValueError as error:
        yield Fault(
            "", TRITON_DESCRIPTION_NAME, "triton_release", f"is refused ({error})",
            "a release of the table is allowed", "name one, such as 24.10",
        )  # fmt: skip


def find_opset_faults(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges an ONNX graph's operators by the onnxruntime of the release."""
    release = get_release(repository.description)
    if release is None:
        return
    for version, folder in model.served_versions.items():
        path = folder / model.model_file
        opset = _read_opset(path)
        if opset is not None and opset > release.onnx_opset:
            yield model.fault(
                "opset_import",
                f"is {opset}",
                f"onnxruntime {release.onnxruntime} of release {release.release} takes up to "
                f"{release.onnx_opset}",
                f"export with opset {release.onnx_opset}, or serve with a later release",
                f"{version}/{model.model_file}",
            )


def _read_opset(path: Path) -> int | None:
    try:
        return find_opset(onnx.load(str(path), load_external_data=False))
    except (OSError, DecodeError):
        return None


def find_opset(proto: onnx.ModelProto) -> int:
    """Returns the version of ONNX's own operators that a graph uses."""
    return next((int(o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)


def find_tensorrt_version_faults(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges an engine's TensorRT by that of the release: an engine loads in no other."""
    description, release = repository.description, get_release(repository.description)
    if description is None or description.engine is None or release is None:
        return
    version = description.engine.tensorrt_version
    if release.tensorrt is None:
        yield Unchecked(f"{model.name}: the TensorRT of release {release.release} (not known)")
    elif version.split(".")[:2] != release.tensorrt.split(".")[:2]:
        yield Fault(
            model.name,
            TRITON_DESCRIPTION_NAME,
            "engine.tensorrt_version",
            f"is {version}",
            f"release {release.release} has TensorRT {release.tensorrt}, which loads engines of "
            "its own version",
            "build the engine with that one, or serve with the release that has this one",
        )


def find_requirement_faults(repository: Repository) -> Iterator[Finding]:
    """Judges requirements.txt: numpy's version, and what the python models import."""
    path = repository.folder / REQUIREMENTS_NAME
    release = get_release(repository.description)
    python_models = [m for m in repository.models.values() if m.backend == "python"]
    if release is None or not path.is_file() or not python_models:
        return
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    by_name = {_read_name(line): line for line in lines if line}
    pin = by_name.get("numpy", "")
    old = release.release <= LAST_NUMPY_1
    runs_python = any(model.backend == "python" for model in repository.models.values())
    if old and runs_python and not any(part in pin.replace(" ", "") for part in NUMPY_1_PINS):
        yield Fault(
            "",
            REQUIREMENTS_NAME,
            "numpy",
            f'is "{pin}"' if pin else "is not there",
            f"the python backend of {release.release} breaks with numpy 2: strings fail, integers "
            "come out empty",
            'write "numpy>=1.26,<2"',
        )
    for model in python_models:
        yield from _find_import_faults(repository, model, set(by_name))


def _read_name(line: str) -> str:
    """Returns the normalised name that a requirement begins with."""
    end = next((i for i, char in enumerate(line) if not (char.isalnum() or char in "-_.")), None)
    return line[:end].lower().replace("_", "-").replace(".", "-")


def _provides(required: set[str], name: str) -> bool:
    """Tells whether a package is required, in whichever build: onnxruntime-gpu is onnxruntime."""
    return any(each == name or each.startswith(f"{name}-") for each in required)


def _find_import_faults(
    repository: Repository, model: ServedModel, required: set[str]
) -> Iterator[Fault]:
    python = find_python_version(repository.description)
    for version, folder in model.served_versions.items():
        for file, line, module in read_python_source(folder, python).list_imports():
            known = module in PROVIDED or module in sys.stdlib_module_names
            if not known and not _provides(required, module.lower().replace("_", "-")):
                yield model.fault(
                    f"line {line}",
                    f"imports {module}",
                    f"packages of {REQUIREMENTS_NAME} are allowed: {', '.join(sorted(required))}",
                    f"add it to {REQUIREMENTS_NAME}",
                    f"{version}/{file}",
                )
