"""Sums per-token scores up into the metrics that reports and gates speak of."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from llmopt.errors import NumericalError
from llmopt.evaluate.scoring import TokenScores

MAX_NLL = 700.0  # nats; a perplexity beyond e^709 is no float64


def summarise(scores: TokenScores, categories: Sequence[str]) -> dict[str, JsonValue]:
    """Returns all metrics, and the main ones per category of document.

    Args:
        scores: Per-token scores.
        categories: The category of each document.

    Returns:
        `perplexity` = exp(mean nll), `num_tokens`, `num_documents`; with a baseline also
        `baseline_perplexity`, `perplexity_increase_pct`, `kl_mean` and `kl_p99` (nats per
        token) and `top1_agreement` (share of tokens); `by_category` the same per category.

    Raises:
        NumericalError: A model is so far off that its perplexity is no number.
    """
    metrics = _summarise_part(scores, np.ones(len(scores.nll), dtype=bool))
    names = np.array(categories)[scores.document]
    metrics["by_category"] = {
        str(category): _summarise_part(scores, names == category) for category in np.unique(names)
    }
    return metrics


def summarise_documents(
    scores: TokenScores, origins: Sequence[str], categories: Sequence[str]
) -> list[dict[str, JsonValue]]:
    """Returns one row per scored document, for statistics over documents."""
    rows: list[dict[str, JsonValue]] = []
    for index in np.unique(scores.document):
        part = _summarise_part(scores, scores.document == index)
        rows.append({"origin": origins[index], "category": categories[index], **part})
    return rows


def _summarise_part(scores: TokenScores, chosen: NDArray[np.bool_]) -> dict[str, JsonValue]:
    nll = _mean_nll(scores.nll[chosen])
    metrics: dict[str, JsonValue] = {
        "num_tokens": int(chosen.sum()),
        "num_documents": len(np.unique(scores.document[chosen])),
        "nll": nll,
        "perplexity": math.exp(nll),
    }
    if scores.baseline_nll is not None and scores.kl is not None and scores.agrees is not None:
        baseline_nll = _mean_nll(scores.baseline_nll[chosen])
        metrics |= {
            "baseline_perplexity": math.exp(baseline_nll),
            "perplexity_increase_pct": 100 * math.expm1(nll - baseline_nll),
            "kl_mean": float(scores.kl[chosen].mean()),
            "kl_p99": float(np.quantile(scores.kl[chosen], 0.99)),
            "top1_agreement": float(scores.agrees[chosen].mean()),
        }
    return metrics


def _mean_nll(nll: NDArray[np.float64]) -> float:
    mean = float(nll.mean())
    if mean > MAX_NLL:
        raise NumericalError(
            f"the mean negative log-likelihood is {mean:.6g} nats per token: the model is broken",
            remedy="run `llmopt verify` on it",
        )
    return mean
