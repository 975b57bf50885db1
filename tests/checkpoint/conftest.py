"""Small models, made once, copied by the tests that damage them."""

import shutil
from pathlib import Path

import pytest

from tests.quant.pipeline import Quantized, make_small_model, quantize


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 blocks, hidden 64, untied, bf16; do not write into it."""
    folder = tmp_path_factory.mktemp("small") / "model"
    return make_small_model(folder, tie_word_embeddings=False)


@pytest.fixture(scope="session")
def small_gptq(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """That model in 4-bit GPTQ, group 32; do not write into it."""
    return quantize(small_model, tmp_path_factory.mktemp("small-gptq"))


@pytest.fixture
def model(small_model: Path, tmp_path: Path) -> Path:
    """A copy of the small model that a test may damage."""
    return Path(shutil.copytree(small_model, tmp_path / "model"))
