"""Sums per-token scores up into the metrics that reports and gates speak of."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from llmopt.errors import NumericalError
from llmopt.evaluate.bootstrap import resample
from llmopt.evaluate.scoring import TokenScores

MAX_NLL = 700.0  # nats; a perplexity beyond e^709 is no float64
WITH_INTERVAL = (
    "perplexity", "baseline_perplexity", "perplexity_increase_pct", "kl_mean", "kl_p99",
    "top1_agreement",
)  # fmt: skip


def summarise(
    scores: TokenScores, categories: Sequence[str], bootstrap_samples: int
) -> dict[str, JsonValue]:
    """Returns all metrics, and the same per category of document.

    Args:
        scores: Per-token scores.
        categories: The category of each document.
        bootstrap_samples: Resamples of the documents that intervals come from.

    Returns:
        `perplexity` = exp(mean nll), `num_tokens`, `num_documents`; with a baseline also
        `baseline_perplexity`, `perplexity_increase_pct`, `kl_mean` and `kl_p99` (nats per
        token) and `top1_agreement` (share of tokens); for each of these METRIC its 95 %
        interval `METRIC_ci`, [low, high], or None for fewer than 5 documents; `by_category`
        the same per category.

    Raises:
        NumericalError: A model is so far off that its perplexity is no number.
    """
    metrics = _summarise_part(scores) | _intervals(scores, bootstrap_samples)
    names = np.array(categories)[scores.document]
    by_category: dict[str, JsonValue] = {}
    for category in np.unique(names):
        part = scores.select(names == category)
        by_category[str(category)] = _summarise_part(part) | _intervals(part, bootstrap_samples)
    return {**metrics, "by_category": by_category}


def summarise_documents(
    scores: TokenScores, origins: Sequence[str], categories: Sequence[str]
) -> list[dict[str, JsonValue]]:
    """Returns one row per scored document, for statistics over documents."""
    rows: list[dict[str, JsonValue]] = []
    for index in np.unique(scores.document):
        part = _summarise_part(scores.select(scores.document == index))
        rows.append({"origin": origins[index], "category": categories[index], **part})
    return rows


def _summarise_part(scores: TokenScores) -> dict[str, JsonValue]:
    nll = _mean_nll(scores.nll)
    metrics: dict[str, JsonValue] = {
        "num_tokens": len(scores.nll),
        "num_documents": len(np.unique(scores.document)),
        "nll": nll,
        "perplexity": math.exp(nll),
    }
    if scores.baseline_nll is not None and scores.kl is not None and scores.agrees is not None:
        baseline_nll = _mean_nll(scores.baseline_nll)
        metrics |= {
            "baseline_perplexity": math.exp(baseline_nll),
            "perplexity_increase_pct": 100 * math.expm1(nll - baseline_nll),
            "kl_mean": float(scores.kl.mean()),
            "kl_p99": float(np.quantile(scores.kl, 0.99)),
            "top1_agreement": float(scores.agrees.mean()),
        }
    return metrics


def _intervals(scores: TokenScores, bootstrap_samples: int) -> dict[str, JsonValue]:
    resampled = resample(scores, bootstrap_samples)
    measured = WITH_INTERVAL if scores.kl is not None else WITH_INTERVAL[:1]
    return {
        f"{metric}_ci": resampled[metric].interval() if metric in resampled else None
        for metric in measured
    }


def _mean_nll(nll: NDArray[np.float64]) -> float:
    mean = float(nll.mean())
    if mean > MAX_NLL:
        raise NumericalError(
            f"the mean negative log-likelihood is {mean:.6g} nats per token: the model is broken",
            remedy="run `llmopt verify` on it",
        )
    return mean
