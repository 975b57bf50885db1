"""A whole model in memory: the weights that its files mean, whatever the format."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.resident_model import _count_weights, load_resident_model, require_memory
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.errors import ResourceError
from tests.checkpoint.numpy_dequantizer import dequantize_folder
from tests.quant.pipeline import SMALL_VOCAB, make_small_model, quantize

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
IDS_BT = torch.arange(2 * 29).reshape(2, 29) * 7 % SMALL_VOCAB


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_resident_model(Checkpoint.open(folder), CPU, dtype)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
        ("mistral", {"sliding_window": 7, "tie_word_embeddings": False}),
        ("qwen2", {}),
        ("qwen3", {"max_shard_size": "40KB"}),
        ("mixtral", {"tie_word_embeddings": False}),
        ("qwen3_moe", {"mlp_only_layers": [0]}),
    ],
)
def test_a_plain_checkpoint_is_what_transformers_loads(
    tmp_path: Path, family: str, config: dict[str, Any]
) -> None:
    folder = make_small_model(tmp_path / "model", family, **config)
    reference = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, experts_implementation="eager"
    ).eval()
    with torch.inference_mode():
        assert torch.equal(load(folder)(IDS_BT).logits, reference(IDS_BT).logits)


@pytest.mark.parametrize("stored", ["gptq", "compressed-tensors"])
def test_a_quantised_checkpoint_holds_the_dequantised_weights(
    tmp_path: Path, stored: QuantFormat
) -> None:
    model = make_small_model(tmp_path / "model")
    folder = quantize(model, tmp_path / "quantized", quant_format=stored).folder
    weights = load(folder).state_dict()
    layers = dequantize_folder(folder)
    assert len(layers) == 14
    for name, layer in layers.items():
        assert torch.equal(weights[f"{name}.weight"], torch.from_numpy(layer.weights))


def test_everything_is_in_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    loaded = load(make_small_model(tmp_path / "model"), torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in [*loaded.parameters(), *loaded.buffers()]} == {"cpu"}
    assert not loaded.training


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("qwen2", {}),
        ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
        ("mixtral", {"tie_word_embeddings": False}),
        ("qwen3_moe", {"mlp_only_layers": [1], "attention_bias": True}),
    ],
)
def test_every_weight_is_counted(tmp_path: Path, family: str, config: dict[str, Any]) -> None:
    folder = make_small_model(tmp_path / "model", family, **config)
    num_weights = sum(parameter.numel() for parameter in load(folder).parameters())
    tied = Checkpoint.open(folder).config.tie_word_embeddings
    num_weights -= tied * SMALL_VOCAB * 64  # the loaded model holds them under two names
    assert _count_weights(Checkpoint.open(folder).config) == num_weights


def test_what_does_not_fit_is_refused_with_its_numbers(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_small_model(tmp_path / "model"))
    require_memory(checkpoint, CPU, torch.float32, rows=4, tokens_per_row=256)
    # 2 blocks × 2 key-value heads × 16 values × keys and values × 4 bytes × 10⁹ × 1000 tokens
    with pytest.raises(ResourceError, match=r"float32 \(512\.0 TB of it key-value cache\)") as info:
        require_memory(checkpoint, CPU, torch.float32, rows=1000, tokens_per_row=10**9)
    assert "of cpu memory are free" in info.value.message
    assert "protocol: likelihood" in str(info.value.remedy)
