"""`bench.onnx`: what it refuses, and that its figures are those of real runs."""

import json
from pathlib import Path

import pytest

from llmopt.artifacts.progress import SilentProgress
from llmopt.errors import IncompatibleError, InputError
from llmopt.export.bench import BenchJob, measure_in_process
from llmopt.steps.base import ResolvedInput, RunContext
from llmopt.steps.bench_onnx import BenchOnnx
from llmopt.steps.estimates import LIBRARIES_BYTES
from tests.export.exports import export
from tests.quant.pipeline import make_small_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small decoder with a key-value cache; do not write into it."""
    folder = tmp_path_factory.mktemp("bench")
    export(make_small_model(folder / "model"), folder / "onnx")
    return folder / "onnx"


def make_step(**fields: object) -> BenchOnnx:
    small = {"prompt_tokens": 8, "new_tokens": 4, "rounds": 2}
    return BenchOnnx.model_validate(
        {"uses": "bench.onnx", "candidates": ["a", "b"], **small, **fields}
    )


def given(*folders: Path) -> dict[str, ResolvedInput]:
    return {
        f"candidates.{n}": ResolvedInput("ab"[n], "onnx_model", "", folder)
        for n, folder in enumerate(folders)
    }


def test_every_candidate_gets_medians_and_every_round_is_kept(
    exported: Path, tmp_path: Path
) -> None:
    context = RunContext(tmp_path, tmp_path / "scratch", "cpu", 1, SilentProgress())
    metrics = make_step().run(given(exported, exported), context).metrics
    assert metrics.keys() == {"a", "b"}
    rounds = json.loads((tmp_path / "rounds.json").read_text(encoding="utf-8"))
    assert isinstance(metrics["a"], dict)
    assert metrics["a"]["decode_speedup"] == 1
    for name, figures in metrics.items():
        assert isinstance(figures, dict)
        assert len(rounds[name]) == 2
        assert {"prefill_speedup", "decode_speedup"} <= figures.keys()
        for figure in rounds[name][0]:
            value = figures[figure]
            seen = [entry[figure] for entry in rounds[name]]
            assert min(seen) - 1e-3 <= float(str(value)) <= max(seen) + 1e-3
            assert float(str(value)) > 0


def test_an_export_without_a_cache_decodes_nothing(tmp_path: Path) -> None:
    export(make_small_model(tmp_path / "model"), tmp_path / "onnx", kv_cache=False)
    with pytest.raises(IncompatibleError, match="exported without a key-value cache") as caught:
        make_step().preflight(given(tmp_path / "onnx"), None)
    assert caught.value.remedy == "export it with kv_cache: true"


def test_more_tokens_than_the_model_has_positions_are_refused(exported: Path) -> None:
    step = make_step(prompt_tokens=100_000)
    with pytest.raises(
        IncompatibleError, match=r"prompt_tokens \+ new_tokens is 100004, beyond a's"
    ):
        step.preflight(given(exported), None)


def test_the_estimate_is_of_memory_alone(exported: Path, tmp_path: Path) -> None:
    estimate = make_step().estimate(given(exported, exported))
    assert estimate is not None
    size = sum((exported / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    assert estimate.ram_bytes == LIBRARIES_BYTES + 2 * size
    assert (estimate.disk_bytes, estimate.flops) == (0, 0)
    assert make_step().estimate(given(exported, tmp_path / "made-later")) is None


def test_a_model_that_does_not_load_is_named(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    for path in exported.iterdir():
        content = path.read_bytes()
        (tmp_path / "onnx" / path.name).write_bytes(
            content[: len(content) // 2] if path.suffix == ".data" else content
        )
    job = BenchJob(folder=str(tmp_path / "onnx"), batch=1, prompt_tokens=4, new_tokens=1, threads=1)
    with pytest.raises(InputError, match="can't be measured"):
        measure_in_process(job)
