"""The store: finished artifacts under their identity, unfinished work beside them.

artifacts/IDENTITY/   finished, with manifest.json; never changed in place
partial/IDENTITY/     unfinished work that the next run of the same identity resumes
locks/IDENTITY.lock   one maker per identity
locks/IDENTITY.read   shared by the runs that read it, held alone to remove or replace it
store.json            says that this folder is a store, so that `gc` removes nothing of others
roots/                links outside the store that keep an artifact from `gc`
hashes.json           SHA-256 of files seen, by (size, mtime, inode)
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.digest import FileHasher, digest_value
from llmopt.artifacts.files import (
    clear_folder,
    flush_folder,
    folder_size_bytes,
    write_text_atomically,
)
from llmopt.artifacts.locking import (
    exclude_sharers,
    hold_lock,
    share_lock,
    try_excluding_sharers,
    try_lock,
)
from llmopt.artifacts.manifest import MANIFEST_NAME
from llmopt.errors import InputError

REPLACED_SUFFIX = ".replaced"
MARK_NAME = "store.json"
ENTRY_NAME = re.compile(r"[0-9a-f]{64}(\.replaced)?")


@dataclass(frozen=True)
class StoreEntry:
    """One line of `llmopt store ls`; `artifact` is None for unfinished work."""

    identity: str
    path: Path
    size_bytes: int
    artifact: Artifact | None
    links: tuple[Path, ...]


class Store:
    """A folder of artifacts addressed by identity; safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()  # one store, whatever links lead to it
        self.hasher = FileHasher(self.root / "hashes.json")

    def artifact_path(self, identity: str) -> Path:
        """Returns where the artifact of that identity lies or would lie."""
        return self.root / "artifacts" / identity

    def find(self, identity: str) -> Artifact | None:
        """Returns the finished artifact of that identity, if it is there and whole."""
        path = self.artifact_path(identity)
        if not (path / MANIFEST_NAME).exists():
            return None
        artifact = _open_or_none(path)
        return artifact if artifact is not None and artifact.is_whole() else None

    def has_damaged(self, identity: str) -> bool:
        """Tells whether something lies at the identity's place that `find` refuses."""
        return self.artifact_path(identity).exists() and self.find(identity) is None

    def has_partial(self, identity: str) -> bool:
        """Tells whether unfinished work of that identity is there to be resumed."""
        return self._partial_path(identity).exists()

    def lock(self, identity: str, on_wait: Callable[[str], None]) -> AbstractContextManager[None]:
        """Holds the identity against other processes."""
        self._mark()  # before anything else is there that a `gc` at this moment would wonder at
        return hold_lock(self._lock_path(identity), on_wait)

    def open_workspace(self, identity: str) -> Path:
        """Returns the folder to work in; it holds what an interrupted run left there."""
        self._mark()
        path = self._partial_path(identity)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def discard_workspace(self, identity: str) -> None:
        """Removes the workspace of that identity."""
        path = self._partial_path(identity)
        if path.exists():
            shutil.rmtree(path)

    def hold_for_reading(self, identity: str) -> AbstractContextManager[None]:
        """Keeps the finished artifact from being removed or replaced by other processes."""
        return share_lock(self._read_lock_path(identity))

    def publish(self, identity: str, on_wait: Callable[[str], None]) -> Artifact:
        """Flushes the workspace and renames it into place, replacing an older artifact."""
        partial = self._partial_path(identity)
        flush_folder(partial)
        final = self.artifact_path(identity)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            with exclude_sharers(self._read_lock_path(identity), on_wait):
                discarded = self._set_aside(final)
                partial.rename(final)
            shutil.rmtree(discarded)
        else:
            partial.rename(final)
        return Artifact.open(final)

    def link(self, link: Path, artifact: Artifact) -> None:
        """Points `link` (`out/RECIPE/STEP`) at an artifact and registers it as a root."""
        link.parent.mkdir(parents=True, exist_ok=True)
        # Resolved, since `out` itself may be a link to another disk.
        target = os.path.relpath(artifact.path.resolve(), link.parent.resolve())
        temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target, target_is_directory=True)
        temporary.replace(link)
        # Relative, so that a project folder that is moved keeps its artifacts.
        place = os.path.relpath(link.parent.resolve() / link.name, self.root)
        root = self.root / "roots" / digest_value(place)[:16]
        root.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(root, place)

    def entries(self) -> Iterator[StoreEntry]:
        """Yields every artifact and every piece of unfinished work, by identity.

        Raises:
            InputError: The folder holds something, but is no store.
        """
        self._require_mark()
        links = self._links_by_target()
        for kind in ("artifacts", "partial"):
            folder = self.root / kind
            for path in sorted(folder.iterdir()) if folder.exists() else []:
                if not ENTRY_NAME.fullmatch(path.name):
                    continue
                try:
                    size_bytes = folder_size_bytes(path)
                except FileNotFoundError:
                    continue  # published, resumed or removed by another process just now
                yield StoreEntry(
                    identity=path.name,
                    path=path,
                    size_bytes=size_bytes,
                    artifact=_open_or_none(path) if kind == "artifacts" else None,
                    links=tuple(links.get(path.resolve(), [])),
                )

    def collect_garbage(self, *, dry_run: bool) -> list[StoreEntry]:
        """Removes what no `out/` link points at and no process is making.

        Returns:
            The entries removed, or that would be removed under `dry_run`.
        """
        removed = []
        for entry in self.entries():
            identity = entry.identity.removesuffix(REPLACED_SUFFIX)
            with (
                try_lock(self._lock_path(identity)) as is_unmade,
                try_excluding_sharers(self._read_lock_path(identity)) as is_unread,
            ):
                is_free = is_unmade and is_unread
                # Looked up again under the lock: a run may just have made, or linked, it.
                links = self._links_by_target().get(entry.path.resolve())
                if not is_free or links or not entry.path.exists():
                    continue
                removed.append(entry)
                if not dry_run:
                    self._remove(entry.path)
        return removed

    def _mark(self) -> None:
        if not (self.root / MARK_NAME).exists():
            self.root.mkdir(parents=True, exist_ok=True)
            write_text_atomically(self.root / MARK_NAME, '{"store_version": 1}\n')

    def _require_mark(self) -> None:
        if (self.root / MARK_NAME).exists() or not self.root.exists():
            return
        names = {path.name for path in self.root.iterdir() if not path.name.startswith(".")}
        if names - {"hashes.json", MARK_NAME}:
            raise InputError(
                f"{self.root} is no store of llmopt (it holds no {MARK_NAME})",
                remedy="name the store with --store, or unset LLMOPT_STORE",
            )

    def _remove(self, path: Path) -> None:
        """Removes a folder of the store; an artifact is out of sight before its first file goes."""
        if path.parent.name == "artifacts":
            path = self._set_aside(path)
        shutil.rmtree(path)

    def _set_aside(self, final: Path) -> Path:
        """Moves an artifact out of sight in one step; returns the folder to remove."""
        discarded = self._partial_path(final.name + REPLACED_SUFFIX)
        clear_folder(discarded)
        final.rename(discarded / "old")
        return discarded

    def _links_by_target(self) -> dict[Path, list[Path]]:
        links: dict[Path, list[Path]] = {}
        roots = self.root / "roots"
        for root in sorted(roots.iterdir()) if roots.exists() else []:
            link = Path(os.path.normpath(self.root / root.read_text()))
            if link.is_symlink():
                links.setdefault(link.resolve(), []).append(link)
        return links

    def _partial_path(self, identity: str) -> Path:
        return self.root / "partial" / identity

    def _read_lock_path(self, identity: str) -> Path:
        return self.root / "locks" / f"{identity}.read"

    def _lock_path(self, identity: str) -> Path:
        return self.root / "locks" / f"{identity}.lock"


def _open_or_none(path: Path) -> Artifact | None:
    try:
        return Artifact.open(path)
    except InputError:
        return None
