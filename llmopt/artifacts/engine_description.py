"""What stands beside a TensorRT engine: all that loading or serving it needs to know."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from llmopt.artifacts.deferred_build import DEFERRED_BUILD_NAME
from llmopt.artifacts.engine_settings import BackendName, EngineSettings
from llmopt.artifacts.files import write_text_atomically
from llmopt.artifacts.json_model import read_json_model
from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.onnx_digests import find_other_files
from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.errors import InputError

ENGINE_DESCRIPTION_NAME = "engine.json"
ENGINE_NAME = "model.engine"
BUILD_LOG_NAME = "build.log"
TIMING_CACHE_NAME = "timing.cache"


class EngineDescription(BaseModel):
    """The contents of `engine.json`.

    Attributes:
        backend: Which TensorRT made it; the other one does not load it.
        tensorrt_version: It loads in this version.
        compute_capabilities: Of the GPUs that it was built for.
        model: The exported model that it was built from; the engine's inputs and outputs, their
            dtypes and shapes, are the model's, as TensorRT's parser confirmed.
        profiles: In the engine's order.
        onnx_sha256: Of the graph's file; `weights_sha256` of the weights beside it.
        engine_sha256: Of the engine.
        warnings: What the builder said that its user should know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_version: Literal[1] = 1
    backend: BackendName
    tensorrt_version: str
    compute_capabilities: tuple[str, ...]
    model: OnnxDescription
    profiles: tuple[OptimizationProfile, ...]
    settings: EngineSettings
    onnx_sha256: str
    weights_sha256: str | None
    engine_sha256: str
    warnings: tuple[str, ...] = ()

    def find_other_files(self, model: Path) -> Iterator[str]:
        """Yields the files of an exported model that are not those of the engine."""
        digests = (self.onnx_sha256, self.weights_sha256)
        return find_other_files(model, digests, "that the engine was built from")

    def write(self, folder: Path) -> None:
        """Writes `engine.json` into a folder."""
        write_text_atomically(
            folder / ENGINE_DESCRIPTION_NAME, self.model_dump_json(indent=1) + "\n"
        )


def read_engine_description(folder: Path) -> EngineDescription:
    """Reads the description of an engine.

    Raises:
        InputError: There is none, or it is not one that this version can read.
    """
    path = folder / ENGINE_DESCRIPTION_NAME
    what, remedy = "the description of an engine", "copy it again, or build the engine anew"
    try:
        return read_json_model(path, EngineDescription, what, remedy)
    except FileNotFoundError:
        if (folder / DEFERRED_BUILD_NAME).exists():
            raise InputError(
                f"{folder} holds a build that was deferred, and no engine",
                remedy="run its recipe on a machine that has what llmopt verify says it needs",
            ) from None
        raise InputError(
            f"{folder} holds no {ENGINE_DESCRIPTION_NAME}",
            remedy="build the engine with llmopt build-trt",
        ) from None
