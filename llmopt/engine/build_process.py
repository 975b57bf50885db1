"""Builds an engine in a process of its own: its progress, its log, and what became of it."""

import signal
from dataclasses import dataclass
from pathlib import Path

from llmopt.artifacts.engine_description import BUILD_LOG_NAME, ENGINE_NAME, TIMING_CACHE_NAME
from llmopt.artifacts.progress import Progress
from llmopt.engine.backends import BACKENDS
from llmopt.engine.build_job import BuildJob, ChildEvent
from llmopt.engine.child_process import ChildEnd, run_child
from llmopt.errors import (
    CapabilityError,
    IncompatibleError,
    InputError,
    LlmoptError,
    ResourceError,
)

MODULE = "llmopt.engine.builder"


@dataclass(frozen=True)
class BuildResult:
    """What a build that went well tells.

    Attributes:
        tensorrt_version: Of the library that built it.
        compute_capabilities: Of the GPUs that the engine is for.
        warnings: The builder's, each once.
    """

    tensorrt_version: str
    compute_capabilities: tuple[str, ...]
    warnings: tuple[str, ...]


def run_build(job: BuildJob, progress: Progress) -> BuildResult:
    """Builds an engine into `job.folder`, with its log; leaves no file where it fails.

    Args:
        job: What to build.
        progress: Hears of TensorRT's phases, whose lengths nobody knows.

    Raises:
        CapabilityError: The backend is not installed, or can't build here.
        IncompatibleError: TensorRT refuses the graph or a setting; its words are in the message.
        ResourceError: Memory ran out, or the process was killed, as the kernel does then.
        InputError: The graph made the process die.
    """
    folder = Path(job.folder)
    warnings: list[str] = []

    def hear(event: ChildEvent) -> None:
        if event.kind == "phase":
            progress.start(event.text, 0)
        elif event.kind == "warning":
            warnings.append(event.text)

    try:
        end = run_child(MODULE, job, folder / BUILD_LOG_NAME, hear)
        if not end.is_done:
            raise _explain(job, end)
    except BaseException:  # an interrupt too
        for name in (BUILD_LOG_NAME, ENGINE_NAME, TIMING_CACHE_NAME):
            (folder / name).unlink(missing_ok=True)
        raise
    assert end.last is not None
    return BuildResult(end.last.text, end.last.values, tuple(dict.fromkeys(warnings)))


def _explain(job: BuildJob, end: ChildEnd) -> LlmoptError:
    backend, kind = BACKENDS[job.backend], end.last.kind if end.last is not None else None
    # The last word may be of a phase or a warning: then the way it ended says more.
    is_final = kind in ("unavailable", "refused", "memory")
    text = end.last.text if end.last is not None and is_final else ""
    if kind == "unavailable":
        return CapabilityError(f"{backend.title} can't be used here: {text}", remedy=backend.remedy)
    if kind == "refused":
        return IncompatibleError(f"{backend.title} refuses {job.onnx_path}: {text}")
    if kind == "memory" or end.status == -signal.SIGKILL:
        cause = text or "killed, most likely because memory ran out"
        return ResourceError(
            f"{backend.title} did not finish {job.onnx_path}: {cause}",
            remedy="build on a machine with more memory, or for smaller profiles",
        )
    tail = end.log_tail or "empty"
    return InputError(
        f"the process in which {backend.title} reads {job.onnx_path} {end.cause}; the end of its "
        f"log: {tail}",
        remedy="export the model with llmopt export-onnx, whose graphs it takes",
    )
