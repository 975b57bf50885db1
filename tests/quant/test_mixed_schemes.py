"""Overrides, a rounded lm_head and budgets, read back from the bytes that were written."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint import Checkpoint, linear_names
from llmopt.checkpoint.packed_size import bits_per_weight
from llmopt.checkpoint.quant_plan import QuantPlan
from llmopt.checkpoint.resident_model import load_resident_model
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.checkpoint.verification import verify_checkpoint
from llmopt.quant.asymmetric import AsymmetricOptions
from llmopt.quant.sensitivity import Budget
from llmopt.steps.layer_overrides import LayerOverride, build_plan
from tests.checkpoint.numpy_dequantizer import dequantize_folder, read_folder
from tests.quant.layers import make_options
from tests.quant.pipeline import Quantized, make_small_model, make_windows, quantize
from tests.quant.test_quantize_checkpoint import (
    InterruptedRunError,
    InterruptingProgress,
    read_files,
)
from tests.quant.textbook_gptq import TextbookScheme, output_error, textbook_gptq

pytestmark = pytest.mark.usefixtures("one_thread")

BASE = QuantScheme(4, 32)
OVERRIDES = (
    LayerOverride(layers="*.layers.0.mlp.down_proj", bits=8),
    LayerOverride(layers=r"re:.*\.1\.self_attn\.[qkv]_proj", bits=3, group_size=-1),
    LayerOverride(layers="*.layers.1.mlp.[gu]*_proj", skip=True),
    LayerOverride(layers="*.o_proj", sym=False, bits=2),
)
FORMATS: list[QuantFormat] = ["gptq", "compressed-tensors"]


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 blocks whose lm_head is its own; do not write into it."""
    folder = tmp_path_factory.mktemp("mixed") / "model"
    return make_small_model(folder, intermediate_size=128, tie_word_embeddings=False)


def assert_written_as_planned(model: Path, result: Quantized, plan: QuantPlan) -> None:
    """Every layer has exactly the integers of its scheme; what is skipped has its old bytes."""
    before, after = read_folder(model), read_folder(result.folder)
    layers = dequantize_folder(result.folder)
    assert set(layers) == {name for name, _ in plan.rounded()}
    for name, scheme in plan.schemes.items():
        if scheme is None:
            assert after[f"{name}.weight"] == before[f"{name}.weight"]
            continue
        assert f"{name}.weight" not in after
        assert layers[name].integers.max() <= scheme.max_q
        # Each group's largest weight sits at an end of its grid.
        assert layers[name].integers.max() - layers[name].integers.min() >= scheme.max_q - 1


@pytest.mark.parametrize("quant_format", FORMATS)
def test_overrides_are_honoured_exactly(
    untied: Path, tmp_path: Path, quant_format: QuantFormat
) -> None:
    plan = build_plan(Checkpoint.open(untied).config, BASE, OVERRIDES)
    result = quantize(untied, tmp_path, plan=plan, quant_format=quant_format)
    assert_written_as_planned(untied, result, plan)
    reopened = Checkpoint.open(result.folder)
    assert reopened.quantization is not None
    for name, scheme in plan.schemes.items():
        stored = reopened.quantization.find_layer(name)
        assert (None if stored is None else stored.scheme) == scheme
    assert verify_checkpoint(result.folder).faults == []
    assert [error.bits for error in result.journal.errors] == [s.bits for _, s in plan.rounded()]


@pytest.mark.parametrize("quant_format", FORMATS)
def test_every_layer_of_a_mix_is_as_good_as_the_textbook(
    untied: Path, tmp_path: Path, quant_format: QuantFormat
) -> None:
    plan = build_plan(Checkpoint.open(untied).config, BASE, OVERRIDES)
    result = quantize(untied, tmp_path, plan=plan, quant_format=quant_format)
    schemes = list(dict.fromkeys(scheme for _, scheme in plan.rounded()))
    assert {solution.weight.scheme for _, _, solution in result.solver.seen} == set(schemes)
    for W, H, solution in result.solver.seen:
        scheme = solution.weight.scheme
        size = W.shape[1] if scheme.group_size == -1 else scheme.group_size
        weights, hessian = W.double().numpy(), H.double().numpy()
        literal = TextbookScheme(scheme.bits, size, sym=scheme.sym, order="act_group_aware")
        textbook = textbook_gptq(weights, hessian, literal)
        loss = output_error(weights, solution.weight.dequantize(torch.float64).numpy(), hessian)
        expected = output_error(weights, textbook.dequantize(), hessian)
        assert loss == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("quant_format", FORMATS)
