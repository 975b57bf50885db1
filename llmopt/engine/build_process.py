"""Runs the building process: its progress, its log, and what became of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from llmopt.artifacts.progress import Progress
from llmopt.engine.build_job import BuildEvent, BuildJob
from llmopt.errors import CapabilityError, IncompatibleError, InputError, ResourceError

MODULE = "llmopt.engine.builder"
GRACE_S = 5.0
LOG_LINES = 5  # of the end of the log, in a message


@dataclass(frozen=True)
class BuildResult:
    """What a build that went well tells."""

    tensorrt_version: str
    warnings: tuple[str, ...]


def run_build(job: BuildJob, folder: Path, progress: Progress) -> BuildResult:
    """Builds an engine in a process of its own.

    Args:
        job: What to build.
        folder: For the job file and `build.log`.
        progress: Hears of TensorRT's phases.

    Raises:
        CapabilityError: The backend is not installed, or can't build here.
        IncompatibleError: TensorRT refuses the graph or a setting; its words are in the message.
        ResourceError: The process was killed, as the kernel does when memory runs out.
        InputError: The graph made the process die.
    """
    job_path, log_path = folder / "build-job.json", folder / "build.log"
    job_path.write_text(job.model_dump_json(), encoding="utf-8")
    warnings: list[str] = []
    last: BuildEvent | None = None
    with log_path.open("wb") as log, _start(job_path, log.fileno()) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = _read_event(line) or last
            if last is not None:
                _report(last, progress, warnings)
        status = process.wait()
    job_path.unlink()
    if last is not None and last.kind == "done" and status == 0:
        return BuildResult(last.text, tuple(dict.fromkeys(warnings)))
    raise _explain(job, last, status, log_path)


@contextmanager
def _start(job_path: Path, log: int) -> Iterator["subprocess.Popen[str]"]:
    """Starts the process; ends it where the caller is interrupted."""
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE, str(job_path)],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _read_event(line: str) -> BuildEvent | None:
    """Reads one line; TensorRT's libraries may print others."""
    try:
        return BuildEvent.model_validate_json(line)
    except ValidationError:
        return None


def _report(event: BuildEvent, progress: Progress, warnings: list[str]) -> None:
    if event.kind == "phase":
        progress.start(event.text, max(event.total, 1))
    elif event.kind == "advance":
        progress.advance()
    elif event.kind == "warning":
        warnings.append(event.text)


def _explain(
    job: BuildJob, last: BuildEvent | None, status: int, log_path: Path
) -> CapabilityError | IncompatibleError | ResourceError | InputError:
    if last is not None and last.kind == "unavailable":
        return CapabilityError(
            f"{job.backend} can't be used here: {last.text}",
            remedy="pip install 'llmopt[tensorrt]', or set when_unavailable: defer",
        )
    if last is not None and last.kind == "refused":
        return IncompatibleError(f"{job.backend} refuses {job.onnx_path}: {last.text}")
    tail = " | ".join(log_path.read_text("utf-8", "replace").splitlines()[-LOG_LINES:])
    if status == -signal.SIGKILL:
        return ResourceError(
            f"the building process was killed ({job.onnx_path}): memory ran out, most likely",
            remedy="build on a machine with more memory",
        )
    cause = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
    return InputError(
        f"{job.backend} {cause} on {job.onnx_path}; the end of its log: {tail}",
        remedy="export the model with llmopt export-onnx, whose graphs it takes",
    )
