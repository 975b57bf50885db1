"""What each GPU must hold, against sums made by hand."""

import dataclasses
import math

import pytest

from llmopt.errors import IncompatibleError
from llmopt.serving.preflight import check_servable
from llmopt.serving.served_weights import all_layers
from llmopt.serving.vllm_memory_rule import measure_need
from tests.serving.figures import (
    LLAMA_8B,
    LLAMA_70B,
    MISTRAL_7B,
    QWEN_7B,
    aim,
    refusal,
    serve,
    serve_uniform,
)

GIB = 1 << 30


def test_weights_are_cut_and_key_value_heads_may_repeat() -> None:
    weights = serve_uniform("fp8", QWEN_7B)  # a byte per weight of the blocks, 4 key-value heads
    sizes = dict(all_layers(QWEN_7B))
    key_values = sum(math.prod(s) for n, s in sizes.items() if n.endswith(("k_proj", "v_proj")))
    head = math.prod(sizes.pop("lm_head"))
    others = sum(map(math.prod, sizes.values())) - key_values
    outside = 2 * 2 * head  # embeddings and lm_head, in 16 bits
    for tp, copies in ((1, 1), (4, 1), (28, 7)):
        need = measure_need(weights, aim(), tp)
        expected = (others + outside) / tp + key_values / tp * copies
        assert abs(need.weights_bytes - expected) / expected < 1e-6


def test_the_kv_cache_of_known_models() -> None:
    """128 KiB per token for Llama-3 8B, 320 KiB for 70B, in 16 bits."""
    assert measure_need(serve(LLAMA_8B), aim(), 1).token_bytes == 128 * 1024
    assert measure_need(serve(LLAMA_70B), aim(), 1).token_bytes == 320 * 1024
    assert measure_need(serve(LLAMA_70B), aim(), 8).token_bytes == 40 * 1024
    assert measure_need(serve(LLAMA_70B), aim(), 16).token_bytes == 40 * 1024


def test_how_many_tokens_are_held() -> None:
    def tokens(config: object = LLAMA_8B, **fields: int) -> int:
        return measure_need(serve(config), aim(**fields), 1).tokens  # type: ignore[arg-type]

    assert tokens(max_model_len=4096, concurrency=16) == 65536
    assert tokens(max_model_len=4096) == 4096
    assert tokens() == tokens(concurrency=16) == 131072
    windowed = dataclasses.replace(MISTRAL_7B, raw={"sliding_window": 4096})
    assert tokens(windowed, max_model_len=32768, concurrency=2) == 8192
    unused = dataclasses.replace(QWEN_7B, raw={"sliding_window": 4096, "use_sliding_window": False})
    assert tokens(unused, max_model_len=32768) == 32768


def test_the_ways_out_lead_out() -> None:
    weights = serve(LLAMA_70B)
    fields = {"gpu": "h100", "max_model_len": 131072, "concurrency": 4}
    said = refusal(weights, aim(**fields))
    assert "set tp: 4 or set max_model_len: 2" in said
    assert refusal(weights, aim(**fields, tp=4)) == ""
    length = int(said.partition("set max_model_len: ")[2].partition(" ")[0])
    fields["max_model_len"] = length
    assert refusal(weights, aim(**fields)) == ""
    fields["max_model_len"] = length + 1
    assert "exceed" in refusal(weights, aim(**fields))


def test_weights_alone_may_be_too_much() -> None:
    said = refusal(serve(LLAMA_70B), aim(gpu="rtx4090", max_model_len=128))
    assert "set tp: 2 or store the weights in fewer bits or name a gpu with more memory" in said


def test_a_plan_that_is_used_in_part_is_not_judged_by_its_size() -> None:
    weights, target = serve(LLAMA_70B), aim(gpu="t4", max_model_len=128)
    with pytest.raises(IncompatibleError, match="GiB of weights"):
        check_servable(weights, target)
    check_servable(weights, target, is_whole=False)
