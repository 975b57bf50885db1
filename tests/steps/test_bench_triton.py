"""`bench.triton`: what is asked, what is refused, which delay is chosen; the real server."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from llmopt.artifacts.progress import SilentProgress
from llmopt.artifacts.triton_description import (
    EngineFacts,
    ModelRole,
    RepositoryModel,
    RepositoryShape,
    TritonDescription,
)
from llmopt.errors import IncompatibleError, RequestFailed
from llmopt.steps.base import Outcome, ResolvedInput, RunContext
from llmopt.steps.bench_triton import BenchTriton
from llmopt.steps.bench_triton_run import Levels, choose_delay, choose_headline, write_table
from llmopt.triton.load import Asker, LoadResult, Timing, put_load
from tests.export.encoders import export_bert, make_bert
from tests.steps.packages import given, make_step, run
from tests.triton.decoders import export_small_decoder


def levels(rate: float, p99: float) -> Levels:
    return {
        "clients_1": {"requests_per_s": rate / 3, "latency_p99_ms": p99 / 2},
        "clients_8": {"requests_per_s": rate, "latency_p99_ms": p99},
    }


def test_the_fastest_delay_within_the_budget_is_chosen() -> None:
    found = {0.0: levels(100, 20), 2.0: levels(180, 30), 5.0: levels(200, 60)}
    assert choose_delay(found, None) == 5.0
    assert choose_delay(found, 40) == 2.0
    assert choose_delay(found, 25) == 0.0
    assert choose_delay(found, 5) is None
    assert choose_headline(found, 2.0, 40) == (2.0, [])


def test_where_no_delay_keeps_the_budget_the_quickest_s_figures_are_said_to_be_late() -> None:
    found = {0.0: levels(100, 60), 2.0: levels(180, 30), 5.0: levels(200, 70)}
    assert choose_headline(found, choose_delay(found, 5), 5) == (
        2.0,
        ["no delay keeps latency_budget_ms 5; the figures are those of 2 ms, whose p99 is the "
         "lowest, 30 ms"],
    )  # fmt: skip


def test_figures_are_of_what_was_answered() -> None:
    timings = tuple(Timing(0.1 * (n + 1), 0.01 * (n + 1), 8) for n in range(10))
    figures = LoadResult(2, 2.0, timings, ("full",)).summarise()
    assert figures["requests_per_s"] == 5
    assert figures["tokens_per_s"] == 40
    assert figures["failed_requests"] == 1
    assert figures["latency_p50_ms"] == pytest.approx(550)
    assert figures["latency_p99_ms"] == pytest.approx(991)
    assert figures["first_token_p50_ms"] == pytest.approx(55)
    table = write_table({"clients_2": figures})
    assert "| clients | requests/s | tokens/s |" in table
    assert "\n| 2 | 5 | 40 |" in table


def test_nothing_answered_is_an_error_with_the_servers_words() -> None:
    with pytest.raises(RequestFailed, match="none of 2 requests of 4 clients was answered: busy"):
        LoadResult(4, 1.0, (), ("busy", "busy")).summarise()


def test_delays_are_for_ensembles(tmp_path: Path) -> None:
    TritonDescription(
        shape="generate", task="generate", model_name="m", triton_release="24.10", device="cpu",
        models=(RepositoryModel(name="m", role="generate", backend="python"),),
        max_batch_size=8, prompt="綿",
    ).write(tmp_path)  # fmt: skip
    step = BenchTriton(uses="bench.triton", repository="r", delays_ms=(0, 2))
    given = ResolvedInput("r", "triton_repository", "0", tmp_path)
    with pytest.raises(IncompatibleError, match="delays_ms is for ensembles; r has shape generate"):
        step.preflight({"repository": given}, None)


FACTS = EngineFacts(
    backend="tensorrt_rtx", tensorrt_version="1.7", compute_capabilities=("8.9",), profiles=(),
    sha256="0" * 64,
)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "facts", "message"),
    [
        ("vllm", None, "has no vllm backend; r serves a checkpoint with vLLM"),
        ("generate", FACTS, "computes on the CPU; r serves a TensorRT engine"),
    ],
)
def test_what_that_server_does_not_run_is_refused_before_it_is_fetched(
    shape: RepositoryShape, facts: EngineFacts | None, message: str, tmp_path: Path
) -> None:
    role: ModelRole = "vllm" if shape == "vllm" else "generate"
    model = RepositoryModel(name="m", role=role, backend="vllm" if shape == "vllm" else "python")
    TritonDescription(
        shape=shape, task="generate", model_name="m", triton_release="24.10", device="cuda",
        models=(model,), engine=facts, max_batch_size=8, prompt="綿",
    ).write(tmp_path)  # fmt: skip
    given = ResolvedInput("r", "triton_repository", "0", tmp_path)
    with pytest.raises(IncompatibleError, match=message):
        BenchTriton(uses="bench.triton", repository="r").preflight({"repository": given}, None)


def test_a_coming_repository_of_an_engine_is_refused(tmp_path: Path) -> None:
    engine = ResolvedInput("served", "tensorrt_engine", "", tmp_path / "engine")
    given = ResolvedInput(
        "r", "triton_repository", "", tmp_path / "coming", maker=make_step(),
        maker_inputs={"model": engine},
    )  # fmt: skip
    step = BenchTriton(uses="bench.triton", repository="r")
    with pytest.raises(IncompatibleError, match="r serves a TensorRT engine"):
        step.preflight({"repository": given}, None)
    onnx = replace(engine, kind="onnx_model")
    step.preflight({"repository": replace(given, maker_inputs={"model": onnx})}, None)


def test_a_client_that_can_not_connect_fails_the_load_instead_of_hanging_it() -> None:
    numbers = count()

    @contextmanager
    def open_asker() -> Iterator[Asker]:
        if next(numbers) == 2:
            raise RequestFailed("no connection", status=None)
        yield lambda _: Timing(0.001)

    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(put_load, open_asker, ("綿",), 4, 0.05)
        with pytest.raises(RequestFailed, match="no connection"):
            load.result(timeout=20)


def test_a_budget_without_delays_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        ValueError, match=r"give the delays to try.*clients_8\.latency_p99_ms: {max"
    ):
        BenchTriton(uses="bench.triton", repository="r", latency_budget_ms=40, clients=(1, 8))
    step = BenchTriton(uses="bench.triton", repository="r", latency_budget_ms=40, delays_ms=(0,))
    assert step.latency_budget_ms == 40


def test_clients_rise() -> None:
    with pytest.raises(ValueError, match=r"\[8, 1\] must rise"):
        BenchTriton(uses="bench.triton", repository="r", clients=(8, 1))
    assert json.loads(BenchTriton(uses="bench.triton", repository="r").model_dump_json())[
        "clients"
    ] == [1, 4, 8, 16]


def measure(repository: Path, folder: Path, **fields: Any) -> Outcome:
    """Runs the step over a repository, with short loads."""
    step = BenchTriton.model_validate(
        {"uses": "bench.triton", "repository": "r", "clients": (1, 2), "seconds": 0.5, **fields}
    )
    (folder / "work").mkdir(parents=True)
    given = ResolvedInput("r", "triton_repository", "", repository)
    context = RunContext(folder / "work", folder / "scratch", "cpu", 1, SilentProgress())
    return step.run({"repository": given}, context)


@pytest.mark.usefixtures("one_thread", "server_distribution")
def test_a_generating_repository_is_measured_at_the_real_server(tmp_path: Path) -> None:
    made = export_small_decoder(tmp_path / "decoder")
    run(make_step(threads=1), given("onnx_model", made.folder, made.model), tmp_path / "repository")
    outcome = measure(tmp_path / "repository", tmp_path / "bench", max_tokens=8, texts=["袖口"])
    for clients in ("clients_1", "clients_2"):
        figures = outcome.metrics[clients]
        assert isinstance(figures, dict)
        assert figures["failed_requests"] == 0
        assert figures["tokens_per_s"] == pytest.approx(8 * figures["requests_per_s"], abs=0.01)  # type: ignore[operator]
        assert 0 < figures["first_token_p50_ms"] < figures["latency_p50_ms"]  # type: ignore[operator]
    assert outcome.metrics["scaling"] > 0  # type: ignore[operator]
    assert "| 2 |" in (tmp_path / "bench" / "work" / "bench.md").read_text(encoding="utf-8")
    assert "chosen_delay_ms" not in outcome.metrics
    assert outcome.degraded == []
    texts = ["袖口", "綿 " * 900]
    partly = measure(tmp_path / "repository", tmp_path / "again", clients=(2,), texts=texts)
    (failed,) = partly.degraded
    assert re.match(r"\d+ of \d+ requests of 2 clients failed: .*at most", failed, re.DOTALL)


@pytest.mark.usefixtures("one_thread", "server_distribution")
def test_an_ensembles_delay_is_what_a_lone_request_pays(tmp_path: Path) -> None:
    model = make_bert(tmp_path / "model")
    export_bert(model, tmp_path / "onnx", "embed")
    step = make_step("ensemble", task="embed", buckets=[32], threads=1)
    run(step, given("onnx_model", tmp_path / "onnx", model), tmp_path / "repository")
    outcome = measure(
        tmp_path / "repository", tmp_path / "bench", delays_ms=(0, 300), latency_budget_ms=250
    )
    found = json.loads((tmp_path / "bench" / "work" / "results.json").read_text())
    assert found["300 ms"]["clients_1"]["latency_p50_ms"] > 300
    assert found["0 ms"]["clients_1"]["latency_p50_ms"] < 250
    assert outcome.metrics["chosen_delay_ms"] == 0
    assert "onnxruntime" in str(outcome.degraded)


@pytest.mark.usefixtures("one_thread", "server_distribution")
def test_what_is_for_a_gpu_is_said_to_have_been_measured_on_the_cpu(tmp_path: Path) -> None:
    made = export_small_decoder(tmp_path / "decoder")
    step = make_step(device="cuda", environment_path="/opt/environment", threads=1)
    run(step, given("onnx_model", made.folder, made.model), tmp_path / "repository")
    outcome = measure(tmp_path / "repository", tmp_path / "bench", clients=(1,), max_tokens=4)
    assert outcome.degraded == [
        "apparel was served on the CPU, not on a GPU and in an environment made here, not in its "
        "EXECUTION_ENV_PATH"
    ]
