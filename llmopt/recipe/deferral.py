"""What an earlier run sealed for another machine, and whether it still speaks for a step."""

from pathlib import Path

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.manifest import Manifest
from llmopt.artifacts.progress import Progress
from llmopt.errors import InputError
from llmopt.recipe.plan import PlannedStep


def find_linked_seal(link: Path, planned: PlannedStep, progress: Progress) -> Artifact | None:
    """Returns the deferred build that `out/RECIPE/STEP` points at, if it binds the step.

    It is sealed under another identity than the step has now. Where the recipe was changed since,
    what it asks for now is built, and the seal replaced. Where the recipe is the same and a
    source's files are not, they may have been damaged on their way to this machine: to tell that
    is what a seal is for, so it binds (docs/adr/0018).

    Args:
        link: Where the step's artifact is linked.
        planned: The step.
        progress: Hears of a seal that is replaced.
    """
    try:
        linked = Artifact.open(link)
    except InputError:
        return None  # nothing there, or what no longer says what it was
    if linked.manifest.kind != "deferred_build":
        return None
    if _asks_for_the_same(linked.manifest, planned):
        return linked
    progress.note(f"the deferred build in {link} is of another recipe or model; it is replaced")
    return None


def _asks_for_the_same(sealed: Manifest, planned: PlannedStep) -> bool:
    """Tells whether a recipe asks for what was sealed: settings, sources and steps before it."""
    if (
        sealed.step.uses != planned.step.type_name
        or sealed.step.version != planned.step.step_version
    ):
        return False
    if sealed.step.settings != planned.step.settings():
        return False
    inputs = planned.inputs
    return sealed.inputs.keys() == inputs.keys() and all(
        before.name == inputs[key].name
        and before.origin == inputs[key].origin
        and (inputs[key].maker is None or before.digest == inputs[key].digest)
        for key, before in sealed.inputs.items()
    )
