"""Which tensors are quantised, by their names."""

from pathlib import Path

import pytest

from llmopt.checkpoint.linear_weights import (
    find_split_layers,
    is_linear_weight,
    list_kept_linears,
    select_linear_weights,
)
from llmopt.checkpoint.safetensors_header import TensorEntry
from llmopt.errors import InputError

DENSE = [
    f"model.layers.{block}.{layer}.weight"
    for block in range(2)
    for layer in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )
]  # fmt: skip
OTHERS = [
    "model.embed_tokens.weight",
    "model.norm.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.self_attn.q_norm.weight",
    "model.layers.0.self_attn.q_proj.bias",
    "model.layers.0.block_sparse_moe.gate.weight",
    "model.layers.0.mlp.gate.weight",
    "model.layers.0.mlp.shared_expert_gate.weight",
]
EXPERTS = [
    "model.layers.0.block_sparse_moe.experts.7.w1.weight",
    "model.layers.0.block_sparse_moe.experts.7.w2.weight",
    "model.layers.0.block_sparse_moe.experts.7.w3.weight",
    "model.layers.10.mlp.experts.127.gate_proj.weight",
    "model.layers.10.mlp.experts.127.down_proj.weight",
    "model.layers.10.mlp.shared_expert.up_proj.weight",
]


@pytest.mark.parametrize("name", [*DENSE[:7], *EXPERTS, "lm_head.weight"])
def test_linear_weights_are_known(name: str) -> None:
    assert is_linear_weight(name)


@pytest.mark.parametrize("name", OTHERS)
def test_embeddings_norms_biases_and_routers_are_none(name: str) -> None:
    assert not is_linear_weight(name)


def test_selection_leaves_out_what_is_skipped() -> None:
    names = [*DENSE, *OTHERS, "lm_head.weight"]
    assert select_linear_weights(names, ["lm_head"]) == set(DENSE)
    assert select_linear_weights(names, []) == {*DENSE, "lm_head.weight"}
    assert select_linear_weights(names, ["model.layers.0", "lm_head"]) == set(DENSE[7:])
    assert select_linear_weights(DENSE, ["lm_head"]) == set(DENSE)  # tied models have no head


def test_a_pattern_that_names_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match=r"'mlp\.dwon_proj' names no linear layer"):
        select_linear_weights(DENSE, ["mlp.dwon_proj"])
    with pytest.raises(InputError, match="names no linear layer") as caught:
        select_linear_weights(DENSE, ["re:model.layers.1"])
    assert "re: and a regular expression of the whole name" in str(caught.value.remedy)
    with pytest.raises(InputError, match="leaves no linear layer"):
        select_linear_weights(DENSE, ["model"])


def test_routers_and_skipped_layers_are_listed_for_loaders() -> None:
    matrix = TensorEntry(Path("f"), "BF16", (2, 2), 0, 8)
    vector = TensorEntry(Path("f"), "BF16", (2,), 0, 4)
    tensors = {
        "model.embed_tokens.weight": matrix,
        "lm_head.weight": matrix,
        "model.norm.weight": vector,
        "model.layers.0.mlp.gate.weight": matrix,
        DENSE[0]: matrix,
        DENSE[1]: matrix,
    }
    assert list_kept_linears(tensors, frozenset(DENSE[:1])) == [
        "model.layers.0.mlp.gate",
        "model.layers.0.self_attn.k_proj",
    ]


def test_parts_of_fused_layers_are_found() -> None:
    whole = frozenset(DENSE)
    assert find_split_layers(whole, DENSE) == []
    without_down = frozenset(name for name in DENSE if "down" not in name)
    assert find_split_layers(without_down, DENSE) == []
    without_k = whole - {"model.layers.1.self_attn.k_proj.weight"}
    assert find_split_layers(without_k, DENSE) == ["model.layers.1.self_attn.k_proj"]
    without_w3 = frozenset(EXPERTS) - {EXPERTS[2]}
    experts = find_split_layers(without_w3, EXPERTS[:3])
    assert experts == ["model.layers.0.block_sparse_moe.experts.7.w1"]
