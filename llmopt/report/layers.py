"""The per-layer error ledger, by depth and kind of layer."""

import re
from collections.abc import Sequence

from llmopt.artifacts.manifest import LayerError
from llmopt.report.plots import Panel, Point, ScatterPlot, Series

DEPTH = re.compile(r"\.(\d+)\.")
NUM_WORST = 8
ATTENTION = ("q", "k", "v", "o")
MLP = ("gate", "up", "down")
MIXTRAL_KINDS = {"w1": "gate", "w3": "up", "w2": "down"}


def parse_depth(layer: str) -> int:
    """Returns the block's number in a layer's name; 0 where there is none."""
    found = DEPTH.search(layer)
    return int(found.group(1)) if found else 0


def parse_kind(layer: str) -> str:
    """Returns a layer's kind: `q` for `model.layers.0.self_attn.q_proj`."""
    kind = layer.rpartition(".")[2].removesuffix("_proj")
    return MIXTRAL_KINDS.get(kind, kind)


def plot_layers(layers: Sequence[LayerError]) -> ScatterPlot | None:
    """Plots every layer's SNR over depth; its weights' error where no data was given.

    Attention and MLP have a panel each, over one scale. None where there is no layer.
    """
    snr = [(layer, layer.snr_db) for layer in layers if layer.snr_db is not None]
    if snr:
        points = [_point(layer, value, f"{value:.1f} dB") for layer, value in snr]
        return _plot(points, "Output error by layer", "SNR (dB)", log_y=False)
    points = [
        _point(layer, layer.weight_mse, f"{layer.weight_mse:.3g}")
        for layer in layers
        if layer.weight_mse > 0
    ]
    return _plot(points, "Weight error by layer", "mean squared error", log_y=True)


def worst_layers(layers: Sequence[LayerError], count: int = NUM_WORST) -> list[LayerError]:
    """Returns the layers with the lowest SNR, else with the largest error of the weights."""

    def badness(layer: LayerError) -> float:
        return layer.weight_mse if layer.snr_db is None else -layer.snr_db

    return sorted(layers, key=badness, reverse=True)[:count]


def _point(layer: LayerError, y: float, text: str) -> tuple[str, Point]:
    name = layer.layer
    return parse_kind(name), Point(parse_depth(name), y, f"{name}: {text}")


def _plot(
    points: list[tuple[str, Point]], title: str, y_label: str, *, log_y: bool
) -> ScatterPlot | None:
    if not points:
        return None
    kinds = dict.fromkeys(kind for kind, _ in points)
    others = tuple(kind for kind in kinds if kind not in (*ATTENTION, *MLP))
    panels = []
    for name, wanted in (("attention", ATTENTION), ("MLP", MLP), ("other layers", others)):
        series = [
            Series(kind, tuple(point for other, point in points if other == kind))
            for kind in wanted
            if kind in kinds
        ]
        if series:
            panels.append(Panel(name, tuple(series)))
    return ScatterPlot("layers", title, "block", y_label, tuple(panels), log_y=log_y)
