"""How much of a field's vocabulary a set holds, by a list of terms."""

import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmopt.data.lint.finding import Finding, Place, Severity
from llmopt.errors import InputError

LEAST_COVERAGE = 0.5  # of all terms
MISSING_SHOWN = 8


class Term(BaseModel):
    """A term in Japanese and English, with other spellings in either."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ja: str = Field(min_length=1)
    en: str = Field(min_length=1)
    variants: tuple[str, ...] = ()


class TermList(BaseModel):
    """The terms of a field, in groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: str
    groups: dict[str, tuple[Term, ...]] = Field(min_length=1)


def read_terms(path: Path) -> TermList:
    """Reads a list of terms.

    Raises:
        InputError: There is no such file, or it is no list of terms.
    """
    try:
        return TermList.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"term list {path} does not exist") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"term list {path}: {place}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"term list {path} is not JSON in UTF-8: {error}") from None


def list_missing(texts: Iterable[str], terms: TermList) -> dict[str, list[str]]:
    """Lists by group the Japanese of the terms that no text holds in any spelling."""
    text = _fold("\n".join(texts))
    return {
        group: [
            term.ja
            for term in members
            if not any(_holds(text, _fold(name)) for name in (term.ja, term.en, *term.variants))
        ]
        for group, members in terms.groups.items()
    }


def report_coverage(texts: Iterable[str], terms: TermList) -> Finding:
    """Reports which share of the terms a set holds; a warning under one half."""
    missing = list_missing(texts, terms)
    total = sum(map(len, terms.groups.values()))
    covered = total - sum(map(len, missing.values()))
    places = tuple(
        Place(group, _describe_group(len(terms.groups[group]), names))
        for group, names in missing.items()
        if names
    )
    severity: Severity = "info" if covered >= LEAST_COVERAGE * total else "warning"
    message = f"{covered} of {total} {terms.field} terms occur ({covered / total:.0%})"
    return Finding("terms", severity, message, places)


def _describe_group(total: int, missing: list[str]) -> str:
    more = ["…"] * (len(missing) > MISSING_SHOWN)
    names = " ".join([*missing[:MISSING_SHOWN], *more])
    return f"{total - len(missing)} of {total}; missing: {names}"


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _holds(text: str, term: str) -> bool:
    """Tells whether a text holds a term; a Latin one as whole words, in singular or plural."""
    if not term.isascii():
        return term in text
    if term not in text:
        return False
    return re.search(rf"(?<![a-z0-9]){re.escape(term)}(?:s|es)?(?![a-z0-9])", text) is not None
