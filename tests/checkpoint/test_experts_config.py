from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.model_config import ModelConfig, describe_kind, read_model_config
from llmopt.errors import InputError
from tests.checkpoint.test_model_config import write_config
from tests.models import edit_json
from tests.quant.pipeline import make_small_model

MIXTRAL = {"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2}
QWEN = {
    "model_type": "qwen3_moe", "num_experts": 3, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "head_dim": 16,
}  # fmt: skip
ATTENTION = ("qkv", "attention_output")


def read(folder: Path, **changes: Any) -> ModelConfig:
    """Writes a config.json and reads it."""
    return read_model_config(write_config(folder, **changes))


def test_mixtral_as_the_hub_names_it(tmp_path: Path) -> None:
    config = read(tmp_path, **MIXTRAL)
    shapes = config.linear_shapes(1)
    prefix = "block_sparse_moe.experts."
    assert list(shapes)[4:] == [f"{prefix}{e}.{w}" for e in range(3) for w in ("w1", "w3", "w2")]
    assert (shapes[f"{prefix}2.w1"], shapes[f"{prefix}2.w2"]) == ((96, 64), (64, 96))
    stages = config.stages(1)
    assert [stage.name for stage in stages[:4]] == [
        *ATTENTION, f"{prefix}0.gate_up", f"{prefix}0.down"
    ]  # fmt: skip
    assert [stage.expert for stage in stages] == [None, None, 0, 0, 1, 1, 2, 2]
    assert [layer for stage in stages for layer in stage.layers] == list(shapes)
    assert config.kept_shapes(0)["block_sparse_moe.gate.weight"] == (3, 64)
    assert not any("q_norm" in name for name in config.kept_shapes(0))


def test_qwen_as_the_hub_names_it(tmp_path: Path) -> None:
    config = read(tmp_path, **QWEN)
    shapes = config.linear_shapes(1)
    prefix = "mlp.experts."
    layers = ("gate_proj", "up_proj", "down_proj")
    assert list(shapes)[4:] == [f"{prefix}{e}.{w}" for e in range(3) for w in layers]
    assert shapes[f"{prefix}2.up_proj"] == (32, 64)
    assert shapes[f"{prefix}2.down_proj"] == (64, 32)
    assert config.kept_shapes(0)["mlp.gate.weight"] == (3, 64)
    assert config.kept_shapes(0)["self_attn.q_norm.weight"] == (16,)


@pytest.mark.parametrize(
    ("changes", "dense"),
    [
        ({}, set()),
        ({"mlp_only_layers": [0, 3]}, {0, 3}),
        ({"decoder_sparse_step": 2}, {0, 2, 4}),
        ({"decoder_sparse_step": 3, "mlp_only_layers": [2]}, {0, 1, 2, 3, 4}),
        ({"mlp_only_layers": None, "decoder_sparse_step": None}, set()),
    ],
    ids=str,
)
def test_dense_blocks_are_those_of_transformers(
    tmp_path: Path, changes: dict[str, Any], dense: set[int]
) -> None:
    config = read(tmp_path, **{**QWEN, "num_hidden_layers": 5, **changes})
    assert {block for block in range(5) if config.experts_in(block) is None} == dense
    for block in dense:
        assert config.linear_shapes(block)["mlp.up_proj"] == (96, 64)
        assert [stage.name for stage in config.stages(block)] == [*ATTENTION, "gate_up", "down"]
        assert "mlp.gate.weight" not in config.kept_shapes(block)
    reference = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    plain = {b for b, layer in enumerate(reference.model.layers) if hasattr(layer.mlp, "up_proj")}
    assert plain == dense


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts"])
@pytest.mark.parametrize("family", [MIXTRAL, QWEN], ids=["mixtral", "qwen3_moe"])
def test_either_word_for_the_count_is_read(
    tmp_path: Path, family: dict[str, Any], key: str
) -> None:
    counts = {"num_experts": None, "num_local_experts": None, key: 5}
    config = read(tmp_path, **{**family, **counts})
    assert config.experts is not None
    assert config.experts.num_experts == 5


def test_defaults_are_transformers(tmp_path: Path) -> None:
    mixtral = read(tmp_path, model_type="mixtral").experts
    assert mixtral is not None
    assert (mixtral.num_experts, mixtral.num_chosen, mixtral.inner_size) == (8, 2, 96)
    qwen = read(tmp_path, model_type="qwen3_moe")
    assert qwen.experts is not None
    assert (qwen.experts.num_experts, qwen.experts.num_chosen) == (128, 8)
    assert (qwen.experts.inner_size, qwen.head_dim) == (768, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 0}, "num_experts is 0, not a positive integer"),
        ({"num_experts": "3"}, "num_experts is '3', not a positive integer"),
        ({"num_experts_per_tok": 4}, "num_experts_per_tok is 4, but there are 3 experts"),
        ({"moe_intermediate_size": 1.5}, "moe_intermediate_size is 1.5, not a positive"),
        ({"mlp_only_layers": 1}, "mlp_only_layers is 1, not a list of block numbers"),
        ({"mlp_only_layers": ["1"]}, r"mlp_only_layers is \['1'\], not a list of block numbers"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0, not a positive integer"),
    ],
    ids=str,
)
def test_impossible_figures(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, **{**QWEN, **changes})


def test_a_kind_holds_for_all_blocks_and_experts() -> None:
    name = "model.layers.11.block_sparse_moe.experts.7.w2"
    assert describe_kind(name) == "block_sparse_moe.experts.*.w2"
    assert describe_kind("model.layers.0.mlp.down_proj") == "mlp.down_proj"


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_weights_of_another_number_of_experts_are_refused(tmp_path: Path, family: str) -> None:
    folder = make_small_model(tmp_path, family)
    assert Checkpoint.open(folder).config.experts is not None
    edit_json(folder / "config.json", num_local_experts=5)
    with pytest.raises(InputError, match=r"gate\.weight has shape \[4, 64\], expected \[5, 64\]"):
        Checkpoint.open(folder)
    edit_json(folder / "config.json", num_local_experts=3)
    with pytest.raises(InputError, match="the weights disagree"):
        Checkpoint.open(folder)
