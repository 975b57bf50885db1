"""`quantize.nf4`: 4-bit weights in bitsandbytes' format, without data."""

import importlib.util
from typing import ClassVar, Literal, get_args

from pydantic import Field

from llmopt.checkpoint.bitsandbytes_format import (
    BitsAndBytesScheme,
    QuantType,
    plan_bitsandbytes_tensors,
)
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.linear_weights import is_expert
from llmopt.checkpoint.safetensors_header import TensorPlan
from llmopt.errors import CapabilityError, IncompatibleError
from llmopt.serving.served_weights import ServedFormat, Storage
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.stream_fields import StreamFields

BlockSize = Literal[32, 64, 128, 256, 512, 1024]


class QuantizeNf4(StreamFields):
    """Rounds weights to 4-bit NormalFloat, byte for byte as transformers with bitsandbytes."""

    served_format: ClassVar[ServedFormat] = "bitsandbytes"
    storage: ClassVar[Storage] = "nf4"

    uses: Literal["quantize.nf4"]
    quant_type: QuantType = Field(
        "nf4", description="nf4 (shares of a normal distribution) or fp4 (4-bit floats)."
    )
    double_quant: bool = Field(
        True, description="Quantise the blocks' scales to 8 bits: 0.37 bits per weight less."
    )
    block_size: BlockSize = Field(
        64, description="Weights that share a scale; transformers writes 64."
    )
    compute_dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="What a loader computes in."
    )

    @property
    def scheme(self) -> BitsAndBytesScheme:
        """How bitsandbytes stores a layer."""
        return BitsAndBytesScheme(self.quant_type, self.double_quant, self.block_size)

    def select_weights(self, checkpoint: Checkpoint) -> frozenset[str]:
        """Returns the names of the weights to quantise: as transformers, no experts of mixtures.

        It holds a block's experts in one tensor, which bitsandbytes has no layer for, and would
        not load a checkpoint that stores them in 4 bits.

        Raises:
            InputError: A pattern of `skip` names nothing, or all.
        """
        return frozenset(n for n in super().select_weights(checkpoint) if not is_expert(n))

    def open_checkpoint(self, inputs: StepInputs) -> Checkpoint:
        """Opens the model and refuses what can't be quantised, or multiplied with afterwards.

        Raises:
            InputError: Unsupported, corrupt, or quantised already; or `skip` does not fit it.
            IncompatibleError: A layer's rows are no whole number of blocks: bitsandbytes' fused
                products take such layers on no device (functional.py, gemv_4bit; on CPUs with
                AVX512-BF16 they crash).
        """
        checkpoint = super().open_checkpoint(inputs)
        widths = {
            name: checkpoint.tensors[name].shape[1] for name in self.select_weights(checkpoint)
        }
        misfits = {name: width for name, width in widths.items() if width % self.block_size}
        if misfits:
            name = min(misfits)
            fitting = [n for n in get_args(BlockSize) if not any(w % n for w in widths.values())]
            raise IncompatibleError(
                f"{name.removesuffix('.weight')} has {misfits[name]} input features, not a "
                f"multiple of block_size {self.block_size}",
                remedy=f"use block_size {' or '.join(map(str, fitting))}" if fitting else None,
            )
        return checkpoint

    def plan_layer(self, shape_OI: tuple[int, ...], dtype: str) -> dict[str, TensorPlan]:
        """Returns the tensors that a layer becomes."""
        del dtype
        return plan_bitsandbytes_tensors(self.scheme, shape_OI)

    def identity_packages(self) -> tuple[str, ...]:
        """Names the libraries whose version changes the bytes."""
        return ("torch", "bitsandbytes")

    def require_tools(self) -> None:
        """Refuses where bitsandbytes is not installed.

        Raises:
            CapabilityError: It is not.
        """
        if importlib.util.find_spec("bitsandbytes") is None:
            raise CapabilityError(
                "quantize.nf4 needs bitsandbytes, which is not installed",
                remedy="pip install 'llmopt[quant]'",
            )

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Quantises the model tensor by tensor.

        Raises:
            CapabilityError: bitsandbytes is not installed.
        """
        self.require_tools()
        from llmopt.steps.nf4_run import run_nf4  # noqa: PLC0415 - torch

        return run_nf4(self, inputs, context)
