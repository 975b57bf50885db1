"""Shared memory that the server's python backend leaves behind when it is killed."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux
# Backends that are written in Python have their own name in it.
REGIONS = "triton_*_backend_shm_region_*"
SECOND_LOOK_S = 0.2  # a region is made a moment before it is mapped


def remove_dead_regions() -> list[Path]:
    """Removes this user's regions that no process has mapped, at two looks in a row.

    Returns:
        What was removed.
    """
    dead = find_dead_regions()
    if dead:
        time.sleep(SECOND_LOOK_S)
        dead &= find_dead_regions()
    for region in dead:
        region.unlink(missing_ok=True)
    return sorted(dead)


def find_dead_regions() -> set[Path]:
    """Finds this user's regions that no process has mapped now."""
    # The regions first: one that appears later can't be taken for unmapped.
    regions = {path for path in SHARED_MEMORY.glob(REGIONS) if _is_own(path)}
    return regions - set(_list_mapped_regions()) if regions else set()


def _is_own(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except FileNotFoundError:
        return False


def _list_mapped_regions() -> Iterator[Path]:
    start = f"{SHARED_MEMORY}/triton_"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            maps = (process / "maps").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for line in maps.splitlines():
            if start in line:
                yield Path(start + line.split(start, 1)[1].removesuffix(" (deleted)"))
