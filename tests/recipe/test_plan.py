"""Plans: what would run and why, on a real store, without running anything."""

import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmopt.artifacts.store import Store
from llmopt.errors import InputError, RecipeError
from llmopt.recipe.plan import RunOptions, make_plan
from tests.models import edit_json
from tests.recipe.harness import EVALUATE, GATE, GPTQ, QUANTIZE, Data, Workplace, load, make_recipe

CHAIN: Data = {"quantize": QUANTIZE, "gate": GATE, "perplexity": EVALUATE}


@pytest.fixture
def recipe(random_model: Path, documents: Path) -> Data:
    return make_recipe(random_model, documents, CHAIN)


def copy_inputs(recipe: Data, folder: Path) -> Data:
    """Returns the recipe over byte-identical copies of its model and documents."""
    model = shutil.copytree(recipe["sources"]["base"], folder / "model")
    documents = shutil.copyfile(recipe["datasets"]["heldout"]["path"], folder / "copy.jsonl")
    return make_recipe(model, documents, recipe["steps"])


def test_nothing_is_stored_at_first_and_planning_makes_nothing(
    workplace: Workplace, recipe: Data
) -> None:
    plan = workplace.plan(recipe)
    assert {step.name: (step.state, step.reason) for step in plan.steps} == dict.fromkeys(
        CHAIN, ("run", "not in the store yet")
    )
    assert plan.steps[2].gates == ("gate",)
    assert workplace.stored() == []
    assert not workplace.links.exists()


def test_estimates_come_from_shapes(workplace: Workplace, recipe: Data) -> None:
    recipe["steps"]["quantize"] = GPTQ
    estimates = {step.name: step.estimate for step in workplace.plan(recipe).steps}
    assert estimates["quantize"] is not None
    # Per block: q and o 128 x 128, k and v 64 x 128, gate, up and down 256 x 128.
    weights, tokens = 3 * 147_456, 2 * 64
    assert estimates["quantize"].flops > 2 * weights * tokens
    assert estimates["quantize"].disk_bytes > weights // 2
    assert estimates["gate"] is None


def test_a_finished_step_is_cached_wherever_its_inputs_lie(
    workplace: Workplace, recipe: Data, tmp_path: Path
) -> None:
    before = workplace.run(recipe)
    copied = copy_inputs(recipe, tmp_path)
    assert set(workplace.states(copied).values()) == {"in the store"}
    after = workplace.run(copied, force=tuple(CHAIN))
    for name in CHAIN:
        manifests = before.artifacts[name].manifest, after.artifacts[name].manifest
        assert manifests[0].identity == manifests[1].identity
        assert manifests[0].content_digest == manifests[1].content_digest


def test_what_does_not_change_the_result_does_not_change_the_identity(
    workplace: Workplace, recipe: Data
) -> None:
    identity = workplace.plan(recipe).steps[0].identity

    def changed(key: str, value: Any) -> str:
        steps = {**CHAIN, "quantize": {**QUANTIZE, key: value}}
        return workplace.plan({**recipe, "steps": steps}).steps[0].identity

    for key, value in [("activation_memory_gb", 0.5), ("when_unavailable", "skip")]:
        assert changed(key, value) == identity
    for key, value in [("bits", 8), ("sym", False), ("format", "compressed-tensors")]:
        assert changed(key, value) != identity
    other = {"other": {**QUANTIZE, "bits": 8}, "quantize": {**QUANTIZE, "needs": ["other"]}}
    assert workplace.plan({**recipe, "steps": other}).steps[1].identity == identity
    assert workplace.plan({**recipe, "name": "renamed"}).steps[0].identity == identity


def test_a_changed_setting_is_named_with_both_values(workplace: Workplace, recipe: Data) -> None:
    workplace.run(recipe, until="quantize")
    states = workplace.states(recipe, "steps.quantize.bits=8")
    assert states["quantize"] == "invalidated because steps.quantize.bits 4 → 8"
    assert states["gate"] == "not in the store yet"


def test_a_changed_step_above_is_named(workplace: Workplace, recipe: Data) -> None:
    workplace.run(recipe)
    states = workplace.states(recipe, "steps.quantize.bits=8")
    assert states["gate"] == "invalidated because quantize will run"
    assert states["perplexity"] == "invalidated because quantize will run"


def test_a_changed_method_is_named(workplace: Workplace, recipe: Data) -> None:
    workplace.run(recipe, until="quantize")
    changed = {**recipe, "steps": {**CHAIN, "quantize": GPTQ}}
    reason = workplace.states(changed)["quantize"]
    assert reason.startswith("invalidated because steps.quantize.uses quantize.rtn → quantize.gptq")


def test_a_limit_of_a_gate_changes_nothing(workplace: Workplace, recipe: Data) -> None:
    workplace.run(recipe)
    states = workplace.states(recipe, "steps.gate.require.kl_mean.max=2000")
    assert set(states.values()) == {"in the store"}


def test_changed_contents_of_a_source_are_named(
    workplace: Workplace, recipe: Data, tmp_path: Path
) -> None:
    copied = copy_inputs(recipe, tmp_path)
    workplace.run(copied, until="quantize")
    edit_json(tmp_path / "model" / "config.json", rms_norm_eps=1e-5)
    reason = workplace.states(copied)["quantize"]
    assert reason == "invalidated because the contents of base changed"


