"""Mixtures of experts in preflight, from their config's figures."""

import dataclasses

import pytest

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.experts_config import EXPERT_NAMES, ExpertsConfig
from tests.serving.figures import GROUP_128, MISTRAL_7B, aim, refusal, serve

MIXTRAL = dataclasses.replace(
    MISTRAL_7B,
    model_type="mixtral",
    num_hidden_layers=2,
    experts=ExpertsConfig(EXPERT_NAMES["mixtral"], 8, 2, 14336, frozenset()),
)
QWEN = dataclasses.replace(
    MISTRAL_7B,
    model_type="qwen3_moe",
    hidden_size=2048,
    num_hidden_layers=2,
    experts=ExpertsConfig(EXPERT_NAMES["qwen3_moe"], 128, 8, 768, frozenset({0})),
)


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_mixtral_is_served_whole(tp: int) -> None:
    for quant_format in ("gptq", "compressed-tensors"):
        assert refusal(serve(MIXTRAL, GROUP_128, quant_format), aim(tp=tp)) == ""
        other = {"layers": "*.experts.*", "bits": 8}
        assert refusal(serve(MIXTRAL, GROUP_128, quant_format, other), aim(tp=tp)) == ""


def test_experts_of_a_block_must_be_alike() -> None:
    override = {"layers": "model.layers.1.*.experts.3.*", "skip": True}
    said = refusal(serve(MIXTRAL, GROUP_128, "gptq", override), aim())
    assert "must be alike (model.layers.1.block_sparse_moe.experts) [experts-alike]" in said


def test_an_experts_down_projection_is_cut_along_its_input() -> None:
    narrow = dataclasses.replace(
        MIXTRAL, experts=dataclasses.replace(MIXTRAL.experts, inner_size=768)
    )
    said = refusal(serve(narrow), aim(tp=4))
    assert "block_sparse_moe.experts.*.w2 has 192 input features per GPU" in said
    assert "w1 has" not in said
    odd = dataclasses.replace(narrow, experts=dataclasses.replace(narrow.experts, inner_size=770))
    said = refusal(serve(odd, QuantScheme(4, -1)), aim(tp=4))
    assert "experts.*.w1 has 770 output features, which do not divide by tp 4" in said


def test_dense_blocks_among_experts() -> None:
    override = {"layers": "*.0.mlp.gate_proj", "group_size": 64}
    said = refusal(serve(QWEN, GROUP_128, "gptq", override), aim())
    assert "gate_proj, up_proj are loaded as one and must be alike (model.layers.0.mlp)" in said
