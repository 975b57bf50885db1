"""Says in one sentence why a step must run, from what it last ran with."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmopt.artifacts.artifact import Artifact
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
    changes = list(_find_changes(name, step, inputs, running, before))
    if not changes:
        return "library versions changed, or the stored artifact was removed"
    return "invalidated because " + ", ".join(changes)


def _find_changes(
    name: str,
    step: StepBase,
    inputs: Mapping[str, ResolvedInput],
    running: Sequence[str],
    before: Artifact,
) -> Iterator[str]:
    record = before.manifest.step
    if record.uses != step.type_name:
        yield f"steps.{name}.uses {record.uses} → {step.type_name}"
    elif record.version != step.step_version:
        yield f"{step.type_name} has a new version {record.version} → {step.step_version}"
    now = step.identity_settings()
    for key in now:
        if key in record.settings and record.settings[key] != now[key]:
            yield f"steps.{name}.{key} {_show(record.settings[key])} → {_show(now[key])}"
    for field, given in inputs.items():
        old = before.manifest.inputs.get(field)
        if old is None:
            yield f"{field} is new"
        elif given.name in running:
            yield f"{given.name} will run"
        elif old.digest != given.digest:
            yield f"the contents of {given.name} changed"


def _show(value: Any) -> str:
    return "none" if value is None else str(value)
