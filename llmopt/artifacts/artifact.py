"""An artifact: a folder of files with the manifest that vouches for them."""

from dataclasses import dataclass
from pathlib import Path

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.files import list_files
from llmopt.artifacts.manifest import MANIFEST_NAME, FileEntry, Manifest, read_manifest


@dataclass(frozen=True)
class Artifact:
    """A finished step's output.

    Attributes:
        path: The artifact's folder.
        manifest: What the folder holds and how it was made.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> "Artifact":
        """Opens a folder that holds a manifest.

        Raises:
            InputError: There is no manifest, or it can't be read.
        """
        return cls(path=folder, manifest=read_manifest(folder))

    def find_faults(self) -> list[str]:
        """Compares every file with the manifest; returns one sentence per difference."""
        faults = []
        listed = {entry.path: entry for entry in self.manifest.files}
        for entry in listed.values():
            fault = _find_file_fault(self.path, entry)
            if fault is not None:
                faults.append(fault)
        present = set(list_files(self.path)) - {MANIFEST_NAME}
        faults += [f"{name} is not in the manifest" for name in sorted(present - set(listed))]
        return faults

    def is_whole(self) -> bool:
        """Tells, by sizes alone, whether every listed file is there."""
        return all(
            (self.path / entry.path).is_file()
            and (self.path / entry.path).stat().st_size == entry.size
            for entry in self.manifest.files
        )


def _find_file_fault(folder: Path, entry: FileEntry) -> str | None:
    path = folder / entry.path
    if not path.resolve().is_relative_to(folder.resolve()):
        return f"{entry.path} points outside the artifact"
    if not path.is_file():
        return f"{entry.path} is missing"
    size = path.stat().st_size
    if size != entry.size:
        return f"{entry.path} has {size} bytes, the manifest says {entry.size}"
    if digest_file(path) != entry.sha256:
        return f"{entry.path} has other contents than the manifest's sha256 {entry.sha256[:12]}…"
    return None


def describe_files(folder: Path, leave_out: str | None = None) -> list[FileEntry]:
    """Lists and hashes every file of a folder but the manifest and a folder left out."""
    return [
        FileEntry(
            path=name,
            size=(folder / name).stat().st_size,
            sha256=digest_file(folder / name),
        )
        for name in list_files(folder)
        if name != MANIFEST_NAME and Path(name).parts[0] != leave_out
    ]
