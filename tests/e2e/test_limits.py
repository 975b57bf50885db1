"""What the system forbids: more memory than allowed, and writing to what is read-only."""

import re
from pathlib import Path

import pytest

from tests.e2e.small_disk import mount_small_disk
from tests.e2e.warm import WarmLlmopt
from tests.e2e.workplace import OUTPUT, Job, Workplace, hand_job, recipe_job
from tests.models import make_model

EXIT_RESOURCES = 6
EXIT_INPUT = 8
# Libraries alone take about 0.85 GB of addresses; one Hessian of this width takes 1 GiB.
MEMORY_BYTES = 1_500_000_000
WIDE = 16384


def test_too_little_memory(place: Workplace, tmp_path: Path) -> None:
    # Within the imports of torch and transformers a lack of memory shows in any way at all
    # (SystemError, OSError, abort); so the limit leaves room for them and not for the work.
    wide = make_model(
        tmp_path / "wide", hidden_size=64, intermediate_size=WIDE, num_hidden_layers=1
    )
    (place.folder / "model").unlink()
    (place.folder / "model").symlink_to(wide, target_is_directory=True)
    job = recipe_job()
    code, stderr = place.run(*job.arguments, memory_bytes=MEMORY_BYTES)
    assert code == EXIT_RESOURCES, stderr
    assert re.search(
        r"out of memory \(at most 1\.5 GB for this process now; about \d\.\d GB needed\)", stderr
    )
    assert "Traceback" not in stderr
    assert place.find_half_work() == []


@pytest.mark.parametrize(
    ("job", "path"),
    [
        (recipe_job("recipe", "--store", "disk"), "hashes.json"),
        (hand_job(f"disk/{OUTPUT}"), f".{OUTPUT}.llmopt-lock"),
        (hand_job("disk/deeper/output"), "deeper"),
    ],
    ids=["store", "output", "deeper output"],
)
def test_read_only_disk(place: Workplace, warm: WarmLlmopt, job: Job, path: str) -> None:
    with mount_small_disk(place.folder / "disk", "1m") as disk:
        disk.remount("ro")
        failed = warm.run(place, job)
    (place.folder / "disk").rmdir()
    assert failed.code == EXIT_INPUT, failed.stderr
    assert re.search(rf"unsuitable input: \S*{re.escape(path)}\S*: Read-only file", failed.stderr)
    assert "name another place (--store, -o)" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_output_folder_that_nothing_can_be_renamed_over(place: Workplace, warm: WarmLlmopt) -> None:
    with mount_small_disk(place.folder / "disk", "64m"):
        refused = warm.run(place, hand_job("disk"))
        inside = warm.run(place, hand_job("disk/model"))
    (place.folder / "disk").rmdir()
    assert refused.code == 2
    assert re.search(r"disk is a mount point.*\n.*-o \S+/disk/model", refused.stderr)
    assert inside.code == 0
