"""Renders the page: one HTML file that fetches nothing and runs nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from llmopt import __version__
from llmopt.artifacts.files import format_bytes
from llmopt.report import figures
from llmopt.report.graph import build_graph
from llmopt.report.layers import NUM_WORST, worst_layers
from llmopt.report.lineage import Lineage
from llmopt.report.plots import BarPlot, Plot
from llmopt.report.step_view import (
    StepView,
    plot_composition,
    plot_memory,
    plot_sizes,
    plot_times,
    view_step,
)
from llmopt.report.svg_bars import draw_bar
from llmopt.report.svg_graph import draw_graph
from llmopt.report.svg_scatter import draw_panels

TEMPLATE = "report.html"
NUM_FAULTS = 6
Tone = Literal["good", "bad", "plain"]
KEY_FIGURES = {
    "kl_mean": "KL divergence",
    "perplexity_increase_pct": "perplexity",
    "top1_agreement": "top-1 agreement",
    "accuracy": "tasks right",
    "agreement": "agreement with the baseline",
}


@dataclass(frozen=True)
class Verdict:
    """What a gate says of its measurement.

    Attributes:
        step: The gate's name.
        limits: What it requires, as sentences.
        misses: What it misses, as sentences; none where it is passed.
    """

    step: str
    limits: tuple[str, ...]
    misses: tuple[str, ...]


@dataclass(frozen=True)
class Tile:
    """A key figure."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        lineage: The artifacts.
        steps: The same, as they are shown.
        verdicts: Identity of a gate's artifact → its verdict.
    """

    lineage: Lineage
    steps: tuple[StepView, ...]
    verdicts: Mapping[str, Verdict]

    @property
    def tone(self) -> Tone:
        """Good where every gate is passed by what is shown here, bad where one is not."""
        if not self.verdicts:
            return "plain"
        failed = any(v.misses for v in self.verdicts.values())
        return "bad" if failed or self.lineage.stale.keys() & self.verdicts.keys() else "good"

    def verdict_line(self) -> str:
        """Says in one line how the gates ended."""
        if not self.verdicts:
            return "No gate has judged this."
        stale = self.lineage.stale.keys() & self.verdicts.keys()
        if stale:
            names = ", ".join(self.verdicts[key].step for key in sorted(stale))
            return f"No verdict: {names} judged another artifact than the one shown here."
        missed = [verdict for verdict in self.verdicts.values() if verdict.misses]
        if missed:
            return f"Gate missed: {', '.join(verdict.step for verdict in missed)}"
        return f"Gate passed: {', '.join(verdict.step for verdict in self.verdicts.values())}"

    def warnings(self) -> list[str]:
        """Returns all that a reader must know before believing the figures."""
        found = [*self.lineage.missing]
        for step in self.steps:
            name = step.manifest.step.id
            found += self.lineage.stale.get(step.manifest.identity, ())
            found += [f"{name}: degraded: {fault}" for fault in step.manifest.degraded]
            if not step.artifact.is_whole():
                found.append(f"{name}: files are missing or damaged; run llmopt verify on it")
        return found

    def tiles(self) -> Iterator[Tile]:
        """Yields the key figures: size, quality, error, cost."""
        models = [step for step in self.steps if "weights_bytes" in step.manifest.metrics]
        for step in models:
            yield from _size_tiles(step, f" of {step.manifest.step.id}" if len(models) > 1 else "")
        for step in self.steps:
            for measured in step.measured:
                if not measured.name:
                    yield from _quality_tiles(measured.figures)
        times = [step.manifest.timings.get("total_s", 0) for step in self.steps]
        if any(times):
            yield Tile("time", figures.format_seconds(sum(times)), "all steps shown")
        peaks = [step.manifest.peak_memory_bytes or 0 for step in self.steps]
        if any(peaks):
            yield Tile("peak memory", format_bytes(max(peaks)), "resident, of the process")


def make_report(lineage: Lineage, verdicts: Mapping[str, Verdict]) -> Report:
    """Takes the figures of every artifact."""
    return Report(lineage, tuple(view_step(artifact) for artifact in lineage.artifacts), verdicts)


def render_page(report: Report) -> str:
    """Returns the page as HTML."""
    environment = Environment(
        loader=PackageLoader("llmopt.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": format_bytes,
        "seconds": figures.format_seconds,
        "setting": figures.format_setting,
        "column": figures.label_column,
        "any_interval": _any_interval,
        "panels": draw_panels,
        "composition": plot_composition,
    }
    environment.globals |= {
        "figure": figures.format_figure,
        "interval": figures.format_interval,
        "as_number": figures.as_number,
        "draw_bar": draw_bar,
        "worst_layers": worst_layers,
    }
    return environment.get_template(TEMPLATE).render(
        report=report,
        version=__version__,
        graph=draw_graph(build_graph(report.lineage.artifacts)),
        sizes=plot_sizes(report.steps),
        times=plot_times(report.steps),
        memory=plot_memory(report.steps),
        num_worst=NUM_WORST,
        num_faults=NUM_FAULTS,
    )


def _any_interval(plot: BarPlot) -> bool:
    return any(bar.interval is not None for bar in plot.bars)


def list_plots(report: Report) -> list[Plot]:
    """Returns every plot of the page, each with a name of its own."""
    shared = (plot_sizes(report.steps), plot_times(report.steps), plot_memory(report.steps))
    plots: list[Plot] = [plot for plot in shared if plot is not None]
    for step in report.steps:
        plots += _name_plots(step)
    return plots


def _name_plots(step: StepView) -> Iterator[Plot]:
    name = step.manifest.step.id
    if step.layers is not None:
        yield replace(step.layers, name=f"{name}-layers", title=f"{name}: {step.layers.title}")
    if step.comparison is not None:
        yield replace(step.comparison.plot, name=f"{name}-candidates", title=f"{name}: candidates")
    for measured in step.measured:
        if measured.categories is not None:
            of = f"{name}-{measured.name}" if measured.name else name
            plot = measured.categories.plot
            yield replace(plot, name=f"{of}-categories", title=f"{of}: {plot.title}")
    for index, composition in enumerate(step.calibration.compositions if step.calibration else ()):
        drawn = plot_composition(composition)
        yield replace(drawn, name=f"{name}-calibration-{index + 1}", title=f"{name}: {drawn.title}")


def _size_tiles(step: StepView, of: str) -> Iterator[Tile]:
    metrics = step.manifest.metrics
    size = figures.as_number(metrics.get("weights_bytes"))
    source = figures.as_number(metrics.get("source_weights_bytes"))
    if size and source:
        yield Tile(
            f"weights{of}", format_bytes(size), f"{source / size:.2f} × less than the source"
        )
    if step.bits_per_weight is not None:
        yield Tile(f"bits per weight{of}", f"{step.bits_per_weight:.2f}", "embeddings included")
    lowest = figures.as_number(metrics.get("lowest_snr_db"))
    if lowest is not None:
        yield Tile(
            f"lowest layer SNR{of}", f"{lowest:.1f} dB", str(metrics.get("lowest_snr_layer", ""))
        )


def _quality_tiles(measured: Sequence[figures.Figure]) -> Iterator[Tile]:
    for figure in measured:
        if figure.name not in KEY_FIGURES:
            continue
        note = "nats per token" if figure.name == "kl_mean" else ""
        if figure.name == "perplexity_increase_pct":
            note = "against the baseline"
        if figure.interval is not None:
            note = f"95 %: {figures.format_interval(figure.name, figure.interval)}"
        value = figures.format_figure(figure.name, figure.value)
        yield Tile(KEY_FIGURES[figure.name], value, note)
