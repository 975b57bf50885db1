"""What stands beside a TensorRT engine: all that loading or serving it needs to know."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from llmopt.artifacts.files import write_text_atomically
from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.errors import InputError

ENGINE_DESCRIPTION_NAME = "engine.json"
ENGINE_NAME = "model.engine"
BackendName = Literal["tensorrt_rtx", "tensorrt"]


class EngineSettings(BaseModel):
    """How an engine is built.

    Attributes:
        workspace_bytes: Most scratch memory that a kernel may ask for; None leaves TensorRT's.
        compute_capabilities: GPUs that it is for, such as `8.9`; empty leaves the backend's choice.
        weight_streaming: Whether weights may stay in the host's memory.
        tf32: Whether float32 products may take TF32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    workspace_bytes: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    weight_streaming: bool = False
    tf32: bool = True


class EngineDescription(BaseModel):
    """The contents of `engine.json`.

    Attributes:
        backend: Which TensorRT made it; the other one does not load it.
        tensorrt_version: It loads in this version.
        model: The exported model that it was built from.
        profiles: In the engine's order.
        onnx_sha256: Of the graph's file; `weights_sha256` of the weights beside it.
        engine_sha256: Of the engine.
        warnings: What the builder said that its user should know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    schema_version: Literal[1] = 1
    backend: BackendName
    tensorrt_version: str
    model: OnnxDescription
    profiles: tuple[OptimizationProfile, ...]
    settings: EngineSettings
    onnx_sha256: str
    weights_sha256: str | None
    engine_sha256: str
    warnings: tuple[str, ...] = ()

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
    try:
        return EngineDescription.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no {ENGINE_DESCRIPTION_NAME}",
            remedy="build the engine with llmopt build-trt",
        ) from None
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a description of llmopt: {error}") from None
