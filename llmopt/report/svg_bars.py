"""Draws single bars for the cells of a table: as wide as the cell, without text of their own."""

from llmopt.report.plots import Bar, BarPlot
from llmopt.report.svg import Element, Svg, add, finish, start

HEIGHT = 16
THICKNESS = 12


def draw_bar(plot: BarPlot, bar: Bar) -> Svg:
    """Draws one bar of a plot, with a whisker over its interval; widths are percentages."""
    root = start(f"{bar.label}: {bar.text}", width="100%", height=HEIGHT, class_="bar")
    rect = add(
        root,
        "rect",
        x=0,
        y=(HEIGHT - THICKNESS) / 2,
        width=_percent(bar.value, plot),
        height=THICKNESS,
        class_="length",
    )
    add(rect, "title", f"{bar.label}: {bar.text}")
    if bar.interval is not None:
        low, high = (_percent(end, plot) for end in bar.interval)
        _draw_whisker(root, low, high)
    return finish(root)


def _percent(value: float, plot: BarPlot) -> str:
    return f"{100 * max(value, 0) / plot.limit:.2f}%"


def _draw_whisker(root: Element, low: str, high: str) -> None:
    middle = HEIGHT / 2
    add(root, "line", x1=low, x2=high, y1=middle, y2=middle, class_="whisker")
    for end in (low, high):
        add(root, "line", x1=end, x2=end, y1=middle - 4, y2=middle + 4, class_="whisker")
