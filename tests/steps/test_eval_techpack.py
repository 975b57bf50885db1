"""`eval.techpack` as recipes run it: both protocols, own tasks, gates on what it measures."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmopt.artifacts.digest import digest_file
from llmopt.data.task_items import locate_shipped_tasks
from llmopt.errors import GateFailed, IncompatibleError, InputError, ResourceError
from llmopt.recipe.inputs import validate_recipe
from llmopt.steps.eval_techpack import EvalTechpack
from tests.data.test_task_items import ITEM, write
from tests.models import TINY_MODEL, make_model
from tests.recipe.harness import Data, Workplace, load

LIKELIHOOD: Data = {"uses": "eval.techpack", "model": "base", "protocol": "likelihood", "limit": 4}
GENERATE: Data = {
    "uses": "eval.techpack", "model": "base", "limit": 3, "max_new_tokens": 12, "batch_size": 2,
}  # fmt: skip


def recipe(steps: Data, data: Path | None = None, **more: Any) -> Data:
    datasets = {} if data is None else {"tasks": {"path": str(data)}}
    sources = {"base": str(TINY_MODEL), "again": str(TINY_MODEL)}
    head = {"version": 1, "name": "small", "sources": sources, "datasets": datasets}
    return {**head, "steps": steps, **more}


def read_answers(workplace: Workplace, step: str = "techpack") -> list[dict[str, Any]]:
    text = (workplace.artifact(step).path / "answers.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def metrics_of(workplace: Workplace, step: str = "techpack") -> dict[str, Any]:
    return workplace.artifact(step).manifest.metrics


@pytest.mark.parametrize("fields", [LIKELIHOOD, GENERATE], ids=["likelihood", "generate"])
def test_a_model_agrees_with_itself(workplace: Workplace, fields: Data) -> None:
    gate = {
        "uses": "eval.gate",
        "metrics_of": "techpack",
        "require": {"agreement": {"min": 1.0}, "accuracy_change": {"min": 0.0, "max": 0.0}},
    }
    workplace.run(recipe({"techpack": {**fields, "baseline": "again"}, "gate": gate}))
    metrics = metrics_of(workplace)
    assert metrics["agreement"] == 1
    assert metrics["accuracy"] == metrics["baseline_accuracy"]
    assert metrics["accuracy_change"] == 0
    assert metrics["num_items"] == fields["limit"]
    rows = read_answers(workplace)
    assert len(rows) == fields["limit"]
    assert all(row["agrees"] and row["answer"] == row["baseline_answer"] for row in rows)
    assert metrics["accuracy"] == sum(row["right"] for row in rows) / len(rows)
    assert all((row["reason"] is None) == row["right"] for row in rows)


def test_likelihood_prefers_what_the_model_prefers(workplace: Workplace) -> None:
    workplace.run(recipe({"techpack": {**LIKELIHOOD, "limit": 8}}))
    metrics, rows = metrics_of(workplace), read_answers(workplace)
    for row in rows:
        first, *others = row["logprobs"]
        assert row["margin"] == pytest.approx(first - max(others))
        assert row["right"] == (first > max(others))
    assert metrics["mean_margin"] == pytest.approx(sum(r["margin"] for r in rows) / 8)
    low, high = metrics["mean_margin_ci"]
    assert low <= metrics["mean_margin"] <= high
    assert 0 < metrics["pair_accuracy"] < 1


def test_a_gate_that_is_missed_fails_with_the_figures(workplace: Workplace) -> None:
    gate = {
        "uses": "eval.gate",
        "metrics_of": "techpack",
        "require": {"accuracy": {"min": 1.01}, "agreement": {"min": 0.95}},
    }
    with pytest.raises(GateFailed, match=r"accuracy is .*, required at least 1\.01") as info:
        workplace.run(recipe({"techpack": LIKELIHOOD, "gate": gate}))
    assert "agreement was not measured" in info.value.message


def test_own_tasks_are_read_and_judged(workplace: Workplace, tmp_path: Path) -> None:
    # What the model was trained on is manuals: a sentence of theirs against its words mixed up.
    known, mixed = "パッケージをインストールします。", "をパッケージ。しまインストールす"
    check = {"kind": "choice", "label": known, "labels": [known, mixed]}
    item = {**ITEM, "answer": known, "distractors": [mixed], "check": check}
    swapped = {**item, "id": "b", "answer": mixed, "distractors": [known]}
    swapped["check"] = {**check, "label": mixed}
    tasks = write(tmp_path, item, swapped)
    step = {"uses": "eval.techpack", "model": "base", "data": "tasks", "protocol": "likelihood"}
    workplace.run(recipe({"techpack": step}, tasks))
    rows = read_answers(workplace)
    assert [row["id"] for row in rows] == ["a", "b"]
    assert [row["right"] for row in rows] == [True, False]
    assert [row["answer"] for row in rows] == [known, known]
    generated = {**GENERATE, "limit": None, "data": "tasks", "template": "none"}
    workplace.run(recipe({"techpack": generated}, tasks))
    assert metrics_of(workplace)["num_items"] == 2
    assert all("is no label" in row["reason"] for row in read_answers(workplace))


def test_answers_are_the_same_bytes_in_every_run(workplace: Workplace) -> None:
    steps = {"techpack": GENERATE}
    workplace.run(recipe(steps))
    first = (workplace.artifact("techpack").path / "answers.jsonl").read_bytes()
    workplace.run(recipe(steps), force=("techpack",))
    assert (workplace.artifact("techpack").path / "answers.jsonl").read_bytes() == first


def test_the_shipped_tasks_are_part_of_the_identity(tmp_path: Path) -> None:
    shipped = EvalTechpack(uses="eval.techpack", model="m")
    assert shipped.identity_settings()["shipped_tasks"] == digest_file(locate_shipped_tasks())
    own = EvalTechpack(uses="eval.techpack", model="m", data="d")
    assert "shipped_tasks" not in own.identity_settings()
    step = {"techpack": {"uses": "eval.techpack", "model": "base", "data": "tasks"}}
    path = write(tmp_path, ITEM)
    before = identity(tmp_path, recipe(step, path))
    write(tmp_path, ITEM, {**ITEM, "id": "b"})
    assert identity(tmp_path, recipe(step, path)) != before


def identity(folder: Path, described: Data) -> str:
    (planned,) = Workplace(folder).plan(described).steps
    return planned.identity


@pytest.mark.parametrize(
    ("rows", "dataset", "fields", "message"),
    [
        ([{**ITEM, "answer": "保留"}], {}, {}, "task a: its own answer does not pass its check"),
        ([ITEM], {}, {"limit": 2}, "limit is 2, but the task set holds 1 items"),
        ([ITEM], {"samples": 1}, {}, "data set tasks: samples says nothing about tasks"),
        (
            [{**ITEM, "distractors": []}],
            {},
            {"protocol": "likelihood"},
            "1 items have none, the first is a",
        ),
        (["{"], {}, {}, r"tasks\.jsonl:1: not valid JSON"),
    ],
)
def test_unfit_tasks_are_refused_before_anything_runs(
    tmp_path: Path, rows: list[Any], dataset: Data, fields: Data, message: str
) -> None:
    step = {"uses": "eval.techpack", "model": "base", "data": "tasks", **fields}
    described = recipe({"techpack": step}, write(tmp_path, *rows))
    described["datasets"]["tasks"] |= dataset
    with pytest.raises(InputError, match=f"step techpack: .*{message}"):
        validate_recipe(load(tmp_path, described))


def test_prompts_that_are_too_long_for_the_model_are_refused(workplace: Workplace) -> None:
    with pytest.raises(IncompatibleError, match="exceed max_position_embeddings 1024 of"):
        workplace.run(recipe({"techpack": {**GENERATE, "max_new_tokens": 1000}}))


def test_a_model_that_does_not_fit_in_memory_is_refused(
    workplace: Workplace, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "model", max_position_embeddings=10**11)
    described = recipe({"techpack": {**GENERATE, "max_new_tokens": 10**10}})
    described["sources"]["base"] = str(model)
    with pytest.raises(ResourceError, match=r"needs about .* TB in float32"):
        workplace.run(described)
