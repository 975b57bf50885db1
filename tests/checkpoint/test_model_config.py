import json
from pathlib import Path
from typing import Any

import pytest

from llmopt.checkpoint.model_config import SUPPORTED_MODEL_TYPES, read_model_config
from llmopt.errors import InputError

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 320,
}


def write_config(folder: Path, **changes: Any) -> Path:
    """Writes config.json with some keys changed, None removing one; returns its folder."""
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_defaults_are_transformers(tmp_path: Path) -> None:
    config = read_model_config(write_config(tmp_path))
    assert (config.num_key_value_heads, config.head_dim) == (4, 16)
    assert not config.tie_word_embeddings
    assert config.dtype is None
    assert config.quantization is None
    assert config.biased_linears() == frozenset()
    assert read_model_config(write_config(tmp_path, model_type="qwen3")).head_dim == 128


def test_figures_are_read(tmp_path: Path) -> None:
    write_config(
        tmp_path, num_key_value_heads=2, head_dim=24, tie_word_embeddings=True, dtype="float16"
    )
    config = read_model_config(tmp_path)
    assert config.linear_shapes() == {
        "self_attn.q_proj": (96, 64),
        "self_attn.k_proj": (48, 64),
        "self_attn.v_proj": (48, 64),
        "self_attn.o_proj": (64, 96),
        "mlp.gate_proj": (96, 64),
        "mlp.up_proj": (96, 64),
        "mlp.down_proj": (64, 96),
    }
    assert set(config.outer_shapes()) == {"model.embed_tokens.weight", "model.norm.weight"}
    assert config.dtype == "float16"


@pytest.mark.parametrize(
    ("changes", "biased"),
    [
        ({"attention_bias": True}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ({"mlp_bias": True}, {"gate_proj", "up_proj", "down_proj"}),
        ({"model_type": "qwen2"}, {"q_proj", "k_proj", "v_proj"}),
        ({"model_type": "qwen3", "attention_bias": True}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ({"model_type": "mistral", "attention_bias": True}, set()),
    ],
)
def test_biases_are_the_familys(tmp_path: Path, changes: dict[str, Any], biased: set[str]) -> None:
    config = read_model_config(write_config(tmp_path, **changes))
    assert {name.rpartition(".")[2] for name in config.biased_linears()} == biased


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [("gpt2", "GPT2LMHeadModel"), ("dbrx", "DbrxForCausalLM"), ("gemma3", "Gemma3")],
)
def test_unknown_architecture_is_named(tmp_path: Path, model_type: str, architecture: str) -> None:
    write_config(tmp_path, model_type=model_type, architectures=[architecture])
    message = f"architecture {architecture} \\(model_type '{model_type}'\\) is not supported; "
    with pytest.raises(
        InputError, match=message + "supported: " + ", ".join(SUPPORTED_MODEL_TYPES)
    ):
        read_model_config(tmp_path)


@pytest.mark.parametrize("architectures", [None, [], {"a": 1}, "LlamaForCausalLM", 3])
def test_no_model_type(tmp_path: Path, architectures: object) -> None:
    write_config(tmp_path, model_type=None, architectures=architectures)
    with pytest.raises(InputError, match=r"architecture .* \(model_type None\) is not supported"):
        read_model_config(tmp_path)


@pytest.mark.parametrize("value", [0, -4, 1.5, "64", True, [64], None])
@pytest.mark.parametrize(
    "key", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
)
def test_impossible_figures(tmp_path: Path, key: str, value: object) -> None:
    write_config(tmp_path, **{key: value})
    with pytest.raises(InputError, match=rf"config\.json: {key} is .*, not a positive integer"):
        read_model_config(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model folder .*nowhere does not exist"):
        read_model_config(tmp_path / "nowhere")


def test_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no model folder: it holds no config\.json"):
        read_model_config(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe{}", b"[" * 200_000])
def test_config_that_is_no_json(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(InputError, match=r"config\.json is not valid JSON"):
        read_model_config(tmp_path)


def test_config_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match=r"config\.json holds list, not a JSON object"):
        read_model_config(tmp_path)
