"""`bench.triton`: what is asked, what is refused, which delay is chosen; the real server."""

import json
from pathlib import Path

import pytest

from llmopt.artifacts.triton_description import RepositoryModel, TritonDescription
from llmopt.errors import IncompatibleError, RequestFailed
from llmopt.steps.base import ResolvedInput
from llmopt.steps.bench_triton import BenchTriton
from llmopt.steps.bench_triton_run import Levels, choose_delay, write_table
from llmopt.triton.load import LoadResult, Timing


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


def test_clients_rise() -> None:
    with pytest.raises(ValueError, match=r"\[8, 1\] must rise"):
        BenchTriton(uses="bench.triton", repository="r", clients=(8, 1))
    assert json.loads(BenchTriton(uses="bench.triton", repository="r").model_dump_json())[
        "clients"
    ] == [1, 4, 8, 16]
