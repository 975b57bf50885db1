"""The paths that a server is started with: such as a shell reads as they stand.

The python backend starts its processes by a line for a shell, in which it quotes nothing.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SHELL_READS = re.compile(r"[A-Za-z0-9_./+@%,=-]+")
USUAL_FOLDER = "/tmp"  # noqa: S108 - where $TMPDIR is one that a shell would not read


@dataclass(frozen=True)
class ServerPaths:
    """What a server is started over; links where the places themselves have other characters.

    Attributes:
        repository: Of models.
        environment: The folder of the models' Python environment.
        backends: A folder of all backends.
    """

    repository: Path
    environment: Path
    backends: Path


@contextmanager
def link_paths(
    repository: Path, environment: Path, backends: Mapping[str, Path]
) -> Iterator[ServerPaths]:
    """Yields the paths of a server, whose links last as long as the `with` block.

    Args:
        repository: Of models.
        environment: The folder of their Python environment.
        backends: Name → folder.
    """
    usual = tempfile.gettempdir()
    place = usual if SHELL_READS.fullmatch(usual) else USUAL_FOLDER
    with tempfile.TemporaryDirectory(prefix="llmopt-server-", dir=place) as folder:
        links = Path(folder)
        (links / "backends").mkdir()
        for name, backend in backends.items():
            (links / "backends" / name).symlink_to(backend.absolute())
        yield ServerPaths(
            repository=_link(repository.absolute(), links / "repository"),
            environment=_link(environment.absolute(), links / "environment"),
            backends=links / "backends",
        )


def _link(path: Path, link: Path) -> Path:
    """Returns the path itself where a shell reads it: the server's messages name it."""
    if SHELL_READS.fullmatch(str(path)):
        return path
    link.symlink_to(path)
    return link
