"""Runs a plan: each step under its lock, into its workspace, sealed and published whole."""

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from llmopt import __version__
from llmopt.artifacts.artifact import Artifact, describe_files
from llmopt.artifacts.destination import Destination
from llmopt.artifacts.manifest import (
    ArtifactKind,
    InputRecord,
    Manifest,
    StepRecord,
    content_digest,
    read_manifest,
)
from llmopt.artifacts.progress import Progress
from llmopt.artifacts.store import Store
from llmopt.errors import (
    CapabilityError,
    IncompatibleError,
    InputError,
    NumericalError,
    ResourceError,
)
from llmopt.recipe.deferral import find_linked_seal
from llmopt.recipe.inputs import (
    find_other_inputs,
    identify_deferred,
    installed_versions,
)
from llmopt.recipe.peak_memory import read_peak_bytes
from llmopt.recipe.plan import Plan, PlannedStep, check_plan
from llmopt.recipe.resources import resource_errors
from llmopt.steps.base import Deferrable, Outcome, ResolvedInput, RunContext

SCRATCH_NAME = ".scratch"
FORCED_NAME = "forced"  # in the scratch folder: the work there was begun by a forced run


class RunListener(Protocol):
    """Hears what a run does; the CLI draws it or writes it as JSON lines."""

    def event(self, name: str, **fields: Any) -> None:
        """Takes one event, such as step_started or step_finished."""

    def progress(self, step: str) -> Progress:
        """Returns the listener for the inside of a step."""


@dataclass(frozen=True)
class RunSettings:
    """How steps run, whatever they are: device, threads, where links go.

    `output_root` is None where no links are wanted.
    """

    device: str
    threads: int | None
    output_root: Path | None


@dataclass(frozen=True)
class RunResult:
    """What a run ended with.

    Attributes:
        artifacts: Step → artifact, for the steps that have one.
        unavailable: Step → why it did not run, for the steps deferred or skipped.
        has_deferred: Whether a step was put off until a machine that can run it.
        deferred: Step → what was sealed for that machine, for the steps that seal something.
    """

    artifacts: Mapping[str, Artifact]
    unavailable: Mapping[str, str]
    has_deferred: bool
    deferred: Mapping[str, Artifact]


def run_plan(
    plan: Plan,
    destination: Destination,
    store: Store,
    settings: RunSettings,
    listener: RunListener,
) -> RunResult:
    """Runs every step of a plan that is not finished already.

    Raises:
        GateFailed: A gate is missed; its measurements are in the store.
        LlmoptError: A step can't be done.
    """
    check_plan(plan)
    with ExitStack() as held:
        runner = _Runner(plan, destination, store, settings, listener, held)
        for planned in plan.steps:
            runner.require_tools(planned)
        for planned in plan.steps:
            runner.run(planned)
    return RunResult(runner.artifacts, runner.unavailable, runner.has_deferred, runner.deferred)


def _point_at(given: ResolvedInput, artifact: Artifact) -> ResolvedInput:
    return replace(given, path=artifact.path, content=artifact.manifest.content_digest)


def _prepare_workspace(work: Path) -> Path:
    """Clears what a killed run half wrote, keeps and returns its scratch folder."""
    scratch = work / SCRATCH_NAME
    for path in work.iterdir():
        if path != scratch:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    scratch.mkdir(exist_ok=True)
    return scratch


def _is_begun(scratch: Path) -> bool:
    """Tells whether a step left something there that it would go on from."""
    return bool({path.name for path in scratch.iterdir()} - {FORCED_NAME})


def _is_sealed(work: Path, planned: PlannedStep, inputs: Mapping[str, ResolvedInput]) -> bool:
    """Tells whether a killed run got as far as the manifest, and all it vouches for is there."""
    try:
        manifest = read_manifest(work)
    except InputError:
        return False
    files = describe_files(work, leave_out=SCRATCH_NAME)
    is_same = manifest.identity == planned.identity and manifest.files == files
    return is_same and not find_other_inputs(manifest, inputs)


