"""`quantize.int8`: int8 weights for int8 activations."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint import Checkpoint, linear_names
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, OUTPUT_WEIGHT, QuantPlan
from llmopt.checkpoint.w8a8_format import W8A8Format
from llmopt.serving.served_weights import Storage
from llmopt.serving.target import Target
from llmopt.steps.base import Estimate, NotIdentity, Outcome, RunContext, StepInputs
from llmopt.steps.estimates import estimate_quantization
from llmopt.steps.expert_fields import ExpertFields, require_experts
from llmopt.steps.quantize_fields import OptionalDataName, check_data
from llmopt.steps.quantize_gptq import QuantizeGptq
from llmopt.steps.w8a8_fields import W8A8Fields

CALIBRATION_FIELDS = {"damp_percent", "max_damp_percent", "activation_memory_gb", "experts"}


class QuantizeInt8(W8A8Fields):
    """Rounds weights to int8, one scale per output channel; servers round activations."""

    format: ClassVar[W8A8Format] = "int-quantized"

    storage: ClassVar[Storage] = "int8"

    uses: Literal["quantize.int8"]
    data: OptionalDataName = Field(
        None,
        description="A calibration set: weights are then rounded by GPTQ, block by block, instead "
        "of each to its nearest.",
    )
    damp_percent: float = Field(
        0.01, gt=0, lt=1, description="With data: share of the Hessian's mean diagonal added to it."
    )
    max_damp_percent: float = Field(
        0.5,
        gt=0,
        le=1,
        description="With data: how far damping may be raised where a Hessian is not positive "
        "definite; what was used is in the manifest.",
    )
    experts: ExpertFields = Field(
        default_factory=ExpertFields,
        description="With data, for mixtures of experts: what becomes of experts that see few "
        "calibration tokens; by default they are calibrated on all tokens of the block.",
    )
    activation_memory_gb: Annotated[float, NotIdentity()] = Field(
        5.0,
        gt=0,
        description="With data: calibration activations kept in memory; the rest goes to disk.",
    )

    @model_validator(mode="after")
    def _check_calibration(self) -> "QuantizeInt8":
        given = sorted(CALIBRATION_FIELDS & self.model_fields_set)
        if self.data is None and given:
            raise ValueError(f"{', '.join(given)} speaks of calibration, but no data is named")
        if self.damp_percent > self.max_damp_percent:
            raise ValueError(
                f"damp_percent {self.damp_percent} exceeds max_damp_percent {self.max_damp_percent}"
            )
        return self

    def identity_packages(self) -> tuple[str, ...]:
        """Names the libraries whose version changes the bytes."""
        return ("torch",) if self.data is None else super().identity_packages()

    def open_checkpoint(self, inputs: StepInputs) -> Checkpoint:
        """Opens the model and refuses what can't be quantised, or not so."""
        checkpoint = super().open_checkpoint(inputs)
        if "experts" in self.model_fields_set:
            require_experts(checkpoint)
        return checkpoint

    def plan(self, checkpoint: Checkpoint) -> QuantPlan:
        """Decides how each layer is rounded."""
        scheme, rounded = QuantScheme(bits=8, group_size=-1), self.select_weights(checkpoint)
        names = [name for name, _ in linear_names(checkpoint.config)]
        if OUTPUT_WEIGHT in rounded:
            names.append(OUTPUT_LAYER)
        return QuantPlan(scheme, {n: scheme if f"{n}.weight" in rounded else None for n in names})

    def preflight(self, inputs: StepInputs, target: Target | None) -> None:
        """Checks the model, `skip` and the data against each other, without torch."""
        super().preflight(inputs, target)
        if "data" in inputs and "model" in inputs and inputs["model"].path.exists():
            check_data(self.open_checkpoint(inputs).config, inputs["data"])

    def estimate(self, inputs: StepInputs) -> Estimate | None:
        """Estimates needs from the headers, and with data as those of 8-bit GPTQ."""
        if self.data is None:
            return super().estimate(inputs)
        same = QuantizeGptq(
            uses="quantize.gptq",
            model=self.model,
            data=self.data,
            bits=8,
            group_size=-1,
            format="compressed-tensors",
            activation_memory_gb=self.activation_memory_gb,
        )
        return estimate_quantization(same, inputs)

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Quantises the model tensor by tensor, or with data block by block."""
        if self.data is None:
            from llmopt.steps.w8a8_run import run_w8a8  # noqa: PLC0415 - torch

            return run_w8a8(self, inputs, context)
        from llmopt.steps.int8_run import run_calibrated_int8  # noqa: PLC0415 - torch

        return run_calibrated_int8(self, inputs, context)
