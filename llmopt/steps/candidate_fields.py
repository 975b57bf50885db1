"""Steps that measure several candidates side by side."""

from typing import Any, ClassVar

from pydantic import field_validator

from llmopt.steps.base import StepBase


class CandidateFields(StepBase):
    """The candidates of a measurement, whose metrics are keyed by their names.

    Class attributes:
        typical_metric: A metric of one candidate, for messages.
    """

    typical_metric: ClassVar[str]

    candidates: tuple[str, ...]  # subclasses say what it accepts

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