class _Runner:
    """The state of one run."""

    def __init__(
        self,
        plan: Plan,
        destination: Destination,
        store: Store,
        settings: RunSettings,
        listener: RunListener,
        held: ExitStack,
    ) -> None:
        self._held = held
        self._plan = plan
        self._destination = destination
        self._store = store
        self._settings = settings
        self._listener = listener
        self.artifacts: dict[str, Artifact] = {}
        self.unavailable: dict[str, str] = {}
        self.has_deferred = False
        self.deferred: dict[str, Artifact] = {}

    def require_tools(self, planned: PlannedStep) -> None:
        """Refuses what would fail for want of a tool after the steps before it took their time."""
        if planned.state != "run" or planned.step.when_unavailable != "fail":
            return
        try:
            planned.step.require_tools()
        except CapabilityError as error:
            raise self._offer_deferral(planned, error) from error

    def run(self, planned: PlannedStep) -> None:
        blocked = self._find_blocked(planned)
        if blocked is not None:
            self._set_aside(planned, f"waits for {blocked}, which did not run")
            return
        try:
            artifact = self._find_or_make(planned)
        except CapabilityError as error:
            if planned.step.when_unavailable == "fail":
                raise self._offer_deferral(planned, error) from error
            if planned.step.when_unavailable == "defer":
                self.has_deferred = True
                self._seal_deferred(planned, error.message)
            self._set_aside(planned, error.message)
            return
        self.artifacts[planned.name] = artifact
        planned.step.check(planned.name, artifact)

    def _find_blocked(self, planned: PlannedStep) -> str | None:
        before = [given.name for given in planned.inputs.values()]
        names = [*before, *planned.step.needs, *planned.gates]
        return next((name for name in names if name in self.unavailable), None)

    def _offer_deferral(self, planned: PlannedStep, error: CapabilityError) -> CapabilityError:
        """Names the way out that a recipe has where another machine can finish the step."""
        if not isinstance(planned.step, Deferrable) or self._plan.loaded.tree.is_by_hand:
            return error
        defer = "let another machine do it: when_unavailable: defer in the step"
        remedy = defer if error.remedy is None else f"{error.remedy}; or {defer}"
        return CapabilityError(error.message, remedy=remedy)

    def _set_aside(self, planned: PlannedStep, why: str) -> None:
        self.unavailable[planned.name] = why
        self._listener.event("step_unavailable", step=planned.name, reason=why)

    def _seal_deferred(self, planned: PlannedStep, reason: str) -> None:
        """Publishes what a machine that can run the step needs, unless it lies there already."""
        if not isinstance(planned.step, Deferrable):
            return
        inputs, progress = self._made_inputs(planned), self._listener.progress(planned.name)
        deferred = replace(planned, identity=identify_deferred(planned.step, planned.inputs))
        with self._destination.lock(deferred.identity, progress.note):
            artifact = None if planned.forced else self._destination.find(deferred.identity)
            if artifact is None or find_other_inputs(artifact.manifest, inputs):
                artifact = self._make(deferred, inputs, progress, reason)
            self._link(planned, artifact)
            self._held.enter_context(self._destination.hold_for_reading(deferred.identity))
        self.deferred[planned.name] = artifact

    def _find_deferred(self, planned: PlannedStep, progress: Progress) -> Artifact | None:
        """Returns what an earlier run sealed for this step, in the store or where it is linked."""
        found = self._destination.find(identify_deferred(planned.step, planned.inputs))
        root = self._settings.output_root
        if found is not None or root is None:
            return found
        link = root / self._plan.loaded.recipe.name / planned.name
        return find_linked_seal(link, planned, progress)

    def _find_or_make(self, planned: PlannedStep) -> Artifact:
        progress = self._listener.progress(planned.name)
        with self._destination.lock(planned.identity, progress.note):
            # Looked up under the lock: another run may have made it while this one waited.
            found = None if planned.forced else self._destination.find(planned.identity)
            inputs = self._made_inputs(planned)
            changed = [] if found is None else find_other_inputs(found.manifest, inputs)
            if found is not None and not changed:
                artifact, event = found, "step_cached"
            else:
                reason = f"{', '.join(changed)} came out otherwise" if changed else planned.reason
                self._listener.event("step_started", step=planned.name, reason=reason)
                artifact, event = self._make(planned, inputs, progress), "step_finished"
            # Under the lock, so that no other process removes or replaces it before this run
            # is through with it.
            self._link(planned, artifact)
            self._held.enter_context(self._destination.hold_for_reading(planned.identity))
        self._announce(event, planned, artifact)
        return artifact

    def _announce(self, event: str, planned: PlannedStep, artifact: Artifact) -> None:
        manifest = artifact.manifest
        self._listener.event(
            event,
            step=planned.name,
            uses=planned.step.type_name,
            identity=planned.identity,
            path=str(artifact.path),
            metrics=manifest.metrics,
            timings=manifest.timings,
        )

    def _make(
        self,
        planned: PlannedStep,
        inputs: Mapping[str, ResolvedInput],
        progress: Progress,
        deferred: str | None = None,
    ) -> Artifact:
        """Makes the step's artifact or, where it is deferred for a reason, what is sealed then."""
        work = self._destination.open_workspace(planned.identity)
        is_sealed = _is_sealed(work, planned, inputs)
        if planned.forced and not is_sealed and not (work / SCRATCH_NAME / FORCED_NAME).exists():
            self._destination.discard_workspace(planned.identity)
            work = self._destination.open_workspace(planned.identity)
        try:
            with resource_errors(work, planned.estimate):
                if is_sealed:
                    progress.note("resumed: an earlier run finished it, only publishing is left")
                else:
                    context = self._open_context(planned, work, progress)
                    self._work(planned, inputs, context, deferred)
                # Only now: until the manifest stands, a killed run goes on from its last block.
                if (work / SCRATCH_NAME).exists():
                    shutil.rmtree(work / SCRATCH_NAME)
                return self._destination.publish(planned.identity, progress.note)
        except ResourceError:
            # Refused before any work: no folder is to be blocked by it.
            if work.exists() and not any(work.iterdir()):
                self._destination.discard_workspace(planned.identity)
            raise

    def _open_context(self, planned: PlannedStep, work: Path, progress: Progress) -> RunContext:
        scratch = _prepare_workspace(work)
        if planned.forced:
            (scratch / FORCED_NAME).touch()
        return RunContext(work, scratch, self._settings.device, self._settings.threads, progress)

    def _work(
        self,
        planned: PlannedStep,
        inputs: Mapping[str, ResolvedInput],
        context: RunContext,
        deferred: str | None,
    ) -> None:
        """Runs and seals the step; what no repetition could go on from is thrown away.

        That is work that can't succeed, and where the step left nothing in its scratch folder.
        """
        started = time.perf_counter()
        kind = planned.step.produces if deferred is None else "deferred_build"
        try:
            outcome = self._run_step(planned, inputs, context, deferred)
            total_s = round(time.perf_counter() - started, 3)
            outcome = replace(outcome, timings={**outcome.timings, "total_s": total_s})
            self._seal(planned, inputs, outcome, context.work_folder, kind)
        except (InputError, IncompatibleError, NumericalError):
            self._destination.discard_workspace(planned.identity)
            raise
        except BaseException:
            if not _is_begun(context.scratch_folder):
                self._destination.discard_workspace(planned.identity)
            raise

    def _run_step(
        self,
        planned: PlannedStep,
        inputs: Mapping[str, ResolvedInput],
        context: RunContext,
        deferred: str | None,
    ) -> Outcome:
        if deferred is not None:
            assert isinstance(planned.step, Deferrable)
            return planned.step.defer(inputs, context, deferred)
        if isinstance(planned.step, Deferrable) and not planned.forced:
            sealed = self._find_deferred(planned, context.progress)
            if sealed is not None:
                planned.step.check_deferred(sealed, inputs)
        return planned.step.run(inputs, context)

    def _made_inputs(self, planned: PlannedStep) -> dict[str, ResolvedInput]:
        """Points inputs at the artifacts that this run made or found."""
        return {
            field: _point_at(given, self.artifacts[given.name])
            if given.name in self.artifacts
            else given
            for field, given in planned.inputs.items()
        }

    def _seal(
        self,
        planned: PlannedStep,
        inputs: Mapping[str, ResolvedInput],
        outcome: Outcome,
        work: Path,
        kind: ArtifactKind,
    ) -> None:
        files = describe_files(work, leave_out=SCRATCH_NAME)
        step = planned.step
        Manifest(
            kind=kind,
            identity=planned.identity,
            content_digest=content_digest(files),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            recipe=self._plan.loaded.recipe.name,
            step=StepRecord(
                id=planned.name,
                uses=step.type_name,
                version=step.step_version,
                settings=step.settings(),
                overrides=list(self._plan.loaded.overrides),
            ),
            inputs={
                field: InputRecord(
                    name=given.name,
                    kind=given.kind,
                    origin=given.origin,
                    digest=given.digest,
                    content=given.content,
                )
                for field, given in inputs.items()
            },
            files=files,
            metrics=outcome.metrics,
            layers=outcome.layers,
            timings=outcome.timings,
            peak_memory_bytes=read_peak_bytes(),
            machine=outcome.machine,
            tools={"llmopt": __version__, **installed_versions(step)},
            degraded=outcome.degraded,
        ).write(work)

    def _link(self, planned: PlannedStep, artifact: Artifact) -> None:
        if self._settings.output_root is not None:
            recipe = self._plan.loaded.recipe.name
            self._store.link(self._settings.output_root / recipe / planned.name, artifact)
