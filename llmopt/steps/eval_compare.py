"""`eval.compare`: several candidates against one baseline, scored in one pass, in one table."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from llmopt.steps.base import InputRef, Outcome, RunContext, StepInputs
from llmopt.steps.measure_fields import AnyModelName, ScoringFields


class EvalCompare(ScoringFields):
    """Scores candidates against a baseline on the same documents and ranks them.

    Metrics are keyed by the candidate's name; a gate with `metrics_of` requires, for example,
    `quantize.kl_mean`. The artifact holds `comparison.json` and the table `comparison.md`.
    """

    uses: Literal["eval.compare"]
    candidates: Annotated[tuple[str, ...], InputRef(("checkpoint", "quantized_checkpoint"))] = (
        Field(min_length=1, description="The models to compare, plain or quantised.")
    )
    baseline: AnyModelName = Field(description="The model that they should equal.")
    data: Annotated[str, InputRef(("dataset",))] = Field(description="The documents to score.")

    @field_validator("candidates")
    @classmethod
    def _check_unique(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is named twice")
        return names

    def measured_names(self) -> frozenset[str]:
        """Names the candidates: the metrics speak of each."""
        return frozenset(self.candidates)

    def settings(self) -> dict[str, Any]:
        """Returns the settings with the candidates' names, which stand in what comes out."""
        return {**super().settings(), "candidate_names": list(self.candidates)}

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Scores every candidate."""
        from llmopt.steps.compare_run import run_comparison  # noqa: PLC0415 - torch

        return run_comparison(self, inputs, context)
