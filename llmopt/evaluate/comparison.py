"""Compares candidates on the same documents: each one's metrics, and their paired differences."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from pydantic import JsonValue

from llmopt.evaluate.bootstrap import Resampled, resample
from llmopt.evaluate.metrics import summarise
from llmopt.evaluate.scoring import TokenScores


def compare_candidates(
    scores: Mapping[str, TokenScores], categories: Sequence[str], bootstrap_samples: int
) -> dict[str, dict[str, JsonValue]]:
    """Returns the metrics of each candidate, with its distance to the best one.

    The best candidate has the lowest `kl_mean`; one that equals the baseline, so that its KL is
    exactly 0, is a control and never the best unless all are.

    Args:
        scores: Candidate → its scores against the one baseline, tokens in the same order.
        categories: The category of each document.
        bootstrap_samples: Resamples of the documents.

    Returns:
        Candidate → what `summarise` returns and `kl_mean_over_best`, its `kl_mean` minus the
        best one's, with `kl_mean_over_best_ci`. An interval that holds 0 says that the
        documents show no difference.

    Raises:
        NumericalError: A model is so far off that its perplexity is no number.
    """
    found = {name: summarise(part, categories, bootstrap_samples) for name, part in scores.items()}
    means = {name: _kl_mean(part) for name, part in scores.items()}
    resampled = _resampled_means(scores, bootstrap_samples)
    best = min(means, key=lambda name: (means[name] == 0, means[name]))
    for name, metrics in found.items():
        metrics["kl_mean_over_best"] = means[name] - means[best]
        metrics["kl_mean_over_best_ci"] = _difference(resampled, name, best)
    return found


def compare_pairs(
    scores: Mapping[str, TokenScores], bootstrap_samples: int
) -> list[dict[str, JsonValue]]:
    """Returns the paired difference in `kl_mean` of every two candidates, with its interval.

    The intervals hold each for its own pair; they are not widened for how many pairs there are.
    """
    means = {name: _kl_mean(part) for name, part in scores.items()}
    resampled = _resampled_means(scores, bootstrap_samples)
    return [
        {
            "candidate": one,
            "other": other,
            "kl_mean_difference": means[one] - means[other],
            "kl_mean_difference_ci": _difference(resampled, one, other),
        }
        for one, other in combinations(scores, 2)
    ]


def _kl_mean(scores: TokenScores) -> float:
    assert scores.kl is not None
    return float(scores.kl.mean())


def _resampled_means(
    scores: Mapping[str, TokenScores], bootstrap_samples: int
) -> dict[str, Resampled | None]:
    return {name: resample(part, bootstrap_samples).get("kl_mean") for name, part in scores.items()}


def _difference(
    resampled: Mapping[str, Resampled | None], one: str, other: str
) -> list[JsonValue] | None:
    """Takes the difference in every resample, so that what both have in common falls out."""
    first, second = resampled[one], resampled[other]
    return None if first is None or second is None else first.minus(second).interval()
