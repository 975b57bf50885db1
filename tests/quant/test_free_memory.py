"""Freed memory goes back to the system."""

import platform
from pathlib import Path

import pytest
import torch

from llmopt.quant.free_memory import release_freed_memory

PIECE_BYTES = 65_536  # small enough that malloc takes it from its heap
NUM_PIECES = 2_000
PAGE_BYTES = 4_096


def read_resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc_trim")
def test_pages_between_what_is_still_in_use_are_given_back() -> None:
    release_freed_memory()
    pieces = [torch.ones(PIECE_BYTES, dtype=torch.uint8) for _ in range(NUM_PIECES)]
    kept = pieces[::50]
    del pieces
    before = read_resident()
    release_freed_memory()
    assert before - read_resident() > 0.8 * NUM_PIECES * PIECE_BYTES
    assert all(int(piece.sum()) == PIECE_BYTES for piece in kept)
