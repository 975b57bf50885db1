"""What a run would do, and why: each step's inputs, identity and state, without running any."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.destination import Destination
from llmopt.artifacts.hub_snapshot import fetch_snapshot, find_snapshot
from llmopt.artifacts.manifest import MANIFEST_NAME
from llmopt.artifacts.store import Store
from llmopt.data.dataset_files import hub_dataset
from llmopt.errors import InputError, RecipeError
from llmopt.recipe.datasets import list_related
from llmopt.recipe.explain import explain_change
from llmopt.recipe.graph import StepGraph, build_graph
from llmopt.recipe.inputs import find_other_inputs, identify, preflight, resolve_base_inputs
from llmopt.recipe.loader import LoadedRecipe
from llmopt.recipe.overrides import suggest
from llmopt.recipe.sources import hub_model
from llmopt.steps.base import Estimate, ResolvedInput, StepBase

State = Literal["cached", "run"]


@dataclass(frozen=True)
class RunOptions:
    """Which part of a recipe to run, and what to run although it is stored.

    Attributes:
        until: Run this step and what it needs, nothing else.
        start: Run this step and what depends on it; what comes before must be stored.
        force: Steps to run anew.
    """

    until: str | None = None
    start: str | None = None
    force: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan.

    Attributes:
        name: The step's name in the recipe.
        step: The step.
        inputs: Field → what its name stands for.
        identity: Names the work; equal identities give equal artifacts.
        state: "cached" where the store holds it, else "run".
        forced: Whether it runs although it is stored.
        reason: Why it will run, or that it is stored.
        gates: The gates that it waits for.
        estimate: Rough needs, where the shapes are known.
    """

    name: str
    step: StepBase
    inputs: Mapping[str, ResolvedInput]
    identity: str
    state: State
    forced: bool
    reason: str
    gates: tuple[str, ...]
    estimate: Estimate | None


@dataclass(frozen=True)
class Plan:
    """All steps that a run would go through, in order."""

    loaded: LoadedRecipe
    steps: tuple[PlannedStep, ...]


def make_plan(
    loaded: LoadedRecipe,
    store: Store,
    output_root: Path,
    options: RunOptions,
    destination: Destination | None = None,
) -> Plan:
    """Resolves every input and holds every step against where it would go; runs nothing.

    Args:
        loaded: The recipe.
        store: Remembers file hashes, and holds artifacts where no `destination` is given.
        output_root: Where links to earlier artifacts are, to explain changes.
        options: Which part to run.
        destination: A folder that takes the place of the store.

    Raises:
        RecipeError: A reference or an option names what is not there.
        InputError: A model or data set is missing or unsuitable.
    """
    return _Planner(loaded, store, output_root, options, destination).plan()


def download_sources(plan: Plan, store: Store, note: Callable[[str], None]) -> bool:
    """Fetches what a run needs of the hub, and checks it; tells whether anything was fetched.

    That is what steps to be run read, and every data set of which something is required.

    Args:
        plan: The plan; to be made anew if this returns True.
        store: Remembers which files were checked.
        note: Hears what is fetched.

    Raises:
        InputError: The hub refuses, can't be reached, or sent damaged files.
    """
    recipe = plan.loaded.recipe
    wanted = {g.name for step in plan.steps if step.state == "run" for g in step.inputs.values()}
    named = {given.name for step in plan.steps for given in step.inputs.values()}
    required = {name for name in named & set(recipe.datasets) if recipe.datasets[name].require}
    models = [hub_model(s) for name, s in recipe.sources.items() if name in wanted and s.hf]
    parts = [
        part
        for name in sorted(list_related(recipe.datasets, wanted | required))
        for part in (recipe.datasets[name], *recipe.datasets[name].mix)
    ]
    repositories = [*models, *(hub_dataset(part) for part in parts if part.hf)]
    fetched = False
    for repository in repositories:
        if find_snapshot(repository) is None:
            note(f"fetching {repository.describe()}")
            fetched = True
        fetch_snapshot(repository, store.hasher)
    return fetched


def check_plan(plan: Plan) -> None:
    """Runs the preflight of every step that would run, on the inputs that exist.

    Raises:
        LlmoptError: The first refusal, with the step and its place.
    """
    for planned in plan.steps:
        if planned.state == "run":
            preflight(plan.loaded, planned.name, _existing(planned.inputs))


def _existing(inputs: Mapping[str, ResolvedInput]) -> dict[str, ResolvedInput]:
    """Leaves out what is not there yet, but for what another step will make."""
    return {
        field: given
        for field, given in inputs.items()
        if given.path.exists() or given.maker is not None
    }


