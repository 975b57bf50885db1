"""Characters that no sound Japanese text holds, and text that was read in the wrong encoding."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from llmopt.data.lint.finding import Finding, Place, Severity, report_places
from llmopt.data.lint.rows import Row
from llmopt.data.text_measures import JAPANESE

REPLACEMENT = "\ufffd"
BROKEN = ("Cc", "Cs", "Cn", REPLACEMENT)  # controls, halves of surrogate pairs, unassigned
DUBIOUS = ("Cf", "Co")  # invisible characters, private use
CATEGORY_NAMES = {
    "Cc": "control",
    "Cs": "half of a surrogate pair",
    "Cn": "unassigned",
    "Cf": "invisible",
    "Co": "private use",
    "So": "replacement character",
}
ALLOWED_CONTROLS = "\t\n\r"

# A byte as cp1252 shows it, and as latin-1 does, back to the byte.
BYTE_OF_LATIN = {
    ord(bytes([byte]).decode("cp1252", "replace")): byte
    for byte in range(0x80, 0xA0)
    if bytes([byte]).decode("cp1252", "replace") != REPLACEMENT
}
# Kana, CJK punctuation, kanji and full-width forms in UTF-8: three bytes each.
UTF8_JAPANESE = rb"(?:[\xe3-\xe9][\x80-\xbf]{2}|\xef[\xbc-\xbe][\x80-\xbf])"
# In Japanese encodings sound text can, very rarely, hold two such by chance.
TWO_JAPANESE = re.compile(UTF8_JAPANESE + rb"{2,}")
THREE_JAPANESE = re.compile(UTF8_JAPANESE + rb"{3,}")
# Read as EUC-JP, UTF-8 loses its bytes below 0xA0. What is left of a document is such characters
# to 12 % and more of its bytes; sound text and random kanji stay below 10 %.
ONE_JAPANESE = re.compile(UTF8_JAPANESE)
EUC_SHARE = 0.15
EUC_LEAST = 10

HALF_WIDTH = re.compile(r"[\uff61-\uff9f]")
HALF_WIDTH_SHARE = 0.1
HALF_WIDTH_LEAST = 20
KANJI = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
CODE_POINTS_SHOWN = 4
SAMPLE_LENGTH = 12


def find_character_faults(rows: Sequence[Row]) -> list[Finding]:
    """Finds broken and dubious characters, mojibake, half-width floods and foreign kanji."""
    total = len(rows)
    mojibake = [
        Place(row.origin, f"UTF-8 read as {encoding}: {sample!r}")
        for row in rows
        for encoding, sample in [find_mojibake(row.text) or ("", "")]
        if encoding
    ]
    half_width = [
        Place(row.origin, f"{share:.0%} of its characters")
        for row in rows
        if (share := measure_half_width(row.text)) > HALF_WIDTH_SHARE
    ]
    return [
        _report_characters("broken-unicode", "error", rows, BROKEN),
        report_places("mojibake", "error", mojibake, total, "were read in the wrong encoding"),
        _report_characters("dubious-unicode", "warning", rows, DUBIOUS),
        report_places(
            "half-width", "warning", half_width, total, "are full of half-width katakana"
        ),
        _report_foreign(rows),
    ]


def list_characters(text: str, kinds: Sequence[str]) -> Iterator[str]:
    """Lists the characters of some kinds: Unicode categories, or U+FFFD itself."""
    for char in text:
        kind = char if char == REPLACEMENT else unicodedata.category(char)
        if kind in kinds and char not in ALLOWED_CONTROLS:
            yield char


def find_mojibake(text: str) -> tuple[str, str] | None:
    """Finds Japanese in UTF-8 that was read in another encoding, by reading it back.

    What EUC-JP could not read is lost, so there the share of what reads back decides.

    Returns:
        The encoding, and the beginning of what the text should have been; None if it is sound.
    """
    for encoding, data, pattern in _list_readings(text):
        for match in pattern.finditer(data):
            meant = match.group().decode("utf-8")
            if JAPANESE.search(meant) and _is_in_windows(meant):
                return encoding, meant[:SAMPLE_LENGTH]
    remains = text.encode("euc_jp", "ignore")
    found = ONE_JAPANESE.findall(remains)
    if len(found) >= EUC_LEAST and 3 * len(found) > EUC_SHARE * sum(b > 0x7F for b in remains):
        return "euc_jp, in part", b"".join(found).decode("utf-8")[:SAMPLE_LENGTH]
    return None


def measure_half_width(text: str) -> float:
    """Returns the share of half-width katakana; 0 where they are fewer than 20."""
    count = len(HALF_WIDTH.findall(text))
    return count / len(text) if count >= HALF_WIDTH_LEAST else 0.0


def list_foreign_kanji(text: str) -> list[str]:
    """Lists the kanji that are in no Japanese character set (EUC-JP's, or Windows')."""
    return sorted(
        char
        for char in set(KANJI.findall(text))
        if not char.encode("euc_jp", "ignore") and not char.encode("cp932", "ignore")
    )


def _list_readings(text: str) -> Iterator[tuple[str, bytes, re.Pattern[bytes]]]:
    """Yields the bytes that the text may have been read from, by encoding."""
    if text.isascii():
        return
    latin = text.translate(BYTE_OF_LATIN).encode("latin-1", "replace")
    yield "latin-1 or cp1252", latin, TWO_JAPANESE
    for encoding in ("cp932", "euc_jp"):
        yield encoding, text.encode(encoding, "replace"), THREE_JAPANESE


def _report_characters(
    check: str, severity: Severity, rows: Sequence[Row], categories: Sequence[str]
) -> Finding:
    places = []
    for row in rows:
        counts = Counter(list_characters(row.text, categories))
        if counts:
            places.append(Place(row.origin, _describe_characters(counts)))
    named = "broken" if severity == "error" else "invisible or private"
    return report_places(check, severity, places, len(rows), f"hold {named} characters")


def _describe_characters(counts: Counter[str]) -> str:
    shown = [
        f"U+{ord(char):04X} ({CATEGORY_NAMES[unicodedata.category(char)]}) x {count}"
        for char, count in counts.most_common(CODE_POINTS_SHOWN)
    ]
    return ", ".join(shown + ["…"] * (len(counts) > CODE_POINTS_SHOWN))


def _report_foreign(rows: Sequence[Row]) -> Finding:
    """Reports kanji that Japanese lacks, but for rows that claim another language."""
    places = [
        Place(row.origin, "".join(foreign))
        for row in rows
        if row.lang is None or "ja" in row.lang
        if (foreign := list_foreign_kanji(row.text))
    ]
    verb = "hold kanji that Japanese lacks"
    return report_places("foreign-kanji", "warning", places, len(rows), verb)


def _is_in_windows(text: str) -> bool:
    """Tells whether a text is made of the characters of Japanese Windows: no rare kanji."""
    return len(text.encode("cp932", "ignore").decode("cp932")) == len(text)
