"""What a set is made of."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmopt.data.lint.rows import Row
from llmopt.data.lint.scripts import count_scripts, measure_shares

# As the data cards part them: characters at least, and the band's name.
LENGTH_BANDS = (
    (0, "under 250"),
    (250, "250-899"),
    (900, "900-1,499"),
    (1500, "1,500 and more"),
)
NO_LANGUAGE = "not said"


@dataclass(frozen=True)
class Share:
    """Part of a set.

    Attributes:
        documents: How many documents.
        characters: Their characters, whitespace included.
    """

    documents: int
    characters: int


@dataclass(frozen=True)
class Composition:
    """What a set is made of; each table by name, the greatest first but for length.

    Attributes:
        total: The whole set.
        categories: By category.
        languages: By the language that rows claim.
        forms: By text and messages.
        lengths: By characters.
        scripts: Share of each script in the visible characters.
    """

    total: Share
    categories: dict[str, Share]
    languages: dict[str, Share]
    forms: dict[str, Share]
    lengths: dict[str, Share]
    scripts: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON-like data."""
        return asdict(self)


def describe_composition(rows: Sequence[Row]) -> Composition:
    """Counts documents and characters by category, language, form, length and script."""
    lengths = _tabulate(rows, _find_band)
    return Composition(
        total=_add_up(rows),
        categories=_sort(_tabulate(rows, lambda row: row.document.category)),
        languages=_sort(_tabulate(rows, lambda row: row.lang or NO_LANGUAGE)),
        forms=_sort(_tabulate(rows, _find_form)),
        lengths={name: lengths[name] for _, name in LENGTH_BANDS if name in lengths},
        scripts=measure_shares(count_scripts(row.text for row in rows)),
    )


def _tabulate(rows: Iterable[Row], label: Callable[[Row], str]) -> dict[str, Share]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(label(row), []).append(row)
    return {name: _add_up(members) for name, members in groups.items()}


def _add_up(rows: Sequence[Row]) -> Share:
    return Share(len(rows), sum(len(row.text) for row in rows))


def _sort(table: dict[str, Share]) -> dict[str, Share]:
    return dict(sorted(table.items(), key=lambda item: (-item[1].documents, item[0])))


def _find_band(row: Row) -> str:
    return [name for least, name in LENGTH_BANDS if len(row.text) >= least][-1]


def _find_form(row: Row) -> str:
    return "text" if row.document.messages is None else "messages"
