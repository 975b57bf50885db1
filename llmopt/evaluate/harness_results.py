"""Reads the results of lm-evaluation-harness."""

import math
from collections.abc import Mapping
from numbers import Real  # NumPy's floats are ones too
from typing import Any

from pydantic import JsonValue

NO_FILTER = "none"
TaskMetrics = dict[str, dict[str, JsonValue]]


def flatten_results(results: Mapping[str, Mapping[str, Any]], prefix: str) -> TaskMetrics:
    """Turns lm_eval's results into task → metric → number.

    lm_eval names a metric `acc,none`, or `exact_match,strict-match` where a filter took the answer
    out of the text; they become `acc` and `exact_match@strict-match`. What is no number is left
    out. `prefix` stands before each metric.
    """
    metrics: TaskMetrics = {}
    for task, figures in results.items():
        metrics[task] = {}
        for name, value in figures.items():
            metric, _, filter_name = name.partition(",")
            if filter_name and isinstance(value, Real) and math.isfinite(value):
                suffix = "" if filter_name == NO_FILTER else f"@{filter_name}"
                metrics[task][f"{prefix}{metric}{suffix}"] = float(value)
    return metrics
