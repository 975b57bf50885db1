"""What becomes of experts that too few calibration tokens were routed to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from llmopt.artifacts.manifest import LayerError
from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.errors import InputError
from llmopt.quant.rounding import solve_rtn
from llmopt.quant.solution import Solution

StarvedPolicy = Literal["rtn", "all_tokens", "fail"]
TREATMENTS = {
    "rtn": "rounded to nearest",
    "all_tokens": "calibrated on all tokens of its block",
}


@dataclass(frozen=True)
class ExpertPolicy:
    """When an expert is starved, and what is done then (docs/adr/0012).

    Attributes:
        min_tokens: An expert that fewer tokens were routed to is starved.
        starved: `rtn` rounds it to nearest, `all_tokens` calibrates it on all tokens of its
            block, `fail` ends the run.
        scale_dtype: The dtype that the model is served in.
    """

    min_tokens: int
    starved: StarvedPolicy
    scale_dtype: torch.dtype

    def solve_nearest(self, W_RI: Tensor, H_II: Tensor | None, scheme: QuantScheme) -> Solution:
        """Rounds stacked rows to nearest; with act-order too, columns stay in their places."""
        in_place = replace(scheme, desc_act=False, static_groups=False)
        solution = solve_rtn(W_RI, H_II, in_place, self.scale_dtype)
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
                f"{place}: fewer than {self.min_tokens} calibration tokens (experts.min_tokens) "
                f"were routed to experts {named}",
                remedy="calibrate with more or with more varied tokens, lower experts.min_tokens, "
                "or set experts.starved to rtn or all_tokens",
            )


def describe_starved(errors: Sequence[LayerError], policy: ExpertPolicy | None) -> list[str]:
    """Says of each starved expert how many tokens it saw and what was done, one line each."""
    return [
        f"{name}: {count} calibration tokens were routed to it, fewer than "
        f"{_min_tokens(policy)} (experts.min_tokens); {treatment}"
        for name, (count, treatment) in _find_starved(errors).items()
    ]


def note_starved(errors: Sequence[LayerError], policy: ExpertPolicy | None) -> str | None:
    """Says the same of one block in one line; None where no expert was starved."""
    starved = _find_starved(errors)
    if not starved:
        return None
    place = next(iter(starved)).rpartition(".")[0]
    named = ", ".join(f"{name.rpartition('.')[2]} ({n})" for name, (n, _) in starved.items())
    _, treatment = next(iter(starved.values()))
    return (
        f"{place}: fewer than {_min_tokens(policy)} calibration tokens were routed to experts "
        f"{named}; {treatment}"
    )


def _find_starved(errors: Sequence[LayerError]) -> dict[str, tuple[int, str]]:
    """Returns starved experts by full name: their tokens, and what was done with them."""
    return {
        error.layer.rpartition(".")[0]: (error.num_tokens or 0, TREATMENTS[error.starved])
        for error in errors
        if error.starved is not None
    }


def _min_tokens(policy: ExpertPolicy | None) -> int:
    assert policy is not None  # without one no expert is starved
    return policy.min_tokens
