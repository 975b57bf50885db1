"""The plots as PNG: one file each, drawn, with Japanese letters where a font has them."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from llmopt.cli.report import judge_gates
from llmopt.report.lineage import open_lineage
from llmopt.report.page import list_plots, make_report
from llmopt.report.plots import Bar, BarPlot
from llmopt.report.png import find_unwritable, list_fonts, write_plots
from tests.report.artifacts import write_run


def test_every_plot_is_a_picture(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    lineage = open_lineage(tmp_path / "run")
    plots = list_plots(make_report(lineage, judge_gates(lineage)))
    written = write_plots(plots, tmp_path)
    assert sorted(path.name for path in written) == [
        "gate-categories.png",
        "memory.png",
        "quantize-calibration-1.png",
        "quantize-layers.png",
        "sizes.png",
        "times.png",
    ]
    for path in written:
        pixels = image.imread(path)
        assert pixels.shape[0] > 150
        assert pixels.shape[1] > 800
        assert 0.02 < np.mean(pixels[..., :3].min(axis=2) < 0.9) < 0.6


def test_another_figure_gives_another_picture(tmp_path: Path) -> None:
    pictures = []
    for value in (1.0, 2.0):
        bars = (Bar("a", value, "", None), Bar("$b_c", 2.0, "", (1.5, 2.5)))
        (path,) = write_plots([BarPlot(f"plot{value:g}", "$x", "unit", bars)], tmp_path)
        pictures.append(image.imread(path))
    assert pictures[0].shape == pictures[1].shape
    assert np.any(pictures[0] != pictures[1])


def test_japanese_labels_are_letters_not_boxes(tmp_path: Path) -> None:
    if len(list_fonts()) == 1:
        pytest.skip("no Japanese font is installed (apt-get install fonts-noto-cjk)")
    pictures = []
    for name, label in (("one", "寸法"), ("two", "縫製")):
        plot = BarPlot(name, "", "", (Bar(label, 1.0, "", None),))
        assert find_unwritable([plot]) == []
        (path,) = write_plots([plot], tmp_path)
        pictures.append(image.imread(path))
    assert np.any(pictures[0] != pictures[1])  # boxes would be alike
