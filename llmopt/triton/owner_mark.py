"""Marks beside what a server leaves behind when all is killed, so that the next start removes it.

A mark is a file that is locked for as long as llmopt, the server or one of its stubs lives: they
inherit it. The kernel frees the lock, whoever killed them and in whatever pid namespace they ran.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def hold_mark(path: Path) -> Iterator[int]:
    """Makes and locks a mark, for a `with` block; yields its descriptor, for children to inherit.

    Args:
        path: Where it appears, locked already: nobody sees it free before its owner is gone.
    """
    unlocked = path.with_name(f"{path.name}.new")
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        unlocked.rename(path)
        yield descriptor
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def take_abandoned(path: Path) -> Iterator[bool]:
    """Locks another's mark for a `with` block; yields whether its owner is surely gone.

    That is False for another user's, and for one that vanished meanwhile.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # vanished, not to be read by this user, or a link
        yield False
        return
    try:
        yield os.fstat(descriptor).st_uid == os.geteuid() and _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
