"""How an ensemble connects its steps: models, maps and the order that follows from them."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import Repository, ServedModel

LATEST = -1
Step = Any  # pb.ModelEnsembling.Step; the generated module carries no types


def step_field(index: int, step: Step) -> str:
    """Names a step as faults do."""
    return f"ensemble_scheduling.step[{index}] ({step.model_name})"


def find_step_faults(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges which models the steps name, and their batch sizes."""
    steps = model.config.ensemble_scheduling.step
    if not steps:
        yield model.fault(
            "ensemble_scheduling",
            "has no steps" if model.config.HasField("ensemble_scheduling") else "is not set",
            "an ensemble is made of at least one",
            "add the steps, or name a backend",
        )
    for index, step in enumerate(steps):
        field = step_field(index, step)
        used = repository.models.get(step.model_name)
        if used is not None:
            yield from _find_used_faults(model, field, step, used)
        elif step.model_name in repository.unread:
            yield Unchecked(f"{model.name}: step {step.model_name}, whose config does not read")
        else:
            yield model.fault(
                f"{field}.model_name",
                f'is "{step.model_name}"',
                f"the repository's models {', '.join(repository.models)} are allowed",
                "correct the name, or add the model",
            )


def _find_used_faults(
    model: ServedModel, field: str, step: Step, used: ServedModel
) -> Iterator[Fault]:
    if step.model_version != LATEST and step.model_version not in used.served_versions:
        yield model.fault(
            f"{field}.model_version",
            f"is {step.model_version or 'not set, or 0'}",
            f"-1, or a served version of {used.name} "
            f"({', '.join(map(str, used.served_versions))}), is allowed",
            "write -1 for the latest",
        )
    asked, offered = model.config.max_batch_size, used.config.max_batch_size
    if asked > offered > 0:  # without batch axis the step has to take the whole shape
        yield model.fault(
            "max_batch_size",
            f"is {asked}",
            f"its step {used.name} has max_batch_size {offered}",
            f"lower it to {offered}, or raise that of {used.name}",
        )


def find_map_faults(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges each step's maps against the inputs and outputs of its model."""
    for index, step in enumerate(model.config.ensemble_scheduling.step):
        used = repository.models.get(step.model_name)
        if used is None:
            continue
        field = step_field(index, step)
        yield from _find_input_map_faults(model, field, step, used)
        yield from _find_output_map_faults(model, field, step, used)


def _find_input_map_faults(
    model: ServedModel, field: str, step: Step, used: ServedModel
) -> Iterator[Fault]:
    declared = {tensor.name: tensor for tensor in used.config.input}
    for name, tensor in sorted(step.input_map.items()):
        if name not in declared:
            yield model.fault(
                f"{field}.input_map",
                f'maps "{name}"',
                f"inputs of {used.name} are allowed: {', '.join(declared)}",
                "correct the key",
            )
        if not tensor:
            yield model.fault(
                f"{field}.input_map", f'maps "{name}" to ""', "a tensor has a name", "name it"
            )
    for name, spec in declared.items():
        if name not in step.input_map and not spec.optional:
            yield model.fault(
                f"{field}.input_map",
                f'lacks "{name}"',
                f"{used.name} needs each of its inputs",
                "map it",
            )


def _find_output_map_faults(
    model: ServedModel, field: str, step: Step, used: ServedModel
) -> Iterator[Fault]:
    declared = [tensor.name for tensor in used.config.output]
    if not step.output_map:
        yield model.fault(
            f"{field}.output_map",
            "is empty",
            "a step without outputs does nothing for the answer",
            "map its outputs, or remove the step",
        )
    for name, tensor in sorted(step.output_map.items()):
        if name not in declared:
            yield model.fault(
                f"{field}.output_map",
                f'maps "{name}"',
                f"outputs of {used.name} are allowed: {', '.join(declared)}",
                "correct the key",
            )
        if not tensor:
            yield model.fault(
                f"{field}.output_map", f'maps "{name}" to ""', "a tensor has a name", "name it"
            )


def find_flow_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges whether each tensor is made once, made before it is needed, and used."""
    steps = model.config.ensemble_scheduling.step
    given = [tensor.name for tensor in model.config.input]
    made = Counter(tensor for step in steps for tensor in step.output_map.values() if tensor)
    made.update(given)
    for tensor in sorted(name for name, count in made.items() if count > 1):
        yield model.fault(
            "ensemble_scheduling",
            f'makes "{tensor}" twice',
            "one step's output, or one of the ensemble's inputs, makes a tensor",
            "give one of them another name",
        )
    needed = {tensor for step in steps for tensor in step.input_map.values() if tensor}
    for tensor in sorted(needed - set(made)):
        yield model.fault(
            "ensemble_scheduling",
            f'needs "{tensor}", which nothing makes',
            f"its inputs and its steps' outputs are allowed: {', '.join(sorted(made))}",
            "correct the name in input_map or output_map",
        )
    yield from _find_end_faults(model, set(made), needed)
    yield from _find_order_faults(model, set(given), needed <= set(made))


def _find_end_faults(model: ServedModel, made: set[str], needed: set[str]) -> Iterator[Fault]:
    for tensor in model.config.output:
        if tensor.name not in made:
            yield model.fault(
                f'output "{tensor.name}"',
                "is made by no step",
                f"tensors of the steps' output_map are allowed: {', '.join(sorted(made))}",
                "map a step's output to it",
            )
    outputs = {tensor.name for tensor in model.config.output}
    mapped = {name for s in model.config.ensemble_scheduling.step for name in s.output_map.values()}
    for name in sorted(mapped - needed - outputs - {""}):
        yield model.fault(
            "ensemble_scheduling",
            f'makes "{name}", which nothing uses',
            "the server refuses a tensor that leads nowhere",
            "remove it from output_map, or add it to the ensemble's outputs",
        )
    for given in model.config.input:
        if given.name not in needed:
            yield model.fault(
                f'input "{given.name}"',
                "is used by no step",
                "the server refuses an input that leads nowhere",
                "map it to a step's input, or remove it",
            )


def _find_order_faults(
    model: ServedModel,
    given: set[str],
    all_made: bool,  # noqa: FBT001
) -> Iterator[Fault]:
    """Runs the steps in thought; what never becomes ready waits for itself."""
    ready, waiting = given, list(model.config.ensemble_scheduling.step)
    while runnable := [s for s in waiting if set(s.input_map.values()) <= ready]:
        ready = ready.union(*(step.output_map.values() for step in runnable))
        waiting = [step for step in waiting if step not in runnable]
    if waiting and all_made:
        names = ", ".join(step.model_name for step in waiting)
        yield model.fault(
            "ensemble_scheduling",
            f"has steps that wait for each other ({names})",
            "tensors go one way",
            "break the circle",
        )


def find_circle_faults(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges whether an ensemble holds itself."""
    seen: set[str] = set()
    following = {model.name}
    while following:
        steps = (
            step.model_name
            for name in following
            if name in repository.models
            for step in repository.models[name].config.ensemble_scheduling.step
        )
        following = set(steps) - seen
        seen |= following
    if model.name in seen:
        yield model.fault(
            "ensemble_scheduling",
            "leads back to the ensemble itself",
            "no ensemble may hold itself, at any depth",
            "remove the step",
        )
