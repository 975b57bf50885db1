"""The shipped sets general-ja and general-en: their rows, and that the data cards are true."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.calibration.test_apparel_ja import collapse, join_text, list_sequences
from tests.conftest import RunCli
from tests.models import TINY_MODEL

FOLDER = Path(__file__).parents[2] / "calibration"
SETS = ("general-ja", "general-en")
SPLITS = ("calibration", "heldout")
LEAST_ROWS = {"calibration": 120, "heldout": 40}

Row = dict[str, Any]


def read_rows(name: str, split: str) -> list[Row]:
    """Reads the rows of one split."""
    text = (FOLDER / name / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def read_all_rows(name: str) -> list[Row]:
    """Reads the rows of both splits."""
    return [row for split in SPLITS for row in read_rows(name, split)]


def read_card(name: str) -> str:
    """Reads the data card."""
    return (FOLDER / name / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SETS)
def test_rows_are_documents_of_their_language(name: str) -> None:
    for split in SPLITS:
        rows = read_rows(name, split)
        assert len(rows) >= LEAST_ROWS[split]
        assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})
        assert {row["lang"] for row in rows} == {name.removeprefix("general-")}
        assert all(("text" in row) != ("messages" in row) for row in rows)


@pytest.mark.parametrize("name", SETS)
def test_both_splits_hold_every_category(name: str) -> None:
    by_split = [{row["category"] for row in read_rows(name, split)} for split in SPLITS]
    assert by_split[0] == by_split[1]
    assert len(by_split[0]) == 15


@pytest.mark.parametrize("name", SETS)
def test_no_heldout_sequence_is_in_the_calibration_split(name: str) -> None:
    known = {
        sequence
        for row in read_rows(name, "calibration")
        for sequence in list_sequences(collapse(join_text(row)), 30)
    }
    for row in read_rows(name, "heldout"):
        assert not known & set(list_sequences(collapse(join_text(row)), 30)), row["id"]


@pytest.mark.parametrize("name", SETS)
def test_the_card_tells_the_truth(name: str) -> None:
    counts = Counter(s for row in read_all_rows(name) for s in list_sequences(join_text(row), 8))
    share = sum(count == 1 for count in counts.values()) / counts.total()
    assert share > 0.5
    card = read_card(name)
    assert f"- {share:.1%} of all 8-character sequences occur once" in card
    for category in {row["category"] for row in read_all_rows(name)}:
        figures = []
        for split in SPLITS:
            rows = [row for row in read_rows(name, split) if row["category"] == category]
            figures += [f"{len(rows):,}", f"{sum(len(join_text(row)) for row in rows):,}"]
        assert f"| `{category}` | {' | '.join(figures)} |" in card
    totals = re.findall(r"^\| total \| (.*) \|$", card, flags=re.MULTILINE)
    assert len(totals) == 3
    assert len(set(totals)) == 1


@pytest.mark.full
@pytest.mark.parametrize("name", [*SETS, "apparel-ja"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_shipped_sets_pass_their_own_lint(run_cli: RunCli, name: str, split: str) -> None:
    done = run_cli("calibration", "lint", name, "--split", split, "--tokenizer", TINY_MODEL)
    assert done.returncode == 0, done.stdout
    assert "fit: 0 errors, 0 warnings" in done.stdout
