"""One process at a time per piece of work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llmopt.artifacts.files import make_folder
from llmopt.errors import InputError

if TYPE_CHECKING:
    from filelock import FileLock  # loaded when first locked: `--help` locks nothing


@contextmanager
def hold_lock(path: Path, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Holds a file lock, which the system frees when the process dies.

    Args:
        path: The lock file; it is left in place, since removing it would race.
        on_wait: Called once with a sentence when another process holds the lock.
    """
    from filelock import Timeout  # noqa: PLC0415

    lock = _open_lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait("another run is making this artifact; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Holds a file lock if no process holds it now; yields whether it does."""
    from filelock import Timeout  # noqa: PLC0415

    lock = _open_lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _open_lock(path: Path) -> "FileLock":
    from filelock import FileLock  # noqa: PLC0415

    make_folder(path.parent)
    try:
        path.touch()
    except FileNotFoundError as error:  # as in /proc, where FileLock would wait for ever
        raise InputError(f"{path.parent} takes no files: {error.strerror}") from None
    return FileLock(path)
