"""The table of GPUs, and how a recipe names one of them."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from llmopt.errors import RecipeError
from llmopt.serving.gpus import find_gpu, list_gpus
from tests.recipe.harness import load, make_recipe
from tests.serving.figures import aim


@pytest.mark.parametrize(
    ("given", "name", "capability"),
    [
        ("rtx4090", "rtx4090", 89),
        ("NVIDIA GeForce RTX 4090", "rtx4090", 89),
        ("4090", "rtx4090", 89),
        ("a100", "a100-40", 80),
        ("NVIDIA A100-SXM4-80GB", "a100-80", 80),
        ("Tesla T4", "t4", 75),
        ("NVIDIA H100 80GB HBM3", "h100", 90),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000-ada", 89),
        ("V100", "v100-16", 70),
        ("B200", "b200", 100),
        ("rtx_5090", "rtx5090", 120),
    ],
)
def test_a_gpu_is_found_by_its_usual_names(given: str, name: str, capability: int) -> None:
    gpu = find_gpu(given)
    assert (gpu.name, gpu.capability) == (name, capability)


def test_every_name_is_one_gpus() -> None:
    gpus = list_gpus()
    assert len({gpu.name for gpu in gpus}) == len(gpus) >= 25
    for gpu in gpus:
        assert find_gpu(gpu.name) == gpu
        assert re.fullmatch(r"[a-z0-9-]+", gpu.name)
        assert 70 <= gpu.capability <= 121
        assert 10 <= gpu.memory_gib <= 288


def test_an_unknown_gpu_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"unknown GPU 'rtx4900'; did you mean 'rtx4090'\?"):
        find_gpu("rtx4900")


def test_a_recipe_names_the_place_of_an_unknown_gpu(
    tmp_path: Path, random_model: Path, documents: Path
) -> None:
    target = {"runtime": "vllm", "gpu": "h1000"}
    recipe = make_recipe(random_model, documents, {}, target=target)
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+:\d+.*did you mean 'h100'") as caught:
        load(tmp_path, recipe)
    assert caught.value.exit_code == 2


def test_a_gpu_is_for_cuda() -> None:
    with pytest.raises(ValidationError, match="gpu is 't4', but device is cpu"):
        aim(device="cpu", gpu="t4")
