"""The recipe that `make demo` runs, as a user runs it: GPTQ passes its gate, rounding does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunCli
from tests.models import REPOSITORY

QUICKSTART = REPOSITORY / "recipes" / "quickstart.yaml"
ALL_RECIPES = sorted((REPOSITORY / "recipes").glob("*.yaml"))
BEATS_ROUNDING_BY = 6.0


def read_gate_metrics(folder: Path) -> dict[str, Any]:
    """Reads what the gate measured, whatever its verdict."""
    manifest = json.loads((folder / "out/quickstart/gate/manifest.json").read_text())
    metrics: dict[str, Any] = manifest["metrics"]
    return metrics


def test_gptq_passes_the_gate_that_rounding_misses(tmp_path: Path, run_cli: RunCli) -> None:
    passed = run_cli("run", QUICKSTART)
    assert passed.returncode == 0, passed.stderr
    gptq = read_gate_metrics(tmp_path)
    for expected in ("KL 0.", "perplexity", "top-1 agreement", "out/quickstart/quantize", "next:"):
        assert expected in passed.stdout
    missed = run_cli("run", QUICKSTART, "--set", "steps.quantize.uses=quantize.rtn")
    assert missed.returncode == 3, missed.stderr
    rounding = read_gate_metrics(tmp_path)
    assert f"kl_mean is {rounding['kl_mean']:.6g}, allowed at most 0.002" in missed.stderr
    assert rounding["kl_mean"] / gptq["kl_mean"] >= BEATS_ROUNDING_BY
    assert gptq["kl_mean"] < 0.002 / 2, "the gate should be passed with room"


@pytest.mark.parametrize("recipe", ALL_RECIPES, ids=lambda path: path.stem)
def test_every_recipe_runs_in_its_smoke_variant(recipe: Path, run_cli: RunCli) -> None:
    finished = run_cli("run", recipe, "--variant", "smoke")
    assert finished.returncode == 0, finished.stderr


def test_the_second_run_does_nothing(run_cli: RunCli) -> None:
    first = run_cli("run", QUICKSTART, "--variant", "smoke", "--json")
    second = run_cli("run", QUICKSTART, "--variant", "smoke", "--json")
    events = [[json.loads(line) for line in run.stdout.splitlines()] for run in (first, second)]
    started = [[e["step"] for e in run if e["event"] == "step_started"] for run in events]
    assert started == [["quantize", "gate", "onnx", "engine"], []]


def test_what_follows_the_gate_is_sound(run_cli: RunCli) -> None:
    assert run_cli("run", QUICKSTART, "--variant", "smoke").returncode == 0
    exported = run_cli("verify", "out/quickstart/onnx")
    assert exported.returncode == 0, exported.stderr
    assert "weights qdq_int4" in exported.stdout
    engine = run_cli("verify", "out/quickstart/engine")
    assert engine.returncode == 0, engine.stderr
    assert "profiles prefill, decode" in engine.stdout
