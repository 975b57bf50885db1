"""A full disk, a real one: the error says how much is missing, and nothing half is published."""

import re
import signal
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Reference
from tests.e2e.moments import Moment
from tests.e2e.payloads import read_payload
from tests.e2e.small_disk import SmallDisk, mount_small_disk
from tests.e2e.warm import WarmLlmopt
from tests.e2e.workplace import OUTPUT, Job, Workplace, hand_job, recipe_job

EXIT_RESOURCES = 6
AMPLE = "64m"
JOBS = {"run": recipe_job(), "by hand": hand_job(f"disk/{OUTPUT}")}


@pytest.fixture
def disk(place: Workplace) -> Iterator[SmallDisk]:
    """The disk on which the store and the output lie."""
    with mount_small_disk(place.folder / "disk", AMPLE) as disk:
        (place.folder / ".llmopt").symlink_to("disk/store")
        (disk.folder / "store").mkdir()
        yield disk
    (place.folder / "disk").rmdir()


def list_published(place: Workplace, job: Job) -> list[str]:
    """Lists what a failed run must not have made."""
    found = [*(place.store / "artifacts").glob("*"), *(place.folder / job.artifact).glob("*.*s*")]
    return [path.name for path in found]


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_too_small_a_disk_is_refused_before_any_work(
    place: Workplace, disk: SmallDisk, warm: WarmLlmopt, reference: Reference, job: Job
) -> None:
    disk.remount("size=600k")
    refused = warm.run(place, job)
    assert refused.code == EXIT_RESOURCES, refused.stderr
    assert re.search(r"has \d+\.\d kB free; the step needs about 1\.\d MB", refused.stderr)
    assert list_published(place, job) == []
    assert place.find_work(job, "*.safetensors") == []
    disk.remount(f"size={AMPLE}")
    assert warm.run(place, job).code == 0
    assert read_payload(place.folder / job.artifact) == reference.payload


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_disk_that_is_full_from_the_start(
    place: Workplace, disk: SmallDisk, warm: WarmLlmopt, job: Job
) -> None:
    disk.fill()
    failed = warm.run(place, job)
    assert failed.code == EXIT_RESOURCES, failed.stderr
    assert "the disk is full" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert list_published(place, job) == []


def test_disk_that_fills_up_during_the_work(
    place: Workplace, disk: SmallDisk, warm: WarmLlmopt, reference: Reference
) -> None:
    job = recipe_job()
    run = place.start(*job.arguments)
    assert Moment("block", 1).await_in(run, place, job), run.stderr
    run.send(signal.SIGSTOP)
    disk.fill()
    run.send(signal.SIGCONT)
    assert run.finish() == EXIT_RESOURCES, run.stderr
    assert re.search(
        r"the disk of \S+ is full \(\d+ B free, the step needs about 1\.\d MB\); "
        r"nothing was published",
        run.stderr,
    )
    assert "Traceback" not in run.stderr
    assert list_published(place, job) == []
    assert place.find_work(job, "*.tmp") == []
    note = place.expect_note(job)
    assert note is not None
    disk.make_room()
    resumed = warm.run(place, job)
    assert resumed.code == 0, resumed.stderr
    assert note in resumed.stderr
    assert read_payload(place.folder / job.artifact) == reference.payload


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_disk_just_above_the_estimate_is_enough(
    place: Workplace, disk: SmallDisk, warm: WarmLlmopt, reference: Reference, job: Job
) -> None:
    disk.remount("size=600k")
    refused = warm.run(place, job).stderr
    needed = re.search(r"the step needs about (\d+\.\d) MB", refused)
    assert needed is not None
    disk.remount(f"size={int(float(needed[1]) * 1.1e6)}")
    assert warm.run(place, job).code == 0
    assert read_payload(place.folder / job.artifact) == reference.payload
