"""What the processes that talk to TensorRT have alike: events, the logger, the way they end.

TensorRT reports by its logger and returns None; some graphs kill it. So it lives in processes of
its own, whose standard output is ChildEvents and whose standard error is the log.
"""

import ctypes
import importlib
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmopt.engine.build_job import ChildEvent

FAILED = 1
PR_SET_PDEATHSIG = 1  # prctl(2)
OUT_OF_MEMORY = re.compile(r"out ?of ?memory|bad_alloc|cannot allocate memory", re.IGNORECASE)
DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32",
}  # fmt: skip


class ChildError(Exception):
    """The work can't go on; carries the event that says why."""

    def __init__(self, event: ChildEvent) -> None:
        super().__init__(event.text)
        self.event = event


def say(event: ChildEvent) -> None:
    """Writes one event."""
    sys.stdout.write(event.model_dump_json() + "\n")
    sys.stdout.flush()


def refuse(text: str) -> ChildError:
    """Makes the error of a graph, engine or setting at fault, or of memory that ran out."""
    kind = "memory" if OUT_OF_MEMORY.search(text) else "refused"
    return ChildError(ChildEvent(kind=kind, text=text))


def unavailable(text: str) -> ChildError:
    """Makes the error of a machine that can't do it."""
    return ChildError(ChildEvent(kind="unavailable", text=text))


def load_backend(name: str) -> Any:
    """Imports TensorRT's Python bindings.

    Raises:
        ChildError: They are not installed, or their libraries are not.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise unavailable(f"{name} can't be imported: {error}") from None


def make_logger(trt: Any) -> Any:
    """Makes TensorRT's logger, which keeps errors and passes warnings on."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            sys.stderr.write(f"[{severity.name}] {message}\n")
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(message)
            elif severity.name == "WARNING":
                say(ChildEvent(kind="warning", text=message))

    return Logger()


def run_process(work: Callable[[str], ChildEvent]) -> int:
    """Does what `JOB.json PARENT_PID` on the command line says; returns the exit status."""
    # Ctrl-C is the parent's to hear, which ends this process; and no parent, no work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):
        return FAILED
    job = Path(sys.argv[1]).read_text(encoding="utf-8")
    try:
        say(work(job))
    except ChildError as error:
        say(error.event)
        return FAILED
    except MemoryError as error:
        say(ChildEvent(kind="memory", text=f"out of memory {error}".rstrip()))
        return FAILED
    return 0
