from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.decoder_block import DecoderBlock
from llmopt.checkpoint.model_config import DECODER_STAGES
from llmopt.checkpoint.resident_model import load_resident_model
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.errors import InputError
from tests.checkpoint.numpy_dequantizer import dequantize_folder
from tests.models import edit_json
from tests.quant.pipeline import SMALL_VOCAB, Quantized, make_small_model, quantize

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
LAYER_WINDOWS = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama tied": ("llama", {}),
    "llama untied": ("llama", {"tie_word_embeddings": False}),
    "llama attention bias": ("llama", {"attention_bias": True}),
    "llama all biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama wide heads": ("llama", {"head_dim": 32}),
    "llama one kv head": ("llama", {"num_key_value_heads": 1}),
    "llama rope scaling": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama sharded": ("llama", {"max_shard_size": "40KB", "tie_word_embeddings": False}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral short window": ("mistral", {"sliding_window": 7, "tie_word_embeddings": False}),
    "qwen2": ("qwen2", {}),
    "qwen2 untied": ("qwen2", {"tie_word_embeddings": False}),
    "qwen2 windows in some layers": ("qwen2", LAYER_WINDOWS),
    "qwen3": ("qwen3", {}),
    "qwen3 untied sharded": ("qwen3", {"tie_word_embeddings": False, "max_shard_size": "40KB"}),
    "qwen3 attention bias": ("qwen3", {"attention_bias": True}),
    "qwen3 windows in some layers": ("qwen3", LAYER_WINDOWS),
    "mixtral": ("mixtral", {}),
    "mixtral short window": ("mixtral", {"sliding_window": 7, "tie_word_embeddings": False}),
    "mixtral one of many experts": ("mixtral", {"num_experts": 9, "num_experts_per_tok": 1}),
    "qwen3_moe": ("qwen3_moe", {}),
    "qwen3_moe normalised": ("qwen3_moe", {"norm_topk_prob": True, "attention_bias": True}),
    "qwen3_moe some dense blocks": ("qwen3_moe", {"mlp_only_layers": [0]}),
    "qwen3_moe every second block": ("qwen3_moe", {"decoder_sparse_step": 2}),
    "qwen3_moe short window sharded": (
        "qwen3_moe",
        {"use_sliding_window": True, "sliding_window": 7, "max_shard_size": "40KB"},
    ),
}


