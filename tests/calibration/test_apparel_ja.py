"""The shipped set apparel-ja: form of the rows, rules of the data card, and the card's figures.

A document's text is its `text`, or the contents of its messages joined by line breaks; its
characters are those of the text, line breaks included.
"""

import functools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "calibration" / "apparel-ja"
SPLITS = ("calibration", "heldout")
LEAST_ROWS = {"calibration": 1000, "heldout": 200}
LANGUAGES = {"ja", "en", "ja-en"}
OVERLAP_LENGTH = 30
UNIQUE_LENGTH = 8
# Controls, format characters such as a zero-width space, lone surrogates, unassigned characters.
UNWANTED = ("Cc", "Cf", "Cs", "Co", "Cn")
LENGTH_BANDS = ((0, "under 250"), (250, "250-899"), (900, "900-1,499"), (1500, "1,500 and more"))

Row = dict[str, Any]
# Figures of a data card's table: a label, then documents and characters of both splits.
Figures = dict[str, list[int]]

PERSONAL_DATA = {
    "phone number": r"(?<![\d-])0\d{1,4}-\d{1,4}-\d{3,4}(?![\d-])"
    r"|(?<!\d)0[5-9]0\d{8}(?!\d)|\+\d{1,3}[ -]\d",
    "mail address": r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+\.[A-Za-z]",
    "web address": r"https?:|www\.|\b[a-z0-9-]+\.(?:com|net|org|jp|cn|vn)\b",
    "postal code": r"〒|(?<![\d-])\d{3}-\d{4}(?![\d-])",
}


@functools.cache
def read_rows(split: str) -> tuple[Row, ...]:
    """Reads the rows of one split."""
    text = (FOLDER / f"{split}.jsonl").read_bytes().decode("utf-8")
    return tuple(json.loads(line) for line in text.removesuffix("\n").split("\n"))


def read_all_rows() -> tuple[Row, ...]:
    """Reads the rows of both splits."""
    return read_rows("calibration") + read_rows("heldout")


def list_parts(row: Row) -> list[str]:
    """Lists a row's text, or the contents of its messages."""
    return [row["text"]] if "text" in row else [turn["content"] for turn in row["messages"]]


def join_text(row: Row) -> str:
    """A row's text."""
    return "\n".join(list_parts(row))


def collapse(text: str) -> str:
    """Collapses what documents share by their form: table rules, JSON punctuation, whitespace."""
    text = re.sub(r"\|?(?:\s*:?-{2,}:?\s*\|)+", " ", text)
    text = re.sub(r'[{}\[\]",:]+', " ", text)
    return re.sub(r"\s+", " ", text).strip()


def list_sequences(text: str, length: int) -> Iterator[str]:
    """Lists the sequences of `length` characters; a shorter text is one sequence."""
    return (text[start : start + length] for start in range(max(1, len(text) - length + 1)))


def is_japanese(text: str) -> bool:
    """Whether kana and kanji are over 30 % of the characters, whitespace left out."""
    visible = re.sub(r"\s", "", text)
    japanese = re.findall(r"[\u3040-\u30ff\u3400-\u9fff々]", visible)
    return len(japanese) > 0.3 * len(visible)


@functools.cache
def measure_overlaps() -> dict[str, float]:
    """Which share of each held-out document's sequences the calibration split holds too."""
    known: set[str] = set()
    for row in read_rows("calibration"):
        known.update(list_sequences(collapse(join_text(row)), OVERLAP_LENGTH))
    shares = {}
    for row in read_rows("heldout"):
        own = set(list_sequences(collapse(join_text(row)), OVERLAP_LENGTH))
        shares[row["id"]] = len(own & known) / len(own)
    return shares


@functools.cache
def measure_uniqueness() -> float:
    """Which share of all sequences in both splits, each counted where it stands, occur once."""
    counts: Counter[str] = Counter()
    for row in read_all_rows():
        counts.update(list_sequences(join_text(row), UNIQUE_LENGTH))
    return sum(count == 1 for count in counts.values()) / counts.total()


def measure_japanese() -> float:
    """Which share of the documents in both splits is Japanese."""
    rows = read_all_rows()
    return sum(is_japanese(join_text(row)) for row in rows) / len(rows)


def find_band(row: Row) -> str:
    """The length band that a row falls into."""
    return [name for least, name in LENGTH_BANDS if len(join_text(row)) >= least][-1]


