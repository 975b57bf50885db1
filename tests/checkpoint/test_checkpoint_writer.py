"""Checkpoints from the real pipeline, read back by a reader that shares no code with it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers.utils.hub import get_checkpoint_shard_files

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.checkpoint_writer import write_quantized_checkpoint
from llmopt.checkpoint.model_config import DECODER_STAGES
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.checkpoint.stored_weight import read_packed_weight
from llmopt.checkpoint.verification import verify_checkpoint
from llmopt.errors import InputError
from tests.checkpoint.numpy_dequantizer import dequantize_folder, read_folder
from tests.models import edit_json
from tests.quant.layers import make_options
from tests.quant.pipeline import SMALL_VOCAB, Quantized, make_small_model, quantize

pytestmark = pytest.mark.usefixtures("one_thread")

FORMATS: tuple[QuantFormat, ...] = ("gptq", "compressed-tensors")
# (bits, group_size, sym, order); 64 leaves a short last group in layers of 96 inputs.
CASES = [
    (4, 32, True, "act_group_aware"),
    (4, 32, False, "desc_act"),
    (4, 64, True, "desc_act"),
    (4, 64, False, "act_group_aware"),
    (4, -1, True, "natural"),
    (8, 32, True, "desc_act"),
    (8, 64, False, "natural"),
    (8, -1, False, "desc_act"),
]


def quantize_case(model: Path, folder: Path, case: Any, quant_format: QuantFormat) -> Quantized:
    """Quantises as a case of CASES says."""
    bits, group_size, sym, order = case
    folder.mkdir()
    options = make_options(bits, group_size, sym=sym, order=order)
    return quantize(model, folder, options=options, quant_format=quant_format)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_numpy_reads_back_what_the_solver_made(
    small_model: Path, tmp_path: Path, case: Any
) -> None:
    results = {name: quantize_case(small_model, tmp_path / name, case, name) for name in FORMATS}
    gptq, compressed = (dequantize_folder(results[name].folder) for name in FORMATS)
    assert gptq.keys() == compressed.keys()
    assert len(gptq) == 14
    for name, layer in gptq.items():
        np.testing.assert_array_equal(layer.integers, compressed[name].integers)
        np.testing.assert_array_equal(layer.weights, compressed[name].weights)
    stages = [
        [f"model.layers.{block}.{layer}" for layer in stage.layers]
        for block in range(2)
        for stage in DECODER_STAGES
    ]
    for names, (_, _, solution) in zip(stages, results["gptq"].solver.seen, strict=True):
        integers = np.concatenate([gptq[name].integers for name in names])
        weights = np.concatenate([gptq[name].weights for name in names])
        np.testing.assert_array_equal(integers, solution.weight.q_IO.T.numpy())
        expected = solution.weight.dequantize(torch.float32).numpy()
        np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize("quant_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_llmopt_reads_what_numpy_reads(
    tmp_path: Path, dtype: torch.dtype, quant_format: QuantFormat
) -> None:
    model = make_small_model(tmp_path / "model", dtype=dtype)
    options = make_options(sym=False, order="desc_act", scale_dtype=dtype)
    result = quantize(model, tmp_path, options=options, quant_format=quant_format)
    checkpoint = Checkpoint.open(result.folder)
    layers = dequantize_folder(result.folder)
    assert len(layers) == 14
    for name, layer in layers.items():
        weight = read_packed_weight(checkpoint, name)
        np.testing.assert_array_equal(weight.q_IO.T.numpy(), layer.integers)
        np.testing.assert_array_equal(weight.dequantize(torch.float32).numpy(), layer.weights)


@dataclass(frozen=True)
class Sharded:
    """One quantised model of 11 blocks, written into one file and into shards of a limit."""

    one: Path
    many: Path
    limit_bytes: int


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    """Do not write into it."""
    folder = tmp_path_factory.mktemp("sharded")
    model = make_small_model(folder / "model", num_hidden_layers=11, tie_word_embeddings=False)
    result = quantize(model, folder)
    written = Sharded(result.folder, folder / "many", limit_bytes=60_000)
    written.many.mkdir()
    write_quantized_checkpoint(
        Checkpoint.open(model),
        result.journal.packed_tensors(),
        json.loads((result.folder / "quantize_config.json").read_text()),
        written.many,
        max_shard_bytes=written.limit_bytes,
    )
    return written


def test_shards_hold_the_same_bytes_as_one_file(sharded: Sharded) -> None:
    assert read_folder(sharded.one) == read_folder(sharded.many)
    assert not (sharded.many / "model.safetensors").exists()
    assert not (sharded.one / "model.safetensors.index.json").exists()


def test_index_is_read_by_transformers_and_safetensors(sharded: Sharded) -> None:
    index = sharded.many / "model.safetensors.index.json"
    files, metadata = get_checkpoint_shard_files(str(sharded.many), str(index))
    expected = safetensors.torch.load_file(sharded.one / "model.safetensors")
    found: dict[str, torch.Tensor] = {}
    for file in files:
        found |= safetensors.torch.load_file(file)
    assert found.keys() == expected.keys() == set(metadata["all_checkpoint_keys"])
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    total = sum(tensor.nbytes for tensor in expected.values())
    assert json.loads(index.read_text())["metadata"]["total_size"] == total


def test_shards_keep_to_their_size_and_to_natural_order(sharded: Sharded) -> None:
    weight_map = json.loads((sharded.many / "model.safetensors.index.json").read_text())[
        "weight_map"
    ]
    shards = sorted(set(weight_map.values()))
    assert len(shards) > 3
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert shards == sorted(path.name for path in sharded.many.glob("*.safetensors"))
    order: list[str] = []
    for shard in shards:
        with safetensors.safe_open(sharded.many / shard, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= sharded.limit_bytes
        order += tensors
    blocks = [int(name.split(".")[2]) for name in order if name.startswith("model.layers.")]
    assert blocks == sorted(blocks)
    assert set(blocks) == set(range(11))


def test_checkpoint_opens_again_sharded(sharded: Sharded) -> None:
    first, second = Checkpoint.open(sharded.one), Checkpoint.open(sharded.many)
    assert first.tensors.keys() == second.tensors.keys()
    assert first.quantization == second.quantization


def test_sidecars_travel_and_nothing_else_does(model: Path, tmp_path: Path) -> None:
    (model / "generation_config.json").write_text('{"temperature": 0.5}')
    (model / "LICENSE.txt").write_text("free")
    (model / "training_args.bin").write_bytes(b"x")
    (model / "README.md").write_text("of the original")
    (model / "tokenizer_folder").mkdir()
    result = quantize(model, tmp_path)
    expected = {"config.json", "model.safetensors", "quantize_config.json", "LICENSE.txt"}
    expected |= {"generation_config.json"} | {path.name for path in model.glob("tokenizer*.json")}
    expected |= {path.name for path in model.glob("chat_template*")}
    assert {path.name for path in result.folder.iterdir()} == expected
    for name in expected - {"config.json", "model.safetensors", "quantize_config.json"}:
        assert (result.folder / name).read_bytes() == (model / name).read_bytes()


def test_config_keeps_every_key_in_its_own_script(model: Path, tmp_path: Path) -> None:
    edit_json(model / "config.json", custom={"名前": "アパレル"})
    result = quantize(model, tmp_path)
    text = (result.folder / "config.json").read_text(encoding="utf-8")
    written = json.loads(text)
    assert "アパレル" in text
    written.pop("quantization_config")
    assert written == json.loads((model / "config.json").read_text(encoding="utf-8"))


def test_stored_copies_that_nobody_needs_are_left_out(model: Path, tmp_path: Path) -> None:
    path = model / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    safetensors.torch.save_file(tensors, path)
    edit_json(model / "config.json", tie_word_embeddings=True)
    names = set(read_folder(quantize(model, tmp_path).folder))
    assert "lm_head.weight" not in names
    assert not any(name.endswith("inv_freq") for name in names)
    assert "model.embed_tokens.weight" in names


def test_a_tied_model_with_a_head_of_its_own_is_refused(model: Path, tmp_path: Path) -> None:
    path = model / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["lm_head.weight"][5, 7] += 1
    safetensors.torch.save_file(tensors, path)
    edit_json(model / "config.json", tie_word_embeddings=True)
    message = "ties the embeddings .*, but model.safetensors holds another lm_head.weight"
    with pytest.raises(InputError, match=message):
        quantize(model, tmp_path)
    (fault,) = verify_checkpoint(model).faults
    assert "another lm_head.weight" in fault


def test_embeddings_keep_their_shape(small_gptq: Quantized) -> None:
    tensor = read_folder(small_gptq.folder)["model.embed_tokens.weight"]
    assert (tensor.dtype, tensor.shape) == ("BF16", (SMALL_VOCAB, 64))
