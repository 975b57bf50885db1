"""The streaming steps tell preflight what they would write."""

from pathlib import Path
from typing import Any

import pytest

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.steps.quantize_fp8 import QuantizeFp8
from llmopt.steps.quantize_nf4 import QuantizeNf4
from tests.conftest import RunCli
from tests.models import make_model
from tests.recipe.harness import make_recipe, write_recipe

CASES = {
    "nf4-tensor-parallel": ("quantize.nf4", {"tp": 2}),
    "tensorrt-nf4": ("quantize.nf4", {"runtime": "tensorrt"}),
    "gpu-capability": ("quantize.fp8", {"gpu": "v100"}),
    "int8-blackwell": ("quantize.int8", {"gpu": "b200"}),
    "context-length": ("quantize.int8", {"max_model_len": 512}),
}
SERVED = [
    ("quantize.nf4", {"gpu": "rtx4090"}),
    ("quantize.fp8", {"gpu": "a100", "tp": 2}),
    ("quantize.int8", {"device": "cpu"}),
]


def describe(model: Path, documents: Path, uses: str, target: dict[str, Any]) -> dict[str, Any]:
    steps = {"quantize": {"uses": uses, "model": "base"}}
    return make_recipe(model, documents, steps, target={"runtime": "vllm", **target})


@pytest.mark.parametrize("rule", CASES)
def test_validate_refuses_what_the_target_could_not_load(
    run_cli: RunCli, tmp_path: Path, random_model: Path, documents: Path, rule: str
) -> None:
    recipe = describe(random_model, documents, *CASES[rule])
    done = run_cli("validate", write_recipe(tmp_path, recipe))
    assert done.returncode == 7, done.stderr
    assert f"[{rule}]" in done.stderr


@pytest.mark.parametrize(("uses", "target"), SERVED)
def test_validate_lets_through_what_is_served(
    run_cli: RunCli,
    tmp_path: Path,
    random_model: Path,
    documents: Path,
    uses: str,
    target: dict[str, Any],
) -> None:
    recipe = describe(random_model, documents, uses, target)
    done = run_cli("validate", write_recipe(tmp_path, recipe))
    assert done.returncode == 0, done.stderr


def test_each_layer_is_described_with_its_bytes(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_model(tmp_path / "model", tie_word_embeddings=False))
    nf4 = QuantizeNf4(uses="quantize.nf4", model="base", skip=("lm_head", "model.layers.1"))
    weights = nf4.describe_served(checkpoint)
    storages = {layer.name: layer.storage for layer in weights.layers}
    assert storages["model.layers.0.mlp.up_proj"] == "nf4"
    assert {storages["model.layers.1.mlp.up_proj"], storages["lm_head"]} == {"plain"}
    fp8 = QuantizeFp8(uses="quantize.fp8", model="base").describe_served(checkpoint)
    up = next(layer for layer in fp8.layers if layer.name == "model.layers.1.mlp.up_proj")
    assert (up.storage, up.num_bytes) == ("fp8", 256 * 128 + 2 * 256)
