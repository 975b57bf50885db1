"""`init`'s recipe: valid at once, for the model it was given."""

import shutil
from pathlib import Path

import pytest

from llmopt.errors import InputError, RecipeError
from llmopt.recipe.inputs import validate_recipe
from llmopt.recipe.loader import load_recipe
from llmopt.recipe.starter import write_starter_recipe
from llmopt.steps.quantize_gptq import QuantizeGptq
from tests.models import edit_json, make_model


@pytest.mark.parametrize(
    ("hidden", "inner", "group_size"),
    [(128, 256, 128), (128, 192, 64), (96, 160, 32), (96, 200, -1)],
)
def test_the_group_size_is_the_largest_that_fits(
    tmp_path: Path, hidden: int, inner: int, group_size: int
) -> None:
    model = make_model(
        tmp_path / "model",
        hidden_size=hidden,
        intermediate_size=inner,
        head_dim=hidden // 4,
        num_hidden_layers=1,
    )
    write_starter_recipe(model, tmp_path / "r.yaml")
    step = load_recipe(tmp_path / "r.yaml").recipe.steps["quantize"]
    assert isinstance(step, QuantizeGptq)
    assert step.group_size == group_size


@pytest.mark.parametrize(
    "name",
    ["plain", "with space", "日本語", 'it\'s "quoted"', "back\\slash: {x}", "x" * 120, "a'b#c"],
)
def test_any_folder_name_gives_a_recipe_that_validates(
    random_model: Path, tmp_path: Path, name: str
) -> None:
    model = Path(shutil.copytree(random_model, tmp_path / name))
    output = tmp_path / "deep" / "er" / "r.yaml"
    write_starter_recipe(model, output)
    loaded = load_recipe(output)
    validate_recipe(loaded)
    folder = loaded.recipe.sources["base"].local_folder(loaded.base)
    assert folder is not None
    assert folder.resolve() == model.resolve()
    assert loaded.recipe.datasets["calibration"].seq_len == 256  # the model's positions


def test_an_existing_file_is_not_overwritten(random_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.yaml"
    output.write_text("mine\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"r\.yaml exists already") as caught:
        write_starter_recipe(random_model, output)
    assert caught.value.remedy is not None
    assert output.read_text(encoding="utf-8") == "mine\n"


def test_a_model_that_can_not_be_quantised_leaves_no_recipe(
    random_model: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(random_model, tmp_path / "model"))
    edit_json(model / "config.json", model_type="gpt_neox")
    with pytest.raises(InputError, match="gpt_neox"):
        write_starter_recipe(model, tmp_path / "r.yaml")
    with pytest.raises(InputError, match="does not exist"):
        write_starter_recipe(tmp_path / "nowhere", tmp_path / "r.yaml")
    assert not (tmp_path / "r.yaml").exists()
