"""The recipe's `target`: the runtime, hardware and limits that an artifact is made for."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Target(BaseModel):
    """Where the artifact will be served."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    runtime: Literal["vllm", "onnxruntime", "tensorrt"] = Field(description="The server's engine.")
    device: Literal["cuda", "cpu"] = Field("cuda", description="What it computes on.")
    gpu: str | None = Field(None, description="The GPU's name, such as rtx4090 or a100.")
    tp: int = Field(1, ge=1, description="Tensor-parallel size: GPUs that share one model.")
    max_model_len: int | None = Field(None, ge=1, description="Longest context, in tokens.")
    concurrency: int | None = Field(None, ge=1, description="Requests served at once.")
