"""What is plotted, free of how it is drawn: SVG for the page and PNG take the same."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

MANY_POINTS = 40  # of one series; beyond it marks are drawn smaller


@dataclass(frozen=True)
class Point:
    """One mark; `text` is what a reader sees when pointing at it."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Series:
    """Marks of one kind."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class ScatterPlot:
    """Panels side by side over the same scales.

    Attributes:
        name: The plot's name, for a file.
        title: What it shows.
        x_label: What x counts; whole numbers.
        y_label: What y measures, with its unit.
        panels: At least one, each with at least one point.
        log_y: Whether y is drawn by its logarithm; all y are then above 0.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    panels: tuple[Panel, ...]
    log_y: bool = False

    def points(self) -> Iterator[Point]:
        """Yields the marks of every panel."""
        for panel in self.panels:
            for series in panel.series:
                yield from series.points

    def y_ticks(self) -> list[float]:
        """Returns round values that enclose every y."""
        values = [point.y for point in self.points()]
        if not self.log_y:
            return choose_ticks(min(values), max(values))
        low = math.floor(math.log10(min(values)))
        high = max(math.ceil(math.log10(max(values))), low + 1)
        return [10.0**power for power in range(low, high + 1)]

    def x_ticks(self) -> list[float]:
        """Returns whole numbers, the last one enclosing every x."""
        ticks = choose_ticks(0, max(*(point.x for point in self.points()), 1))
        return [tick for tick in ticks if tick == int(tick)]


@dataclass(frozen=True)
class Bar:
    """One bar; `text` is its figure in words."""

    label: str
    value: float
    text: str
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class BarPlot:
    """Horizontal bars from 0 on.

    Attributes:
        name: The plot's name, for a file.
        title: What it shows.
        label: What the length measures, with its unit.
        bars: At least one.
    """

    name: str
    title: str
    label: str
    bars: tuple[Bar, ...]

    @property
    def limit(self) -> float:
        """The length that fills the scale: the longest bar, or interval's end; never 0."""
        ends = [bar.interval[1] for bar in self.bars if bar.interval is not None]
        return max(*(bar.value for bar in self.bars), *ends, 0) or 1


Plot = ScatterPlot | BarPlot


def choose_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns about `count` round values, the first at or below `low`, the last at or above `high`.

    Steps are 1, 2 or 5 times a power of ten.
    """
    span = (high - low) or max(abs(high), 1.0)
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]
