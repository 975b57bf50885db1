"""What names an engine: the GPU it is built for, where it is built for the one at hand."""

from pathlib import Path
from typing import Any

import pytest

from llmopt.recipe.inputs import identify_deferred
from tests.engine.builds import make_recipe
from tests.engine.fake_driver import install_driver, install_tensorrt, needs_compiler
from tests.recipe.harness import Workplace

pytestmark = needs_compiler
GPUS = (("NVIDIA A100-SXM4-80GB", "8.0"), ("NVIDIA H100 80GB HBM3", "9.0"), ("NVIDIA H200", "9.0"))


def plan_on(
    gpu: tuple[str, str],
    workplace: Workplace,
    monkeypatch: pytest.MonkeyPatch,
    recipe: dict[str, Any],
) -> tuple[str, str]:
    """Returns what a machine with that GPU calls the engine, and a build that it defers."""
    install_driver(workplace.folder / "driver", monkeypatch, *gpu)
    (planned,) = workplace.plan(recipe).steps
    return planned.identity, identify_deferred(planned.step, planned.inputs)


def test_an_engine_for_the_gpu_at_hand_is_named_by_it(
    workplace: Workplace, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_tensorrt(tmp_path / "packages", monkeypatch)
    recipe = make_recipe(exported, backend="tensorrt")
    planned = [plan_on(gpu, workplace, monkeypatch, recipe) for gpu in GPUS]
    assert len({identity for identity, _ in planned}) == len(GPUS)
    assert len({deferred for _, deferred in planned}) == 1
    assert plan_on(GPUS[0], workplace, monkeypatch, recipe) == planned[0]


def test_an_engine_that_is_built_ahead_of_time_has_one_name(
    workplace: Workplace, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(exported, backend="tensorrt_rtx")
    planned = {plan_on(gpu, workplace, monkeypatch, recipe) for gpu in GPUS}
    assert len(planned) == 1
