"""`kill -9` at random moments of the real command: the next run goes on, the result is the same."""

import random
import signal
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pytest

from tests.e2e.conftest import Furnish, Reference
from tests.e2e.moments import Moment
from tests.e2e.payloads import read_payload
from tests.e2e.workplace import NUM_BLOCKS, Job, Workplace, hand_job, recipe_job

SEED = 5


def choose_moments(reference: Reference) -> Iterator[Moment]:
    """Yields ten moments, from the first import to the last rename, then any, all seeded."""
    rng = random.Random(SEED)  # noqa: S311
    load_s, block_s = reference.load_s, reference.block_s
    blocks = sorted(rng.sample(range(1, NUM_BLOCKS), 5))
    yield from (
        Moment("loading", delay_s=rng.random() * load_s),
        Moment("block", blocks[0]),  # at once: just after the journal changed
        Moment("block", blocks[1], rng.random() * block_s),
        Moment("loading", delay_s=rng.random() * load_s),
        Moment("block", blocks[2], rng.random() * block_s),
        Moment("block", blocks[3]),
        Moment("block", blocks[4], rng.random() * block_s),
        Moment("merge"),
        Moment("seal"),
        Moment("publication"),
    )
    while True:
        yield Moment("block", rng.randrange(1, NUM_BLOCKS), rng.random() * block_s)


def kill_and_check(place: Workplace, job: Job, moment: Moment) -> bool:
    """Starts the command, kills it at the moment, checks what it left; False if it was faster."""
    note = place.expect_note(job)
    run = place.start(*job.arguments)
    alive = moment.await_in(run, place, job)
    if alive:
        run.send(signal.SIGKILL)
    code = run.finish()
    assert code in ((-signal.SIGKILL, 0) if alive else (0,)), run.stderr
    assert place.find_half_work() == []
    if code == 0 or place.expect_note(job) != note:  # it came far enough to say so
        assert note is None or note in run.stderr
    return code != 0


def kill_chain(place: Workplace, job: Job, moments: Iterable[Moment], wanted: int) -> None:
    """Kills one run after another until so many are dead, then lets the last one finish.

    Runs that were faster than their killer do not count.
    """
    num_killed = 0
    for moment in islice(moments, 3 * wanted):
        if kill_and_check(place, job, moment):
            num_killed += 1
        else:
            place.clear()
        if num_killed == wanted:
            break
    assert num_killed == wanted, "too many runs were faster than their killer"
    if not (place.folder / job.artifact / "manifest.json").exists():
        note = place.expect_note(job)
        code, stderr = place.run(*job.arguments)
        assert code == 0, stderr
        assert note is None or note in stderr


def test_killed_three_times(place: Workplace, reference: Reference) -> None:
    rng = random.Random(SEED)  # noqa: S311
    moments = [
        Moment("block", 1),
        Moment("block", 2, rng.random() * reference.block_s),
        Moment("block", 4, rng.random() * reference.block_s),
    ]
    job = recipe_job()
    kill_chain(place, job, moments, 3)
    assert read_payload(place.folder / job.artifact) == reference.payload


@pytest.mark.full
@pytest.mark.parametrize("job", [recipe_job(), hand_job()], ids=["run", "by hand"])
def test_killed_ten_times(place: Workplace, job: Job, reference: Reference) -> None:
    kill_chain(place, job, choose_moments(reference), 10)
    assert read_payload(place.folder / job.artifact) == reference.payload


@pytest.mark.full
@pytest.mark.parametrize(
    "settings",
    [
        {"format": "compressed-tensors"},
        {"desc_act": True},
        {"activation_memory_gb": 1e-7},  # all activations on disk
        {"uses": "quantize.rtn"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_killed_with_other_settings(
    furnish: Furnish, reference: Reference, settings: dict[str, Any]
) -> None:
    job = recipe_job()
    whole, killed = furnish(), furnish()
    for place in (whole, killed):
        place.write_recipe(**settings)
    code, stderr = whole.run(*job.arguments)
    assert code == 0, stderr
    kill_chain(killed, job, islice(choose_moments(reference), 1, None, 2), 4)
    expected = read_payload(whole.folder / job.artifact)
    assert read_payload(killed.folder / job.artifact) == expected
