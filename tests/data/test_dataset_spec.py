"""Which file a data set of a recipe means."""

from pathlib import Path

import pytest

from llmopt.data.dataset_spec import DatasetSpec, list_shipped_sets
from llmopt.data.documents import read_documents
from llmopt.errors import InputError


def test_a_file_is_found_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "d.jsonl").write_text("x", encoding="utf-8")
    assert DatasetSpec(path="deep/d.jsonl").locate(tmp_path) == tmp_path / "deep" / "d.jsonl"
    absolute = str(tmp_path / "deep" / "d.jsonl")
    assert DatasetSpec(path=absolute).locate(Path("elsewhere")) == Path(absolute)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data set file .*nowhere\.jsonl does not exist"):
        DatasetSpec(path="nowhere.jsonl").locate(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        DatasetSpec(path=".").locate(tmp_path)
    with pytest.raises(InputError, match=r"path ~nobody-of-that-name/d\.jsonl: "):
        DatasetSpec(path="~nobody-of-that-name/d.jsonl").locate(tmp_path)


@pytest.mark.parametrize(("split", "at_least"), [("calibration", 300), ("heldout", 60)])
def test_the_shipped_set_is_found_from_anywhere(tmp_path: Path, split: str, at_least: int) -> None:
    assert list_shipped_sets() == ["apparel-ja", "general-en", "general-ja"]
    path = DatasetSpec(set="apparel-ja", split=split).locate(tmp_path)
    assert len(read_documents(path)) >= at_least


@pytest.mark.parametrize("name", ["apparel", "../apparel-ja", "", "apparel-ja/../apparel-ja"])
def test_a_set_that_is_not_shipped_is_answered_with_those_that_are(name: str) -> None:
    with pytest.raises(
        InputError, match=r"no shipped data set '.*'; shipped: apparel-ja, general-en, general-ja"
    ):
        DatasetSpec(set=name).locate(Path())


@pytest.mark.parametrize("split", ["test", "../../x", "..", "/etc/hostname", "calibration.jsonl"])
def test_a_split_that_is_none_is_refused(split: str) -> None:
    with pytest.raises(InputError, match=r"has no split '.*'; it has: calibration, heldout"):
        DatasetSpec(set="apparel-ja", split=split).locate(Path())
