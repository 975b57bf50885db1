"""Killed before any one of its changes to the file system, llmopt goes on as if nothing was."""

import random
from collections.abc import Iterable

import pytest

from tests.e2e.conftest import Reference
from tests.e2e.payloads import read_payload
from tests.e2e.warm import WarmLlmopt
from tests.e2e.workplace import (
    FINISHED_NOTE,
    NUM_BLOCKS,
    OUTPUT,
    STORED_NOTE,
    Job,
    Workplace,
    both_jobs,
)

SEED = 2
JOBS = both_jobs()
EXIT_KILLED = -9
LATER = (FINISHED_NOTE, STORED_NOTE)


def die_and_resume(
    place: Workplace, job: Job, warm: WarmLlmopt, die_at: int, reference: Reference
) -> list[str]:
    """Kills a run before one change, runs again, and lists what is not as it should be."""
    died = warm.run(place, job, die_at)
    faults = place.find_half_work()
    if died.code != EXIT_KILLED:
        faults.append(f"ended with {died.code} instead of being killed: {died.stderr}")
    note = place.expect_note(job)
    num_journaled = count_journaled(died.changes[:-1])
    if num_journaled and note not in (f"resumed: {num_journaled} of {NUM_BLOCKS} blocks", *LATER):
        faults.append(f"{num_journaled} blocks were finished; what is left says {note}")
    resumed = warm.run(place, job)
    if resumed.code != 0:
        faults.append(f"the next run ended with {resumed.code}: {resumed.stderr}")
    elif read_payload(place.folder / job.artifact) != reference.payload:
        faults.append("the artifact is another one")
    if note is not None and note not in resumed.stderr:
        faults.append(f"{note!r} is missing in: {resumed.stderr}")
    faults += [f"left over: {path}" for path in place.find_leftovers()]
    return [f"killed before change {die_at}, {died.changes[-1]}: {fault}" for fault in faults]


def count_journaled(changes: list[str]) -> int:
    """Counts the blocks that a run had written down by then."""
    return sum(c.startswith("os.rename") and c.endswith("/journal.json") for c in changes)


def find_faults_at(
    place: Workplace, job: Job, warm: WarmLlmopt, points: Iterable[int], reference: Reference
) -> list[str]:
    """Dies before each of these changes, each time in an empty place."""
    faults = []
    for die_at in points:
        place.clear()
        faults += die_and_resume(place, job, warm, die_at, reference)
    return faults


def find_first(changes: list[str], part: str) -> int:
    """Returns the number, from 1, of the first change whose path holds `part`."""
    return next(number for number, text in enumerate(changes, start=1) if part in text)


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_crash_points_of_working_sealing_and_publishing(
    place: Workplace,
    job: Job,
    warm: WarmLlmopt,
    changes: dict[Job, list[str]],
    reference: Reference,
) -> None:
    sealing = find_first(changes[job], "manifest.json")
    first, journal = (find_first(changes[job], part) for part in ("partial", "journal.json"))
    rng = random.Random(SEED)  # noqa: S311
    chosen = [*rng.sample(range(first, journal), 2), *rng.sample(range(journal, sealing), 2)]
    points = [*chosen, sealing + 1, sealing + 2, find_last_rename(changes[job])]
    assert find_faults_at(place, job, warm, points, reference) == []


def find_last_rename(changes: list[str]) -> int:
    """Returns the number of the rename that shows the artifact."""
    shown = ("/.llmopt/store/artifacts/", "/" + OUTPUT)
    return max(
        number
        for number, text in enumerate(changes, start=1)
        if text.startswith(tuple(f"os.rename {path}" for path in shown))
    )


@pytest.mark.full
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_every_crash_point(
    place: Workplace,
    job: Job,
    warm: WarmLlmopt,
    changes: dict[Job, list[str]],
    reference: Reference,
) -> None:
    points = range(find_first(changes[job], "partial"), len(changes[job]) + 1)
    assert find_faults_at(place, job, warm, points, reference) == []
