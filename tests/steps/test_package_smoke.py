"""`package.triton` with `smoke: true`: the real server answers as the export does, or it fails.

Each shape is tried through the step, so that what is held against the server comes from the export.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from llmopt.artifacts.onnx_description import read_onnx_description
from llmopt.artifacts.progress import SilentProgress
from llmopt.artifacts.triton_description import RepositoryModel
from llmopt.errors import IncompatibleError
from llmopt.steps.base import Outcome, ResolvedInput, RunContext
from llmopt.steps.package_smoke import expect_text
from llmopt.steps.package_triton import PackageTriton
from llmopt.triton.server_distribution import ServerDistribution
from tests.export.encoders import export_bert, make_bert
from tests.export.exports import export
from tests.models import TINY_MODEL
from tests.triton.repositories import describe_repository

pytestmark = pytest.mark.usefixtures("one_thread")
Try = Callable[..., Outcome]
RANKED = "text_output, tokens, token_ids, logprobs"


@pytest.fixture
def try_step(tmp_path: Path, server_distribution: ServerDistribution) -> Try:
    """Runs the step with `smoke` in tmp_path."""

    def run(model: Path, source: Path, **fields: Any) -> Outcome:
        step = PackageTriton.model_validate(
            {"uses": "package.triton", "model": "m", "smoke": True, "threads": 1, **fields}
        )
        inputs = {
            "model": ResolvedInput("m", "onnx_model", "", source),
            "tokenizer": ResolvedInput("base", "checkpoint", "", model),
        }
        (tmp_path / "work").mkdir()
        scratch = tmp_path / "scratch"
        return step.run(inputs, RunContext(tmp_path / "work", scratch, "cpu", 1, SilentProgress()))

    return run


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model's export; do not write into it."""
    folder = tmp_path_factory.mktemp("smoke") / "onnx"
    export(TINY_MODEL, folder, last_token_logits=True)
    return folder


def test_generated_text_is_held_against_the_export(try_step: Try, decoder: Path) -> None:
    outcome = try_step(TINY_MODEL, decoder, shape="generate", model_name="apparel")
    answer = outcome.metrics["answer"]
    assert isinstance(answer, str)
    assert answer.strip()
    assert outcome.metrics["answered_by_release"] == "24.10"
    assert "is that of the model run directly" in str(outcome.metrics["answer_checked"])
    assert {"load_s", "answer_s", "first_response_s"} <= outcome.timings.keys()
    assert outcome.degraded == []


def test_what_is_for_a_gpu_is_said_to_have_been_tried_on_the_cpu(
    try_step: Try, decoder: Path
) -> None:
    outcome = try_step(TINY_MODEL, decoder, shape="generate", model_name="apparel", device="cuda")
    assert outcome.degraded == ["apparel was served on the CPU, not on a GPU"]


def test_the_export_is_asked_with_the_whole_prompt(decoder: Path, tmp_path: Path) -> None:
    cutting = tmp_path / "cutting"
    cutting.mkdir()
    shutil.copyfile(TINY_MODEL / "config.json", cutting / "config.json")
    tokenizer = Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(cutting / "tokenizer.json"))
    models = (RepositoryModel(name="m", role="generate", backend="python"),)
    onnx = read_onnx_description(decoder)
    description = describe_repository("generate", models, task="generate", model=onnx)
    texts = {
        expect_text(
            description,
            {
                "model": ResolvedInput("m", "onnx_model", "", decoder),
                "tokenizer": ResolvedInput("base", "checkpoint", "", folder),
            },
            threads=1,
        ).text
        for folder in (TINY_MODEL, cutting)
    }
    assert len(texts) == 1, "the server's tokenizer neither cuts nor pads"


@pytest.mark.parametrize("task", ["embed", "fill_mask"])
def test_an_encoder_s_outputs_are_held_against_the_export(
    try_step: Try, tmp_path: Path, task: str
) -> None:
    model = make_bert(tmp_path / "model")
    fills = task == "fill_mask"
    export_bert(model, tmp_path / "onnx", task, masked_positions=fills)  # type: ignore[arg-type]
    outcome = try_step(
        model, tmp_path / "onnx", shape="ensemble", task=task, buckets=[8, 32], model_name="bert"
    )
    compared = RANKED if fills else "embedding"
    assert f"{compared}: as the model run directly" in str(outcome.metrics["answer_checked"])
    assert "onnxruntime" in str(outcome.degraded)


@pytest.fixture(scope="module")
def one_pass(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model's export for one pass; do not write into it."""
    folder = tmp_path_factory.mktemp("pass") / "onnx"
    export(TINY_MODEL, folder, kv_cache=False, last_token_logits=True)
    return folder


def test_a_decoder_s_scores_are_held_against_the_export(try_step: Try, one_pass: Path) -> None:
    outcome = try_step(TINY_MODEL, one_pass, shape="ensemble", task="score", buckets=[16, 32])
    assert f"{RANKED}: as the model run directly" in str(outcome.metrics["answer_checked"])


def test_a_prompt_that_no_bucket_holds_is_told(try_step: Try, one_pass: Path) -> None:
    with pytest.raises(IncompatibleError, match="tokens; the largest bucket has 1"):
        try_step(TINY_MODEL, one_pass, shape="ensemble", task="score", buckets=[1])
