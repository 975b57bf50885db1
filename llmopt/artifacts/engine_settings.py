"""How a TensorRT engine is built: what a build, its description and a deferred one have alike."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

BackendName = Literal["tensorrt_rtx", "tensorrt"]


class EngineSettings(BaseModel):
    """How an engine is built.

    Attributes:
        workspace_bytes: Most scratch memory that a kernel may ask for; None leaves TensorRT's.
        compute_capabilities: GPUs that it is for, such as `8.9`; empty takes all that the backend
            builds for together, or the one GPU at hand.
        weight_streaming: Whether weights may stay in the host's memory.
        tf32: Whether float32 products may take TF32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    workspace_bytes: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    weight_streaming: bool = False
    tf32: bool = True
