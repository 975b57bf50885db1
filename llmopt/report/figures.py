"""Metrics as people read them: labels, digits, intervals; and what is nested in a manifest."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from llmopt.artifacts.files import format_bytes

BY_CATEGORY = "by_category"
INTERVAL_SUFFIX = "_ci"
BASELINE_PREFIX = "baseline_"
LABELS = {
    "perplexity": "perplexity",
    "perplexity_increase_pct": "perplexity against baseline",
    "nll": "negative log-likelihood (nats per token)",
    "kl_mean": "KL divergence, mean (nats per token)",
    "kl_p99": "KL divergence, 99th percentile",
    "kl_mean_over_best": "KL above the best candidate",
    "top1_agreement": "top-1 agreement",
    "num_tokens": "tokens",
    "num_documents": "documents",
    "weights_bytes": "weights",
    "source_weights_bytes": "weights of the source",
    "lowest_snr_db": "lowest layer SNR",
    "highest_weight_mse": "largest mean squared weight error",
    "max_length": "window (tokens)",
    "stride": "stride (tokens)",
}
SHORT_LABELS = {
    "kl_mean": "KL mean",
    "kl_p99": "KL p99",
    "kl_mean_over_best": "above best",
    "top1_agreement": "top-1",
    "baseline_perplexity": "baseline",
    "perplexity_increase_pct": "change",
    "num_tokens": "tokens",
    "num_documents": "docs",
}


def format_seconds(seconds: float) -> str:
    """Writes a duration for people: `0.4 s`, `5 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _format_share(share: float) -> str:
    return f"{100 * share:.2f} %"


# How a metric is written, by the end of its name; the first that fits.
FORMATS: tuple[tuple[tuple[str, ...], Callable[[float], str]], ...] = (
    (("_bytes",), format_bytes),
    (("_pct",), "{:+.2f} %".format),
    (("agreement", "_share", "exact_match", "accuracy", "accuracy_change"), _format_share),
    (("_db",), "{:.1f} dB".format),
    (("_per_s",), "{:,.1f}/s".format),
    (("_ms",), "{:,.1f} ms".format),
    (("_s",), format_seconds),
    (("_mse",), "{:.2e}".format),
    (("perplexity",), "{:,.3f}".format),
)


@dataclass(frozen=True)
class Figure:
    """One measured number with what stands beside it.

    Attributes:
        name: The metric's name in the manifest.
        value: The number.
        interval: Low and high end of its 95 % interval, where it was measured.
        baseline: The same of the baseline model, where it was measured.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None
    baseline: float | None = None

    @property
    def label(self) -> str:
        """The metric in words."""
        return label_metric(self.name)


def as_number(value: Any) -> float | None:
    """Returns a finite number as it is; None for whatever else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def list_figures(metrics: Mapping[str, JsonValue]) -> list[Figure]:
    """Returns the numbers of one level of metrics; baselines and intervals join their metric."""
    figures = []
    for name, value in metrics.items():
        number = as_number(value)
        if number is None:
            continue
        if name.startswith(BASELINE_PREFIX) and name.removeprefix(BASELINE_PREFIX) in metrics:
            continue
        baseline = as_number(metrics.get(BASELINE_PREFIX + name))
        figures.append(Figure(name, number, read_interval(metrics, name), baseline))
    return figures


def read_interval(metrics: Mapping[str, JsonValue], name: str) -> tuple[float, float] | None:
    """Returns `NAME_ci`, if it is a pair of numbers."""
    pair = metrics.get(name + INTERVAL_SUFFIX)
    if not isinstance(pair, list) or len(pair) != 2:
        return None
    low, high = as_number(pair[0]), as_number(pair[1])
    return None if low is None or high is None else (low, high)


def read_parts(metrics: Mapping[str, JsonValue], key: str) -> dict[str, dict[str, JsonValue]]:
    """Returns the mappings inside `metrics[key]`, such as the categories; {} if there are none."""
    found = metrics.get(key)
    return find_groups(found) if isinstance(found, dict) else {}


def find_groups(metrics: Mapping[str, JsonValue]) -> dict[str, dict[str, JsonValue]]:
    """Returns what is nested directly in metrics by name, `by_category` left out."""
    return {
        name: value
        for name, value in metrics.items()
        if isinstance(value, dict) and name != BY_CATEGORY
    }


def flatten_numbers(metrics: Mapping[str, JsonValue], prefix: str = "") -> Iterator[Figure]:
    """Yields every number, with dotted names where it is nested; intervals are no numbers."""
    for name, value in metrics.items():
        number = as_number(value)
        if number is not None:
            yield Figure(prefix + name, number)
        elif isinstance(value, dict):
            yield from flatten_numbers(value, f"{prefix}{name}.")


def flatten_settings(settings: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    """Returns dotted name → value; what is not set inside a nested setting is left out."""
    flat: dict[str, JsonValue] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= flatten_settings(value, f"{prefix}{name}.")
        elif value is not None or not prefix:
            flat[prefix + name] = value
    return flat


def label_metric(name: str) -> str:
    """Returns a metric's label; unknown ones are their name with spaces."""
    return LABELS.get(name, name.replace("_", " "))


def label_column(name: str) -> str:
    """Returns a metric's label for a column's head."""
    return SHORT_LABELS.get(name, label_metric(name))


def format_figure(name: str, value: float) -> str:
    """Writes a metric's value by what its name says of its unit."""
    last = name.rpartition(".")[2]
    for suffixes, write in FORMATS:
        if last.endswith(suffixes):
            return write(value)
    if isinstance(value, int) or last.startswith("num_"):
        return f"{value:,.0f}"
    return f"{value:#.4g}".rstrip(".")


def format_interval(name: str, interval: tuple[float, float]) -> str:
    """Writes both ends of an interval."""
    return f"{format_figure(name, interval[0])} to {format_figure(name, interval[1])}"


def format_setting(value: JsonValue) -> str:
    """Writes a setting as YAML would, in one line."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(format_setting(item) for item in value) + "]"
    return str(value)
