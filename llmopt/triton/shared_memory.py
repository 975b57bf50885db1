"""Shared memory that the server's python backend leaves behind when it is killed.

Each server gives its regions a beginning of its own, so that no other process's are touched,
whether it can be seen from here or not.
"""

import uuid
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux


def make_region_prefix() -> str:
    """Returns what the names of one server's regions begin with, and no other's."""
    return f"llmopt_{uuid.uuid4().hex}_"


def remove_regions(prefix: str) -> list[Path]:
    """Removes the regions of a server that has ended.

    Args:
        prefix: What their names begin with.

    Returns:
        What was removed.
    """
    left = sorted(SHARED_MEMORY.glob(f"{prefix}*"))
    for region in left:
        region.unlink(missing_ok=True)
    return left
