"""What a quantisation has finished, on disk: whole blocks, and the data where they left it.

    block-00004.safetensors   the packed layers of block 4
    hidden-00005.safetensors  the residual stream that block 5 reads, one tensor per batch
    journal.json              how many blocks are done, the error ledger, and size and CRC-32
                              of the files above; written last

A block counts once the journal names it, so a kill at any moment costs one block at most, or those
since the last commit where a run adds several blocks between two (docs/adr/0005). The
files are on the disk before the journal vouches for them, so that holds for a power cut too; a
journal whose files are not what it says is thrown away (`Journal.damage`).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from llmopt.artifacts.digest import checksum_file
from llmopt.artifacts.files import clear_folder, flush_file, write_text_atomically
from llmopt.artifacts.manifest import LayerError
from llmopt.checkpoint.safetensors_header import TensorEntry, read_header
from llmopt.checkpoint.tensor_files import read_tensor, write_tensors


class _FileState(BaseModel):
    """What a file must be for its contents to count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    crc32: int


class _State(BaseModel):
    """The contents of `journal.json`."""

    model_config = ConfigDict(extra="forbid")

    num_done: int
    machine: dict[str, str]
    num_threads: int
    errors: list[LayerError]
    files: dict[str, _FileState]


@dataclass(frozen=True)
class _Added:
    """A block that counts from the next commit on, perhaps still being written."""

    name: str
    file: Future[_FileState]
    errors: list[LayerError]


class Journal:
    """The progress of one quantisation inside its scratch folder.

    Args:
        folder: The scratch folder.
        machine: What the data is computed on; another one's data is not gone on with, since no
            uninterrupted run would give what came of it.
        num_threads: CPU threads that a run would begin with; they decide the last bits, too.

    Attributes:
        damage: Why an earlier run's work could not be trusted and was thrown away; None where
            there was none, or it is whole.
    """

    def __init__(self, folder: Path, machine: Mapping[str, str], num_threads: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._path = folder / "journal.json"
        self._state = _State(
            num_done=0, machine=dict(machine), num_threads=num_threads, errors=[], files={}
        )
        self._added: list[_Added] = []
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self.damage = self._load()
        if self.damage is not None:
            clear_folder(folder)

    @property
    def num_done(self) -> int:
        """How many blocks are finished."""
        return self._state.num_done

    @property
    def num_threads(self) -> int:
        """The CPU threads that the finished blocks were computed with."""
        return self._state.num_threads

    @property
    def errors(self) -> list[LayerError]:
        """The error ledger of the finished blocks."""
        return self._state.errors

    def record(
        self,
        tensors: Mapping[str, Tensor],
        errors: Iterable[LayerError],
        hidden: Mapping[str, Tensor] | None,
    ) -> None:
        """Commits one more block: its packed tensors, its errors, the data after it."""
        self.add(tensors, errors)
        self.commit(hidden)

    def add(self, tensors: Mapping[str, Tensor], errors: Iterable[LayerError]) -> None:
        """Writes one more block, which counts from the next commit on.

        It is written in the background, so that a GPU need not wait for the disk; one block at a
        time, so that two at most are in memory.
        """
        if self._added:
            self._added[-1].file.result()
        name = _block_name(self.num_done + len(self._added))
        here = {key: tensor.cpu() for key, tensor in tensors.items()}
        self._added.append(_Added(name, self._writer.submit(self._write, name, here), list(errors)))

    def commit(self, hidden: Mapping[str, Tensor] | None) -> None:
        """Lets the added blocks count, with the data after the last of them."""
        state = self._state
        num_done = state.num_done + len(self._added)
        files, errors = dict(state.files), list(state.errors)
        for block in self._added:
            files[block.name] = block.file.result()
            errors += block.errors
        if hidden is not None:
            files[_hidden_name(num_done)] = self._write(_hidden_name(num_done), hidden)
        files.pop(_hidden_name(state.num_done), None)
        self._state = _State(
            num_done=num_done,
            machine=state.machine,
            num_threads=state.num_threads,
            errors=errors,
            files=files,
        )
        self._added = []
        write_text_atomically(self._path, json.dumps(self._state.model_dump()))
        (self._folder / _hidden_name(state.num_done)).unlink(missing_ok=True)

    def close(self) -> None:
        """Waits for what is being written; nothing can be added any more."""
        self._writer.shutdown(wait=True)

    def read_hidden(self) -> Iterator[tuple[str, Tensor]]:
        """Yields the residual streams that the next block takes, by the names they came with."""
        header = read_header(self._folder / _hidden_name(self.num_done))
        for name, entry in sorted(header.items()):
            yield name, read_tensor(entry)

    def packed_tensors(self) -> dict[str, TensorEntry]:
        """Returns where the packed tensors of all finished blocks lie."""
        entries: dict[str, TensorEntry] = {}
        for block in range(self.num_done):
            entries |= read_header(self._folder / _block_name(block))
        return entries

    def _write(self, name: str, tensors: Mapping[str, Tensor]) -> _FileState:
        path = self._folder / name
        write_tensors(path, tensors)
        flush_file(path)
        return _FileState(size=path.stat().st_size, crc32=checksum_file(path))

    def _load(self) -> str | None:
        """Takes up an earlier run's state; returns what is wrong with it."""
        if not self._path.exists():
            return None
        try:
            state = _State.model_validate_json(self._path.read_bytes())
        except ValidationError:
            return f"{self._path.name} is torn or of another version"
        if state.machine != self._state.machine:
            return f"it was computed on {state.machine}, not {self._state.machine}"
        for name, recorded in state.files.items():
            fault = _find_fault(self._folder / name, recorded)
            if fault is not None:
                return f"{name} {fault}"
        self._state = state
        return None


def _find_fault(path: Path, recorded: _FileState) -> str | None:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != recorded.size:
        return f"has {size} bytes, {recorded.size} were written"
    if checksum_file(path) != recorded.crc32:
        return "has other contents than were written"
    return None


def _block_name(block: int) -> str:
    return f"block-{block:05d}.safetensors"


def _hidden_name(block: int) -> str:
    return f"hidden-{block:05d}.safetensors"
