"""`quantize.fp8`: float8 weights for float8 activations, without data."""

from typing import ClassVar, Literal

from llmopt.checkpoint.w8a8_format import W8A8Format
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.w8a8_fields import W8A8Fields


class QuantizeFp8(W8A8Fields):
    """Rounds weights to float8 (e4m3), one scale per output channel; servers round activations."""

    format: ClassVar[W8A8Format] = "float-quantized"

    uses: Literal["quantize.fp8"]

    def identity_packages(self) -> tuple[str, ...]:
        """Names the libraries whose version changes the bytes."""
        return ("torch",)

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Quantises the model tensor by tensor."""
        from llmopt.steps.w8a8_run import run_w8a8  # noqa: PLC0415 - torch

        return run_w8a8(self, inputs, context)
