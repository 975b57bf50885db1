"""References between steps: what they may name, in which order, and who waits for which gate."""

import re
from pathlib import Path
from typing import Any

import pytest

from llmopt.errors import RecipeError
from tests.recipe.harness import COMPARE, EVALUATE, GATE, GPTQ, QUANTIZE, graph_of


def judge(*metrics: str) -> dict[str, Any]:
    """A gate on the metrics of the step `compare`."""
    require = {metric: {"max": 1.0} for metric in metrics}
    return {"uses": "eval.gate", "metrics_of": "compare", "require": require}


STEPS: dict[str, Any] = {"quantize": QUANTIZE, "gate": GATE, "perplexity": EVALUATE}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            {"quantize": {**GPTQ, "model": "bass"}},
            "model of step 'quantize' is 'bass', but there is no source, data set or step of that "
            "name; did you mean 'base'?",
        ),
        (
            {"quantize": {**GPTQ, "data": "calibratoin"}},
            "data of step 'quantize' is 'calibratoin', but there is no source, data set or step "
            "of that name; did you mean 'calibration'?",
        ),
        (
            {"quantize": {**GPTQ, "model": "calibration"}},
            "model of step 'quantize' wants a checkpoint; 'calibration' is a data set",
        ),
        (
            {"quantize": {**GPTQ, "data": "base"}},
            "data of step 'quantize' wants a data set; 'base' is a checkpoint",
        ),
        (
            {"quantize": QUANTIZE, "again": {**QUANTIZE, "model": "quantize"}},
            "model of step 'again' wants a checkpoint; 'quantize' is a quantised checkpoint",
        ),
        (
            {"quantize": QUANTIZE, "score": EVALUATE, "more": {**EVALUATE, "model": "score"}},
            "model of step 'more' wants a checkpoint or a quantised checkpoint; 'score' is "
            "an evaluation",
        ),
        (
            {"quantize": QUANTIZE, "compare": {**COMPARE, "candidates": ["base", "quantise"]}},
            "candidates.1 of step 'compare' is 'quantise', but there is no source, data set or "
            "step of that name; did you mean 'quantize'?",
        ),
        (
            {"quantize": QUANTIZE, "compare": {**COMPARE, "candidates": ["heldout"]}},
            "candidates.0 of step 'compare' wants a checkpoint or a quantised checkpoint; "
            "'heldout' is a data set",
        ),
        (
            {"bench": {"uses": "bench.onnx", "candidates": ["base"]}},
            "candidates.0 of step 'bench' wants an ONNX model; 'base' is a checkpoint\n  "
            "→ a folder that export.onnx made is a source of its kind: base: {path: DIR, kind: "
            "onnx_model}",
        ),
        (
            {"compare": COMPARE, "quantize": QUANTIZE},
            "step 'compare' refers to 'quantize', which stands later",
        ),
        (
            {"quantize": QUANTIZE, "compare": COMPARE, "gate": judge("quantise.kl_mean")},
            "quantise.kl_mean of step 'gate': the metrics of eval.compare begin with a candidate's "
            "name, such as quantize.kl_mean; did you mean 'quantize'?",
        ),
        (
            {"quantize": QUANTIZE, "compare": COMPARE, "gate": judge("kl_mean")},
            "kl_mean of step 'gate': the metrics of eval.compare begin with a candidate's name",
        ),
        (
            {"quantize": {**QUANTIZE, "needs": ["gates"]}},
            "step 'quantize' needs 'gates', which is no step",
        ),
        (
            {"quantize": {**QUANTIZE, "needs": ["base"]}},
            "step 'quantize' needs 'base', which is no step",
        ),
        (
            {"gate": GATE, "quantize": QUANTIZE},
            "step 'gate' refers to 'quantize', which stands later; put it after the steps that "
            "it reads",
        ),
        (
            {"quantize": {**QUANTIZE, "needs": ["gate"]}, "gate": GATE},
            "steps 'quantize' and 'gate' wait for each other",
        ),
        (
            {"quantize": {**QUANTIZE, "needs": ["quantize"]}},
            "steps 'quantize' and 'quantize' wait for each other",
        ),
        (
            {"score": {**EVALUATE, "model": "score"}},
            "model of step 'score' wants a checkpoint or a quantised checkpoint; 'score' is a",
        ),
    ],
)
def test_wrong_references_are_refused_with_their_place(
    tmp_path: Path, steps: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+:\d+: " + re.escape(message)):
        graph_of(tmp_path, steps)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sources": {"base": "./m", "heldout": "./n"}}, "'heldout' is taken by sources.heldout"),
        ({"sources": {"base": "./m", "gate": "./n"}}, "'gate' is taken by sources.gate"),
    ],
)
def test_names_are_unique(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf":\d+:\d+: the name {message}; names are unique over"):
        graph_of(tmp_path, STEPS, **more)


def test_consumers_wait_for_the_gate_on_what_they_read(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, {"quantize": QUANTIZE, "perplexity": EVALUATE, "gate": GATE})
    assert graph.gates == {
        "quantize": frozenset(),
        "gate": frozenset(),
        "perplexity": frozenset({"gate"}),
    }
    assert graph.order == ("quantize", "gate", "perplexity")
    assert graph.ancestors("perplexity") == {"quantize", "gate"}
    assert graph.descendants("gate") == {"perplexity"}


