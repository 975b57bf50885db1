"""The JSON Schema that editors use: in step with the models, and fit for real recipes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmopt.recipe.schema import build_schema
from llmopt.recipe.yaml_tree import read_yaml
from llmopt.steps.union import step_types
from tests.models import REPOSITORY
from tests.recipe.harness import COMPARE
from tests.recipe.schema_check import conforms

SCHEMA_PATH = REPOSITORY / "schema" / "recipe-v1.json"


def test_the_schema_in_the_repository_is_the_generated_one() -> None:
    """`make reference` writes it."""
    assert json.loads(SCHEMA_PATH.read_text(encoding="utf-8")) == build_schema()


def test_every_step_type_and_its_fields_are_described() -> None:
    definitions = build_schema()["$defs"]
    for name, step in step_types().items():
        described = definitions[step.__name__]
        assert described["properties"]["uses"]["const"] == name
        assert described["additionalProperties"] is False
        assert set(described["properties"]) == set(step.model_fields)
        fields = set(described["properties"]) - {"uses"}
        assert all(described["properties"][field].get("description") for field in fields)


def test_references_are_resolvable_inside_the_schema() -> None:
    schema = build_schema()
    names = [reference.removeprefix("#/$defs/") for reference in find_references(schema)]
    assert names
    assert set(names) <= set(schema["$defs"])


def find_references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from find_references(value)
    elif isinstance(node, list):
        for value in node:
            yield from find_references(value)


@pytest.mark.parametrize("field", ["bits", "group_size", "sym", "damp_percent"])
def test_a_parameter_may_stand_where_no_string_could(field: str) -> None:
    kinds = build_schema()["$defs"]["QuantizeGptq"]["properties"][field]["anyOf"]
    assert {"type": "string", "pattern": r"\$\{[^}]+\}", "description": "${params.NAME}"} in kinds
    assert len(kinds) == 2


def test_the_quickstart_names_the_schema_beside_it() -> None:
    first = (REPOSITORY / "recipes" / "quickstart.yaml").read_text(encoding="utf-8").splitlines()[0]
    named = first.partition("$schema=")[2]
    assert (REPOSITORY / "recipes" / named).resolve() == SCHEMA_PATH.resolve()


def quickstart() -> dict[str, Any]:
    return read_yaml(REPOSITORY / "recipes" / "quickstart.yaml").data


@pytest.mark.parametrize("recipe", sorted((REPOSITORY / "recipes").glob("*.yaml")), ids=str)
def test_the_shipped_recipes_keep_to_the_schema(recipe: Path) -> None:
    schema = build_schema()
    assert conforms(read_yaml(recipe).data, schema, schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("steps", "quantize", "bits"), "${params.bits}"),
        (("steps", "quantize", "bits"), 8),
        (("sources", "base"), {"hf": "org/model", "revision": "main"}),
        (("sources", "base"), {"path": "./m", "trust_remote_code": True}),
        (("datasets", "calibration", "samples"), "${env.SAMPLES}"),
        (("params",), {"bits": 8, "name": "x"}),
        (("steps", "gate", "needs"), ["quantize"]),
        (("steps", "compare"), {**COMPARE, "candidates": ["quantize", "base"]}),
    ],
)
def test_what_a_recipe_may_say_keeps_to_the_schema(path: tuple[str, ...], value: Any) -> None:
    schema = build_schema()
    assert conforms(set_value(quickstart(), path, value), schema, schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("nonsense",), 1),
        (("steps",), {}),
        (("version",), 2),
        (("name",), "../up"),
        (("steps", "a.b"), {"uses": "quantize.rtn", "model": "base"}),
        (("steps", "quantize", "uses"), "quantize.gptk"),
        (("steps", "quantize", "bits"), 5),
        (("steps", "quantize", "bits"), "4"),
        (("steps", "quantize", "bitz"), 4),
        (("steps", "quantize", "damp_percent"), 1.5),
        (("steps", "gate", "require"), {"kl_mean": {"maximum": 1}}),
        (("steps", "compare"), {**COMPARE, "candidates": []}),
        (("steps", "compare"), {**COMPARE, "candidates": "quantize"}),
        (("datasets", "calibration", "samples"), 0),
        (("datasets", "calibration", "pack"), "glue"),
        (("target", "runtime"), "tgi"),
    ],
)
def test_what_a_recipe_may_not_say_breaks_the_schema(path: tuple[str, ...], value: Any) -> None:
    schema = build_schema()
    assert not conforms(set_value(quickstart(), path, value), schema, schema)


def set_value(recipe: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    node = recipe
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return recipe
