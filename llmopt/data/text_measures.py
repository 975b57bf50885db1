"""What the text of a document is like: how Japanese, and how much of it another set holds too.

Torch-free and made of plain strings, so that preflight and lint can use the same measures.
"""

import re
from collections.abc import Iterable, Iterator, Set

OVERLAP_LENGTH = 30  # characters of the sequences whose recurrence counts as overlap
JAPANESE_SHARE = 0.3  # of a document's visible characters

JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff々]")
HEADING = re.compile(r"^[ \t]{0,3}#{1,6}[ \t].*$", re.MULTILINE)
TABLE_RULE = re.compile(r"\|?(?:\s*:?-{2,}:?\s*\|)+(?:\s*:?-{2,}:?)?")
JSON_KEY = re.compile(r'"(?:[^"\\\n]|\\.)*"\s*:')
JSON_PUNCTUATION = re.compile(r'[{}\[\]",:]+')
WHITESPACE = re.compile(r"\s+")


def is_japanese(text: str) -> bool:
    """Tells whether kana and kanji are over 30 % of the characters, whitespace left out."""
    return measure_japanese(text) > JAPANESE_SHARE


def measure_japanese(text: str) -> float:
    """Returns the share of kana and kanji among the characters, whitespace left out, 0 to 1."""
    visible = WHITESPACE.sub("", text)
    return len(JAPANESE.findall(visible)) / len(visible) if visible else 0.0


def collapse(text: str) -> str:
    """Leaves out what documents share by their form alone.

    That is whitespace (so a text wrapped otherwise stays the same text), Markdown headings and
    table rules, JSON keys and JSON punctuation.
    """
    for pattern in (HEADING, TABLE_RULE, JSON_KEY, JSON_PUNCTUATION, WHITESPACE):
        text = pattern.sub("", text)
    return text


def list_sequences(text: str, length: int) -> Iterator[str]:
    """Lists the sequences of `length` characters; a shorter text is one sequence, an empty none."""
    starts = range(max(1, len(text) - length + 1)) if text else ()
    return (text[start : start + length] for start in starts)


def collect_sequences(texts: Iterable[str], wanted: Set[str] | None = None) -> set[str]:
    """Collects the collapsed texts' sequences of 30 characters.

    Args:
        texts: The texts.
        wanted: Keep only these, so that a large set costs the memory of the small one that it
            is held against.
    """
    found: set[str] = set()
    for text in texts:
        own = set(list_sequences(collapse(text), OVERLAP_LENGTH))
        found |= own if wanted is None else own & wanted
    return found


def measure_overlap(text: str, known: Set[str]) -> float:
    """Returns which share of a text's distinct 30-character sequences `known` holds, 0 to 1.

    `known` is what `collect_sequences` made of the other set.
    """
    own = set(list_sequences(collapse(text), OVERLAP_LENGTH))
    return len(own & known) / len(own) if own else 0.0
