"""What stands beside a Triton model repository: what it was made from and is meant to serve."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from llmopt.artifacts.engine_description import EngineDescription
from llmopt.artifacts.files import write_text_atomically
from llmopt.artifacts.json_model import read_json_model
from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.errors import InputError

TRITON_DESCRIPTION_NAME = "triton.json"
REQUIREMENTS_NAME = "requirements.txt"
RepositoryShape = Literal["generate", "ensemble", "vllm"]
RepositoryTask = Literal["generate", "score", "embed", "fill_mask"]
ModelRole = Literal["generate", "ensemble", "tokenizer", "engine", "postprocessor", "vllm"]
Backend = Literal["python", "onnxruntime", "tensorrt", "vllm", "ensemble"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class RepositoryModel(_Frozen):
    """One folder of the repository."""

    name: str
    role: ModelRole
    backend: Backend


class EngineFacts(_Frozen):
    """What a repository keeps of the engine that it serves."""

    backend: Literal["tensorrt_rtx", "tensorrt"]
    tensorrt_version: str
    compute_capabilities: tuple[str, ...]
    profiles: tuple[OptimizationProfile, ...]
    sha256: str

    @classmethod
    def of(cls, engine: EngineDescription) -> "EngineFacts":
        """Returns what is kept of an engine that describes itself."""
        return cls(
            backend=engine.backend,
            tensorrt_version=engine.tensorrt_version,
            compute_capabilities=engine.compute_capabilities,
            profiles=engine.profiles,
            sha256=engine.engine_sha256,
        )


class TritonDescription(_Frozen):
    """The contents of `triton.json`, at the repository's root, which the server ignores.

    Attributes:
        model_name: The model that requests name.
        models: Every folder of the repository.
        triton_release: The container's release, such as "24.10".
        max_batch_size: Rows at once: slots of the scheduler, or the config's max_batch_size.
        buckets: Sequence lengths that an ensemble's tokenizer pads to, ascending; tokens.
        max_queue_delay_us: Microseconds that dynamic batching waits; None without it.
        model: The exported model that is served; None for shape vllm.
        engine: The engine built from it, where that is served.
        model_sha256: Of the served graph's file, for shape vllm None.
        prompt: A request's text that the repository can be tried with.
    """

    schema_version: Literal[1] = 1
    shape: RepositoryShape
    task: RepositoryTask
    model_name: str
    models: tuple[RepositoryModel, ...]
    triton_release: str
    device: Literal["cpu", "cuda"]
    max_batch_size: int
    buckets: tuple[int, ...] = ()
    max_queue_delay_us: int | None = None
    model: OnnxDescription | None = None
    engine: EngineFacts | None = None
    model_sha256: str | None = None
    prompt: str

    def find_model(self, role: ModelRole) -> RepositoryModel:
        """Returns the one model of a role.

        Raises:
            InputError: There is none.
        """
        for model in self.models:
            if model.role == role:
                return model
        raise InputError(
            f"{TRITON_DESCRIPTION_NAME} names no model of role {role}; shape {self.shape} has one",
            remedy="make the repository anew",
        )

    def write(self, folder: Path) -> None:
        """Writes `triton.json` into a folder."""
        write_text_atomically(
            folder / TRITON_DESCRIPTION_NAME, self.model_dump_json(indent=1) + "\n"
        )


def read_triton_description(folder: Path) -> TritonDescription:
    """Reads the description of a repository.

    Raises:
        InputError: There is none, or it is not one that this version can read.
    """
    path = folder / TRITON_DESCRIPTION_NAME
    what = "a description of llmopt"
    try:
        return read_json_model(path, TritonDescription, what, "make the repository anew")
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no {TRITON_DESCRIPTION_NAME}",
            remedy="make the repository with llmopt triton-repo",
        ) from None
