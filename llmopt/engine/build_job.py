"""What the building process is told, and what it tells back, as JSON lines; no TensorRT."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from llmopt.artifacts.engine_description import BackendName, EngineSettings

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # at min, opt, max


class BuildJob(BaseModel):
    """An engine to build.

    Attributes:
        onnx_path: Of the graph.
        engine_path: Where the engine is written.
        profiles: For each profile the shapes of each dynamic input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    backend: BackendName
    onnx_path: str
    engine_path: str
    profiles: tuple[dict[str, Shapes], ...]
    settings: EngineSettings


class BuildEvent(BaseModel):
    """One line of the building process's standard output.

    Attributes:
        kind: `phase` (begins, with `total` steps), `advance`, `warning`, `refused` (the graph or a
            setting is at fault), `unavailable` (the machine is), `done`.
        text: Of the phase or message; for `done` TensorRT's version.
        total: Steps of a phase; 0 where they are not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["phase", "advance", "warning", "refused", "unavailable", "done"]
    text: str = ""
    total: int = 0
