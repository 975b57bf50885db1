"""Broken Unicode, text read in the wrong encoding, half-width floods, kanji that Japanese lacks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmopt.data.lint.characters import (
    BROKEN,
    find_character_faults,
    find_mojibake,
    list_characters,
    list_foreign_kanji,
    measure_half_width,
)
from llmopt.data.text_measures import JAPANESE
from tests.data.lint.rows import list_faults, make_rows, read_shipped

SOUND = "前身頃に芯を貼り、袖口を縫製します。アイロンは中温(150℃)で当て布をしてください。"
SHIPPED_TEXTS = [row.text for split in ("calibration", "heldout") for row in read_shipped(split)]
JAPANESE_TEXTS = [
    row.text for row in read_shipped("calibration") if row.lang == "ja" and len(row.text) > 200
]


@pytest.mark.parametrize(
    ("char", "check", "detail"),
    [
        ("\ufffd", "broken-unicode", "U+FFFD (replacement character) x 1"),
        ("\x00", "broken-unicode", "U+0000 (control) x 1"),
        ("\x8d", "broken-unicode", "U+008D (control) x 1"),
        ("\ud800", "broken-unicode", "U+D800 (half of a surrogate pair) x 1"),
        ("\uffff", "broken-unicode", "U+FFFF (unassigned) x 1"),
        ("\u0378", "broken-unicode", "U+0378 (unassigned) x 1"),
        ("\u200b", "dubious-unicode", "U+200B (invisible) x 1"),
        ("\ufeff", "dubious-unicode", "U+FEFF (invisible) x 1"),
        ("\ue000", "dubious-unicode", "U+E000 (private use) x 1"),
        ("图", "foreign-kanji", "图"),
    ],
)
def test_a_bad_character_is_found_where_it_stands(char: str, check: str, detail: str) -> None:
    findings = find_character_faults(make_rows(SOUND, SOUND + char, SOUND))
    assert list_faults(findings) == {check: ["d.jsonl:2"]}
    (place,) = next(finding.rows for finding in findings if finding.check == check)
    assert place.detail == detail


@pytest.mark.parametrize("char", ["\t", "\n", "\r", "☃", "①", "㎝", "髙", "﨑", "々", "é", "😀"])
def test_characters_that_sound_texts_hold(char: str) -> None:
    assert list_faults(find_character_faults(make_rows(SOUND + char))) == {}


@pytest.mark.parametrize(
    ("encoding", "errors"),
    [
        *((encoding, "ignore") for encoding in ("cp932", "latin-1", "cp1252")),
        *((encoding, "replace") for encoding in ("cp932", "latin-1", "cp1252", "euc_jp")),
    ],
)
def test_utf8_read_in_another_encoding_is_found(encoding: str, errors: str) -> None:
    """What was lost on the way shows as U+FFFD, or leaves text that still reads back."""
    for text in JAPANESE_TEXTS:
        misread = text.encode().decode(encoding, errors)
        assert find_mojibake(misread) is not None or "\ufffd" in misread, misread[:80]


def test_what_euc_jp_leaves_of_a_long_document_is_found() -> None:
    """It drops over half of the bytes; of a short table nothing is left to tell by."""
    long = [text for text in JAPANESE_TEXTS if len(JAPANESE.findall(text)) >= 200]
    found = [find_mojibake(text.encode().decode("euc_jp", "ignore")) for text in long]
    assert len(long) > 100
    assert sum(one is not None for one in found) >= 0.95 * len(long)


@pytest.mark.parametrize("encoding", ["cp932", "latin-1", "cp1252"])
def test_a_misread_passage_in_a_sound_text_is_found(encoding: str) -> None:
    misread = "縫製仕様書".encode().decode(encoding, "ignore")
    found = find_mojibake(f"{SOUND}\n備考 {misread} 以上\n{SOUND}")
    assert found is not None
    assert encoding in found[0]
    assert found[1][0] in "縫製仕様書"


def test_what_a_misread_text_meant_is_told() -> None:
    findings = find_character_faults(make_rows("縺薙ｌ縺ｯ譁�蟄怜喧縺代〒縺".replace("\ufffd", "")))
    (place,) = next(finding.rows for finding in findings if finding.check == "mojibake")
    assert place.detail.startswith("UTF-8 read as cp932: 'これは")


def test_the_shipped_texts_are_sound() -> None:
    assert not [text[:40] for text in SHIPPED_TEXTS if find_mojibake(text)]
    assert list_faults(find_character_faults(make_rows(*SHIPPED_TEXTS))) == {}


@pytest.mark.parametrize("text", ["café « été »… naïve – “quoted” Ångström", "Größe: 38–40 €", ""])
def test_european_texts_are_sound(text: str) -> None:
    assert find_mojibake(text) is None


kana_and_kanji = st.text(
    st.characters(codec="euc_jp", min_codepoint=0x3041, max_codepoint=0x9FFF), max_size=200
)


@given(kana_and_kanji)
def test_no_japanese_text_is_mistaken_for_a_misread_one(text: str) -> None:
    assert find_mojibake(text) is None


@given(st.text(max_size=50))
def test_any_text_can_be_looked_at(text: str) -> None:
    find_character_faults(make_rows(text))
    assert all(char in text for char in list_characters(text, BROKEN))


def test_half_width_katakana() -> None:
    flood = "ｱｲﾛﾝﾊ ﾁｭｳｵﾝ ﾃﾞ ｱﾃﾇﾉ ｼﾖｳ ﾉ ｺﾄ"
    assert measure_half_width(flood) > 0.5
    assert measure_half_width("ﾎﾞﾀﾝ") == 0.0  # a few are a label, no flood
    assert measure_half_width(flood + SOUND * 10) < 0.1
    assert list_faults(find_character_faults(make_rows(SOUND, flood))) == {
        "half-width": ["d.jsonl:2"]
    }


def test_a_text_that_claims_another_language_may_hold_its_characters() -> None:
    text = "这件衬衫的图纸已经发给工厂"
    assert (
        {"这", "衬", "图", "纸", "给"} <= set(list_foreign_kanji(text)) <= set("这衬图纸经发给厂")
    )
    for lang, found in (("zh", {}), ("ja-en", {"foreign-kanji": ["d.jsonl:1"]})):
        assert list_faults(find_character_faults(make_rows(text, lang=lang))) == found