def make_ids(rows: int = 3, length: int = 29) -> Tensor:
    """Returns random token ids."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, SMALL_VOCAB, (rows, length), generator=generator)


def run_streamed(folder: Path, ids_BT: Tensor, dtype: torch.dtype | None = torch.float32) -> Tensor:
    """Returns the logits of a model that is read block by block."""
    model = StreamedModel(Checkpoint.open(folder), CPU, dtype)
    with torch.inference_mode():
        (hidden,) = model.embed([ids_BT])
        for index in range(model.num_blocks):
            hidden = DecoderBlock(model, index, ids_BT.shape[1]).forward(hidden)
        return model.read_head()(hidden)


def run_transformers(folder: Path, ids_BT: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns the logits that transformers computes."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        logits: Tensor = model(ids_BT).logits
    return logits


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_transformers(tmp_path: Path, name: str) -> None:
    family, config = MODELS[name]
    make_small_model(tmp_path, family, **config)
    if "sharded" in name:
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ids_BT = make_ids()
    expected = run_transformers(tmp_path, ids_BT)
    torch.testing.assert_close(run_streamed(tmp_path, ids_BT), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if "window" in name])
def test_windows_matter(tmp_path: Path, name: str) -> None:
    # Else the comparisons above would prove nothing of them.
    family, config = MODELS[name]
    make_small_model(tmp_path, family, **config)
    ids_BT = make_ids()
    windowed = run_streamed(tmp_path, ids_BT)
    edit_json(
        tmp_path / "config.json", sliding_window=None, layer_types=None, use_sliding_window=False
    )
    full = run_streamed(tmp_path, ids_BT)
    torch.testing.assert_close(windowed[:, :7], full[:, :7], rtol=1e-4, atol=1e-4)
    assert float((windowed[:, 7:] - full[:, 7:]).abs().mean()) > 0.01 * float(full.std())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe"])
def test_logits_in_the_checkpoints_own_dtype(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    make_small_model(tmp_path, family, dtype=dtype)
    ids_BT = make_ids()
    in_float32 = run_transformers(tmp_path, ids_BT)
    torch.testing.assert_close(run_streamed(tmp_path, ids_BT), in_float32, rtol=1e-4, atol=1e-4)
    found = run_streamed(tmp_path, ids_BT, dtype=None)
    assert found.dtype == dtype
    # Both round after every operation, and need not do so alike.
    noise = {torch.bfloat16: 0.05, torch.float16: 0.005, torch.float32: 1e-4}[dtype]
    limit = noise * float(in_float32.std())
    expected = run_transformers(tmp_path, ids_BT, dtype)
    assert float((found.float() - expected.float()).abs().mean()) < limit


def test_rows_and_padding_on_the_right_do_not_matter(small_model: Path) -> None:
    ids_BT = make_ids(3, 29)
    together = run_streamed(small_model, ids_BT)
    alone = run_streamed(small_model, ids_BT[1:2, :17])
    torch.testing.assert_close(together[1:2, :17], alone, rtol=1e-4, atol=1e-4)


def test_quantised_model_computes_with_what_its_integers_stand_for(
    small_model: Path, small_gptq: Quantized
) -> None:
    reference = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32).eval()
    for name, layer in dequantize_folder(small_gptq.folder).items():
        weight = reference.get_submodule(name).weight
        assert not torch.equal(weight, torch.from_numpy(layer.weights))
        weight.data.copy_(torch.from_numpy(layer.weights))
    ids_BT = make_ids()
    with torch.inference_mode():
        expected = reference(ids_BT).logits
    found = run_streamed(small_gptq.folder, ids_BT)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quant_format", ["gptq", "compressed-tensors"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_quantised_experts_compute_with_what_their_integers_stand_for(
    tmp_path: Path, family: str, quant_format: QuantFormat
) -> None:
    # transformers reads the dequantised weights from disk, so that it fuses them by its own rules.
    source = make_small_model(tmp_path / "model", family)
    folder = quantize(source, tmp_path / "quantized", quant_format=quant_format).folder
    tensors = safetensors.torch.load_file(source / "model.safetensors")
    layers = dequantize_folder(folder)
    assert len(layers) == 2 * (4 + 3 * 4)
    for name, layer in layers.items():
        assert not torch.equal(tensors[f"{name}.weight"].float(), torch.from_numpy(layer.weights))
        tensors[f"{name}.weight"] = torch.from_numpy(layer.weights.copy())
    safetensors.torch.save_file(tensors, source / "model.safetensors", {"format": "pt"})
    ids_BT = make_ids()
    expected = run_transformers(source, ids_BT)
    torch.testing.assert_close(run_streamed(folder, ids_BT), expected, rtol=1e-4, atol=1e-4)
    resident = load_resident_model(Checkpoint.open(folder), CPU, torch.float32)
    with torch.inference_mode():
        found = resident(ids_BT).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_experts_are_named_as_on_disk_and_replaced_one_by_one(tmp_path: Path) -> None:
    folder = make_small_model(tmp_path, "mixtral")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    block = DecoderBlock(StreamedModel(Checkpoint.open(folder), CPU), 1, 5)
    for layer in Checkpoint.open(folder).config.linear_shapes(1):
        assert torch.equal(block.weight(layer), tensors[f"model.layers.1.{layer}.weight"])
    experts = "block_sparse_moe.experts"
    block.replace_weight(f"{experts}.2.w3", torch.zeros(96, 64))
    hidden = torch.randn(7, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        assert block.experts is not None
        assert not block.experts.inner(2, hidden).any()
        assert block.experts.inner(1, hidden).all()
    name = f"{experts}.2.w1"
    assert torch.equal(block.weight(name), tensors[f"model.layers.1.{name}.weight"])


def test_block_hands_out_what_each_linear_layer_reads(small_model: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32).eval()
    layers = [layer for stage in DECODER_STAGES for layer in stage.layers]
    seen: dict[str, Tensor] = {}
    for layer in layers:
        reference.model.layers[0].get_submodule(layer).register_forward_pre_hook(
            lambda _, inputs, layer=layer: seen.__setitem__(layer, inputs[0])
        )
    ids_BT = make_ids()
    with torch.inference_mode():
        reference(ids_BT)
        model = StreamedModel(Checkpoint.open(small_model), CPU, torch.float32)
        block = DecoderBlock(model, 0, ids_BT.shape[1])
        (hidden,) = model.embed([ids_BT])
        context = block.attention_context(hidden)
        middle = block.add_attention(hidden, context)
        inputs = [block.attention_input(hidden), context]
        inputs += [block.mlp_input(middle), block.mlp_inner(middle)]
    for stage, found in zip(DECODER_STAGES, inputs, strict=True):
        for layer in stage.layers:
            torch.testing.assert_close(found, seen[layer], rtol=1e-5, atol=1e-5)


def test_replaced_weight_is_used(small_model: Path) -> None:
    model = StreamedModel(Checkpoint.open(small_model), CPU, torch.float32)
    block = DecoderBlock(model, 0, 5)
    hidden = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = block.mlp_inner(hidden)
        block.replace_weight("mlp.up_proj", 2 * block.linear("mlp.up_proj").weight)
        block.replace_weight("mlp.down_proj", torch.zeros(64, 96))
        torch.testing.assert_close(block.mlp_inner(hidden), 2 * before)
        assert torch.equal(block.add_mlp(hidden, before), hidden)


def test_blocks_are_read_afresh(small_model: Path) -> None:
    model = StreamedModel(Checkpoint.open(small_model), CPU, torch.float32)
    first = DecoderBlock(model, 0, 5)
    first.replace_weight("mlp.up_proj", torch.zeros(96, 64))
    weight = DecoderBlock(model, 0, 5).linear("mlp.up_proj").weight
    assert bool(weight.any())
    assert not weight.requires_grad


def test_each_length_of_each_kind_of_block_has_its_own_mask(tmp_path: Path) -> None:
    make_small_model(tmp_path, "qwen2", **LAYER_WINDOWS)
    model = StreamedModel(Checkpoint.open(tmp_path), CPU)
    kinds = model.config.layer_types
    windowed, full = kinds.index("sliding_attention"), kinds.index("full_attention")
    for length in (29, 40):
        for _ in range(2):
            mask = model.attention_mask(windowed, torch.zeros(2, length, 8))
            assert mask is not None
            assert mask.shape[-2:] == (length, length)
            assert model.attention_mask(windowed, torch.ones(2, length, 8)) is mask
            assert model.attention_mask(full, torch.zeros(2, length, 8)) is None


@pytest.mark.parametrize("name", ["nonsense", "somebody/kernel"])
def test_attention_that_the_config_asks_for_is_not_fetched(
    small_model: Path, model: Path, name: str
) -> None:
    edit_json(model / "config.json", attn_implementation=name, _attn_implementation=name)
    ids_BT = make_ids()
    assert torch.equal(run_streamed(model, ids_BT), run_streamed(small_model, ids_BT))


def test_embeddings_of_all_batches_come_one_by_one(small_model: Path) -> None:
    model = StreamedModel(Checkpoint.open(small_model), CPU)
    table = safetensors.torch.load_file(small_model / "model.safetensors")
    batches = [make_ids(2, 5), make_ids(1, 9)]
    found = list(model.embed(iter(batches)))
    for ids_BT, hidden in zip(batches, found, strict=True):
        assert torch.equal(hidden, table["model.embed_tokens.weight"][ids_BT])


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "nonsense"}},
        {"rope_parameters": {"rope_type": "llama3"}},
        {"hidden_act": "nonsense"},
        {"rms_norm_eps": "small"},
        {"pad_token_id": 99999},
    ],
    ids=str,
)
def test_config_that_transformers_rejects(model: Path, change: dict[str, Any]) -> None:
    edit_json(model / "config.json", **change)
    with pytest.raises(InputError, match=r"transformers rejects .*config\.json"):
        StreamedModel(Checkpoint.open(model), CPU)
