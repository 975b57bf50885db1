"""Models and data sets of the hub: found in the local cache, fetched into it, and checked.

`huggingface_hub` does the transfer: it goes on after a cut connection, and reads `HF_ENDPOINT`,
`HF_TOKEN`, `HF_HUB_OFFLINE` and the proxy variables itself. Of what arrives it compares the size
alone (`file_download.http_get`); the SHA-256 of large files is compared here.
"""

import errno
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmopt.artifacts.digest import FileHasher
from llmopt.errors import InputError

SHA256_LENGTH = 64


@dataclass(frozen=True)
class HubRepository:
    """A repository on the hub, at a revision.

    Attributes:
        kind: What it holds.
        repo_id: `org/name`.
        revision: Commit, tag or branch; None is the main branch.
        patterns: Names of the files that are wanted.
        is_whole: Tells a snapshot that can be used from a part of one, such as a tokenizer alone.
    """

    kind: Literal["model", "dataset"]
    repo_id: str
    revision: str | None
    patterns: tuple[str, ...]
    is_whole: Callable[[Path], bool] = Path.is_dir

    def describe(self) -> str:
        """Writes it for messages."""
        noun = "model" if self.kind == "model" else "data set"
        return f"{noun} {self.repo_id}@{self.revision or 'main'}"

    @property
    def placeholder(self) -> Path:
        """A path that does not exist, for what is not downloaded yet."""
        return Path(f"hub:{self.repo_id}@{self.revision or 'main'}")


def find_snapshot(repository: HubRepository) -> Path | None:
    """Returns the repository's folder in the local cache, None where files of it are missing.

    The folder is named by its commit. Nothing is asked of the network.

    Raises:
        InputError: There can be no repository of that name, or the cache can't be read.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    try:
        folder = _download(repository, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{repository.describe()}: {error}") from None
    # What a data set consists of, only the hub can say: offline, whatever is there must do.
    is_known = repository.kind == "model" or HF_HUB_OFFLINE or _whole_mark(folder).exists()
    return folder if is_known and repository.is_whole(folder) else None


def fetch_snapshot(repository: HubRepository, hasher: FileHasher) -> Path:
    """Fetches what is missing into the local cache and checks it; returns the folder.

    Args:
        repository: What to fetch.
        hasher: Remembers the hashes, so that files are checked once.

    Raises:
        InputError: The hub refuses, can't be reached, or sent other bytes than it announced.
    """
    folder = find_snapshot(repository) or _fetch(repository)
    damaged = [path for path, sha in _list_large_files(folder) if hasher.digest(path) != sha]
    if damaged:
        for path in damaged:
            for link in (path.resolve(), path.parent / path.readlink(), path):
                link.unlink(missing_ok=True)  # a blob may itself be a link to one that is shared
        names = ", ".join(sorted(path.relative_to(folder).as_posix() for path in damaged))
        raise InputError(
            f"{repository.describe()}: not the bytes that the hub's SHA-256 announces: {names}; "
            "they were removed from the local cache",
            remedy="run again: they will be downloaded anew",
        )
    mark = _whole_mark(folder)
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    return folder


def _whole_mark(folder: Path) -> Path:
    """Returns the file that says that a snapshot was fetched to the end."""
    return folder.parent.parent / ".llmopt-whole" / folder.name


def _list_large_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yields what git-lfs keeps, with its SHA-256: the name of the blob that the link points to."""
    for path in folder.rglob("*"):
        if path.is_symlink() and len(sha := path.readlink().name) == SHA256_LENGTH:
            yield path, sha


def _download(repository: HubRepository, *, local_files_only: bool) -> Path:
    # Imported here: the hub's client takes longer to load than most recipes to validate.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # noqa: PLC0415
        disable_progress_bars,
    )

    if not sys.stderr.isatty():
        disable_progress_bars()
    folder: Any = snapshot_download(
        repo_id=repository.repo_id,
        repo_type=repository.kind,
        revision=repository.revision,
        allow_patterns=list(repository.patterns),
        local_files_only=local_files_only,
    )
    return Path(folder)


def _fetch(repository: HubRepository) -> Path:
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # noqa: PLC0415
        GatedRepoError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = repository.describe()
    try:
        return _download(repository, local_files_only=False)
    except LocalEntryNotFoundError as error:
        raise _explain_absence(what, error) from None
    except GatedRepoError:
        raise InputError(
            f"{what} is gated, and this access token may not read it",
            remedy="accept its terms on the hub, and set HF_TOKEN to a token of that account",
        ) from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{what}: the hub knows none of that name, or shows it only to those who may read it",
            remedy="check the name; for a private one set HF_TOKEN to an access token",
        ) from None
    except RevisionNotFoundError:
        raise InputError(f"{what}: the hub has no such commit, tag or branch of it") from None
    except (HTTPError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise InputError(f"{what}: {error}", remedy="run again to go on") from None


def _explain_absence(what: str, error: Exception) -> InputError:
    """Says why a snapshot is not there, and which files of a begun one are missing."""
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE  # noqa: PLC0415

    why, way_out = "the hub can't be reached", "connect and run again, or give a local copy"
    if HF_HUB_OFFLINE:
        why, way_out = "HF_HUB_OFFLINE is set", "run once without it, or give a local copy"
    elif error.__cause__ is not None:
        why += f" ({error.__cause__})"
    where = f"the local cache, {HF_HUB_CACHE}"
    _, is_partial, missing = str(error).partition(" is incomplete: ")
    if is_partial:
        missing = missing.partition(". ")[0]
        return InputError(f"{what} is not whole in {where}: {missing}; {why}", remedy=way_out)
    return InputError(
        f"{what} is not in {where}; {why}",
        remedy=f"{way_out}; a folder is written with a leading ./ or /",
    )
