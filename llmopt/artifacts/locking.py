"""One process at a time per piece of work."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

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


@contextmanager
def share_lock(path: Path) -> Iterator[None]:
    """Holds a lock that others may share but none may have alone (flock, LOCK_SH)."""
    with _open_shared(path) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def exclude_sharers(path: Path, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Holds that lock alone; `on_wait` hears once if it must wait for those who share it."""
    with _open_shared(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait("another run reads the artifact that this one replaces; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def try_excluding_sharers(path: Path) -> Iterator[bool]:
    """Holds that lock alone if nobody shares it now; yields whether it does."""
    with _open_shared(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _open_shared(path: Path) -> BinaryIO:
    make_folder(path.parent)
    return path.open("ab")


def _open_lock(path: Path) -> "FileLock":
    from filelock import FileLock  # noqa: PLC0415

    make_folder(path.parent)
    try:
        path.touch()
    except FileNotFoundError as error:  # as in /proc, where FileLock would wait for ever
        raise InputError(f"{path.parent} takes no files: {error.strerror}") from None
    return FileLock(path)
