"""`llmopt verify` over a Triton model repository."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import RunHere
from tests.triton.good_repositories import write_encoder, write_words

DIMS, OTHER_DIMS = "dims: [ 3 ]", "dims: [ 4 ]"


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A repository made by hand, in `tmp_path / "words"`."""
    (tmp_path / "words").mkdir()
    write_words(tmp_path / "words")
    return tmp_path / "words"


def test_a_good_repository_is_sound_as_far_as_checked(run_here: RunHere, words: Path) -> None:
    done = run_here("verify", words)
    assert done.returncode == 0, done.stderr
    assert "✓ ensembles: steps, maps, data types, shapes, bytes (words)" in done.stdout
    assert (
        "not checked: versions of Python, onnxruntime and TensorRT: no triton.json" in done.stdout
    )
    assert done.stdout.endswith("words is sound as far as checked\n")


def test_what_llmopt_describes_is_sound(run_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    write_encoder(tmp_path / "encoder")
    report = json.loads(run_here("verify", "encoder", "--json").stdout)
    assert report["faults"] == report["not_checked"] == []
    assert "triton.json and requirements.txt" in report["checked"]


def test_a_fault_ends_with_exit_code_8_and_the_fix(run_here: RunHere, words: Path) -> None:
    config = words / "words" / "config.pbtxt"
    config.write_text(config.read_text("utf-8").replace(DIMS, OTHER_DIMS), encoding="utf-8")
    done = run_here("verify", words)
    assert done.returncode == 8
    assert 'tensor "SCORES" is [-1, 3] in scorer\'s output "SCORES" and [-1, 4]' in done.stderr
    assert "correct one of the two configs" in done.stderr
    report = json.loads(run_here("verify", words, "--json").stdout)
    assert len(report["faults"]) == 1


def test_a_damaged_description_names_the_file(run_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    write_encoder(tmp_path / "encoder")
    (tmp_path / "encoder" / "triton.json").write_text("{}", encoding="utf-8")
    done = run_here("verify", "encoder")
    assert done.returncode == 8
    assert "triton.json is not a description of llmopt" in done.stderr
