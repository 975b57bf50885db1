"""The paths that a server is started with: such as a shell reads as they stand.

The python backend starts its processes by a line for a shell, in which it quotes nothing.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmopt.triton.owner_mark import hold_mark, take_abandoned

FOLDER_PREFIX = "llmopt-server-"
MARK_NAME = "owner"
SHELL_READS = re.compile(r"[A-Za-z0-9_./+@%,=-]+")
USUAL_FOLDER = "/tmp"  # noqa: S108 - where $TMPDIR is one that a shell would not read


@dataclass(frozen=True)
class ServerPaths:
    """What a server is started over; links where the places themselves have other characters.

    Attributes:
        repository: Of models.
        environment: The folder of the models' Python environment.
        backends: A folder of all backends.
        mark: Descriptor of the mark of the links' folder, for the server to inherit.
    """

    repository: Path
    environment: Path
    backends: Path
    mark: int


@contextmanager
def link_paths(
    repository: Path, environment: Path, backends: Mapping[str, Path]
) -> Iterator[ServerPaths]:
    """Yields the paths of a server, whose links last as long as the `with` block.

    Folders of links whose servers are gone, with all that knew of them, are removed first.

    Args:
        repository: Of models.
        environment: The folder of their Python environment.
        backends: Name → folder.
    """
    usual = tempfile.gettempdir()
    place = usual if SHELL_READS.fullmatch(usual) else USUAL_FOLDER
    _remove_abandoned(Path(place))
    with (
        tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, dir=place) as folder,
        hold_mark(Path(folder) / MARK_NAME) as mark,
    ):
        links = Path(folder)
        (links / "backends").mkdir()
        for name, backend in backends.items():
            (links / "backends" / name).symlink_to(backend.absolute())
        yield ServerPaths(
            repository=_link(repository.absolute(), links / "repository"),
            environment=_link(environment.absolute(), links / "environment"),
            backends=links / "backends",
            mark=mark,
        )


def _remove_abandoned(place: Path) -> None:
    for mark in place.glob(f"{FOLDER_PREFIX}*/{MARK_NAME}"):
        with take_abandoned(mark) as is_abandoned:
            if is_abandoned:
                shutil.rmtree(mark.parent, ignore_errors=True)


def _link(path: Path, link: Path) -> Path:
    """Returns the path itself where a shell reads it: the server's messages name it."""
    if SHELL_READS.fullmatch(str(path)):
        return path
    link.symlink_to(path)
    return link
