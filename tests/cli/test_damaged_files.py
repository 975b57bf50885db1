"""Files that llmopt wrote and something damaged since: every command that reads them says so."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Finished, RunHere
from tests.cli.test_diff import write_artifact
from tests.export.exports import export
from tests.quant.pipeline import make_small_model

PROFILE = "--profile=decode:batch=1,sequence=1,past_sequence=1:8:16"
RAW = ("Traceback", "errors.pydantic", "validation error", "[ONNXRuntimeError]", ".cc:")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small export; copy it before changing it."""
    folder = tmp_path_factory.mktemp("damaged")
    export(make_small_model(folder / "model"), folder / "onnx")
    return folder / "onnx"


@pytest.fixture
def copied_model(random_model: Path, tmp_path: Path) -> Path:
    """A model to be damaged."""
    return Path(shutil.copytree(random_model, tmp_path / "model"))


def assert_told(done: Finished, *words: str) -> None:
    """Checks for an InputError that names what is wrong and the way out, in no library's words."""
    assert done.returncode == 8, done.stderr
    assert "unsuitable input: " in done.stderr
    for word in (*words, "\n  → "):
        assert word in done.stderr
    for raw in RAW:
        assert raw not in done.stderr


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("command", ["verify", "diff", "report"])
@pytest.mark.parametrize(
    "damage", [cut, lambda path: path.write_bytes(b"\xff" * 9), lambda path: path.write_text("{}")]
)
def test_a_damaged_manifest(
    run_here: RunHere, tmp_path: Path, command: str, damage: Callable[[Path], object]
) -> None:
    write_artifact(tmp_path / "a")
    damage(tmp_path / "a" / "manifest.json")
    done = run_here(command, *(["a", "a"] if command == "diff" else ["a"]))
    assert_told(done, "manifest.json is not a manifest of llmopt")


@pytest.mark.parametrize("command", [("verify",), ("build-trt", PROFILE, "-o", "e")])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("onnx.json", "onnx.json is not the description of an exported model: no valid JSON"),
        ("model.onnx", "model.onnx is"),
        ("model.onnx.data", "model.embed_tokens.weight"),
    ],
)
def test_a_truncated_export(
    run_here: RunHere,
    exported: Path,
    tmp_path: Path,
    command: tuple[str, ...],
    name: str,
    words: str,
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    cut(folder / name)
    first, *rest = command
    done = run_here(first, folder, *rest)
    if done.returncode == 5:
        pytest.skip("needs TensorRT-RTX: pip install 'llmopt[tensorrt]' (llmopt doctor)")
    assert_told(done, words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.json", "config.json is not valid JSON"),
        ("tokenizer.json", "tokenizer.json is truncated or no tokenizer file"),
        ("tokenizer_config.json", "the tokenizer of "),
        ("model.safetensors", "model.safetensors is truncated"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "export-onnx"])
def test_a_truncated_checkpoint(
    run_here: RunHere, documents: Path, copied_model: Path, command: str, name: str, words: str
) -> None:
    model = copied_model
    cut(model / name)
    options = ("--data", documents, "--samples", "1") if command == "eval" else ("-o", "o")
    done = run_here(command, model, *options)
    if command == "export-onnx" and name.startswith("tokenizer"):
        assert done.returncode == 0  # it reads none, and copies the files as they are
    else:
        assert_told(done, words)


def test_an_export_and_its_graph_are_called_by_their_names(
    run_here: RunHere, exported: Path, tmp_path: Path
) -> None:
    done = run_here("export-onnx", exported, "-o", "o")
    assert_told(done, "is an ONNX model that export.onnx made, not a checkpoint", "build-trt")
    assert_told(run_here("export-onnx", exported / "model.onnx", "-o", "o"), "give its folder")
    graph = run_here("build-trt", exported / "model.onnx", PROFILE, "--print-recipe")
    assert graph.returncode == 0, graph.stderr
    assert f"path: {exported}\n" in graph.stdout
    shutil.copyfile(exported / "model.onnx", tmp_path / "model.onnx")
    done = run_here("build-trt", tmp_path / "model.onnx", PROFILE, "-o", "e")
    assert_told(done, "model.onnx is a file; a model is given as its folder")
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "e").exists()
