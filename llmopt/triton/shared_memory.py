"""Shared memory that the server's python backend leaves behind when it is killed.

Each server gives its regions a beginning of its own, so that no other process's are touched,
whether it can be seen from here or not. A mark of that beginning says whether its server lives.
"""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmopt.triton.owner_mark import hold_mark, take_abandoned

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux
MARK_NAME = "owner"
_MARK = re.compile(rf"(?P<prefix>llmopt_[0-9a-f]{{32}}_){MARK_NAME}")


def make_region_prefix() -> str:
    """Returns what the names of one server's regions begin with, and no other's."""
    return f"llmopt_{uuid.uuid4().hex}_"


@contextmanager
def own_regions(prefix: str) -> Iterator[int]:
    """Marks regions as those of a living server, for a `with` block; yields the mark's descriptor.

    Regions of servers that are gone, with all that knew of them, are removed first.

    Args:
        prefix: What their names begin with.
    """
    remove_abandoned_regions()
    with hold_mark(SHARED_MEMORY / f"{prefix}{MARK_NAME}") as descriptor:
        yield descriptor


def remove_abandoned_regions() -> None:
    """Removes the regions of this user's servers that were killed together with their llmopt."""
    for mark in SHARED_MEMORY.iterdir():
        match = _MARK.fullmatch(mark.name)
        if match is not None:
            with take_abandoned(mark) as is_abandoned:
                if is_abandoned:
                    remove_regions(match["prefix"])


def remove_regions(prefix: str) -> list[Path]:
    """Removes the regions of a server that has ended.

    Args:
        prefix: What their names begin with.

    Returns:
        What was removed, its mark included.
    """
    left = sorted(SHARED_MEMORY.glob(f"{prefix}*"))
    for region in left:
        region.unlink(missing_ok=True)
    return left