def test_ungated_opts_out(tmp_path: Path) -> None:
    free = {**EVALUATE, "ungated": True}
    graph = graph_of(tmp_path, {"quantize": QUANTIZE, "free": free, "gate": GATE})
    assert graph.gates["free"] == frozenset()
    assert graph.order == ("quantize", "free", "gate")


def test_two_gates_are_both_waited_for_but_not_by_each_other(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, {**STEPS, "second": GATE})
    assert graph.gates["perplexity"] == {"gate", "second"}
    assert graph.gates["gate"] == graph.gates["second"] == frozenset()
    assert graph.order == ("quantize", "gate", "second", "perplexity")


def test_a_gate_judges_what_its_metrics_were_measured_on(tmp_path: Path) -> None:
    gate = {"uses": "eval.gate", "metrics_of": "score", "require": {"perplexity": {"max": 9}}}
    graph = graph_of(
        tmp_path,
        {"quantize": QUANTIZE, "score": EVALUATE, "later": EVALUATE, "gate": gate},
    )
    assert graph.gates["score"] == frozenset()  # the gate itself needs it
    assert graph.gates["later"] == {"gate"}
    assert graph.order == ("quantize", "score", "gate", "later")


def test_a_gate_on_a_steps_own_metrics_judges_that_step(tmp_path: Path) -> None:
    gate = {"uses": "eval.gate", "metrics_of": "quantize", "require": {"lowest_snr_db": {"min": 1}}}
    graph = graph_of(tmp_path, {"quantize": QUANTIZE, "gate": gate, "score": EVALUATE})
    assert graph.gates["score"] == {"gate"}


def test_a_gate_on_a_source_holds_nobody_up(tmp_path: Path) -> None:
    gate = {**GATE, "model": "base"}
    graph = graph_of(tmp_path, {"quantize": QUANTIZE, "gate": gate})
    assert graph.gates["quantize"] == frozenset()


def test_gates_that_hold_each_other_up_are_refused(tmp_path: Path) -> None:
    """Each gate needs a score that waits for the other gate."""
    steps = {
        "quantize": QUANTIZE,
        "one": EVALUATE,
        "two": EVALUATE,
        "first": {"uses": "eval.gate", "metrics_of": "one", "require": {"nll": {"max": 9}}},
        "second": {"uses": "eval.gate", "metrics_of": "two", "require": {"nll": {"max": 9}}},
    }
    with pytest.raises(RecipeError, match="wait for each other: one, two, first, second") as caught:
        graph_of(tmp_path, steps)
    assert caught.value.remedy is not None
    assert "ungated" in caught.value.remedy
    steps["one"] = {**EVALUATE, "ungated": True}
    assert graph_of(tmp_path, steps).order == ("quantize", "one", "first", "two", "second")


def test_needs_orders_without_reading(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, {"quantize": QUANTIZE, "other": {**QUANTIZE, "needs": ["quantize"]}})
    assert graph.waits_for["other"] == {"quantize"}


def test_the_place_of_a_name_in_a_list_is_its_own(tmp_path: Path) -> None:
    steps = {"quantize": QUANTIZE, "compare": {**COMPARE, "candidates": ["base", "quantise"]}}
    with pytest.raises(RecipeError) as caught:
        graph_of(tmp_path, steps)
    line = int(caught.value.message.split(":")[1])
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8").splitlines()[line - 1]
    assert text.strip() == '"quantise"'


def test_a_comparison_waits_for_gates_on_any_candidate(tmp_path: Path) -> None:
    steps = {"quantize": QUANTIZE, "other": QUANTIZE, "gate": {**GATE, "model": "other"}}
    compare = {**COMPARE, "candidates": ["quantize", "other"]}
    graph = graph_of(tmp_path, {**steps, "compare": compare})
    assert graph.waits_for["compare"] == {"quantize", "other", "gate"}
    assert graph.gates["compare"] == {"gate"}
    free = graph_of(tmp_path, {**steps, "compare": {**compare, "ungated": True}})
    assert free.gates["compare"] == frozenset()


@pytest.mark.parametrize(
    ("metrics", "judged"),
    [
        (["quantize.kl_mean"], {"quantize"}),
        (["other.kl_mean", "other.perplexity"], {"other"}),
        (["quantize.kl_mean", "other.kl_mean"], {"quantize", "other"}),
        (["base.kl_mean"], {"quantize", "other"}),  # no step is named, so all are meant
    ],
)
def test_a_gate_on_a_comparison_judges_whom_it_requires_something_of(
    tmp_path: Path, metrics: list[str], judged: set[str]
) -> None:
    steps = {
        "quantize": QUANTIZE,
        "other": QUANTIZE,
        "compare": {**COMPARE, "candidates": ["quantize", "other", "base"]},
        "gate": judge(*metrics),
        "score_quantize": EVALUATE,
        "score_other": {**EVALUATE, "model": "other"},
    }
    graph = graph_of(tmp_path, steps)
    waiting = {name for name in ("quantize", "other") if graph.gates[f"score_{name}"]}
    assert waiting == judged
    assert graph.gates["compare"] == frozenset()  # the gate itself needs it
