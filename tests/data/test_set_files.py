"""What the command line means by SET."""

from pathlib import Path

import pytest

from llmopt.data.set_files import SetFiles, locate_set, locate_terms
from llmopt.errors import InputError
from tests.models import REPOSITORY

SHIPPED = REPOSITORY / "calibration" / "apparel-ja"


def test_a_shipped_set_brings_its_neighbours() -> None:
    files = locate_set("apparel-ja", "calibration")
    assert files.source == {"set": "apparel-ja", "split": "calibration"}
    assert files.data.samefile(SHIPPED / "calibration.jsonl")
    assert files.heldout is not None
    assert files.heldout.samefile(SHIPPED / "heldout.jsonl")
    assert files.terms is not None
    assert files.terms.samefile(SHIPPED / "terms.json")


def test_a_held_out_split_is_not_held_against_itself() -> None:
    assert locate_set("apparel-ja", "heldout").heldout is None


def test_a_folder_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("calibration.jsonl", "heldout.jsonl", "apparel-ja"):
        (folder / name).write_text("x", encoding="utf-8")
    calibration, heldout = Path("own/calibration.jsonl"), Path("own/heldout.jsonl")
    source = {"path": "own/calibration.jsonl"}
    assert locate_set("own", "calibration") == SetFiles(source, calibration, heldout)
    assert locate_set("own/calibration.jsonl", "calibration") == SetFiles(source, calibration)
    monkeypatch.chdir(folder)
    assert locate_set("apparel-ja", "calibration").source == {"path": "apparel-ja"}


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("nowhere.jsonl", "calibration", r"data set nowhere\.jsonl does not exist"),
        ("no/where", "calibration", "data set no/where does not exist"),
        ("apparel", "calibration", "no shipped data set 'apparel'; shipped: "),
        ("apparel-ja", "test", "apparel-ja has no split 'test'; it has: calibration, heldout"),
        (".", "calibration", r"folder \. has no calibration\.jsonl"),
        (".", "../x", r"folder \. has no \.\./x\.jsonl"),
    ],
)
def test_what_is_no_set_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, split: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path.parent / "x.jsonl").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        locate_set(name, split)


def test_terms_by_set_or_by_file() -> None:
    assert locate_terms("apparel-ja").samefile(SHIPPED / "terms.json")
    assert locate_terms("own/terms.json") == Path("own/terms.json")
