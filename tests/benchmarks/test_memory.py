"""benchmarks/memory.py: the model it makes, and what it calls growth."""

from pathlib import Path
from types import ModuleType

import pytest

from llmopt.checkpoint.checkpoint import Checkpoint
from tests.benchmarks.test_calibration_study import load_script


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("memory", monkeypatch)


@pytest.fixture
def random_llama(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("random_llama", monkeypatch)


def test_the_model_is_one_that_llmopt_opens(random_llama: ModuleType, tmp_path: Path) -> None:
    shape = random_llama.LlamaShape(64, 96, 4, 2, 6144, 5)
    total = random_llama.make_model(tmp_path / "model", shape, blocks_per_shard=2)
    checkpoint = Checkpoint.open(tmp_path / "model")
    assert checkpoint.config.num_hidden_layers == 5
    assert checkpoint.weight_bytes() == total
    checkpoint.require_tokenizer()


def test_growth_is_the_slope_from_the_third_block_on(memory: ModuleType) -> None:
    rising = memory.Watched(1.0, 0, [9, 9_000, 100, 102, 104, 106])
    assert rising.growth_bytes() == pytest.approx(2)
    flat = memory.Watched(1.0, 0, [0, 0, 50, 50, 50])
    assert flat.growth_bytes() == pytest.approx(0)
