"""What a quantisation is said to need, against figures counted by hand."""

from pathlib import Path

import pytest
import torch

from llmopt.data.dataset_spec import DatasetSpec
from llmopt.quant.matrix_units import is_widened
from llmopt.steps.base import Estimate, ResolvedInput
from llmopt.steps.quantize_gptq import QuantizeGptq
from tests.quant.pipeline import make_small_model

TOKENS = 8 * 40
# Two blocks of hidden 64: q and o 64 x 64, k and v 32 x 64.
ATTENTION = 2 * 64 * 64 + 2 * 32 * 64
ATTENTION_HESSIANS = 2 * 64**2
EXPERT = 3 * 64 * 96


def estimate(model: Path, **fields: object) -> Estimate:
    """Estimates GPTQ with 8 windows of 40 tokens."""
    spec = DatasetSpec.model_validate({"path": "documents.jsonl", "samples": 8, "seq_len": 40})
    step = QuantizeGptq.model_validate(
        {"uses": "quantize.gptq", "model": "m", "data": "d", "group_size": 32, **fields}
    )
    data = ResolvedInput("d", "dataset", "", Path("documents.jsonl"), dataset=spec)
    found = step.estimate({"model": ResolvedInput("m", "checkpoint", "", model), "data": data})
    assert found is not None
    return found


def test_a_token_costs_the_experts_that_it_goes_through(tmp_path: Path) -> None:
    found = estimate(make_small_model(tmp_path, "mixtral"))
    dense = 2 * ATTENTION + ATTENTION_HESSIANS
    # A token goes through two of four experts, and counts in their Hessians alone.
    expected = 2 * TOKENS * (dense + 2 * (2 * EXPERT + 64**2 + 96**2))
    assert found.flops == expected


def test_dense_blocks_of_a_mixture_count_as_such(tmp_path: Path) -> None:
    found = estimate(make_small_model(tmp_path, "qwen3_moe", mlp_only_layers=[1]))
    dense = 2 * ATTENTION + ATTENTION_HESSIANS
    expert = 2 * (3 * 64 * 32) + 64**2 + 32**2
    expected = TOKENS * (2 * dense + 2 * expert + 2 * EXPERT + 64**2 + 96**2)
    assert found.flops == expected


def test_a_dense_model_is_as_before(tmp_path: Path) -> None:
    found = estimate(make_small_model(tmp_path, "llama"))
    assert found.flops == 2 * TOKENS * (
        2 * (ATTENTION + EXPERT) + ATTENTION_HESSIANS + 64**2 + 96**2
    )


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_cost_memory_and_disk(tmp_path: Path, family: str) -> None:
    few = estimate(make_small_model(tmp_path / "few", family))
    many = estimate(make_small_model(tmp_path / "many", family, num_experts=32))
    weights = 28 * 3 * 64 * (96 if family == "mixtral" else 32)
    # The compute dtype and a byte for the integers of a block; on disk 4 bits and scales, twice.
    weight_bytes = 1 + (4 if is_widened("bfloat16") else 2)
    assert many.ram_bytes - few.ram_bytes == pytest.approx(weight_bytes * weights, rel=0.03)
    assert 2 * 2 * weights / 2 < many.disk_bytes - few.disk_bytes < 2 * 2 * weights


@pytest.mark.parametrize(
    "fields", [{"overrides": [{"layers": "*.dwon_proj", "skip": True}]}, {"lm_head": True}]
)
def test_what_does_not_fit_the_model_has_no_estimate(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    model = make_small_model(tmp_path)  # its embeddings are tied
    step = QuantizeGptq.model_validate(
        {"uses": "quantize.gptq", "model": "m", "data": "d", "group_size": 32, **fields}
    )
    assert step.estimate({"model": ResolvedInput("m", "checkpoint", "", model)}) is None


@pytest.mark.parametrize(("dtype", "stored_bytes"), [("bfloat16", 2), ("float16", 4)])
def test_what_does_not_fit_in_memory_is_on_disk_as_it_is_stored(
    tmp_path: Path, dtype: str, stored_bytes: int
) -> None:
    model = make_small_model(tmp_path, "llama", dtype=getattr(torch, dtype))
    nothing_fits = estimate(model, activation_memory_gb=1e-9)
    all_fits = estimate(model)
    # Hidden state and MLP activations; nothing else is kept at the same time.
    spilled = TOKENS * (64 + 96) * stored_bytes
    assert nothing_fits.disk_bytes - all_fits.disk_bytes == pytest.approx(spilled, abs=1)
    assert all_fits.ram_bytes - nothing_fits.ram_bytes == pytest.approx(spilled, abs=1)
