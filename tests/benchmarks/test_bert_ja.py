"""benchmarks/bert_ja.py: its tokenizer, its export by the real command, and its tables."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from transformers import AutoTokenizer, BertConfig

from tests.benchmarks.test_calibration_study import load_script

pytest.importorskip("fugashi", reason="fugashi (MeCab) is not installed")
pytest.importorskip("unidic_lite", reason="MeCab's dictionary unidic-lite is not installed")

TEXTS = ["前身頃に袖を縫い付け、衿を検品する。", "ボタンの位置は寸法表のとおりとする。"] * 20
VOCAB_SIZE = 200


@pytest.fixture
def bert_ja(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("bert_ja", monkeypatch)


@pytest.fixture
def random_bert(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("random_bert", monkeypatch)


def make_small(random_bert: ModuleType, folder: Path) -> Path:
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        vocab_size=VOCAB_SIZE, max_position_embeddings=64,
    )  # fmt: skip
    return random_bert.make_bert(folder, config, random_bert.build_vocabulary(TEXTS, VOCAB_SIZE))


def test_the_vocabulary_is_learned_and_filled_up(random_bert: ModuleType) -> None:
    vocabulary = random_bert.build_vocabulary(TEXTS, VOCAB_SIZE)
    assert len(vocabulary) == len(set(vocabulary)) == VOCAB_SIZE
    assert vocabulary[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert {"ボタン", "検品"} <= set(vocabulary)
    assert vocabulary[-1].startswith("[unused")
    assert any(token.startswith("##") for token in vocabulary)


def test_every_document_of_the_shipped_sets_is_read(random_bert: ModuleType) -> None:
    texts = list(random_bert.read_texts())
    assert len(texts) > 1000
    assert all(texts)


def test_an_export_runs_on_its_own_tokenizers_rows(
    bert_ja: ModuleType, random_bert: ModuleType, tmp_path: Path, one_thread: None
) -> None:
    model = make_small(random_bert, tmp_path / "model")
    made = bert_ja.export(model, "fill_mask", "plain", threads=1)
    assert made.metrics["relative_error"] < 1e-5
    assert made.usage.wall_s > 0
    assert type(AutoTokenizer.from_pretrained(made.folder)).__name__ == "BertJapaneseTokenizer"
    inputs = bert_ja.tokenize_rows(made.folder, TEXTS, rows=2, tokens=16)
    assert inputs["attention_mask"].all()
    assert (inputs["input_ids"] == 1).mean() < 0.1  # few [UNK] in what it was learned from
    ours = bert_ja.run_onnx(made.folder, 1)(inputs)
    np.testing.assert_allclose(ours, bert_ja.run_pytorch(model, "fill_mask")(inputs), atol=1e-4)
    table = bert_ja.tabulate_exports({("fill_mask", "plain"): made}, 1000)
    assert "| fill_mask | plain |" in table
    assert "100.0 %" in table


def test_each_is_timed_in_turn(bert_ja: ModuleType) -> None:
    order: list[str] = []
    runners = {name: lambda _, name=name: order.append(name) for name in ("a", "b")}
    times = bert_ja.time_alternately(runners, {}, rounds=2, settle_s=0)
    assert order == ["a", "a", "b", "b"] * 2
    assert set(times) == {"a", "b"}


def test_speed_is_pytorchs_time_over_the_others(bert_ja: ModuleType) -> None:
    medians = {"PyTorch": 0.03, "plain": 0.02, "int8_dynamic": 0.01}
    table = bert_ja.tabulate_speed({("embed", 8, 32): medians})
    assert "| embed | 8 × 32 | 30.0 ms | 20.0 ms | 1.50 | 10.0 ms | 3.00 |" in table
