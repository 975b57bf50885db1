"""What `calibration lint` and `stats` print, as text for a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from unicodedata import east_asian_width

from llmopt.data.lint.composition import Composition, Share
from llmopt.data.lint.finding import Finding, Severity, count_severity, sort_findings

MARKS: dict[Severity, str] = {"error": "✗", "warning": "!", "info": "✓"}
PLACES_SHOWN = 5  # the rest is in --json
NAMES_WIDTH = 26


def describe_findings(findings: Sequence[Finding]) -> list[str]:
    """Writes findings as lines, the worst first, each with the first rows concerned."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in sort_findings(findings):
        lines.append(f"{MARKS[finding.severity]} {finding.check:<{width}}  {finding.message}")
        shown = finding.rows[:PLACES_SHOWN]
        names = max((measure_width(place.name) for place in shown), default=0)
        lines += [f"    {pad(place.name, names)}  {place.detail}".rstrip() for place in shown]
        if len(finding.rows) > len(shown):
            lines.append(f"    … and {len(finding.rows) - len(shown):,} more (--json lists all)")
    return lines


def describe_verdict(findings: Sequence[Finding], *, strict: bool) -> str:
    """Says in one line whether a set is fit for use."""
    errors, warnings = (count_severity(findings, kind) for kind in ("error", "warning"))
    counted = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    return f"{'not fit' if is_unfit(findings, strict=strict) else 'fit'}: {counted}"


def is_unfit(findings: Sequence[Finding], *, strict: bool) -> bool:
    """Tells whether findings forbid the set: errors do, under `strict` warnings too."""
    errors, warnings = (count_severity(findings, kind) for kind in ("error", "warning"))
    return errors > 0 or (strict and warnings > 0)


def describe_composition(composition: Composition, tokens: Mapping[str, int] | None) -> list[str]:
    """Writes the tables of a set's composition as lines."""
    tables = {
        "category": composition.categories,
        "language": composition.languages,
        "form": composition.forms,
        "length": composition.lengths,
    }
    lines = [f"{pad('', NAMES_WIDTH)}{'documents':>12}{'characters':>14}"]
    for title, table in tables.items():
        lines += [title, *_describe_table(table.items())]
    lines += _describe_table([("total", composition.total)])
    lines.append("script")
    for name, share in composition.scripts.items():
        lines.append(f"  {pad(name, NAMES_WIDTH - 2)}{share:>12.1%}")
    if tokens is not None:
        lines.append("tokens per document")
        lines += [f"  {pad(name, NAMES_WIDTH - 2)}{n:>12,}" for name, n in tokens.items()]
    return lines


def measure_width(text: str) -> int:
    """Returns how many columns of a terminal a text takes: wide characters take two."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def pad(text: str, width: int) -> str:
    """Fills a text up to a number of columns."""
    return text + " " * (width - measure_width(text))


def _describe_table(table: Iterable[tuple[str, Share]]) -> list[str]:
    return [
        f"  {pad(name, NAMES_WIDTH - 2)}{share.documents:>12,}{share.characters:>14,}"
        for name, share in table
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
