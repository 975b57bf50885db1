"""benchmarks/triton_bert.py: its texts, PyTorch's side, and its table."""

from pathlib import Path
from types import ModuleType

import pytest
from transformers import BertConfig

from llmopt.triton.load import LoadResult, Timing
from tests.benchmarks.test_calibration_study import load_script

pytest.importorskip("fugashi", reason="fugashi (MeCab) is not installed")
pytest.importorskip("unidic_lite", reason="MeCab's dictionary unidic-lite is not installed")


@pytest.fixture
def triton_bert(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("triton_bert", monkeypatch)


def make_result(clients: int, latencies_s: list[float], seconds: float = 1.0) -> LoadResult:
    return LoadResult(clients, seconds, tuple(Timing(each) for each in latencies_s), ())


def test_texts_differ_in_length_and_have_one_mask_each(triton_bert: ModuleType) -> None:
    texts = triton_bert.make_texts(list(triton_bert.read_texts()))
    lengths = sorted(len(text) - len("[MASK]") for text in texts)
    assert len(texts) == triton_bert.NUM_TEXTS
    assert (lengths[0], lengths[-1]) == (triton_bert.SHORTEST, triton_bert.LONGEST)
    assert all(text.count("[MASK]") == 1 for text in texts)


def test_pytorch_is_asked_one_text_at_a_time(triton_bert: ModuleType, tmp_path: Path) -> None:
    random_bert = triton_bert.sys.modules["random_bert"]
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        vocab_size=50, max_position_embeddings=64,
    )  # fmt: skip
    vocabulary = random_bert.build_vocabulary(["前身頃に袖を縫う。"], 50)
    model = random_bert.make_bert(tmp_path / "model", config, vocabulary)
    open_asker = triton_bert.ask_pytorch(model)
    with open_asker() as ask, open_asker() as other:
        assert ask is other  # one lock, one model
        assert ask("袖[MASK]縫う").latency_s > 0
    with pytest.raises(IndexError), open_asker() as ask:
        ask("袖を縫う")  # nothing to fill


def test_the_table_has_medians_and_the_ratio_to_pytorch(triton_bert: ModuleType) -> None:
    rounds = [make_result(4, [0.01] * n) for n in (10, 30, 20)]
    figures = triton_bert.take_medians(rounds)
    assert figures["requests_per_s"] == 20
    slower = triton_bert.take_medians([make_result(4, [0.02] * 5)])
    table = triton_bert.tabulate({"PyTorch": {4: slower}, "int8": {4: figures}}, {"int8": 3.21})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[2] == ["PyTorch", "4", "5.0", "1.00", "20", "20", "0", ""]
    assert rows[3] == ["int8", "4", "20.0", "4.00", "10", "10", "0", "3.2"]