def test_changed_documents_of_the_same_size_are_noticed(
    workplace: Workplace, recipe: Data, tmp_path: Path
) -> None:
    copied = copy_inputs(recipe, tmp_path)
    copied["steps"] = {"score": {**EVALUATE, "model": "base"}}
    workplace.run(copied)
    path = tmp_path / "copy.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("袖", "裾"), encoding="utf-8")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert workplace.states(copied)["score"] == (
        "invalidated because the contents of heldout changed"
    )


def test_force_is_named_and_runs_what_depends_on_it_not(workplace: Workplace, recipe: Data) -> None:
    workplace.run(recipe)
    plan = workplace.plan(recipe, force=("quantize",))
    assert [(step.reason, step.forced) for step in plan.steps] == [
        ("forced by --force", True),
        ("in the store, unless quantize comes out otherwise", False),
        ("in the store, unless quantize comes out otherwise", False),
    ]


def test_unfinished_work_is_announced(workplace: Workplace, recipe: Data) -> None:
    identity = workplace.plan(recipe).steps[0].identity
    workplace.store.open_workspace(identity)
    assert workplace.states(recipe)["quantize"] == (
        "unfinished work of an earlier run will be resumed"
    )


@pytest.mark.parametrize("damage", ["truncated", "missing", "manifest"])
def test_a_damaged_artifact_is_made_anew(workplace: Workplace, recipe: Data, damage: str) -> None:
    workplace.run(recipe, until="quantize")
    artifact = workplace.artifact("quantize")
    weights = artifact.path / "model.safetensors"
    before = artifact.manifest.content_digest
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "missing":
        weights.unlink()
    else:
        (artifact.path / "manifest.json").write_text("{", encoding="utf-8")
    assert workplace.states(recipe)["quantize"] == (
        "the stored artifact is damaged and will be made anew"
    )
    workplace.run(recipe, until="quantize")
    assert workplace.listener.steps("step_finished") == ["quantize"]
    assert workplace.artifact("quantize").find_faults() == []
    assert workplace.artifact("quantize").manifest.content_digest == before


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["quantize", "gate", "perplexity"]),
        ({"until": "quantize"}, ["quantize"]),
        ({"until": "gate"}, ["quantize", "gate"]),
        # The gate comes along: perplexity may not go ahead without it.
        ({"until": "perplexity"}, ["quantize", "gate", "perplexity"]),
    ],
)
def test_until_takes_a_step_and_all_it_waits_for(
    workplace: Workplace, recipe: Data, options: dict[str, str], names: list[str]
) -> None:
    assert list(workplace.states(recipe, **options)) == names


def test_from_wants_everything_before_it_in_the_store(workplace: Workplace, recipe: Data) -> None:
    with pytest.raises(RecipeError, match="--from gate: not in the store yet: quantize") as caught:
        workplace.plan(recipe, start="gate")
    assert caught.value.exit_code == 2
    workplace.run(recipe, until="quantize")
    plan = workplace.plan(recipe, start="gate", until="gate")
    assert {step.name: step.state for step in plan.steps} == {"quantize": "cached", "gate": "run"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until": "gates"}, "--until gates: there is no such step; did you mean 'gate'?"),
        ({"start": "quantise"}, "--from quantise: there is no such step; did you mean"),
        ({"force": ("nothing",)}, "--force nothing: there is no such step (known: quantize, gate"),
    ],
)
def test_options_that_name_no_step_are_refused(
    workplace: Workplace, recipe: Data, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message.replace("?", r"\?").replace("(", r"\(")):
        workplace.plan(recipe, **options)


def test_only_what_the_chosen_steps_read_must_exist(workplace: Workplace, recipe: Data) -> None:
    recipe["datasets"]["heldout"] = {"path": "nowhere.jsonl"}
    assert list(workplace.states(recipe, until="quantize")) == ["quantize"]
    with pytest.raises(InputError, match=r"data set file .*nowhere\.jsonl does not exist"):
        workplace.plan(recipe)


def test_a_source_exchanged_for_another_is_named_with_both_places(
    workplace: Workplace, recipe: Data, tmp_path: Path
) -> None:
    workplace.run(recipe, until="quantize")
    other = copy_inputs(recipe, tmp_path)
    edit_json(tmp_path / "model" / "config.json", rms_norm_eps=1e-5)
    before, after = recipe["sources"]["base"], other["sources"]["base"]
    reason = workplace.states(other)["quantize"]
    assert reason.startswith("invalidated because base was ")
    assert before in reason.partition(", is ")[0]
    assert after in reason.partition(", is ")[2]


def test_a_library_of_another_version_is_named(
    workplace: Workplace, recipe: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.run(recipe, until="quantize")
    version = importlib.metadata.version

    def newer(name: str) -> str:
        return "99.0" if name == "tokenizers" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", newer)
    assert workplace.states(recipe)["quantize"] == (
        f"invalidated because tokenizers {version('tokenizers')} → 99.0"
    )


def test_an_artifact_that_is_only_linked_from_elsewhere_was_removed(
    workplace: Workplace, recipe: Data
) -> None:
    workplace.run(recipe, until="quantize")
    loaded = load(workplace.folder, recipe)
    plan = make_plan(loaded, Store(workplace.folder / "new"), workplace.links, RunOptions())
    assert plan.steps[0].reason == "the stored artifact was removed"


def test_going_ahead_of_a_gate_is_named(workplace: Workplace, recipe: Data) -> None:
    workplace.run(recipe)
    recipe["steps"]["perplexity"] = {**EVALUATE, "ungated": True}
    assert workplace.states(recipe)["perplexity"].startswith(
        "invalidated because steps.perplexity.ungated"
    )
