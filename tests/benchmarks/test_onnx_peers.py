"""benchmarks/onnx_peers.py: its judgement of an export, and its table."""

import math
from pathlib import Path

import pytest

from tests.benchmarks.test_calibration_study import load_script

pytestmark = pytest.mark.usefixtures("one_thread")


def test_our_export_is_right_padded_or_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = load_script("onnx_peers", monkeypatch)
    shape = script.shape_of(1, tiny=True)
    script.make_model(tmp_path / "model", shape)
    references = script.compute_references(tmp_path / "model", shape.vocab)
    made = script.export("llmopt", tmp_path / "model", references, tmp_path)
    assert made.usage.wall_s > 0
    assert made.equal_error < 1e-5
    assert made.padded_error < 1e-5
    row = script.describe([made]).splitlines()[2]
    assert row.startswith(f"| {made.tool} | ")
    assert "wrong" not in row
    halved = [reference / 2 for reference in references["equal"]]
    wrong = script.measure_error(tmp_path / "llmopt" / "out", script.ROWS["equal"], halved)
    assert wrong > script.RIGHT


def test_a_tool_that_fails_has_a_row_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("onnx_peers", monkeypatch)
    table = script.describe([script.Export("peer 1", None, "failed: no such thing")])
    assert table.splitlines()[2].endswith("| failed: no such thing |")
    assert script.judge(1e-6) == ""
    assert script.judge(math.nan) == " (wrong)"
