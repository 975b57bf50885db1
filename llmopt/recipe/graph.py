"""What a recipe's names refer to, and the order in which its steps can run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llmopt.errors import RecipeError
from llmopt.recipe.loader import LoadedRecipe
from llmopt.recipe.overrides import suggest
from llmopt.steps.base import KIND_TITLES, InputKind, StepBase, input_path
from llmopt.steps.bench_onnx import BenchOnnx
from llmopt.steps.eval_compare import EvalCompare
from llmopt.steps.eval_gate import EvalGate


@dataclass(frozen=True)
class StepGraph:
    """The steps in an order in which they can run.

    Attributes:
        order: Step names; each after everything that it waits for.
        waits_for: Step → the steps before it: inputs, `needs`, and gates.
        gates: Step → the gates among those.
    """

    order: tuple[str, ...]
    waits_for: Mapping[str, frozenset[str]]
    gates: Mapping[str, frozenset[str]]

    def ancestors(self, step: str) -> frozenset[str]:
        """Returns every step that must come before this one."""
        return _close(step, self.waits_for)

    def descendants(self, step: str) -> frozenset[str]:
        """Returns every step that waits for this one, directly or not."""
        return frozenset(other for other in self.order if step in self.ancestors(other))


def build_graph(loaded: LoadedRecipe) -> StepGraph:
    """Checks every reference and orders the steps.

    Raises:
        RecipeError: A name is used twice, unknown, of the wrong kind, later, or in a cycle.
    """
    recipe = loaded.recipe
    _check_unique_names(loaded)
    _check_overlaps(loaded)
    edges: dict[str, set[str]] = {}
    for name, step in recipe.steps.items():
        edges[name] = set(_check_references(loaded, name, step))
    _check_order(loaded, edges)
    _check_requirements(loaded)
    data_edges = {name: frozenset(before) for name, before in edges.items()}
    gates = _find_gates(recipe.steps, data_edges)
    waits_for = {name: data_edges[name] | gates[name] for name in edges}
    return StepGraph(_sort(loaded, waits_for), waits_for, gates)


def _check_unique_names(loaded: LoadedRecipe) -> None:
    seen: dict[str, str] = {}
    for section in ("sources", "datasets", "steps"):
        for name in getattr(loaded.recipe, section):
            if name in seen:
                place = loaded.tree.place_of((section, name))
                raise RecipeError(
                    f"{place}: the name {name!r} is taken by {seen[name]}.{name}; names are "
                    "unique over sources, datasets and steps"
                )
            seen[name] = section


def _check_overlaps(loaded: LoadedRecipe) -> None:
    """Refuses a `max_overlap` with what is no other data set."""
    datasets = loaded.recipe.datasets
    for name, spec in datasets.items():
        for other in spec.require.max_overlap if spec.require is not None else ():
            if other in datasets and other != name:
                continue
            place = loaded.tree.place_of(("datasets", name, "require", "max_overlap", other))
            what = "is the data set itself" if other == name else "is no data set of the recipe"
            raise RecipeError(
                f"{place}: max_overlap of data set {name!r} names {other!r}, which {what}"
                + suggest(other, [known for known in datasets if known != name])
            )


def _check_references(loaded: LoadedRecipe, name: str, step: StepBase) -> Iterator[str]:
    """Yields the steps that one step refers to."""
    recipe = loaded.recipe
    for key, target in step.input_names().items():
        path = input_path(key)
        place = loaded.tree.place_of(("steps", name, *path))
        accepts = step.input_fields()[str(path[0])].accepts
        kind = _kind_of(loaded, target)
        if kind is None:
            known = [
                other
                for other in (*recipe.sources, *recipe.datasets, *recipe.steps)
                if _kind_of(loaded, other) in accepts and other != name
            ]
            raise RecipeError(
                f"{place}: {key} of step {name!r} is {target!r}, but there is no source, data "
                f"set or step of that name" + suggest(target, known)
            )
        if kind not in accepts:
            wanted = " or ".join(KIND_TITLES[each] for each in accepts)
            is_export = "onnx_model" in accepts and target in recipe.sources
            raise RecipeError(
                f"{place}: {key} of step {name!r} wants {wanted}; {target!r} is "
                f"{KIND_TITLES[kind]}",
                remedy=f"a folder that export.onnx made is a source of its kind: {target}: "
                f"{{path: DIR, kind: onnx_model}}"
                if is_export
                else None,
            )
        if target in recipe.steps:
            yield target
    for target in step.needs:
        if target not in recipe.steps:
            place = loaded.tree.place_of(("steps", name, "needs"))
            raise RecipeError(
                f"{place}: step {name!r} needs {target!r}, which is no step"
                + suggest(target, recipe.steps)
            )
        yield target


def _kind_of(loaded: LoadedRecipe, name: str) -> InputKind | None:
    recipe = loaded.recipe
    if name in recipe.sources:
        return recipe.sources[name].kind
    if name in recipe.datasets:
        return "dataset"
    return recipe.steps[name].produces if name in recipe.steps else None


def _check_order(loaded: LoadedRecipe, edges: Mapping[str, set[str]]) -> None:
    """Refuses references to later steps; one that closes a cycle is named as such."""
    position = {name: index for index, name in enumerate(loaded.recipe.steps)}
    for name, before in edges.items():
        for target in sorted(before, key=lambda n: position[n]):
            if position[target] < position[name]:
                continue
            place = loaded.tree.place_of(("steps", name))
            if target == name or name in _close(target, edges):
                raise RecipeError(f"{place}: steps {name!r} and {target!r} wait for each other")
            raise RecipeError(
                f"{place}: step {name!r} refers to {target!r}, which stands later; "
                "put it after the steps that it reads"
            )


def _check_requirements(loaded: LoadedRecipe) -> None:
    """Refuses a gate on candidates where a metric's first part is none of the candidates."""
    steps = loaded.recipe.steps
    for name, gate in steps.items():
        source = steps.get(gate.input_names().get("metrics_of", ""))
        if not isinstance(gate, EvalGate) or not isinstance(source, EvalCompare | BenchOnnx):
            continue
        for metric in gate.require:
            candidate = metric.partition(".")[0]
            if candidate not in source.candidates:
                place = loaded.tree.place_of(("steps", name, "require", metric))
                raise RecipeError(
                    f"{place}: {metric} of step {name!r}: the metrics of {source.type_name} "
                    "begin with a candidate's name, such as "
                    f"{source.candidates[0]}.{source.typical_metric}"
                    + suggest(candidate, source.candidates)
                )


