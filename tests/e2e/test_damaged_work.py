"""Unfinished work that a power cut or a person damaged: never gone on from, and said."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Reference
from tests.e2e.payloads import read_payload
from tests.e2e.warm import WarmLlmopt
from tests.e2e.workplace import FINISHED_NOTE, Job, Workplace, hand_job, recipe_job

ANEW = "unfinished work can't be used, starting anew: "
EXIT_KILLED = -9


def empty(path: Path) -> None:
    """Leaves what a file system without its last writes shows: a name without contents."""
    path.write_bytes(b"")


def cut(path: Path) -> None:
    """Takes the second half away."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def blank(path: Path) -> None:
    """Keeps the size and loses the contents."""
    path.write_bytes(b"\0" * path.stat().st_size)


def find_third(changes: list[str], path: str) -> int:
    """Returns the number, from 1, of the third change to a path that ends so."""
    numbers = [n for n, change in enumerate(changes, start=1) if change.endswith(path)]
    return numbers[2]


@pytest.mark.parametrize("harm", [empty, cut, blank])
@pytest.mark.parametrize(
    "name", ["journal.json", "hidden-00002.safetensors", "block-00000.safetensors"]
)
def test_damaged_progress(
    place: Workplace,
    warm: WarmLlmopt,
    changes: dict[Job, list[str]],
    reference: Reference,
    name: str,
    harm: Callable[[Path], None],
) -> None:
    job = recipe_job()
    died = warm.run(place, job, find_third(changes[job], "/journal.json"))
    assert died.code == EXIT_KILLED
    assert place.count_journaled(job) == 2
    (path,) = place.find_work(job, name)
    harm(path)
    resumed = warm.run(place, job)
    assert resumed.code == 0, resumed.stderr
    assert f"{ANEW}{name} " in resumed.stderr
    assert "resumed:" not in resumed.stderr
    assert read_payload(place.folder / job.artifact) == reference.payload


@pytest.mark.parametrize(("name", "harm"), [("manifest.json", cut), ("model.safetensors", blank)])
def test_damaged_finished_work_that_was_not_published(
    place: Workplace,
    warm: WarmLlmopt,
    changes: dict[Job, list[str]],
    reference: Reference,
    name: str,
    harm: Callable[[Path], None],
) -> None:
    job = hand_job()
    # The scratch folder is made by two calls; its removal comes after sealing.
    died = warm.run(place, job, find_third(changes[job], "/.scratch"))
    assert died.code == EXIT_KILLED
    assert place.expect_note(job) == FINISHED_NOTE
    (path,) = place.find_work(job, name)
    harm(path)
    resumed = warm.run(place, job)
    assert resumed.code == 0, resumed.stderr
    assert FINISHED_NOTE not in resumed.stderr
    assert read_payload(place.folder / job.artifact) == reference.payload
