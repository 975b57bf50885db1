"""What a person sees of a run on a terminal: a live bar, and lines above it, on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from llmopt.artifacts.secrets import redact
from llmopt.cli.console import describe_event


class CountColumn(MofNCompleteColumn):
    """The count of units done, nothing where nobody knows how many there are."""

    def render(self, task: Task) -> Text:
        """Writes `k/n`."""
        return Text() if task.total is None else super().render(task)


class TerminalProgress:
    """A live bar: block k of n, time left, the current layer's error; else a spinner."""

    def __init__(self, bar: Progress, step: str, console: Console) -> None:
        self._bar = bar
        self._step = step
        self._console = console
        self._task: TaskID | None = None
        self._is_open_ended = False

    def start(self, description: str, total: int, completed: int = 0) -> None:
        """Shows a new bar, or a spinner where nobody knows how much there is to do."""
        if self._task is not None and self._is_open_ended:
            self._bar.remove_task(self._task)
        self._is_open_ended = total == 0
        self._task = self._bar.add_task(
            f"{self._step}: {description}", total=total or None, completed=completed, detail=""
        )

    def advance(self) -> None:
        """Moves the bar by one."""
        if self._task is not None:
            self._bar.advance(self._task)

    def detail(self, text: str) -> None:
        """Shows a figure beside the bar."""
        if self._task is not None:
            self._bar.update(self._task, detail=text)

    def note(self, message: str) -> None:
        """Prints a line above the bar."""
        print_above(self._console, f"  {self._step}: {message}")


class TerminalListener:
    """Tells a person at a terminal what a run does."""

    def __init__(self, bar: Progress, console: Console) -> None:
        self._bar = bar
        self._console = console

    def event(self, name: str, **fields: Any) -> None:
        """Prints one line per step event."""
        line = describe_event(name, fields)
        if line is not None:
            print_above(self._console, line)

    def progress(self, step: str) -> TerminalProgress:
        """Returns the listener for the inside of a step."""
        return TerminalProgress(self._bar, step, self._console)


@contextmanager
def listen_on_terminal() -> Iterator[TerminalListener]:
    """Yields a listener that draws on stderr while the run goes on."""
    console = Console(stderr=True)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        CountColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        transient=True,
    )
    with bar:
        yield TerminalListener(bar, console)


def print_above(console: Console, text: str) -> None:
    """Prints a line above the bar, secrets blotted out."""
    console.print(redact(text), highlight=False, markup=False, soft_wrap=True)
