"""`eval.compare`: several candidates against one baseline, scored in one pass, in one table."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmopt.steps.base import InputRef, Outcome, RunContext, StepInputs
from llmopt.steps.candidate_fields import CandidateFields
from llmopt.steps.measure_fields import AnyModelName, ScoringFields


class EvalCompare(CandidateFields, ScoringFields):
    """Scores candidates against a baseline on the same documents and ranks them.

    Metrics are keyed by the candidate's name; a gate with `metrics_of` requires, for example,
    `quantize.kl_mean`. The artifact holds `comparison.json` and the table `comparison.md`.
    """

    typical_metric: ClassVar[str] = "kl_mean"

    uses: Literal["eval.compare"]
    candidates: Annotated[tuple[str, ...], InputRef(("checkpoint", "quantized_checkpoint"))] = (
        Field(min_length=1, description="The models to compare, plain or quantised.")
    )
    baseline: AnyModelName = Field(description="The model that they should equal.")
    data: Annotated[str, InputRef(("dataset",))] = Field(description="The documents to score.")

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Scores every candidate."""
        from llmopt.steps.compare_run import run_comparison  # noqa: PLC0415 - torch

        return run_comparison(self, inputs, context)
