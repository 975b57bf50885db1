"""Confidence intervals by a paired bootstrap over documents.

Tokens of one document depend on each other, so whole documents are drawn with replacement.
Every metric is a ratio of sums over documents, so only those sums are kept. The same draws
serve the candidate and its baseline, and all candidates of a comparison: their differences
are paired. Of the resampled values the central part is taken, widened for how few documents
there are (Hesterberg 2015, "What teachers should know about the bootstrap", the expanded
percentile interval), with Kish's effective number of documents since their lengths differ.

The 99th percentile needs more than sums: each document keeps how many of its tokens lie at or
below each of at most 512 values, three quarters of them spread over the highest 5 % of all
tokens, 0.013 % of the tokens apart. A resample's percentile lies where 99 % of its tokens are
at or below, between two values by linear interpolation. For very many documents the values are
fewer, so that the counts stay within 64 MiB.

Shapes: R = resamples, N = documents, S = sums, K = values counted at.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from llmopt.evaluate.scoring import TokenScores

SEED = 0
CONFIDENCE = 0.95
MIN_DOCUMENTS = 5  # fewer say too little of how documents vary for an interval to be right
PERCENTILE, TAIL = 0.99, 0.95
NUM_BODY_VALUES, NUM_TAIL_VALUES = 128, 384
MAX_HELD = 2**23  # numbers in one array of draws or counts, 64 MiB
MAX_EXPONENT = 700.0  # exp of more is no float64
NORMAL = NormalDist()

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Resampled:
    """One metric over resamples of the documents.

    Attributes:
        drawn_R: Its value over each resample.
        effective_documents: How many documents of equal length would vary as much.
    """

    drawn_R: Floats
    effective_documents: float

    def minus(self, other: "Resampled") -> "Resampled":
        """Returns the paired difference: what both have in common falls out."""
        return Resampled(self.drawn_R - other.drawn_R, self.effective_documents)

    def interval(self) -> list[JsonValue]:
        """Returns the 95 % interval as [low, high]."""
        outside = _expand_tail(self.effective_documents)
        low, high = np.quantile(self.drawn_R, [outside, 1 - outside])
        return [float(low), float(high)]


def _expand_tail(effective_documents: float) -> float:
    """Returns the share left out at each end: less than 2.5 %, as Student's t lies beyond normal.

    The quantile of t is the expansion in Abramowitz and Stegun 26.7.5.
    """
    count = max(effective_documents, 2.0)
    z, degrees = NORMAL.inv_cdf((1 + CONFIDENCE) / 2), count - 1
    t = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    return NORMAL.cdf(-t * math.sqrt(count / degrees))


def resample(scores: TokenScores, num_samples: int) -> dict[str, Resampled]:
    """Computes each metric on `num_samples` resamples of the documents.

    Returns:
        Metric → its values, the same draws at the same place for every call with as many
        documents; nothing for fewer than 5 documents.
    """
    documents = _Documents.gather(scores)
    tokens_N = documents.sums_NS[:, 0]
    if len(tokens_N) < MIN_DOCUMENTS:
        return {}
    effective = float(tokens_N.sum() ** 2 / (tokens_N**2).sum())
    drawn = [documents.weigh(drawn_RN) for drawn_RN in _draw(len(tokens_N), num_samples)]
    return {
        name: Resampled(np.concatenate([part[name] for part in drawn]), effective)
        for name in drawn[0]
    }


def _draw(num_documents: int, num_samples: int) -> Iterator[Floats]:
    """Yields how often each document is drawn, [R, N] in parts of bounded size."""
    generator = np.random.default_rng(SEED)
    shares = np.full(num_documents, 1 / num_documents)
    size = max(MAX_HELD // num_documents, 1)
    for start in range(0, num_samples, size):
        count = min(size, num_samples - start)
        yield generator.multinomial(num_documents, shares, count).astype(np.float64)


@dataclass(frozen=True)
class _Documents:
    """What is kept of each document; `names` says of what the columns are sums, tokens first."""

    names: tuple[str, ...]
    sums_NS: Floats
    counts: "_Counts | None"

    @classmethod
    def gather(cls, scores: TokenScores) -> "_Documents":
        _, document = np.unique(scores.document, return_inverse=True)
        sums: dict[str, Floats] = {"tokens": np.bincount(document).astype(np.float64)}
        for name in ("nll", "baseline_nll", "kl", "agrees"):
            values = getattr(scores, name)
            if values is not None:
                sums[name] = np.bincount(document, weights=values).astype(np.float64)
        counts = None
        if scores.kl is not None:
            counts = _Counts.gather(scores.kl, document, len(sums["tokens"]))
        return cls(tuple(sums), np.stack(list(sums.values()), axis=1), counts)

    def weigh(self, drawn_RN: Floats) -> dict[str, Floats]:
        """Returns metric → [R], each document taken so many times."""
        metrics = self._divide(drawn_RN @ self.sums_NS)
        if self.counts is not None:
            size = max(MAX_HELD // len(self.counts.values_K), 1)
            parts = [drawn_RN[start : start + size] for start in range(0, len(drawn_RN), size)]
            metrics["kl_p99"] = np.concatenate(
                [self.counts.find_percentile(part @ self.counts.at_most_NK) for part in parts]
            )
        return metrics

    def _divide(self, sums_RS: Floats) -> dict[str, Floats]:
        sums = dict(zip(self.names, sums_RS.T, strict=True))
        nll = sums["nll"] / sums["tokens"]
        metrics = {"perplexity": np.exp(np.minimum(nll, MAX_EXPONENT))}
        if "baseline_nll" in sums:
            baseline_nll = sums["baseline_nll"] / sums["tokens"]
            increase = np.minimum(nll - baseline_nll, MAX_EXPONENT)
            metrics |= {
                "baseline_perplexity": np.exp(np.minimum(baseline_nll, MAX_EXPONENT)),
                "perplexity_increase_pct": 100 * np.expm1(increase),
                "kl_mean": sums["kl"] / sums["tokens"],
                "top1_agreement": sums["agrees"] / sums["tokens"],
            }
        return metrics


@dataclass(frozen=True)
class _Counts:
    """How many tokens of each document lie at or below each of some values."""

    values_K: Floats
    at_most_NK: Floats

    @classmethod
    def gather(cls, values: Floats, document: NDArray[np.int64], num_documents: int) -> "_Counts":
        coarser = math.ceil(num_documents * (NUM_BODY_VALUES + NUM_TAIL_VALUES) / MAX_HELD)
        values_K = _choose_values(values, coarser)
        place = np.searchsorted(values_K, values)  # the first of the K that it does not exceed
        cells = document * len(values_K) + place
        counts = np.bincount(cells, minlength=num_documents * len(values_K))
        counts_NK = counts.reshape(num_documents, len(values_K))
        return cls(values_K, np.cumsum(counts_NK, axis=1, dtype=np.float64))

    def find_percentile(self, at_most_RK: Floats) -> Floats:
        """Returns [R], the value that 99 % of so many tokens lie at or below."""
        wanted_R = PERCENTILE * at_most_RK[:, -1]
        above_R = (at_most_RK < wanted_R[:, None]).sum(axis=1)
        below_R = np.maximum(above_R - 1, 0)
        row_R = np.arange(len(at_most_RK))
        count_R = at_most_RK[row_R, above_R] - at_most_RK[row_R, below_R]
        past_R = (wanted_R - at_most_RK[row_R, below_R]) / np.where(count_R > 0, count_R, 1)
        step_R = self.values_K[above_R] - self.values_K[below_R]
        return np.asarray(self.values_K[below_R] + step_R * past_R)


def _choose_values(values: Floats, coarser: int) -> Floats:
    """Chooses at most 512 / `coarser` of the values, dense in the tail, the largest among them."""
    num_body, num_tail = NUM_BODY_VALUES // coarser + 1, NUM_TAIL_VALUES // coarser + 1
    if len(values) <= num_body + num_tail:
        return np.unique(values)
    body, tail = np.linspace(0, TAIL, num_body, endpoint=False), np.linspace(TAIL, 1, num_tail)
    return np.unique(np.quantile(values, [*body, *tail], method="higher"))
