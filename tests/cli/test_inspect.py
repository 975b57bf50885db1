"""`verify`, `store`, `doctor`, `init`."""

import json
import os
import shutil
from pathlib import Path

import pytest

from llmopt.triton.server_distribution import ServerDistribution
from tests.cli.conftest import RunHere
from tests.conftest import RunCli
from tests.models import edit_json
from tests.recipe.harness import QUANTIZE, make_recipe, write_recipe


@pytest.fixture
def artifact(run_here: RunHere, tmp_path: Path, random_model: Path) -> Path:
    """A quantised checkpoint in `tmp_path / "q"`."""
    done = run_here("quantize", "rtn", random_model, "-o", "q", "--group-size", "32")
    assert done.returncode == 0, done.stderr
    return tmp_path / "q"


def test_a_good_artifact_is_sound(run_here: RunHere, artifact: Path) -> None:
    done = run_here("verify", artifact)
    assert done.returncode == 0
    assert "files against the manifest" in done.stdout
    assert "gptq 4 bits group 32" in done.stdout
    assert done.stdout.endswith("q is sound\n")
    assert done.stderr == ""
    report = json.loads(run_here("verify", artifact, "--json").stdout)
    assert report["faults"] == []
    assert len(report["checked"]) == 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("byte", "model.safetensors has other contents than the manifest's sha256"),
        ("missing sidecar", "tokenizer_config.json is missing"),
        ("missing weights", "model.safetensors is missing"),
        ("truncated", "model.safetensors has "),
        ("extra", "notes.txt is not in the manifest"),
        ("config", "config.json has "),
        ("tokenizer", "tokenizer.json is truncated or no tokenizer file"),
    ],
)
def test_a_damaged_artifact_is_not(
    run_here: RunHere, artifact: Path, damage: str, message: str
) -> None:
    weights = artifact / "model.safetensors"
    if damage == "byte":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "missing sidecar":
        (artifact / "tokenizer_config.json").unlink()
    elif damage == "missing weights":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "extra":
        (artifact / "notes.txt").write_text("x", encoding="utf-8")
    elif damage == "config":
        edit_json(artifact / "config.json", intermediate_size=512)
    else:
        (artifact / "tokenizer.json").write_text('{"version": ', encoding="utf-8")
    done = run_here("verify", artifact)
    assert done.returncode == 8
    assert "q is not sound:" in done.stderr
    assert message in done.stderr
    assert done.stdout == ""
    as_json = run_here("verify", artifact, "--json")
    assert as_json.returncode == 8
    assert any(message in fault for fault in json.loads(as_json.stdout)["faults"])


def test_a_checkpoint_without_a_manifest_can_be_verified(
    run_here: RunHere, random_model: Path, tmp_path: Path
) -> None:
    done = run_here("verify", random_model)
    assert done.returncode == 0
    assert "tensors (llama, 3 blocks, bfloat16)" in done.stdout
    assert "manifest" not in done.stdout
    copy = Path(shutil.copytree(random_model, tmp_path / "copy"))
    (copy / "tokenizer.json").unlink()
    assert run_here("verify", copy).returncode == 8


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_a_folder_that_is_no_model_is_refused(
    run_here: RunHere, tmp_path: Path, place: str
) -> None:
    (tmp_path / "empty").mkdir()
    done = run_here("verify", place)
    assert done.returncode == 8
    assert place in done.stderr


def test_one_model_of_a_repository_names_the_repository(run_here: RunHere, tmp_path: Path) -> None:
    model = tmp_path / "repository" / "apparel"
    model.mkdir(parents=True)
    (model / "config.pbtxt").write_text("")
    done = run_here("verify", "repository/apparel")
    assert done.returncode == 8
    assert "is one model of a Triton repository" in done.stderr
    assert "llmopt verify repository" in done.stderr


