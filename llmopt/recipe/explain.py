"""Says in one sentence why a step must run, from what it last ran with."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.manifest import InputRecord, StepRecord
from llmopt.recipe.inputs import installed_versions
from llmopt.steps.base import ResolvedInput, StepBase


def explain_change(
    name: str,
    step: StepBase,
    inputs: Mapping[str, ResolvedInput],
    running: Sequence[str],
    before: Artifact | None,
) -> str:
    """Compares a step with its last artifact under the same recipe and name.

    Args:
        name: The step's name.
        step: The step as it is now.
        inputs: Its inputs as they are now.
        running: Names of inputs that will themselves be made anew.
        before: What `out/RECIPE/STEP` points at, if anything.
    """
    if before is None:
        return "not in the store yet"
    if before.manifest.kind == "deferred_build":
        return "deferred by an earlier run"
    changes = list(_find_changes(name, step, inputs, running, before))
    if not changes:
        return "the stored artifact was removed"
    return "invalidated because " + ", ".join(changes)


def _find_changes(
    name: str,
    step: StepBase,
    inputs: Mapping[str, ResolvedInput],
    running: Sequence[str],
    before: Artifact,
) -> Iterator[str]:
    yield from _changed_settings(name, step, before.manifest.step)
    for package, version in installed_versions(step).items():
        if before.manifest.tools.get(package) != version:
            yield f"{package} {_show(before.manifest.tools.get(package))} → {version}"
    for key, value in step.identity_machine().items():
        if before.manifest.machine.get(key) != value:
            yield f"{key} {_show(before.manifest.machine.get(key))} → {value}"
    for field, given in inputs.items():
        if given.name in running:
            yield f"{given.name} will run"
        else:
            yield from _changed_input(field, given, before.manifest.inputs.get(field))


def _changed_settings(name: str, step: StepBase, record: StepRecord) -> Iterator[str]:
    if record.uses != step.type_name:
        yield f"steps.{name}.uses {record.uses} → {step.type_name}"
    elif record.version != step.step_version:
        yield f"{step.type_name} has a new version {record.version} → {step.step_version}"
    now, then = step.identity_settings(), record.settings
    for key in now:
        if then.get(key) != now[key] and (key in then or key == "ungated"):
            yield f"steps.{name}.{key} {_show(then.get(key))} → {_show(now[key])}"
    if "ungated" in then and "ungated" not in now:
        yield f"steps.{name}.ungated true → false"


def _changed_input(field: str, given: ResolvedInput, old: InputRecord | None) -> Iterator[str]:
    if old is None:
        yield f"{field} is new"
    elif old.digest != given.digest and old.origin != given.origin:
        yield f"{given.name} was {old.origin}, is {given.origin}"
    elif old.digest != given.digest:
        yield f"the contents of {given.name} changed"


def _show(value: Any) -> str:
    return "none" if value is None else str(value)
