"""The inside of a process of `artifacts.child_process`: its events, and the way it ends.

Its standard output is ChildEvents, its standard error the log.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from llmopt.artifacts.child_events import ChildEvent, PassedError
from llmopt.errors import LlmoptError

FAILED = 1
PR_SET_PDEATHSIG = 1  # prctl(2)


class ChildError(Exception):
    """The work can't go on; carries the event that says why."""

    def __init__(self, event: ChildEvent) -> None:
        super().__init__(event.text)
        self.event = event


def say(event: ChildEvent) -> None:
    """Writes one event."""
    sys.stdout.write(event.model_dump_json() + "\n")
    sys.stdout.flush()


def run_process(work: Callable[[str], ChildEvent]) -> int:
    """Does what `JOB.json PARENT_PID` on the command line says; returns the exit status.

    What the user or the system is at fault for is told as an event. Anything else is a bug, whose
    traceback Python writes to the log.
    """
    # Ctrl-C is the parent's to hear, which ends this process; and no parent, no work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):
        return FAILED
    try:
        say(work(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except ChildError as error:
        say(error.event)
        return FAILED
    except MemoryError as error:
        say(ChildEvent(kind="memory", text=f"out of memory {error}".rstrip()))
        return FAILED
    except (LlmoptError, OSError) as error:
        say(ChildEvent(kind="error", text=str(error), error=PassedError.of(error)))
        return FAILED
    return 0
