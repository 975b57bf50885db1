"""What a process that does a step's work in its own memory tells the one that started it."""

import re
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

import llmopt.errors
from llmopt.errors import LlmoptError

OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|bad[_ ]alloc|cannot allocate memory|failed to allocate memory"
    r"|not enough free memory",
    re.IGNORECASE,
)


class ChildBug(Exception):  # noqa: N818 - not for the user to mend: the process's traceback
    """The process ended by an error that nobody foresaw; its traceback is the text."""


class PassedError(BaseModel):
    """An error on its way to the other process.

    Attributes:
        kind: Its class in `llmopt.errors`; empty for one of the system.
        text: Its message, or the system's word for it.
        remedy: Of an error of llmopt.
        errno: Of an error of the system, with the `file` that it is about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: str = ""
    text: str
    remedy: str | None = None
    errno: int | None = None
    file: str | None = None

    @classmethod
    def of(cls, error: LlmoptError | OSError) -> "PassedError":
        """Packs an error."""
        if isinstance(error, LlmoptError):
            return cls(kind=type(error).__name__, text=error.message, remedy=error.remedy)
        file = None if error.filename is None else str(error.filename)
        return cls(text=error.strerror or str(error), errno=error.errno, file=file)

    def unpack(self) -> LlmoptError | OSError:
        """Makes the error anew, of the class that it had."""
        if self.kind:
            make: Callable[..., LlmoptError] = getattr(llmopt.errors, self.kind)
            return make(self.text, remedy=self.remedy)
        return OSError(self.errno, self.text, self.file)


class ChildEvent(BaseModel):
    """One line of such a process's standard output.

    Attributes:
        kind: `phase` (begins), `warning`, `fault` (of a loaded engine), `refused` (the graph or a
            setting is at fault), `memory` (it ran out), `unavailable` (the machine is at fault),
            `error` (it was raised), `done`.
        text: Of the phase or message; for `done` what the work gives.
        values: For `done` of a build the compute capabilities that the engine is for.
        error: For `error` what was raised.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["phase", "warning", "fault", "refused", "memory", "unavailable", "error", "done"]
    text: str = ""
    values: tuple[str, ...] = ()
    error: PassedError | None = None
