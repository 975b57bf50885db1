"""Where a step's work goes while it is made and when it is whole: a store, or a given folder."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.files import flush_folder, write_text_atomically
from llmopt.artifacts.locking import hold_lock
from llmopt.artifacts.manifest import read_manifest
from llmopt.errors import RecipeError

PARTIAL_NAME = ".llmopt-partial"
IDENTITY_NAME = "identity"
NEW_NAME = "new"  # in the partial folder: the output folder was made for it
WORK_NAME = "work"


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

    def hold_for_reading(self, identity: str) -> AbstractContextManager[None]:
        """Keeps the finished artifact from being removed or replaced."""

    def publish(self, identity: str, on_wait: Callable[[str], None]) -> Artifact:
        """Flushes the workspace and renames it into place; `on_wait` hears if readers hold it."""


class FolderDestination:
    """A folder named by the user (`-o DIR`): empty, or holding the same step's unfinished work.

    The work is done in `DIR/.llmopt-partial`; publishing renames it beside DIR and then over
    the emptied DIR, so that DIR holds no half artifact at any moment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()  # a link to a folder could not be renamed over
        self._partial = self.folder / PARTIAL_NAME
        self._handover = self.folder.parent / f".{self.folder.name}.llmopt-handover"

    def find(self, identity: str) -> Artifact | None:
        """Finds nothing: an explicit folder is made anew or resumed, never reused."""
        del identity
        return None

    def check(self, identity: str) -> None:
        """Refuses a folder that holds anything but this step's unfinished work.

        Raises:
            RecipeError: The folder is not empty, or holds another step's work.
        """
        if self.folder.resolve() == Path.cwd():
            raise RecipeError(
                f"output {self.folder} is the working directory", remedy="name a folder below it"
            )
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise RecipeError(f"output {self.folder} is a file", remedy="name a folder with -o")
        if self.folder.is_mount():
            raise RecipeError(
                f"output folder {self.folder} is a mount point, which nothing can be renamed over",
                remedy=f"name a folder inside it: -o {self.folder / 'model'}",
            )
        others = [path.name for path in self.folder.iterdir() if path.name != PARTIAL_NAME]
        if others:
            raise RecipeError(
                f"output folder {self.folder} is not empty (it holds {sorted(others)[0]!r})",
                remedy="name an empty or a new folder with -o",
            )
        if self._holds_other_work(self._partial, identity):
            raise RecipeError(
                f"output folder {self.folder} holds the unfinished work of another step "
                "or of other settings",
                remedy=f"repeat that command to finish it, or delete {self._partial}",
            )

    def lock(self, identity: str, on_wait: Callable[[str], None]) -> AbstractContextManager[None]:
        """Holds the folder against other processes."""
        del identity
        return hold_lock(self.folder.parent / f".{self.folder.name}.llmopt-lock", on_wait)

    def open_workspace(self, identity: str) -> Path:
        """Checks the folder and returns the workspace inside it."""
        if self._handover.exists():
            self._take_back_handover()
        self.check(identity)
        work = self._partial / WORK_NAME
        if not work.exists():
            self._mark(identity)  # before there is work, so that work is never without one
            work.mkdir()
        return work

    def discard_workspace(self, identity: str) -> None:
        """Removes the workspace, and the output folder if that was made for it."""
        del identity
        is_new = (self._partial / NEW_NAME).exists()
        for path in (self._partial / WORK_NAME, self._partial):  # the mark outlives the work
            if path.exists():
                shutil.rmtree(path)
        if is_new and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def hold_for_reading(self, identity: str) -> AbstractContextManager[None]:
        """Holds nothing: no other run touches a folder that is full."""
        del identity
        return nullcontext()

    def publish(self, identity: str, on_wait: Callable[[str], None]) -> Artifact:
        """Moves the finished work over the (then empty) folder."""
        del identity, on_wait
        work = self._partial / WORK_NAME
        flush_folder(work)
        work.rename(self._handover)
        shutil.rmtree(self._partial)
        self._handover.rename(self.folder)
        return Artifact.open(self.folder)

    def _take_back_handover(self) -> None:
        """Takes back the finished work of a publish that was killed between its renames."""
        self._mark(read_manifest(self._handover).identity)
        self._handover.rename(self._partial / WORK_NAME)

    def _mark(self, identity: str) -> None:
        is_new = not self.folder.exists()
        self._partial.mkdir(parents=True, exist_ok=True)
        if is_new:
            (self._partial / NEW_NAME).touch()
        write_text_atomically(self._partial / IDENTITY_NAME, identity)

    @staticmethod
    def _holds_other_work(partial: Path, identity: str) -> bool:
        mark = partial / IDENTITY_NAME
        has_work = (partial / WORK_NAME).exists()
        return has_work and (not mark.exists() or mark.read_text() != identity)
