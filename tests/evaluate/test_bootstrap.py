"""Intervals: they cover the truth as often as they say, and pair what they compare."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from llmopt.evaluate.bootstrap import SEED, resample
from llmopt.evaluate.metrics import summarise
from llmopt.evaluate.scoring import TokenScores

NUM_WORLDS = 400
NUM_DOCUMENTS = 150
SHAPE = 10.0  # of the documents' KL rates: some documents are several times as bad as others
KL_SCALE = 0.01
AGREEMENT = 0.95
INCREASE = 0.02  # nats
NLL = 3.0
TRUTH = {
    # Exponential KL with Gamma(SHAPE) rates per document is a Lomax distribution over tokens.
    "kl_mean": KL_SCALE / (SHAPE - 1),
    "kl_p99": KL_SCALE * (0.01 ** (-1 / SHAPE) - 1),
    "top1_agreement": AGREEMENT,
    "perplexity": math.exp(NLL),
    "baseline_perplexity": math.exp(NLL - INCREASE),
    "perplexity_increase_pct": 100 * math.expm1(INCREASE),
}


def draw_scores(seed: int, num_documents: int = NUM_DOCUMENTS) -> TokenScores:
    """Draws documents of very unequal lengths from a world whose metrics are TRUTH."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(4.0, 0.7, num_documents).astype(int), 5, 400)
    document = np.repeat(np.arange(num_documents), lengths)
    rates = rng.gamma(SHAPE, 1 / KL_SCALE, num_documents)
    agreement = rng.beta(38, 2, num_documents)
    hardness = rng.normal(NLL, 0.4, num_documents)
    increase = rng.normal(INCREASE, 0.03, num_documents)
    num_tokens = len(document)
    nll = hardness[document] + rng.exponential(1.0, num_tokens) - 1
    return TokenScores(
        document,
        nll,
        nll - increase[document] - rng.normal(0, 0.05, num_tokens),
        rng.exponential(1.0, num_tokens) / rates[document],
        rng.random(num_tokens) < agreement[document],
    )


