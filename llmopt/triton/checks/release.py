"""A repository against the server's release: Python, onnxruntime, TensorRT."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from llmopt.artifacts.triton_description import TRITON_DESCRIPTION_NAME, TritonDescription
from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import Repository, ServedModel
from llmopt.triton.releases import TritonRelease, find_release, list_releases


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
