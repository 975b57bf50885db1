"""Data sets of recipes: what names their contents, mixes, and requirements at each moment."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmopt.errors import InputError, RecipeError
from llmopt.recipe.datasets import resolve_dataset
from llmopt.recipe.graph import build_graph
from llmopt.recipe.inputs import validate_recipe
from llmopt.steps.base import ResolvedInput
from tests.recipe.harness import EVALUATE, GPTQ, QUANTIZE, Data, Workplace, load, make_recipe

STEPS: Data = {"quantize": GPTQ}
OTHER = {"text": "The facing is fused before the front edge is stitched and pressed. " * 9}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Documents of another kind."""
    path = tmp_path / "other.json"
    path.write_text(json.dumps([OTHER] * 4), encoding="utf-8")
    return path


def with_data(recipe: Data, **fields: Any) -> Data:
    """The recipe with other fields of its calibration set."""
    datasets = recipe["datasets"]
    return {
        **recipe,
        "datasets": {**datasets, "calibration": {**datasets["calibration"], **fields}},
    }


def make_mix(path: Path, **fields: Any) -> dict[str, Any]:
    return {"mix": [{"path": str(path), "weight": 0.5, **fields}]}


def resolve(workplace: Workplace, recipe: Data) -> ResolvedInput:
    loaded = load(workplace.folder, recipe)
    spec = loaded.recipe.datasets["calibration"]
    return resolve_dataset("calibration", spec, loaded.base, workplace.store.hasher)


def test_every_part_and_field_is_in_the_digest_but_no_place_and_no_requirement(
    workplace: Workplace, documents: Path, other: Path, tmp_path: Path
) -> None:
    plain = make_recipe("./model", documents, STEPS)
    mixed = with_data(plain, **make_mix(other))
    moved = Path(shutil.copyfile(other, tmp_path / "moved.json"))
    same = [
        with_data(plain, **make_mix(moved)),
        with_data(mixed, path=str(shutil.copyfile(documents, tmp_path / "moved.jsonl"))),
        with_data(mixed, require={"min_rows": 1, "max_overlap": {"heldout": 1.0}}),
    ]
    digests = [resolve(workplace, recipe).digest for recipe in (mixed, *same)]
    assert len(set(digests)) == 1
    changed = [
        plain,
        with_data(plain, **make_mix(other, weight=0.4)),
        with_data(plain, **make_mix(other, template="chat")),
        with_data(plain, **make_mix(documents)),
        with_data(mixed, seed=1),
        with_data(mixed, require={"min_document_tokens": 2}),
    ]
    digests += [resolve(workplace, recipe).digest for recipe in changed]
    moved.write_text(json.dumps([OTHER] * 5), encoding="utf-8")
    digests.append(resolve(workplace, same[0]).digest)
    assert len(set(digests)) == 1 + len(changed) + 1


def test_a_set_on_the_hub_is_named_by_its_commit(workplace: Workplace) -> None:
    plain = make_recipe("./model", "unused.jsonl", STEPS)
    plain["datasets"]["calibration"] = {"hf": "org/words", "revision": "a" * 40}
    first = resolve(workplace, plain)
    assert not first.path.exists()
    others = [with_data(plain, revision="b" * 40), with_data(plain, split="test")]
    assert len({first.digest, *(resolve(workplace, r).digest for r in others)}) == 3
    assert resolve(workplace, with_data(plain, split="train")).digest == first.digest


def test_a_mix_is_run_and_described(
    workplace: Workplace, random_model: Path, documents: Path, other: Path
) -> None:
    recipe = make_recipe(random_model, documents, {"quantize": GPTQ})
    mixed = with_data(recipe, **make_mix(other), samples=4)
    workplace.run(mixed)
    manifest = workplace.artifact("quantize").manifest
    assert manifest.metrics["calibration_tokens"] == 4 * 64
    assert f"mix(path={other} weight=0.5)" in manifest.inputs["data"].origin
    reasons = workplace.states(with_data(mixed, **make_mix(other, weight=0.25)))
    assert "calibration was" in reasons["quantize"]


def test_rows_of_a_mixed_evaluation_are_named_by_part_not_place(
    workplace: Workplace, random_model: Path, documents: Path, other: Path
) -> None:
    steps = {"quantize": QUANTIZE, "perplexity": EVALUATE}
    recipe = make_recipe(random_model, documents, steps)
    recipe["datasets"]["heldout"] |= {**make_mix(other), "samples": 4}
    workplace.run(recipe)
    text = (workplace.artifact("perplexity").path / "documents.jsonl").read_text(encoding="utf-8")
    assert str(workplace.folder) not in text
    assert str(documents.parent) not in text
    origins = [json.loads(line)["origin"] for line in text.splitlines()]
    assert sorted(origin[:6] for origin in origins if origin[0] == "m") == ["mix.0#"] * 2
    assert sum(origin.startswith(":") for origin in origins) == 2


