"""benchmarks/gptq_gpu.py: its counts of work, its clock, its tables, and a run on the CPU."""

import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from llmopt.quant import gptq
from llmopt.quant.gptq import BLOCK_COLUMNS
from tests.benchmarks.test_calibration_study import load_script

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("gptq_gpu_limit", monkeypatch)


@pytest.fixture
def small(limits: ModuleType) -> object:
    """A model whose inputs are no multiples of a block of columns."""
    llama = load_llama()(160, 288, 4, 2, 64, blocks=3)
    return limits.describe_shape(llama, samples=2, seq_len=5)


def load_llama() -> type:
    from random_llama import LlamaShape  # noqa: PLC0415 - beside the scripts, once they are found

    return LlamaShape


def test_columns_and_feedback_are_every_correction_once(limits: ModuleType, small: object) -> None:
    inside = between = 0
    for in_features, rows in small.stages():  # type: ignore[attr-defined]
        for column in range(in_features):
            for earlier in range(column):
                if earlier // BLOCK_COLUMNS == column // BLOCK_COLUMNS:
                    inside += 2 * rows
                else:
                    between += 2 * rows
    assert limits.count_column_flops(small) == 3 * inside
    assert limits.count_feedback_flops(small) == 3 * between


def test_factorisation_is_counted_as_a_literal_cholesky_does_it(
    limits: ModuleType, small: object
) -> None:
    flops = 0
    for size, _ in small.stages():  # type: ignore[attr-defined]
        for column in range(size):
            flops += sum(2 * column for _ in range(column, size))  # dot products with earlier ones
    assert limits.count_factorisation_flops(small) == pytest.approx(3 * flops, rel=0.01)


def test_work_names_bytes_and_rates(limits: ModuleType, small: object) -> None:
    work = limits.count_work(small, read_bytes=600, packed_bytes=50)
    assert work[limits.JOURNAL] == limits.Work(50, "write")
    rates = limits.Rates(bf16=1e3, gram=1e3, float32=1e3, read=200.0, write=1e3)
    assert work[limits.LOADING].limit_s(rates) == 3.0
    assert {part for part in limits.PARTS if part not in work} == {
        limits.PACKING, limits.ACTIVATIONS, limits.REST,
    }  # fmt: skip


def test_rates_are_measured(limits: ModuleType, small: object, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(1 << 20))
    rates = limits.measure_rates(small, CPU, file, tmp_path)
    assert min(vars(rates).values()) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_a_nested_part_counts_for_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = load_script("gptq_gpu_parts", monkeypatch).PartClock([CPU])
    clock.start()
    began = time.perf_counter()
    inner = clock.timed("inner", lambda: time.sleep(0.05))
    with clock.part("outer"):
        inner()
        time.sleep(0.01)
        inner()
    took = time.perf_counter() - began
    assert clock.seconds["inner"] >= 0.1
    assert clock.seconds["outer"] >= 0.01
    assert sum(clock.seconds.values()) == pytest.approx(took, abs=0.03)


def test_table_holds_parts_to_their_limits(
    limits: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = load_script("gptq_gpu_report", monkeypatch)
    rates = limits.Rates(bf16=100.0, gram=1.0, float32=1.0, read=1.0, write=1.0)
    work = {limits.LINEAR: limits.Work(200.0, "bf16")}
    rows = report.format_parts({limits.LINEAR: 3.0, limits.REST: 1.0}, work, rates).splitlines()
    assert rows[2] == "| forward linears | 3.000 s | 75.0% | 2.000 s | 1.50 |"
    assert rows[-2] == "| rest | 1.000 s | 25.0% |  |  |"
    assert rows[-1] == "| all | 4.000 s | 100.0% | 2.000 s | 2.00 |"


def test_runs_name_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    report = load_script("gptq_gpu_report", monkeypatch)
    giga = 10**9
    run = report.Measured(12.3, 4 * giga, [9 * giga, giga], [10 * giga, 2 * giga], 0)
    row = report.format_runs({"as it is": run}).splitlines()[2]
    assert row == "| as it is | 12.30 s | 9.00 GB, 1.00 GB | 10.00 GB, 2.00 GB | 4.00 GB |"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("gptq_gpu", monkeypatch)
    with pytest.raises(SystemExit, match="sees no GPU; try --device cpu"):
        script.choose_devices("cuda:0,cuda:1")


def test_two_ways_of_solving_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("gptq_gpu", monkeypatch)
    shape = load_llama()(64, 96, 4, 2, 64, blocks=1)
    assert script.compare_solves(shape, CPU) == 1.0
    round_truly = gptq.choose_rounder(CPU)

    def round_wrongly(*tensors: object) -> torch.Tensor:
        return round_truly(*tensors) * 0  # type: ignore[arg-type]

    monkeypatch.setattr(gptq, "choose_rounder", lambda _: round_wrongly)
    with pytest.raises(SystemExit, match="of the integers are those of the plain solve"):
        script.compare_solves(shape, CPU)


def test_the_page_has_a_place_and_a_run_fills_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("gptq_gpu", monkeypatch)
    page = tmp_path / "benchmarks.md"
    page.write_text(script.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(script, "PAGE", page)
    arguments = ["--device", "cpu", "--tiny", "--plain-solve", "--write", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["gptq_gpu.py", *arguments])
    before = gptq.solve_gptq
    script.main()
    assert gptq.solve_gptq is before
    printed = capsys.readouterr().out
    assert printed.strip() in page.read_text(encoding="utf-8")
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in printed.splitlines()]
    seconds = {row[0]: float(row[1].removesuffix(" s")) for row in cells if len(row) == 5 and
               row[0] in {"all", *load_script("gptq_gpu_limit", monkeypatch).PARTS}}  # fmt: skip
    total = seconds.pop("all")
    assert sum(seconds.values()) == pytest.approx(total, abs=0.01)
    assert seconds["rest"] < 0.7 * total
    busy = ("forward linears", "attention", "Hessian", "column rounding", "loading", "journal")
    assert all(seconds[part] > 0 for part in busy)
    assert [path.name for path in tmp_path.iterdir()] == ["benchmarks.md"]
