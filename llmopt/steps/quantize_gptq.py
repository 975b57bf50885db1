"""`quantize.gptq`: GPTQ with a calibration set."""

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from llmopt.artifacts.quant_scheme import QuantScheme, ScaleSearch
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.model_config import ModelConfig
from llmopt.checkpoint.quant_plan import QuantPlan
from llmopt.errors import IncompatibleError
from llmopt.steps.base import Estimate, Outcome, RunContext, StepInputs
from llmopt.steps.estimates import estimate_quantization
from llmopt.steps.expert_fields import ExpertFields, require_experts
from llmopt.steps.layer_overrides import free_layers
from llmopt.steps.quantize_fields import DataName, QuantizeFields
from llmopt.steps.size_budget import SizeBudget, check_budget


class QuantizeGptq(QuantizeFields):
    """Rounds weights to integers by GPTQ, each layer calibrated on what it will see."""

    step_version: ClassVar[int] = 3  # 1 factorised otherwise, 2 kept static groups in GAR order

    uses: Literal["quantize.gptq"]
    data: DataName = Field(description="The calibration set.")
    desc_act: bool = Field(
        False, description="Act-order with stored g_idx: best rounding, slower serving."
    )
    act_group_aware: bool = Field(
        default_factory=lambda fields: not fields.get("desc_act", False),
        description="Act-order that leaves every column in its group, free at serving time: over "
        "all columns with static_groups, else inside and between groups. Default on unless "
        "desc_act is.",
    )
    budget: SizeBudget | None = Field(
        None,
        description="Choose each layer's bits within a size, by the errors measured in a first "
        "pass; in place of `bits`, while overrides keep theirs.",
    )
    static_groups: bool = Field(
        default_factory=lambda fields: fields.get("act_group_aware", False),
        description="Fit all scales to the original weights first, so that columns can be rounded "
        "in any order. With desc_act no column then changes its group, so that any server takes "
        "the result. Default on where act_group_aware is.",
    )
    scale_search: ScaleSearch = Field(
        "minmax",
        description="How a group's scale is chosen: minmax spans its weights; mse tries wider and "
        "narrower ranges and takes the one whose rounded weights are nearest, which under 4 bits "
        "can leave too little room for GPTQ's corrections (docs/adr/0014): measure it.",
    )
    asymmetric_strength: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Aim at the outputs of the original model (1), not of the original weights "
        "(0, the default); takes a second forward pass. Not for mixtures of experts.",
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
        if self.budget is not None and "bits" in self.model_fields_set:
            raise ValueError("budget chooses the bits: leave bits out, or set it in overrides")
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
        return QuantScheme(
            self.bits, self.group_size, self.sym, self.desc_act, static_groups=self.static_groups
        )

    def plan(self, config: ModelConfig) -> QuantPlan:
        """Decides how each layer is rounded; with a budget, the plan of its largest width."""
        return self.candidate_plans(config)[-1]

    def candidate_plans(self, config: ModelConfig) -> list[QuantPlan]:
        """Returns the plans whose schemes may all come to be used, the smallest first."""
        plan = super().plan(config)
        if self.budget is None:
            return [plan]
        free = free_layers(config, self.overrides, lm_head=self.lm_head)
        return [
            replace(plan, base=scheme, schemes={**plan.schemes, **dict.fromkeys(free, scheme)})
            for bits in sorted(self.budget.choices)
            for scheme in [replace(self.scheme, bits=bits)]
        ]

    def explain_refusal(self, error: IncompatibleError, plan: QuantPlan) -> IncompatibleError:
        """Names the choice of a budget that the target refuses."""
        if self.budget is None:
            return error
        return IncompatibleError(
            f"with {plan.base.bits} bits, one of budget.choices: {error.message}",
            remedy=f"leave {plan.base.bits} out of budget.choices, or budget itself out; for a "
            f"step without one: {error.remedy}",
        )

    def open_checkpoint(self, inputs: StepInputs) -> Checkpoint:
        """Opens the model and refuses what can't be quantised, or not within the budget."""
        checkpoint = super().open_checkpoint(inputs)
        if self.budget is not None:
            smallest = self.candidate_plans(checkpoint.config)[0]
            place = (self.format, checkpoint.dtype)
            check_budget(self.budget, checkpoint.config, smallest, place)
        if "experts" in self.model_fields_set:
            require_experts(checkpoint)
        if self.asymmetric_strength and checkpoint.config.experts is not None:
            raise IncompatibleError(
                f"{checkpoint.folder} is a mixture of experts; asymmetric_strength is "
                f"{self.asymmetric_strength:g}, which is not for them: two streams would be routed "
                "to different experts",
                remedy="set asymmetric_strength: 0",
            )
        return checkpoint

    def estimate(self, inputs: StepInputs) -> Estimate | None:
        """Estimates needs from the model's shapes and the data set's size."""
        return estimate_quantization(self, inputs)

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Quantises the model block by block."""
        from llmopt.quant.asymmetric import AsymmetricOptions  # noqa: PLC0415 - torch
        from llmopt.quant.expert_policy import ExpertPolicy  # noqa: PLC0415 - torch
        from llmopt.quant.gptq import GptqOptions, make_gptq_solver  # noqa: PLC0415 - torch
        from llmopt.quant.sensitivity import Budget  # noqa: PLC0415
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
            scale_search=self.scale_search,
        )

        budget = None
        if self.budget is not None:
            free = free_layers(checkpoint.config, self.overrides, lm_head=self.lm_head)
            budget = Budget(self.budget.bits_per_weight, self.budget.choices, free)
        experts = self.experts
        policy = ExpertPolicy(
            experts.min_tokens, experts.starved, options.scale_dtype, options.scale_search
        )
        asymmetric = None
        if self.asymmetric_strength:
            asymmetric = AsymmetricOptions(
                self.asymmetric_strength, self.damp_percent, self.max_damp_percent
            )
        given = QuantizationInput(
            checkpoint=checkpoint,
            plan=plan,
            solve=make_gptq_solver(options),
            data=inputs.get("data"),
            format=self.format,
            activation_memory_gb=self.activation_memory_gb,
            experts=policy,
            budget=budget,
            asymmetric=asymmetric,
        )
        return run_quantization(self, given, context)
