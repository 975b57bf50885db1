import math

import numpy as np
import pytest

from llmopt.errors import NumericalError
from llmopt.evaluate.metrics import summarise, summarise_documents
from llmopt.evaluate.scoring import TokenScores

DOCUMENT = np.array([0, 0, 0, 2, 2])
NLL = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
BASELINE_NLL = np.array([1.0, 2.0, 2.5, 4.0, 4.5])
KL = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
AGREES = np.array([True, True, False, True, False])
CATEGORIES = ["検品", "unused", "寸法表"]


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    metrics = summarise(TokenScores(DOCUMENT, NLL), CATEGORIES, 100)
    assert metrics["perplexity"] == pytest.approx(math.exp(3))
    assert metrics["nll"] == pytest.approx(3)
    assert (metrics["num_tokens"], metrics["num_documents"]) == (5, 2)
    names = {"perplexity", "perplexity_ci", "nll", "num_tokens", "num_documents", "by_category"}
    assert metrics.keys() == names
    assert metrics["perplexity_ci"] is None  # two documents say nothing of how they vary


def test_baseline_brings_the_distances() -> None:
    metrics = summarise(TokenScores(DOCUMENT, NLL, BASELINE_NLL, KL, AGREES), CATEGORIES, 100)
    assert metrics["baseline_perplexity"] == pytest.approx(math.exp(2.8))
    increase = 100 * (math.exp(3) / math.exp(2.8) - 1)
    assert metrics["perplexity_increase_pct"] == pytest.approx(increase)
    assert metrics["kl_mean"] == pytest.approx(0.2)
    assert metrics["kl_p99"] == pytest.approx(np.quantile(KL, 0.99))
    assert metrics["top1_agreement"] == pytest.approx(0.6)


def test_categories_are_summed_up_apart() -> None:
    metrics = summarise(TokenScores(DOCUMENT, NLL, BASELINE_NLL, KL, AGREES), CATEGORIES, 100)
    by_category = metrics["by_category"]
    assert set(by_category) == {"検品", "寸法表"}  # what has no scored token has no figures
    assert by_category["検品"]["perplexity"] == pytest.approx(math.exp(2))
    assert by_category["検品"]["num_tokens"] == 3
    assert by_category["寸法表"]["kl_mean"] == pytest.approx(0.35)
    assert by_category["寸法表"]["top1_agreement"] == pytest.approx(0.5)


def test_documents_of_one_category_are_pooled_by_token() -> None:
    metrics = summarise(TokenScores(DOCUMENT, NLL), ["a", "b", "a"], 100)
    assert metrics["by_category"]["a"]["nll"] == pytest.approx(3)
    assert metrics["by_category"]["a"]["num_documents"] == 2


def test_rows_of_documents_name_their_origin() -> None:
    scores = TokenScores(DOCUMENT, NLL, BASELINE_NLL, KL, AGREES)
    rows = summarise_documents(scores, ["f:1", "f:2", "f:3"], CATEGORIES)
    assert [(row["origin"], row["category"], row["num_tokens"]) for row in rows] == [
        ("f:1", "検品", 3),
        ("f:3", "寸法表", 2),
    ]
    assert [row["nll"] for row in rows] == pytest.approx([2, 4.5])


@pytest.mark.parametrize("broken", ["candidate", "baseline"])
def test_perplexity_that_is_no_number_is_an_error(broken: str) -> None:
    huge = NLL + 1000
    nll, baseline_nll = (huge, BASELINE_NLL) if broken == "candidate" else (NLL, huge)
    with pytest.raises(NumericalError, match="log-likelihood is 1003 nats per token"):
        summarise(TokenScores(DOCUMENT, nll, baseline_nll, KL, AGREES), CATEGORIES, 100)
