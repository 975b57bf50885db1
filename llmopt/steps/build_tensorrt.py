"""`build.tensorrt`: an ONNX model as a TensorRT engine with named dynamic profiles."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    JsonValue,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.engine_settings import EngineSettings
from llmopt.artifacts.files import expand_home
from llmopt.artifacts.manifest import ArtifactKind
from llmopt.artifacts.onnx_description import (
    DESCRIPTION_NAME,
    OnnxDescription,
    read_onnx_description,
)
from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.engine.backends import BACKENDS, RTX, Backend, choose_backend, why_not_built_here
from llmopt.engine.build_needs import DISK_FACTOR, RAM_FACTOR, measure_model_bytes
from llmopt.engine.cuda_driver import InstalledGpu, list_gpus
from llmopt.engine.profile_entries import read_entries
from llmopt.engine.profiles import check_workspace, read_profile
from llmopt.errors import CapabilityError, IncompatibleError, InputError
from llmopt.serving.target import Target
from llmopt.steps.base import (
    Deferrable,
    Estimate,
    InputRef,
    NotIdentity,
    Outcome,
    RunContext,
    StepBase,
    StepInputs,
)

BYTES_PER_GB = 1_000_000_000
CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]\Z")


class BuildTensorrt(StepBase, Deferrable):
    """Builds a TensorRT engine from an exported model."""

    produces: ClassVar[ArtifactKind] = "tensorrt_engine"

    uses: Literal["build.tensorrt"]
    onnx: Annotated[str, InputRef(("onnx_model",))] = Field(description="The exported model.")
    profiles: dict[str, dict[str, JsonValue]] = Field(
        min_length=1,
        description="Named profiles: for each dynamic axis a size, [min, opt, max] or "
        "MIN..OPT..MAX, or for an input three shapes. One axis may have {buckets: [128, 512]}, "
        "which makes a profile of each. total_sequence is the sum of the other two.",
    )
    backend: Literal["auto", "tensorrt_rtx", "tensorrt"] = Field(
        "auto",
        description="tensorrt_rtx builds without a GPU, for 7.5, 8.6, 8.9 and 12; "
        "tensorrt needs one, and its engines are what Triton's tensorrt_plan loads. auto takes "
        "the first that can build here.",
    )
    tensorrt_version: str | None = Field(
        None,
        pattern=r"^[0-9]+(\.[0-9]+)*$",
        description="What the backend's version must begin with, such as 10.13: that of the "
        "server that loads the engine.",
    )
    workspace_gb: float | None = Field(
        None, gt=0, description="Most scratch memory for a kernel (default: TensorRT's)."
    )
    compute_capabilities: tuple[str, ...] = Field(
        (),
        description="GPUs that the engine is for, such as 8.9. Default: tensorrt_rtx takes "
        "8.6 and later; tensorrt builds for the GPU at hand, which must be the one "
        "named here.",
    )
    weight_streaming: bool = Field(
        False, description="Let weights stay in the host's memory where the GPU's is short."
    )
    tf32: bool = Field(True, description="Let float32 products take TF32.")
    timing_cache: Annotated[str | None, NotIdentity()] = Field(
        None,
        description="A timing.cache of an earlier engine, relative to the recipe, to build "
        "faster; tensorrt only. Each engine of tensorrt has one beside it.",
    )
    _timing_path: Path | None = PrivateAttr(None)

    @field_validator("profiles")
    @classmethod
    def _check_profiles(
        cls, profiles: dict[str, dict[str, JsonValue]]
    ) -> dict[str, dict[str, JsonValue]]:
        read_entries(profiles)
        return profiles

    @field_validator("tensorrt_version", mode="before")
    @classmethod
    def _write_version(cls, value: Any) -> Any:
        """Takes `11`, which YAML reads as a number; 10.1 and 10.10 would be one number."""
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("compute_capabilities", mode="before")
    @classmethod
    def _write_capabilities(cls, value: Any) -> Any:
        """Takes 8.9 and 12, which YAML reads as numbers."""
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{value!r} is no list; write a list, such as [8.9, 12.0]")
        return [
            str(each) if isinstance(each, int | float) and not isinstance(each, bool) else each
            for each in value
        ]

    @field_validator("compute_capabilities")
    @classmethod
    def _check_capabilities(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [each for each in value if not CAPABILITY.match(each)]
        if wrong:
            raise ValueError(
                f"{wrong[0]!r} is no compute capability; write {_suggest_capability(wrong[0])}"
            )
        if len(set(value)) < len(value):
            raise ValueError(f"compute_capabilities names one twice: {', '.join(value)}")
        return value

    @model_validator(mode="after")
    def _find_timing_cache(self, info: ValidationInfo) -> "BuildTensorrt":
        """Relative paths start at the recipe's folder, which the loader gives as context."""
        if self.timing_cache is not None:
            base = (info.context or {}).get("folder", Path())
            self._timing_path = base / expand_home(self.timing_cache)
        return self

    @property
    def timing_path(self) -> Path | None:
        """The file that `timing_cache` means."""
        return self._timing_path

    @property
    def engine_settings(self) -> EngineSettings:
        """How the engine is built."""
        workspace = None if self.workspace_gb is None else int(self.workspace_gb * BYTES_PER_GB)
        return EngineSettings(
            workspace_bytes=workspace,
            compute_capabilities=self.compute_capabilities,
            weight_streaming=self.weight_streaming,
            tf32=self.tf32,
        )

    @property
    def wanted_backends(self) -> tuple[Backend, ...]:
        """The backends that may build it, in order of preference.

        `auto` leaves out those whose engines run on none of the GPUs that are asked for.
        """
        if self.backend != "auto":
            return (BACKENDS[self.backend],)
        wanted = set(self.compute_capabilities)
        return tuple(b for b in BACKENDS.values() if b.runs_on is None or wanted <= {*b.runs_on})

    def read_profiles(self, description: OnnxDescription) -> tuple[OptimizationProfile, ...]:
        """Expands the profiles and holds them against the model.

        Raises:
            IncompatibleError: One of them is wrong.
        """
        profiles = tuple(
            read_profile(name, entries, description)
            for name, entries in read_entries(self.profiles).items()
        )
        for profile in profiles:
            check_workspace(profile, description, self.engine_settings)
        return profiles

    def preflight(self, inputs: StepInputs, target: Target | None) -> None:
        """Checks the target's GPU, profiles and the description of the graph before any work."""
        self._check_reach()
        self._check_target(target)
        if self._timing_path is not None and not self._timing_path.is_file():
            raise InputError(
                f"timing_cache {self._timing_path} does not exist", remedy="leave it out"
            )
        if "onnx" not in inputs or not (inputs["onnx"].path / DESCRIPTION_NAME).exists():
            return  # made by an earlier step
        folder = inputs["onnx"].path
        description = read_onnx_description(folder)
        if description.weights in ("matmulnbits", "int8_dynamic"):
            raise IncompatibleError(
                f"{inputs['onnx'].name} was exported with weights: {description.weights}, whose "
                "operators TensorRT lacks",
                remedy="export with weights: qdq_int4"
                if description.weights == "matmulnbits"
                else "export with weights: plain",
            )
        self.read_profiles(description)

    def _check_reach(self) -> None:
        """Refuses GPUs on which an engine of the backend would never run."""
        runs_on = RTX.runs_on or ()
        others = [each for each in self.compute_capabilities if each not in runs_on]
        if self.backend == RTX.name and others:
            raise IncompatibleError(
                f"compute_capabilities: {', '.join(others)}; engines of {RTX.name} run on "
                f"{', '.join(runs_on)}",
                remedy="set backend: tensorrt, on a machine with such a GPU",
            )

    def _check_target(self, target: Target | None) -> None:
        """Refuses to build for a GPU on which the engine would never run."""
        if target is None or target.runtime != "tensorrt" or target.capability is None:
            return
        capability = f"{target.capability // 10}.{target.capability % 10}"
        runs_on = self.compute_capabilities or RTX.runs_on or ()
        if self.backend != "tensorrt" and capability not in (RTX.runs_on or ()):
            raise IncompatibleError(
                f"the target's GPU {target.gpu} has compute capability {capability}; engines of "
                f"tensorrt_rtx run on {', '.join(RTX.runs_on or ())}",
                remedy="set backend: tensorrt",
            )
        if self.compute_capabilities and capability not in runs_on:
            raise IncompatibleError(
                f"compute_capabilities names {', '.join(runs_on)}; the target's GPU {target.gpu} "
                f"has {capability}",
                remedy=f"add {capability}",
            )

    def estimate(self, inputs: StepInputs) -> Estimate | None:
        """Estimates memory and disk from the model's size; the arithmetic is not known."""
        num_bytes = measure_model_bytes(inputs["onnx"].path)
        if num_bytes == 0:
            return None
        return Estimate(int(RAM_FACTOR * num_bytes), int(DISK_FACTOR * num_bytes), 0)

    def identity_packages(self) -> tuple[str, ...]:
        """Names the library whose version changes the engine; all that could, where none is."""
        builder = self._find_builder(list_gpus())
        for backend in filter(None, (builder, *self.wanted_backends)):
            if backend.distribution is not None:
                return (backend.distribution,)
        return tuple(backend.name for backend in self.wanted_backends)

    def identity_machine(self) -> dict[str, str]:
        """Names the GPU where the engine is built for the one at hand, and runs on no other."""
        gpus = list_gpus()
        builder = self._find_builder(gpus)
        if builder is None or builder.builds_without_gpu:
            return {}
        return {"gpu": gpus[0].name, "compute_capability": gpus[0].compute_capability}

    def _find_builder(self, gpus: Sequence[InstalledGpu]) -> Backend | None:
        """Returns the backend that will build here, None where none can."""
        wanted, version = self.wanted_backends, self.tensorrt_version
        return next((b for b in wanted if why_not_built_here(b, version, gpus) is None), None)

    def require_tools(self) -> None:
        """Refuses where no engine can be built.

        Raises:
            CapabilityError: TensorRT or the onnx package is not installed, or it needs a GPU.
        """
        _require_onnx()
        choose_backend(self.wanted_backends, self.tensorrt_version, list_gpus())

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Builds the engine in a process of its own.

        Raises:
            CapabilityError: TensorRT or the onnx package is not installed, or it needs a GPU.
        """
        _require_onnx()
        backend = choose_backend(self.wanted_backends, self.tensorrt_version, list_gpus())
        self.preflight(inputs, None)
        from llmopt.steps.build_run import run_build_step  # noqa: PLC0415 - onnx

        return run_build_step(self, backend.name, inputs["onnx"].path, context)

    def defer(self, inputs: StepInputs, context: RunContext, reason: str) -> Outcome:
        """Checks everything but the machine, and seals what the build is to be made of.

        Raises:
            CapabilityError: The onnx package, which reads the graph, is not installed.
        """
        _require_onnx()
        self.preflight(inputs, None)
        from llmopt.steps.build_run import run_deferral  # noqa: PLC0415 - onnx

        return run_deferral(self, inputs["onnx"].path, context, reason)

    def check_deferred(self, deferred: Artifact, inputs: StepInputs) -> None:
        """Holds the sealed digests against the model that lies here.

        Raises:
            InputError: The model, or what was sealed, is another.
            CapabilityError: The onnx package, which reads the graph, is not installed.
        """
        _require_onnx()
        from llmopt.steps.build_run import check_sealed  # noqa: PLC0415 - onnx

        check_sealed(deferred, inputs["onnx"].path)


def _suggest_capability(value: object) -> str:
    """Returns how a compute capability, or several in one text, are written."""
    parts = [re.sub(r"[^0-9.]", "", part) for part in re.split(r"[,; ]+", str(value)) if part]
    written = []
    for part in parts:
        if CAPABILITY.match(part):
            written.append(part)
        elif part.isdigit() and len(part) > 1 and part not in ("10", "11", "12"):
            written.append(f"{part[:-1]}.{part[-1]}")  # 89, sm_89
        elif part.isdigit():
            written.append(f"{part}.0")
    if not written or not all(CAPABILITY.match(each) for each in written):
        return "8.9"
    if len(written) == 1:
        return written[0]
    options = " ".join(f"--compute-capabilities {each}" for each in written)
    return f"each on its own: {', '.join(written)} (as options: {options})"


def _require_onnx() -> None:
    if importlib.util.find_spec("onnx") is None:
        raise CapabilityError(
            "build.tensorrt reads the graph with onnx, which is not installed",
            remedy="pip install 'llmopt[onnx]'",
        )
