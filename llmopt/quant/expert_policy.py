"""What becomes of experts that too few calibration tokens were routed to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmopt.artifacts.manifest import LayerError, StarvedPolicy
from llmopt.artifacts.quant_scheme import QuantScheme, ScaleSearch
from llmopt.errors import InputError
from llmopt.quant.rounding import solve_rtn
from llmopt.quant.solution import Solution

TREATMENTS: dict[StarvedPolicy, str] = {
    "rtn": "rounded to nearest",
    "all_tokens": "calibrated on all tokens of the block",
}


@dataclass(frozen=True)
class ExpertPolicy:
    """When an expert is starved, and what is done then (docs/adr/0012).

    Attributes:
        min_tokens: Layers of an expert that fewer tokens were routed to are starved; None takes
            each layer's number of input features.
        starved: `rtn` rounds them to nearest, `all_tokens` calibrates them on all tokens of the
            block, `fail` ends the run.
        scale_dtype: The dtype that the model is served in.
        scale_search: How the range of a group's grid is found.
    """

    min_tokens: int | None
    starved: StarvedPolicy
    scale_dtype: torch.dtype
    scale_search: ScaleSearch = "minmax"

    def is_starved(self, num_tokens: int, in_features: int) -> bool:
        """Tells whether a layer sees too few tokens."""
        return num_tokens < (in_features if self.min_tokens is None else self.min_tokens)

    @property
    def limit(self) -> str:
        """The limit in words, for messages."""
        return "its input features" if self.min_tokens is None else str(self.min_tokens)

    def solve_nearest(self, W_RI: Tensor, H_II: Tensor | None, scheme: QuantScheme) -> Solution:
        """Rounds stacked rows to nearest; with act-order too, columns stay in their places."""
        in_place = replace(scheme, desc_act=False, static_groups=False)
        solution = solve_rtn(W_RI, H_II, in_place, self.scale_dtype, self.scale_search)
        return replace(solution, weight=replace(solution.weight, scheme=scheme))

    def refuse(self, place: str, counts: Mapping[int, int]) -> None:
        """Ends a run that is not to go on with starved experts.

        Args:
            place: The block's mixture, for the message.
            counts: Tokens by starved expert.

        Raises:
            InputError: There are some, and `starved` is `fail`.
        """
        if counts and self.starved == "fail":
            named = ", ".join(f"{expert} ({count})" for expert, count in counts.items())
            raise InputError(
                f"{place}: fewer calibration tokens than {self.limit} (experts.min_tokens) were "
                f"routed to experts {named}",
                remedy="calibrate with more or with more varied tokens, lower experts.min_tokens, "
                "or set experts.starved to rtn or all_tokens",
            )


def describe_starved(errors: Sequence[LayerError], policy: ExpertPolicy | None) -> list[str]:
    """Says of each starved layer how many tokens it saw and what was done, one line each."""
    lines = []
    for error in errors:
        if error.starved is not None:
            assert policy is not None  # without one nothing is starved
            lines.append(
                f"{error.layer}: {error.num_tokens} calibration tokens were routed to it, fewer "
                f"than {policy.limit} (experts.min_tokens); {TREATMENTS[error.starved]}"
            )
    return lines


def note_starved(errors: Sequence[LayerError], policy: ExpertPolicy | None) -> str | None:
    """Says the same of one block in one line, expert by expert; None where none was starved."""
    starved = [error for error in errors if error.starved is not None]
    if policy is None or not starved:
        return None
    experts = {error.layer.rpartition(".")[0]: error.num_tokens for error in starved}
    place = next(iter(experts)).rpartition(".")[0]
    named = ", ".join(f"{name.rpartition('.')[2]} ({count})" for name, count in experts.items())
    return (
        f"{place}: layers that see fewer calibration tokens than {policy.limit} are "
        f"{TREATMENTS[policy.starved]}: of experts {named}"
    )
