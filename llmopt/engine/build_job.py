"""What the processes that build and run engines are told; no TensorRT."""

from pydantic import BaseModel, ConfigDict

from llmopt.artifacts.engine_settings import BackendName, EngineSettings
from llmopt.artifacts.tensor_spec import TensorSpec
from llmopt.engine.profile_entries import Shapes


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class BuildJob(_Message):
    """An engine to build.

    Attributes:
        onnx_path: Of the graph.
        inputs: What the graph is said to take; `outputs` what it gives.
        profiles: For each profile the shapes of each input, at min, opt and max.
        known_timings: A timing cache to begin with, None for an empty one.
        folder: Where `model.engine` is written, and `timing.cache` where the backend has one.
    """

    backend: BackendName
    onnx_path: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[dict[str, Shapes], ...]
    settings: EngineSettings
    known_timings: str | None
    folder: str


class Request(_Message):
    """One run of an engine: a profile's index, and files (npz) of inputs and outputs."""

    profile: int
    feeds_path: str
    outputs_path: str


class EngineJob(_Message):
    """An engine to load, to list and to run.

    Attributes:
        folder: Of the engine and its description.
        requests: What to run it on, in order.
    """

    folder: str
    requests: tuple[Request, ...]
