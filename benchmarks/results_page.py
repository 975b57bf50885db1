"""Tables in Markdown, and their place in docs/benchmarks.md."""

from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def replace_between_markers(text: str, name: str, content: str) -> str:
    """Returns the text with new content between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.

    Raises:
        ValueError: The markers do not stand there once each, in order.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end or begin in after or end in before + after:
        raise ValueError(f"want {begin} and then {end}, once each")
    return f"{before}{begin}\n{content}\n{end}{after}"


def write_between_markers(page: Path, name: str, content: str) -> None:
    """Does so in a file.

    Raises:
        ValueError: The markers do not stand there once each, in order.
    """
    text = page.read_text(encoding="utf-8")
    page.write_text(replace_between_markers(text, name, content), encoding="utf-8")
