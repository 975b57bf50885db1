"""Tables in Markdown, and their place in docs/benchmarks.md."""

from collections.abc import Sequence
from pathlib import Path


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_between_markers(page: Path, name: str, content: str) -> None:
    """Replaces what stands between the markers `<!-- NAME -->` and `<!-- /NAME -->`.

    Raises:
        ValueError: The markers do not stand there once each, in order.
    """
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end or text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{page}: want {begin} and then {end}, once each")
    page.write_text(f"{before}{begin}\n{content}\n{end}{after}", encoding="utf-8")