def repeat_documents(
    values: NDArray[np.float64], document: NDArray[np.int64], drawn: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Literally writes out one resample's tokens."""
    return np.repeat(values, drawn[document])


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """95 % of the time; with few documents and a skewed metric a little less often."""
    covered = dict.fromkeys(TRUTH, 0)
    for seed in range(NUM_WORLDS):
        resampled = resample(draw_scores(seed), 400)
        for metric, truth in TRUTH.items():
            low, high = resampled[metric].interval()
            covered[metric] += low <= truth <= high
    shares = {metric: count / NUM_WORLDS for metric, count in covered.items()}
    assert all(0.90 <= share <= 0.98 for share in shares.values()), shares


def test_tokens_in_place_of_documents_would_cover_too_seldom() -> None:
    """The test above can tell a right unit from a wrong one."""
    covered = 0
    for seed in range(60):
        scores = draw_scores(seed, 40)
        num_tokens = len(scores.nll)
        loose = TokenScores(np.arange(num_tokens), scores.nll)
        low, high = resample(loose, 100)["perplexity"].interval()
        covered += low <= TRUTH["perplexity"] <= high
    assert covered / 60 < 0.7


def test_every_resample_is_what_its_documents_written_out_give() -> None:
    scores = draw_scores(3)
    assert scores.baseline_nll is not None
    assert scores.kl is not None
    assert scores.agrees is not None
    resampled = resample(scores, 25)
    rng = np.random.default_rng(SEED)
    draws = rng.multinomial(NUM_DOCUMENTS, np.full(NUM_DOCUMENTS, 1 / NUM_DOCUMENTS), 25)
    for index, drawn in enumerate(draws):
        nll, baseline_nll, kl, agrees = (
            repeat_documents(values, scores.document, drawn)
            for values in (scores.nll, scores.baseline_nll, scores.kl, scores.agrees * 1.0)
        )
        expected = {
            "perplexity": math.exp(nll.mean()),
            "baseline_perplexity": math.exp(baseline_nll.mean()),
            "perplexity_increase_pct": 100 * math.expm1(nll.mean() - baseline_nll.mean()),
            "kl_mean": kl.mean(),
            "top1_agreement": agrees.mean(),
        }
        for metric, value in expected.items():
            assert resampled[metric].drawn_R[index] == pytest.approx(value, rel=1e-12)
        assert resampled["kl_p99"].drawn_R[index] == pytest.approx(np.quantile(kl, 0.99), rel=0.02)


def test_the_same_draws_every_time() -> None:
    one, other = resample(draw_scores(1), 50), resample(draw_scores(1), 50)
    for metric in one:
        np.testing.assert_array_equal(one[metric].drawn_R, other[metric].drawn_R)


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resample(draw_scores(1), 50)
    monkeypatch.setattr("llmopt.evaluate.bootstrap.MAX_HELD", NUM_DOCUMENTS * 7)
    parts = resample(draw_scores(1), 50)
    for metric in whole.keys() - {"kl_p99"}:  # counted at fewer values now
        np.testing.assert_allclose(parts[metric].drawn_R, whole[metric].drawn_R, rtol=1e-12)


def test_counts_for_many_documents_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer values to count at, the percentile is coarser, not wrong."""
    fine = resample(draw_scores(1), 400)["kl_p99"].interval()
    monkeypatch.setattr("llmopt.evaluate.bootstrap.MAX_HELD", NUM_DOCUMENTS * 64)
    coarse = resample(draw_scores(1), 400)["kl_p99"].interval()
    assert coarse == pytest.approx(fine, rel=0.03)
    assert coarse != fine


def test_what_both_models_share_falls_out_of_the_increase() -> None:
    metrics = summarise(draw_scores(5), ["x"] * NUM_DOCUMENTS, 400)
    low, high = metrics["perplexity_ci"]  # type: ignore[misc]
    increase_low, increase_high = metrics["perplexity_increase_pct_ci"]  # type: ignore[misc]
    share = 100 * (high - low) / TRUTH["perplexity"]  # type: ignore[operator]
    assert increase_high - increase_low < share / 5  # type: ignore[operator]


def test_a_model_against_itself_has_no_width() -> None:
    scores = draw_scores(2)
    itself = TokenScores(
        scores.document,
        scores.nll,
        scores.nll,
        np.zeros(len(scores.nll)),
        np.ones(len(scores.nll), dtype=bool),
    )
    metrics = summarise(itself, ["x"] * NUM_DOCUMENTS, 200)
    assert metrics["kl_mean_ci"] == metrics["kl_p99_ci"] == [0.0, 0.0]
    assert metrics["top1_agreement_ci"] == [1.0, 1.0]
    assert metrics["perplexity_increase_pct_ci"] == [0.0, 0.0]
    assert metrics["perplexity_ci"] == metrics["baseline_perplexity_ci"]


@pytest.mark.parametrize(("num_documents", "has_interval"), [(1, False), (4, False), (5, True)])
def test_few_documents_give_no_interval(num_documents: int, has_interval: bool) -> None:
    scores = draw_scores(0, num_documents)
    assert bool(resample(scores, 100)) is has_interval
    metrics = summarise(scores, ["x"] * num_documents, 100)
    found = [value for name, value in metrics.items() if name.endswith("_ci")]
    assert len(found) == len(TRUTH)
    assert all((value is not None) is has_interval for value in found)


def test_categories_have_their_own_intervals() -> None:
    scores = draw_scores(0, 13)
    categories = ["rare"] * 4 + ["common"] * 9
    by_category = summarise(scores, categories, 300)["by_category"]
    assert by_category["rare"]["kl_mean_ci"] is None  # type: ignore[index,call-overload]
    common = by_category["common"]  # type: ignore[index,call-overload]
    alone = summarise(scores.select(scores.document >= 4), categories, 300)
    assert common["kl_mean_ci"] == alone["kl_mean_ci"]  # type: ignore[index,call-overload]


def test_a_resampled_perplexity_is_always_a_number() -> None:
    scores = draw_scores(0, 6)
    nll = np.where(scores.document == 0, 4000.0, 1.0)
    (_, high) = resample(TokenScores(scores.document, nll), 500)["perplexity"].interval()
    assert math.isfinite(high)  # type: ignore[arg-type]
