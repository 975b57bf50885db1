"""Builds an engine in a process of its own: its progress, its log, and what became of it."""

from dataclasses import dataclass
from pathlib import Path

from llmopt.artifacts.child_events import ChildEvent
from llmopt.artifacts.child_process import ChildEnd, run_child
from llmopt.artifacts.engine_description import BUILD_LOG_NAME, ENGINE_NAME, TIMING_CACHE_NAME
from llmopt.artifacts.progress import Progress
from llmopt.engine.backends import BACKENDS
from llmopt.engine.build_job import BuildJob
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
        OSError: A file could not be read or written.
        ChildBug: The process ended by an error that nobody foresaw.
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
            end.raise_error()
            raise _explain(job, end)
    except BaseException:  # an interrupt too
        for name in (BUILD_LOG_NAME, ENGINE_NAME, TIMING_CACHE_NAME):
            (folder / name).unlink(missing_ok=True)
        raise
    assert end.last is not None
    return BuildResult(end.last.text, end.last.values, tuple(dict.fromkeys(warnings)))


def _explain(job: BuildJob, end: ChildEnd) -> LlmoptError:
    backend, reason = BACKENDS[job.backend], end.reason
    if end.ran_out_of_memory:
        cause = "killed, most likely because memory ran out" if reason is None else reason.text
        return ResourceError(
            f"{backend.title} did not finish {job.onnx_path}: {cause}",
            remedy="build on a machine with more memory, or for smaller profiles",
        )
    if reason is not None and reason.kind == "unavailable":
        return CapabilityError(
            f"{backend.title} can't be used here: {reason.text}", remedy=backend.remedy
        )
    if reason is not None:
        return IncompatibleError(f"{backend.title} refuses {job.onnx_path}: {reason.text}")
    return InputError(
        f"the process in which {backend.title} reads {job.onnx_path} {end.cause}; the end of its "
        f"log: {end.log_tail or 'empty'}",
        remedy="export the model with llmopt export-onnx, whose graphs it takes",
    )
