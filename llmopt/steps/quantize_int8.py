"""`quantize.int8`: int8 weights for int8 activations."""

from typing import ClassVar, Literal

from llmopt.checkpoint.w8a8_format import W8A8Format
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.w8a8_fields import W8A8Fields


class QuantizeInt8(W8A8Fields):
    """Rounds weights to int8, one scale per output channel; servers round activations."""

    format: ClassVar[W8A8Format] = "int-quantized"

    uses: Literal["quantize.int8"]

    def identity_packages(self) -> tuple[str, ...]:
        """Names the libraries whose version changes the bytes."""
        return ("torch",)

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Quantises the model tensor by tensor."""
        from llmopt.steps.w8a8_run import run_w8a8  # noqa: PLC0415 - torch

        return run_w8a8(self, inputs, context)
