"""Where a step's work goes while it is made and when it is whole: a store, or a given folder."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.files import clear_folder, flush_folder, list_files
from llmopt.artifacts.locking import hold_lock
from llmopt.errors import RecipeError

PARTIAL_NAME = ".llmopt-partial"
IDENTITY_NAME = "identity"


class Destination(Protocol):
    """Keeps unfinished work apart from finished artifacts and publishes atomically."""

    def find(self, identity: str) -> Artifact | None:
        """Returns the finished artifact of that identity, if it is there and whole."""

    def lock(self, identity: str, on_wait: Callable[[str], None]) -> AbstractContextManager[None]:
        """Holds the identity against other processes; `on_wait` hears if it must wait."""

    def open_workspace(self, identity: str) -> Path:
        """Returns the folder to work in; it holds what an interrupted run left there."""

    def discard_workspace(self, identity: str) -> None:
        """Throws unfinished work away."""

    def publish(self, identity: str) -> Artifact:
        """Flushes the workspace and renames it into place."""


class FolderDestination:
    """A folder named by the user (`-o DIR`): empty, or holding the same step's unfinished work.

    The work is done in `DIR/.llmopt-partial`; publishing renames it beside DIR and then over
    the empty DIR, so that DIR is empty or whole at every moment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._partial = self.folder / PARTIAL_NAME
        self._handover = self.folder.with_name(f".{self.folder.name}.llmopt-handover")

    def find(self, identity: str) -> Artifact | None:
        """Finds nothing: an explicit folder is made anew or resumed, never reused."""
        del identity
        return None

    def check(self, identity: str) -> None:
        """Refuses a folder that holds anything but this step's unfinished work.

        Raises:
            RecipeError: The folder is not empty, or holds another step's work.
        """
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise RecipeError(f"output {self.folder} is a file", remedy="name a folder with -o")
        others = [path.name for path in self.folder.iterdir() if path.name != PARTIAL_NAME]
        if others:
            raise RecipeError(
                f"output folder {self.folder} is not empty (it holds {sorted(others)[0]!r})",
                remedy="name an empty or a new folder with -o",
            )
        mark = self._partial / IDENTITY_NAME
        if self._partial.exists() and (not mark.exists() or mark.read_text() != identity):
            raise RecipeError(
                f"output folder {self.folder} holds the unfinished work of another step "
                "or of other settings",
                remedy=f"repeat that command to finish it, or delete {self._partial}",
            )

    def lock(self, identity: str, on_wait: Callable[[str], None]) -> AbstractContextManager[None]:
        """Holds the folder against other processes."""
        del identity
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        return hold_lock(self.folder.with_name(f".{self.folder.name}.llmopt-lock"), on_wait)

    def open_workspace(self, identity: str) -> Path:
        """Checks the folder and returns the workspace inside it."""
        if (self._handover / "work").exists():
            self._finish_handover(identity)
        self.check(identity)
        work = self._partial / "work"
        work.mkdir(parents=True, exist_ok=True)
        (self._partial / IDENTITY_NAME).write_text(identity)
        return work

    def discard_workspace(self, identity: str) -> None:
        """Empties the workspace."""
        del identity
        clear_folder(self._partial / "work")

    def publish(self, identity: str) -> Artifact:
        """Moves the finished work over the (then empty) folder."""
        flush_folder(self._partial)
        self._partial.rename(self._handover)
        (self._handover / "work").rename(self.folder)
        self._drop_handover()
        del identity
        return Artifact.open(self.folder)

    def _finish_handover(self, identity: str) -> None:
        """Takes back work that was interrupted between publish's two renames."""
        if (self._handover / IDENTITY_NAME).read_text() == identity:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not list_files(self.folder):
                self._handover.rename(self._partial)

    def _drop_handover(self) -> None:
        (self._handover / IDENTITY_NAME).unlink(missing_ok=True)
        self._handover.rmdir()