def choose_steps(loaded: LoadedRecipe, graph: StepGraph, options: RunOptions) -> frozenset[str]:
    """Returns the steps that the options ask for, with all that they wait for.

    Raises:
        RecipeError: An option names no step.
    """
    steps = loaded.recipe.steps
    named = {"--until": options.until, "--from": options.start}
    for option, name in [*named.items(), *(("--force", name) for name in options.force)]:
        if name is not None and name not in steps:
            raise RecipeError(f"{option} {name}: there is no such step" + suggest(name, steps))
    chosen = frozenset(steps)
    if options.until is not None:
        chosen = graph.ancestors(options.until) | {options.until}
    if options.start is not None:
        wanted = (graph.descendants(options.start) | {options.start}) & chosen
        chosen = wanted | {name for step in wanted for name in graph.ancestors(step)}
    if not chosen:
        raise RecipeError(f"--from {options.start} --until {options.until}: no step lies between")
    for name in options.force:
        if name not in chosen:
            raise RecipeError(
                f"--force {name}: --from and --until leave that step out",
                remedy=f"run without them, or with --until {name}",
            )
    return chosen


class _Planner:
    """Plans steps one after another, each knowing those before it."""

    def __init__(
        self,
        loaded: LoadedRecipe,
        store: Store,
        output_root: Path,
        options: RunOptions,
        destination: Destination | None,
    ) -> None:
        self._loaded = loaded
        self._store = store
        self._destination = destination
        self._links = output_root / loaded.recipe.name
        self._options = options
        self._graph = build_graph(loaded)
        self._planned: dict[str, PlannedStep] = {}

    def plan(self) -> Plan:
        """Plans every chosen step."""
        chosen = choose_steps(self._loaded, self._graph, self._options)
        base = resolve_base_inputs(self._loaded, self._store, chosen)
        for name in self._graph.order:
            if name in chosen:
                self._planned[name] = self._plan_step(name, base)
        plan = Plan(self._loaded, tuple(self._planned.values()))
        _check_start(plan, self._graph, self._options)
        return plan

    def _plan_step(self, name: str, base: Mapping[str, ResolvedInput]) -> PlannedStep:
        step = self._loaded.recipe.steps[name]
        inputs = {
            field: base[given] if given in base else self._output_of(given)
            for field, given in step.input_names().items()
        }
        identity = identify(step, inputs)
        forced = name in self._options.force
        found = (self._destination or self._store).find(identity)
        changed = [] if found is None else find_other_inputs(found.manifest, inputs)
        cached = found is not None and not forced and not changed
        if cached:
            reason = self._describe_cached(inputs)
        elif changed and not forced:
            reason = f"{', '.join(changed)} was made anew and came out otherwise"
        else:
            reason = self._explain(name, inputs, identity)
        return PlannedStep(
            name=name,
            step=step,
            inputs=inputs,
            identity=identity,
            state="cached" if cached else "run",
            forced=forced,
            reason=reason,
            gates=tuple(sorted(self._graph.gates[name])),
            estimate=None if cached else step.estimate(inputs),
        )

    def _output_of(self, name: str) -> ResolvedInput:
        """Another step's output is known by that step's identity before it is made."""
        before = self._planned[name]
        path = self._store.artifact_path(before.identity)
        found = self._store.find(before.identity) if before.state == "cached" else None
        content = None if found is None else found.manifest.content_digest
        return ResolvedInput(
            name,
            before.step.produces,
            before.identity,
            path,
            content=content,
            maker=before.step,
            maker_inputs=before.inputs,
        )

    def _describe_cached(self, inputs: Mapping[str, ResolvedInput]) -> str:
        running = self._find_running(inputs)
        if running:
            return f"in the store, unless {', '.join(running)} comes out otherwise"
        return "in the store"

    def _find_running(self, inputs: Mapping[str, ResolvedInput]) -> list[str]:
        names = [given.name for given in inputs.values()]
        return [n for n in names if n in self._planned and self._planned[n].state == "run"]

    def _explain(self, name: str, inputs: Mapping[str, ResolvedInput], identity: str) -> str:
        if name in self._options.force:
            return "forced by --force"
        if self._destination is not None:
            return "asked for by hand"
        if self._store.has_damaged(identity):
            return "the stored artifact is damaged and will be made anew"
        if self._store.has_partial(identity):
            return "unfinished work of an earlier run will be resumed"
        step = self._loaded.recipe.steps[name]
        running = self._find_running(inputs)
        return explain_change(name, step, inputs, running, _read_previous(self._links / name))


def _read_previous(link: Path) -> Artifact | None:
    if not (link / MANIFEST_NAME).exists():
        return None
    try:
        return Artifact.open(link)
    except InputError:
        return None  # an older or foreign manifest explains nothing


def _check_start(plan: Plan, graph: StepGraph, options: RunOptions) -> None:
    """With --from, everything before must be stored already."""
    if options.start is None:
        return
    wanted = graph.descendants(options.start) | {options.start}
    missing = [p.name for p in plan.steps if p.name not in wanted and p.state == "run"]
    if missing:
        raise RecipeError(
            f"--from {options.start}: not in the store yet: {', '.join(missing)}",
            remedy="run without --from, or with --until first",
        )
