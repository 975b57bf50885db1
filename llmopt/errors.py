"""Every error that llmopt raises on purpose, grouped by who must act.

The tree, with exit codes (`llmopt.cli.main` maps them, nothing else does):

    LlmoptError
    ├── RecipeError          2  the recipe or an option is invalid
    ├── GateFailed           3  a quality or size gate was missed
    ├── LockDrift            4  inputs differ from the lock file under --frozen
    ├── CapabilityError      5  an extra, a tool or a GPU is missing
    ├── ResourceError        6  out of memory, GPU memory or disk
    ├── IncompatibleError    7  the artifact could not be served as asked
    ├── InputError           8  model, tokenizer, data or file unsuitable or corrupt
    │   └── RequestFailed    8  a running server refused or dropped a request
    └── NumericalError       9  Hessian not positive definite, tolerance exceeded, NaN

A message states the value received, what is allowed, where it stands, and the way out.
"""

from typing import ClassVar

EXIT_BUG = 1
EXIT_DEFERRED = 10
EXIT_INTERRUPTED = 130


class LlmoptError(Exception):
    """Base of all errors meant for the user.

    Args:
        message: What is wrong: the value received, what is allowed, where it stands.
        remedy: The way out, as an order that can be followed; shown on its own line.
    """

    exit_code: ClassVar[int] = EXIT_BUG
    title: ClassVar[str] = "error"

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message}\n  → {self.remedy}"


class RecipeError(LlmoptError):
    """The recipe, an override or an option is invalid; names file:line:column where it can."""

    exit_code = 2
    title = "recipe error"


class GateFailed(LlmoptError):  # noqa: N818 - the name is public, fixed by the design
    """A gate in the recipe was missed; the measurements are kept."""

    exit_code = 3
    title = "gate failed"


class LockDrift(LlmoptError):  # noqa: N818 - the name is public, fixed by the design
    """Inputs differ from the lock file under `--frozen`."""

    exit_code = 4
    title = "lock drift"


class CapabilityError(LlmoptError):
    """An extra, a tool or a GPU is missing; the remedy is the exact install command."""

    exit_code = 5
    title = "missing capability"


class ResourceError(LlmoptError):
    """Out of memory, GPU memory or disk; says how much was needed."""

    exit_code = 6
    title = "out of resources"


class IncompatibleError(LlmoptError):
    """Preflight: what is asked for could not be packed or served."""

    exit_code = 7
    title = "incompatible"


class InputError(LlmoptError):
    """A model, tokenizer, data set or file is unsuitable or corrupt."""

    exit_code = 8
    title = "unsuitable input"


class RequestFailed(InputError):  # noqa: N818 - named by what happened, as GateFailed is
    """A running server refused a request, or was gone before it answered.

    Args:
        message: The server's own words, and what was asked of which model.
        status: HTTP's code such as 400, gRPC's name such as "UNAVAILABLE"; None where the
            connection broke.
    """

    title = "request failed"

    def __init__(self, message: str, *, status: int | str | None) -> None:
        super().__init__(message)
        self.status = status


class NumericalError(LlmoptError):
    """A Hessian that is not positive definite, a tolerance exceeded, NaN or infinity."""

    exit_code = 9
    title = "numerical error"
