"""Mixtures of experts, made once for a module and family."""

from pathlib import Path

import pytest

from tests.quant.expert_models import EXACT, FAMILIES, FLOAT32
from tests.quant.pipeline import Quantized, make_small_model, quantize


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """The model's family."""
    return str(request.param)


@pytest.fixture(scope="module")
def model(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mixture of 2 blocks, hidden 64, 4 experts, float32; do not write into it."""
    return make_small_model(tmp_path_factory.mktemp("experts") / "model", family, **FLOAT32)


@pytest.fixture(scope="module")
def result(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """That model in 4 bits; do not write into it."""
    return quantize(model, tmp_path_factory.mktemp("quantized"), options=EXACT)
