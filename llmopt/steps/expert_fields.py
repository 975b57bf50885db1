"""What a calibrated quantisation does with experts that few tokens were routed to."""

from pydantic import BaseModel, ConfigDict, Field

from llmopt.artifacts.manifest import StarvedPolicy
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.errors import IncompatibleError


class ExpertFields(BaseModel):
    """What becomes of experts that see few calibration tokens; only for mixtures of experts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_tokens: int | None = Field(
        None,
        ge=1,
        description="Layers of an expert that fewer calibration tokens were routed to are starved. "
        "Default: each layer's number of input features, below which its Hessian lacks full rank.",
    )
    starved: StarvedPolicy = Field(
        "all_tokens",
        description="What is done then, and recorded: `all_tokens` calibrates them on all "
        "tokens of the block, `rtn` rounds them to nearest, `fail` ends the run.",
    )


def require_experts(checkpoint: Checkpoint) -> None:
    """Refuses to take what is said of experts for a model that has none.

    Raises:
        IncompatibleError: The model is dense.
    """
    if checkpoint.config.experts is None:
        raise IncompatibleError(
            f"experts is given, but {checkpoint.folder} is a dense model "
            f"({checkpoint.config.model_type}), which has none",
            remedy="leave experts out",
        )
