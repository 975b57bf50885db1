"""A bound on a quantised model's size, within which each layer's width is chosen."""

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, field_validator

from llmopt.artifacts.quant_scheme import Bits
from llmopt.checkpoint.model_config import ModelConfig
from llmopt.checkpoint.packed_size import bits_per_weight
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.errors import IncompatibleError

if TYPE_CHECKING:
    from llmopt.checkpoint.quant_plan import QuantPlan


class SizeBudget(BaseModel):
    """How large the quantised layers may be on average, and what widths there are to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits_per_weight: float = Field(
        gt=0,
        le=16,
        description="Bound on the mean over all layers that are quantised or skipped, with "
        "scales, zero points and g_idx.",
    )
    choices: tuple[Bits, ...] = Field((4, 8), min_length=2, description="Widths to choose from.")

    @field_validator("choices")
    @classmethod
    def _check_choices(cls, choices: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(choices)) != len(choices):
            raise ValueError(f"choices {list(choices)} names a width twice")
        return tuple(sorted(choices))


def check_budget(
    budget: SizeBudget, config: ModelConfig, smallest: "QuantPlan", place: tuple[QuantFormat, str]
) -> None:
    """Refuses a budget that no choice keeps.

    Args:
        budget: The bound.
        config: The model.
        smallest: The plan with the smallest width wherever there is a choice.
        place: The format it is written in, and the model's dtype.

    Raises:
        IncompatibleError: Names the smallest possible.
    """
    quant_format, dtype = place
    least = bits_per_weight(config, smallest, quant_format, dtype)
    if least > budget.bits_per_weight:
        raise IncompatibleError(
            f"budget: {budget.bits_per_weight:g} bits per weight are asked for; with scales and "
            f"what else is stored the smallest choice takes {least:.3f}",
            remedy=f"set bits_per_weight to {least + 0.01:.2f} or more, allow a smaller width in "
            "choices, or use a larger group_size",
        )
