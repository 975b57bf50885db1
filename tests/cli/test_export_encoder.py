"""`llmopt export-onnx` on BERTs: what is written and recorded, and what is refused how."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.onnx_description import read_onnx_description
from tests.cli.conftest import RunHere
from tests.export.encoders import MAX_TOKENS, make_bert
from tests.models import edit_json

TEXT = "前身頃に袖を縫い、衿を検品する。"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert") / "model")


def read_metrics(folder: Path) -> dict[str, Any]:
    return Artifact.open(folder).manifest.metrics


@pytest.mark.parametrize("subwords", ["wordpiece", "character"])
def test_the_tokenizer_goes_with_the_model(
    run_here: RunHere, tmp_path: Path, subwords: str
) -> None:
    pytest.importorskip("fugashi", reason="fugashi (MeCab) is not installed")
    pytest.importorskip("unidic_lite", reason="MeCab's dictionary unidic-lite is not installed")
    model = make_bert(tmp_path / "model", subwords=subwords)
    done = run_here("export-onnx", model, "--task", "embed", "-o", "out")
    assert done.returncode == 0, done.stderr
    ours, original = (AutoTokenizer.from_pretrained(f) for f in (tmp_path / "out", model))
    assert type(ours).__name__ == "BertJapaneseTokenizer"
    assert ours(TEXT) == original(TEXT)
    tokens = ours.convert_ids_to_tokens(ours(TEXT)["input_ids"])
    assert tokens[0] == "[CLS]"
    assert ("##頃" in tokens) == (subwords == "wordpiece")
    assert run_here("verify", "out").returncode == 0


def test_the_manifest_holds_the_parity(run_here: RunHere, bert: Path, tmp_path: Path) -> None:
    done = run_here("export-onnx", bert, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "same top token at 100.0 % of" in done.stdout
    assert "Warning" not in done.stderr
    metrics = read_metrics(tmp_path / "out")
    assert metrics["relative_error"] < 1e-5
    assert metrics["top1_agreement"] == 1
    assert metrics["checked_as"] == "float32"
    assert metrics["compared_positions"] > MAX_TOKENS
    assert metrics["weights_bytes"] == (tmp_path / "out" / "model.onnx.data").stat().st_size
    assert Artifact.open(tmp_path / "out").find_faults() == []


def test_bfloat16_is_checked_in_float32(run_here: RunHere, bert: Path, tmp_path: Path) -> None:
    done = run_here("export-onnx", bert, "--dtype", "bfloat16", "--task", "embed", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "cosine distance" in done.stdout
    metrics = read_metrics(tmp_path / "out")
    assert metrics["checked_as"] == "float32"
    assert "top1_agreement" not in metrics
    assert read_onnx_description(tmp_path / "out").dtype == "bfloat16"


def test_int8_is_smaller_and_near(run_here: RunHere, bert: Path, tmp_path: Path) -> None:
    assert run_here("export-onnx", bert, "-o", "plain").returncode == 0
    done = run_here("export-onnx", bert, "--weights", "int8_dynamic", "-o", "int8")
    assert done.returncode == 0, done.stderr
    assert "14 layers as integers" in done.stdout
    plain, int8 = read_metrics(tmp_path / "plain"), read_metrics(tmp_path / "int8")
    assert int8["weights_bytes"] < plain["weights_bytes"] / 2
    assert int8["float32_relative_error"] == pytest.approx(plain["relative_error"])
    assert 1e-6 < int8["cosine_distance"] < 0.02
    assert run_here("verify", "int8").returncode == 0


def test_masked_positions_are_checked_and_recorded(
    run_here: RunHere, bert: Path, tmp_path: Path
) -> None:
    done = run_here("export-onnx", bert, "--masked-positions", "-o", "out")
    assert done.returncode == 0, done.stderr
    metrics = read_metrics(tmp_path / "out")
    assert 0 < metrics["relative_error"] < 1e-5
    assert metrics["compared_positions"] == 20
    assert read_onnx_description(tmp_path / "out").masked_positions
    assert run_here("verify", "out").returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the exported encoder differs from PyTorch: error"),
        (["--weights", "int8_dynamic"], "the int8 encoder differs from PyTorch: mean cosine"),
    ],
)
def test_a_missed_tolerance_is_exit_code_9_and_leaves_nothing(
    run_here: RunHere, bert: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    done = run_here("export-onnx", bert, *options, "--tolerance", "1e-9", "-o", "out")
    assert done.returncode == 9
    assert message in done.stderr
    assert "allowed 1e-09" in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "out" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "qdq_int4"], "weights: qdq_int4 is for decoders"),
        (["--weights", "matmulnbits"], "weights: matmulnbits is for decoders"),
        (["--weights", "dequantised"], "weights: dequantised is for decoders"),
        (["--weights", "int8_dynamic", "--dtype", "float16"], "float32, not float16"),
        (["--last-token-logits"], "last_token_logits: true is for decoders"),
        (["--kv-cache"], "kv_cache: true is for decoders"),
        (["--masked-positions", "--task", "embed"], "masked_positions: true needs task: fill_mask"),
    ],
)
def test_fields_of_decoders_are_refused(
    run_here: RunHere, bert: Path, options: list[str], message: str
) -> None:
    done = run_here("export-onnx", bert, *options, "-o", "out")
    assert done.returncode == 7
    assert message in done.stderr
    assert "→" in done.stderr


def test_fields_of_encoders_are_refused_on_decoders(run_here: RunHere, random_model: Path) -> None:
    done = run_here("export-onnx", random_model, "--weights", "int8_dynamic", "-o", "out")
    assert done.returncode == 7
    assert "int8_dynamic is for encoders" in done.stderr
    assert "use weights: matmulnbits on a checkpoint that quantize.gptq made" in done.stderr
    done = run_here("export-onnx", random_model, "--task", "embed", "-o", "out")
    assert done.returncode == 7
    assert "task: embed is for encoders" in done.stderr
    done = run_here("export-onnx", random_model, "--masked-positions", "-o", "out")
    assert done.returncode == 7
    assert "masked_positions: true is for encoders" in done.stderr


@pytest.mark.parametrize("model_type", ["roberta", "t5", None])
def test_an_unknown_architecture_is_refused(
    run_here: RunHere, tmp_path: Path, model_type: str | None
) -> None:
    model = make_bert(tmp_path / "model")
    edit_json(model / "config.json", model_type=model_type)
    done = run_here("export-onnx", model, "-o", "out")
    assert done.returncode == 8
    assert f"model_type {model_type!r} is not exported to ONNX; supported: llama" in done.stderr
    assert "bert" in done.stderr


def test_a_task_without_its_head_is_refused(run_here: RunHere, tmp_path: Path) -> None:
    model = make_bert(tmp_path / "model", "BertModel")
    done = run_here("export-onnx", model, "--task", "fill_mask", "-o", "out")
    assert done.returncode == 7
    assert "holds no masked-LM head" in done.stderr
    assert "set task: embed" in done.stderr
    made = run_here("export-onnx", model, "-o", "out")
    assert made.returncode == 0, made.stderr
    assert json.loads((tmp_path / "out" / "onnx.json").read_text())["task"] == "embed"


def test_without_onnxruntime_the_install_command_is_named(
    run_here: RunHere, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name)
    )
    done = run_here("export-onnx", bert, "-o", "out")
    assert done.returncode == 5
    assert "export.onnx needs onnxruntime, which is not installed" in done.stderr
    assert "pip install 'llmopt[onnx]'" in done.stderr
