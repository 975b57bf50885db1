"""Runs a process that talks to TensorRT: events on its standard output, a log, and its end."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

import llmopt
from llmopt.engine.build_job import ChildEvent

GRACE_S = 5.0
LOG_LINES = 5  # of the end of the log, in a message
PACKAGE_PARENT = str(Path(llmopt.__file__).resolve().parent.parent)


@dataclass(frozen=True)
class ChildEnd:
    """How a process ended: its status, its last event if it had one, the end of its log."""

    status: int
    last: ChildEvent | None
    log_tail: str

    @property
    def is_done(self) -> bool:
        """Whether it did all that it was asked to."""
        return self.status == 0 and self.last is not None and self.last.kind == "done"

    @property
    def cause(self) -> str:
        """How it ended, in words."""
        if self.status >= 0:
            return f"ended with status {self.status}"
        return f"died of {signal.Signals(-self.status).name}"


def run_child(
    module: str, job: BaseModel, log_path: Path, hear: Callable[[ChildEvent], None]
) -> ChildEnd:
    """Runs `python -m MODULE JOB.json PARENT_PID` to its end; an interrupt ends it.

    Args:
        module: Of llmopt; writes ChildEvents.
        job: What it is told.
        log_path: Takes its standard error; the job lies beside it while it runs.
        hear: Gets each event.
    """
    job_path = log_path.with_suffix(".job.json")
    job_path.write_text(job.model_dump_json(), encoding="utf-8")
    last: ChildEvent | None = None
    try:
        with log_path.open("wb") as log, _start(module, job_path, log.fileno()) as process:
            assert process.stdout is not None
            for line in process.stdout:
                event = _read_event(line)
                if event is not None:
                    last = event
                    hear(event)
            status = process.wait()
    finally:
        job_path.unlink()
    tail = log_path.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]
    return ChildEnd(status, last, " | ".join(tail))


@contextmanager
def _start(module: str, job_path: Path, log: int) -> Iterator["subprocess.Popen[str]"]:
    # -P and PYTHONPATH: the child is of the same llmopt, whatever lies in the working directory.
    paths = [PACKAGE_PARENT, *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(job_path), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
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
        assert process.stdout is not None
        process.stdout.close()


def _read_event(line: str) -> ChildEvent | None:
    """Reads one line; TensorRT's libraries may print others."""
    try:
        return ChildEvent.model_validate_json(line)
    except ValidationError:
        return None
