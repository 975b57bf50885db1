"""Blocks of experts in this process: small models of both families, real files, no mocks."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmopt.artifacts.progress import SilentProgress
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.checkpoint.tensor_files import read_tensor
from llmopt.data.calibration_windows import CalibrationWindows
from llmopt.quant.expert_policy import describe_starved
from llmopt.quant.journal import Journal
from llmopt.quant.quantize_checkpoint import QuantizeJob, quantize_blocks
from llmopt.quant.rounding import solve_rtn
from llmopt.steps.layer_overrides import LayerOverride, build_plan
from tests.checkpoint.numpy_dequantizer import dequantize_folder, read_folder
from tests.quant.expert_models import (
    EXACT,
    FLOAT32,
    NAMES,
    expert_layers,
    load_rounded,
    make_policy,
    mean_square,
    run_reference,
    watch_inputs,
)
from tests.quant.layers import make_options
from tests.quant.pipeline import Quantized, make_small_model, make_windows, quantize
from tests.quant.test_quantize_checkpoint import (
    InterruptedRunError,
    InterruptingProgress,
    assert_better_than_nearest,
    assert_kept_bytes,
    read_files,
)
from tests.quant.textbook_gptq import TextbookScheme, output_error, textbook_gptq

pytestmark = pytest.mark.usefixtures("one_thread")


def test_each_experts_hessians_are_of_the_tokens_that_transformers_sends_it(
    model: Path, result: Quantized, family: str
) -> None:
    reference = run_reference(model, result, family)
    rounded = dequantize_folder(result.folder)
    stages = iter(result.solver.seen[2:])
    for expert in range(4):
        X_nD = reference.inputs_of(expert)
        _, gate_up, _ = next(stages)
        torch.testing.assert_close(gate_up, mean_square(X_nD), rtol=1e-4, atol=1e-5)
        gate, up, _ = (
            torch.from_numpy(rounded[name].weights) for name in expert_layers(family, 0, expert)
        )
        inner_nF = torch.nn.functional.silu(X_nD @ gate.T) * (X_nD @ up.T)
        _, down, _ = next(stages)
        torch.testing.assert_close(down, mean_square(inner_nF), rtol=1e-4, atol=1e-5)
    counts = [sum(e in chosen for chosen in reference.chosen) for e in range(4)]
    assert len(set(counts)) > 1
    for error in result.journal.errors[:16]:
        expert = int(error.layer.split(".")[-2]) if ".experts." in error.layer else None
        assert error.num_tokens == (None if expert is None else counts[expert])
        assert error.starved is None


def test_data_goes_on_through_the_rounded_experts(
    model: Path, result: Quantized, family: str
) -> None:
    reference = load_rounded(model, dequantize_folder(result.folder), family, 1)
    ids_NT = torch.from_numpy(make_windows().ids_NT)
    inputs = watch_inputs(reference, ids_NT, "model.layers.1.self_attn.q_proj")
    second_block = len(result.solver.seen) // 2
    found = result.solver.seen[second_block][1]
    torch.testing.assert_close(found, mean_square(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["natural", "desc_act", "act_group_aware"])
def test_every_stage_is_as_good_as_the_textbook(model: Path, tmp_path: Path, order: str) -> None:
    options = make_options(order=order, scale_dtype=torch.float32)
    result = quantize(model, tmp_path, options=options)
    assert len(result.solver.seen) == 2 * (2 + 2 * 4)
    for W, H, solution in result.solver.seen:
        weights, hessian = W.double().numpy(), H.double().numpy()
        scheme = TextbookScheme(4, 32, sym=True, order=order, scale_dtype="float32")
        textbook = textbook_gptq(weights, hessian, scheme)
        loss = output_error(weights, solution.weight.dequantize(torch.float64).numpy(), hessian)
        assert loss == pytest.approx(
            output_error(weights, textbook.dequantize(), hessian), rel=0.03
        )
    assert_better_than_nearest(result)


def test_ledger_and_files_name_layers_as_the_original_does(
    model: Path, result: Quantized, family: str
) -> None:
    names = [error.layer for error in result.journal.errors]
    assert names[4:16] == [name for e in range(4) for name in expert_layers(family, 0, e)]
    assert set(dequantize_folder(result.folder)) == set(names)
    assert len(names) == 2 * (4 + 4 * 3)
    assert_kept_bytes(model, result.folder)
    original = {name: tensor.to_numpy() for name, tensor in read_folder(model).items()}
    for error in result.journal.errors:
        weights = dequantize_folder(result.folder)[error.layer].weights
        difference = original[f"{error.layer}.weight"] - weights
        assert error.weight_mse == pytest.approx(float(np.mean(difference**2)), rel=1e-3)


@pytest.mark.parametrize("quant_format", ["gptq", "compressed-tensors"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [{}, {"mlp_only_layers": [0]}], ids=["all", "one dense"])
def test_quantises_the_checkpoints_own_dtype(
    tmp_path: Path, config: dict[str, Any], dtype: torch.dtype, quant_format: QuantFormat
) -> None:
    source = make_small_model(tmp_path / "model", "qwen3_moe", dtype=dtype, **config)
    result = quantize(source, tmp_path, quant_format=quant_format)
    assert len(result.solver.seen) == 2 * 10 - 6 * len(config)
    assert_better_than_nearest(result)
    reopened = Checkpoint.open(result.folder)
    assert reopened.quantization is not None
    dense = "model.layers.0.mlp.up_proj" in dequantize_folder(result.folder)
    assert dense == bool(config)


def test_overrides_reach_single_experts(model: Path, tmp_path: Path, family: str) -> None:
    prefix, (*_, down) = NAMES[family]
    overrides = [
        LayerOverride(layers="*.experts.3.*", skip=True),
        LayerOverride(layers=f"model.layers.1.{prefix.format('*')}{down}", bits=8),
    ]
    plan = build_plan(Checkpoint.open(model).config, EXACT.scheme, overrides)
    for quant_format in ("gptq", "compressed-tensors"):
        folder = tmp_path / quant_format
        result = quantize(model, folder, options=EXACT, plan=plan, quant_format=quant_format)
        reopened = Checkpoint.open(result.folder)
        for name, scheme in plan.schemes.items():
            stored = reopened.quantization.find_layer(name)
            assert (None if stored is None else stored.scheme) == scheme
        layers = dequantize_folder(result.folder)
        assert not any(".experts.3." in name for name in layers)
        eight = [name for name, layer in layers.items() if layer.integers.max() > 15]
        assert eight == [f"model.layers.1.{prefix.format(e)}{down}" for e in range(3)]


@pytest.mark.parametrize("padded", [False, True])
def test_activations_on_disk_change_nothing(model: Path, tmp_path: Path, padded: bool) -> None:
    windows = make_windows(samples=110)  # three batches
    if padded:
        windows = CalibrationWindows(windows.ids_NT, np.arange(110) % 39 + 2)
    in_memory = quantize(model, tmp_path / "memory", windows=windows)
    on_disk = quantize(model, tmp_path / "disk", windows=windows, budget_bytes=0)
    assert len(list((tmp_path / "disk/scratch/activations/0").iterdir())) == 3
    assert read_files(in_memory.folder) == read_files(on_disk.folder)
    assert in_memory.journal.errors == on_disk.journal.errors


def test_what_stands_in_the_padding_changes_nothing(model: Path, tmp_path: Path) -> None:
    windows = make_windows(samples=20)
    lengths = np.arange(20) % 30 + 5
    other = windows.ids_NT.copy()
    for row, length in enumerate(lengths):
        other[row, length:] = (other[row, length:] + 7) % 320
    one, two = (
        quantize(model, tmp_path / name, windows=CalibrationWindows(ids, lengths))
        for name, ids in (("a", windows.ids_NT), ("b", other))
    )
    # Which tokens share an expert's matrix product decides its last bits, so not byte for byte.
    first, second = (dequantize_folder(result.folder) for result in (one, two))
    same = np.mean([np.mean(first[name].integers == second[name].integers) for name in first])
    assert same > 0.999
    for a, b in zip(one.journal.errors, two.journal.errors, strict=True):
        assert a.num_tokens == b.num_tokens
        assert a.loss == pytest.approx(b.loss, rel=1e-2)
    gates = [error for error in one.journal.errors if error.layer.endswith(("w1", "gate_proj"))]
    assert sum(error.num_tokens for error in gates) == 2 * 2 * lengths.sum()  # blocks × experts


@pytest.mark.parametrize(
    ("progress", "done"),
    [
        (InterruptingProgress(details=10), 0),
        (InterruptingProgress(advances=1), 1),
        (InterruptingProgress(details=16 + 9), 1),
        (InterruptingProgress(advances=2), 2),
    ],
    ids=["in an expert", "after block 0", "in an expert of block 1", "after block 1"],
)
@pytest.mark.parametrize("budget_bytes", [0, 1_000_000_000])
def test_interrupted_run_goes_on_to_the_same_bytes(
    model: Path, tmp_path: Path, progress: InterruptingProgress, done: int, budget_bytes: int
) -> None:
    policy = make_policy("all_tokens", 150)
    whole = quantize(model, tmp_path / "whole", experts=policy)
    cut: dict[str, Any] = {"budget_bytes": budget_bytes, "experts": policy}
    again = InterruptingProgress(progress.details, progress.advances)
    with pytest.raises(InterruptedRunError):
        quantize(model, tmp_path / "cut", progress=again, **cut)
    again = InterruptingProgress()
    resumed = quantize(model, tmp_path / "cut", progress=again, **cut)
    assert again.started == ("quantising blocks", 2, done)
    assert read_files(resumed.folder) == read_files(whole.folder)
    assert resumed.journal.errors == whole.journal.errors
    assert describe_starved(resumed.journal.errors, policy)


def round_to_nearest(source: Path, scratch: Path, windows: CalibrationWindows | None) -> Journal:
    """Rounds as `quantize.rtn` does: data, if any, only measures."""
    checkpoint = Checkpoint.open(source)
    return quantize_blocks(
        QuantizeJob(
            checkpoint=checkpoint,
            plan=build_plan(checkpoint.config, EXACT.scheme),
            solve=partial(solve_rtn, scale_dtype=torch.float32),
            format="gptq",
            windows=windows,
            scratch=scratch,
            device=torch.device("cpu"),
            processor="here",
            activation_budget_bytes=0,
            progress=SilentProgress(),
        )
    )


def test_nearest_needs_no_tokens(tmp_path: Path) -> None:
    shape = {"num_experts": 9, "num_experts_per_tok": 1, **FLOAT32}
    source = make_small_model(tmp_path / "model", "mixtral", **shape)
    blind = round_to_nearest(source, tmp_path / "blind", None)
    measured = round_to_nearest(source, tmp_path / "measured", make_windows(1, 6))
    assert len(blind.packed_tensors()) == 4 * 2 * (4 + 9 * 3)
    for name, entry in blind.packed_tensors().items():
        assert torch.equal(read_tensor(entry), read_tensor(measured.packed_tensors()[name])), name
    assert {error.loss for error in blind.errors} == {None}
    for error in measured.errors:
        assert (error.loss is None) == (error.num_tokens == 0)
        assert error.starved is None
    assert any(error.num_tokens == 0 for error in measured.errors)
