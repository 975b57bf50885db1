"""benchmarks/memory.py: the model it makes, and what it calls growth."""

from pathlib import Path
from types import ModuleType

import pytest

from llmopt.checkpoint.checkpoint import Checkpoint
from tests.benchmarks.test_calibration_study import load_script


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = load_script("memory", monkeypatch)
    small = {"HIDDEN": 64, "INTERMEDIATE": 96, "HEADS": 4, "KV_HEADS": 2, "HEAD_DIM": 16}
    for name, value in {**small, "BLOCKS_PER_SHARD": 2}.items():
        monkeypatch.setattr(script, name, value)
    return script


def test_the_model_is_one_that_llmopt_opens(memory: ModuleType, tmp_path: Path) -> None:
    total = memory.make_model(tmp_path / "model", 5)
    checkpoint = Checkpoint.open(tmp_path / "model")
    assert checkpoint.config.num_hidden_layers == 5
    assert checkpoint.weight_bytes() == total
    assert len(list((tmp_path / "model").glob("*.safetensors"))) == 3
    checkpoint.require_tokenizer()


def test_growth_is_the_slope_from_the_third_block_on(memory: ModuleType) -> None:
    rising = memory.Watched(1.0, 0, [9, 9_000, 100, 102, 104, 106])
    assert rising.growth_bytes() == pytest.approx(2)
    flat = memory.Watched(1.0, 0, [0, 0, 50, 50, 50])
    assert flat.growth_bytes() == pytest.approx(0)
