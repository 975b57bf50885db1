"""How a quantisation is described to preflight."""

import dataclasses
import math

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.packed_size import bits_per_weight
from llmopt.serving.served_weights import (
    ServedWeights,
    all_layers,
    describe_plain,
    describe_uniform,
)
from llmopt.steps.layer_overrides import LayerOverride, build_plan
from tests.serving.figures import GROUP_128, LLAMA_8B, LLAMA_70B, QWEN_7B, serve


def find(weights: ServedWeights, name: str, block: int = 0) -> int:
    names = [layer.name for layer in weights.layers]
    return names.index(f"model.layers.{block}.{name}")


def test_layers_are_those_with_weights_of_their_own() -> None:
    names = [layer.name for layer in describe_plain(LLAMA_8B).layers]
    assert len(names) == 32 * 7 + 1
    assert names[-1] == "lm_head"
    tied = dataclasses.replace(LLAMA_8B, tie_word_embeddings=True)
    assert [layer.name for layer in describe_plain(tied).layers] == names[:-1]


def test_an_integer_plan_takes_the_bytes_that_are_written() -> None:
    override = {"layers": "*.down_proj", "bits": 8, "group_size": -1}
    plan = build_plan(LLAMA_8B, GROUP_128, [LayerOverride.model_validate(override)])
    weights = serve(LLAMA_8B, GROUP_128, "compressed-tensors", override)
    blocks = [layer for layer in weights.layers if layer.name != "lm_head"]
    count = sum(math.prod(layer.shape_OI) for layer in blocks)
    found = 8 * sum(layer.num_bytes for layer in blocks) / count
    assert found == bits_per_weight(LLAMA_8B, plan, "compressed-tensors", "bfloat16")


def test_left_out_layers_are_plain() -> None:
    weights = serve(LLAMA_8B, GROUP_128, "gptq", {"layers": "*.0.mlp.down_proj", "skip": True})
    layer = weights.layers[find(weights, "mlp.down_proj")]
    assert (layer.storage, layer.scheme, layer.num_bytes) == ("plain", None, 2 * 4096 * 14336)
    other = weights.layers[find(weights, "mlp.down_proj", 1)]
    assert (other.storage, other.scheme) == ("integer", GROUP_128)
    assert layer not in list(weights.rounded())
    assert weights.storages() == {"integer"}


def test_layers_are_cut_as_vllm_cuts_them() -> None:
    weights = serve(QWEN_7B)  # 28 heads of 128, 4 key-value heads
    shapes = {
        name: [weights.shard_shape(weights.layers[find(weights, name)], tp) for tp in (1, 4, 28)]
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.down_proj")
    }
    assert shapes["self_attn.q_proj"] == [(3584, 3584), (896, 3584), (128, 3584)]
    assert shapes["self_attn.k_proj"] == [(512, 3584), (128, 3584), (128, 3584)]
    assert shapes["self_attn.o_proj"] == [(3584, 3584), (3584, 896), (3584, 128)]
    assert shapes["mlp.down_proj"] == [(3584, 18944), (3584, 4736), (3584, 676)]
    odd = serve(dataclasses.replace(LLAMA_8B, vocab_size=1000), lm_head=True)
    assert odd.shard_shape(odd.layers[-1], 4) == (256, 4096)  # padded to 1024


def test_fused_layers_stand_under_one_another() -> None:
    shapes = serve(LLAMA_70B).loaded_shapes(8)
    for part in "qkv":
        assert shapes[f"model.layers.79.self_attn.{part}_proj"] == (1024 + 2 * 128, 8192)
    assert shapes["model.layers.3.mlp.up_proj"] == (2 * 28672 // 8, 8192)
    assert shapes["model.layers.3.mlp.down_proj"] == (8192, 28672 // 8)


def test_one_storage_for_all() -> None:
    rounded = {name for name, _ in all_layers(LLAMA_8B) if not name.endswith("lm_head")}
    weights = describe_uniform(
        LLAMA_8B, "bitsandbytes", "nf4", rounded, lambda shape: math.prod(shape) // 2
    )
    assert {layer.name for layer in weights.rounded()} == rounded
    assert weights.layers[-1].storage == "plain"
    assert list(weights.integers()) == []
    assert weights.layers[0].num_bytes == 4096 * 4096 // 2


def test_kinds_leave_out_blocks_and_experts() -> None:
    layer = dataclasses.replace(
        serve(scheme=QuantScheme(8, 64)).layers[0], name="model.layers.3.mlp.experts.17.down_proj"
    )
    assert (layer.kind, layer.part) == ("mlp.experts.*.down_proj", "down_proj")
    assert layer.experts == "model.layers.3.mlp.experts"
