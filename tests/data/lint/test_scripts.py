"""Script mix, and the set's composition that shows it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmopt.data.lint.composition import Share, describe_composition
from llmopt.data.lint.scripts import count_scripts, find_script, measure_shares, report_scripts
from tests.data.lint.rows import make_chat, make_rows, read_shipped


@pytest.mark.parametrize(
    ("script", "characters"),
    [
        ("hiragana", "あんゞ"),
        ("katakana", "アヶーｱ"),
        ("kanji", "縫々〆髙﨑"),
        ("latin", "aZéＡ"),
        ("digits", "09１"),
        ("other", "。、|%(①²☃½Ωд"),
    ],
)
def test_a_characters_script(script: str, characters: str) -> None:
    assert {find_script(char) for char in characters} == {script}


@given(st.text(max_size=80))
def test_every_visible_character_is_counted_once(text: str) -> None:
    counts = count_scripts([text, text])
    assert sum(counts.values()) == 2 * sum(not char.isspace() for char in text)
    shares = measure_shares(counts)
    assert sum(shares.values()) == pytest.approx(1.0 if sum(counts.values()) else 0.0)


def test_a_set_that_claims_japanese_and_is_not_is_warned_of() -> None:
    english = "The seam allowance is 10 mm on every edge of the front body."
    rows = make_rows("前身頃に芯を貼る", english, english, lang="ja")
    finding = report_scripts(rows)
    assert finding.severity == "warning"
    assert [place.name for place in finding.rows] == ["d.jsonl:2", "d.jsonl:3"]
    assert finding.message.startswith("the 3 documents of lang ja are ")
    assert report_scripts(make_rows(english, lang="en")).severity == "info"
    assert report_scripts(make_rows(english)).severity == "info"
    assert report_scripts([]).message == "no text"


def test_composition_adds_up() -> None:
    rows = read_shipped("heldout")
    composition = describe_composition(rows)
    assert composition.total == Share(len(rows), sum(len(row.text) for row in rows))
    for table in (
        composition.categories,
        composition.languages,
        composition.forms,
        composition.lengths,
    ):
        assert sum(share.documents for share in table.values()) == composition.total.documents
        assert sum(share.characters for share in table.values()) == composition.total.characters
    english = [row for row in rows if row.lang == "en"]
    share = Share(len(english), sum(len(row.text) for row in english))
    assert composition.languages["en"] == share
    chats = sum(row.document.messages is not None for row in rows)
    assert composition.forms["messages"].documents == chats


def test_lengths_fall_into_the_data_cards_bands() -> None:
    lengths = (0, 249, 250, 899, 900, 1499, 1500, 9000)
    composition = describe_composition(make_rows(*("縫" * length for length in lengths)))
    assert {name: share.documents for name, share in composition.lengths.items()} == {
        "under 250": 2,
        "250-899": 2,
        "900-1,499": 2,
        "1,500 and more": 2,
    }


def test_a_chats_characters_are_its_turns_joined_by_line_breaks() -> None:
    composition = describe_composition([make_chat("綿ですか", "はい")])
    assert composition.total == Share(1, 7)
    assert composition.languages == {"not said": Share(1, 7)}
