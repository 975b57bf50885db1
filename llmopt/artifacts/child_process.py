"""Runs work in a process of its own: events on its standard output, a log, and its end.

For what may kill its process, or is measured by its memory. Such a process is of this same llmopt,
wherever it is started, and does not outlive the one that started it.
"""

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
from llmopt.artifacts.child_events import OUT_OF_MEMORY, ChildBug, ChildEvent

GRACE_S = 5.0
LOG_LINES = 5  # of the end of the log, in a message
TRACEBACK_START = "Traceback (most recent call last)"
PACKAGE_PARENT = str(Path(llmopt.__file__).resolve().parent.parent)


@dataclass(frozen=True)
class ChildEnd:
    """How a process ended: its status, its last event if it had one, its log."""

    status: int
    last: ChildEvent | None
    log: str

    @property
    def is_done(self) -> bool:
        """Whether it did all that it was asked to."""
        return self.status == 0 and self.last is not None and self.last.kind == "done"

    @property
    def reason(self) -> ChildEvent | None:
        """The event by which it says itself why it did not; None where it says nothing."""
        finals = ("refused", "memory", "unavailable", "error")
        return self.last if self.last is not None and self.last.kind in finals else None

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether memory ran out, by its own word, its log's last, or the kernel's way to kill."""
        if self.reason is not None:
            return self.reason.kind == "memory"
        is_crash = self.status < 0 and OUT_OF_MEMORY.search(self.log_tail) is not None
        return is_crash or self.status == -signal.SIGKILL

    @property
    def log_tail(self) -> str:
        """The end of its log, on one line."""
        return " | ".join(self.log.splitlines()[-LOG_LINES:])

    @property
    def cause(self) -> str:
        """How it ended, in words."""
        if self.status >= 0:
            return f"ended with status {self.status}"
        return f"died of {signal.Signals(-self.status).name}"

    def raise_error(self) -> None:
        """Raises what was raised there; returns where a signal or an event says why it ended.

        Raises:
            LlmoptError: As it was raised there.
            OSError: As it was raised there.
            ChildBug: It ended by itself without a word, or by an error that nobody foresaw.
        """
        if self.reason is not None and self.reason.error is not None:
            raise self.reason.error.unpack()
        if self.reason is None and self.status >= 0:
            _, mark, rest = self.log.rpartition(TRACEBACK_START)
            raise ChildBug(f"the process {self.cause}: {mark}{rest}")


def run_child(
    module: str, job: BaseModel, log_path: Path, hear: Callable[[ChildEvent], None]
) -> ChildEnd:
    """Runs `python -m MODULE JOB.json PARENT_PID` to its end; an interrupt ends it.

    Args:
        module: Of llmopt; calls `child_work.run_process`.
        job: What it is told.
        log_path: Takes its standard error; the job lies beside it while it runs.
        hear: Gets each event.
    """
    job_path = log_path.with_suffix(".job.json")
    last: ChildEvent | None = None
    try:
        job_path.write_text(job.model_dump_json(), encoding="utf-8")
        with log_path.open("wb") as log, _start(module, job_path, log.fileno()) as process:
            assert process.stdout is not None
            for line in process.stdout:
                event = _read_event(line)
                if event is not None:
                    last = event
                    hear(event)
            status = process.wait()
    finally:
        job_path.unlink(missing_ok=True)
    return ChildEnd(status, last, log_path.read_text("utf-8", "replace"))


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
