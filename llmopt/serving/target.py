"""The recipe's `target`: the runtime, hardware and limits that an artifact is made for."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llmopt.serving.gpus import Gpu, find_gpu


class Target(BaseModel):
    """Where the artifact will be served."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    runtime: Literal["vllm", "onnxruntime", "tensorrt"] = Field(description="The server's engine.")
    device: Literal["cuda", "cpu"] = Field("cuda", description="What it computes on.")
    gpu: str | None = Field(
        None,
        description="The GPU's name, such as rtx4090 or a100-80; decides which kernels there are, "
        "and whether the model fits.",
    )
    tp: int = Field(1, ge=1, description="Tensor-parallel size: GPUs that share one model.")
    max_model_len: int | None = Field(None, ge=1, description="Longest context, in tokens.")
    concurrency: int | None = Field(
        None, ge=1, description="Requests of that length served at once."
    )

    @field_validator("gpu")
    @classmethod
    def _check_gpu(cls, gpu: str | None) -> str | None:
        if gpu is not None:
            find_gpu(gpu)
        return gpu

    @model_validator(mode="after")
    def _check_device(self) -> "Target":
        if self.device == "cpu" and self.gpu is not None:
            raise ValueError(f"gpu is {self.gpu!r}, but device is cpu; leave one of them out")
        return self

    @property
    def known_gpu(self) -> Gpu | None:
        """What is known of the GPU, where one is named."""
        return None if self.gpu is None else find_gpu(self.gpu)

    @property
    def capability(self) -> int | None:
        """The GPU's compute capability times ten, where one is named."""
        return None if self.known_gpu is None else self.known_gpu.capability

    @property
    def place(self) -> str:
        """A few words: what serves, where."""
        engine = {"vllm": "vLLM", "onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}
        return f"{engine[self.runtime]} on {self.gpu or self.device} with tp {self.tp}"
