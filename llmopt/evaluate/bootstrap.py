"""Confidence intervals by a paired bootstrap over documents.

Tokens of one document depend on each other, so whole documents are drawn with replacement
(Efron and Tibshirani 1993, chapters 8 and 13: percentile interval). Every metric is a ratio of
sums over documents, so only those sums are kept. The same draws serve the candidate and its
baseline, and all candidates of a comparison: their differences are paired.

The 99th percentile needs more than sums: each document keeps how many of its tokens lie at or
below each of at most 512 values, three quarters of them spread over the highest 5 % of all
tokens. A resample's percentile is the first value that 99 % of its tokens do not exceed. It is
exact for up to 512 tokens; beyond, two neighbouring values are 0.013 % of all tokens apart.

Shapes: R = resamples, N = documents, K = values that tokens are counted at.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from llmopt.evaluate.scoring import TokenScores

SEED = 0
CONFIDENCE = 0.95
MIN_DOCUMENTS = 5  # fewer say too little of how documents vary for an interval to be right
TAIL = 0.95
NUM_BODY_VALUES, NUM_TAIL_VALUES = 128, 384
MAX_HELD = 2**23  # numbers in one array of draws or counts, 64 MiB
MAX_EXPONENT = 700.0  # exp of more is no float64

Floats = NDArray[np.float64]


def resample(scores: TokenScores, num_samples: int) -> dict[str, Floats]:
    """Computes each metric on `num_samples` resamples of the documents.

    Returns:
        Metric → [R], the same draws at the same place for every call with as many documents;
        nothing for fewer than 5 documents.
    """
    _, document = np.unique(scores.document, return_inverse=True)
    sums: dict[str, Floats] = {"tokens": np.bincount(document).astype(np.float64)}
    for name in ("nll", "baseline_nll", "kl", "agrees"):
        values = getattr(scores, name)
        if values is not None:
            sums[name] = np.bincount(document, weights=values).astype(np.float64)
    num_documents = len(sums["tokens"])
    if num_documents < MIN_DOCUMENTS:
        return {}
    table = np.stack(list(sums.values()), axis=1)
    tail = None if scores.kl is None else _TailCounts.count(scores.kl, document, num_documents)
    parts = [
        _metrics_of(dict(zip(sums, (drawn_RN @ table).T, strict=True)))
        | ({} if tail is None else {"kl_p99": tail.find_percentile(drawn_RN, 0.99)})
        for drawn_RN in _draw(num_documents, num_samples)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval(values_R: Floats | None) -> list[JsonValue] | None:
    """Returns the central 95 % of resampled values as [low, high]; None for none."""
    if values_R is None:
        return None
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values_R, [outside, 1 - outside])
    return [float(low), float(high)]


def _draw(num_documents: int, num_samples: int) -> Iterator[Floats]:
    """Yields how often each document is drawn, [R, N] in parts of bounded size."""
    generator = np.random.default_rng(SEED)
    shares = np.full(num_documents, 1 / num_documents)
    size = max(MAX_HELD // num_documents, 1)
    for start in range(0, num_samples, size):
        count = min(size, num_samples - start)
        yield generator.multinomial(num_documents, shares, count).astype(np.float64)


def _metrics_of(sums: Mapping[str, Floats]) -> dict[str, Floats]:
    tokens = sums["tokens"]
    nll = sums["nll"] / tokens
    metrics = {"perplexity": np.exp(np.minimum(nll, MAX_EXPONENT))}
    if "kl" in sums:
        baseline_nll = sums["baseline_nll"] / tokens
        metrics |= {
            "baseline_perplexity": np.exp(np.minimum(baseline_nll, MAX_EXPONENT)),
            "perplexity_increase_pct": 100 * np.expm1(np.minimum(nll - baseline_nll, MAX_EXPONENT)),
            "kl_mean": sums["kl"] / tokens,
            "top1_agreement": sums["agrees"] / tokens,
        }
    return metrics


@dataclass(frozen=True)
class _TailCounts:
    """How many tokens of each document lie at or below each value, [N, K]."""

    values_K: Floats
    at_most_NK: Floats

    @classmethod
    def count(
        cls, values: Floats, document: NDArray[np.int64], num_documents: int
    ) -> "_TailCounts":
        coarser = math.ceil(num_documents * (NUM_BODY_VALUES + NUM_TAIL_VALUES) / MAX_HELD)
        values_K = _choose_values(values, coarser)
        place = np.searchsorted(values_K, values)  # the first of the K that it does not exceed
        cells = document * len(values_K) + place
        counts = np.bincount(cells, minlength=num_documents * len(values_K))
        counts_NK = counts.reshape(num_documents, len(values_K))
        return cls(values_K, np.cumsum(counts_NK, axis=1, dtype=np.float64))

    def find_percentile(self, drawn_RN: Floats, share: float) -> Floats:
        """Returns, per resample, the first value that at least `share` of its tokens keep to."""
        found = []
        size = max(MAX_HELD // len(self.values_K), 1)
        for start in range(0, len(drawn_RN), size):
            at_most_RK = drawn_RN[start : start + size] @ self.at_most_NK
            wanted_R1 = share * at_most_RK[:, -1:]
            found.append(self.values_K[(at_most_RK < wanted_R1).sum(axis=1)])
        return np.concatenate(found)


def _choose_values(values: Floats, coarser: int) -> Floats:
    """Chooses at most 512 / `coarser` of the values, dense in the tail, the largest among them."""
    num_body, num_tail = NUM_BODY_VALUES // coarser + 1, NUM_TAIL_VALUES // coarser + 1
    if len(values) <= num_body + num_tail:
        return np.unique(values)
    body, tail = np.linspace(0, TAIL, num_body, endpoint=False), np.linspace(TAIL, 1, num_tail)
    return np.unique(np.quantile(values, [*body, *tail], method="higher"))