def test_lm_head_is_rounded_on_the_end_of_the_stream(
    untied: Path, tmp_path: Path, quant_format: QuantFormat
) -> None:
    checkpoint = Checkpoint.open(untied)
    plan = build_plan(checkpoint.config, BASE, lm_head=True)
    windows = make_windows()
    result = quantize(untied, tmp_path, plan=plan, quant_format=quant_format, windows=windows)
    assert_written_as_planned(untied, result, plan)
    assert result.journal.errors[-1].layer == "lm_head"
    W, H, _ = result.solver.seen[-1]
    assert W.shape == checkpoint.config.embedding_shape
    # The rounded model's own final hidden states, by transformers, give the same Hessian.
    rounded = load_resident_model(Checkpoint.open(result.folder), torch.device("cpu"), W.dtype)
    with torch.inference_mode():
        X = rounded.model(torch.from_numpy(windows.ids_NT)).last_hidden_state.flatten(0, 1).float()
    assert torch.allclose(X.T @ X / len(X), H, atol=float(H.abs().max()) * 0.02)


@pytest.mark.parametrize("quant_format", FORMATS)
@pytest.mark.parametrize("lm_head", [False, True])
def test_planned_size_is_the_size_on_the_disk(
    untied: Path, tmp_path: Path, quant_format: QuantFormat, lm_head: bool
) -> None:
    checkpoint = Checkpoint.open(untied)
    plan = build_plan(checkpoint.config, BASE, OVERRIDES, lm_head=lm_head)
    result = quantize(untied, tmp_path, plan=plan, quant_format=quant_format)
    shapes = {**dict(linear_names(checkpoint.config)), "lm_head": checkpoint.config.embedding_shape}
    written = sum(
        len(tensor.data)
        for name, tensor in read_folder(result.folder).items()
        if name.rpartition(".")[0] in plan.schemes
    )
    weights = sum(math.prod(shapes[name]) for name in plan.schemes)
    planned = bits_per_weight(checkpoint.config, plan, quant_format, checkpoint.dtype)
    assert planned == 8 * written / weights


def test_layers_of_one_stage_may_differ(untied: Path, tmp_path: Path) -> None:
    """Not for a server that fuses them, but as a scheme of its own for each."""
    overrides = [LayerOverride(layers="*.k_proj", bits=8)]
    plan = build_plan(Checkpoint.open(untied).config, BASE, overrides)
    result = quantize(untied, tmp_path, plan=plan)
    assert_written_as_planned(untied, result, plan)
    alone = quantize(
        untied, tmp_path / "alone", options=make_options(8, 32, order="act_group_aware")
    )
    name = "model.layers.0.self_attn.k_proj"
    mixed = dequantize_folder(result.folder)[name]
    # The first stage sees the same input, so k alone has the very integers of an 8-bit model.
    assert (mixed.integers == dequantize_folder(alone.folder)[name].integers).all()
    assert plan.schemes[name] == replace(BASE, bits=8)


RESUMED = [
    *(("overrides and lm_head", advances) for advances in (1, 2, 3)),
    *(("asymmetric", advances) for advances in (1, 2, 3)),
    *(("budget", advances) for advances in (1, 2, 3, 4)),  # two blocks of measuring come first
]


@pytest.mark.parametrize(("kind", "advances"), RESUMED)
def test_a_killed_mix_resumes_to_the_same_bytes(
    untied: Path, tmp_path: Path, kind: str, advances: int
) -> None:
    config = Checkpoint.open(untied).config
    settings: dict[str, Any] = {"plan": build_plan(config, BASE, OVERRIDES, lm_head=True)}
    if kind == "asymmetric":
        settings["asymmetric"] = AsymmetricOptions(1.0, 0.01, 0.5)
    elif kind == "budget":
        plan = build_plan(config, BASE)
        settings = {"plan": plan, "budget": Budget(5.6, (3, 4, 8), frozenset(plan.schemes))}
    whole = quantize(untied, tmp_path / "whole", **settings)
    with pytest.raises(InterruptedRunError):
        quantize(untied, tmp_path / "cut", progress=InterruptingProgress(advances), **settings)
    resumed = quantize(untied, tmp_path / "cut", **settings)
    assert read_files(resumed.folder) == read_files(whole.folder)
    assert resumed.journal.errors == whole.journal.errors
