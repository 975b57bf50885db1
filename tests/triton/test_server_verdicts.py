"""llmopt's checks beside the real server's verdicts: nothing that it refuses is accepted here."""

from dataclasses import replace
from pathlib import Path

import pytest

from llmopt.triton.checks.repository_check import check_repository
from llmopt.triton.model_environment import ModelEnvironment, make_environment
from llmopt.triton.server_distribution import ServerDistribution
from tests.models import REPOSITORY
from tests.triton.good_repositories import WRITERS
from tests.triton.judge import QUESTIONS, judge_mistake, judge_repository
from tests.triton.mistakes.harmless import HARMLESS
from tests.triton.mistakes.planting import Mistake
from tests.triton.mistakes.table import MISTAKES
from tests.triton.record_verdicts import REQUIREMENTS, find_digest, is_stale, read_verdicts
from tests.triton.verdicts_page import MEANINGS, write_page

RECORDED = read_verdicts()
GOOD = ("serves", "not judged")
# One of three verdicts each, started in every test run; `full` starts every sixth mistake.
TELLING = (
    "a preferred batch above max_batch_size",
    "an output of another name than the config's",
    "execute without requests",
)


@pytest.fixture(scope="module")
def environment(server_distribution: ServerDistribution) -> ModelEnvironment:
    """An environment of the models: onnxruntime beside numpy."""
    return make_environment(REQUIREMENTS, print)


def test_every_mistake_has_a_recorded_verdict() -> None:
    assert list(RECORDED) == [mistake.name for mistake in (*MISTAKES, *HARMLESS)]
    assert {entry["verdict"] for entry in RECORDED.values()} <= set(MEANINGS)
    assert all(entry["says"] for entry in RECORDED.values())


@pytest.mark.parametrize("mistake", [*MISTAKES, *HARMLESS], ids=lambda mistake: mistake.name)
def test_a_verdict_is_that_of_the_present_plant(mistake: Mistake) -> None:
    assert not is_stale(mistake, RECORDED), (
        "its files are others than those that the server judged: "
        "run python -m tests.triton.record_verdicts --stale, then make reference"
    )


def test_another_plant_of_the_same_name_makes_a_verdict_stale() -> None:
    mistake, other = (each for each in MISTAKES[:2] if each.base == "words")
    recorded = {mistake.name: {"planted": find_digest(mistake)}}
    assert not is_stale(mistake, recorded)
    assert is_stale(replace(mistake, edits=other.edits), recorded)
    assert is_stale(other, recorded)


def test_at_least_sixty_mistakes_were_judged_wrong_by_the_server() -> None:
    wrong = [m for m in MISTAKES if RECORDED[m.name]["verdict"] not in GOOD]
    assert len(wrong) >= 60


@pytest.mark.parametrize("mistake", [*MISTAKES, *HARMLESS], ids=lambda mistake: mistake.name)
def test_nothing_is_accepted_that_the_server_refuses(mistake: Mistake, tmp_path: Path) -> None:
    WRITERS[mistake.base](tmp_path)
    mistake.plant(tmp_path)
    accepted = not check_repository(tmp_path).faults
    assert not (accepted and RECORDED[mistake.name]["verdict"] not in GOOD)


@pytest.mark.parametrize("change", HARMLESS, ids=lambda change: change.name)
def test_what_is_no_mistake_is_accepted_by_both(change: Mistake, tmp_path: Path) -> None:
    WRITERS[change.base](tmp_path)
    change.plant(tmp_path)
    assert [str(fault) for fault in check_repository(tmp_path).faults] == []
    assert RECORDED[change.name]["verdict"] == "serves"


@pytest.mark.parametrize("base", QUESTIONS)
def test_the_real_server_answers_for_a_good_repository(
    base: str, tmp_path: Path, environment: ModelEnvironment
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    WRITERS[base](repository)
    verdict = judge_repository(repository, base, environment)
    assert verdict.verdict == "serves", verdict.says


@pytest.mark.parametrize("name", TELLING)
def test_the_real_server_says_what_was_recorded(
    name: str, tmp_path: Path, environment: ModelEnvironment
) -> None:
    (mistake,) = (mistake for mistake in MISTAKES if mistake.name == name)
    verdict = judge_mistake(mistake, tmp_path, environment)
    assert verdict.verdict == RECORDED[name]["verdict"], verdict.says


@pytest.mark.full
@pytest.mark.parametrize("mistake", MISTAKES[::6], ids=lambda mistake: mistake.name)
def test_recorded_verdicts_come_out_again(
    mistake: Mistake, tmp_path: Path, environment: ModelEnvironment
) -> None:
    verdict = judge_mistake(mistake, tmp_path, environment)
    assert verdict.verdict == RECORDED[mistake.name]["verdict"], verdict.says


def test_the_page_is_up_to_date() -> None:
    page = (REPOSITORY / "docs" / "triton-checks.md").read_text(encoding="utf-8")
    assert page == write_page(), "run make reference"
