"""benchmarks/gptq_peers.py: the limit's arithmetic, the table and the page that is written."""

import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.benchmarks.test_calibration_study import load_script

GIGA = 1e9


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("gptq_peers_limit", monkeypatch)


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("gptq_peers_report", monkeypatch)


def flat_rates(limits: ModuleType, shape: Any, rate: float) -> Any:
    """Gives every product the same GFLOP/s."""
    return limits.Rates(
        dict.fromkeys(shape.linear_shapes(), rate),
        {size: rate for size, _ in shape.stages()},
        {(rows, size): rate for size, rows in shape.stages()},
    )


def make_results(report: ModuleType, **walls: tuple[float, ...]) -> dict[str, Any]:
    """Describes tools by their walls; imports take 1 s, KL and memory grow with the place."""
    results = {}
    for place, (tool, each) in enumerate(walls.items(), 1):
        runs = tuple(report.Run(wall, 2 * wall, place * 100 * 2**20) for wall in each)
        imports = tuple(report.Run(1.0, 1.0, 2**20) for _ in each)
        results[tool] = report.ToolResult(f"{tool} 1.0", runs, imports, place / 1000)
    return results


def test_work_of_the_full_model_is_what_was_counted_by_hand(limits: ModuleType) -> None:
    shape = limits.ModelShape()
    assert shape.tokens == 32768
    linears = [flops for _, flops in limits.count_linear_flops(shape)]
    # 12 blocks of 6,291,456 weights, without the last down_proj of 768 x 2048.
    assert len(linears) == 12 * 7 - 1
    assert sum(linears) == 2 * 32768 * (12 * 6291456 - 768 * 2048)
    # 64 windows, 12 layers: 131,328 pairs of 512 tokens, 2 products of 768 multiply-adds.
    assert limits.count_attention_flops(shape) == 64 * 12 * 131328 * 2 * 768 * 2
    hessians = sum(flops for _, flops in limits.count_hessian_flops(shape))
    assert hessians == 12 * 32768 * (3 * 768 * 769 + 2048 * 2049)
    solves = dict(limits.count_solve_flops(shape))
    assert solves[(1280, 768)] == 768**3 / 3 + 1280 * 768**2
    assert solves[(4096, 768)] == 768**3 / 3 + 4096 * 768**2
    assert solves[(768, 2048)] == 2048**3 / 3 + 768 * 2048**2


def test_counted_forward_work_is_what_torch_does(limits: ModuleType) -> None:
    shape = limits.ModelShape(hidden=64, layers=1, heads=4, kv_heads=2, intermediate=96)
    layers = [torch.nn.Linear(size, rows) for rows, size in shape.linear_shapes()]
    weights = sum(layer.weight.numel() for layer in layers[:-1])
    counted = sum(flops for _, flops in limits.count_linear_flops(shape))
    assert counted == 2 * shape.tokens * weights


def test_limit_divides_each_kind_by_its_own_rate(limits: ModuleType) -> None:
    shape = limits.ModelShape(layers=2)
    flat = limits.compute_limit(shape, flat_rates(limits, shape, 100.0))
    expected = sum(flops for _, flops in limits.count_hessian_flops(shape)) / GIGA / 100
    assert flat.hessian_s == pytest.approx(expected)
    rates = flat_rates(limits, shape, 100.0)
    rates.hessian[2048] = 200.0
    faster = limits.compute_limit(shape, rates)
    assert (faster.linear_s, faster.solve_s) == (flat.linear_s, flat.solve_s)
    saved = 2 * shape.tokens * 2048 * 2049 / GIGA * (1 / 100 - 1 / 200)
    assert flat.total_s - faster.total_s == pytest.approx(saved)


def test_of_two_measurements_the_faster_counts(limits: ModuleType) -> None:
    shape = limits.ModelShape()
    slow, fast = flat_rates(limits, shape, 10.0), flat_rates(limits, shape, 20.0)
    fast.solve[(768, 768)] = 5.0
    both = slow.faster(fast)
    assert both.linear == fast.linear
    assert both.solve == {**fast.solve, (768, 768): 10.0}


