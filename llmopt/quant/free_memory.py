"""Gives memory that was freed back to the system."""

import ctypes
import functools
from collections.abc import Callable


@functools.cache
def _find_trim() -> Callable[[int], int] | None:
    """Returns glibc's `malloc_trim`; None where another C library is in use."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


def release_freed_memory() -> None:
    """Returns the pages of freed CPU memory to the system; does nothing without glibc.

    glibc keeps freed pieces in between others: of the many sizes that a block's activations and
    a solve take, that was 300 MB at the peak of benchmarks/memory.py's model, and grew with every
    block. A trim takes milliseconds, but what is used again must be made resident again: on a model
    of 88 million parameters, eight trims a block took a tenth of the time.
    """
    trim = _find_trim()
    if trim is not None:
        trim(0)
