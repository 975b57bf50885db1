"""Sources that are exported models: told from checkpoints, hashed, refused where they are none."""

from pathlib import Path

import pytest

from llmopt.artifacts.digest import FileHasher
from llmopt.artifacts.onnx_description import DATA_NAME, MODEL_NAME
from llmopt.errors import InputError
from llmopt.recipe.recipe import SourceSpec
from llmopt.recipe.sources import digest_source, locate_source
from tests.engine.descriptions import describe


def write_export(folder: Path, weights: bytes) -> SourceSpec:
    folder.mkdir(exist_ok=True)
    (folder / MODEL_NAME).write_bytes(b"graph")
    (folder / DATA_NAME).write_bytes(weights)
    describe().write(folder)
    return SourceSpec.model_validate({"path": str(folder), "kind": "onnx_model"})


def test_an_exports_digest_goes_by_its_bytes(tmp_path: Path) -> None:
    hasher = FileHasher(None)
    one, two = (write_export(tmp_path / name, b"1") for name in ("a", "b"))
    other = write_export(tmp_path / "c", b"2")
    digests = [
        digest_source(s, tmp_path / n, hasher) for s, n in ((one, "a"), (two, "b"), (other, "c"))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    source = SourceSpec.model_validate({"path": str(tmp_path), "kind": "onnx_model"})
    with pytest.raises(InputError, match=r"holds no onnx\.json"):
        digest_source(source, tmp_path, FileHasher(None))


def test_an_export_of_the_hub_is_refused() -> None:
    with pytest.raises(ValueError, match="is a local folder"):
        SourceSpec.model_validate({"hf": "org/model", "kind": "onnx_model"})


@pytest.mark.parametrize(
    ("name", "kind", "message", "remedy"),
    [
        ("onnx.json", "checkpoint", "is an ONNX model that export.onnx made, not a", "build-trt"),
        ("engine.json", "checkpoint", "is a TensorRT engine, not a checkpoint", "llmopt verify"),
        ("deferred-build.json", "checkpoint", "is a deferred build", "llmopt verify"),
        ("engine.json", "onnx_model", "holds no onnx.json: it is a TensorRT engine", "export-onnx"),
        ("config.json", "onnx_model", "holds no onnx.json: it is a checkpoint", "export-onnx"),
        (
            "other.onnx",
            "onnx_model",
            "an ONNX model that llmopt export-onnx did not",
            "export-onnx",
        ),
        ("triton.json", "checkpoint", "is a Triton repository, not a checkpoint", "llmopt verify"),
        ("onnx.json", "tensorrt_engine", "no engine.json: it is an ONNX model", "build-trt"),
        ("notes.txt", "tensorrt_engine", "is no TensorRT engine: it holds no", "build-trt"),
        ("notes.txt", "onnx_model", "is no exported model: it holds no onnx.json", "export-onnx"),
    ],
)
def test_a_folder_of_another_kind_is_called_by_its_name(
    tmp_path: Path, name: str, kind: str, message: str, remedy: str
) -> None:
    (tmp_path / name).write_text("{}", encoding="utf-8")
    source = SourceSpec.model_validate({"path": str(tmp_path), "kind": kind})
    with pytest.raises(InputError, match=message) as caught:
        locate_source(source, Path())
    assert remedy in str(caught.value.remedy)
    with pytest.raises(InputError, match=f"{name} is a file; a model is given as its") as caught:
        locate_source(source.model_copy(update={"path": str(tmp_path / name)}), Path())
    assert caught.value.remedy == f"give its folder: {tmp_path}"


def test_an_engines_folder_is_found_as_such(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text("{}", encoding="utf-8")
    source = SourceSpec.model_validate({"path": str(tmp_path), "kind": "tensorrt_engine"})
    assert locate_source(source, Path()) == tmp_path
