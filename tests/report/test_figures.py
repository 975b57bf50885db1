"""Digits, units and what is nested."""

from itertools import pairwise
from typing import Any

import pytest

from llmopt.report.composition import read_compositions
from llmopt.report.figures import (
    flatten_numbers,
    flatten_settings,
    format_figure,
    format_seconds,
    list_figures,
)
from llmopt.report.layers import parse_depth, parse_kind
from llmopt.report.plots import choose_ticks


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("weights_bytes", 5_678_120, "5.7 MB"),
        ("perplexity_increase_pct", -0.078, "-0.08 %"),
        ("top1_agreement", 0.97551, "97.55 %"),
        ("by_category.bom.exact_match", 0.5, "50.00 %"),
        ("lowest_snr_db", 28.4134, "28.4 dB"),
        ("total_s", 3725.0, "1 h 2 min"),
        ("num_tokens", 43285, "43,285"),
        ("perplexity", 1234.5678, "1,234.568"),
        ("kl_mean", 0.000681, "0.0006810"),
        ("kl_mean", 1.5e-9, "1.500e-09"),
        ("weight_mse", 0.0001384, "1.38e-04"),
        ("max_length", 1024, "1,024"),
    ],
)
def test_a_metrics_name_says_how_it_is_written(name: str, value: float, text: str) -> None:
    assert format_figure(name, value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 0 s"), (7261, "2 h 1 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_only_finite_numbers_are_figures() -> None:
    metrics: dict[str, Any] = {
        "kl_mean": 0.5,
        "kl_mean_ci": [0.4, 0.6],
        "nll": float("nan"),
        "name": "x",
        "flag": True,
        "perplexity": 2.0,
        "baseline_perplexity": 1.0,
        "baseline_only": 3.0,
        "perplexity_ci": None,
        "nested": {"deep": {"value": 7}},
    }
    figures = {figure.name: figure for figure in list_figures(metrics)}
    assert list(figures) == ["kl_mean", "perplexity", "baseline_only"]
    assert figures["kl_mean"].interval == (0.4, 0.6)
    assert (figures["perplexity"].interval, figures["perplexity"].baseline) == (None, 1.0)
    flat = {figure.name: figure.value for figure in flatten_numbers(metrics)}
    assert flat["nested.deep.value"] == 7
    assert set(flat) == {
        "kl_mean", "perplexity", "baseline_perplexity", "baseline_only", "nested.deep.value",
    }  # fmt: skip


def test_nested_settings_show_what_is_set() -> None:
    settings: dict[str, Any] = {"a": None, "require": {"kl": {"max": 1, "min": None}}, "e": {}}
    assert flatten_settings(settings) == {"a": None, "require.kl.max": 1, "e": {}}


@pytest.mark.parametrize(
    ("low", "high"), [(0, 5), (28.4, 51.2), (-3, -3), (0, 0), (1e-9, 3e-9), (0, 79), (5, 5.001)]
)
def test_ticks_enclose_what_they_measure(low: float, high: float) -> None:
    ticks = choose_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 9
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in pairwise(ticks)}
    assert steps == {1}


def test_layers_are_known_by_name() -> None:
    expert = "model.layers.17.mlp.experts.9.down_proj"
    assert (parse_depth(expert), parse_kind(expert)) == (17, "down")
    mixtral = "model.layers.3.block_sparse_moe.experts.5."
    assert [parse_kind(mixtral + name) for name in ("w1", "w2", "w3")] == ["gate", "down", "up"]
    assert parse_depth(mixtral + "w1") == 3
    assert (parse_depth("lm_head"), parse_kind("lm_head")) == (0, "lm_head")


def test_the_parts_of_a_mix_are_told_apart() -> None:
    origin = "set=apparel-ja samples=64 mix(set=apparel-ja split=heldout weight=0.2)"
    first, second = read_compositions(origin, None)
    assert (first.source, first.file_name) == ("set=apparel-ja", "calibration.jsonl")
    assert (second.source, second.file_name) == ("set=apparel-ja split=heldout", "heldout.jsonl")
    assert sum(share.num_documents for share in first.shares) >= 300
    assert {share.num_tokens for share in second.shares} == {None}