def test_store_ls_and_gc(
    run_here: RunHere, tmp_path: Path, random_model: Path, documents: Path
) -> None:
    steps = {"quantize": QUANTIZE}
    path = write_recipe(tmp_path, make_recipe(random_model, documents, steps))
    for bits in (4, 8):
        done = run_here("run", path, "--set", f"steps.quantize.bits={bits}", "--threads", "1")
        assert done.returncode == 0, done.stderr
    entries = json.loads(run_here("store", "ls", "--json").stdout)
    assert [entry["uses"] for entry in entries] == ["quantize.rtn"] * 2
    assert all(entry["finished"] and entry["size_bytes"] > 1_000_000 for entry in entries)
    linked = [entry for entry in entries if entry["links"]]
    assert [entry["links"] for entry in linked] == [[str(tmp_path / "out/small/quantize")]]
    listing = run_here("store", "ls").stdout
    assert listing.count("quantize.rtn") == 2
    assert "no link: gc would remove it" in listing
    assert "2 entries" in listing
    dry = run_here("store", "gc", "--dry-run").stdout
    assert "would free" in dry
    assert len(json.loads(run_here("store", "ls", "--json").stdout)) == 2
    assert run_here("store", "gc").stdout == dry.replace("would free", "freed")
    (kept,) = json.loads(run_here("store", "ls", "--json").stdout)
    assert kept["identity"] == linked[0]["identity"]
    assert (tmp_path / "out/small/quantize/manifest.json").is_file()


def test_an_empty_store_is_listed(run_cli: RunCli, tmp_path: Path) -> None:
    assert json.loads(run_cli("store", "ls", "--json").stdout) == []
    assert run_cli("store", "gc").stdout == "freed 0 B in 0 entries\n"
    assert not (tmp_path / ".llmopt").exists()


def test_doctor_says_what_is_there(run_here: RunHere) -> None:
    done = run_here("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert findings["torch"]["present"]
    assert findings["transformers"]["present"]
    assert findings["calibration sets"]["detail"] == "apparel-ja, general-en, general-ja"
    for finding in findings.values():
        assert finding["present"] or finding["remedy"]
    text = run_here("doctor").stdout
    assert "✓ torch: " in text
    assert text.count("\n") >= len(findings)


def test_doctor_tells_where_the_server_is_and_fetches_it_once(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    findings = {each["name"]: each for each in json.loads(run_cli("doctor", "--json").stdout)}
    assert not findings["tritonserver"]["present"]
    assert str(tmp_path / "cache") in findings["tritonserver"]["detail"]
    assert "doctor --get tritonserver" in findings["tritonserver"]["remedy"]
    failed = run_cli("doctor", "--get", "tritonserver")
    assert failed.returncode == 5
    assert "pip could not fetch nvidia-pytriton==0.7.0" in failed.stderr
    assert run_cli("doctor", "--get", "vllm").returncode == 2


def test_a_cache_that_can_not_be_made_is_told_with_its_variable(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMOPT_CACHE", str(tmp_path / "file" / "cache"))
    refused = run_cli("doctor", "--get", "tritonserver")
    assert refused.returncode == 8
    assert "LLMOPT_CACHE=FOLDER" in refused.stderr


def test_doctor_finds_the_server_that_is_there(
    run_cli: RunCli, server_distribution: ServerDistribution
) -> None:
    findings = {each["name"]: each for each in json.loads(run_cli("doctor", "--json").stdout)}
    assert findings["tritonserver"]["present"]
    assert findings["tritonserver"]["detail"].startswith("2.51.0, as in the container 24.10, in ")
    again = run_cli("doctor", "--get", "tritonserver")
    assert again.returncode == 0
    assert again.stderr.startswith("tritonserver is in ")
    assert "fetching" not in again.stderr


def test_init_writes_a_recipe_that_validates(
    run_cli: RunCli, random_model: Path, tmp_path: Path
) -> None:
    done = run_cli("init", random_model)
    assert done.returncode == 0
    assert done.stderr == "wrote recipe.yaml; next: llmopt plan recipe.yaml\n"
    checked = run_cli("validate", "recipe.yaml")
    assert (checked.returncode, checked.stderr) == (0, "recipe.yaml: valid (2 steps)\n")
    again = run_cli("init", random_model)
    assert again.returncode == 2
    assert "recipe.yaml exists already" in again.stderr
    assert run_cli("init", random_model, "-o", "more/other.yaml").returncode == 0
    assert run_cli("init").returncode == 2
