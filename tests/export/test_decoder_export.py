"""Exports of small decoders, run by onnxruntime and held against PyTorch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM

from llmopt.artifacts.onnx_description import read_onnx_description
from llmopt.artifacts.onnx_session import open_session
from llmopt.artifacts.tensor_spec import TensorDtype
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.resident_model import load_resident_model
from llmopt.export.parity import MAX_CROSSED_WINDOW, TOLERANCES
from llmopt.export.session import OnnxDecoder, pad_left
from tests.export.exports import SCHEMES, export, make_gptq_model, measure_parity
from tests.models import edit_json
from tests.quant.pipeline import SMALL_VOCAB, make_small_model

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]
# The others take minutes and run in `make test-full`.
USUAL = {
    ("sym", "qdq_int4"), ("sym", "matmulnbits"), ("asym_act_order", "qdq_int4"),
    ("asym_act_order", "dequantised"), ("asym_8_bits", "qdq_int4"), ("3_bits", "qdq_int4"),
}  # fmt: skip
PROMPTS = [[5, 9, 200, 31, 7], [3], [17, 40, 99]]


@pytest.mark.parametrize(
    ("family", "kv_cache"),
    [
        *((family, True) for family in FAMILIES),
        ("llama", False),
        *(pytest.param(family, False, marks=pytest.mark.full) for family in FAMILIES[1:]),
    ],
)
def test_float32_is_pytorchs(tmp_path: Path, family: str, kv_cache: bool) -> None:
    model = make_small_model(tmp_path / "model", family, tie_word_embeddings=family == "qwen2")
    exported = export(model, tmp_path / "onnx", kv_cache=kv_cache)
    parity = measure_parity(model, tmp_path / "onnx", exported)
    assert parity.relative_error < 1e-5
    assert parity.top1_agreement == 1
    assert parity.num_positions > 70


@pytest.mark.parametrize("dtype", ["float16"])
@pytest.mark.parametrize("kv_cache", [True, False], ids=["cache", "no_cache"])
def test_float16_is_near_pytorch(tmp_path: Path, dtype: TensorDtype, kv_cache: bool) -> None:
    model = make_small_model(tmp_path / "model")
    exported = export(model, tmp_path / "onnx", dtype=dtype, kv_cache=kv_cache)
    parity = measure_parity(model, tmp_path / "onnx", exported)
    assert parity.relative_error < TOLERANCES[dtype] / 4


@pytest.mark.parametrize(
    ("scheme", "weights"),
    [
        pytest.param(scheme, weights, marks=() if (scheme, weights) in USUAL else pytest.mark.full)
        for scheme in SCHEMES
        for weights in ("qdq_int4", "matmulnbits", "dequantised")
    ],
)
def test_integers_are_exact(tmp_path: Path, scheme: str, weights: str) -> None:
    model = make_gptq_model(tmp_path, scheme)
    exported = export(model, tmp_path / "onnx", weights=weights)
    assert len(exported.integer_layers) == (0 if weights == "dequantised" else 14)
    parity = measure_parity(model, tmp_path / "onnx", exported)
    assert parity.relative_error < 1e-5
    assert parity.top1_agreement == 1


def test_greedy_tokens_are_pytorchs(tmp_path: Path) -> None:
    model = make_small_model(tmp_path / "model")
    exported = export(model, tmp_path / "onnx")
    session = open_session(tmp_path / "onnx", exported.description, threads=1)
    tokens = OnnxDecoder(session, exported.description).generate(PROMPTS, 32)
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    assert tokens == [generate_alone(reference, prompt, 32) for prompt in PROMPTS]


def test_greedy_tokens_of_integers_are_the_dequantised_models(tmp_path: Path) -> None:
    model = make_gptq_model(tmp_path, "asym_act_order")
    exported = export(model, tmp_path / "onnx", weights="qdq_int4")
    session = open_session(tmp_path / "onnx", exported.description, threads=1)
    tokens = OnnxDecoder(session, exported.description).generate(PROMPTS, 32)
    checkpoint = Checkpoint.open(model)
    reference = load_resident_model(checkpoint, torch.device("cpu"), torch.float32)
    assert tokens == [generate_alone(reference, prompt, 32) for prompt in PROMPTS]


def generate_alone(model: torch.nn.Module, prompt: list[int], num_tokens: int) -> list[int]:
    """Decodes greedily without a cache, the slow and plain way."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(num_tokens):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("kv_cache", [True, False], ids=["cache", "no_cache"])
def test_last_token_logits_are_the_last_of_all(tmp_path: Path, kv_cache: bool) -> None:
    model = make_small_model(tmp_path / "model")
    exported = export(model, tmp_path / "onnx", kv_cache=kv_cache, last_token_logits=True)
    (logits,) = [spec for spec in exported.description.outputs if spec.name == "logits"]
    assert logits.shape == (-1, 1, SMALL_VOCAB)
    assert measure_parity(model, tmp_path / "onnx", exported).relative_error < 1e-5


