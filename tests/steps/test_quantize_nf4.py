"""`quantize.nf4` against transformers with bitsandbytes: the same bytes, config and logits."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from llmopt.checkpoint.verification import verify_checkpoint
from llmopt.errors import CapabilityError, IncompatibleError
from llmopt.steps.quantize_nf4 import QuantizeNf4
from tests.checkpoint.numpy_dequantizer import read_folder
from tests.models import make_model
from tests.steps.stream_steps import run_step

pytestmark = pytest.mark.usefixtures("one_thread")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
IDS = torch.tensor([[1, 77, 2050, 9, 301, 5, 6000, 42]])


def quantize(model: Path, folder: Path, **fields: Any) -> Path:
    """Runs the step by itself; returns the artifact's folder."""
    step = QuantizeNf4.model_validate({"uses": "quantize.nf4", "model": "base", **fields})
    return run_step(step, model, folder)[0]


def quantize_by_transformers(model: Path, folder: Path, **settings: Any) -> Path:
    """Lets transformers and bitsandbytes quantise and save the model."""
    config = BitsAndBytesConfig(load_in_4bit=True, **settings)
    made = AutoModelForCausalLM.from_pretrained(model, quantization_config=config)
    made.save_pretrained(folder)
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


@torch.inference_mode()
def compute_logits(folder: Path) -> torch.Tensor:
    logits: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    return logits


@pytest.mark.parametrize(
    ("family", "dtype", "tied", "quant_type", "double_quant"),
    [
        ("llama", torch.bfloat16, True, "nf4", True),
        ("llama", torch.float16, False, "fp4", False),
        ("llama", torch.float32, False, "nf4", False),
        ("mistral", torch.bfloat16, False, "fp4", True),
        ("qwen2", torch.float16, True, "nf4", True),
        ("qwen3", torch.bfloat16, False, "nf4", True),
        ("qwen3", torch.float32, True, "fp4", True),
        ("mixtral", torch.bfloat16, False, "nf4", True),
        ("qwen3_moe", torch.bfloat16, False, "nf4", False),
    ],
)
def test_bytes_config_and_logits_are_those_of_transformers(
    tmp_path: Path, family: str, dtype: torch.dtype, tied: bool, quant_type: str, double_quant: bool
) -> None:
    sizes = {"intermediate_size": 320, "num_hidden_layers": 2}
    model = make_model(tmp_path / "model", family, dtype=dtype, tie_word_embeddings=tied, **sizes)
    settings = {"quant_type": quant_type, "double_quant": double_quant, "compute_dtype": "float32"}
    ours = quantize(model, tmp_path, **settings)
    theirs = quantize_by_transformers(
        model,
        tmp_path / "theirs",
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=torch.float32,
    )
    assert read_folder(ours) == read_folder(theirs)
    assert read_config(ours)["quantization_config"] == read_config(theirs)["quantization_config"]
    assert torch.equal(compute_logits(ours), compute_logits(theirs))


@pytest.mark.parametrize(
    ("skip", "named"),
    [
        (["lm_head", "model.layers.1.mlp.down_proj"], ["lm_head", "model.layers.1.mlp.down_proj"]),
        ([], []),
        (["v_proj", "lm_head"], ["lm_head", "model.layers.*.self_attn.v_proj"]),
        (["lm_*"], ["lm_head"]),
        (["re:lm_head"], ["lm_head"]),
    ],
    ids=["one", "none", "all-v", "head-by-glob", "head-by-regex"],
)
def test_skipped_layers_stay_and_are_known_to_loaders(
    tmp_path: Path, skip: list[str], named: list[str]
) -> None:
    model = make_model(tmp_path / "model", tie_word_embeddings=False)
    ours = quantize(model, tmp_path, skip=skip)
    theirs = quantize_by_transformers(
        model,
        tmp_path / "theirs",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=named,
    )
    assert read_folder(ours) == read_folder(theirs)
    assert torch.equal(compute_logits(ours), compute_logits(theirs))
    assert verify_checkpoint(ours).faults == []


def test_another_block_size_is_read_from_the_state(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", hidden_size=256, head_dim=64, intermediate_size=512)
    sizes = (32, 256)
    made = {size: quantize(model, tmp_path / str(size), block_size=size) for size in sizes}
    exact = compute_logits(model)
    distances = [float((compute_logits(made[n]) - exact).square().mean()) for n in sizes]
    assert distances[0] < 0.9 * distances[1]


def test_rows_that_are_no_whole_blocks_are_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", intermediate_size=288)
    with pytest.raises(
        IncompatibleError, match="down_proj has 288 input features, not a multiple of block_size 64"
    ) as caught:
        quantize(model, tmp_path)
    assert caught.value.remedy == "use block_size 32"
    quantize(model, tmp_path / "32", block_size=32)
    quantize(model, tmp_path / "skipped", skip=["lm_head", "down_proj"])


def test_the_card_says_what_serves_it(tmp_path: Path, random_model: Path) -> None:
    card = (quantize(random_model, tmp_path) / "README.md").read_text(encoding="utf-8")
    assert "vllm-bnb-plugin" in card
    assert "| `skip` | lm_head |" in card
    assert str(tmp_path) not in card


def test_experts_that_stay_are_recorded(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "mixtral", num_hidden_layers=1)
    _, outcome = run_step(QuantizeNf4(uses="quantize.nf4", model="base"), model, tmp_path)
    (degraded,) = outcome.degraded
    assert degraded.startswith("12 weights of experts stay in bfloat16")
    assert {error.layer.rpartition(".")[2] for error in outcome.layers} == set(ATTENTION)
    assert verify_checkpoint(tmp_path / "work").faults == []


def test_without_bitsandbytes_the_install_command_is_named(
    tmp_path: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "bitsandbytes" else find_spec(name),
    )
    with pytest.raises(CapabilityError, match="needs bitsandbytes") as caught:
        quantize(random_model, tmp_path)
    assert caught.value.remedy == "pip install 'llmopt[quant]'"
    assert caught.value.exit_code == 5
