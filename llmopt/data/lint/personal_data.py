"""Personal data: what looks like a phone number, an address, a card.

Patterns run over NFKC text, so that full-width digits count. Kinds that a sound document may also
hold, such as a web address or twelve digits, are warnings.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llmopt.data.lint.finding import Finding, Place, Severity, report_places
from llmopt.data.lint.rows import Row

SHOWN_CHARACTERS = 2  # of what was found: a report is no place for personal data


@dataclass(frozen=True)
class Kind:
    """A kind of personal data: its pattern, and a test of what the pattern finds."""

    name: str
    severity: Severity
    pattern: re.Pattern[str]
    is_real: Callable[[str], bool] = bool


def _has_phone_length(found: str) -> bool:
    """Tells whether it has a Japanese number's 10 or 11 digits, or 9 to 15 after a +."""
    return len(list_digits(found)) in (range(9, 16) if found[0] == "+" else (10, 11))


def is_luhn(found: str) -> bool:
    """Tells whether the check digit of a card number is right (ISO/IEC 7812-1, annex B)."""
    digits = list_digits(found)[::-1]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def is_my_number(found: str) -> bool:
    """Tells whether the check digit of a My Number is right.

    Ministry of Internal Affairs and Communications, ordinance 85 of 2014, article 5.
    """
    *digits, check = list_digits(found)
    weights = (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)
    rest = sum(d * w for d, w in zip(digits, weights, strict=True)) % 11
    return check == (0 if rest <= 1 else 11 - rest)


def list_digits(text: str) -> list[int]:
    """Lists the decimal digits in a text."""
    return [int(char) for char in text if char.isdecimal()]


UNIT = r" ?(?:mm|cm|m|kg|g|枚|着|円|回|本|個|件|点|名|反|丁|℃|%|番|年|号)"
TOWN = r"[^\s、。,|:;「」()]{0,12}?[市区町村郡](?![場販況分画切間域])"
STREET = r"[一-龥々ァ-ヶーの]{0,16}?(?<!\d)(?!(?:19|20)\d\d-)"  # a date is no house number
BLOCK = r"[一二三四五六七八九十\d]{1,3}丁目"
HOUSE = rf"(?:\d{{1,4}}(?:-\d{{1,4}}){{1,3}}(?![\d-])|{BLOCK}|\d{{1,5}}番地|\d{{1,3}}番\d{{1,3}}号)"
PREFECTURE = r"(?:東京都|北海道|京都府|大阪府|[一-龥]{2,3}県)"
KINDS = (
    Kind(
        "phone number",
        "error",
        re.compile(
            r"(?<![\w-])(?:\(0\d{1,4}\) ?|0\d{1,4}-)\d{1,4}-\d{3,4}(?![\w-])"
            r"|(?<![\w-])0[5-9]0([ -]?)\d{4}\1\d{4}(?![\w-])"
            r"|\+\d{1,3}[ -]\(?\d{1,4}\)?(?:[ -]\d{2,4}){1,3}(?![\w-])|\+\d{9,15}(?!\d)",
            re.ASCII,
        ),
        _has_phone_length,
    ),
    Kind(
        "mail address",
        "error",
        re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@[A-Za-z0-9-]{1,63}\.[A-Za-z]", re.ASCII),
    ),
    Kind(
        "street address",
        "error",
        re.compile(
            rf"{PREFECTURE}{TOWN}{STREET}{HOUSE}"
            rf"|[一-龥]{{1,4}}[市区](?![場販況分画切間域]){STREET}"
            rf"(?:\d{{1,3}}-\d{{1,3}}-\d{{1,4}}(?![\d-])|{BLOCK})"
        ),
    ),
    Kind(
        "card number",
        "error",
        re.compile(
            r"(?<![\w.-])(?:3[47]\d{2}[ -]?\d{6}[ -]?\d{5}"
            r"|(?:4\d{3}|5[1-5]\d{2}|2[2-7]\d{2}|35\d{2}|6011|65\d{2})(?:[ -]?\d{4}){3})(?![\w.-])",
            re.ASCII,
        ),
        is_luhn,
    ),
    Kind(
        "web address",
        "warning",
        re.compile(
            r"https?://[^\s/]|www\.\w"
            r"|(?<![\w@.-])(?:[a-z0-9-]{1,63}\.){1,4}(?:com|net|org|info|biz|jp|cn|vn|kr|tw)\b",
            re.ASCII | re.IGNORECASE,
        ),
    ),
    Kind(
        "postal code",
        "warning",
        re.compile(rf"〒 ?\d{{3}}|(?<![\w.-])\d{{3}}-\d{{4}}(?![\w.-])(?!{UNIT})", re.ASCII),
    ),
    Kind(
        "12 digits like a My Number",
        "warning",
        re.compile(r"(?<![\w.-])(?<!\d )\d{4}([ -]?)\d{4}\1\d{4}(?! ?\d)(?![\w.-])", re.ASCII),
        is_my_number,
    ),
)


def find_personal_data(rows: Sequence[Row]) -> list[Finding]:
    """Finds personal data; the certain kinds as an error, the others as a warning."""
    places: dict[Severity, list[Place]] = {"error": [], "warning": []}
    for row in rows:
        for kind, found in list_personal_data(row.text):
            places[kind.severity].append(Place(row.origin, f"{kind.name} {mask(found)}"))
    return [
        report_places("personal-data", "error", places["error"], len(rows), "hold personal data"),
        report_places(
            "contact-data", "warning", places["warning"], len(rows), "may hold contact data"
        ),
    ]


def list_personal_data(text: str) -> Iterator[tuple[Kind, str]]:
    """Lists the first of each kind in a text."""
    normal = unicodedata.normalize("NFKC", text)
    for kind in KINDS:
        for match in kind.pattern.finditer(normal):
            if kind.is_real(match.group()):
                yield kind, match.group()
                break


def mask(found: str) -> str:
    """Hides all but the first characters of what was found."""
    hidden = re.sub(r"\w", "*", found[SHOWN_CHARACTERS:])
    return found[:SHOWN_CHARACTERS] + hidden
