"""Which scripts a set is written in."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

from llmopt.data.lint.finding import Finding, Place
from llmopt.data.lint.rows import Row
from llmopt.data.text_measures import JAPANESE_SHARE, measure_japanese

SCRIPTS = ("hiragana", "katakana", "kanji", "latin", "digits", "other")


def count_scripts(texts: Iterable[str]) -> dict[str, int]:
    """Counts visible characters by script; full-width and half-width forms count as their own."""
    characters: Counter[str] = Counter()
    for text in texts:
        characters.update(text)
    counts = dict.fromkeys(SCRIPTS, 0)
    for char, count in characters.items():
        if not char.isspace():
            counts[find_script(char)] += count
    return counts


@cache
def find_script(char: str) -> str:
    """Returns the script of one character, `other` for signs and further scripts."""
    name = unicodedata.name(char, "")
    if char.isdecimal():
        return "digits"
    if name.startswith("HIRAGANA"):
        return "hiragana"
    if name.startswith(("KATAKANA", "HALFWIDTH KATAKANA")):
        return "katakana"
    if (name.startswith("CJK ") and char.isalpha()) or char in "々〆":
        return "kanji"
    return "latin" if "LATIN" in name and char.isalpha() else "other"


def measure_shares(counts: dict[str, int]) -> dict[str, float]:
    """Turns counts into shares of their sum; zeros stay zeros."""
    total = sum(counts.values()) or 1
    return {name: count / total for name, count in counts.items()}


def report_scripts(rows: Sequence[Row]) -> Finding:
    """Reports the script mix; a warning where what claims to be Japanese is hardly that."""
    shares = measure_shares(count_scripts(row.text for row in rows))
    mix = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)
    claimed = [row for row in rows if row.lang == "ja"]
    share = measure_japanese("\n".join(row.text for row in claimed))
    if not claimed or share >= JAPANESE_SHARE:
        return Finding("scripts", "info", mix or "no text")
    places = tuple(
        Place(row.origin, f"{own:.0%} kana and kanji")
        for row in claimed
        if (own := measure_japanese(row.text)) < JAPANESE_SHARE
    )
    return Finding(
        "scripts",
        "warning",
        f"the {len(claimed):,} documents of lang ja are {share:.0%} kana and kanji, "
        f"under {JAPANESE_SHARE:.0%} ({mix})",
        places,
    )
