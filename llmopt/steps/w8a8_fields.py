"""What the 8-bit steps share: layers that servers fuse are quantised together or not at all."""

from typing import ClassVar

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.linear_weights import find_split_layers
from llmopt.checkpoint.safetensors_header import TensorPlan
from llmopt.checkpoint.w8a8_format import W8A8Format, plan_w8a8_tensors
from llmopt.errors import IncompatibleError
from llmopt.steps.base import StepInputs
from llmopt.steps.stream_fields import StreamFields


class W8A8Fields(StreamFields):
    """Base of the steps that write 8-bit weights for 8-bit activations."""

    format: ClassVar[W8A8Format]

    def plan_layer(self, shape_OI: tuple[int, ...], dtype: str) -> dict[str, TensorPlan]:
        """Returns the tensors that a layer becomes."""
        return plan_w8a8_tensors(self.format, shape_OI, dtype)

    def open_checkpoint(self, inputs: StepInputs) -> Checkpoint:
        """Opens the model and refuses what can't be quantised, or what no server would load.

        Raises:
            InputError: Unsupported, corrupt, or quantised already; or `skip` does not fit it.
            IncompatibleError: `skip` names a part of layers that servers fuse.
        """
        checkpoint = super().open_checkpoint(inputs)
        split = find_split_layers(self.select_weights(checkpoint), checkpoint.tensors)
        if split:
            raise IncompatibleError(
                f"skip keeps only a part of what servers load as one with {split[0]} (q, k and v; "
                "gate and up; all experts of a block)",
                remedy="skip all of them, or none",
            )
        return checkpoint
