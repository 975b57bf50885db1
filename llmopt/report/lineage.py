"""Finds the artifacts that one report tells of: a run's steps, or an artifact with its kin."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.manifest import MANIFEST_NAME
from llmopt.errors import InputError


@dataclass(frozen=True)
class Lineage:
    """Artifacts in the order in which they were made from one another.

    Attributes:
        title: The recipe's name, or the recipe's and the artifact's.
        subject: The artifact asked for; None for a run.
        artifacts: Every artifact told of, each after those that it was made from.
        stale: Identity → sentences that say which input is another one than what is shown here.
        missing: What could not be found, as sentences.
    """

    title: str
    subject: Artifact | None
    artifacts: tuple[Artifact, ...]
    stale: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]


def open_lineage(folder: Path) -> Lineage:
    """Opens an artifact's folder, or a run's folder that holds a link per step.

    An artifact comes with what it was made from and the evaluations made of it, as far as they
    lie beside it: in the same store, or linked in the same run's folder.

    Raises:
        InputError: The folder is neither, or a manifest can't be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", remedy="name an artifact, or out/RECIPE")
    place = Path(os.path.abspath(folder))  # noqa: PTH100 - a link's own place, not its target's
    if (place / MANIFEST_NAME).exists():
        return _open_artifact(place)
    return _open_run(place)


def list_steps(folder: Path) -> list[str]:
    """Names the artifacts that lie or are linked directly in a folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST_NAME}"))


def _open_artifact(place: Path) -> Lineage:
    subject = Artifact.open(place)
    beside = {
        artifact.manifest.identity: artifact
        for parent in dict.fromkeys([place.resolve().parent, place.parent])
        for name in list_steps(parent)
        if (artifact := _open_or_none(parent / name)) is not None
    }
    beside[subject.manifest.identity] = subject
    kin = {subject.manifest.identity: subject, **_find_ancestors(subject, beside)}
    for identity, artifact in beside.items():
        if artifact.manifest.kind == "evaluation" and subject.manifest.identity in _reads(artifact):
            kin[identity] = artifact
    manifest = subject.manifest
    title = f"{manifest.recipe} / {manifest.step.id}" if manifest.recipe else place.name
    return Lineage(title, subject, _order(kin.values()), {}, ())


def _open_run(place: Path) -> Lineage:
    names = list_steps(place)
    if not names:
        raise InputError(
            f"{place} holds no {MANIFEST_NAME} and no step's artifact",
            remedy="name an artifact, or a run's folder such as out/RECIPE",
        )
    steps = {name: Artifact.open(place / name) for name in names}
    gone = sorted(p.name for p in place.iterdir() if p.is_symlink() and not p.exists())
    recipes = {artifact.manifest.recipe for artifact in steps.values()} - {None}
    title = recipes.pop() if len(recipes) == 1 else None
    return Lineage(
        title or place.name,
        None,
        _order(steps.values()),
        {a.manifest.identity: faults for a in steps.values() if (faults := _find_stale(a, steps))},
        tuple(f"{name}: its link points at nothing, the artifact is gone" for name in gone),
    )


def _find_stale(artifact: Artifact, steps: Mapping[str, Artifact]) -> tuple[str, ...]:
    """A run that failed halfway leaves a later step that was made from an earlier run's input."""
    return tuple(
        f"{artifact.manifest.step.id} was made from another {given.name} "
        f"({given.digest[:12]}) than the one linked here "
        f"({steps[given.name].manifest.identity[:12]})"
        for given in artifact.manifest.inputs.values()
        if given.name in steps and steps[given.name].manifest.identity != given.digest
    )


def _find_ancestors(artifact: Artifact, beside: Mapping[str, Artifact]) -> dict[str, Artifact]:
    found: dict[str, Artifact] = {}
    waiting = [artifact]
    while waiting:
        for digest in _reads(waiting.pop()) - set(found):
            if digest in beside:
                found[digest] = beside[digest]
                waiting.append(beside[digest])
    return found


def _reads(artifact: Artifact) -> set[str]:
    return {given.digest for given in artifact.manifest.inputs.values()}


def _order(artifacts: Iterable[Artifact]) -> tuple[Artifact, ...]:
    """Puts each artifact after those it was made from; else the older first."""
    waiting = sorted(artifacts, key=lambda a: (a.manifest.created, a.manifest.step.id))
    ordered: list[Artifact] = []
    while waiting:
        pending = {a.manifest.identity for a in waiting}
        ready = next((a for a in waiting if not _reads(a) & pending), waiting[0])
        waiting.remove(ready)
        ordered.append(ready)
    return tuple(ordered)


def _open_or_none(folder: Path) -> Artifact | None:
    try:
        return Artifact.open(folder)
    except InputError:
        return None  # a neighbour that can't be read is not what was asked for
