"""`quantize.gptq`: GPTQ with a calibration set."""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.steps.base import Estimate, Outcome, RunContext, StepInputs
from llmopt.steps.estimates import estimate_quantization
from llmopt.steps.expert_fields import ExpertFields
from llmopt.steps.quantize_fields import DataName, QuantizeFields

if TYPE_CHECKING:
    from torch import Tensor

    from llmopt.quant.solution import Solution


class QuantizeGptq(QuantizeFields):
    """Rounds weights to integers by GPTQ, each layer calibrated on what it will see."""

    uses: Literal["quantize.gptq"]
    data: DataName = Field(description="The calibration set.")
    desc_act: bool = Field(
        False, description="Act-order with stored g_idx: best rounding, slower serving."
    )
    act_group_aware: bool = Field(
        default_factory=lambda fields: not fields.get("desc_act", False),
        description="Act-order inside and between groups, free at serving time. "
        "Default on unless desc_act is.",
    )
    damp_percent: float = Field(
        0.01, gt=0, lt=1, description="Share of the Hessian's mean diagonal added to it."
    )
    max_damp_percent: float = Field(
        0.5,
        gt=0,
        le=1,
        description="How far damping may be raised where a Hessian is not positive definite; "
        "what was used is in the manifest.",
    )
    experts: ExpertFields = Field(
        default_factory=ExpertFields,
        description="Mixtures of experts: what becomes of experts that see few calibration "
        "tokens; by default they are calibrated on all tokens of the block.",
    )

    @model_validator(mode="after")
    def _check_orders(self) -> "QuantizeGptq":
        if self.desc_act and self.act_group_aware:
            raise ValueError("desc_act and act_group_aware exclude each other")
        if self.damp_percent > self.max_damp_percent:
            raise ValueError(
                f"damp_percent {self.damp_percent} exceeds max_damp_percent {self.max_damp_percent}"
            )
        return self

    @property
    def scheme(self) -> QuantScheme:
        """The quantisation scheme that the fields describe."""
        return QuantScheme(self.bits, self.group_size, self.sym, self.desc_act)

    def estimate(self, inputs: StepInputs) -> Estimate | None:
        """Estimates needs from the model's shapes and the data set's size."""
        return estimate_quantization(self, inputs)

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Quantises the model block by block."""
        from llmopt.quant.expert_policy import ExpertPolicy  # noqa: PLC0415 - torch
        from llmopt.quant.gptq import GptqOptions, solve_gptq  # noqa: PLC0415 - torch
        from llmopt.steps.quantize_run import (  # noqa: PLC0415
            QuantizationInput,
            run_quantization,
            torch_dtype,
        )

        checkpoint = self.open_checkpoint(inputs)
        plan = self.plan(checkpoint.config)
        options = GptqOptions(
            scheme=self.scheme,
            act_group_aware=self.act_group_aware,
            damp_percent=self.damp_percent,
            max_damp_percent=self.max_damp_percent,
            scale_dtype=torch_dtype(checkpoint),
        )

        def solve(W_RI: "Tensor", H_II: "Tensor | None", scheme: QuantScheme) -> "Solution":
            assert H_II is not None
            return solve_gptq(W_RI, H_II, replace(options, scheme=scheme))

        experts = self.experts
        policy = ExpertPolicy(experts.min_tokens, experts.starved, options.scale_dtype)
        job = QuantizationInput(checkpoint, plan, solve, inputs.get("data"), policy)
        return run_quantization(self, job, context)
