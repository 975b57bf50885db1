"""A disk of a chosen size: a tmpfs, which only root may mount."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHUNK = b"\0" * 4096


class SmallDisk:
    """A mounted tmpfs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def remount(self, options: str) -> None:
        """Changes its size (`size=4m`) or makes it read-only (`ro`)."""
        _run("mount", "-o", f"remount,{options}", str(self.folder))

    def fill(self) -> None:
        """Writes until nothing more goes in."""
        with self._filler.open("ab", buffering=0) as file:
            try:
                while file.write(CHUNK):
                    pass
            except OSError:
                return

    def make_room(self) -> None:
        """Removes what `fill` wrote."""
        self._filler.unlink()


@contextmanager
def mount_small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """Mounts a tmpfs on a folder; skips the test where that is not permitted."""
    folder.mkdir(exist_ok=True)
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        pytest.skip(f"a small disk needs root, to mount a tmpfs: {reason.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        _run("umount", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
