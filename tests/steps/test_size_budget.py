"""Budgets: what is refused before any work, and what is kept in the bytes that are written."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llmopt.artifacts.manifest import read_manifest
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.fused_layers import group_fused
from llmopt.errors import IncompatibleError
from llmopt.serving.target import Target
from llmopt.steps.base import ResolvedInput
from llmopt.steps.quantize_gptq import QuantizeGptq
from llmopt.steps.size_budget import SizeBudget
from tests.checkpoint.numpy_dequantizer import read_folder
from tests.conftest import RunCli
from tests.recipe.harness import make_recipe, write_recipe

NUM_WEIGHTS = 3 * (128 * 128 + 2 * 64 * 128 + 128 * 128 + 3 * 256 * 128)  # random_model's


def recipe_with(tmp_path: Path, model: Path, documents: Path, budget: Any, **settings: Any) -> Path:
    step = {"uses": "quantize.gptq", "model": "base", "data": "calibration", "budget": budget}
    recipe = make_recipe(model, documents, {"quantize": {**step, **settings}})
    return write_recipe(tmp_path, recipe)


def measure_bits(folder: Path, names: set[str]) -> float:
    """Returns the bits per weight of the layers' tensors as they lie in the file."""
    tensors = read_folder(folder).items()
    return 8 * sum(len(t.data) for n, t in tensors if n.rpartition(".")[0] in names) / NUM_WEIGHTS


@pytest.mark.parametrize("quant_format", ["gptq", "compressed-tensors"])
@pytest.mark.parametrize("bound", [4.9, 6.0])
def test_the_bytes_that_are_written_keep_the_budget(
    run_cli: RunCli,
    tmp_path: Path,
    random_model: Path,
    documents: Path,
    quant_format: str,
    bound: float,
) -> None:
    path = recipe_with(
        tmp_path,
        random_model,
        documents,
        {"bits_per_weight": bound, "choices": [3, 4, 8]},
        format=quant_format,
        overrides=[{"layers": "*.layers.1.mlp.down_proj", "bits": 4}],
    )
    done = run_cli("run", path, "--store", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / json.loads(path.read_text())["name"] / "quantize"
    manifest = read_manifest(folder)
    names = {error.layer for error in manifest.layers}
    bits = measure_bits(folder, names)
    assert manifest.metrics["bits_per_weight"] == pytest.approx(bits, abs=1e-4)
    assert bits <= bound
    assert bits > bound - 0.35  # no unit of this small model is larger
    widths = {error.layer: error.bits for error in manifest.layers}
    assert len(set(widths.values())) > 1
    assert widths["model.layers.1.mlp.down_proj"] == 4
    for unit in group_fused(widths):
        assert len({widths[name] for name in unit}) == 1
    stored = Checkpoint.open(folder).quantization
    assert stored is not None
    for name, width in widths.items():
        layer = stored.find_layer(name)
        assert layer is not None
        assert layer.scheme.bits == width


def test_a_budget_that_can_not_be_kept_is_refused(
    run_cli: RunCli, tmp_path: Path, random_model: Path, documents: Path
) -> None:
    path = recipe_with(tmp_path, random_model, documents, {"bits_per_weight": 4.1})
    done = run_cli("validate", path)
    assert done.returncode == 7
    assert "4.1 bits per weight are asked for" in done.stderr
    assert "the smallest choice takes 4.378" in done.stderr
    assert "→ set bits_per_weight to 4.39" in done.stderr


def test_every_choice_must_be_servable(
    run_cli: RunCli, tmp_path: Path, random_model: Path, documents: Path
) -> None:
    budget = {"bits_per_weight": 5, "choices": [3, 4, 8]}
    path = recipe_with(tmp_path, random_model, documents, budget)
    path.write_text(json.dumps({**json.loads(path.read_text()), "target": {"runtime": "vllm"}}))
    done = run_cli("validate", path)
    assert done.returncode == 7
    assert "3 bits are not served" in done.stderr


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "bits_per_weight"),
        ({"bits_per_weight": 0}, "greater than 0"),
        ({"bits_per_weight": 4.5, "choices": [4]}, "at least 2 items"),
        ({"bits_per_weight": 4.5, "choices": [4, 4]}, "names a width twice"),
        ({"bits_per_weight": 4.5, "choices": [4, 5]}, "Input should be 2, 3, 4 or 8"),
    ],
)
def test_bad_budgets_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SizeBudget(**fields)


def test_a_budget_is_part_of_the_identity() -> None:
    def settings(bound: float) -> dict[str, Any]:
        return QuantizeGptq.model_validate(
            {
                "uses": "quantize.gptq",
                "model": "m",
                "data": "d",
                "budget": {"bits_per_weight": bound},
            }
        ).identity_settings()

    assert settings(4.5) != settings(4.6)


def test_a_budget_and_bits_exclude_each_other() -> None:
    step = {"uses": "quantize.gptq", "model": "m", "data": "d", "bits": 4}
    with pytest.raises(ValidationError, match="budget chooses the bits: leave bits out"):
        QuantizeGptq.model_validate({**step, "budget": {"bits_per_weight": 4.5}})


def test_the_order_of_choices_is_no_part_of_the_identity() -> None:
    one, other = (SizeBudget(bits_per_weight=5, choices=order) for order in ((8, 3, 4), (3, 4, 8)))
    assert one == other


@pytest.mark.parametrize(
    ("target", "choices", "refused"),
    [
        ({"runtime": "vllm", "gpu": "rtx4090"}, [3, 4], 3),
        ({"runtime": "vllm", "device": "cpu"}, [4, 8], 8),
    ],
)
def test_a_choice_that_the_target_refuses_is_named(
    random_model: Path, target: dict[str, Any], choices: list[int], refused: int
) -> None:
    step = QuantizeGptq.model_validate(
        {
            "uses": "quantize.gptq",
            "model": "m",
            "data": "d",
            "budget": {"bits_per_weight": 5, "choices": choices},
        }
    )
    inputs = {"model": ResolvedInput("m", "checkpoint", "", random_model)}
    with pytest.raises(IncompatibleError, match=f"with {refused} bits, one of budget") as caught:
        step.preflight(inputs, Target.model_validate(target))
    assert f"leave {refused} out of budget.choices" in str(caught.value.remedy)
