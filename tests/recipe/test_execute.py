"""Runs of whole recipes on a random model: gates, resuming, what is kept and what is not."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llmopt.artifacts.manifest import MANIFEST_NAME
from llmopt.artifacts.store import StoreEntry
from llmopt.errors import CapabilityError, GateFailed, InputError, RecipeError
from llmopt.quant import quantize_checkpoint
from llmopt.recipe.execute import RunSettings, run_plan
from tests.models import make_model
from tests.recipe.harness import (
    EVALUATE,
    GATE,
    GPTQ,
    QUANTIZE,
    Data,
    Listener,
    Workplace,
    make_recipe,
    write_recipe,
)

needs_no_gpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="a GPU is here, so --device cuda is available"
)
STRICT: Data = {**GATE, "require": {"kl_mean": {"max": 0.0}, "top1_agreement": {"min": 0.5}}}


@pytest.fixture
def recipe(random_model: Path, documents: Path) -> Data:
    steps = {"quantize": QUANTIZE, "gate": GATE, "perplexity": EVALUATE}
    return make_recipe(random_model, documents, steps)


def test_a_run_makes_every_step_once_and_links_it(workplace: Workplace, recipe: Data) -> None:
    result = workplace.run(recipe)
    assert workplace.listener.steps("step_finished") == ["quantize", "gate", "perplexity"]
    assert list(result.artifacts) == ["quantize", "gate", "perplexity"]
    assert result.unavailable == {}
    for name, artifact in result.artifacts.items():
        link = workplace.links / "small" / name
        assert link.is_symlink()
        assert not link.readlink().is_absolute()
        assert link.resolve() == artifact.path.resolve()
        assert artifact.find_faults() == []
    workplace.run(recipe)
    assert workplace.listener.steps("step_cached") == ["quantize", "gate", "perplexity"]
    assert workplace.listener.steps("step_started") == []


def test_the_manifest_says_how_it_was_made(workplace: Workplace, recipe: Data) -> None:
    workplace.run(recipe, "steps.quantize.bits=8", until="gate")
    manifest = workplace.artifact("quantize").manifest
    assert (manifest.kind, manifest.recipe) == ("quantized_checkpoint", "small")
    assert (manifest.step.id, manifest.step.uses) == ("quantize", "quantize.rtn")
    assert manifest.step.settings["bits"] == 8
    assert manifest.step.settings["group_size"] == 32
    assert manifest.step.settings["format"] == "gptq"
    assert manifest.step.overrides == ["steps.quantize.bits=8"]
    assert "ungated" not in manifest.step.settings
    assert manifest.inputs["model"].name == "base"
    assert len(manifest.layers) == 3 * 7
    assert manifest.timings["total_s"] > 0
    assert {"llmopt", "torch", "transformers"} <= set(manifest.tools)
    assert manifest.degraded == []
    gate = workplace.artifact("gate").manifest
    assert gate.inputs["model"].digest == manifest.identity
    assert not list(workplace.artifact("quantize").path.glob(".*"))


def test_a_missed_gate_stops_its_consumers_and_keeps_its_numbers(
    workplace: Workplace, recipe: Data
) -> None:
    recipe["steps"]["gate"] = STRICT
    with pytest.raises(
        GateFailed, match=r"gate gate: kl_mean is 0\.\d+, allowed at most 0"
    ) as caught:
        workplace.run(recipe)
    assert caught.value.exit_code == 3
    assert workplace.listener.steps("step_finished") == ["quantize", "gate"]
    measured = workplace.artifact("gate")
    assert measured.manifest.metrics["kl_mean"] > 0
    assert str(measured.path.resolve()) in str(caught.value)
    assert not (workplace.links / "small" / "perplexity").exists()


def test_a_missed_gate_is_missed_again(workplace: Workplace, recipe: Data) -> None:
    recipe["steps"]["gate"] = STRICT
    for started in (["quantize", "gate"], []):
        with pytest.raises(GateFailed, match="kl_mean"):
            workplace.run(recipe)
        assert workplace.listener.steps("step_started") == started


def test_another_limit_is_judged_without_another_measurement(
    workplace: Workplace, recipe: Data
) -> None:
    recipe["steps"]["gate"] = STRICT
    with pytest.raises(GateFailed, match="kl_mean"):
        workplace.run(recipe)
    workplace.run(
        recipe, "steps.gate.require.kl_mean.max=1000", "steps.gate.require.top1_agreement.min=0"
    )
    assert workplace.listener.steps("step_started") == ["perplexity"]
    with pytest.raises(GateFailed, match=r"perplexity is .* above the baseline's"):
        workplace.run(recipe, "steps.gate.require={perplexity: {max_increase_pct: -99}}")
    assert workplace.listener.steps("step_started") == []


def test_an_ungated_consumer_goes_ahead_and_says_so(workplace: Workplace, recipe: Data) -> None:
    recipe["steps"] = {
        "quantize": QUANTIZE,
        "perplexity": {**EVALUATE, "ungated": True},
        "gate": STRICT,
    }
    with pytest.raises(GateFailed, match="kl_mean"):
        workplace.run(recipe)
    assert workplace.artifact("perplexity").manifest.step.settings["ungated"] is True


def test_the_second_of_two_gates_holds_up_too(workplace: Workplace, recipe: Data) -> None:
    recipe["steps"] = {"quantize": QUANTIZE, "easy": GATE, "strict": STRICT, "perplexity": EVALUATE}
    with pytest.raises(GateFailed, match="gate strict: kl_mean"):
        workplace.run(recipe)
    # Both measure the same, so the second finds the first one's numbers.
    assert workplace.listener.steps("step_finished") == ["quantize", "easy"]
    assert workplace.listener.steps("step_cached") == ["strict"]
    assert not (workplace.links / "small" / "perplexity").exists()


@pytest.mark.parametrize(
    ("source", "metric", "limit", "message"),
    [
        ("score", "perplexity", {"max": 1.0}, r"perplexity is [\d.]+, allowed at most 1\n"),
        ("score", "kl_mean", {"max": 1.0}, r"kl_mean was not measured \(measured: num_tokens, "),
        ("quantize", "weights_bytes", {"max": 1000}, r"weights_bytes is [\d.e+]+, allowed at most"),
        # Rounding without data has no SNR: null in the metrics, which is no number.
        ("quantize", "lowest_snr_db", {"min": -999}, "lowest_snr_db was not measured"),
        ("quantize", "lowest_snr_layer", {"min": -999}, "lowest_snr_layer was not measured"),
    ],
)
def test_a_gate_on_another_steps_metrics(
    workplace: Workplace, recipe: Data, source: str, metric: str, limit: Data, message: str
) -> None:
    gate = {"uses": "eval.gate", "metrics_of": source, "require": {metric: limit}}
    recipe["steps"] = {"quantize": QUANTIZE, "score": EVALUATE, "gate": gate}
    with pytest.raises(GateFailed, match=f"gate gate: {message}"):
        workplace.run(recipe)
    # What judges a step's own metrics holds that step's other consumers up.
    before = ["quantize", "score"] if source == "score" else ["quantize"]
    assert workplace.listener.steps("step_finished") == [*before, "gate"]


def test_force_makes_a_step_anew(workplace: Workplace, recipe: Data) -> None:
    before = workplace.run(recipe, until="gate").artifacts["quantize"].manifest
    after = workplace.run(recipe, until="gate", force=("quantize",)).artifacts["quantize"].manifest
    assert workplace.listener.steps("step_started") == ["quantize"]
    assert workplace.listener.steps("step_cached") == ["gate"]
    assert after.content_digest == before.content_digest
    assert after.identity == before.identity


def test_a_gate_does_not_pass_bytes_that_it_never_measured(
    workplace: Workplace, recipe: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same identity can be made with other bytes: forced, by other kernels, elsewhere."""
    recipe["steps"] = {"quantize": GPTQ, "gate": GATE}
    first = workplace.run(recipe).artifacts["quantize"].manifest.content_digest
    plan = workplace.plan(recipe, force=("quantize",))
    settings = RunSettings("cpu", threads=None, output_root=workplace.links)
    workplace.listener = Listener()
    # The same sums in another order, as another machine's kernels have them.
    monkeypatch.setattr(quantize_checkpoint, "CPU_BATCH_TOKENS", 64)
    result = run_plan(plan, workplace.store, workplace.store, settings, workplace.listener)
    second = result.artifacts["quantize"].manifest.content_digest
    assert second != first, "the two runs gave the same bytes: the test shows nothing"
    assert workplace.listener.steps("step_started") == ["quantize", "gate"]
    assert result.artifacts["gate"].manifest.inputs["model"].content == second
    workplace.run(recipe)
    assert workplace.listener.steps("step_cached") == ["quantize", "gate"]


