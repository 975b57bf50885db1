"""Sums verdicts over tasks up, with intervals, overall and per kind of check."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

Z_95 = 1.959963984540054
NUM_RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on the tasks of a set, each of one length.

    Attributes:
        right: Whether the candidate's answer is right.
        baseline_right: The same of the baseline; None without one.
        agrees: Whether both gave the same answer or verdict; None without a baseline.
    """

    right: NDArray[np.bool_]
    baseline_right: NDArray[np.bool_] | None = None
    agrees: NDArray[np.bool_] | None = None

    def select(self, chosen: NDArray[np.bool_]) -> "Verdicts":
        """Returns the verdicts on the chosen tasks."""
        return Verdicts(
            self.right[chosen],
            None if self.baseline_right is None else self.baseline_right[chosen],
            None if self.agrees is None else self.agrees[chosen],
        )


def summarise_verdicts(verdicts: Verdicts, kinds: Sequence[str]) -> dict[str, JsonValue]:
    """Returns `num_items`, `accuracy` and, with a baseline, `baseline_accuracy` and `agreement`.

    Each share has a `_ci` (95 %, `interval_of_share`), and each is given again for every kind
    of check, as in `accuracy_json`; `accuracy_change` is candidate minus baseline, with a paired
    bootstrap over items (`interval_of_mean`).
    """
    metrics: dict[str, JsonValue] = {"num_items": len(kinds), **_list_shares(verdicts, "")}
    if verdicts.baseline_right is not None:
        change = verdicts.right.astype(float) - verdicts.baseline_right
        metrics |= describe_mean("accuracy_change", change)
    for kind in dict.fromkeys(kinds):
        chosen = np.array([other == kind for other in kinds])
        metrics[f"num_items_{kind}"] = int(chosen.sum())
        metrics |= _list_shares(verdicts.select(chosen), f"_{kind}")
    return metrics


def describe_mean(name: str, values: NDArray[np.float64]) -> dict[str, JsonValue]:
    """Returns the mean of values over items under `name`, its interval under `name_ci`."""
    return {name: float(values.mean()), f"{name}_ci": list(interval_of_mean(values))}


def interval_of_mean(values: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the 95 % percentile bootstrap interval of a mean, items resampled, seeded."""
    generator = np.random.default_rng(SEED)
    picks = generator.integers(0, len(values), (NUM_RESAMPLES, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def interval_of_share(num_hits: int, num_items: int) -> tuple[float, float]:
    """Returns the 95 % score interval of a share (E. B. Wilson, JASA 22, 1927).

    Resampling would give an interval of no width where every item is a hit or none is.
    """
    share, z2 = num_hits / num_items, Z_95**2
    centre = (share + z2 / (2 * num_items)) / (1 + z2 / num_items)
    spread = math.sqrt(share * (1 - share) / num_items + z2 / (4 * num_items**2))
    half = Z_95 * spread / (1 + z2 / num_items)
    return max(0.0, centre - half), min(1.0, centre + half)


def _list_shares(verdicts: Verdicts, suffix: str) -> dict[str, JsonValue]:
    named = {
        "accuracy": verdicts.right,
        "baseline_accuracy": verdicts.baseline_right,
        "agreement": verdicts.agrees,
    }
    metrics: dict[str, JsonValue] = {}
    for name, hits in named.items():
        if hits is not None:
            metrics[name + suffix] = float(hits.mean())
            interval = interval_of_share(int(hits.sum()), len(hits))
            metrics[f"{name}{suffix}_ci"] = list(interval)
    return metrics