def find_form(row: Row) -> str:
    """Whether a row is a text or a chat."""
    return "text" if "text" in row else "messages"


def compute_figures(label: Callable[[Row], str]) -> Figures:
    """Counts documents and characters of both splits per label, with a total."""
    figures: Figures = {}
    for column, split in enumerate(SPLITS):
        for row in read_rows(split):
            for name in (label(row), "total"):
                line = figures.setdefault(name, [0, 0, 0, 0])
                line[2 * column] += 1
                line[2 * column + 1] += len(join_text(row))
    return figures


FIGURES: dict[str, Callable[[Row], str]] = {
    "category": lambda row: str(row["category"]),
    "language": lambda row: str(row["lang"]),
    "form": find_form,
    "length": find_band,
}
MEASURES: dict[str, Callable[[], float]] = {
    "greatest overlap of a held-out document": lambda: max(measure_overlaps().values()),
    "sequences that occur once": measure_uniqueness,
    "Japanese documents": measure_japanese,
}


@functools.cache
def read_card_tables() -> dict[str, dict[str, list[str]]]:
    """Reads the data card's tables: by the first heading, rows by their first cell."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    tables = {}
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        lines = [
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in block.splitlines()
        ]
        tables[lines[0][0]] = {line[0].strip("`"): line[1:] for line in lines[2:]}
    return tables


def list_categories(rows: Iterable[Row]) -> set[str]:
    """The categories of some rows."""
    return {row["category"] for row in rows}


def list_json_texts(row: Row) -> list[str]:
    """Lists the JSON in a row: fenced blocks, and what begins like JSON.

    In a chat, words may follow such JSON after a blank line.
    """
    parts = list_parts(row)
    fenced = [block for part in parts for block in re.findall(r"```json\n(.*?)```", part, re.S)]
    bare = [part if "text" in row else part.split("\n\n")[0] for part in parts]
    return [part for part in bare if re.match(r'[{\[]\s*["{\[]', part)] + fenced


def read_json(text: str) -> list[Any]:
    """Reads one JSON value, or one per line (JSON Lines)."""
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("split", SPLITS)
def test_enough_rows_in_a_stable_order(split: str) -> None:
    ids = [row["id"] for row in read_rows(split)]
    assert len(ids) >= LEAST_ROWS[split], f"{split} has {len(ids)} rows"
    assert ids == sorted(ids), f"{split} is not sorted by id"


@pytest.mark.parametrize("split", SPLITS)
def test_file_is_plain_utf8_json_lines(split: str) -> None:
    data = (FOLDER / f"{split}.jsonl").read_bytes()
    assert not data.startswith(b"\xef\xbb\xbf"), "the file begins with a byte order mark"
    assert b"\r" not in data, "the file has carriage returns"
    assert data.endswith(b"}\n"), "the last row does not end with a line break"
    for line, row in zip(data.decode("utf-8").splitlines(), read_rows(split), strict=True):
        assert line == json.dumps(row, ensure_ascii=False), f"{row['id']} is written otherwise"


def test_rows_have_the_fields_of_a_document() -> None:
    for row in read_all_rows():
        shapes = (["id", "category", "lang", "text"], ["id", "category", "lang", "messages"])
        assert list(row) in shapes, f"{row.get('id')} has the fields {list(row)}"
        assert row["lang"] in LANGUAGES, f"{row['id']} is in language {row['lang']!r}"
        assert row["category"], f"{row['id']} has no category"
        for part in list_parts(row):
            assert part == part.strip() != "", f"{row['id']} is empty or padded: {part[:40]!r}"


def test_ids_are_unique_and_lower_case() -> None:
    counts = Counter(row["id"] for row in read_all_rows())
    twice = [name for name, count in counts.items() if count > 1]
    assert not twice, f"ids used more than once: {twice}"
    odd = [name for name in counts if not re.fullmatch(r"[a-z]-h?\d+", name)]
    assert not odd, f"ids of another form: {odd}"


def test_categories_of_the_card_occur_in_both_splits() -> None:
    listed = set(read_card_tables()["category"]) - {"total"}
    for split in SPLITS:
        found = list_categories(read_rows(split))
        assert found == listed, f"{split} and the card differ in {found ^ listed}"


def test_chats_alternate_and_end_with_the_assistant() -> None:
    for row in read_all_rows():
        if "messages" not in row:
            continue
        fields = {tuple(turn) for turn in row["messages"]}
        assert fields == {("role", "content")}, f"{row['id']} has turns with {fields}"
        roles = [turn["role"] for turn in row["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        valid = turns == ["user", "assistant"] * (len(turns) // 2) != []
        assert valid, f"{row['id']} has the roles {roles}"


@pytest.mark.parametrize("kind", PERSONAL_DATA)
def test_no_personal_data(kind: str) -> None:
    pattern = re.compile(PERSONAL_DATA[kind], flags=re.ASCII)
    for row in read_all_rows():
        match = pattern.search(unicodedata.normalize("NFKC", join_text(row)))
        found = match.group() if match else None
        assert found is None, f"{row['id']} looks as if it held a {kind}: {found!r}"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("phone number", "TEL 03-1234-5678"),
        ("phone number", "０９０１２３４５６７８"),
        ("mail address", "宛先 taro@example.jp まで"),
        ("web address", "見本は example.com に"),
        ("postal code", "〒123-4567"),
    ],
)
def test_personal_data_would_be_found(kind: str, text: str) -> None:
    pattern = re.compile(PERSONAL_DATA[kind], flags=re.ASCII)
    assert pattern.search(unicodedata.normalize("NFKC", text)), f"{text!r} is not seen as {kind}"


def test_no_mojibake() -> None:
    for row in read_all_rows():
        text = join_text(row)
        bad = {
            f"U+{ord(char):04X}"
            for char in text
            if char == "\ufffd" or (unicodedata.category(char) in UNWANTED and char not in "\n\t")
        }
        assert not bad, f"{row['id']} holds {sorted(bad)}"


def test_kanji_are_japanese() -> None:
    for row in read_all_rows():
        kanji = set(re.findall(r"[\u4e00-\u9fff]", join_text(row)))
        foreign = sorted(char for char in kanji if not char.encode("euc_jp", "ignore"))
        assert not foreign, f"{row['id']} holds characters that Japanese lacks: {foreign}"


def test_heldout_documents_are_not_in_the_calibration_split() -> None:
    shares = measure_overlaps()
    too_close = {name: f"{share:.1%}" for name, share in shares.items() if share > 0.1}
    assert not too_close, f"held-out documents that the calibration split holds too: {too_close}"


def test_documents_are_written_not_stamped() -> None:
    share = measure_uniqueness()
    assert share > 0.5, f"only {share:.1%} of the 8-character sequences occur once"


def test_most_documents_are_japanese() -> None:
    share = measure_japanese()
    assert share >= 0.6, f"only {share:.1%} of the documents are Japanese"


def test_lengths_vary() -> None:
    figures = compute_figures(find_band)
    documents = {band: line[0] + line[2] for band, line in figures.items()}
    assert documents["1,500 and more"] >= 80
    assert min(documents.values()) >= 0.1 * documents["total"], f"bands hold {documents}"


def test_an_eighth_is_english() -> None:
    rows = read_all_rows()
    share = sum(row["lang"] == "en" for row in rows) / len(rows)
    assert 0.10 <= share <= 0.15, f"{share:.1%} of the documents are English"


@pytest.mark.parametrize("name", FIGURES)
def test_card_figures_are_the_computed_ones(name: str) -> None:
    written = {
        label: [int(cell.replace(",", "")) for cell in cells]
        for label, cells in read_card_tables()[name].items()
    }
    computed = compute_figures(FIGURES[name])
    assert written == computed, f"the card's {name} table should hold {computed}"


def test_card_measures_are_the_computed_ones() -> None:
    written = {name: cells[0] for name, cells in read_card_tables()["measure"].items()}
    computed = {name: f"{measure():.1%}" for name, measure in MEASURES.items()}
    assert written == computed, f"the card's measures should be {computed}"


def test_json_tech_packs_parse() -> None:
    kinds = {row["id"] for row in read_all_rows() if row["category"] == "techpack-json"}
    parsed = 0
    for row in read_all_rows():
        if row["id"] in kinds and row.get("text", "")[:1] in ("{", "["):
            assert row["text"] in list_json_texts(row), f"{row['id']} begins like JSON but is not"
        for text in list_json_texts(row):
            try:
                values = read_json(text)
            except ValueError as error:
                pytest.fail(f"{row['id']} does not parse: {error}")
            odd = [value for value in values if not isinstance(value, dict | list)]
            assert not odd, f"{row['id']} holds JSON that is no object or array: {odd}"
            parsed += row["id"] in kinds
    assert parsed > 0, "no JSON tech pack was found"
