"""Several llmopt at once: on one store, into one folder, and beside `store gc`."""

import signal

import pytest

from llmopt.artifacts.store import Store
from tests.e2e.conftest import Furnish, Reference
from tests.e2e.moments import Moment
from tests.e2e.payloads import read_payload
from tests.e2e.workplace import OUTPUT, Job, Run, Workplace, hand_job, recipe_job

WAITING = "another run is making this artifact; waiting for it"
EXIT_USAGE = 2


def halt_at_work(place: Workplace, job: Job) -> Run:
    """Starts a job and halts it after its first block."""
    run = place.start(*job.arguments)
    assert Moment("block", 1).await_in(run, place, job), run.stderr
    run.send(signal.SIGSTOP)
    return run


def says_waiting(run: Run) -> bool:
    """Tells whether a run waits for another one."""
    return WAITING in run.stderr


def test_same_recipe_twice_makes_one_artifact(place: Workplace, reference: Reference) -> None:
    job = recipe_job()
    first = halt_at_work(place, job)
    second = place.start(*job.arguments)
    assert second.wait_for(lambda: says_waiting(second)), second.stderr
    first.send(signal.SIGCONT)
    assert (first.finish(), second.finish()) == (0, 0), (first.stderr, second.stderr)
    assert second.stderr.count(WAITING) == 1
    assert "✓ quantize: in the store" in second.stderr
    assert len(list((place.store / "artifacts").iterdir())) == 1
    assert read_payload(place.folder / job.artifact) == reference.payload


def test_same_folder_is_given_to_one(place: Workplace, reference: Reference) -> None:
    first = halt_at_work(place, hand_job())
    code, stderr = place.run(*hand_job(OUTPUT, "--bits", "8").arguments)
    assert code == EXIT_USAGE
    assert "holds the unfinished work of another step or of other settings" in stderr
    second = place.start(*hand_job().arguments)
    assert second.wait_for(lambda: says_waiting(second)), second.stderr
    first.send(signal.SIGCONT)
    assert (first.finish(), second.finish()) == (0, EXIT_USAGE), (first.stderr, second.stderr)
    assert f"output folder {place.folder / OUTPUT} is not empty" in second.stderr
    assert read_payload(place.folder / OUTPUT) == reference.payload


@pytest.mark.full
def test_two_recipes_on_one_store(furnish: Furnish, reference: Reference) -> None:
    place, alone = furnish(), furnish()
    for each in (place, alone):
        each.write_recipe("other", bits=8)
    jobs = recipe_job(), recipe_job("other")
    runs = [place.start(*job.arguments) for job in jobs]
    assert [run.finish() for run in runs] == [0, 0], [run.stderr for run in runs]
    assert not any(says_waiting(run) for run in runs)
    assert alone.run(*jobs[1].arguments)[0] == 0
    expected = read_payload(alone.folder / jobs[1].artifact)
    assert read_payload(place.folder / jobs[0].artifact) == reference.payload
    assert read_payload(place.folder / jobs[1].artifact) == expected


def test_store_gc_spares_what_a_run_makes(place: Workplace, reference: Reference) -> None:
    place.write_recipe("older", group_size=64)
    job = recipe_job()
    store = Store(place.store)
    run = place.start(*job.arguments)
    num_collections = 0
    while run.process.poll() is None:
        assert store.collect_garbage(dry_run=False) == []
        num_collections += 1
    assert run.finish() == 0, run.stderr
    assert num_collections > 100
    assert store.collect_garbage(dry_run=False) == []
    assert read_payload(place.folder / job.artifact) == reference.payload
    (place.folder / job.artifact).unlink()
    assert len(store.collect_garbage(dry_run=False)) == 1
    assert list((place.store / "artifacts").iterdir()) == []
