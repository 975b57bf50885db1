"""Writing files so that a crash leaves the old state or the new one, never a half."""

import os
import shutil
from pathlib import Path

from llmopt.errors import InputError


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it.

    Raises:
        InputError: Something on the way is a file, or no folder can be made there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        raise InputError(
            f"folder {folder} can't be made: {error.strerror}",
            remedy="name another place (-o, --store)",
        ) from None


def expand_home(path: str) -> Path:
    """Replaces a leading `~` or `~user`.

    Raises:
        InputError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"path {path}: {error}") from None


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a text file by way of a temporary neighbour, flushed and renamed into place."""
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Writes a file by way of a temporary neighbour, flushed and renamed into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def flush_folder(folder: Path) -> None:
    """Forces every file and folder below `folder` to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            flush_file(Path(parent) / name)
        _fsync(Path(parent), os.O_RDONLY | os.O_DIRECTORY)


def flush_file(path: Path) -> None:
    """Forces one file's contents to the disk."""
    _fsync(path, os.O_RDONLY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_folder(folder: Path) -> None:
    """Makes `folder` an existing, empty folder."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def list_files(folder: Path) -> list[str]:
    """Lists the regular files below `folder` as sorted POSIX paths relative to it."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def folder_size_bytes(folder: Path) -> int:
    """Adds up the sizes of the regular files below `folder`, in bytes."""
    return sum((folder / name).stat().st_size for name in list_files(folder))


def format_bytes(num_bytes: float) -> str:
    """Writes a byte count for people: `12.6 MB`, `1.2 GB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(num_bytes) < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
