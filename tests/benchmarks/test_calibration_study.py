"""The scripts of docs/calibration-study.md: what they sum up, and that they still run."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.models import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
SIZES = ["--seeds", "1", "--samples", "8", "--seq-len", "32", "--documents", "12", "--threads", "1"]
ROWS = (
    "round-to-nearest", "apparel-ja", "general-ja", "general-en", "mix 70/15/15", "random tokens",
)  # fmt: skip


def load_script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Imports a script as its neighbours do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def make_rows(tables: ModuleType, calibration: str, kl_by_run: dict[str, list[float]]) -> list[Any]:
    """Describes documents of 10, 20, 30, … tokens on one held-out set."""
    return [
        tables.DocumentKl("g", calibration, "held", run, f":{index}", 10 * (index + 1), kl)
        for run, kls in kl_by_run.items()
        for index, kl in enumerate(kls)
    ]


def summarise(tables: ModuleType, **kl_by_run: dict[str, list[float]]) -> dict[str, Any]:
    """Returns calibration set → its cell."""
    rows = [row for name, kls in kl_by_run.items() for row in make_rows(tables, name, kls)]
    return {name: cells["held"] for name, cells in tables.summarise(rows)["g"].items()}


def test_seeds_are_averaged_and_documents_weighed_by_their_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = load_script("calibration_study_tables", monkeypatch)
    kls = {"a": [0.001] * 5 + [0.004], "b": [0.003] * 6}
    cell = summarise(tables, one=kls)["one"]
    # Tokens are 10 … 60: the last document holds 60 of 210.
    assert cell.each == pytest.approx((0.001 + 0.003 * 60 / 210, 0.003))
    assert cell.mean == pytest.approx(sum(cell.each) / 2)
    text = tables.describe_kl(cell)
    assert text.startswith("2.429 [2.")
    assert text.endswith("seeds 1.857 to 3.000")


def test_a_difference_is_one_where_interval_and_seeds_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = load_script("calibration_study_tables", monkeypatch)
    base = [0.001, 0.002, 0.003, 0.004, 0.005, 0.006]
    cells = summarise(
        tables,
        reference={"a": base, "b": [kl + 0.0002 for kl in base]},
        higher={"a": [kl + 0.001 for kl in base], "b": [kl + 0.0013 for kl in base]},
        mixed={"a": [0.006, 0.002, 0.003, 0.004, 0.005, 0.001], "b": base},
        scattered={"a": base, "b": [kl + 0.0006 for kl in base]},
    )
    described = {n: tables.describe_difference(c, cells["reference"]) for n, c in cells.items()}
    assert described["higher"] == "+1.050 [+1.050, +1.050], +23.7 %"
    assert described["reference"].endswith("+0.0 %: no difference")
    assert described["mixed"].endswith("%: no difference")
    assert described["scattered"].endswith("%: no difference, seeds overlap")


def test_random_tokens_are_ordinary_ones(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    script = load_script("random_token_calibration", monkeypatch)
    ids_NT = script.draw_windows(tiny_model, (64, 512), seed=1).ids_NT
    assert (ids_NT.min(), ids_NT.max()) == (7, 6143)  # 0 to 6 are special
    counts = np.bincount(ids_NT.ravel(), minlength=6144)[7:]
    assert abs(counts.var() / counts.mean() - 1) < 0.1  # as a Poisson distribution
    again, other = (script.draw_windows(tiny_model, (64, 512), seed).ids_NT for seed in (1, 2))
    assert np.array_equal(ids_NT, again)
    assert not np.array_equal(ids_NT, other)


@pytest.mark.full
def test_the_study_runs_and_a_second_run_computes_nothing(
    tmp_path: Path, random_model: Path
) -> None:
    script = [sys.executable, str(BENCHMARKS / "calibration_study.py"), *SIZES]
    command = [*script, "--model", str(random_model), "--work", "work", "--figure", "kl.svg"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    runs = [
        subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        for _ in range(2)
    ]
    first, second = runs
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    for row in ROWS:
        tables_of_row = [line for line in lines if line.startswith(f"| {row} |")]
        # Two group sizes, and but for the reference itself a difference in each.
        assert len(tables_of_row) == (2 if row == "apparel-ja" else 4)
        assert all(line.count("[") == 4 and "nan" not in line for line in tables_of_row)
    assert (tmp_path / "kl.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert second.returncode == 0, second.stderr
    assert second.stdout == first.stdout
    assert "done in" in first.stderr
    assert "done in" not in second.stderr
