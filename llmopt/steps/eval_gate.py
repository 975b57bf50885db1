"""`eval.gate`: a model must keep to declared limits, or nothing goes on with it."""

import difflib
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from llmopt.artifacts.artifact import Artifact
from llmopt.errors import GateFailed
from llmopt.steps.base import InputRef, NotIdentity, Outcome, RunContext, StepInputs
from llmopt.steps.measure_fields import OptionalModelName, ScoringFields

MEASURED = (
    "perplexity", "baseline_perplexity", "perplexity_increase_pct", "kl_mean", "kl_p99",
    "top1_agreement",
)  # fmt: skip


class Requirement(BaseModel):
    """Limits of one metric; at least one of the three."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    max: float | None = Field(None, description="The metric is at most this.")
    min: float | None = Field(None, description="The metric is at least this.")
    max_increase_pct: float | None = Field(
        None, description="The metric exceeds baseline_METRIC by at most so many percent."
    )

    @model_validator(mode="after")
    def _check_any(self) -> "Requirement":
        limits = [self.max, self.min, self.max_increase_pct]
        if all(limit is None for limit in limits):
            raise ValueError("give at least one of max, min and max_increase_pct")
        if any(limit is not None and not math.isfinite(limit) for limit in limits):
            raise ValueError("limits must be finite numbers")
        return self


class EvalGate(ScoringFields):
    """Measures a model against its baseline, or takes another step's metrics, and judges.

    The measurement is kept in the store whatever the verdict; the verdict is given anew at
    every run, so a changed limit costs no measurement.
    """

    is_gate: ClassVar[bool] = True

    uses: Literal["eval.gate"]
    model: OptionalModelName = Field(None, description="The model that is judged.")
    baseline: OptionalModelName = Field(None, description="The model it should equal.")
    data: Annotated[str | None, InputRef(("dataset",))] = Field(
        None, description="The documents to score."
    )
    metrics_of: Annotated[str | None, InputRef(("evaluation", "quantized_checkpoint"))] = Field(
        None, description="Judge this step's metrics in place of measuring."
    )
    require: Annotated[dict[str, Requirement], NotIdentity()] = Field(
        min_length=1, description="Metric → limits."
    )

    @model_validator(mode="after")
    def _check_closed(self) -> "EvalGate":
        if self.when_unavailable == "skip":
            raise ValueError("a gate that is skipped would pass without a look: use fail or defer")
        return self

    @model_validator(mode="after")
    def _check_sources(self) -> "EvalGate":
        if self.metrics_of is None:
            missing = [n for n in ("model", "baseline", "data") if getattr(self, n) is None]
            if missing:
                raise ValueError(f"give {', '.join(missing)}, or metrics_of in place of measuring")
            for metric in self.require:
                _check_known(metric)
        elif any(value is not None for value in (self.model, self.baseline, self.data)):
            raise ValueError(
                "metrics_of takes no model, baseline or data: it judges what was measured there"
            )
        return self

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Measures, or copies the metrics to be judged."""
        if "metrics_of" in inputs:
            return Outcome(metrics=Artifact.open(inputs["metrics_of"].path).manifest.metrics)
        from llmopt.steps.measure_run import run_scoring  # noqa: PLC0415 - torch

        return run_scoring(self, inputs, context)

    def check(self, name: str, artifact: Artifact) -> None:
        """Judges the measured metrics.

        Raises:
            GateFailed: A limit is missed, or a metric is absent or not a finite number.
        """
        faults = find_misses(self.require, artifact.manifest.metrics)
        if faults:
            raise GateFailed(
                f"gate {name}: {'; '.join(faults)}\n  measured: {_list_figures(artifact)}",
                remedy=f"the measurements are kept in {artifact.path}",
            )


def _list_figures(artifact: Artifact) -> str:
    numbers = {name: _number(value) for name, value in artifact.manifest.metrics.items()}
    shown = [f"{name} {value:.6g}" for name, value in numbers.items() if value is not None]
    return ", ".join(shown) or "nothing"


def find_misses(require: Mapping[str, Requirement], metrics: Mapping[str, JsonValue]) -> list[str]:
    """Returns one sentence per limit that the metrics miss; what can't be judged misses."""
    faults = []
    for metric, limits in require.items():
        value = _number(metrics.get(metric))
        if value is None:
            measured = [name for name, other in metrics.items() if _number(other) is not None]
            faults.append(
                f"{metric} was not measured (measured: {', '.join(measured) or 'nothing'})"
            )
            continue
        if limits.max is not None and not value <= limits.max:
            faults.append(f"{metric} is {value:.6g}, allowed at most {limits.max:g}")
        if limits.min is not None and not value >= limits.min:
            faults.append(f"{metric} is {value:.6g}, required at least {limits.min:g}")
        if limits.max_increase_pct is not None:
            faults += _increase_fault(metric, value, metrics, limits.max_increase_pct)
    return faults


def _increase_fault(
    metric: str, value: float, metrics: Mapping[str, JsonValue], limit_pct: float
) -> list[str]:
    baseline = _number(metrics.get(f"baseline_{metric}"))
    if baseline is None or baseline == 0:
        return [f"{metric} has no baseline_{metric} to compare with"]
    increase_pct = 100 * (value - baseline) / abs(baseline)
    if increase_pct <= limit_pct:
        return []
    return [
        f"{metric} is {value:.6g}, {increase_pct:.3g} % above the baseline's {baseline:.6g}, "
        f"allowed {limit_pct:g} %"
    ]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _check_known(metric: str) -> None:
    if metric not in MEASURED:
        close = difflib.get_close_matches(metric, MEASURED, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"there is no metric {metric!r}{hint} (known: {', '.join(MEASURED)})")
