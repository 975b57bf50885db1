"""SIGTERM and Ctrl-C: exit code 130, a word on how to go on, no traceback, and it does go on."""

import random
import signal

import pytest

from tests.e2e.conftest import Reference
from tests.e2e.moments import Moment
from tests.e2e.payloads import read_payload
from tests.e2e.workplace import NUM_BLOCKS, Job, Run, Workplace, hand_job, recipe_job

EXIT_INTERRUPTED = 130
TEXT = "interrupted; repeat the same command: what was finished is kept"
SEED = 11
BOTH = (signal.SIGTERM, signal.SIGINT)


def interrupt(
    place: Workplace, job: Job, moment: Moment, number: signal.Signals, times: int = 1
) -> Run:
    """Sends a signal at a moment, once or impatiently, and checks how the run takes it."""
    run = place.start(*job.arguments)
    assert moment.await_in(run, place, job), run.stderr
    for _ in range(times):
        run.send(number)
    assert run.finish() == EXIT_INTERRUPTED, run.stderr
    assert TEXT in run.stderr
    assert "Traceback" not in run.stderr
    assert place.find_half_work() == []
    return run


def test_interrupted_work_goes_on(place: Workplace, reference: Reference) -> None:
    job = recipe_job()
    interrupt(place, job, Moment("block", 1), signal.SIGTERM)
    num_done = place.count_journaled(job)
    assert num_done >= 1
    run = interrupt(place, job, Moment("block", num_done + 1), signal.SIGINT, times=9)
    assert f"resumed: {num_done} of {NUM_BLOCKS} blocks" in run.stderr
    note = place.expect_note(job)
    code, stderr = place.run(*job.arguments)
    assert code == 0, stderr
    assert note is not None
    assert note in stderr
    assert read_payload(place.folder / job.artifact) == reference.payload


@pytest.mark.full
@pytest.mark.parametrize("job", [recipe_job(), hand_job()], ids=["run", "by hand"])
def test_interrupted_at_any_moment(place: Workplace, job: Job, reference: Reference) -> None:
    rng = random.Random(SEED)  # noqa: S311
    codes = []
    for number in BOTH * 6:
        place.clear()
        run = place.start(*job.arguments)
        # Most of the time goes into imports, in which libraries swallow exceptions.
        if Moment("loading", delay_s=rng.random() * reference.load_s).await_in(run, place, job):
            run.send(number)
        codes.append(run.finish())
        assert "Traceback" not in run.stderr
        assert (TEXT in run.stderr) == (codes[-1] == EXIT_INTERRUPTED), run.stderr
        assert place.find_half_work() == []
    assert set(codes) <= {EXIT_INTERRUPTED, 0}  # 0: it was done before the signal came
    assert codes.count(EXIT_INTERRUPTED) >= 6
    if codes[-1] == EXIT_INTERRUPTED:
        assert place.run(*job.arguments)[0] == 0
    assert read_payload(place.folder / job.artifact) == reference.payload
