"""One artifact as the page shows it: figures, tables and plots taken from its manifest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue
from tokenizers import Tokenizer

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.manifest import InputRecord, Manifest
from llmopt.errors import InputError
from llmopt.report.composition import Composition, read_compositions
from llmopt.report.figures import (
    BY_CATEGORY,
    Figure,
    as_number,
    find_groups,
    flatten_settings,
    format_figure,
    label_column,
    list_figures,
    read_interval,
    read_parts,
)
from llmopt.report.layers import plot_layers
from llmopt.report.plots import Bar, BarPlot, ScatterPlot

TOKENIZER_NAME = "tokenizer.json"
DTYPE_BITS = {"bfloat16": 16, "float16": 16, "float32": 32}
# What a category's bar shows: the first of these that was measured.
BAR_METRICS = ("kl_mean", "accuracy", "perplexity", "tokens_per_s", "requests_per_s")
HIDDEN_COLUMNS = {"nll", "kl_p99"}
FIRST_COLUMNS = (
    "kl_mean",
    "kl_mean_over_best",
    "top1_agreement",
    "perplexity_increase_pct",
    "perplexity",
)
LAST_COLUMNS = ("num_documents", "num_tokens")
NOT_MEASURED = {"max_length", "stride"}


@dataclass(frozen=True)
class Breakdown:
    """The same metrics of several categories or candidates.

    Attributes:
        plot: The metric that matters most, a bar each.
        columns: The metrics that the table shows.
        rows: Category or candidate → its metrics.
    """

    plot: BarPlot
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, JsonValue]]


@dataclass(frozen=True)
class NamedMetrics:
    """The metrics of one candidate, or of the step itself under the name ""."""

    name: str
    figures: tuple[Figure, ...]
    categories: "Breakdown | None"

    @property
    def has_intervals(self) -> bool:
        """Whether any figure has an interval."""
        return any(figure.interval is not None for figure in self.figures)


@dataclass(frozen=True)
class CalibrationView:
    """A data set that weights were calibrated on; `note` says why there is no composition."""

    given: InputRecord
    num_tokens: int | None
    compositions: tuple[Composition, ...]
    note: str


@dataclass(frozen=True)
class StepView:
    """One artifact of a report."""

    artifact: Artifact
    settings: Mapping[str, JsonValue]
    measured: tuple[NamedMetrics, ...]
    comparison: Breakdown | None
    layers: ScatterPlot | None
    calibration: CalibrationView | None
    bits_per_weight: float | None

    @property
    def manifest(self) -> Manifest:
        """The artifact's manifest."""
        return self.artifact.manifest

    @property
    def size_bytes(self) -> int:
        """The sizes of all files, the manifest left out."""
        return sum(entry.size for entry in self.manifest.files)


def view_step(artifact: Artifact) -> StepView:
    """Takes everything that the page shows of one artifact from its manifest and small files."""
    manifest = artifact.manifest
    return StepView(
        artifact=artifact,
        settings=flatten_settings(manifest.step.settings),
        measured=tuple(_view_measured(manifest)),
        comparison=break_down("candidates", "Candidates", find_groups(manifest.metrics)),
        layers=plot_layers(manifest.layers),
        calibration=_view_calibration(artifact),
        bits_per_weight=_bits_per_weight(artifact),
    )


def _view_measured(manifest: Manifest) -> list[NamedMetrics]:
    named = {"": manifest.metrics} if manifest.kind == "evaluation" else {}
    named |= find_groups(manifest.metrics)
    return [
        measured
        for name, metrics in named.items()
        if (measured := _view_metrics(name, metrics)).figures
    ]


def _view_metrics(name: str, metrics: Mapping[str, JsonValue]) -> NamedMetrics:
    return NamedMetrics(
        name,
        tuple(figure for figure in list_figures(metrics) if figure.name not in NOT_MEASURED),
        break_down("categories", "By category", read_parts(metrics, BY_CATEGORY)),
    )


def break_down(
    name: str, title: str, rows: Mapping[str, Mapping[str, JsonValue]]
) -> Breakdown | None:
    """Makes a plot and a table of several rows; None where no known metric was measured."""
    columns = _list_columns(rows)
    metric = next((metric for metric in BAR_METRICS if metric in columns), None)
    if metric is None:
        return None
    bars = [
        Bar(label, value, format_figure(metric, value), read_interval(row, metric))
        for label, row in rows.items()
        if (value := as_number(row.get(metric))) is not None
    ]
    return Breakdown(BarPlot(name, title, label_column(metric), tuple(bars)), columns, rows)