def test_rates_are_measured_for_every_shape(
    limits: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SECONDS_PER_RATE", 0.0)
    monkeypatch.setattr(limits, "TOKENS_PER_PRODUCT", (64,))
    shape = limits.ModelShape(hidden=64, heads=4, kv_heads=2, intermediate=96)
    before = torch.get_float32_matmul_precision()
    rates = limits.measure_rates(shape)
    assert torch.get_float32_matmul_precision() == before
    every = [*rates.linear.values(), *rates.hessian.values(), *rates.solve.values()]
    assert len(every) == 4 + 2 + 4
    assert min(every) > 0
    assert limits.compute_limit(shape, rates).total_s > 0


def test_the_best_of_repeated_runs_is_the_rate(
    limits: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SECONDS_PER_RATE", 0.0)
    pauses = iter([0.0, 0.05, 0.01, 0.05])  # the first only warms up
    rate = limits._measure_rate(GIGA, lambda: time.sleep(next(pauses)))
    assert 1 / 0.05 < rate <= 1 / 0.01


def test_table_shows_medians_and_ratios(limits: ModuleType, report: ModuleType) -> None:
    walls = {"llmopt": (21.0, 19.0, 20.0), "gptqmodel": (150.0, 130.0, 141.0)}
    limit = limits.Limit(8.0, 1.0, 5.0, 2.0)
    rows = report.write_table(make_results(report, **walls), limit).splitlines()
    cells = [cell.strip() for cell in rows[2].strip("|").split("|")]
    assert cells == [
        "**llmopt 1.0**", "20.0 (21.0, 19.0, 20.0)", "1.0", "1.00", "40.0", "100", "0.001000",
    ]  # fmt: skip
    assert "| gptqmodel 1.0 | 141.0 (150.0, 130.0, 141.0) | 1.0 | 7.05 |" in rows[3]
    assert rows[4] == "| limit | 16.0 | | 0.80 | | | |"


@pytest.mark.parametrize(
    ("walls", "met"),
    [
        ({"llmopt": (20.0,), "gptqmodel": (120.0,), "llmcompressor": (80.0,)}, [True] * 4),
        (
            {"gptqmodel": (120.0,), "llmopt": (20.1,), "llmcompressor": (80.0,)},
            [False, False, True, False],
        ),
        (
            {"llmopt": (31.0,), "gptqmodel": (700.0,), "llmcompressor": (700.0,)},
            [True, True, False, True],
        ),
    ],
)
def test_aims_are_judged(
    limits: ModuleType, report: ModuleType, walls: dict[str, tuple[float, ...]], met: list[bool]
) -> None:
    limit = limits.Limit(10.0, 2.0, 5.0, 3.0)
    lines = report.describe_aims(make_results(report, **walls), limit)
    assert [line.startswith("- met: ") for line in lines] == met
    assert all(line.startswith(("- met: ", "- **missed**: ")) for line in lines)


def test_the_part_of_the_page_holds_everything(limits: ModuleType, report: ModuleType) -> None:
    shape = limits.ModelShape()
    rates = flat_rates(limits, shape, 100.0)
    results = make_results(report, llmopt=(20.0,), gptqmodel=(141.0,), llmcompressor=(95.0,))
    limit = limits.compute_limit(shape, rates)
    page = report.describe(results, limit, rates, shape, "2 threads of a test")
    assert report.write_table(results, limit) in page
    assert "images/gptq-peers.svg" in page
    assert "2 threads of a test" in page.replace("\n", " ")
    assert "32,768 tokens (100 to 100 GFLOP/s)" in page.replace("\n", " ")
    assert page.count("- met: ") + page.count("- **missed**: ") == 4


def test_figure_is_drawn_alike_each_time(
    limits: ModuleType, report: ModuleType, tmp_path: Path
) -> None:
    results = make_results(report, llmopt=(20.0,), gptqmodel=(140.0,))
    limit = limits.Limit(8.0, 1.0, 5.0, 2.0)
    paths = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in paths:
        report.draw_figure(results, limit, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_text(encoding="utf-8").startswith("<?xml")


def test_a_process_is_measured_with_its_children(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = load_script("gptq_peers", monkeypatch)
    child = "x = bytearray(80_000_000); [i * i for i in range(3_000_000)]"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print(7)"
    run, text = script.run_measured([sys.executable, "-c", parent], tmp_path)
    assert text == "7\n"
    assert run.peak_rss_bytes > 80_000_000
    assert run.cpu_s > 0.05
    with pytest.raises(RuntimeError, match=r"ended with 1:\n.*no such thing"):
        script.run_measured([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path)


def test_tools_must_hold_llmopt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("gptq_peers", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["gptq_peers.py", "--tools", "gptqmodel"])
    with pytest.raises(SystemExit, match="2"):
        script.parse_arguments()
    assert "must hold llmopt" in capsys.readouterr().err


def test_single_figures_are_kept(
    limits: ModuleType, report: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = load_script("gptq_peers", monkeypatch)
    results = make_results(report, llmopt=(20.0, 22.0))
    script.keep_results(tmp_path / "kept.json", results, limits.Limit(1.0, 2.0, 3.0, 4.0))
    kept = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
    assert [run["wall_s"] for run in kept["tools"]["llmopt"]["runs"]] == [20.0, 22.0]
    assert kept["limit"]["solve_s"] == 4.0
