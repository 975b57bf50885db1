"""How long-running code tells what it does, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Receives the advance of a step; the CLI draws it, tests record it."""

    def start(self, description: str, total: int, completed: int = 0) -> None:
        """Begins a phase of `total` units, `completed` of them done; 0 where nobody knows."""

    def advance(self) -> None:
        """Marks one more unit as done."""

    def detail(self, text: str) -> None:
        """Shows a short figure of the moment, such as the current layer's error."""

    def note(self, message: str) -> None:
        """Says one line that the user should see (for example that work was resumed)."""


class SilentProgress:
    """A listener that says nothing, for library use."""

    def start(self, description: str, total: int, completed: int = 0) -> None:
        """Ignores the phase."""

    def advance(self) -> None:
        """Ignores the unit."""

    def detail(self, text: str) -> None:
        """Ignores the figure."""

    def note(self, message: str) -> None:
        """Ignores the message."""
