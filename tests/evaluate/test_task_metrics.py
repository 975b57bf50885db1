"""Shares over tasks and their intervals."""

import numpy as np
import pytest

from llmopt.evaluate.task_metrics import (
    Verdicts,
    interval_of_mean,
    interval_of_share,
    summarise_verdicts,
)

KINDS = ["json", "json", "copy", "json"]


def test_shares_overall_and_per_kind() -> None:
    right = np.array([True, False, True, False])
    before = np.array([True, True, True, False])
    agrees = np.array([True, False, True, True])
    metrics = summarise_verdicts(Verdicts(right, before, agrees), KINDS)
    expected = {
        "num_items": 4, "accuracy": 0.5, "baseline_accuracy": 0.75, "agreement": 0.75,
        "accuracy_change": -0.25, "num_items_json": 3, "accuracy_json": 1 / 3,
        "baseline_accuracy_json": 2 / 3, "agreement_json": 2 / 3, "num_items_copy": 1,
        "accuracy_copy": 1, "baseline_accuracy_copy": 1, "agreement_copy": 1,
    }  # fmt: skip
    intervals = [name for name in metrics if name.endswith("_ci")]
    assert {name: metrics[name] for name in metrics if name not in intervals} == expected
    for name in intervals:
        low, high = metrics[name]  # type: ignore[misc]
        assert low <= expected[name.removesuffix("_ci")] <= high  # type: ignore[operator]


def test_without_a_baseline_there_is_nothing_to_agree_with() -> None:
    metrics = summarise_verdicts(Verdicts(np.array([True, False, True, False])), KINDS)
    assert not any(
        "baseline" in name or "agreement" in name or "change" in name for name in metrics
    )


@pytest.mark.parametrize(
    ("hits", "items", "low", "high"),
    # The first three from R: prop.test(hits, items, correct = FALSE)
    [(15, 50, 0.1910, 0.4375), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_the_interval_of_a_share(hits: int, items: int, low: float, high: float) -> None:
    assert interval_of_share(hits, items) == pytest.approx((low, high), abs=5e-5)


def test_both_intervals_cover_the_truth() -> None:
    generator = np.random.default_rng(7)
    shares, means = [], []
    for _ in range(300):
        hits = generator.random(120) < 0.8
        low, high = interval_of_share(int(hits.sum()), 120)
        shares.append(low <= 0.8 <= high)
        low, high = interval_of_mean(generator.gamma(2.0, 1.5, 120))
        means.append(low <= 3.0 <= high)
    assert 0.91 <= np.mean(shares) <= 0.985
    assert 0.90 <= np.mean(means) <= 0.98


def test_an_interval_is_the_same_each_time() -> None:
    values = np.array([0.0, 1.0, 4.0, 2.0])
    assert interval_of_mean(values) == interval_of_mean(values)
    assert interval_of_mean(np.ones(5)) == (1.0, 1.0)
