"""Rows that are no documents, and documents that hold next to nothing."""

from collections.abc import Sequence

from llmopt.data.lint.finding import Finding, Place, report_places
from llmopt.data.lint.rows import ReadRows, Row
from llmopt.data.text_measures import WHITESPACE

SHORT_CHARACTERS = 20  # visible ones; a document below it calibrates next to nothing


def report_malformed(read: ReadRows) -> Finding:
    """Reports the rows that could not be read."""
    total = len(read.rows) + len(read.malformed)
    if not read.malformed:
        return Finding("rows", "info", f"all {total:,} can be read")
    message = f"{len(read.malformed):,} of {total:,} rows can't be read"
    return Finding("rows", "error", message, read.malformed)


def find_short(rows: Sequence[Row]) -> list[Finding]:
    """Finds documents without a visible character, and those with fewer than 20."""
    visible = [(row, len(WHITESPACE.sub("", row.text))) for row in rows]
    empty = [Place(row.origin) for row, length in visible if not length]
    short = [
        Place(row.origin, f"{length} characters")
        for row, length in visible
        if 0 < length < SHORT_CHARACTERS
    ]
    verb = f"have fewer than {SHORT_CHARACTERS} characters"
    return [
        report_places("empty", "error", empty, len(rows), "are empty"),
        report_places("short", "warning", short, len(rows), verb),
    ]