WINDOWED = [
    ("mistral", {"sliding_window": 8}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
]


@pytest.mark.parametrize("kv_cache", [True, False], ids=["cache", "no_cache"])
@pytest.mark.parametrize(("family", "window"), WINDOWED, ids=["every block", "one block"])
def test_a_sliding_window_slides(
    tmp_path: Path, family: str, window: dict[str, Any], kv_cache: bool
) -> None:
    model = make_small_model(tmp_path / "model", family, **window)
    exported = export(model, tmp_path / "onnx", kv_cache=kv_cache)
    parity = measure_parity(model, tmp_path / "onnx", exported)
    assert parity.relative_error < 1e-5
    assert parity.within_window is None


@pytest.mark.parametrize(("family", "window"), WINDOWED, ids=["every block", "one block"])
@pytest.mark.parametrize("prompt", [[5, 9, 200], list(range(20, 40))], ids=["decode", "prefill"])
def test_a_sliding_window_is_crossed_as_pytorch_does(
    tmp_path: Path, family: str, window: dict[str, Any], prompt: list[int]
) -> None:
    """A prompt shorter than the window, which decoding crosses, and one that is longer."""
    model = make_small_model(tmp_path / "model", family, **window)
    exported = export(model, tmp_path / "onnx")
    decoder = OnnxDecoder(
        open_session(tmp_path / "onnx", exported.description, threads=1), exported.description
    )
    ids = [*prompt, *range(60, 80)]
    decoder.start(1)
    steps = [ids[: len(prompt)], *([token] for token in ids[len(prompt) :])]
    ours = [decoder.forward(np.array([step]), np.ones((1, len(step)), np.int64)) for step in steps]
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    edit_json(
        model / "config.json", sliding_window=None, use_sliding_window=False, layer_types=None
    )
    unlimited = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        theirs, others = (m(torch.tensor([ids])).logits.numpy() for m in (reference, unlimited))
    np.testing.assert_allclose(np.concatenate(ours, axis=1), theirs, atol=1e-4)
    assert np.abs(theirs - others).max() > 1e-2  # the window has a say


def test_a_window_that_no_row_went_past_is_told(tmp_path: Path) -> None:
    window = MAX_CROSSED_WINDOW + 1
    model = make_small_model(
        tmp_path / "model", "mistral", sliding_window=window, max_position_embeddings=2 * window
    )
    exported = export(model, tmp_path / "onnx")
    assert measure_parity(model, tmp_path / "onnx", exported).within_window == window


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    model = make_small_model(tmp_path / "model", tie_word_embeddings=True)
    exported = export(model, tmp_path / "onnx")
    assert measure_parity(model, tmp_path / "onnx", exported).relative_error < 1e-5
    graph = onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False).graph
    tables = [t.name for t in graph.initializer if SMALL_VOCAB in t.dims]
    assert tables == ["model.embed_tokens.weight"]


@pytest.mark.parametrize(
    "opset", [23, *(pytest.param(opset, marks=pytest.mark.full) for opset in (21, 22, 24))]
)
def test_integers_in_every_opset(tmp_path: Path, opset: int) -> None:
    model = make_gptq_model(tmp_path, "asym")
    exported = export(model, tmp_path / "onnx", weights="qdq_int4", opset=opset)
    loaded = onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False)
    assert {entry.domain: entry.version for entry in loaded.opset_import}[""] == opset
    assert measure_parity(model, tmp_path / "onnx", exported).relative_error < 1e-5


def test_the_file_says_what_the_description_says(tmp_path: Path) -> None:
    model = make_small_model(tmp_path / "model")
    export(model, tmp_path / "onnx")
    description = read_onnx_description(tmp_path / "onnx")
    graph = onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False).graph
    for specs, values in ((description.inputs, graph.input), (description.outputs, graph.output)):
        assert [spec.name for spec in specs] == [value.name for value in values]
        for spec, value in zip(specs, values, strict=True):
            sizes = [d.dim_value or -1 for d in value.type.tensor_type.shape.dim]
            assert sizes == list(spec.shape), spec.name
            names = [d.dim_param for d in value.type.tensor_type.shape.dim if d.dim_param]
            assert names == [axis.name for axis in spec.axes if axis.is_dynamic], spec.name


def test_two_exports_are_the_same_bytes_and_name_no_folder(tmp_path: Path) -> None:
    model = make_gptq_model(tmp_path)
    export(model, tmp_path / "one", weights="qdq_int4")
    export(model, tmp_path / "two", weights="qdq_int4")
    for name in ("model.onnx", "model.onnx.data", "onnx.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert b"site-packages" not in (tmp_path / "one" / "model.onnx").read_bytes()
    assert json.loads((tmp_path / "one" / "onnx.json").read_text())["session_options"]


def test_pads_on_the_left() -> None:
    ids, mask = pad_left([[7, 8, 9], [4]])
    np.testing.assert_array_equal(ids, [[7, 8, 9], [0, 0, 4]])
    np.testing.assert_array_equal(mask, [[1, 1, 1], [0, 0, 1]])
