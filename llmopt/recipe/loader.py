"""Reads a recipe file into a validated `Recipe`, every error with its place in the file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from llmopt.data.dataset_spec import DataRequirements, DatasetSpec, MixPart
from llmopt.errors import RecipeError
from llmopt.recipe.overrides import (
    apply_overrides,
    apply_variant,
    interpolate,
    suggest,
    suggest_path,
)
from llmopt.recipe.recipe import Recipe, SourceSpec
from llmopt.recipe.yaml_tree import KeyPath, YamlTree, read_yaml
from llmopt.serving.target import Target
from llmopt.steps.union import step_types

MAX_SHOWN = 12


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with where it came from.

    Attributes:
        recipe: The validated recipe.
        tree: Its data, with the place of every value.
        base: The folder that relative paths start from.
        overrides: The variant and `--set` values that were laid over it, as recorded.
    """

    recipe: Recipe
    tree: YamlTree
    base: Path
    overrides: tuple[str, ...] = ()


def load_recipe(
    path: Path, variant: str | None = None, overrides: Sequence[str] = ()
) -> LoadedRecipe:
    """Reads, overrides and validates a recipe.

    Raises:
        RecipeError: With `file:line:column` of each fault and a did-you-mean.
    """
    tree = read_yaml(path)
    recorded = list(overrides)
    if variant is not None:
        apply_variant(tree, variant)
        recorded.insert(0, f"--variant {variant}")
    apply_overrides(tree, overrides)
    recipe = validate_tree(tree, path.parent)
    return LoadedRecipe(recipe, tree, path.parent, tuple(recorded))


def validate_tree(tree: YamlTree, folder: Path = Path()) -> Recipe:
    """Interpolates and validates a recipe's data; its relative paths start at `folder`.

    Raises:
        RecipeError: One line per fault.
    """
    interpolate(tree)
    try:
        return Recipe.model_validate(tree.data, context={"folder": folder})
    except ValidationError as error:
        faults = [
            fault
            for fault in error.errors(include_url=False)
            if fault["type"] != "default_factory_not_called"  # only echoes another fault
        ]
        lines = [_describe(fault, tree) for fault in faults[:MAX_SHOWN]]
        if len(faults) > MAX_SHOWN:
            lines.append(f"… and {len(faults) - MAX_SHOWN} more")
        raise RecipeError("\n".join(lines)) from None


def _describe(fault: ErrorDetails, tree: YamlTree) -> str:
    path = _data_path(fault, tree.data)
    place = tree.place_of(path)
    where = ".".join(str(key) for key in path)
    kind = fault["type"]
    if kind == "extra_forbidden":
        return f"{place}: unknown key {where!r}" + _suggest_key(path, tree)
    if kind == "union_tag_invalid":
        uses = str(fault["ctx"]["tag"])
        return f"{place}: {where} uses the unknown step type {uses!r}" + suggest(uses, step_types())
    if kind == "union_tag_not_found":
        return f"{place}: step {where!r} has no `uses`" + suggest("", step_types())
    if kind == "missing":
        return f"{place}: {where!r} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    is_option = tree.is_by_hand and place.startswith("--")  # which says it all
    return f"{place}: {'' if is_option else f'{where}: '}{message}{_received(fault)}"


def _suggest_key(path: KeyPath, tree: YamlTree) -> str:
    key, known = str(path[-1]), list(_known_keys(path, tree.data))
    if len(path) == 1 and tree.place_of(path).startswith("--set"):
        return suggest_path(tree, [key], dict.fromkeys(known))
    return suggest(key, known)


def _received(fault: ErrorDetails) -> str:
    value = fault.get("input")
    return f" (received {value!r})" if isinstance(value, str | int | float | bool | None) else ""


def _data_path(fault: ErrorDetails, data: Any) -> KeyPath:
    """Drops from pydantic's location what is not in the data: union tags, `[key]` marks."""
    path: list[int | str] = []
    node = data
    for position, key in enumerate(fault["loc"]):
        inside = (isinstance(node, dict) and key in node) or (
            isinstance(node, list) and isinstance(key, int) and key < len(node)
        )
        if inside:
            path.append(key)
            node = node[key]
        elif position == len(fault["loc"]) - 1 and fault["type"] == "missing":
            path.append(key)  # named, though it is not there
    return tuple(path)


def _known_keys(path: KeyPath, data: Mapping[str, Any]) -> Iterator[str]:
    """Yields the fields that the mapping around an unknown key could have."""
    node: Any = data
    for key in path[:-1]:
        node = node[key]
    model: type[BaseModel] | None = Recipe
    match path[:-1]:
        case ("steps", _):
            uses = node.get("uses") if isinstance(node, dict) else None
            model = step_types().get(str(uses))
        case ("datasets", _):
            model = DatasetSpec
        case ("datasets", _, "mix", _):
            model = MixPart
        case ("datasets", _, "require"):
            model = DataRequirements
        case ("sources", _):
            model = SourceSpec
        case ("target",):
            model = Target
        case ():
            model = Recipe
        case _:
            model = None
    yield from model.model_fields if model is not None else ()