def _list_columns(rows: Mapping[str, Mapping[str, JsonValue]]) -> tuple[str, ...]:
    """Returns every measured number of the categories: what matters first, counts last."""
    measured = dict.fromkeys(
        column
        for row in rows.values()
        for column, value in row.items()
        if as_number(value) is not None and column not in HIDDEN_COLUMNS
    )
    first = [column for column in FIRST_COLUMNS if column in measured]
    last = [column for column in LAST_COLUMNS if column in measured]
    return (*first, *(c for c in measured if c not in (*first, *last)), *last)


def plot_sizes(views: Sequence[StepView]) -> BarPlot | None:
    """Plots the weights' bytes of each model beside those of its source."""
    bars = []
    for view in views:
        size = as_number(view.manifest.metrics.get("weights_bytes"))
        source = as_number(view.manifest.metrics.get("source_weights_bytes"))
        if size is None or source is None:
            continue
        given = view.manifest.inputs.get("model")
        name = f"{given.name} (source)" if given else "source"
        bars.append(Bar(name, source, format_figure("source_weights_bytes", source)))
        bars.append(Bar(view.manifest.step.id, size, format_figure("weights_bytes", size)))
    unique = dict.fromkeys(bars)
    return BarPlot("sizes", "Size of the weights", "bytes", tuple(unique)) if bars else None


def plot_times(views: Sequence[StepView]) -> BarPlot | None:
    """Plots how long each step took."""
    bars = [
        Bar(view.manifest.step.id, total, format_figure("total_s", total))
        for view in views
        if (total := view.manifest.timings.get("total_s")) is not None
    ]
    return BarPlot("times", "Time per step", "seconds", tuple(bars)) if bars else None


def plot_memory(views: Sequence[StepView]) -> BarPlot | None:
    """Plots the resident peak of each step's process."""
    bars = [
        Bar(view.manifest.step.id, peak, format_figure("peak_memory_bytes", peak))
        for view in views
        if (peak := view.manifest.peak_memory_bytes) is not None
    ]
    return BarPlot("memory", "Peak memory", "bytes", tuple(bars)) if bars else None


def plot_composition(composition: Composition) -> BarPlot:
    """Plots the tokens of each category, its characters where tokens were not counted."""
    tokens = [share.num_tokens for share in composition.shares]
    has_tokens = all(count is not None for count in tokens)
    bars = [
        Bar(share.category, count, f"{count:,}")
        for share in composition.shares
        for count in [share.num_tokens if has_tokens else share.num_characters]
        if count is not None
    ]
    label = "tokens" if has_tokens else "characters"
    return BarPlot("calibration", f"Calibration: {composition.source}", label, tuple(bars))


def _view_calibration(artifact: Artifact) -> CalibrationView | None:
    manifest = artifact.manifest
    given = manifest.inputs.get("data")
    if given is None or manifest.kind == "evaluation":
        return None
    count = as_number(manifest.metrics.get("calibration_tokens"))
    num_tokens = None if count is None else int(count)
    try:
        compositions = read_compositions(given.origin, _open_tokenizer(artifact))
    except InputError as error:
        return CalibrationView(given, num_tokens, (), error.message)
    return CalibrationView(given, num_tokens, tuple(compositions), "")


def _open_tokenizer(artifact: Artifact) -> Tokenizer | None:
    """Opens the artifact's own tokenizer, if it is the file that the manifest vouches for."""
    path = artifact.path / TOKENIZER_NAME
    listed = {entry.path: entry.sha256 for entry in artifact.manifest.files}
    if not path.is_file() or digest_file(path) != listed.get(TOKENIZER_NAME):
        return None
    return Tokenizer.from_file(str(path))


def _bits_per_weight(artifact: Artifact) -> float | None:
    """Returns bits per weight over the whole model, embeddings included.

    The source's number of weights follows from its bytes and its dtype in config.json.
    """
    metrics = artifact.manifest.metrics
    size = as_number(metrics.get("weights_bytes"))
    source = as_number(metrics.get("source_weights_bytes"))
    try:
        config = json.loads((artifact.path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    dtype = config.get("dtype", config.get("torch_dtype")) if isinstance(config, dict) else None
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None or size is None or not source:
        return None
    return bits * size / source
