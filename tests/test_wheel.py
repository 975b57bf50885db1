"""What users install: the wheel holds the calibration sets, and finds them there."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.models import REPOSITORY

FIND_SETS = """
import llmopt
from pathlib import Path
from llmopt.data.dataset_spec import DatasetSpec, list_shipped_sets
from llmopt.data.documents import read_documents
print(Path(llmopt.__file__).parent)
print(list_shipped_sets())
for split in ("calibration", "heldout"):
    print(len(read_documents(DatasetSpec(set="apparel-ja", split=split).locate(Path()))))
from llmopt.data.task_items import locate_shipped_tasks, read_tasks
print(len(read_tasks(locate_shipped_tasks())), locate_shipped_tasks())
"""


def test_the_wheel_holds_the_calibration_sets(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, REPOSITORY],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("llmopt-*.whl")
    unpacked = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(unpacked)
    for name in ("calibration.jsonl", "heldout.jsonl", "README.md", "terms.json"):
        assert f"llmopt/calibration/apparel-ja/{name}" in names
    for name in ("report.html", "parts.html", "report.css"):
        assert f"llmopt/report/templates/{name}" in names
    assert "llmopt/serving/gpus.json" in names
    assert not any(name.startswith(("tests/", "examples/")) for name in names)
    found = subprocess.run(
        [sys.executable, "-c", FIND_SETS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert Path(found[0]) == unpacked / "llmopt"
    assert found[1] == "['apparel-ja', 'general-en', 'general-ja']"
    assert int(found[2]) >= 1000
    assert int(found[3]) >= 200
    num_tasks, place = found[4].split(" ", 1)
    assert int(num_tasks) >= 120
    assert Path(place).is_relative_to(unpacked)
