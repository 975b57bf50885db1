"""Draws the panels of a scatter plot, each a drawing of its own, so that they can wrap."""

import math
from collections import Counter
from dataclasses import dataclass

from llmopt.report.plots import MANY_POINTS, Panel, ScatterPlot, Series
from llmopt.report.svg import Element, Svg, add, finish, start

WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 44, 38
MARK, SMALL_MARK = 4.2, 2.8
NUM_COLOURS = 6
# Outlines around (0, 0), one per series, so that colour is not the only sign.
SHAPES = (
    "M-1,0a1,1 0 1,0 2,0a1,1 0 1,0 -2,0Z",
    "M-.9,-.9H.9V.9H-.9Z",
    "M0,-1.15L1.1,.85H-1.1Z",
    "M0,-1.25L1.25,0L0,1.25L-1.25,0Z",
    "M0,1.15L1.1,-.85H-1.1Z",
    "M-.4,-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        low, high, value = (
            (math.log10(v) if self.log else v) for v in (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def draw_panels(plot: ScatterPlot) -> list[Svg]:
    """Draws every panel; each mark is a `path` of class `mark` with its text as tooltip."""
    return [_draw_panel(plot, panel) for panel in plot.panels]


def _draw_panel(plot: ScatterPlot, panel: Panel) -> Svg:
    x_ticks, y_ticks = plot.x_ticks(), plot.y_ticks()
    x = _Scale(x_ticks[0], x_ticks[-1], LEFT + 12, WIDTH - RIGHT - 8)
    y = _Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP, plot.log_y)
    root = start(f"{plot.title}: {panel.title}", view_box=f"0 0 {WIDTH} {HEIGHT}", class_="panel")
    _draw_axes(root, plot, x, y)
    add(root, "text", panel.title, x=LEFT - 38, y=16, class_="panel-title")
    _draw_legend(root, panel)
    for index, series in enumerate(panel.series):
        _draw_series(root, series, index, x, y)
    return finish(root)


def _draw_axes(root: Element, plot: ScatterPlot, x: _Scale, y: _Scale) -> None:
    for tick in plot.y_ticks():
        at = y.place(tick)
        add(root, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid")
        add(root, "text", f"{tick:g}", x=LEFT - 6, y=at + 4, class_="tick end")
    for tick in plot.x_ticks():
        add(root, "text", f"{tick:g}", x=x.place(tick), y=HEIGHT - BOTTOM + 17, class_="tick mid")
    add(root, "text", plot.y_label, x=LEFT - 38, y=33, class_="axis")
    add(root, "text", plot.x_label, x=WIDTH - RIGHT, y=HEIGHT - 5, class_="axis end")


def _draw_legend(root: Element, panel: Panel) -> None:
    at = float(WIDTH - RIGHT)
    for index, series in reversed(list(enumerate(panel.series))):
        at -= 7.5 * len(series.name)
        add(root, "text", series.name, x=at, y=16, class_="legend")
        at -= 9
        _draw_mark(root, index, (at, 12), "key", MARK)
        at -= 17


def _draw_series(root: Element, series: Series, index: int, x: _Scale, y: _Scale) -> None:
    points = sorted(series.points, key=lambda point: point.x)
    if max(Counter(point.x for point in points).values()) == 1:
        corners = " ".join(f"{x.place(p.x):.1f},{y.place(p.y):.1f}" for p in points)
        add(root, "polyline", points=corners, class_=f"line c{index % NUM_COLOURS}")
    size = MARK if len(points) <= MANY_POINTS else SMALL_MARK
    for point in points:
        mark = _draw_mark(root, index, (x.place(point.x), y.place(point.y)), "mark", size)
        add(mark, "title", point.text)


def _draw_mark(
    root: Element, index: int, place: tuple[float, float], role: str, size: float
) -> Element:
    return add(
        root,
        "path",
        d=SHAPES[index % len(SHAPES)],
        transform=f"translate({place[0]:.1f} {place[1]:.1f}) scale({size})",
        class_=f"{role} c{index % NUM_COLOURS}",
    )
