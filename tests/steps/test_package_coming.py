"""`package.triton`: what is refused of inputs that another step is to make."""

import re
from pathlib import Path
from typing import Any

import pytest

from llmopt.errors import IncompatibleError
from llmopt.recipe.inputs import validate_recipe
from tests.export.encoders import make_bert
from tests.models import VOCAB_SIZE
from tests.quant.pipeline import make_small_model
from tests.recipe.harness import load
from tests.steps.packages import ENSEMBLE

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 blocks; do not write into it."""
    return make_small_model(tmp_path_factory.mktemp("model") / "model", vocab_size=VOCAB_SIZE)


def recipe_of(tmp_path: Path, model: Path, package: dict[str, Any], **steps: Any) -> dict[str, Any]:
    made = {"uses": "package.triton", "model": list(steps)[-1], "tokenizer": "base", **package}
    return {
        "version": 1,
        "name": "coming",
        "sources": {"base": str(model)},
        "steps": {**steps, "repository": made},
    }


ONNX = {"uses": "export.onnx", "model": "base"}
ENGINE = {
    "uses": "build.tensorrt",
    "onnx": "onnx",
    "profiles": {"p": {"batch": [1, 4, 8], "sequence": {"buckets": [32, 64]}}},
}
COMING: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no cache": (
        {"shape": "generate"},
        {"onnx": {**ONNX, "kv_cache": False}},
        "onnx is to be exported without a key-value cache",
    ),
    "bfloat16": (
        {"shape": "generate"},
        {"onnx": {**ONNX, "dtype": "bfloat16"}},
        "to be exported in bfloat16",
    ),
    "operators": (
        ENSEMBLE,
        {"onnx": {**ONNX, "kv_cache": False, "last_token_logits": True, "opset": 23}},
        "onnx was exported with opset 23",
    ),
    "all logits": (
        ENSEMBLE,
        {"onnx": {**ONNX, "kv_cache": False}},
        "task: score can't serve what onnx is to export",
    ),
    "a plan of TensorRT-RTX": (
        ENSEMBLE,
        {"onnx": ONNX, "engine": {**ENGINE, "backend": "tensorrt_rtx"}},
        "engine is to be an engine of tensorrt_rtx",
    ),
    "a plan of another version": (
        ENSEMBLE,
        {"onnx": ONNX, "engine": {**ENGINE, "backend": "tensorrt", "tensorrt_version": "10.9"}},
        "engine is of TensorRT 10.9; the container of release 24.10 has 10.5",
    ),
    "a bucket outside the profiles": (
        {**ENSEMBLE, "buckets": [32, 128]},
        {"onnx": ONNX, "engine": {**ENGINE, "backend": "tensorrt"}},
        "buckets holds 128, which no profile of engine takes",
    ),
    "an asymmetric grid": (
        {"shape": "vllm"},
        {"quantize": {"uses": "quantize.rtn", "model": "base", "group_size": 32, "sym": False}},
        "format gptq must be symmetric",
    ),
    "widths of an override": (
        {"shape": "vllm"},
        {
            "quantize": {
                "uses": "quantize.rtn",
                "model": "base",
                "group_size": 32,
                "overrides": [{"layers": "*.down_proj", "bits": 3}],
            }
        },
        "3 bits are not served",
    ),
}


@pytest.mark.parametrize("case", COMING)
def test_what_another_step_is_to_make_is_judged_before_it_is_made(
    case: str, model: Path, tmp_path: Path
) -> None:
    package, steps, message = COMING[case]
    if package["shape"] == "vllm":
        package = {**package, "tokenizer": None}
    with pytest.raises(IncompatibleError) as caught:
        validate_recipe(load(tmp_path, recipe_of(tmp_path, model, package, **steps)))
    assert message in caught.value.message
    assert re.match(r".*recipe\.yaml:\d+:3: step repository: ", caught.value.message)


def test_masks_are_filled_by_an_export_of_masked_positions(tmp_path: Path) -> None:
    package = {"shape": "ensemble", "task": "fill_mask"}
    model = make_bert(tmp_path / "model")
    with pytest.raises(IncompatibleError, match="fill_mask can't serve what onnx is") as caught:
        validate_recipe(load(tmp_path, recipe_of(tmp_path, model, package, onnx=ONNX)))
    assert "masked_positions: true" in str(caught.value.remedy)
    onnx = {**ONNX, "masked_positions": True}
    validate_recipe(load(tmp_path, recipe_of(tmp_path, model, package, onnx=onnx)))


def test_a_recipe_that_fits_validates(model: Path, tmp_path: Path) -> None:
    generate = recipe_of(tmp_path, model, {"shape": "generate"}, onnx=ONNX)
    validate_recipe(load(tmp_path, generate))
    halved = {**ONNX, "dtype": "bfloat16"}
    other = load(tmp_path, recipe_of(tmp_path, model, {"shape": "generate"}, onnx=halved))
    with pytest.raises(IncompatibleError, match="to be exported in bfloat16"):
        validate_recipe(other)
