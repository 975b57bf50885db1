"""What a planted mistake changes in the files that the server reads, and its digest."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from llmopt.artifacts.triton_description import REQUIREMENTS_NAME, TRITON_DESCRIPTION_NAME
from tests.triton.good_repositories import WRITERS
from tests.triton.mistakes.planting import Mistake

UNREAD = (TRITON_DESCRIPTION_NAME, REQUIREMENTS_NAME)


def digest_plant(mistake: Mistake, folder: Path) -> str:
    """Returns the SHA-256 of what a mistake changes in the files that the server reads.

    Args:
        mistake: What to plant.
        folder: Empty; the good and the wrong repository go there.
    """
    good, repository = plant_beside_good(mistake, folder)
    before, after = read_models(good), read_models(repository)
    changed = [name for name in sorted({*before, *after}) if _changes(before, after, name)]
    digest = hashlib.sha256(mistake.base.encode())
    for name in changed:
        data = after.get(name)
        kind = "removed" if name not in after else "folder" if data is None else "file"
        digest.update(f"\n{kind} {name} {len(data or b'')}\n".encode() + (data or b""))
    return digest.hexdigest()


def _changes(
    before: Mapping[str, bytes | None], after: Mapping[str, bytes | None], name: str
) -> bool:
    return (name in before) != (name in after) or before.get(name) != after.get(name)


def plant_beside_good(mistake: Mistake, folder: Path) -> tuple[Path, Path]:
    """Writes the good repository twice and plants the mistake in the second; returns both."""
    good, repository = folder / "good", folder / "repository"
    for place in (good, repository):
        place.mkdir()
        WRITERS[mistake.base](place)
    mistake.plant(repository)
    return good, repository


def read_models(repository: Path) -> dict[str, bytes | None]:
    """Reads all but what the server does not know of: triton.json and requirements.txt."""
    paths = [path for path in repository.rglob("*") if path.name not in UNREAD]
    return {
        path.relative_to(repository).as_posix(): path.read_bytes() if path.is_file() else None
        for path in paths
    }
