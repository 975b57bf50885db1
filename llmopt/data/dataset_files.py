"""Where the parts of a data set lie: files, or snapshots of the hub, and how they are read."""

from dataclasses import dataclass, replace
from pathlib import Path

from llmopt.artifacts.digest import FileHasher
from llmopt.artifacts.hub_snapshot import HubRepository, find_snapshot
from llmopt.data.dataset_spec import DataPart, DatasetSpec, MixPart
from llmopt.data.documents import Document, find_kind, parse_rows, read_documents
from llmopt.data.table_files import read_snapshot
from llmopt.errors import InputError

# The card says which files make which split. No script of a data set is fetched or run.
HUB_PATTERNS = (
    "README.md", "*.parquet", "*.json", "*.jsonl", "*.csv", "*.tsv", "*.txt", "*.arrow",
    "*.gz", "*.zst", "*.zip",
)  # fmt: skip


@dataclass(frozen=True)
class LocatedPart:
    """A part of a data set, and its file or its snapshot's folder.

    Attributes:
        part: What the recipe says.
        path: Where it lies; a snapshot that is not downloaded does not exist yet.
    """

    part: DataPart
    path: Path

    @property
    def commit(self) -> str | None:
        """The commit of a snapshot, None for a file."""
        return None if self.part.hf is None else self.path.name

    @property
    def source(self) -> str:
        """What stands before the line or row in the documents' origins."""
        return (
            str(self.path) if self.part.hf is None else f"{self.part.label}:{self.part.hub_split}"
        )

    def size_bytes(self) -> int:
        """Returns the size of the file, or of all files of the snapshot."""
        if self.path.is_file():
            return self.path.stat().st_size
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def read(self) -> list[Document]:
        """Reads the documents.

        Raises:
            InputError: They can't be read, or there are none.
        """
        part = self.part
        if part.hf is None:
            documents = read_documents(self.path, part.field)
        else:
            rows = read_snapshot(self.path, part.hub_split, part.label)
            documents = parse_rows(self.source, rows, part.field)
            if not documents:
                raise InputError(f"data set {part.label}, split {part.hub_split!r}, is empty")
        template = part.template if isinstance(part, MixPart) else None
        if template is None:
            return documents
        return [replace(document, template=template) for document in documents]

    def identity(self, hasher: FileHasher) -> dict[str, object]:
        """Returns what names the contents: the file's digest, or the hub's commit."""
        part = self.part
        if part.hf is not None:
            return {"hf": part.hf, "commit": self.commit, "split": part.hub_split}
        return {"file": hasher.digest(self.path), "kind": find_kind(self.path)}


def locate_parts(spec: DatasetSpec, base: Path) -> tuple[LocatedPart, ...]:
    """Locates every part of a data set; the data set itself is the first.

    Raises:
        InputError: No such set, split or file.
    """
    return tuple(_locate_part(part, base) for part in (spec, *spec.mix))


def hub_dataset(part: DataPart) -> HubRepository:
    """Names the repository of a part on the hub and the files of it that are wanted."""
    return HubRepository("dataset", str(part.hf), part.revision, HUB_PATTERNS)


def _locate_part(part: DataPart, base: Path) -> LocatedPart:
    if part.hf is None:
        return LocatedPart(part, part.locate(base))
    repository = hub_dataset(part)
    return LocatedPart(part, find_snapshot(repository) or repository.placeholder)
