"""Digests of settings and files: what makes two runs of a step the same."""

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

from llmopt.artifacts.files import make_folder, write_text_atomically

CHUNK_BYTES = 1 << 22


def digest_value(value: object) -> str:
    """Hashes a JSON-like value by its canonical form (sorted keys, no spaces).

    Returns:
        SHA-256 as 64 hexadecimal digits.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Hashes a file's bytes with SHA-256, in constant memory."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()


def checksum_file(path: Path) -> int:
    """Returns the CRC-32 of a file's bytes: finds damage, at a fraction of a digest's cost."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return crc


class FileHasher:
    """Hashes files once and remembers them by (size, mtime, inode).

    The memory is one JSON file; two processes that write it at once lose entries, never
    correctness: an entry only ever speaks for the file state it was made from.
    """

    def __init__(self, memory_path: Path | None) -> None:
        self._memory_path = memory_path
        self._memory: dict[str, list[int | str]] = {}
        if memory_path is not None and memory_path.exists():
            self._memory = _read_memory(memory_path)

    def digest(self, path: Path) -> str:
        """Returns the file's SHA-256, from memory where its state is unchanged."""
        real = path.resolve()
        stat = real.stat()
        state: list[int | str] = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._memory.get(str(real))
        if known is not None and known[:3] == state:
            return str(known[3])
        sha = digest_file(real)
        self._memory[str(real)] = [*state, sha]
        self._save()
        return sha

    def digest_folder(self, folder: Path, names: list[str]) -> str:
        """Returns one digest over named files of a folder, names and contents."""
        return digest_value({name: self.digest(folder / name) for name in sorted(names)})

    def _save(self) -> None:
        if self._memory_path is None:
            return
        merged = self._memory
        if self._memory_path.exists():
            merged = {**_read_memory(self._memory_path), **self._memory}
        make_folder(self._memory_path.parent)
        write_text_atomically(self._memory_path, json.dumps(merged))


def _read_memory(path: Path) -> dict[str, list[int | str]]:
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # a torn or foreign memory only costs hashing again
    if not isinstance(loaded, Mapping):
        return {}
    return {str(k): v for k, v in loaded.items() if isinstance(v, list) and len(v) == 4}


def digest_entries(entries: Mapping[str, str]) -> str:
    """Returns the content digest of a set of files, given as relative path → SHA-256."""
    return digest_value({os.fspath(name): sha for name, sha in entries.items()})
