"""Turns the system's ways of saying "no" into errors that say what was needed and what to do."""

import errno
import re
import resource
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from llmopt.artifacts.files import folder_size_bytes, format_bytes
from llmopt.errors import InputError, LlmoptError, ResourceError
from llmopt.steps.base import Estimate

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}
NO_SUCH_PLACE = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
# Torch (a RuntimeError on both devices), the C library and its loader each say it differently.
OUT_OF_MEMORY = re.compile(
    r"(can't|cannot) allocate memory(?! in static TLS)|not enough memory|out of memory"
    r"|failed to map segment from shared object$",
    re.IGNORECASE,
)


@contextmanager
def resource_errors(work: Path, estimate: Estimate | None) -> Iterator[None]:
    """Refuses work that can't fit on the disk; reports running out of disk or memory.

    Raises:
        ResourceError: Not enough disk or memory, before or during the work.
        InputError: A file or folder that may not be read or written.
    """
    _require_disk(work, estimate)
    try:
        yield
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        known = explain_failure(error, work, estimate)
        if known is None:
            raise
        raise known from error


def explain_failure(
    error: Exception, work: Path | None = None, estimate: Estimate | None = None
) -> LlmoptError | None:
    """Says in a user's words what the system refused; None for what only a bug can cause."""
    number = error.errno if isinstance(error, OSError) else None
    if number in DISK_FULL:
        return _explain_full_disk(work, estimate)
    if isinstance(error, OSError) and number in NO_ACCESS and error.filename is not None:
        return InputError(
            f"{error.filename}: {error.strerror}",
            remedy="give this user access to it, or name another place (--store, -o)",
        )
    if isinstance(error, OSError) and number in NO_SUCH_PLACE and error.filename is not None:
        return InputError(
            f"{error.filename}: {error.strerror}", remedy="name another place, or clear this one"
        )
    if number == errno.ENOMEM or isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return _explain_memory(error, estimate)
    return None


def _require_disk(work: Path, estimate: Estimate | None) -> None:
    if estimate is None:
        return
    free = shutil.disk_usage(work).free
    missing = estimate.disk_bytes - folder_size_bytes(work)  # unfinished work is there already
    if missing > free:
        raise ResourceError(
            f"{work} has {format_bytes(free)} free; the step needs about {format_bytes(missing)}",
            remedy="free space, or put the store elsewhere with --store",
        )


def _explain_full_disk(work: Path | None, estimate: Estimate | None) -> ResourceError:
    where = "the disk is full"
    if work is not None:
        there = next(path for path in (work, *work.parents) if path.exists())  # may be discarded
        where = f"the disk of {work} is full ({format_bytes(shutil.disk_usage(there).free)} free"
        if estimate is not None:
            where += f", the step needs about {format_bytes(estimate.disk_bytes)}"
        where += ")"
    return ResourceError(
        f"{where}; nothing was published",
        remedy="free space and repeat the command; finished blocks are kept",
    )


def _explain_memory(error: Exception, estimate: Estimate | None) -> ResourceError:
    traceback.clear_frames(error.__traceback__)  # frees what the failed work still holds
    available = min([psutil.virtual_memory().available, *_memory_limits()])
    need = "" if estimate is None else f"; about {format_bytes(estimate.ram_bytes)} needed"
    reason = f": {error}" if str(error) else ""
    return ResourceError(
        f"out of memory (at most {format_bytes(available)} for this process now{need}){reason}",
        remedy="use a smaller seq_len or activation_memory_gb, or a larger machine",
    )


def _memory_limits() -> Iterator[int]:
    """Yields what `ulimit` allows this process, where it sets a limit."""
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield soft
