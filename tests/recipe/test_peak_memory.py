"""The manifest's peak memory is the run's own, whatever started it."""

import resource
import subprocess
import sys
from pathlib import Path

from llmopt.recipe.peak_memory import read_peak_bytes

MB = 1_000_000
LARGE = 300 * MB
REPORT = "from llmopt.recipe.peak_memory import read_peak_bytes; print(read_peak_bytes())"


def read_in_child(code: str) -> int:
    """Runs code that prints a peak, while this process is large."""
    held = b"x" * LARGE
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(held) == LARGE
    return int(run.stdout)


def test_a_large_parent_does_not_count() -> None:
    assert 0 < read_in_child(REPORT) < 100 * MB


def test_what_was_held_and_let_go_counts() -> None:
    peak = read_in_child(f"x = b'x' * {150 * MB}; del x; {REPORT}")
    assert 150 * MB < peak < 250 * MB


def test_without_the_kernels_field_the_usage_is_taken(tmp_path: Path) -> None:
    other = tmp_path / "status"
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert read_peak_bytes(other) >= usage
    other.write_text("Name:\tpython\n", encoding="ascii")
    assert read_peak_bytes(other) >= usage
