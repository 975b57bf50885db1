"""benchmarks/measured_process.py: what a process took, whatever its parent held before."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from tests.benchmarks.test_calibration_study import load_script

MB = 1_000_000
PYTHON_BYTES = 60 * MB  # an interpreter alone takes less
NOISE_BYTES = 500_000  # more than a pipe holds
NOISE = f"import sys; sys.stderr.write('x' * {NOISE_BYTES}); sys.exit('no such thing')"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("measured_process", monkeypatch)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("memory", monkeypatch)


@contextmanager
def held(num_bytes: int) -> Iterator[None]:
    """Keeps so much memory resident."""
    block = b"x" * num_bytes
    yield
    assert len(block) == num_bytes


def test_a_large_parent_does_not_count(
    measured: ModuleType, memory: ModuleType, tmp_path: Path
) -> None:
    nothing = [sys.executable, "-c", "pass"]
    with held(300 * MB):
        with measured.MeasuredProcess(nothing, tmp_path / "out", tmp_path / "log") as process:
            took = process.wait()
        watched = memory.watch(nothing, tmp_path, None)
    assert 0 < took.peak_bytes < PYTHON_BYTES
    assert 0 < watched.peak_bytes < PYTHON_BYTES


def test_what_the_process_held_counts(measured: ModuleType, tmp_path: Path) -> None:
    large = [sys.executable, "-c", "import time; x = b'x' * 100_000_000; time.sleep(0.2); print(7)"]
    with measured.MeasuredProcess(large, tmp_path / "out", tmp_path / "log") as process:
        took = process.wait()
    assert 100 * MB < took.peak_bytes < 100 * MB + PYTHON_BYTES
    assert took.wall_s > 0.2
    assert 0 < took.cpu_s < took.wall_s
    assert (tmp_path / "out").read_text(encoding="utf-8") == "7\n"


def test_a_failure_shows_the_end_of_a_long_log(memory: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended with 1:\nx+no such thing"):
        memory.watch([sys.executable, "-c", NOISE], tmp_path, None)


def test_a_command_that_is_not_there_fails(measured: ModuleType, tmp_path: Path) -> None:
    files = (tmp_path / "out", tmp_path / "log")
    with (
        measured.MeasuredProcess(["no-such-command"], *files) as process,
        pytest.raises(RuntimeError, match=r"ended with 127:\nno-such-command: .*No such file"),
    ):
        process.wait()


def test_nothing_is_left_running_after_an_interruption(
    measured: ModuleType, tmp_path: Path
) -> None:
    started = time.perf_counter()
    files = (tmp_path / "out", tmp_path / "log")
    with (
        pytest.raises(KeyboardInterrupt),
        measured.MeasuredProcess(["sleep", "60"], *files) as process,
    ):
        raise KeyboardInterrupt
    assert time.perf_counter() - started < 30
    assert not Path(f"/proc/{process.pid}").exists()
