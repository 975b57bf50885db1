"""`eval.gate`: a model must keep to declared limits, or nothing goes on with it."""

import difflib
import math
from collections.abc import Iterator, Mapping
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
    """Limits of one metric; at least one of `max`, `min` and `max_increase_pct`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    max: float | None = Field(None, description="The metric is at most this.")
    min: float | None = Field(None, description="The metric is at least this.")
    max_increase_pct: float | None = Field(
        None, description="The metric exceeds baseline_METRIC by at most so many percent."
    )
    confident: bool = Field(
        False,
        description="The limits hold for the whole 95 % interval METRIC_ci, so for its worse end; "
        "a metric without an interval misses.",
    )

    @model_validator(mode="after")
    def _check_any(self) -> "Requirement":
        limits = [self.max, self.min, self.max_increase_pct]
        if all(limit is None for limit in limits):
            raise ValueError("give at least one of max, min and max_increase_pct")
        if any(limit is not None and not math.isfinite(limit) for limit in limits):
            raise ValueError("limits must be finite numbers")
        return self

    def describe(self, baseline: float | None = None) -> str:
        """Writes the limits in short: `max 0.002, the whole interval`."""
        parts = [] if self.max is None else [f"max {self.max:g}"]
        if self.min is not None:
            parts.append(f"min {self.min:g}")
        if self.max_increase_pct is not None:
            over = "the baseline" if baseline is None else f"the baseline's {baseline:.6g}"
            parts.append(f"at most {self.max_increase_pct:g} % above {over}")
        return ", ".join(parts) + (", the whole interval" if self.confident else "")


class EvalGate(ScoringFields):
    """Measures a model against its baseline, or takes another step's metrics, and judges.

    The measurement is kept in the store whatever the verdict; the verdict is given anew at
    every run, so a changed limit costs no measurement.
    """

    is_gate: ClassVar[bool] = True
    step_version: ClassVar[int] = 2  # 1 had no intervals

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
        min_length=1,
        description="Metric → limits. A dot leads into what is nested: by_category.NAME.kl_mean; "
        "on a comparison CANDIDATE.kl_mean.",
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
                f"gate {name}: {'; '.join(faults)}\n  measured: {self._list_figures(artifact)}",
                remedy=f"the measurements are kept in {artifact.path}",
            )

    def _list_figures(self, artifact: Artifact) -> str:
        """Lists what is required with its limits, then whatever else was measured."""
        metrics = artifact.manifest.metrics
        others = [
            f"{name} {value:.6g}"
            for name, value in _find_figures(metrics).items()
            if name not in self.require
        ]
        return ", ".join([*list_required(self.require, metrics), *others])


def list_required(
    require: Mapping[str, Requirement], metrics: Mapping[str, JsonValue]
) -> list[str]:
    """Returns each required metric's value and limits: `kl_mean 0.0007 (max 0.002)`.

    Args:
        require: Metric, dotted where it is nested → limits.
        metrics: A manifest's metrics.
    """
    texts = []
    for metric, limits in require.items():
        scope, name = _find_scope(metrics, metric)
        value = _number(scope.get(name))
        shown = "not measured" if value is None else f"{value:.6g}"
        baseline = _number(scope.get(f"baseline_{name}"))
        bounds = limits.describe(None if limits.max_increase_pct is None else baseline)
        interval = _find_interval(scope, name) if limits.confident else None
        if interval is not None:
            shown += f" [{interval[0]:.6g}, {interval[1]:.6g}]"
        texts.append(f"{metric} {shown} ({bounds})")
    return texts


def _find_figures(metrics: Mapping[str, JsonValue], prefix: str = "") -> dict[str, float]:
    """Returns dotted path → number, categories left out."""
    figures: dict[str, float] = {}
    for name, value in metrics.items():
        number = _number(value)
        if number is not None:
            figures[prefix + name] = number
        elif isinstance(value, dict) and name != "by_category":
            figures |= _find_figures(value, f"{prefix}{name}.")
    return figures


def find_misses(require: Mapping[str, Requirement], metrics: Mapping[str, JsonValue]) -> list[str]:
    """Returns one sentence per limit that the metrics miss; what can't be judged misses.

    Args:
        require: Metric, dotted where it is nested → limits.
        metrics: A manifest's metrics.
    """
    faults = []
    for metric, limits in require.items():
        scope, name = _find_scope(metrics, metric)
        value = _number(scope.get(name))
        if value is None:
            measured = ", ".join(_find_figures(metrics)) or "nothing"
            faults.append(f"{metric} was not measured (measured: {measured})")
        else:
            faults += _faults(metric, limits, scope)
    return faults


def _find_scope(metrics: Mapping[str, JsonValue], path: str) -> tuple[Mapping[str, JsonValue], str]:
    """Returns the mapping that a dotted metric stands in, and the name that it has there."""
    *parents, name = path.split(".")
    scope: Mapping[str, JsonValue] = metrics
    for parent in parents:
        inner = scope.get(parent)
        scope = inner if isinstance(inner, dict) else {}
    return scope, name


def _faults(path: str, limits: Requirement, scope: Mapping[str, JsonValue]) -> Iterator[str]:
    name = path.rpartition(".")[2]
    end = " at the worse end of its 95 % interval" if limits.confident else ""
    if limits.max is not None or limits.min is not None:
        bounds = _find_interval(scope, name) if limits.confident else _as_bounds(scope[name])
        if bounds is None:
            yield f"{path} has no 95 % interval ({name}_ci)"
            return
        low, high = bounds
        if limits.max is not None and not high <= limits.max:
            yield f"{path} is {high:.6g}{end}, allowed at most {limits.max:g}"
        if limits.min is not None and not low >= limits.min:
            yield f"{path} is {low:.6g}{end}, required at least {limits.min:g}"
    if limits.max_increase_pct is not None:
        judge = _confident_increase_fault if limits.confident else _increase_fault
        yield from judge(path, limits.max_increase_pct, scope)


def _increase_fault(path: str, limit_pct: float, scope: Mapping[str, JsonValue]) -> Iterator[str]:
    name = path.rpartition(".")[2]
    value, baseline = _number(scope[name]), _number(scope.get(f"baseline_{name}"))
    if value is None or baseline is None or baseline == 0:
        yield f"{path} has no baseline_{name} to compare with"
        return
    increase_pct = 100 * (value - baseline) / abs(baseline)
    if not increase_pct <= limit_pct:
        yield (
            f"{path} is {value:.6g}, {increase_pct:.3g} % above the baseline's {baseline:.6g}, "
            f"allowed {limit_pct:g} %"
        )


def _confident_increase_fault(
    path: str, limit_pct: float, scope: Mapping[str, JsonValue]
) -> Iterator[str]:
    """Judges the interval of the increase itself, which is paired, so narrower than a ratio's."""
    name = f"{path.rpartition('.')[2]}_increase_pct"
    bounds = _find_interval(scope, name)
    if bounds is None:
        yield f"{path} has no 95 % interval of its increase ({name}_ci)"
    elif not bounds[1] <= limit_pct:
        yield (
            f"{path} is {bounds[1]:.3g} % above the baseline's at the worse end of its 95 % "
            f"interval, allowed {limit_pct:g} %"
        )


def _find_interval(scope: Mapping[str, JsonValue], name: str) -> tuple[float, float] | None:
    found = scope.get(f"{name}_ci")
    if not isinstance(found, list) or len(found) != 2:
        return None
    low, high = (_number(end) for end in found)
    return None if low is None or high is None else (low, high)


def _as_bounds(value: JsonValue) -> tuple[float, float] | None:
    number = _number(value)
    return None if number is None else (number, number)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _check_known(path: str) -> None:
    metric = path.rpartition(".")[2] if path.startswith("by_category.") else path
    if metric not in MEASURED:
        close = difflib.get_close_matches(metric, MEASURED, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"there is no metric {metric!r}{hint} (known: {', '.join(MEASURED)})")
