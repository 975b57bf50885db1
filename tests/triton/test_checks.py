"""Offline checks of repositories: good ones pass, and every planted mistake is named."""

from pathlib import Path

import pytest

from llmopt.errors import InputError
from llmopt.triton.checks.repository_check import check_repository
from tests.triton.good_repositories import WRITERS
from tests.triton.mistakes.planting import Mistake
from tests.triton.mistakes.table import MISTAKES


@pytest.mark.parametrize("name", WRITERS)
def test_a_good_repository_has_no_faults(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    report = check_repository(tmp_path)
    assert report.faults == []
    assert report.checked


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_named(mistake: Mistake, tmp_path: Path) -> None:
    WRITERS[mistake.base](tmp_path)
    mistake.plant(tmp_path)
    faults = [str(fault) for fault in check_repository(tmp_path).faults]
    assert any(mistake.message in fault for fault in faults), "\n".join(faults) or "no fault"


def test_mistakes_are_many_and_have_names_of_their_own() -> None:
    names = [mistake.name for mistake in MISTAKES]
    assert len(set(names)) == len(names) >= 60


def test_a_folder_without_models_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model: no folder of it has a config\.pbtxt"):
        check_repository(tmp_path)
