"""Held-out documents that a set gives away."""

from collections import Counter
from collections.abc import Sequence

from llmopt.data.lint.finding import Finding, Place, count_documents, shorten_origin
from llmopt.data.lint.rows import Row
from llmopt.data.text_measures import collect_sequences, measure_overlap

MAX_OVERLAP = 0.1  # of a held-out document's 30-character sequences

CHECK = "heldout-overlap"


def find_overlap(rows: Sequence[Row], heldout: Sequence[Row]) -> Finding:
    """Finds held-out documents of whose 30-character sequences the set holds over 10 %."""
    if not heldout:
        return Finding(CHECK, "info", "not checked: no held-out set given")
    wanted = collect_sequences(row.text for row in heldout)
    known = collect_sequences((row.text for row in rows), wanted)
    shares = [(measure_overlap(row.text, known), row) for row in heldout]
    leaked = [(share, row) for share, row in shares if share > MAX_OVERLAP]
    if not leaked:
        greatest = max(share for share, _ in shares)
        return Finding(
            CHECK,
            "info",
            f"at most {greatest:.1%} of a held-out document's sequences are in the set "
            f"({count_documents(len(heldout))})",
        )
    sources = _find_sources(rows, [row for _, row in leaked])
    places = tuple(
        Place(row.origin, f"{share:.0%} of it, most in {shorten_origin(sources[row.origin])}")
        for share, row in sorted(leaked, key=lambda pair: -pair[0])
    )
    message = (
        f"{len(leaked):,} of {len(heldout):,} held-out documents have over {MAX_OVERLAP:.0%} of "
        "their sequences in the set"
    )
    return Finding(CHECK, "error", message, places)


def _find_sources(rows: Sequence[Row], leaked: Sequence[Row]) -> dict[str, str]:
    """Finds for each leaked document the row that holds most of it: origin → origin."""
    owners: dict[str, list[str]] = {}
    for row in leaked:
        for sequence in collect_sequences([row.text]):
            owners.setdefault(sequence, []).append(row.origin)
    counts: dict[str, Counter[str]] = {row.origin: Counter() for row in leaked}
    for row in rows:
        for sequence in collect_sequences([row.text], owners.keys()):
            for origin in owners[sequence]:
                counts[origin][row.origin] += 1
    return {origin: counter.most_common(1)[0][0] for origin, counter in counts.items()}
