"""`quantize.rtn`: round-to-nearest, the baseline to beat."""

from functools import partial
from typing import Literal

from pydantic import Field

from llmopt.artifacts.quant_scheme import QuantScheme, ScaleSearch
from llmopt.steps.base import Estimate, Outcome, RunContext, StepInputs
from llmopt.steps.estimates import estimate_quantization
from llmopt.steps.quantize_fields import OptionalDataName, QuantizeFields


class QuantizeRtn(QuantizeFields):
    """Rounds every weight to its nearest grid point."""

    uses: Literal["quantize.rtn"]
    data: OptionalDataName = Field(
        None, description="Only to measure each layer's output error; rounding ignores it."
    )
    scale_search: ScaleSearch = Field(
        "minmax",
        description="How a group's scale is chosen: minmax spans its weights; mse tries wider and "
        "narrower ranges and takes the one whose rounded weights are nearest.",
    )

    @property
    def scheme(self) -> QuantScheme:
        """The quantisation scheme that the fields describe."""
        return QuantScheme(self.bits, self.group_size, self.sym)

    def estimate(self, inputs: StepInputs) -> Estimate | None:
        """Estimates needs from the model's shapes and the data set's size."""
        return estimate_quantization(self, inputs)

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Rounds the model block by block."""
        from llmopt.quant.rounding import solve_rtn  # noqa: PLC0415 - torch
        from llmopt.steps.quantize_run import (  # noqa: PLC0415
            QuantizationInput,
            run_quantization,
            torch_dtype,
        )

        checkpoint = self.open_checkpoint(inputs)
        solve = partial(
            solve_rtn, scale_dtype=torch_dtype(checkpoint), scale_search=self.scale_search
        )
        plan = self.plan(checkpoint.config)
        data, memory_gb = inputs.get("data"), self.activation_memory_gb
        given = QuantizationInput(checkpoint, plan, solve, data, self.format, memory_gb)
        return run_quantization(self, given, context)
