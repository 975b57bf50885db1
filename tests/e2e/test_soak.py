"""Memory of a process that quantises again and again."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.soak import METHODS, NUM_RUNS
from tests.models import REPOSITORY, TINY_MODEL

ALLOWED_GROWTH_BYTES = 4_000_000  # from the second round of methods to the fourth


@pytest.mark.full
def test_memory_stays_flat_over_twenty_quantisations(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.soak", TINY_MODEL, tmp_path / "work"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    resident = json.loads((tmp_path / "work" / "resident.json").read_text())
    assert len(resident) == NUM_RUNS
    # Each method against itself: what one needs is not what another one needs.
    second, last = len(METHODS), NUM_RUNS - len(METHODS)
    growth = [resident[last + k] - resident[second + k] for k in range(len(METHODS))]
    assert statistics.median(growth) < ALLOWED_GROWTH_BYTES, resident
