"""lm_eval's results as llmopt's metrics."""

import numpy as np

from llmopt.evaluate.harness_results import flatten_results

RESULTS = {
    "arc": {
        "name": "arc", "alias": " - arc", "sample_len": 4, "acc,none": 0.5,
        "acc_stderr,none": "N/A", "acc_norm,none": np.float32(0.25), "bad,none": float("nan"),
    },
    "gsm8k": {"exact_match,strict-match": 0.125, "exact_match_stderr,strict-match": 0.1},
}  # fmt: skip


def test_metrics_are_numbers_by_task() -> None:
    assert flatten_results(RESULTS, "") == {
        "arc": {"acc": 0.5, "acc_norm": 0.25},
        "gsm8k": {"exact_match@strict-match": 0.125, "exact_match_stderr@strict-match": 0.1},
    }


def test_a_prefix_names_whose_they_are() -> None:
    assert flatten_results(RESULTS, "baseline_")["arc"] == {
        "baseline_acc": 0.5,
        "baseline_acc_norm": 0.25,
    }
