"""What every step has in common: its fields, its inputs, and what it gives back."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.manifest import ArtifactKind, LayerError
from llmopt.artifacts.progress import Progress
from llmopt.data.dataset_files import LocatedPart
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.serving.target import Target

Mark = TypeVar("Mark")
InputKind = ArtifactKind | Literal["checkpoint", "dataset"]
KIND_TITLES: Mapping[InputKind, str] = {
    "checkpoint": "a checkpoint",
    "quantized_checkpoint": "a quantised checkpoint",
    "evaluation": "an evaluation",
    "onnx_model": "an ONNX model",
    "tensorrt_engine": "a TensorRT engine",
    "triton_repository": "a Triton repository",
    "deferred_build": "a deferred build",
    "dataset": "a data set",
}


@dataclass(frozen=True)
class InputRef:
    """Marks a step's field as the name, or a tuple of names, of sources, data sets or steps."""

    accepts: tuple[InputKind, ...]


@dataclass(frozen=True)
class NotIdentity:
    """Marks a field that changes how a step runs, not what it makes."""


@dataclass(frozen=True)
class ResolvedInput:
    """What a name in a recipe stands for.

    Attributes:
        name: The name in the recipe.
        kind: What it is.
        digest: Identity of its contents.
        path: The model's folder, the data set's file or snapshot, or the artifact's folder. It
            need not exist yet where another step will make it, or it is yet to be downloaded.
        dataset: The data set's description, where it is one.
        mixed: The further parts of a data set's mix.
        trust_remote_code: Whether a model's own code may run.
        origin: Where it comes from, as the recipe says it, for manifests and explanations.
        content: For another step's output that is there, the digest of its bytes.
        maker: For another step's output, that step.
        maker_inputs: What that step reads, as far as it is known.
    """

    name: str
    kind: InputKind
    digest: str
    path: Path
    dataset: DatasetSpec | None = None
    mixed: tuple[LocatedPart, ...] = ()
    trust_remote_code: bool = False
    origin: str = ""
    content: str | None = None
    maker: "StepBase | None" = None
    maker_inputs: "StepInputs" = field(default_factory=dict)

    @property
    def parts(self) -> tuple[LocatedPart, ...]:
        """All parts of a data set; the data set itself is the first."""
        assert self.dataset is not None
        return (LocatedPart(self.dataset, self.path), *self.mixed)


StepInputs = Mapping[str, ResolvedInput]  # by the keys of StepBase.input_names


@dataclass(frozen=True)
class RunContext:
    """Where and how a step runs.

    Attributes:
        work_folder: What is written here becomes the artifact.
        scratch_folder: Survives a kill for the next run; never part of the artifact.
        device: "auto", "cpu", "cuda", "cuda:N" or several, "cuda:N,cuda:M".
        threads: CPU threads for torch; None leaves torch's choice.
        progress: Hears of the step's advance.
    """

    work_folder: Path
    scratch_folder: Path
    device: str
    threads: int | None
    progress: Progress


@dataclass(frozen=True)
class Outcome:
    """What a step reports; the executor seals it with the files into an artifact."""

    metrics: dict[str, JsonValue] = field(default_factory=dict)
    layers: list[LayerError] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Estimate:
    """Rough needs of a step: bytes of RAM and disk, floating-point operations (0: not known)."""

    ram_bytes: int
    disk_bytes: int
    flops: float


