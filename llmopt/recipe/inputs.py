"""Resolves the names of a recipe to files and digests, and steps to identities."""

import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path

from llmopt.artifacts.digest import digest_value
from llmopt.artifacts.manifest import Manifest
from llmopt.artifacts.store import Store
from llmopt.errors import LlmoptError
from llmopt.recipe.datasets import check_requirements, list_related, resolve_dataset
from llmopt.recipe.graph import build_graph
from llmopt.recipe.loader import LoadedRecipe
from llmopt.recipe.sources import describe_source, digest_source, locate_source
from llmopt.steps.base import ResolvedInput, StepBase


def resolve_base_inputs(
    loaded: LoadedRecipe, store: Store | None, chosen: frozenset[str]
) -> dict[str, ResolvedInput]:
    """Resolves the sources and data sets that the chosen steps read, or are held against.

    Without a store nothing is hashed and digests are empty, as validation wants it. What a data
    set requires is checked here, so that no stored result goes by it.

    Raises:
        InputError: A model or file is missing, or a data set is not what it is required to be.
    """
    recipe = loaded.recipe
    hasher = None if store is None else store.hasher
    wanted = {name for step in chosen for name in recipe.steps[step].input_names().values()}
    resolved = {}
    for name, source in recipe.sources.items():
        if name in wanted:
            folder = locate_source(source, loaded.base)
            resolved[name] = ResolvedInput(
                name,
                source.kind,
                "" if hasher is None else digest_source(source, folder, hasher),
                folder,
                trust_remote_code=source.trust_remote_code,
                origin=describe_source(source, folder),
            )
    related = list_related(recipe.datasets, wanted)
    datasets = {
        name: resolve_dataset(name, spec, loaded.base, hasher)
        for name, spec in recipe.datasets.items()
        if name in related
    }
    check_requirements(datasets)
    return {**resolved, **datasets}


def identify(step: StepBase, inputs: Mapping[str, ResolvedInput]) -> str:
    """Returns the digest of all that decides what a step makes."""
    machine = step.identity_machine()
    return digest_value(
        {
            "uses": step.type_name,
            "version": step.step_version,
            "settings": step.identity_settings(),
            "inputs": {field: given.digest for field, given in inputs.items()},
            "packages": installed_versions(step),
            # Only where there is something to say, so that no other identity changes by it.
            **({"machine": machine} if machine else {}),
        }
    )


def identify_deferred(step: StepBase, inputs: Mapping[str, ResolvedInput]) -> str:
    """Returns the digest of a deferred step: of all but libraries and GPU, which are elsewhere."""
    return digest_value(
        {
            "deferred": step.type_name,
            "version": step.step_version,
            "settings": step.identity_settings(),
            "inputs": {field: given.digest for field, given in inputs.items()},
        }
    )


def find_other_inputs(manifest: Manifest, inputs: Mapping[str, ResolvedInput]) -> list[str]:
    """Names the inputs whose bytes are not those that an artifact was made of.

    An identity says what a step was meant to make. The same work done with other kernels, or
    forced, may give other bytes, and what was measured on the old ones does not hold for them.
    """
    return [
        given.name
        for field, given in inputs.items()
        if given.content is not None and manifest.inputs[field].content != given.content
    ]


def installed_versions(step: StepBase) -> dict[str, str]:
    """Returns the versions of the libraries that decide a step's numbers, without importing.

    An optional one may be "missing": the step then says so when it runs.
    """
    versions = {}
    for name in step.identity_packages():
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions


def preflight(loaded: LoadedRecipe, name: str, inputs: Mapping[str, ResolvedInput]) -> None:
    """Runs a step's own checks on the inputs that exist, without torch.

    Raises:
        LlmoptError: What the step found, with the step named and, in a recipe, its place.
    """
    try:
        loaded.recipe.steps[name].preflight(inputs, loaded.recipe.target)
    except LlmoptError as error:
        if loaded.tree.is_by_hand:  # of one step, which no option names
            raise
        place = loaded.tree.place_of(("steps", name))
        raise type(error)(f"{place}: step {name}: {error.message}", remedy=error.remedy) from None


def validate_recipe(loaded: LoadedRecipe) -> None:
    """Checks references, files, contracts between steps, and whether the target could serve.

    Raises:
        LlmoptError: The first fault.
    """
    graph = build_graph(loaded)
    base = resolve_base_inputs(loaded, None, frozenset(graph.order))
    known = dict(base)
    for name in graph.order:
        step = loaded.recipe.steps[name]
        inputs = {key: known[given] for key, given in step.input_names().items() if given in known}
        preflight(loaded, name, inputs)
        # Of its output nothing is known but what will make it.
        known[name] = ResolvedInput(
            name, step.produces, "", Path(os.devnull, name), maker=step, maker_inputs=inputs
        )
