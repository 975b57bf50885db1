"""What a calibrated quantisation does with experts that few tokens were routed to."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from llmopt.checkpoint.model_config import ModelConfig


class ExpertFields(BaseModel):
    """What becomes of experts that see few calibration tokens; only for mixtures of experts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_tokens: int | None = Field(
        None,
        ge=1,
        description="An expert that fewer calibration tokens were routed to is starved. "
        "Default: the model's hidden size, below which its Hessian has not even full rank.",
    )
    starved: Literal["rtn", "all_tokens", "fail"] = Field(
        "all_tokens",
        description="What is done then, and recorded: `all_tokens` calibrates the expert on all "
        "tokens of its block, `rtn` rounds it to nearest, `fail` ends the run.",
    )

    def count_tokens(self, config: ModelConfig) -> int:
        """Returns how many tokens an expert of this model must see."""
        return config.hidden_size if self.min_tokens is None else self.min_tokens
