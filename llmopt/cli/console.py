"""What a run tells: plain lines on stderr, JSON on stdout; on a terminal see `cli.terminal`."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from llmopt.artifacts.progress import Progress as ProgressProtocol
from llmopt.artifacts.progress import SilentProgress
from llmopt.artifacts.secrets import redact, redact_leaves
from llmopt.recipe.execute import RunListener

PLAIN_INTERVAL_S = 5.0


class PlainProgress:
    """Lines for logs: at most one every few seconds, and the last."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._description = ""
        self._detail = ""
        self._done = self._first = self._total = 0
        self._started = self._printed = 0.0

    def start(self, description: str, total: int, completed: int = 0) -> None:
        """Begins a phase; one whose units nobody knows is a line of its own."""
        if total == 0:
            self.note(description)
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


class PlainListener:
    """Tells a person what a run does, in lines."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def event(self, name: str, **fields: Any) -> None:
        """Prints one line per step event."""
        line = describe_event(name, fields)
        if line is not None and not self._quiet:
            print_line(line)

    def progress(self, step: str) -> ProgressProtocol:
        """Returns the listener for the inside of a step; notes come through even if quiet."""
        return _NotesOnly(step) if self._quiet else PlainProgress(step)


def describe_event(name: str, fields: Mapping[str, Any]) -> str | None:
    """Says in one line what happened to a step; None where a person need not know."""
    step = fields.get("step", "")
    if name == "step_started":
        return f"• {step}: {fields['reason']}"
    if name == "step_cached":
        return f"✓ {step}: in the store"
    if name == "step_finished":
        return f"✓ {step}: done in {fields['timings'].get('total_s', 0):.1f} s"
    if name == "step_unavailable":
        return f"- {step}: not run: {fields['reason']}"
    return None


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
def listen(*, quiet: bool, as_json: bool) -> Iterator[RunListener]:
    """Yields the listener that suits the options and the terminal."""
    if as_json:
        yield JsonListener()
    elif quiet or not sys.stderr.isatty():
        yield PlainListener(quiet=quiet)
    else:
        from llmopt.cli.terminal import listen_on_terminal  # noqa: PLC0415 - rich loads slowly

        with listen_on_terminal() as listener:
            yield listener


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
