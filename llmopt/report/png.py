"""Draws the plots as PNG files, by matplotlib (the extra `report`)."""

import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmopt.artifacts.files import format_bytes
from llmopt.report.plots import MANY_POINTS, BarPlot, Panel, Plot, ScatterPlot

DPI = 160
COLOURS = ("#0072b2", "#d55e00", "#008f6b", "#a8478f", "#8a6d00", "#59636e")
MARKERS = ("o", "s", "^", "D", "v", "P")
SOFT = "#59636e"
# Fonts that have Japanese letters, the first one that is installed.
JAPANESE_FONTS = (
    "Noto Sans CJK JP", "Noto Sans JP", "Source Han Sans JP", "IPAexGothic", "IPAGothic",
    "Hiragino Sans", "Yu Gothic", "Meiryo", "MS Gothic", "TakaoGothic", "Noto Serif CJK JP",
)  # fmt: skip


def write_plots(plots: Iterable[Plot], folder: Path) -> list[Path]:
    """Writes one PNG file per plot, named by it; returns the files."""
    written = []
    # Named one by one: of a generic family, matplotlib takes one font alone.
    with rc_context({"font.family": list_fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # see find_unwritable
        for plot in plots:
            path = folder / f"{plot.name}.png"
            figure = _draw_scatter(plot) if isinstance(plot, ScatterPlot) else _draw_bars(plot)
            figure.savefig(path, dpi=DPI, metadata={"Software": "llmopt"})
            written.append(path)
    return written


def list_fonts() -> list[str]:
    """Returns the fonts to write with: matplotlib's own, then one with Japanese letters."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *[name for name in JAPANESE_FONTS if name in installed][:1]]


def find_unwritable(plots: Iterable[Plot]) -> list[str]:
    """Returns the labels that would come out as boxes, for want of a Japanese font."""
    if len(list_fonts()) > 1:
        return []
    labels = [bar.label for plot in plots if isinstance(plot, BarPlot) for bar in plot.bars]
    return [label for label in dict.fromkeys(labels) if any(map(_is_wide, label))]


def _is_wide(letter: str) -> bool:
    return unicodedata.east_asian_width(letter) in "WF"


def _draw_scatter(plot: ScatterPlot) -> Figure:
    num_panels = len(plot.panels)
    figure = Figure(figsize=(5.2 * num_panels, 3.8), layout="constrained")
    axes = figure.subplots(1, num_panels, sharey=True, squeeze=False)[0]
    figure.suptitle(plot.title, fontsize=12, x=0.01, ha="left", weight="bold")
    for place, panel in zip(axes, plot.panels, strict=True):
        _draw_panel(place, panel)
        place.set_xlabel(plot.x_label)
        place.set_xticks(plot.x_ticks())
        if plot.log_y:
            place.set_yscale("log")
        place.set_ylim(plot.y_ticks()[0], plot.y_ticks()[-1])
    axes[0].set_ylabel(plot.y_label)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    for index, series in enumerate(panel.series):
        points = sorted(series.points, key=lambda point: point.x)
        has_line = max(Counter(point.x for point in points).values()) == 1
        axes.plot(
            [point.x for point in points],
            [point.y for point in points],
            label=series.name,
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=5 if len(series.points) <= MANY_POINTS else 3,
            linewidth=1 if has_line else 0,
        )
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=9, ncols=4)
    _clean(axes)
    axes.grid(axis="y", color="#e6e9ed")


def _draw_bars(plot: BarPlot) -> Figure:
    figure = Figure(figsize=(7.2, 1.1 + 0.3 * len(plot.bars)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(plot.bars))
    lengths = [bar.value for bar in plot.bars]
    axes.barh(rows, lengths, color=COLOURS[0], height=0.66)
    for row, bar in enumerate(plot.bars):
        if bar.interval is not None:
            axes.plot(bar.interval, (row, row), color="#1b1f24", marker="|", linewidth=1.2)
        end = max(bar.value, bar.interval[1] if bar.interval else 0)
        axes.text(end + 0.012 * plot.limit, row, bar.text, va="center", fontsize=9, color=SOFT)
    axes.set_yticks(rows, [bar.label.replace("$", r"\$") for bar in plot.bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * plot.limit)
    axes.set_xlabel(plot.label)
    if plot.label == "bytes":
        axes.xaxis.set_major_formatter(lambda value, _: format_bytes(value))
    figure.suptitle(plot.title.replace("$", r"\$"), fontsize=12, x=0.01, ha="left", weight="bold")
    _clean(axes)
    return figure


def _clean(axes: Axes) -> None:
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=9)
