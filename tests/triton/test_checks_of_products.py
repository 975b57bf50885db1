"""Ensembles that llmopt packages itself pass its own checks, whatever the task and the backend."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.engine_description import ENGINE_NAME
from llmopt.triton.checks.repository_check import check_repository
from llmopt.triton.ensemble_repository import EnsemblePlan
from tests.triton.ensembles import describe_engine, make_plan, write

pytestmark = pytest.mark.usefixtures("one_thread")
TASKS = (pytest.param("score", marks=pytest.mark.full), "embed", "fill_mask")
GRID = ((1, 8), (9, 16), (17, 32))
TOKENIZER_NAMES = "served_tokenizer: which outputs 1/model.py writes: not all names are constants"


@pytest.fixture(scope="module")
def get_plan(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], EnsemblePlan]:
    """Makes the plan for a task, once."""
    pytest.importorskip("fugashi", reason="fugashi (MeCab) is not installed")
    folder = tmp_path_factory.mktemp("plans")
    plans: dict[str, EnsemblePlan] = {}

    def get(task: str) -> EnsemblePlan:
        if task not in plans:
            plans[task] = make_plan(folder / task, task)
        return plans[task]

    return get


@pytest.mark.parametrize("task", TASKS)
def test_an_ensemble_over_an_export_is_sound(
    task: str, tmp_path: Path, get_plan: Callable[[str], EnsemblePlan]
) -> None:
    write(tmp_path, get_plan(task), "served").write(tmp_path)
    report = check_repository(tmp_path)
    assert [str(fault) for fault in report.faults] == []
    assert len(report.checked) == 7
    assert report.not_checked == [TOKENIZER_NAMES]


@pytest.mark.parametrize("task", TASKS)
def test_an_ensemble_over_an_engine_is_sound(
    task: str, tmp_path: Path, get_plan: Callable[[str], EnsemblePlan]
) -> None:
    source, repository = tmp_path / "engine", tmp_path / "repository"
    source.mkdir()
    repository.mkdir()
    (source / ENGINE_NAME).write_bytes(b"stands for an engine")
    plan = get_plan(task)
    engine = describe_engine(plan.model, GRID).model_copy(
        update={"engine_sha256": digest_file(source / ENGINE_NAME)}
    )
    served = replace(plan, source=source, engine=engine)
    write(repository, served, "served", device="cuda").write(repository)
    report = check_repository(repository)
    assert [str(fault) for fault in report.faults] == []
    assert report.not_checked == [
        "served_engine: whether the server's machine has a GPU",
        "served_engine: loading it, which needs a GPU and backend tensorrt",
        TOKENIZER_NAMES,
    ]


def test_a_folder_of_a_tokenizer_that_does_not_load_is_named(
    tmp_path: Path, get_plan: Callable[[str], EnsemblePlan]
) -> None:
    write(tmp_path, get_plan("embed"), "served").write(tmp_path)
    folder = tmp_path / "served_tokenizer" / "1" / "tokenizer"
    (folder / "vocab.txt").unlink()
    (fault,) = check_repository(tmp_path).faults
    assert str(fault).startswith("served_tokenizer/1/tokenizer is no tokenizer (")


def test_a_tokenizer_s_own_code_is_named_and_not_run(
    tmp_path: Path, get_plan: Callable[[str], EnsemblePlan]
) -> None:
    write(tmp_path, get_plan("embed"), "served").write(tmp_path)
    config = tmp_path / "served_tokenizer" / "1" / "tokenizer" / "tokenizer_config.json"
    data = json.loads(config.read_text(encoding="utf-8"))
    data["auto_map"] = {"AutoTokenizer": ["own.Tokenizer", None]}
    config.write_text(json.dumps(data), encoding="utf-8")
    (config.parent / "own.py").write_text("raise SystemExit", encoding="utf-8")
    (fault,) = check_repository(tmp_path).faults
    assert "served_tokenizer/1/tokenizer is code of its own (own.Tokenizer)" in str(fault)
