"""`eval.lm_eval`: what needs no harness, and the real one in an environment of its own."""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llmopt.errors import CapabilityError, InputError, RecipeError
from llmopt.recipe.inputs import validate_recipe
from tests.models import REPOSITORY, TINY_MODEL
from tests.recipe.harness import Data, Workplace, load, write_recipe

TASKS = Path(__file__).parent / "harness_tasks"
HARNESS_PYTHON = REPOSITORY / ".venvs" / "lm-eval" / "bin" / "python"
STEP: Data = {
    "uses": "eval.lm_eval", "model": "base", "tasks": ["fibre_choice"], "task_path": "tasks",
    "trust_task_code": True,
}  # fmt: skip
IS_HERE = importlib.util.find_spec("lm_eval") is not None

needs_harness = pytest.mark.skipif(
    not HARNESS_PYTHON.exists(), reason="needs the real lm_eval: make lm-eval-env (llmopt doctor)"
)


def recipe(folder: Path, **fields: Any) -> Data:
    """Describes a recipe beside a copy of the own tasks."""
    shutil.copytree(TASKS, folder / "tasks", dirs_exist_ok=True)
    return {
        "version": 1,
        "name": "small",
        "sources": {"base": str(TINY_MODEL)},
        "steps": {"harness": {**STEP, **fields}},
    }


def run_in_harness(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a module in lm_eval's environment, offline, this llmopt on its path."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [HARNESS_PYTHON, "-m", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **offline, "PYTHONPATH": str(REPOSITORY)},
    )


@pytest.mark.skipif(IS_HERE, reason="lm_eval is installed here")
def test_a_missing_harness_is_a_missing_capability(workplace: Workplace, tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match=r"eval\.lm_eval needs lm_eval") as info:
        workplace.run(recipe(tmp_path))
    assert info.value.remedy == "pip install 'llmopt[lm-eval]'"
    deferred = workplace.run(recipe(tmp_path, when_unavailable="defer"))
    assert deferred.has_deferred
    assert deferred.unavailable == {"harness": "eval.lm_eval needs lm_eval, which is not installed"}


def test_the_own_tasks_are_part_of_the_identity(workplace: Workplace, tmp_path: Path) -> None:
    def identify() -> str:
        (planned,) = workplace.plan(recipe(tmp_path)).steps
        return planned.identity

    before = identify()
    assert identify() == before
    (tmp_path / "tasks" / "__pycache__").mkdir()
    (tmp_path / "tasks" / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert identify() == before
    (tmp_path / "tasks" / "more.jsonl").write_text("{}")
    assert identify() != before


def test_task_path_starts_at_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = recipe(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    validate_recipe(load(tmp_path, described))
    described["steps"]["harness"]["task_path"] = "none"
    with pytest.raises(InputError, match=r"step harness: task_path .*/none is no folder"):
        validate_recipe(load(tmp_path, described))


def test_own_tasks_run_only_where_they_are_trusted(tmp_path: Path) -> None:
    described = recipe(tmp_path, trust_task_code=False)
    with pytest.raises(InputError, match="own tasks may run code on this machine") as info:
        validate_recipe(load(tmp_path, described))
    assert "trust_task_code: true" in str(info.value.remedy)
    described["steps"]["harness"]["trust_task_code"] = True
    validate_recipe(load(tmp_path, described))


def test_a_step_names_at_least_one_task(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"steps\.harness\.tasks: .*at least 1 item"):
        load(tmp_path, recipe(tmp_path, tasks=[]))


@pytest.mark.full
@needs_harness
def test_the_metrics_are_those_of_the_harness_itself(tmp_path: Path) -> None:
    described = recipe(tmp_path, model="q", baseline="base", batch_size=4, num_fewshot=0)
    gate = {"fibre_choice.acc": {"min": 0.0}, "fibre_choice.acc_norm": {"max_increase_pct": 900}}
    described["steps"] = {
        "q": {"uses": "quantize.rtn", "model": "base", "group_size": 128},
        **described["steps"],
        "gate": {"uses": "eval.gate", "metrics_of": "harness", "require": gate},
    }
    finished = run_in_harness(tmp_path, "llmopt", "run", write_recipe(tmp_path, described))
    assert finished.returncode == 0, finished.stderr
    assert "fibre_choice acc " in finished.stdout
    folder = tmp_path / "out" / "small" / "harness"
    metrics = json.loads((folder / "manifest.json").read_text())["metrics"]["fibre_choice"]
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert metrics["num_samples"] == 8
    assert [row["model"] for row in rows] == ["model"] * 8 + ["baseline"] * 8
    assert metrics["acc"] == sum(row["acc"] for row in rows[:8]) / 8

    arguments = f"run --model hf --model_args pretrained={TINY_MODEL},dtype=float32 --tasks"
    options = "--include_path . --num_fewshot 0 --batch_size 4 --device cpu --log_samples"
    by_hand = run_in_harness(
        tmp_path / "tasks", "lm_eval", *arguments.split(), "fibre_choice", *options.split(),
        "--output_path", tmp_path / "by_hand",
    )  # fmt: skip
    assert by_hand.returncode == 0, by_hand.stderr
    (found,) = (tmp_path / "by_hand").rglob("results_*.json")
    expected = json.loads(found.read_text())["results"]["fibre_choice"]
    for metric in ("acc", "acc_norm", "acc_stderr"):
        assert metrics[f"baseline_{metric}"] == expected[f"{metric},none"]
    (samples,) = (tmp_path / "by_hand").rglob("samples_*.jsonl")
    logged = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda r: r["doc_id"])
    for ours, theirs in zip(rows[8:], logged, strict=True):
        # They log text; the order of a batch moves the last digits of a sum.
        values = [float(likelihood) for likelihood, _ in theirs["filtered_resps"]]
        assert [one for one, _ in ours["filtered_resps"]] == pytest.approx(values, abs=1e-3)


@pytest.mark.full
@needs_harness
@pytest.mark.parametrize(
    ("fields", "data", "message"),
    [
        ({"tasks": ["fibre_choise"]}, None, "knows no task 'fibre_choise'; close to it: fibre_"),
        ({}, '{"question": "?"}\n', "lm_eval can't run fibre_choice: "),
    ],
)
def test_unfit_tasks_are_unsuitable_input(
    tmp_path: Path, fields: Data, data: str | None, message: str
) -> None:
    described = recipe(tmp_path, **fields)
    if data is not None:
        (tmp_path / "tasks" / "fibre.jsonl").write_text(data)
    finished = run_in_harness(tmp_path, "llmopt", "run", write_recipe(tmp_path, described))
    assert finished.returncode == 8, finished.stderr
    assert message in finished.stderr
