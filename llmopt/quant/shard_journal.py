"""Which shards of a streamed quantisation are finished, on disk.

    shards/model-00001-of-00030.safetensors   a finished shard, under its name in the source
    shards.json                               for each: its size and CRC-32, the state of the
                                              source's file, the errors of its layers; written last

A shard counts once the journal names it, so a kill at any moment costs one shard at most. A file
is on the disk before the journal vouches for it, so that holds for a power cut too. What is not
as the journal says is made anew, and nothing else.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from llmopt.artifacts.digest import checksum_file
from llmopt.artifacts.files import clear_folder, flush_file, write_text_atomically
from llmopt.artifacts.manifest import LayerError

FOLDER_NAME = "shards"
JOURNAL_NAME = "shards.json"


class _SourceState(BaseModel):
    """What of a source's file tells that it is the one that was read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    mtime_ns: int


class _ShardState(BaseModel):
    """A finished shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    crc32: int
    source: _SourceState
    errors: list[LayerError]


class _State(BaseModel):
    """The contents of `shards.json`."""

    model_config = ConfigDict(extra="forbid")

    made_by: dict[str, str]
    shards: dict[str, _ShardState]


class ShardJournal:
    """The progress of one streamed quantisation inside its scratch folder.

    Args:
        scratch: The scratch folder.
        made_by: What decides the bytes beside the source: settings, device, libraries. Shards
            that something else made are not gone on with.
        sources: The source's file of each shard, by the shard's name.

    Attributes:
        damage: Why finished shards could not be trusted and are made anew, one sentence each.
    """

    def __init__(
        self, scratch: Path, made_by: Mapping[str, str], sources: Mapping[str, Path]
    ) -> None:
        self._folder = scratch / FOLDER_NAME
        self._path = scratch / JOURNAL_NAME
        self._sources = sources
        self._state = _State(made_by=dict(made_by), shards={})
        self.damage = self._load()
        if not self._state.shards:
            clear_folder(self._folder)

    @property
    def finished(self) -> frozenset[str]:
        """The names of the finished shards."""
        return frozenset(self._state.shards)

    @property
    def errors(self) -> list[LayerError]:
        """The error ledger of the finished shards, in the order of their names."""
        shards = self._state.shards
        return [error for name in sorted(shards) for error in shards[name].errors]

    def path(self, name: str) -> Path:
        """Returns where a shard is written, and lies when it is finished."""
        return self._folder / name

    def record(self, name: str, errors: list[LayerError]) -> None:
        """Commits one shard that lies at its path."""
        path = self.path(name)
        flush_file(path)
        shard = _ShardState(
            size=path.stat().st_size,
            crc32=checksum_file(path),
            source=_read_source_state(self._sources[name]),
            errors=errors,
        )
        state = self._state
        self._state = _State(made_by=state.made_by, shards={**state.shards, name: shard})
        write_text_atomically(self._path, self._state.model_dump_json())

    def publish(self, folder: Path) -> None:
        """Shows every finished shard in `folder` too, without a second copy where links work.

        The scratch folder keeps them, so that a kill before the artifact is sealed costs none.
        """
        for name in sorted(self._state.shards):
            try:
                os.link(self.path(name), folder / name)
            except OSError:  # a file system without hard links
                shutil.copyfile(self.path(name), folder / name)

    def _load(self) -> list[str]:
        """Takes up an earlier run's shards; returns what is wrong with those it does not."""
        if not self._path.exists():
            return []
        try:
            state = _State.model_validate_json(self._path.read_bytes())
        except ValidationError:
            return [f"{self._path.name} is torn or of another version"]
        if state.made_by != self._state.made_by:
            return [f"it was made by {state.made_by}, not {self._state.made_by}"]
        faults = []
        for name, shard in state.shards.items():
            fault = self._find_fault(name, shard)
            if fault is None:
                self._state.shards[name] = shard
            else:
                faults.append(f"{name} {fault}")
        return faults

    def _find_fault(self, name: str, shard: _ShardState) -> str | None:
        path, source = self.path(name), self._sources.get(name)
        if source is None or _read_source_state(source) != shard.source:
            return "was made of another file"
        if not path.is_file():
            return "is missing"
        if path.stat().st_size != shard.size:
            return f"has {path.stat().st_size} bytes, {shard.size} were written"
        if checksum_file(path) != shard.crc32:
            return "has other contents than were written"
        return None


def _read_source_state(path: Path) -> _SourceState:
    stat = path.stat()
    return _SourceState(size=stat.st_size, mtime_ns=stat.st_mtime_ns)
