"""`build.tensorrt`: an ONNX model as a TensorRT engine with named dynamic profiles."""

import importlib.util
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator

from llmopt.artifacts.engine_description import BackendName, EngineSettings
from llmopt.artifacts.manifest import ArtifactKind
from llmopt.artifacts.onnx_description import (
    DESCRIPTION_NAME,
    MODEL_NAME,
    OnnxDescription,
    read_onnx_description,
)
from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.engine.profiles import Entry, read_profile
from llmopt.errors import CapabilityError, IncompatibleError
from llmopt.serving.target import Target
from llmopt.steps.base import InputRef, Outcome, RunContext, StepBase, StepInputs

BACKENDS: tuple[BackendName, ...] = ("tensorrt_rtx", "tensorrt")
BYTES_PER_GB = 1_000_000_000


class BuildTensorrt(StepBase):
    """Builds a TensorRT engine from an exported model."""

    produces: ClassVar[ArtifactKind] = "tensorrt_engine"

    uses: Literal["build.tensorrt"]
    onnx: Annotated[str, InputRef(("onnx_model",))] = Field(description="The exported model.")
    profiles: dict[str, dict[str, JsonValue]] = Field(
        min_length=1,
        description="Named profiles: for each dynamic axis a size or [min, opt, max], or for an "
        "input three shapes. total_sequence is the sum of the other two.",
    )
    backend: Literal["auto", "tensorrt_rtx", "tensorrt"] = Field(
        "auto",
        description="tensorrt_rtx builds without a GPU, for Turing, Ampere, Ada and Blackwell; "
        "tensorrt needs one, and its engines are what Triton's tensorrt_plan loads. auto takes "
        "the first that is installed.",
    )
    workspace_gb: float | None = Field(
        None, gt=0, description="Most scratch memory for a kernel (default: TensorRT's)."
    )
    compute_capabilities: tuple[str, ...] = Field(
        (), description="GPUs that the engine is for, such as 8.9; tensorrt_rtx only."
    )
    weight_streaming: bool = Field(
        False, description="Let weights stay in the host's memory where the GPU's is short."
    )
    tf32: bool = Field(True, description="Let float32 products take TF32.")

    @field_validator("profiles")
    @classmethod
    def _check_names(
        cls, profiles: dict[str, dict[str, JsonValue]]
    ) -> dict[str, dict[str, JsonValue]]:
        empty = [name for name, entries in profiles.items() if not entries]
        if empty:
            raise ValueError(f"profile {empty[0]} is empty")
        return profiles

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

    def read_profiles(self, description: OnnxDescription) -> tuple[OptimizationProfile, ...]:
        """Expands the profiles and holds them against the model.

        Raises:
            IncompatibleError: One of them is wrong.
        """
        return tuple(
            read_profile(
                name, {key: to_entry(value) for key, value in entries.items()}, description
            )
            for name, entries in self.profiles.items()
        )

    def preflight(self, inputs: StepInputs, target: Target | None) -> None:
        """Checks profiles and graph before any work."""
        del target
        if "onnx" not in inputs or not (inputs["onnx"].path / DESCRIPTION_NAME).exists():
            return  # made by an earlier step
        folder = inputs["onnx"].path
        description = read_onnx_description(folder)
        if description.weights == "matmulnbits":
            raise IncompatibleError(
                f"{inputs['onnx'].name} holds MatMulNBits, which TensorRT lacks",
                remedy="export with weights: qdq_int4",
            )
        self.read_profiles(description)

    def choose_backend(self) -> BackendName:
        """Returns the TensorRT to build with.

        Raises:
            CapabilityError: It is not installed.
        """
        wanted = BACKENDS if self.backend == "auto" else (self.backend,)
        for name in wanted:
            if importlib.util.find_spec(name) is not None:
                return name
        raise CapabilityError(
            f"{' or '.join(wanted)} is not installed",
            remedy="pip install 'llmopt[tensorrt]'"
            if "tensorrt_rtx" in wanted
            else "install TensorRT on a machine with a GPU",
        )

    def identity_packages(self) -> tuple[str, ...]:
        """Names the libraries whose version changes the engine."""
        return BACKENDS

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Builds the engine in a process of its own.

        Raises:
            CapabilityError: TensorRT or the onnx package is not installed.
        """
        backend = self.choose_backend()
        if importlib.util.find_spec("onnx") is None:
            raise CapabilityError(
                "build.tensorrt reads the graph with onnx, which is not installed",
                remedy="pip install 'llmopt[onnx]'",
            )
        self.preflight(inputs, None)
        from llmopt.steps.build_run import run_build_step  # noqa: PLC0415 - onnx

        return run_build_step(self, backend, inputs["onnx"].path / MODEL_NAME, context)


def to_entry(value: JsonValue) -> Entry:
    """Turns the lists of a recipe into tuples, whatever else it holds left for the profile's check."""
    if isinstance(value, list):
        return tuple(to_entry(each) for each in value)  # type: ignore[return-value]
    return value  # type: ignore[return-value]