def test_a_mix_without_samples_is_refused_before_an_evaluation(
    workplace: Workplace, random_model: Path, documents: Path, other: Path
) -> None:
    recipe = make_recipe(random_model, documents, {"quantize": QUANTIZE, "perplexity": EVALUATE})
    recipe["datasets"]["heldout"] = {"path": str(documents), **make_mix(other)}
    with pytest.raises(InputError, match=r"step perplexity: data set heldout: a mix has shares"):
        validate_recipe(load(workplace.folder, recipe))


def test_requirements_are_checked_by_validate_plan_and_run_even_if_the_step_is_stored(
    workplace: Workplace, random_model: Path, documents: Path, other: Path
) -> None:
    recipe = make_recipe(random_model, documents, STEPS)
    recipe["datasets"]["heldout"]["path"] = str(other)
    fit = with_data(
        recipe, require={"min_rows": 40, "min_japanese_share": 1.0, "max_overlap": {"heldout": 0}}
    )
    validate_recipe(load(workplace.folder, fit))
    workplace.run(fit)
    assert workplace.states(fit) == {"quantize": "in the store"}
    unfit = with_data(recipe, require={"min_rows": 41})
    message = r"data set calibration \(path=.*\): it holds 40 documents, require\.min_rows is 41"
    for check in (
        lambda: validate_recipe(load(workplace.folder, unfit)),
        lambda: workplace.plan(unfit),
        lambda: workplace.run(unfit),
    ):
        with pytest.raises(InputError, match=message):
            check()


def test_requirements_are_of_all_parts_together(
    workplace: Workplace, random_model: Path, documents: Path, other: Path
) -> None:
    recipe = with_data(make_recipe(random_model, documents, STEPS), **make_mix(other))
    fit = with_data(recipe, require={"min_rows": 44, "min_japanese_share": 0.9})
    validate_recipe(load(workplace.folder, fit))
    for require, message in (
        ({"min_rows": 45}, "it holds 44 documents"),
        ({"min_japanese_share": 0.95}, r"40 of 44 documents \(90\.9%\) .*other\.json#1: 0\.0%"),
        (
            {"max_overlap": {"heldout": 0.1}},
            r"it holds 100\.0% of the 30-character sequences of .*documents\.jsonl:1 in data set "
            r"heldout, .* 40 of 40 documents exceed it",
        ),
    ):
        with pytest.raises(InputError, match=message):
            workplace.plan(with_data(recipe, require=require))


def test_tokens_are_counted_when_the_step_runs(
    workplace: Workplace, random_model: Path, documents: Path
) -> None:
    recipe = make_recipe(random_model, documents, {"quantize": GPTQ})
    strict = with_data(recipe, require={"min_document_tokens": 5000})
    workplace.plan(strict)
    with pytest.raises(
        InputError,
        match=r"data set calibration: 40 of 40 documents have fewer than 5000 tokens",
    ):
        workplace.run(strict)
    assert workplace.stored() == []
    workplace.run(with_data(recipe, require={"min_document_tokens": 10}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("heldoud", "is no data set of the recipe; did you mean 'heldout'?"),
        ("base", "is no data set of the recipe"),
        ("calibration", "is the data set itself"),
    ],
)
def test_an_overlap_is_with_another_data_set(tmp_path: Path, name: str, message: str) -> None:
    recipe = make_recipe("./model", "d.jsonl", STEPS)
    recipe = with_data(recipe, require={"max_overlap": {name: 0.1}})
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+:\d+: max_overlap of") as caught:
        build_graph(load(tmp_path, recipe))
    assert f"names {name!r}, which {message}" in str(caught.value)


def test_the_shipped_set_holds_little_of_its_heldout_split(
    workplace: Workplace, random_model: Path
) -> None:
    recipe = make_recipe(random_model, "unused", STEPS)
    recipe["datasets"] = {
        "calibration": {
            "set": "apparel-ja",
            "seq_len": 64,
            "require": {
                "min_rows": 300,
                "min_japanese_share": 0.6,
                "max_overlap": {"heldout": 0.1},
            },
        },
        "heldout": {"set": "apparel-ja", "split": "heldout"},
    }
    assert workplace.plan(recipe).steps
    recipe["datasets"]["calibration"]["require"]["max_overlap"] = {"calibration_too": 0.1}
    recipe["datasets"]["calibration_too"] = {"set": "apparel-ja"}
    with pytest.raises(InputError, match="data set calibration"):
        workplace.plan(recipe)  # the very same documents: the check can fail
