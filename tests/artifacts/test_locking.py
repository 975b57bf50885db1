"""Locks between processes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmopt.artifacts.locking import hold_lock, try_lock
from llmopt.errors import InputError

HOLD = """
import sys
from pathlib import Path
from llmopt.artifacts.locking import hold_lock
with hold_lock(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Holds the lock in a process of its own until the block ends."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_is_held_and_freed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.lock"
    heard: list[str] = []
    with hold_lock(path, heard.append), try_lock(path) as is_free:
        assert not is_free
    with try_lock(path) as is_free:
        assert is_free
    assert heard == []


def test_another_process_is_waited_for_and_its_death_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    heard: list[str] = []
    with held_by_another_process(path) as process:
        with try_lock(path) as is_free:
            assert not is_free

        def kill(message: str) -> None:
            heard.append(message)
            process.kill()

        with hold_lock(path, kill):
            assert heard == ["another run is making this artifact; waiting for it"]


@pytest.mark.parametrize("place", ["file/x.lock", "file/deeper/x.lock"])
def test_a_place_below_a_file_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with (
        pytest.raises(InputError, match=r"folder .* can't be made"),
        hold_lock(tmp_path / place, print),
    ):
        pytest.fail("nothing to hold")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this system")
def test_a_place_that_takes_no_files_is_refused_and_not_waited_for() -> None:
    with (
        pytest.raises(InputError, match="/proc takes no files"),
        hold_lock(Path("/proc/x.lock"), print),
    ):
        pytest.fail("nothing to hold")
