"""Runs one step by hand: writes the recipe that it stands for, and runs that."""

from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.destination import Destination, FolderDestination
from llmopt.artifacts.store import Store
from llmopt.cli.console import listen, print_line
from llmopt.recipe.execute import RunSettings, run_plan
from llmopt.recipe.loader import LoadedRecipe, validate_tree
from llmopt.recipe.plan import RunOptions, download_sources, make_plan
from llmopt.recipe.yaml_tree import YamlTree

SOURCE = "command line"
MAX_LINE_LENGTH = 4096  # a long path stays on its line


@dataclass(frozen=True)
class HandRun:
    """How a step is run by hand.

    Attributes:
        store: Remembers file hashes, and keeps the result where no folder is named.
        output: The folder to write to; None keeps the result in the store.
        device: Where to compute.
        threads: CPU threads, None for torch's choice.
        quiet: Whether only errors and notes are printed.
    """

    store: Store
    output: Path | None
    device: str
    threads: int | None
    quiet: bool


def build_recipe(step_name: str, data: dict[str, Any]) -> LoadedRecipe:
    """Validates a recipe that was written by options.

    Raises:
        RecipeError: Names the option at fault.
    """
    tree = YamlTree(data=data, source=SOURCE, is_by_hand=True)
    tree.places[()] = SOURCE
    for field in data["steps"][step_name]:
        tree.places[("steps", step_name, field)] = f"--{field.replace('_', '-')}"
    for name, spec in data["datasets"].items():
        for field in spec:
            tree.places[("datasets", name, field)] = f"--{field.replace('_', '-')}"
    return LoadedRecipe(validate_tree(tree), tree, Path())


def describe_model(model: str) -> str:
    """Writes a folder that exists as `./folder`, so that no hub id can be meant."""
    if Path(model).exists() and not model.startswith((".", "/", "~")):
        return f"./{model}"
    return model


def describe_data(data: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Describes `--data`: a shipped set's name, else a file."""
    is_plain_word = Path(data).name == data and not Path(data).suffix
    if is_plain_word and not Path(data).is_file():
        return {"set": data, **fields}
    return {"path": data, **fields}


def print_recipe(loaded: LoadedRecipe) -> str:
    """Writes the equivalent recipe as YAML."""
    text = StringIO()
    yaml = YAML()
    yaml.width = MAX_LINE_LENGTH
    yaml.dump(loaded.tree.data, text)
    return text.getvalue().rstrip()


def run_by_hand(loaded: LoadedRecipe, hand: HandRun) -> Artifact:
    """Runs a recipe of one step and returns its artifact.

    Raises:
        RecipeError: The output folder is not empty.
        LlmoptError: The step can't be done.
    """
    folder = None if hand.output is None else FolderDestination(hand.output)
    options = RunOptions()
    plan = make_plan(loaded, hand.store, Path(), options, folder)
    if download_sources(plan, hand.store, print_line):
        plan = make_plan(loaded, hand.store, Path(), options, folder)
    (planned,) = plan.steps
    if folder is not None:
        folder.check(planned.identity)
    destination: Destination = folder or hand.store
    settings = RunSettings(hand.device, hand.threads, output_root=None)
    with listen(quiet=hand.quiet, as_json=False) as listener:
        result = run_plan(plan, destination, hand.store, settings, listener)
    return result.artifacts[planned.name]
