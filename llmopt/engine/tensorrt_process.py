"""What the processes that talk to TensorRT have alike: its import, its logger, its refusals.

TensorRT reports by its logger and returns None; some graphs kill it. So it lives in processes of
its own (`artifacts.child_process`).
"""

import importlib
import sys
from contextlib import suppress
from typing import Any

from llmopt.artifacts.child_events import OUT_OF_MEMORY, ChildEvent
from llmopt.artifacts.child_work import ChildError, say

DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32",
}  # fmt: skip


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
            with suppress(OSError):  # a full disk: what is raised here would kill TensorRT
                sys.stderr.write(f"[{severity.name}] {message}\n")
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(message)
            elif severity.name == "WARNING":
                say(ChildEvent(kind="warning", text=message))

    return Logger()
