"""What a person sees of a run: on a terminal a live bar, elsewhere plain lines, all on stderr."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from llmopt.artifacts.progress import Progress as ProgressProtocol
from llmopt.artifacts.progress import SilentProgress
from llmopt.artifacts.secrets import redact, redact_leaves

PLAIN_INTERVAL_S = 5.0


class TerminalProgress:
    """A live bar: block k of n, time left, the current layer's error."""

    def __init__(self, bar: Progress, step: str, console: Console) -> None:
        self._bar = bar
        self._step = step
        self._console = console
        self._task: TaskID | None = None

    def start(self, description: str, total: int, completed: int = 0) -> None:
        """Shows a new bar."""
        self._task = self._bar.add_task(
            f"{self._step}: {description}", total=total, completed=completed, detail=""
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
        self._console.print(
            redact(f"  {self._step}: {message}"), highlight=False, markup=False, soft_wrap=True
        )


class PlainProgress:
    """Lines for logs: at most one every few seconds, and the last."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._description = ""
        self._detail = ""
        self._done = self._first = self._total = 0
        self._started = self._printed = 0.0

    def start(self, description: str, total: int, completed: int = 0) -> None:
        """Begins a phase."""
        self._description, self._total = description, total
        self._done = self._first = completed
        self._started = self._printed = time.monotonic()

    def advance(self) -> None:
        """Counts one unit and, now and then, says so."""
        self._done += 1
        now = time.monotonic()
        if self._done < self._total and now - self._printed < PLAIN_INTERVAL_S:
            return
        self._printed = now
        elapsed = now - self._started
        left = elapsed / max(self._done - self._first, 1) * (self._total - self._done)
        count = f"{self._description} {self._done}/{self._total}"
        self.note(f"{count}, {left:.0f} s left {self._detail}".rstrip())

    def detail(self, text: str) -> None:
        """Keeps the figure for the next line."""
        self._detail = f"({text})"

    def note(self, message: str) -> None:
        """Prints a line."""
        print_line(f"  {self._step}: {message}")


class ConsoleListener:
    """Tells a person what a run does."""

    def __init__(self, *, quiet: bool, bar: Progress | None, console: Console) -> None:
        self._quiet = quiet
        self._bar = bar
        self._console = console

    def event(self, name: str, **fields: Any) -> None:
        """Prints one line per step event."""
        if self._quiet:
            return
        step = fields.get("step", "")
        if name == "step_started":
            self._print(f"• {step}: {fields['reason']}")
        elif name == "step_cached":
            self._print(f"✓ {step}: in the store")
        elif name == "step_finished":
            self._print(f"✓ {step}: done in {fields['timings'].get('total_s', 0):.1f} s")
        elif name == "step_unavailable":
            self._print(f"- {step}: not run: {fields['reason']}")

    def progress(self, step: str) -> ProgressProtocol:
        """Returns the listener for the inside of a step; notes come through even if quiet."""
        if self._quiet:
            return _NotesOnly(step)
        if self._bar is not None:
            return TerminalProgress(self._bar, step, self._console)
        return PlainProgress(step)

    def _print(self, text: str) -> None:
        self._console.print(redact(text), highlight=False, markup=False, soft_wrap=True)


class _NotesOnly(SilentProgress):
    def __init__(self, step: str) -> None:
        self._step = step

    def note(self, message: str) -> None:
        """Prints a line."""
        print_line(f"  {self._step}: {message}")


class JsonListener:
    """Writes a run as JSON lines on stdout, one event each."""

    def event(self, name: str, **fields: Any) -> None:
        """Writes one event."""
        line = json.dumps({"event": name, **redact_leaves(fields)}, ensure_ascii=False)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def progress(self, step: str) -> ProgressProtocol:
        """Returns a listener that writes progress events."""
        return _JsonProgress(self, step)


class _JsonProgress:
    def __init__(self, listener: JsonListener, step: str) -> None:
        self._listener = listener
        self._step = step
        self._done = self._total = 0

    def start(self, description: str, total: int, completed: int = 0) -> None:
        self._done, self._total = completed, total
        self._listener.event(
            "phase", step=self._step, description=description, total=total, completed=completed
        )

    def advance(self) -> None:
        self._done += 1
        self._listener.event("progress", step=self._step, completed=self._done, total=self._total)

    def detail(self, text: str) -> None:
        """Leaves figures to the manifest."""

    def note(self, message: str) -> None:
        print_line(f"{self._step}: {message}")
        self._listener.event("note", step=self._step, message=message)


@contextmanager
def listen(*, quiet: bool, as_json: bool) -> Iterator[ConsoleListener | JsonListener]:
    """Yields the listener that suits the options and the terminal."""
    if as_json:
        yield JsonListener()
        return
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield ConsoleListener(quiet=quiet, bar=None, console=console)
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        transient=True,
    )
    with bar:
        yield ConsoleListener(quiet=False, bar=bar, console=console)


def print_line(text: str) -> None:
    """Writes one line to stderr, secrets blotted out."""
    sys.stderr.write(redact(text) + "\n")
    sys.stderr.flush()


def print_data(text: str) -> None:
    """Writes data to stdout, secrets blotted out."""
    sys.stdout.write(redact(text) + "\n")
    sys.stdout.flush()


def print_json(value: object) -> None:
    """Writes one JSON document to stdout."""
    sys.stdout.write(json.dumps(redact_leaves(value), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()
