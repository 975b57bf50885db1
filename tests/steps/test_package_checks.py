"""`package.triton`: what is refused of exports, engines and checkpoints that are there."""

from pathlib import Path
from typing import Any

import pytest
import torch

from llmopt.errors import IncompatibleError
from llmopt.serving.target import Target
from tests.engine.descriptions import LIMIT
from tests.export.exports import make_gptq_model
from tests.models import VOCAB_SIZE, edit_json, make_model
from tests.quant.pipeline import make_small_model
from tests.steps.packages import (
    BY_BUCKET,
    DECODE,
    ENSEMBLE,
    ONE_PASS,
    PREFILL,
    describe_engine,
    describe_export,
    given,
    make_step,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 blocks; do not write into it."""
    return make_small_model(tmp_path_factory.mktemp("model") / "model", vocab_size=VOCAB_SIZE)


REFUSED_EXPORTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no cache": ({}, {"kv_cache": False}, "without a key-value cache generates no text"),
    "an encoder": ({}, {"task": "fill_mask"}, "exported for fill_mask generates no text"),
    "bfloat16": ({}, {"dtype": "bfloat16"}, "exported in bfloat16"),
    "the answer fills the context": (
        {"default_max_tokens": LIMIT},
        {},
        f"default_max_tokens is {LIMIT}; prompt and answer together have {LIMIT}",
    ),
    "operators beyond Python 3.10": ({}, {"opset": 24}, "onnxruntime 1.23.2, the last for its"),
    "a delay over the budget": (
        {**ENSEMBLE, "max_queue_delay_ms": 100, "latency_budget_ms": 50},
        {},
        "max_queue_delay_ms is 100, above latency_budget_ms 50",
    ),
    "operators beyond the backend": (ENSEMBLE, {"opset": 22}, "its onnxruntime 1.19.2 loads 21"),
    "a cache that nobody feeds": (ENSEMBLE, {"last_token_logits": True}, "a key-value cache"),
    "all logits": (ENSEMBLE, {"kv_cache": False}, "it returns the logits of every token"),
    "another task": (
        {**ENSEMBLE, "task": "embed"},
        {"task": "fill_mask"},
        "task: embed can't serve this llama: it was exported for fill_mask",
    ),
    "session options": (
        ENSEMBLE,
        {"kv_cache": False, "last_token_logits": True, "weights": "qdq_int4"},
        "weights: qdq_int4 needs onnxruntime's session option",
    ),
    "a bucket beyond the positions": (
        {**ENSEMBLE, "buckets": [64, 512]},
        {"kv_cache": False, "last_token_logits": True},
        f"bucket 512 is beyond the model's max_position_embeddings {LIMIT}",
    ),
}


@pytest.mark.parametrize("case", REFUSED_EXPORTS)
def test_exports_that_the_server_could_not_serve_so_are_refused(case: str, tmp_path: Path) -> None:
    fields, changes, message = REFUSED_EXPORTS[case]
    folder = describe_export(tmp_path / "onnx", **changes)
    with pytest.raises(IncompatibleError) as caught:
        make_step(**fields).preflight(given("onnx_model", folder), None)
    assert message in caught.value.message
    assert caught.value.remedy


REFUSED_ENGINES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "on a CPU": ({"device": "cpu"}, {}, "which runs on no CPU"),
    "rows that no profile decodes": ({"max_batch_size": 16}, {}, "decodes 8 rows at once"),
    "no profile to prefill with": ({}, {"profiles": {"decode": DECODE}}, "no profile to prefill"),
    "prompts of two tokens and more": (
        {},
        {"profiles": {"prefill": {**PREFILL, "sequence": (2, 32, 64)}, "decode": DECODE}},
        "no profile to prefill",
    ),
    "a decode profile that skips short prompts": (
        {},
        {"profiles": {"prefill": PREFILL, "decode": {**DECODE, "past_sequence": (8, 64, 255)}}},
        "no profile to decode with (batch and past_sequence from 1, sequence 1)",
    ),
    "TensorRT-RTX as a plan": (
        ENSEMBLE,
        {"backend": "tensorrt_rtx", "version": "1.7.0", **ONE_PASS},
        "Triton's tensorrt backend loads engines of tensorrt alone",
    ),
    "a plan of another TensorRT": (
        ENSEMBLE,
        {"version": "10.13.3"},
        "is of TensorRT 10.13.3; the container of release 24.10 has 10.5",
    ),
    "a plan of a TensorRT that begins alike": (ENSEMBLE, {"version": "10.50"}, "has 10.5"),
    "a bucket outside the profiles": (
        {**ENSEMBLE, "buckets": [64, 200]},
        {"profiles": BY_BUCKET, **ONE_PASS},
        "no profile of the engine takes 1 rows of 200 tokens (short: batch 1:4:8, sequence 1:64:64",
    ),
    "a batch outside the profiles": (
        {**ENSEMBLE, "max_batch_size": 9},
        {"profiles": BY_BUCKET, **ONE_PASS},
        "takes 9 rows of 64 tokens",
    ),
}


@pytest.mark.parametrize("case", REFUSED_ENGINES)
def test_engines_that_the_server_could_not_serve_so_are_refused(
    case: str, model: Path, tmp_path: Path
) -> None:
    fields, changes, message = REFUSED_ENGINES[case]
    folder = describe_engine(tmp_path / "engine", **changes)
    with pytest.raises(IncompatibleError) as caught:
        make_step(**fields).preflight(given("tensorrt_engine", folder, model), None)
    assert message in caught.value.message
    assert caught.value.remedy


def test_engines_in_reach_of_the_release_are_taken(model: Path, tmp_path: Path) -> None:
    generating = describe_engine(tmp_path / "rtx", "tensorrt_rtx", "1.7.0")
    make_step().preflight(given("tensorrt_engine", generating, model), None)
    plan = describe_engine(tmp_path / "plan", profiles=BY_BUCKET, **ONE_PASS)
    make_step(**ENSEMBLE).preflight(given("tensorrt_engine", plan, model), None)
    with pytest.raises(IncompatibleError, match="an engine, which holds no tokenizer"):
        make_step().preflight(given("tensorrt_engine", generating), None)


@pytest.mark.parametrize("shape", ["generate", "ensemble"])
def test_an_engine_is_not_tried_where_there_is_no_gpu_for_it(
    model: Path, tmp_path: Path, shape: str
) -> None:
    fields = ENSEMBLE if shape == "ensemble" else {}
    coming = given("tensorrt_engine", tmp_path / "coming", model)
    with pytest.raises(IncompatibleError, match="computes on the CPU; served serves a TensorRT"):
        make_step(**{"smoke": True, **fields}).preflight(coming, None)


def test_each_shape_serves_its_own_kinds(model: Path, tmp_path: Path) -> None:
    exported = describe_export(tmp_path / "onnx")
    with pytest.raises(IncompatibleError, match="shape vllm serves a checkpoint or a"):
        make_step("vllm").preflight(given("onnx_model", exported), None)
    with pytest.raises(
        IncompatibleError,
        match="serves an ONNX model or a TensorRT engine; served is a checkpoint",
    ) as caught:
        make_step().preflight(given("checkpoint", model), None)
    assert caught.value.remedy == "use shape: vllm"


@pytest.mark.parametrize(
    ("scheme", "fields", "target", "message"),
    [
        ("asym", {}, None, "format gptq must be symmetric"),
        ("3_bits", {}, None, "3 bits are not served"),
        ("act_order", {}, None, "act-order with groups is no longer served"),
        ("8_bits", {}, Target(runtime="vllm", device="cpu"), "take 4 bits, not 8"),
        ("sym", {"engine_args": {"tensor_parallel_size": 3}}, None, "tp 3"),
        ("sym", {"engine_args": {"max_model_len": 4096}}, None, "4096"),
    ],
)
def test_checkpoints_that_vllm_does_not_load_are_refused(
    tmp_path: Path, scheme: str, fields: dict[str, Any], target: Target | None, message: str
) -> None:
    checkpoint = make_gptq_model(tmp_path, scheme)
    with pytest.raises(IncompatibleError) as caught:
        make_step("vllm", **fields).preflight(given("quantized_checkpoint", checkpoint), target)
    assert message in caught.value.message


def test_a_family_that_is_not_known_here_is_left_to_vllm(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", dtype=torch.bfloat16)
    edit_json(model / "config.json", model_type="gemma3_text")
    make_step("vllm").preflight(given("checkpoint", model), None)
    with pytest.raises(IncompatibleError, match="shape generate serves"):
        make_step().preflight(given("checkpoint", model), None)