def _find_gates(
    steps: Mapping[str, StepBase], edges: Mapping[str, frozenset[str]]
) -> dict[str, frozenset[str]]:
    """Returns, for each step, the gates that it must wait for."""
    gates: dict[str, set[str]] = {name: set() for name in steps}
    for gate_name, gate in steps.items():
        if not gate.is_gate:
            continue
        judged = _judged_steps(gate, steps)
        needed_by_gate = _close(gate_name, edges)
        for name, step in steps.items():
            reads = judged & set(step.input_names().values())
            if reads and not step.is_gate and not step.ungated and name not in needed_by_gate:
                gates[name].add(gate_name)
    return {name: frozenset(found) for name, found in gates.items()}


def _judged_steps(gate: StepBase, steps: Mapping[str, StepBase]) -> frozenset[str]:
    """A gate judges its `model`; one that reads metrics judges what those were measured on."""
    measured = _measured(gate, steps)
    if not isinstance(gate, EvalGate):
        return measured
    # On a comparison, the candidates that it requires something of: a control holds nobody up.
    required = measured & {metric.partition(".")[0] for metric in gate.require}
    return required or measured


def _measured(step: StepBase, steps: Mapping[str, StepBase]) -> frozenset[str]:
    """Returns the steps whose artifacts a step's metrics speak of."""
    source = step.input_names().get("metrics_of")
    if source is None:
        return step.measured_names() & frozenset(steps)
    is_evaluation = steps[source].produces == "evaluation"
    return _measured(steps[source], steps) if is_evaluation else frozenset({source})


def _close(start: str, edges: Mapping[str, set[str] | frozenset[str]]) -> frozenset[str]:
    found: set[str] = set()
    stack = [start]
    while stack:
        for name in edges[stack.pop()]:
            if name not in found:
                found.add(name)
                stack.append(name)
    return frozenset(found)


def _sort(loaded: LoadedRecipe, waits_for: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """Orders topologically, keeping the recipe's order where it can."""
    order: list[str] = []
    left = list(loaded.recipe.steps)
    while left:
        ready = next((name for name in left if waits_for[name] <= set(order)), None)
        if ready is None:
            place = loaded.tree.place_of(("steps",))
            raise RecipeError(
                f"{place}: gates make these steps wait for each other: {', '.join(left)}",
                remedy="set `ungated: true` on the one that may go ahead",
            )
        order.append(ready)
        left.remove(ready)
    return tuple(order)
