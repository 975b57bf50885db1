"""`eval.compare` in whole runs: what it writes, what gates make of it, when it runs anew."""

import json
from pathlib import Path

import pytest

from llmopt.errors import GateFailed, IncompatibleError, RecipeError
from tests.models import make_model
from tests.recipe.harness import COMPARE, QUANTIZE, Data, Workplace, make_recipe


@pytest.fixture
def recipe(random_model: Path, documents: Path) -> Data:
    steps = {
        "quantize": {**QUANTIZE, "bits": 8},
        "coarse": QUANTIZE,
        "compare": {**COMPARE, "candidates": ["quantize", "coarse", "base"]},
    }
    recipe = make_recipe(random_model, documents, steps)
    recipe["datasets"]["heldout"]["samples"] = 6
    return recipe


def test_all_candidates_stand_in_one_artifact(workplace: Workplace, recipe: Data) -> None:
    workplace.run(recipe)
    artifact = workplace.artifact("compare")
    metrics = artifact.manifest.metrics
    assert list(metrics) == ["quantize", "coarse", "base"]
    comparison = json.loads((artifact.path / "comparison.json").read_text(encoding="utf-8"))
    assert comparison["candidates"] == metrics
    assert (comparison["baseline"], len(comparison["differences"])) == ("base", 3)
    table = (artifact.path / "comparison.md").read_text(encoding="utf-8")
    assert [line.split("|")[1].strip() for line in table.splitlines()] == [
        "candidate", "-" * len("candidate"), "base", "quantize", "coarse",
    ]  # fmt: skip
    lines = (artifact.path / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["candidate"] for row in rows] == [n for n in metrics for _ in range(6)]
    fine, coarse, base = (metrics[name] for name in ("quantize", "coarse", "base"))
    assert 0 < fine["kl_mean_ci"][0] < fine["kl_mean"] < coarse["kl_mean"]  # type: ignore[index,call-overload,operator]
    assert base["kl_mean"] == base["kl_p99"] == 0  # type: ignore[index,call-overload]
    assert base["top1_agreement"] == 1  # type: ignore[index,call-overload]
    inputs = artifact.manifest.inputs
    assert {key: given.name for key, given in inputs.items()} == {
        "candidates.0": "quantize", "candidates.1": "coarse", "candidates.2": "base",
        "baseline": "base", "data": "heldout",
    }  # fmt: skip
    assert inputs["candidates.0"].digest == workplace.artifact("quantize").manifest.identity


def test_a_candidate_is_scored_as_a_gate_alone_would(workplace: Workplace, recipe: Data) -> None:
    recipe["steps"]["alone"] = {
        "uses": "eval.perplexity",
        "model": "coarse",
        "baseline": "base",
        "data": "heldout",
    }
    workplace.run(recipe)
    alone = workplace.artifact("alone").manifest.metrics
    together = dict(workplace.artifact("compare").manifest.metrics["coarse"])  # type: ignore[arg-type]
    for added in ("kl_mean_over_best", "kl_mean_over_best_ci"):
        del together[added]
    assert together == alone


def test_where_streams_lie_changes_no_bit_and_no_identity(
    workplace: Workplace, recipe: Data
) -> None:
    workplace.run(recipe)
    before = workplace.artifact("compare").manifest
    override = "steps.compare.activation_memory_gb=0.00001"
    assert workplace.states(recipe, override)["compare"] == "in the store"
    workplace.run(recipe, override, force=("compare",))
    after = workplace.artifact("compare").manifest
    assert after.step.settings["activation_memory_gb"] == 0.00001
    assert after.content_digest == before.content_digest
    assert after.metrics == before.metrics
    assert not list(workplace.artifact("compare").path.rglob("*.safetensors"))


def test_a_gate_judges_one_candidate_by_its_dotted_metric(
    workplace: Workplace, recipe: Data
) -> None:
    require = {"coarse.kl_mean": {"max": 0.0, "confident": True}}
    recipe["steps"]["gate"] = {"uses": "eval.gate", "metrics_of": "compare", "require": require}
    after = {"uses": "eval.perplexity", "data": "heldout"}
    recipe["steps"]["free"] = {**after, "model": "quantize"}
    recipe["steps"]["held"] = {**after, "model": "coarse"}
    with pytest.raises(GateFailed, match=r"coarse\.kl_mean is .* worse end .*, allowed at most 0"):
        workplace.run(recipe)
    assert workplace.plan(recipe).steps[-1].name == "held"
    assert not (workplace.links / "small" / "held").exists()
    workplace.run(recipe, 'steps.gate.require={"quantize.kl_mean": {max: 1000}}')
    assert workplace.listener.steps("step_started") == ["free", "held"]


def test_names_are_part_of_what_comes_out(workplace: Workplace, recipe: Data) -> None:
    workplace.run(recipe)
    reason = workplace.states(recipe, "steps.compare.candidates=[quantize, coarse]")["compare"]
    assert reason.startswith("invalidated because steps.compare.candidate_names ")
    recipe["steps"] = {
        "renamed": recipe["steps"]["quantize"],
        "coarse": QUANTIZE,
        "compare": {**COMPARE, "candidates": ["renamed", "coarse", "base"]},
    }
    states = workplace.states(recipe)
    assert states["renamed"] == "in the store"
    assert "candidate_names ['quantize', 'coarse', 'base'] → ['renamed'" in states["compare"]


def test_models_whose_tokenizers_disagree_are_refused(
    workplace: Workplace, recipe: Data, random_model: Path, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "other")
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:500]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    recipe["sources"]["other"] = str(other)
    recipe["steps"] = {"compare": {**COMPARE, "candidates": ["base", "other"]}}
    with pytest.raises(
        IncompatibleError, match=r"tokenizers of .*other and .*random-llama give different tokens"
    ):
        workplace.run(recipe)


def test_a_candidate_is_named_once(workplace: Workplace, recipe: Data) -> None:
    recipe["steps"]["compare"]["candidates"] = ["quantize", "quantize"]
    with pytest.raises(RecipeError, match=r"steps\.compare\.candidates: quantize is named twice"):
        workplace.plan(recipe)
    recipe["steps"]["compare"]["candidates"] = []
    with pytest.raises(RecipeError, match=r"steps\.compare\.candidates: .* at least 1 item"):
        workplace.plan(recipe)