def test_a_plan_sees_that_an_artifact_came_out_otherwise(
    workplace: Workplace, recipe: Data
) -> None:
    path = workplace.run(recipe, until="gate").artifacts["gate"].path / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["inputs"]["model"]["content"] = "0" * 64
    path.write_text(json.dumps(manifest), encoding="utf-8")
    states = workplace.states(recipe, until="gate")
    assert states["gate"] == "quantize was made anew and came out otherwise"
    workplace.run(recipe, until="gate")
    assert workplace.listener.steps("step_started") == ["gate"]


def test_a_forced_run_that_was_stopped_goes_on(
    workplace: Workplace, recipe: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe["steps"] = {"quantize": GPTQ}
    whole = workplace.run(recipe).artifacts["quantize"].manifest.content_digest

    def stop(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tests.recipe.harness.Listener.advance", stop)
        with pytest.raises(KeyboardInterrupt):
            workplace.run(recipe, force=("quantize",))
    resumed = workplace.run(recipe, force=("quantize",)).artifacts["quantize"]
    assert workplace.listener.notes == ["resumed: 1 of 3 blocks"]
    assert resumed.manifest.content_digest == whole


def test_a_part_that_holds_no_step_is_refused(workplace: Workplace, recipe: Data) -> None:
    with pytest.raises(RecipeError, match="--from gate --until quantize: no step lies between"):
        workplace.plan(recipe, start="gate", until="quantize")
    with pytest.raises(RecipeError, match="--force gate: --from and --until leave that step out"):
        workplace.plan(recipe, until="quantize", force=("gate",))


def test_an_artifact_that_is_read_is_not_removed(workplace: Workplace, recipe: Data) -> None:
    """`store gc` of another process, while a run is in a step that reads the artifact."""
    freed: list[list[StoreEntry]] = []

    class Collecting(Listener):
        def event(self, name: str, **fields: Any) -> None:
            super().event(name, **fields)
            if name == "step_started" and fields["step"] == "gate":
                (workplace.links / "small" / "quantize").unlink()  # as another run's relink does
                freed.append(workplace.store.collect_garbage(dry_run=False))

    plan = workplace.plan(recipe, until="gate")
    settings = RunSettings("cpu", threads=1, output_root=workplace.links)
    run_plan(plan, workplace.store, workplace.store, settings, Collecting())
    assert freed == [[]]
    assert [e.identity for e in workplace.store.collect_garbage(dry_run=False)] == [
        plan.steps[0].identity
    ]


def test_force_does_not_go_on_from_unfinished_work(workplace: Workplace, recipe: Data) -> None:
    identity = workplace.plan(recipe).steps[0].identity
    scratch = workplace.store.open_workspace(identity) / ".scratch"
    scratch.mkdir()
    (scratch / "journal.json").write_text("nonsense", encoding="utf-8")
    workplace.run(recipe, until="quantize", force=("quantize",))
    assert workplace.listener.notes == []


def test_leftovers_beside_the_scratch_folder_never_reach_the_artifact(
    workplace: Workplace, recipe: Data
) -> None:
    work = workplace.store.open_workspace(workplace.plan(recipe).steps[0].identity)
    (work / "half.safetensors").write_bytes(b"half")
    (work / "deep").mkdir()
    (work / "deep" / "half").write_bytes(b"half")
    workplace.run(recipe, until="quantize")
    names = {entry.path for entry in workplace.artifact("quantize").manifest.files}
    assert not [name for name in names if "half" in name]
    assert workplace.artifact("quantize").find_faults() == []


def test_a_step_that_stopped_half_way_goes_on(
    workplace: Workplace, recipe: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the second block; the end is the same as without."""
    recipe["steps"] = {"quantize": GPTQ}
    whole = workplace.run(recipe).artifacts["quantize"].manifest.content_digest
    stopped = Workplace(workplace.folder / "stopped")
    stopped.folder.mkdir()
    advances = iter([None, KeyboardInterrupt()])

    def advance(self: object) -> None:
        outcome = next(advances)
        if outcome is not None:
            raise outcome

    with monkeypatch.context() as patch:
        patch.setattr("tests.recipe.harness.Listener.advance", advance)
        with pytest.raises(KeyboardInterrupt):
            stopped.run(recipe)
    assert stopped.states(recipe)["quantize"] == "unfinished work of an earlier run will be resumed"
    resumed = stopped.run(recipe)
    assert stopped.listener.notes == ["resumed: 2 of 3 blocks"]
    assert resumed.artifacts["quantize"].manifest.content_digest == whole


@pytest.mark.parametrize("fault", ["short", "nan"])
def test_work_that_can_not_succeed_is_not_kept(
    workplace: Workplace, recipe: Data, fault: str, tmp_path: Path
) -> None:
    recipe["steps"] = {"quantize": GPTQ}
    if fault == "short":
        recipe["datasets"]["calibration"] |= {"samples": 10_000}
        message = (
            r"data set calibration \(.*documents\.jsonl\): calibration wants 10000 samples x 64 "
            r"tokens = 640000 tokens; the 40 documents give \d+"
        )
    else:
        recipe["sources"]["base"] = str(make_nan_model(tmp_path / "nan"))
        message = r"tensor model\.layers\.1\.mlp\.up_proj\.weight holds NaN or infinity"
    with pytest.raises(InputError, match=message):
        workplace.run(recipe)
    assert workplace.stored() == []
    assert workplace.states(recipe)["quantize"] == "not in the store yet"


def make_nan_model(folder: Path) -> Path:
    """Writes a model with one NaN in its second block."""
    # Imported here: only this test needs to write a tensor.
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    make_model(folder, num_hidden_layers=2)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@needs_no_gpu
def test_an_unavailable_device_fails_by_default(workplace: Workplace, recipe: Data) -> None:
    with pytest.raises(
        CapabilityError, match=r"device cuda is asked for, but torch .* sees no GPU"
    ) as caught:
        workplace.run(recipe, device="cuda")
    assert caught.value.exit_code == 5
    assert caught.value.remedy is not None
    assert "--device cpu" in caught.value.remedy
    assert workplace.stored() == []


@needs_no_gpu
def test_a_deferred_step_takes_its_dependents_with_it(workplace: Workplace, recipe: Data) -> None:
    workplace.run(recipe, until="quantize")
    recipe["steps"]["gate"] = {**GATE, "when_unavailable": "defer"}
    result = workplace.run(recipe, device="cuda")
    assert result.has_deferred
    assert list(result.artifacts) == ["quantize"]
    assert "sees no GPU" in result.unavailable["gate"]
    # perplexity waits for the gate alone, and a gate that was not judged lets nothing through.
    assert result.unavailable["perplexity"] == "waits for gate, which did not run"
    assert len(workplace.stored()) == 1
    assert list(workplace.run(recipe).artifacts) == ["quantize", "gate", "perplexity"]


@needs_no_gpu
def test_a_skipped_step_is_not_deferred(workplace: Workplace, recipe: Data) -> None:
    workplace.run(recipe, until="gate")
    recipe["steps"]["perplexity"]["when_unavailable"] = "skip"
    result = workplace.run(recipe, device="cuda")
    assert not result.has_deferred
    assert "sees no GPU" in result.unavailable["perplexity"]


def test_a_gate_may_not_be_skipped(workplace: Workplace, recipe: Data) -> None:
    recipe["steps"]["gate"] = {**GATE, "when_unavailable": "skip"}
    with pytest.raises(RecipeError, match="a gate that is skipped would pass without a look"):
        workplace.run(recipe)


@pytest.mark.parametrize("device", ["banana", "meta", "mps", "cuda:x", ""])
def test_a_device_that_is_none_is_refused(workplace: Workplace, recipe: Data, device: str) -> None:
    with pytest.raises(RecipeError, match="allowed are auto, cpu, cuda, cuda:N"):
        workplace.run(recipe, device=device, until="quantize")
    assert workplace.stored() == []


def test_needs_waits_without_reading(workplace: Workplace, recipe: Data) -> None:
    recipe["steps"] = {
        "quantize": QUANTIZE,
        "alone": {**EVALUATE, "model": "base", "needs": ["quantize"]},
    }
    workplace.run(recipe)
    assert workplace.listener.steps("step_finished") == ["quantize", "alone"]
    assert "needs" not in workplace.artifact("alone").manifest.step.settings


def test_preflight_comes_before_any_work(workplace: Workplace, recipe: Data) -> None:
    """The second step's fault is found before the first one runs."""
    broken = workplace.folder / "broken.jsonl"
    broken.write_text('{"text": "a"}\n{"text": \n', encoding="utf-8")
    recipe["datasets"]["heldout"] = {"path": str(broken)}
    with pytest.raises(InputError, match=r"step gate: .*broken\.jsonl:2: not valid JSON"):
        workplace.run(recipe)
    assert workplace.listener.steps("step_started") == []
    assert workplace.stored() == []


def test_a_missing_tool_comes_before_any_work(
    workplace: Workplace, recipe: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step needs a server; the first one's work would be for nothing."""
    monkeypatch.setenv("LLMOPT_CACHE", str(workplace.folder / "cache"))
    recipe["steps"] = {
        "export": {"uses": "export.onnx", "model": "base"},
        "repository": {
            "uses": "package.triton",
            "shape": "generate",
            "model": "export",
            "smoke": True,
        },
    }
    with pytest.raises(CapabilityError, match="no tritonserver in"):
        workplace.run(recipe)
    assert workplace.listener.steps("step_started") == []
    recipe["steps"]["repository"]["when_unavailable"] = "skip"
    assert list(workplace.run(recipe).artifacts) == ["export"]


def test_a_moved_working_directory_keeps_its_links(
    workplace: Workplace, recipe: Data, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workplace.run(recipe, until="quantize")
    moved = tmp_path_factory.mktemp("moved") / "here"
    shutil.move(workplace.folder, moved)
    assert (moved / "out" / "small" / "quantize" / MANIFEST_NAME).is_file()
    elsewhere = dataclasses.replace(workplace, folder=moved)
    assert elsewhere.states(recipe, until="quantize") == {"quantize": "in the store"}


def test_relative_paths_start_at_the_recipe(
    workplace: Workplace, random_model: Path, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(random_model, workplace.folder / "model")
    shutil.copyfile(documents, workplace.folder / "documents.jsonl")
    write_recipe(workplace.folder, {})
    (workplace.folder / "elsewhere").mkdir()
    monkeypatch.chdir(workplace.folder / "elsewhere")
    recipe: dict[str, Any] = make_recipe("model", "./documents.jsonl", {"quantize": GPTQ})
    assert workplace.states(recipe) == {"quantize": "not in the store yet"}
