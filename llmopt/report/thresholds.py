"""Limits that a difference must keep, and which it passes."""

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmopt.errors import RecipeError
from llmopt.report.difference import Difference


@dataclass(frozen=True)
class MetricLimit:
    """How far a metric may rise, or fall, from the first artifact to the second.

    Attributes:
        metric: Dotted name.
        amount: In the metric's own unit, or in percent of its value in the first artifact.
        is_percent: Whether `amount` is in percent.
        direction: 1 where a rise is limited, -1 where a fall is.
    """

    metric: str
    amount: float
    is_percent: bool
    direction: int

    @property
    def text(self) -> str:
        """The allowed amount with its unit."""
        return f"{self.amount:g} %" if self.is_percent else f"{self.amount:g}"


def parse_limit(option: str, text: str, direction: int) -> MetricLimit:
    """Reads `METRIC=VALUE` or `METRIC=VALUE%`.

    Raises:
        RecipeError: It is written otherwise, or the value is no finite number of at least 0.
    """
    metric, equals, amount = text.rpartition("=")
    try:
        value = float(amount.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not equals or not metric or not math.isfinite(value) or value < 0:
        raise RecipeError(
            f"{option} {text}: write METRIC=VALUE, VALUE a number of at least 0 or a percentage",
            remedy=f"for example: {option} kl_mean=0.001, or {option} perplexity=1%",
        )
    return MetricLimit(metric.strip(), value, amount.endswith("%"), direction)


def find_passed(
    difference: Difference, limits: Sequence[MetricLimit], max_snr_drop_db: float | None
) -> list[str]:
    """Returns one sentence per limit that is passed; what can't be compared passes its limit."""
    passed = [fault for limit in limits for fault in _judge_metric(difference, limit)]
    if max_snr_drop_db is not None:
        passed += _judge_layers(difference, max_snr_drop_db)
    return passed


def _judge_metric(difference: Difference, limit: MetricLimit) -> Iterator[str]:
    change = difference.metrics.get(limit.metric)
    if change is None:
        close = difflib.get_close_matches(limit.metric, difference.metrics, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        yield f"{limit.metric} was measured in neither{hint}"
        return
    if change.before is None or change.after is None:
        where = "first" if change.before is None else "second"
        yield f"{limit.metric} was not measured in the {where}"
        return
    moved = change.increase_pct if limit.is_percent else change.increase
    if moved is None and change.before == change.after:
        return
    if moved is None:
        yield f"{limit.metric} is 0 in the first, so there is no percentage of it"
    elif limit.direction * moved > limit.amount:
        verb = "rose" if limit.direction > 0 else "fell"
        yield (
            f"{limit.metric} {verb} from {change.before:.6g} to {change.after:.6g}, "
            f"by {abs(moved):.4g}{' %' if limit.is_percent else ''}, allowed {limit.text}"
        )


def _judge_layers(difference: Difference, limit_db: float) -> Iterator[str]:
    if not difference.layers:
        yield "no layer has an SNR in both, so no drop can be judged"
        return
    if difference.only_before:
        names = difference.only_before
        yield f"{len(names)} layers of the first are not in the second ({names[0]}, …)"
    beyond = [layer for layer in difference.layers if layer.drop_db > limit_db]
    if beyond:
        worst = beyond[0]
        yield (
            f"SNR dropped by more than {limit_db:g} dB in {len(beyond)} of "
            f"{len(difference.layers)} layers, most in {worst.layer}: "
            f"{worst.before_db:.2f} to {worst.after_db:.2f} dB, by {worst.drop_db:.2f} dB"
        )
