"""Ensembles that llmopt packages itself pass its own checks, whatever the task."""

from pathlib import Path

import pytest

from llmopt.triton.checks.repository_check import check_repository
from tests.triton.ensembles import make_plan, write

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("task", ["score", "embed", "fill_mask"])
def test_an_ensemble_is_sound(task: str, tmp_path: Path) -> None:
    pytest.importorskip("fugashi", reason="fugashi (MeCab) is not installed")
    repository = tmp_path / "repository"
    repository.mkdir()
    write(repository, make_plan(tmp_path / "plan", task), "served").write(repository)
    report = check_repository(repository)
    assert [str(fault) for fault in report.faults] == []
    assert len(report.checked) == 7
    assert report.not_checked == [
        "served_tokenizer: which outputs 1/model.py writes: not all names are constants"
    ]
