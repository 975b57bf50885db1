"""`bench.onnx`: what it refuses, that its figures are those of real runs, how its process ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmopt.artifacts.child_events import ChildBug
from llmopt.artifacts.progress import SilentProgress
from llmopt.errors import IncompatibleError, InputError, LlmoptError, ResourceError
from llmopt.export.bench import MODULE, BenchJob, measure_in_process
from llmopt.recipe.inputs import validate_recipe
from llmopt.recipe.resources import explain_failure
from llmopt.steps.base import ResolvedInput, RunContext
from llmopt.steps.bench_onnx import BenchOnnx
from llmopt.steps.estimates import LIBRARIES_BYTES
from tests.engine.builds import seal_export
from tests.export.encoders import make_bert
from tests.export.exports import export
from tests.models import edit_json
from tests.quant.pipeline import make_small_model
from tests.recipe.harness import load

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
    with pytest.raises(InputError, match=r"onnxruntime does not load .*model\.onnx"):
        measure_in_process(job)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "bfloat16"}, "a is exported in bfloat16, which onnxruntime's CPU provider"),
        (
            {"task": "fill_mask"},
            r"a is an encoder \(task fill_mask\); bench.onnx measures decoders",
        ),
    ],
)
def test_what_can_not_be_measured_is_refused_before_any_run(
    exported: Path, tmp_path: Path, fields: dict[str, str], message: str
) -> None:
    model = Path(shutil.copytree(exported, tmp_path / "onnx"))
    edit_json(model / "onnx.json", **fields)
    with pytest.raises(IncompatibleError, match=message):
        make_step().preflight(given(model), None)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("decoder", {"dtype": "bfloat16"}, "onnx is exported in bfloat16"),
        ("decoder", {"kv_cache": False}, "onnx is exported without a key-value cache"),
        ("encoder", {"weights": "int8_dynamic"}, r"onnx is an encoder \(weights: int8_dynamic\)"),
        ("encoder", {"task": "embed"}, r"onnx is an encoder \(task: embed\)"),
        ("encoder", {}, r"onnx is an encoder \(from base\)"),
    ],
)
def test_what_is_still_to_be_exported_is_judged_too(
    tmp_path: Path, model: str, fields: dict[str, Any], message: str
) -> None:
    make_small_model(tmp_path / "decoder")
    make_bert(tmp_path / "encoder")
    steps = {
        "onnx": {"uses": "export.onnx", "model": "base", **fields},
        "bench": {"uses": "bench.onnx", "candidates": ["onnx"]},
    }
    recipe = {"version": 1, "name": "r", "sources": {"base": f"./{model}"}, "steps": steps}
    with pytest.raises(IncompatibleError, match=f"step bench: {message}"):
        validate_recipe(load(tmp_path, recipe))


def test_an_export_that_was_changed_is_refused(exported: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(exported, tmp_path / "onnx"))
    seal_export(model)
    with (model / "model.onnx.data").open("r+b") as file:
        file.write(b"\x01\x02\x03")
    context = RunContext(tmp_path, tmp_path / "scratch", "cpu", 1, SilentProgress())
    with pytest.raises(InputError, match=r"model\.onnx\.data is not the file that was exported"):
        make_step().run(given(model), context)


def make_job(folder: Path, **fields: int) -> BenchJob:
    sizes = {"batch": 1, "prompt_tokens": 4, "new_tokens": 1, "threads": 1, **fields}
    return BenchJob.model_validate({"folder": str(folder), **sizes})


def test_what_lies_in_the_working_directory_is_not_taken_for_a_library(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise RuntimeError('not that one')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert measure_in_process(make_job(exported)).decode_tokens_per_s > 0


def fail(job: BenchJob, error: type[LlmoptError], message: str) -> None:
    with pytest.raises(error, match=message):
        measure_in_process(job)


def test_memory_that_runs_out_is_no_fault_of_the_model(exported: Path) -> None:
    fail(make_job(exported, batch=10**7, prompt_tokens=10**7), ResourceError, "out of memory")


def test_a_model_that_does_not_run_is_named(exported: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(exported, tmp_path / "onnx"))
    description = json.loads((model / "onnx.json").read_text(encoding="utf-8"))
    past = next(each for each in description["inputs"] if each["name"].startswith("past_key"))
    past["axes"][1]["size"] += 1  # key-value heads
    edit_json(model / "onnx.json", inputs=description["inputs"])
    with pytest.raises(InputError, match=r"onnxruntime does not run .*model\.onnx: .*") as caught:
        measure_in_process(make_job(model))
    assert "ONNXRuntimeError" not in caught.value.message


def test_a_killed_process_is_taken_for_one_without_memory(exported: Path) -> None:
    killer = threading.Thread(target=lambda: wait_for_bench(os.getpid()).kill())
    killer.start()
    fail(make_job(exported, new_tokens=10**6), ResourceError, "killed, most likely because memory")
    killer.join()


def wait_for_bench(parent: int) -> psutil.Process:
    """Returns the measuring process below another, once it computes."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(parent).children(recursive=True):
            try:
                if MODULE in child.cmdline() and sum(child.cpu_times()[:2]) > 0.2:
                    return child
            except psutil.Error:
                continue  # it ended just now
        time.sleep(0.01)
    raise AssertionError("no process measured anything")


def test_a_bug_stays_one(exported: Path) -> None:
    with pytest.raises(ChildBug, match=r"(?s)Traceback .*negative dimensions") as caught:
        measure_in_process(make_job(exported, batch=-1))
    assert explain_failure(caught.value) is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: prctl(PR_SET_PDEATHSIG)")
def test_it_does_not_outlive_its_parent(exported: Path) -> None:
    code = (
        "import sys; from llmopt.export.bench import BenchJob, measure_in_process\n"
        "measure_in_process(BenchJob.model_validate_json(sys.argv[1]))"
    )
    job = make_job(exported, new_tokens=10**6).model_dump_json()
    parent = subprocess.Popen([sys.executable, "-c", code, job], cwd=Path(__file__).parents[2])
    child = wait_for_bench(parent.pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == "zombie"
