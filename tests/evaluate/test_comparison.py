"""Candidates in one table: who is best, and whether the documents show a difference."""

import numpy as np
import pytest

from llmopt.evaluate.comparison import compare_candidates, compare_pairs
from llmopt.evaluate.comparison_table import write_table
from llmopt.evaluate.scoring import TokenScores

NUM_DOCUMENTS = 60


def make_scores(
    factor: float, noise: float = 0.0, seed: int = 1, num_documents: int = NUM_DOCUMENTS
) -> TokenScores:
    """KL of documents that differ much, times a factor, with a candidate's own noise."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 200, num_documents)
    document = np.repeat(np.arange(num_documents), lengths)
    kl = rng.gamma(2.0, 0.01, num_documents)[document] * rng.exponential(1.0, len(document))
    own = np.random.default_rng(seed).uniform(1 - noise, 1 + noise, num_documents)[document]
    nll = rng.exponential(3.0, len(document))
    kl = factor * kl * own
    return TokenScores(document, nll + kl / 3, nll, kl, kl < 0.04)


def compare(**scores: TokenScores) -> dict[str, dict]:  # type: ignore[type-arg]
    categories = ["a"] * NUM_DOCUMENTS
    return compare_candidates(scores, categories, 400)


def test_a_small_difference_between_paired_candidates_is_seen() -> None:
    """The intervals of the two overlap; that of their difference does not hold 0."""
    found = compare(better=make_scores(1.0, 0.05), worse=make_scores(1.04, 0.05, seed=2))
    assert found["better"]["kl_mean_ci"][1] > found["worse"]["kl_mean_ci"][0]
    low, high = found["worse"]["kl_mean_over_best_ci"]
    assert 0 < low < found["worse"]["kl_mean_over_best"] < high
    assert found["better"]["kl_mean_over_best"] == 0
    assert found["better"]["kl_mean_over_best_ci"] == [0, 0]


def test_no_difference_is_said_where_there_is_none() -> None:
    found = compare(one=make_scores(1.0, 0.5), other=make_scores(1.0, 0.5, seed=2))
    worse = max(found, key=lambda name: found[name]["kl_mean"])
    low, high = found[worse]["kl_mean_over_best_ci"]
    assert low < 0 < high
    assert "no difference shown" in write_table(found)


def test_what_equals_the_baseline_is_a_control_and_not_the_best() -> None:
    found = compare(same=make_scores(0.0), good=make_scores(1.0), bad=make_scores(2.0))
    assert found["good"]["kl_mean_over_best"] == 0
    assert found["same"]["kl_mean_over_best"] < 0
    alone = compare(same=make_scores(0.0))
    assert alone["same"]["kl_mean_over_best"] == 0
    rows = write_table(found).splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["same", "good", "bad"]
    assert rows[2].rstrip("| ").endswith("equals the baseline")
    assert rows[3].rstrip("| ").endswith("best")
    assert "no difference" not in rows[4]


def test_every_pair_is_compared_once() -> None:
    scores = {"a": make_scores(1.0), "b": make_scores(2.0), "c": make_scores(3.0)}
    pairs = compare_pairs(scores, 200)
    assert [(pair["candidate"], pair["other"]) for pair in pairs] == [
        ("a", "b"), ("a", "c"), ("b", "c"),
    ]  # fmt: skip
    for pair in pairs:
        low, high = pair["kl_mean_difference_ci"]  # type: ignore[misc]
        assert low < pair["kl_mean_difference"] < high < 0  # type: ignore[operator]
    direct = compare(**scores)
    assert direct["b"]["kl_mean_over_best"] == pytest.approx(-pairs[0]["kl_mean_difference"])  # type: ignore[operator]


def test_too_few_documents_have_no_interval_and_say_so() -> None:
    scores = {
        "a": make_scores(1.0, num_documents=4),
        "b": make_scores(2.0, num_documents=4),
    }
    found = compare_candidates(scores, ["x"] * 4, 200)
    assert found["b"]["kl_mean_over_best_ci"] is None
    assert compare_pairs(scores, 200)[0]["kl_mean_difference_ci"] is None
    table = write_table(found)
    assert "too few documents for an interval" in table
    assert "[" not in table


def test_the_table_is_markdown_with_every_figure() -> None:
    found = compare(one=make_scores(1.0), other=make_scores(3.0))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in write_table(found).splitlines()
    ]
    assert {len(row) for row in rows} == {7}
    assert set("".join(rows[1])) == {"-"}
    one = found["one"]
    low, high = one["kl_mean_ci"]
    assert rows[2][:2] == ["one", f"{one['kl_mean']:.6f} [{low:.6f}, {high:.6f}]"]
    assert rows[2][3].startswith(f"{100 * one['top1_agreement']:.2f} % [")
