"""The guide's ensemble as a recipe: written as asked, and it answers over the real server."""

import json
from pathlib import Path

from llmopt.artifacts.triton_description import read_triton_description
from llmopt.triton.model_config import read_config
from llmopt.triton.server_distribution import ServerDistribution
from tests.conftest import RunCli
from tests.models import REPOSITORY

RECIPE = REPOSITORY / "recipes" / "guide-ensemble.yaml"


def test_the_guide_s_ensemble_waits_as_asked_and_answers(
    run_cli: RunCli, tmp_path: Path, server_distribution: ServerDistribution
) -> None:
    done = run_cli("run", RECIPE, "--threads", "1", "--variant", "smoke")
    assert done.returncode == 0, done.stderr
    assert "ensemble repository of apparel_scorer for Triton 24.10 on cpu" in done.stdout
    assert "tritonserver 24.10 answers" in done.stdout
    repository = tmp_path / "out" / "guide-ensemble" / "repository"
    engine = read_config(repository / "apparel_scorer_engine")
    assert engine.max_batch_size == 16
    assert engine.dynamic_batching.max_queue_delay_microseconds == 100_000
    for role in ("tokenizer", "postprocessor"):
        config = read_config(repository / f"apparel_scorer_{role}")
        assert not config.HasField("dynamic_batching"), role
    metrics = json.loads((repository / "manifest.json").read_text(encoding="utf-8"))["metrics"]
    assert len(json.loads(metrics["answer"])["tokens"]) == 5
    assert read_triton_description(repository).max_queue_delay_us == 100_000


def test_a_budget_refuses_the_guide_s_delay(run_cli: RunCli) -> None:
    refused = run_cli("validate", RECIPE, "--set", "steps.repository.latency_budget_ms=50")
    assert refused.returncode == 7
    assert "max_queue_delay_ms is 100, above latency_budget_ms 50" in refused.stderr
