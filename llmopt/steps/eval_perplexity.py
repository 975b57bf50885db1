"""`eval.perplexity`: perplexity of a model and, with a baseline, its distance from it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmopt.steps.base import InputRef, Outcome, RunContext, StepInputs
from llmopt.steps.measure_fields import AnyModelName, OptionalModelName, ScoringFields


class EvalPerplexity(ScoringFields):
    """Scores a model on documents, token by token."""

    step_version: ClassVar[int] = 2  # 1 had no intervals

    uses: Literal["eval.perplexity"]
    model: AnyModelName = Field(description="The model to score, plain or quantised.")
    baseline: OptionalModelName = Field(
        None, description="The model it should equal: adds KL divergence and top-1 agreement."
    )
    data: Annotated[str, InputRef(("dataset",))] = Field(description="The documents to score.")

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Scores every document."""
        from llmopt.steps.measure_run import run_scoring  # noqa: PLC0415 - torch

        return run_scoring(self, inputs, context)
