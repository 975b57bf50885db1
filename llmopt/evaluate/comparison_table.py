"""The table of a comparison in Markdown, readable as plain text too; imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = (
    "candidate", "KL mean", "KL p99", "top-1 agreement", "perplexity", "to baseline",
    "KL over best",
)  # fmt: skip


def write_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a Markdown table, the candidate nearest to the baseline first.

    Args:
        metrics: Candidate → its metrics, as `compare_candidates` returns them.
    """
    ranked = sorted(metrics, key=lambda name: metrics[name]["kl_mean"])
    rows = [HEADER, *(_row(name, metrics[name]) for name in ranked)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    rule = ["-" * width for width in widths]
    return "\n".join(_join(row, widths) for row in (rows[0], rule, *rows[1:]))


def format_interval(metrics: Mapping[str, Any], metric: str, digits: int, scale: float = 1) -> str:
    """Writes a metric's interval as ` [low, high]`, nothing where there is none."""
    found = metrics.get(f"{metric}_ci")
    if found is None:
        return ""
    low, high = (f"{scale * end:.{digits}f}" for end in found)
    return f" [{low}, {high}]"


def _row(name: str, metrics: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{metrics['kl_mean']:.6f}{format_interval(metrics, 'kl_mean', 6)}",
        f"{metrics['kl_p99']:.4f}{format_interval(metrics, 'kl_p99', 4)}",
        f"{100 * metrics['top1_agreement']:.2f} %"
        f"{format_interval(metrics, 'top1_agreement', 2, 100)}",
        f"{metrics['perplexity']:.3f}{format_interval(metrics, 'perplexity', 3)}",
        f"{metrics['perplexity_increase_pct']:+.2f} %"
        f"{format_interval(metrics, 'perplexity_increase_pct', 2)}",
        _describe_distance(metrics),
    )


def _describe_distance(metrics: Mapping[str, Any]) -> str:
    distance, found = metrics["kl_mean_over_best"], metrics["kl_mean_over_best_ci"]
    if metrics["kl_mean"] == 0:
        return "equals the baseline"
    if distance == 0:
        return "best"
    text = f"{distance:+.6f}{format_interval(metrics, 'kl_mean_over_best', 6)}"
    if found is None:
        return f"{text}, too few documents for an interval"
    low, high = found
    return f"{text}, no difference shown" if low <= 0 <= high else text


def _join(cells: Sequence[str], widths: Sequence[int]) -> str:
    return f"| {' | '.join(c.ljust(w) for c, w in zip(cells, widths, strict=True))} |"
