"""The recipe that `make demo` runs, as a user runs it: GPTQ passes its gate, rounding does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmopt.triton.server_distribution import ServerDistribution
from tests.conftest import RunCli, make_run_cli
from tests.models import REPOSITORY

QUICKSTART = REPOSITORY / "recipes" / "quickstart.yaml"
# The guide's ensemble has tests of its own.
OTHER_RECIPES = [REPOSITORY / "recipes" / f"{name}.yaml" for name in ("compare", "techpack")]
BEATS_ROUNDING_BY = 6.0


def read_gate_metrics(folder: Path) -> dict[str, Any]:
    """Reads what the gate measured, whatever its verdict."""
    manifest = json.loads((folder / "out/quickstart/gate/manifest.json").read_text())
    metrics: dict[str, Any] = manifest["metrics"]
    return metrics


def test_gptq_passes_the_gate_that_rounding_misses(tmp_path: Path, run_cli: RunCli) -> None:
    gate_alone = ("--until", "gate")
    passed = run_cli("run", QUICKSTART, *gate_alone)
    assert passed.returncode == 0, passed.stderr
    gptq = read_gate_metrics(tmp_path)
    for expected in ("KL 0.", "perplexity", "top-1 agreement", "out/quickstart/quantize", "next:"):
        assert expected in passed.stdout
    missed = run_cli("run", QUICKSTART, *gate_alone, "--set", "steps.quantize.uses=quantize.rtn")
    assert missed.returncode == 3, missed.stderr
    rounding = read_gate_metrics(tmp_path)
    assert f"kl_mean is {rounding['kl_mean']:.6g}, allowed at most 0.002" in missed.stderr
    assert rounding["kl_mean"] / gptq["kl_mean"] >= BEATS_ROUNDING_BY
    assert gptq["kl_mean"] < 0.002 / 2, "the gate should be passed with room"


@pytest.fixture(scope="module")
def smoke_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the quickstart is run in its smoke variant."""
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def smoke_run(
    smoke_folder: Path, server_distribution: ServerDistribution
) -> tuple[RunCli, list[str]]:
    """The quickstart in its smoke variant; how more is run there, and the steps that were.

    Its repository is left out where the server is missing, hence the server is needed here.
    """
    run = make_run_cli(smoke_folder)
    return run, list_started(run)


def list_started(run: RunCli) -> list[str]:
    """Runs the smoke variant; returns the steps that did anything."""
    finished = run("run", QUICKSTART, "--variant", "smoke", "--json")
    assert finished.returncode == 0, finished.stderr
    events = [json.loads(line) for line in finished.stdout.splitlines()]
    return [event["step"] for event in events if event["event"] == "step_started"]


def test_every_recipe_has_a_test() -> None:
    others = {*OTHER_RECIPES, QUICKSTART, REPOSITORY / "recipes" / "guide-ensemble.yaml"}
    assert others == set((REPOSITORY / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", OTHER_RECIPES, ids=lambda path: path.stem)
def test_every_other_recipe_runs_in_its_smoke_variant(recipe: Path, run_cli: RunCli) -> None:
    finished = run_cli("run", recipe, "--variant", "smoke")
    assert finished.returncode == 0, finished.stderr


def test_the_second_run_does_nothing(smoke_run: tuple[RunCli, list[str]]) -> None:
    run, started = smoke_run
    assert started == ["quantize", "gate", "onnx", "engine", "repository"]
    assert list_started(run) == []


def test_it_ends_with_a_repository_that_answered_and_how_to_start_its_server(
    smoke_run: tuple[RunCli, list[str]], smoke_folder: Path
) -> None:
    run, _ = smoke_run
    repository = smoke_folder / "out/quickstart/repository"
    metrics = json.loads((repository / "manifest.json").read_text(encoding="utf-8"))["metrics"]
    assert metrics["answer"].strip()
    assert metrics["answered_by_release"] == "24.10"
    finished = run("run", QUICKSTART, "--variant", "smoke")
    assert finished.returncode == 0, finished.stderr
    assert f"tritonserver 24.10 answers {metrics['answer']!r}" in finished.stdout
    options = "--disable-auto-complete-config"
    start = f"tritonserver --model-repository=out/quickstart/repository {options}\n"
    assert start in finished.stdout
    assert f"--model-repository=/models {options}" in (repository / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("onnx", "weights qdq_int4"),
        ("engine", "profiles prefill, decode"),
        ("repository", "apparel"),
    ],
)
def test_what_follows_the_gate_is_sound(
    smoke_run: tuple[RunCli, list[str]], step: str, said: str
) -> None:
    run, _ = smoke_run
    verified = run("verify", f"out/quickstart/{step}")
    assert verified.returncode == 0, verified.stderr
    assert said in verified.stdout
