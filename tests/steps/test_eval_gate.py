"""Gates' verdicts: what can't be judged is missed."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from llmopt.steps.eval_gate import EvalGate, Requirement, find_misses, list_required

METRICS: dict[str, Any] = {
    "kl_mean": 0.01,
    "perplexity": 11.0,
    "baseline_perplexity": 10.0,
    "top1_agreement": 0.95,
    "num_tokens": 1000,
}


def misses(metric: str, changed: dict[str, Any] | None = None, **limits: float) -> list[str]:
    return find_misses({metric: Requirement(**limits)}, {**METRICS, **(changed or {})})


@pytest.mark.parametrize(
    ("metric", "limits"),
    [
        ("kl_mean", {"max": 0.01}),
        ("kl_mean", {"max": 0.02, "min": 0.0}),
        ("top1_agreement", {"min": 0.95}),
        ("perplexity", {"max_increase_pct": 10.0}),
        ("perplexity", {"max_increase_pct": 10.1, "max": 11.0}),
        ("num_tokens", {"min": 1000}),
    ],
)
def test_a_limit_that_is_just_kept_is_kept(metric: str, limits: dict[str, float]) -> None:
    assert misses(metric, **limits) == []


@pytest.mark.parametrize(
    ("metric", "limits", "message"),
    [
        ("kl_mean", {"max": 0.009}, "kl_mean is 0.01, allowed at most 0.009"),
        ("top1_agreement", {"min": 0.96}, "top1_agreement is 0.95, required at least 0.96"),
        (
            "perplexity",
            {"max_increase_pct": 9.9},
            "perplexity is 11, 10 % above the baseline's 10, allowed 9.9 %",
        ),
        ("nll", {"max": 5}, "nll was not measured (measured: kl_mean, perplexity, "),
        ("kl_mean", {"max_increase_pct": 1}, "kl_mean has no baseline_kl_mean to compare with"),
    ],
)
def test_a_missed_limit_is_told_with_its_numbers(
    metric: str, limits: dict[str, float], message: str
) -> None:
    (told,) = misses(metric, **limits)
    assert told.startswith(message)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "0.001", True, [0.001], {}])
def test_what_is_no_finite_number_misses(value: Any) -> None:
    assert misses("kl_mean", {"kl_mean": value}, max=1e9, min=-1e9) == [
        "kl_mean was not measured (measured: perplexity, baseline_perplexity, top1_agreement, "
        "num_tokens)"
    ]


INTERVALS: dict[str, Any] = {
    "kl_mean_ci": [0.008, 0.012],
    "top1_agreement_ci": [0.94, 0.96],
    "perplexity_ci": [8.0, 14.0],
    "perplexity_increase_pct_ci": [9.0, 11.0],
}


@pytest.mark.parametrize(
    ("metric", "limits", "message"),
    [
        ("kl_mean", {"max": 0.012}, None),
        (
            "kl_mean",
            {"max": 0.0119},
            "kl_mean is 0.012 at the worse end of its 95 % interval, allowed at most 0.0119",
        ),
        ("top1_agreement", {"min": 0.94}, None),
        (
            "top1_agreement",
            {"min": 0.945},
            "top1_agreement is 0.94 at the worse end of its 95 % interval, required at least 0.945",
        ),
        ("perplexity", {"max_increase_pct": 11.0}, None),  # paired: not 14 over 10
        (
            "perplexity",
            {"max_increase_pct": 10.5},
            "perplexity is 11 % above the baseline's at the worse end of its 95 % interval",
        ),
        ("num_tokens", {"max": 2000}, "num_tokens has no 95 % interval (num_tokens_ci)"),
        ("kl_mean", {"max_increase_pct": 1}, "kl_mean has no 95 % interval of its increase"),
    ],
)
def test_a_confident_gate_judges_the_worse_end(
    metric: str, limits: dict[str, float], message: str | None
) -> None:
    told = misses(metric, INTERVALS, **limits, confident=True)
    assert len(told) == (message is not None)
    if message is not None:
        assert told[0].startswith(message)


@pytest.mark.parametrize(
    "interval",
    [None, [], [0.001], [0.001, None], [0.001, math.nan], [None, 0.001], "0.001", [0.0, 0.0, 0.0]],
)
def test_an_interval_that_is_none_misses(interval: Any) -> None:
    changed = {"kl_mean_ci": interval}
    told = misses("kl_mean", changed, max=1e9, confident=True)
    assert told == ["kl_mean has no 95 % interval (kl_mean_ci)"]
    assert misses("kl_mean", changed, max=1e9) == []


NESTED: dict[str, Any] = {
    "rtn": {**METRICS, "kl_mean": 0.5, "kl_mean_ci": [0.4, 0.6]},
    "default": {**METRICS, **INTERVALS, "by_category": {"検品": {"kl_mean": 0.3}}},
}


@pytest.mark.parametrize(
    ("metric", "limits", "message"),
    [
        ("default.kl_mean", {"max": 0.01}, None),
        ("rtn.kl_mean", {"max": 0.01}, "rtn.kl_mean is 0.5, allowed at most 0.01"),
        ("default.kl_mean", {"max": 0.011, "confident": True}, "default.kl_mean is 0.012 at the"),
        ("rtn.perplexity", {"max_increase_pct": 10}, None),
        ("rtn.perplexity", {"max_increase_pct": 9}, "rtn.perplexity is 11, 10 % above the"),
        (
            "default.by_category.検品.kl_mean",
            {"max": 0.2},
            "default.by_category.検品.kl_mean is 0.3",
        ),
        ("gptq.kl_mean", {"max": 9}, "gptq.kl_mean was not measured (measured: rtn.kl_mean, rtn."),
        ("kl_mean", {"max": 9}, "kl_mean was not measured"),
        ("rtn", {"max": 9}, "rtn was not measured"),
        ("rtn.kl_mean.deeper", {"max": 9}, "rtn.kl_mean.deeper was not measured"),
        ("rtn.", {"max": 9}, "rtn. was not measured"),
    ],
)
def test_a_dot_leads_into_what_is_nested(
    metric: str, limits: dict[str, Any], message: str | None
) -> None:
    told = find_misses({metric: Requirement(**limits)}, NESTED)
    assert len(told) == (message is not None)
    if message is not None:
        assert told[0].startswith(message)


@pytest.mark.parametrize("baseline", [math.nan, None, 0, 0.0, "10"])
def test_a_baseline_that_can_not_be_compared_with_misses(baseline: Any) -> None:
    assert misses("perplexity", {"baseline_perplexity": baseline}, max_increase_pct=1e9) == [
        "perplexity has no baseline_perplexity to compare with"
    ]


def test_a_negative_baseline_is_compared_by_its_size() -> None:
    """A metric such as a log-likelihood: from -10 to -9 is 10 % up, not down."""
    changed = {"score": -9.0, "baseline_score": -10.0}
    assert misses("score", changed, max_increase_pct=10.0) == []
    assert len(misses("score", changed, max_increase_pct=9.0)) == 1


def test_every_miss_is_told() -> None:
    require = {
        "kl_mean": Requirement(max=0, min=1),
        "top1_agreement": Requirement(min=1),
        "unknown": Requirement(max=1),
    }
    assert len(find_misses(require, METRICS)) == 4
    assert find_misses(require, {})[0] == "kl_mean was not measured (measured: nothing)"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"require": {}}, "at least 1 item"),
        ({"require": {"kl_mean": {}}}, "give at least one of max, min and max_increase_pct"),
        ({"require": {"kl_mean": {"max": math.nan}}}, "limits must be finite numbers"),
        ({"require": {"kl_mean": {"max": math.inf}}}, "limits must be finite numbers"),
        ({"require": {"kl_mean": 0.1}}, "valid dictionary"),
        ({"require": {"kl": {"max": 1}}}, "there is no metric 'kl'"),
        ({"require": {"kl_mean": {"confident": True}}}, "give at least one of max, min and"),
        ({"require": {"by_category.x.kl": {"max": 1}}}, "there is no metric 'kl'"),
        ({"require": {"perplexit": {"max": 1}}}, "did you mean perplexity"),
        ({"model": None}, "give model, or metrics_of"),
        ({"model": None, "data": None}, "give model, data, or metrics_of"),
        ({"metrics_of": "other"}, "metrics_of takes no model, baseline or data"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    gate = {
        "uses": "eval.gate",
        "model": "quantize",
        "baseline": "base",
        "data": "heldout",
        "require": {"kl_mean": {"max": 0.1}},
    }
    assert EvalGate.model_validate(gate).require["kl_mean"].max == 0.1
    with pytest.raises(ValidationError, match=message):
        EvalGate.model_validate({**gate, **fields})


def test_limits_are_no_part_of_what_is_measured() -> None:
    def gate(limit: float) -> EvalGate:
        require = {"nll": {"max": limit}}
        return EvalGate.model_validate(
            {"uses": "eval.gate", "metrics_of": "score", "require": require}
        )

    assert gate(1).identity_settings() == gate(2).identity_settings()
    assert gate(1).settings() != gate(2).settings()


@pytest.mark.parametrize(
    ("metric", "limits", "text"),
    [
        ("kl_mean", {"max": 0.02}, "kl_mean 0.01 (max 0.02)"),
        ("kl_mean", {"max": 0.002}, "kl_mean 0.01 (max 0.002)"),
        ("top1_agreement", {"min": 0.9}, "top1_agreement 0.95 (min 0.9)"),
        (
            "perplexity",
            {"max": 12.0, "max_increase_pct": 5},
            "perplexity 11 (max 12, at most 5 % above the baseline's 10)",
        ),
        ("kl_p99", {"max": 1.0}, "kl_p99 not measured (max 1)"),
    ],
)
def test_a_value_stands_beside_its_limits(metric: str, limits: dict[str, float], text: str) -> None:
    assert list_required({metric: Requirement(**limits)}, METRICS) == [text]


def test_a_confident_limit_shows_the_interval() -> None:
    require = {"default.kl_mean": Requirement(max=0.5, confident=True)}
    (text,) = list_required(require, {"default": {**METRICS, "kl_mean_ci": [0.008, 0.012]}})
    assert text == "default.kl_mean 0.01 [0.008, 0.012] (max 0.5, the whole interval)"