class StepBase(BaseModel, ABC):
    """A step of a recipe. Subclasses add fields and `uses: Literal[...]`.

    Class attributes:
        step_version: Raised when the same settings would give another result.
        produces: The kind of artifact.
        is_gate: Whether consumers of `model` must wait for this step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    step_version: ClassVar[int] = 1
    produces: ClassVar[ArtifactKind]
    is_gate: ClassVar[bool] = False

    needs: tuple[str, ...] = Field((), description="Steps to wait for without reading them.")
    when_unavailable: Literal["fail", "defer", "skip"] = Field(
        "fail", description="What to do where a tool or device that the step needs is missing."
    )
    ungated: bool = Field(
        False, description="Do not wait for the gates on this step's inputs; recorded."
    )

    @property
    def type_name(self) -> str:
        """The step type as recipes write it, such as `quantize.gptq`."""
        return str(getattr(self, "uses"))  # noqa: B009 - declared by every subclass

    @classmethod
    def input_fields(cls) -> dict[str, InputRef]:
        """Returns the fields that hold names, with what each accepts."""
        return _fields_marked(cls, InputRef)

    def input_names(self) -> dict[str, str]:
        """Returns key → name for the inputs that are given.

        The key of a field is the field, that of a list's entry `field.index`.
        """
        names: dict[str, str] = {}
        for field_name in self.input_fields():
            value = getattr(self, field_name)
            if isinstance(value, tuple):
                names |= {f"{field_name}.{index}": name for index, name in enumerate(value)}
            elif value is not None:
                names[field_name] = value
        return names

    def measured_names(self) -> frozenset[str]:
        """Names the inputs that the step's metrics speak of."""
        names = self.input_names()
        return frozenset({names["model"]}) if "model" in names else frozenset()

    def settings(self) -> dict[str, Any]:
        """Returns every field but the inputs and what only orders the run."""
        left_out = {"uses", "needs", "when_unavailable", *self.input_fields()}
        settings: dict[str, Any] = self.model_dump(mode="json", exclude=left_out)
        if not self.ungated:
            del settings["ungated"]
        return settings

    def identity_settings(self) -> dict[str, Any]:
        """Returns the settings that decide what comes out."""
        passive = _fields_marked(type(self), NotIdentity)
        return {name: value for name, value in self.settings().items() if name not in passive}

    def identity_packages(self) -> tuple[str, ...]:
        """Names the libraries whose version changes the numbers."""
        return ("torch", "transformers", "tokenizers")

    def identity_machine(self) -> dict[str, str]:
        """Says what of this machine decides what comes out; nothing where any makes the same."""
        return {}

    def preflight(self, inputs: StepInputs, target: Target | None) -> None:
        """Refuses, without torch and before any work, what can't be done or served.

        Only inputs that exist already can be looked at.

        Raises:
            InputError: An input is unsuitable.
            IncompatibleError: The result could not be packed or served as asked.
        """

    def require_tools(self) -> None:
        """Refuses, before the work of any step, to start where a tool of this one is not here.

        Raises:
            CapabilityError: A package, a program or a device is missing.
        """

    def estimate(self, inputs: StepInputs) -> Estimate | None:
        """Estimates what the step needs, from shapes alone; None where it can't yet."""
        del inputs
        return None

    def check(self, name: str, artifact: Artifact) -> None:
        """Judges the finished artifact, made now or found in the store, for the step `name`.

        Raises:
            GateFailed: It misses a requirement.
        """

    @abstractmethod
    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Does the work, into `context.work_folder`."""


class Deferrable(ABC):
    """What a step has that, where this machine can't run it, seals what another one needs."""

    @abstractmethod
    def defer(self, inputs: StepInputs, context: RunContext, reason: str) -> Outcome:
        """Writes what another machine needs to finish the step.

        Args:
            inputs: As for `run`.
            context: As for `run`; what is written becomes an artifact of kind `deferred_build`.
            reason: Why this machine can't run the step.
        """

    @abstractmethod
    def check_deferred(self, deferred: Artifact, inputs: StepInputs) -> None:
        """Holds what an earlier run deferred against what lies here now, before the step runs.

        Raises:
            InputError: It is not what was sealed.
        """


def input_path(key: str) -> tuple[str | int, ...]:
    """Returns where an input stands in its step: `candidates.0` → ("candidates", 0)."""
    field_name, _, index = key.partition(".")
    return (field_name, int(index)) if index else (field_name,)


def _fields_marked(cls: type[BaseModel], mark: type[Mark]) -> dict[str, Mark]:
    return {
        name: entry
        for name, info in cls.model_fields.items()
        for entry in info.metadata
        if isinstance(entry, mark)
    }
