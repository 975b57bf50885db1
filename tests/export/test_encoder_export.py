"""Exports of small BERTs, run by onnxruntime and held against transformers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from llmopt.artifacts.onnx_description import DATA_NAME, MODEL_NAME, read_onnx_description
from llmopt.artifacts.onnx_session import open_session
from llmopt.checkpoint.encoder_config import EncoderTask, read_encoder_config
from llmopt.errors import InputError, NumericalError
from llmopt.export.encoder_export import load_encoder
from llmopt.export.encoder_parity import POSITIONS_PER_ROW, ROW_LENGTHS
from llmopt.export.encoder_session import mask_right
from llmopt.export.parity import TOLERANCES
from llmopt.export.verification import verify_onnx
from tests.export.encoders import (
    HIDDEN,
    MAX_TOKENS,
    NUM_LAYERS,
    VOCABULARY,
    export_bert,
    make_bert,
    measure_parity,
    open_encoder,
)

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS: list[EncoderTask] = ["fill_mask", "embed"]
FLOAT32_ERROR = 1e-5
PRODUCTS_PER_LAYER = 6  # query, key, value, attention's output, both of the feed-forward part


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert") / "model")


def load_graph(folder: Path) -> onnx.GraphProto:
    return onnx.load(folder / MODEL_NAME, load_external_data=False).graph


@pytest.mark.parametrize("task", TASKS)
def test_float32_is_transformers(bert: Path, tmp_path: Path, task: EncoderTask) -> None:
    description = export_bert(bert, tmp_path / "onnx", task)
    parity = measure_parity(bert, tmp_path / "onnx", description)
    assert parity.relative_error < FLOAT32_ERROR
    assert parity.cosine_distance < FLOAT32_ERROR
    assert parity.num_positions == sum(ROW_LENGTHS) + MAX_TOKENS
    assert parity.top1_agreement == (1 if task == "fill_mask" else None)


@pytest.mark.parametrize("lengths", [[5], [9, 2], [1, 1, 1], [3, 64, 17, 30]])
def test_a_padded_batch_is_that_of_transformers(
    bert: Path, tmp_path: Path, lengths: list[int]
) -> None:
    """By hand: eager attention, both padded alike, every segment the second one."""
    description = export_bert(bert, tmp_path / "onnx")
    mask = mask_right(lengths)
    ids = np.random.default_rng(1).integers(0, len(VOCABULARY), mask.shape)
    ours = open_encoder(tmp_path / "onnx", description).forward(ids, mask, np.ones_like(ids))
    model = AutoModelForMaskedLM.from_pretrained(bert, attn_implementation="eager").eval()
    with torch.inference_mode():
        expected = model(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            token_type_ids=torch.ones_like(torch.from_numpy(ids)),
        ).logits.numpy()
    real = mask.astype(bool)
    np.testing.assert_allclose(ours[real], expected[real], atol=1e-4)


def test_what_stands_in_the_padding_changes_nothing(bert: Path, tmp_path: Path) -> None:
    encoder = open_encoder(tmp_path / "onnx", export_bert(bert, tmp_path / "onnx", "embed"))
    alone = np.array([[2, 9, 11, 3]])
    expected = encoder.forward(alone, np.ones_like(alone))
    padded = np.array([[2, 9, 11, 3, 40, 50], [2, 3, 7, 7, 7, 3]])
    found = encoder.forward(padded, mask_right([4, 6]))
    np.testing.assert_allclose(found[0, :4], expected[0], atol=1e-5)
    assert not np.allclose(encoder.forward(padded, np.ones_like(padded))[0, :4], expected[0])


@pytest.mark.parametrize("task", TASKS)
def test_float16_is_near(bert: Path, tmp_path: Path, task: EncoderTask) -> None:
    description = export_bert(bert, tmp_path / "onnx", task, dtype="float16")
    parity = measure_parity(bert, tmp_path / "onnx", description)
    assert FLOAT32_ERROR < parity.relative_error < TOLERANCES["float16"] / 2
    stored = {t.data_type for t in load_graph(tmp_path / "onnx").initializer if len(t.dims) == 2}
    assert onnx.TensorProto.FLOAT not in stored
    assert onnx.TensorProto.FLOAT16 in stored


def test_bfloat16_is_valid_but_not_for_onnxruntime_on_cpus(bert: Path, tmp_path: Path) -> None:
    description = export_bert(bert, tmp_path / "onnx", dtype="bfloat16")
    assert verify_onnx(tmp_path / "onnx").faults == []
    stored = {t.data_type for t in load_graph(tmp_path / "onnx").initializer if len(t.dims) == 2}
    assert onnx.TensorProto.BFLOAT16 in stored
    assert onnx.TensorProto.FLOAT not in stored
    with pytest.raises(InputError, match="onnxruntime does not load"):
        open_session(tmp_path / "onnx", description)


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    model = make_bert(tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["bert.encoder.layer.0.output.dense.weight"][0, 0] = 1e6
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NumericalError, match=r"output\.dense\.weight holds values that float16"):
        export_bert(model, tmp_path / "onnx", dtype="float16")


@pytest.mark.parametrize(("task", "head"), [("fill_mask", 2), ("embed", 0)])
def test_int8_holds_every_product_and_the_embeddings(
    bert: Path, tmp_path: Path, task: EncoderTask, head: int
) -> None:
    folder = tmp_path / "onnx"
    description = export_bert(bert, folder, task, weights="int8_dynamic")
    graph = load_graph(folder)
    operators = [node.op_type for node in graph.node]
    assert operators.count("MatMulInteger") == NUM_LAYERS * PRODUCTS_PER_LAYER + head
    assert operators.count("MatMul") == 2 * NUM_LAYERS  # of attention: both sides are computed
    widest = [t for t in graph.initializer if len(VOCABULARY) in t.dims and len(t.dims) == 2]
    assert len(widest) == (2 if task == "fill_mask" else 1)
    assert {t.data_type for t in widest} <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    parity = measure_parity(bert, folder, description)
    assert FLOAT32_ERROR < parity.cosine_distance < 0.01
    assert verify_onnx(folder).faults == []
    assert {path.name for path in folder.iterdir()} == {MODEL_NAME, DATA_NAME, "onnx.json"}
    exact = tmp_path / "onnx-float32" / DATA_NAME
    assert (folder / DATA_NAME).stat().st_size < exact.stat().st_size / 2


def test_int8_of_other_weights_is_refused(bert: Path, tmp_path: Path) -> None:
    description = export_bert(bert, tmp_path / "onnx", weights="int8_dynamic")
    other = make_bert(tmp_path / "other", seed=8)
    parity = measure_parity(other, tmp_path / "onnx", description)
    with pytest.raises(NumericalError, match=r"mean cosine distance .* of logits") as caught:
        parity.require_cosine(0.02)
    assert caught.value.remedy is not None
    assert "weights: plain" in caught.value.remedy


def test_another_models_outputs_are_refused(bert: Path, tmp_path: Path) -> None:
    description = export_bert(bert, tmp_path / "onnx", "embed")
    other = make_bert(tmp_path / "other", layer_norm_eps=0.01)
    parity = measure_parity(other, tmp_path / "onnx", description)
    with pytest.raises(NumericalError, match="of the largest value of last_hidden_state"):
        parity.require(TOLERANCES["float32"])


@pytest.mark.parametrize(
    ("task", "output"),
    [("fill_mask", ("logits", len(VOCABULARY))), ("embed", ("last_hidden_state", HIDDEN))],
)
@pytest.mark.parametrize("weights", ["plain", "int8_dynamic"])
def test_the_file_has_the_names_and_axes_of_its_description(
    bert: Path, tmp_path: Path, task: EncoderTask, output: tuple[str, int], weights: str
) -> None:
    export_bert(bert, tmp_path / "onnx", task, weights=weights)
    description = read_onnx_description(tmp_path / "onnx")
    assert (description.task, description.kv_cache) == (task, False)
    graph = load_graph(tmp_path / "onnx")
    names = ["input_ids", "attention_mask", "token_type_ids"]
    assert [value.name for value in graph.input] == names
    assert [spec.name for spec in description.inputs] == names
    for value in graph.input:
        sizes = value.type.tensor_type.shape.dim
        assert [size.dim_param for size in sizes] == ["batch", "sequence"]
        assert value.type.tensor_type.elem_type == onnx.TensorProto.INT64
    (found,) = graph.output
    sizes = found.type.tensor_type.shape.dim
    assert (found.name, sizes[2].dim_value) == output
    assert [size.dim_param for size in sizes[:2]] == ["batch", "sequence"]
    assert description.outputs[0].shape == (-1, -1, output[1])


@pytest.mark.parametrize(
    ("weights", "largest_distance"), [("plain", FLOAT32_ERROR), ("int8_dynamic", 0.01)]
)
def test_the_head_runs_on_masked_positions_alone(
    bert: Path, tmp_path: Path, weights: str, largest_distance: float
) -> None:
    folder = tmp_path / "onnx"
    description = export_bert(bert, folder, weights=weights, masked_positions=True)
    assert description.masked_positions
    graph = load_graph(folder)
    axes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert axes["masked_positions"] == ["batch"]
    assert axes["logits"] == ["batch", len(VOCABULARY)]
    assert description.outputs[0].shape == (-1, len(VOCABULARY))
    parity = measure_parity(bert, folder, description)
    assert parity.largest_cosine_distance < largest_distance
    assert parity.num_positions == POSITIONS_PER_ROW * (len(ROW_LENGTHS) + 1)
    assert verify_onnx(folder).faults == []
    if weights == "int8_dynamic":
        products = sum(node.op_type == "MatMulInteger" for node in graph.node)
        assert products == NUM_LAYERS * PRODUCTS_PER_LAYER + 2


def test_logits_of_a_masked_position_are_those_of_the_whole_row(bert: Path, tmp_path: Path) -> None:
    whole = open_encoder(tmp_path / "whole", export_bert(bert, tmp_path / "whole"))
    one = open_encoder(tmp_path / "one", export_bert(bert, tmp_path / "one", masked_positions=True))
    mask = mask_right([9, 4, 7])
    ids = np.random.default_rng(2).integers(0, len(VOCABULARY), mask.shape)
    positions = np.array([8, 0, 3])
    expected = whole.forward(ids, mask)[np.arange(3), positions]
    found = one.forward(ids, mask, masked_positions_B=positions)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    moved = one.forward(ids, mask, masked_positions_B=np.array([7, 0, 3]))
    assert not np.allclose(moved[0], expected[0], atol=1e-3)


def test_more_tokens_than_positions_are_refused_and_never_computed(
    bert: Path, tmp_path: Path
) -> None:
    description = export_bert(bert, tmp_path / "onnx")
    encoder = open_encoder(tmp_path / "onnx", description)
    ids = np.ones((1, MAX_TOKENS + 1), np.int64)
    with pytest.raises(InputError, match="rows of 65 tokens, the model has positions for 64"):
        encoder.forward(ids, ids)
    feeds = dict.fromkeys(["input_ids", "attention_mask", "token_type_ids"], ids)
    with pytest.raises(Exception, match="64 by 65"):
        open_session(tmp_path / "onnx", description).run(None, feeds)


def test_tied_embeddings_are_stored_once(bert: Path, tmp_path: Path) -> None:
    export_bert(bert, tmp_path / "onnx")
    graph = load_graph(tmp_path / "onnx")
    tables = [t.name for t in graph.initializer if list(t.dims) == [len(VOCABULARY), HIDDEN]]
    assert tables == ["bert.embeddings.word_embeddings.weight"]


def test_an_output_layer_of_its_own(tmp_path: Path) -> None:
    model = make_bert(tmp_path / "model", tie_word_embeddings=False)
    description = export_bert(model, tmp_path / "onnx")
    assert measure_parity(model, tmp_path / "onnx", description).relative_error < FLOAT32_ERROR


@pytest.mark.parametrize("architecture", ["BertForPreTraining", "BertForSequenceClassification"])
def test_encoders_with_other_heads_embed(tmp_path: Path, architecture: str) -> None:
    model = make_bert(tmp_path / "model", architecture)
    description = export_bert(model, tmp_path / "onnx", "embed")
    assert measure_parity(model, tmp_path / "onnx", description).relative_error < FLOAT32_ERROR


def test_a_bfloat16_checkpoint_is_exported_in_float32(tmp_path: Path) -> None:
    model = make_bert(tmp_path / "model", dtype=torch.bfloat16)
    description = export_bert(model, tmp_path / "onnx")
    assert measure_parity(model, tmp_path / "onnx", description).relative_error < FLOAT32_ERROR


@pytest.mark.parametrize(
    "opset", [18, 21, *(pytest.param(opset, marks=pytest.mark.full) for opset in (20, 22, 23, 24))]
)
def test_every_opset(bert: Path, tmp_path: Path, opset: int) -> None:
    description = export_bert(bert, tmp_path / "onnx", opset=opset)
    loaded = onnx.load(tmp_path / "onnx" / MODEL_NAME, load_external_data=False)
    assert {entry.domain: entry.version for entry in loaded.opset_import}[""] == opset
    assert measure_parity(bert, tmp_path / "onnx", description).relative_error < FLOAT32_ERROR


@pytest.mark.parametrize("weights", ["plain", "int8_dynamic"])
def test_two_exports_are_the_same_bytes_and_name_no_folder(
    bert: Path, tmp_path: Path, weights: str
) -> None:
    export_bert(bert, tmp_path / "one", weights=weights)
    export_bert(bert, tmp_path / "two", weights=weights)
    for name in (MODEL_NAME, DATA_NAME, "onnx.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    graph = (tmp_path / "one" / MODEL_NAME).read_bytes()
    assert b"site-packages" not in graph
    assert bytes(tmp_path) not in graph


def test_a_missing_tensor_is_refused_and_not_made_up(tmp_path: Path) -> None:
    model = make_bert(tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    del tensors["bert.encoder.layer.1.attention.self.query.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 tensors of BertForMaskedLM.*self\.query"):
        load_encoder(read_encoder_config(model), "fill_mask")


def test_loading_says_nothing(bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_encoder(read_encoder_config(bert), "embed")  # which leaves a head unused
    assert capfd.readouterr() == ("", "")
