"""Offline checks of repositories: good ones pass, and every planted mistake is named."""

from pathlib import Path

import pytest

from llmopt.errors import InputError
from llmopt.triton.checks.repository_check import check_repository
from tests.triton.good_repositories import WRITERS
from tests.triton.mistakes.planting import Mistake, set_json
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


def test_a_vllm_model_may_leave_its_tensors_to_the_backend(tmp_path: Path) -> None:
    WRITERS["llm"](tmp_path)
    text = 'backend: "vllm"\ninstance_group [ { count: 1 kind: KIND_MODEL } ]\n'
    decoupled = "model_transaction_policy { decoupled: true }\n"
    (tmp_path / "llm" / "config.pbtxt").write_text(text + decoupled, encoding="utf-8")
    report = check_repository(tmp_path)
    assert report.faults == []
    assert "llm: its inputs, which the vllm backend declares itself" in report.not_checked


def test_what_another_machine_decides_is_not_checked(tmp_path: Path) -> None:
    WRITERS["words"](tmp_path)
    config = tmp_path / "scorer" / "config.pbtxt"
    text = config.read_text(encoding="utf-8").replace("KIND_CPU", "KIND_GPU gpus: [ 1 ]")
    more = 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/envs/a.tar.gz" } }\n'
    config.write_text(f"{text}response_cache {{ enable: true }}\n{more}", encoding="utf-8")
    report = check_repository(tmp_path)
    assert report.faults == []
    assert {
        "scorer: whether the server's machine has GPUs [1]",
        "scorer: environment /envs/a.tar.gz, a path on the server's machine",
        "scorer: its response cache, which does nothing unless the server is started with "
        "--cache-config=local,size=BYTES",
    } <= set(report.not_checked)


def test_delays_of_several_steps_are_noted_with_their_sum(tmp_path: Path) -> None:
    WRITERS["words"](tmp_path)
    config = tmp_path / "reader" / "config.pbtxt"
    text = config.read_text(encoding="utf-8")
    config.write_text(f"{text}dynamic_batching {{ max_queue_delay_microseconds: 500 }}\n")
    report = check_repository(tmp_path)
    assert report.faults == []
    assert (
        "words: whether a request may wait for 1500 µs in all: the delays of its steps (reader 500,"
        " scorer 1000) add up" in report.not_checked
    )


def test_the_delay_of_one_step_is_not_noted(tmp_path: Path) -> None:
    WRITERS["words"](tmp_path)
    assert not [line for line in check_repository(tmp_path).not_checked if "µs" in line]


@pytest.mark.parametrize("field", ["max_batch_size: 0\n", ""])
def test_a_batch_size_that_a_server_may_complete_is_noted(field: str, tmp_path: Path) -> None:
    WRITERS["encoder"](tmp_path)
    config = tmp_path / "engine" / "config.pbtxt"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("max_batch_size: 8\n", field), encoding="utf-8")
    assert (
        "engine: its max_batch_size, which is 0 or not set: a server that completes configs "
        "(without --disable-auto-complete-config) may set another"
        in check_repository(tmp_path).not_checked
    )


def test_answers_without_an_end_are_noted(tmp_path: Path) -> None:
    WRITERS["counter"](tmp_path)
    set_json("counter/1/generation.json", eos_token_ids=[])(tmp_path)
    report = check_repository(tmp_path)
    assert report.faults == []
    assert report.not_checked == [
        "counter: where answers end by themselves: eos_token_ids is empty"
    ]


def test_an_unread_config_is_one_fault_not_two(tmp_path: Path) -> None:
    WRITERS["words"](tmp_path)
    (tmp_path / "scorer" / "config.pbtxt").write_text("no config", encoding="utf-8")
    report = check_repository(tmp_path)
    assert [fault.file for fault in report.faults] == ["scorer/config.pbtxt"]
    assert "words: step scorer, whose config does not read" in report.not_checked
