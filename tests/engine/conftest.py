"""Exported models for the engine tests, each traced once; copy one before changing it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.export.exports import export
from tests.quant.pipeline import make_small_model
from tests.recipe.harness import Workplace


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with a key-value cache, float16; do not write into it."""
    folder = tmp_path_factory.mktemp("exported")
    export(make_small_model(folder / "model"), folder / "onnx", dtype="float16")
    return folder / "onnx"


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Callable[[], Path]:
    """Copies that model into the test's folder, to be damaged."""
    return lambda: Path(shutil.copytree(exported, tmp_path / "copied"))


@pytest.fixture
def workplace(tmp_path: Path, one_thread: None) -> Workplace:
    """An empty working directory, computing on one thread."""
    (tmp_path / "work").mkdir()
    return Workplace(tmp_path / "work")
