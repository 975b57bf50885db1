"""Turns the system's ways of saying "no more" into one error that says how much was needed."""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from llmopt.artifacts.files import format_bytes
from llmopt.errors import ResourceError
from llmopt.steps.base import Estimate

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# torch raises RuntimeError for memory on both devices; these are its words.
OUT_OF_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory", re.IGNORECASE)


@contextmanager
def resource_errors(work: Path, estimate: Estimate | None) -> Iterator[None]:
    """Refuses work that can't fit on the disk; reports running out of disk or memory.

    Raises:
        ResourceError: Not enough disk or memory, before or during the work.
    """
    free = shutil.disk_usage(work).free
    if estimate is not None and estimate.disk_bytes > free:
        raise ResourceError(
            f"{work} has {format_bytes(free)} free; the step needs about "
            f"{format_bytes(estimate.disk_bytes)}",
            remedy="free space, or put the store elsewhere with --store",
        )
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise ResourceError(
            f"the disk of {work} is full ({format_bytes(shutil.disk_usage(work).free)} free"
            f"{_describe_need(estimate)}); nothing was published",
            remedy="free space and repeat the command; finished blocks are kept",
        ) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        available = format_bytes(psutil.virtual_memory().available)
        need = "" if estimate is None else f"; about {format_bytes(estimate.ram_bytes)} needed"
        raise ResourceError(
            f"out of memory ({available} available now{need}): {error}",
            remedy="use a smaller seq_len or activation_memory_gb, or a larger machine",
        ) from error


def _describe_need(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f", the step needs about {format_bytes(estimate.disk_bytes)}"
