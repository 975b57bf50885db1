"""An engine that another machine is to build: all that it is to be built of, sealed by digests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from llmopt.artifacts.engine_settings import BackendName, EngineSettings
from llmopt.artifacts.files import write_text_atomically
from llmopt.artifacts.json_model import read_json_model
from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.onnx_digests import find_other_files
from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.errors import InputError

DEFERRED_BUILD_NAME = "deferred-build.json"


class DeferredBuild(BaseModel):
    """The contents of `deferred-build.json`.

    Attributes:
        backends: Any one of these is to build it.
        tensorrt_version: What that one's version must begin with; None leaves it open.
        compute_capabilities: Of the GPUs that the engine is for; empty: of the one that it is
            built on, or all that the backend builds for.
        needs_gpu: Whether a GPU must be there to build it, whichever of the backends does.
        onnx_sha256: Of the graph's file; `weights_sha256` of the weights beside it.
        onnx_bytes: Size of both.
        reason: Why it was not built where this was written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_version: Literal[1] = 1
    backends: tuple[BackendName, ...]
    tensorrt_version: str | None
    compute_capabilities: tuple[str, ...]
    needs_gpu: bool
    model: OnnxDescription
    profiles: tuple[OptimizationProfile, ...]
    settings: EngineSettings
    onnx_sha256: str
    weights_sha256: str | None
    onnx_bytes: int
    reason: str

    @property
    def requirement(self) -> str:
        """What a machine needs to finish it, in words."""
        version = "" if self.tensorrt_version is None else f" {self.tensorrt_version}"
        gpus = ", ".join(self.compute_capabilities)
        of = f" of compute capability {gpus}" if gpus else ""
        backends = " or ".join(self.backends) + version
        return f"{backends} on a machine with a GPU{of}" if self.needs_gpu else backends

    def find_other_files(self, model: Path) -> Iterator[str]:
        """Yields the files of an exported model that are not those that were sealed."""
        digests = (self.onnx_sha256, self.weights_sha256)
        return find_other_files(model, digests, "that was sealed for this build")

    def write(self, folder: Path) -> None:
        """Writes `deferred-build.json` into a folder."""
        write_text_atomically(folder / DEFERRED_BUILD_NAME, self.model_dump_json(indent=1) + "\n")


def read_deferred_build(folder: Path) -> DeferredBuild:
    """Reads a deferred build.

    Raises:
        InputError: There is none, or it is not one that this version can read.
    """
    path = folder / DEFERRED_BUILD_NAME
    what, remedy = "a deferred build", "copy it again, or defer the build anew: --force the step"
    try:
        return read_json_model(path, DeferredBuild, what, remedy)
    except FileNotFoundError:
        raise InputError(f"{folder} holds no {DEFERRED_BUILD_NAME}") from None
