"""Blocks of experts in this process: small models of both families, real files, no mocks."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from llmopt.artifacts.progress import SilentProgress
from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.checkpoint.tensor_files import read_tensor
from llmopt.data.calibration_windows import CalibrationWindows
from llmopt.errors import InputError
from llmopt.quant.expert_policy import ExpertPolicy, StarvedPolicy, describe_starved
from llmopt.quant.journal import Journal
from llmopt.quant.quantize_checkpoint import QuantizeJob, quantize_blocks
from llmopt.quant.rounding import solve_rtn
from llmopt.steps.layer_overrides import LayerOverride, build_plan
from tests.checkpoint.numpy_dequantizer import Layer, dequantize_folder, read_folder
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

FAMILIES = ("mixtral", "qwen3_moe")
NAMES = {
    "mixtral": ("block_sparse_moe.experts.{}.", ("w1", "w3", "w2")),
    "qwen3_moe": ("mlp.experts.{}.", ("gate_proj", "up_proj", "down_proj")),
}
FLOAT32 = {"dtype": torch.float32}
EXACT = make_options(scale_dtype=torch.float32)  # so that the reference below has no noise


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """The model's family."""
    return str(request.param)


@pytest.fixture(scope="module")
def model(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mixture of 2 blocks, hidden 64, 4 experts, float32; do not write into it."""
    return make_small_model(tmp_path_factory.mktemp("experts") / "model", family, **FLOAT32)


@pytest.fixture(scope="module")
def result(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """That model in 4 bits; do not write into it."""
    return quantize(model, tmp_path_factory.mktemp("quantized"), options=EXACT)


def expert_layers(family: str, block: int, expert: int) -> list[str]:
    """Returns the full names of an expert's gate, up and down."""
    prefix, layers = NAMES[family]
    return [f"model.layers.{block}.{prefix.format(expert)}{layer}" for layer in layers]


@dataclass(frozen=True)
class Reference:
    """What transformers computes in the first block, whose layers are rounded up to the MLP.

    `inputs` are the mixture's, [N, D]; `chosen` the experts of each token, sorted by name alone.
    """

    inputs: Tensor
    chosen: list[set[int]]

    def inputs_of(self, expert: int) -> Tensor:
        """Returns the rows that go through an expert."""
        return self.inputs[[expert in chosen for chosen in self.chosen]]


def load_rounded(model: Path, layers: dict[str, Layer], family: str, num_blocks: int) -> Any:
    """Loads the original into transformers, with the rounded weights of the first blocks."""
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    for name, layer in layers.items():
        if int(name.split(".")[2]) >= num_blocks:
            continue
        weights = torch.from_numpy(layer.weights)
        if ".experts." not in name:
            reference.get_submodule(name).weight.data.copy_(weights)
            continue
        expert, kind = int(name.split(".")[-2]), NAMES[family][1].index(name.rpartition(".")[2])
        fused = reference.model.layers[int(name.split(".")[2])].mlp.experts
        if kind == 2:
            fused.down_proj.data[expert] = weights
        else:
            size = len(weights)
            fused.gate_up_proj.data[expert, kind * size : (kind + 1) * size] = weights
    return reference


def watch_inputs(reference: Any, ids_NT: Tensor, module: str) -> Tensor:
    """Returns what a module reads when the model runs, [N, D]."""
    seen: list[Tensor] = []
    hook = reference.get_submodule(module).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].flatten(0, -2))
    )
    with torch.inference_mode():
        reference(ids_NT)
    hook.remove()
    return seen[0]


def run_reference(model: Path, result: Quantized, family: str) -> Reference:
    """Runs transformers on the calibration windows, and routes by hand."""
    rounded = dequantize_folder(result.folder)
    attention = {name: layer for name, layer in rounded.items() if ".self_attn." in name}
    reference = load_rounded(model, attention, family, 1)
    inputs = watch_inputs(reference, torch.from_numpy(make_windows().ids_NT), "model.layers.0.mlp")
    router = read_folder(model)[f"model.layers.0.{NAMES[family][0].partition('.')[0]}.gate.weight"]
    logits = inputs.double().numpy() @ router.to_numpy().astype(np.float64).T
    chosen = [set(row.argsort()[-2:].tolist()) for row in logits]
    return Reference(inputs, chosen)


def mean_square(X_ND: Tensor) -> Tensor:
    """Returns the Hessian, X^T X over tokens."""
    return X_ND.T @ X_ND / len(X_ND)


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
    windows = make_windows(samples=210)  # three batches
    if padded:
        windows = CalibrationWindows(windows.ids_NT, np.arange(210) % 39 + 2)
    in_memory = quantize(model, tmp_path / "memory", windows=windows)
    on_disk = quantize(model, tmp_path / "disk", windows=windows, budget_bytes=0)
    assert len(list((tmp_path / "disk/scratch/activations").iterdir())) == 3
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


def make_policy(starved: StarvedPolicy, min_tokens: int | None) -> ExpertPolicy:
    """Returns a policy for models in float32."""
    return ExpertPolicy(min_tokens, starved, torch.float32)


def find_starved(result: Quantized, min_tokens: int) -> tuple[set[int], set[int]]:
    """Returns the experts of the first block below and above so many tokens."""
    counts = {
        int(error.layer.split(".")[-2]): error.num_tokens
        for error in result.journal.errors
        if ".layers.0." in error.layer and ".experts." in error.layer
    }
    starved = {expert for expert, count in counts.items() if count < min_tokens}
    return starved, counts.keys() - starved


def test_starved_experts_are_rounded_to_nearest(
    model: Path, tmp_path: Path, family: str, result: Quantized
) -> None:
    limit = 165
    starved, others = find_starved(result, limit)
    assert starved
    assert others
    progress = InterruptingProgress()
    policy = make_policy("rtn", limit)
    found = quantize(model, tmp_path, options=EXACT, experts=policy, progress=progress)
    layers, before = dequantize_folder(found.folder), dequantize_folder(result.folder)
    original = read_folder(model)
    for expert in range(4):
        for name in expert_layers(family, 0, expert):
            W = torch.from_numpy(original[f"{name}.weight"].to_numpy().copy())
            nearest = solve_rtn(W, None, QuantScheme(4, 32), torch.float32).weight.q_IO.T.numpy()
            assert np.array_equal(layers[name].integers, nearest) == (expert in starved), name
            if expert in others:
                assert np.array_equal(layers[name].integers, before[name].integers)
    errors = {error.layer: error for error in found.journal.errors}
    for expert in range(4):
        error = errors[expert_layers(family, 0, expert)[0]]
        assert error.starved == ("rtn" if expert in starved else None)
        assert error.snr_db > 5
    name = expert_layers(family, 0, min(starved))[0]
    assert describe_starved(found.journal.errors, policy)[0] == (
        f"{name}: {errors[name].num_tokens} calibration tokens were routed to it, fewer than 165 "
        "(experts.min_tokens); rounded to nearest"
    )
    place = name.rpartition(".")[0].rpartition(".")[0]
    assert progress.notes[0].startswith(
        f"{place}: layers that see fewer calibration tokens than 165 are rounded to nearest: of "
        f"experts {min(starved)} ({errors[name].num_tokens})"
    )


def test_starved_experts_are_calibrated_on_all_tokens(
    model: Path, tmp_path: Path, family: str, result: Quantized
) -> None:
    limit = 165
    starved, _ = find_starved(result, limit)
    policy = make_policy("all_tokens", limit)
    found = quantize(model, tmp_path, options=EXACT, experts=policy)
    inputs = run_reference(model, result, family).inputs
    layers = dequantize_folder(found.folder)
    for expert in range(4):
        (_, gate_up, _), (_, down, _) = found.solver.seen[2 + 2 * expert : 4 + 2 * expert]
        is_common = torch.allclose(gate_up, mean_square(inputs), rtol=1e-4, atol=1e-5)
        assert is_common == (expert in starved)
        gate, up, _ = (
            torch.from_numpy(layers[name].weights) for name in expert_layers(family, 0, expert)
        )
        inner = torch.nn.functional.silu(inputs @ gate.T) * (inputs @ up.T)
        is_common = torch.allclose(down, mean_square(inner), rtol=1e-4, atol=1e-5)
        assert is_common == (expert in starved)
    lines = describe_starved(found.journal.errors, policy)
    assert all(line.endswith("calibrated on all tokens of the block") for line in lines)
    assert sum(".layers.0." in line for line in lines) == 3 * len(starved)


def test_by_default_each_layer_wants_as_many_tokens_as_input_features(tmp_path: Path) -> None:
    # 420 routed tokens for 4 experts: gate and up read 64 features, down 96.
    source = make_small_model(tmp_path / "model", "mixtral", **FLOAT32)
    policy, windows = make_policy("rtn", None), make_windows(7, 30)
    result = quantize(source, tmp_path, options=EXACT, experts=policy, windows=windows)
    fates = set()
    for error in result.journal.errors:
        if error.num_tokens is not None:
            limit = 96 if error.layer.endswith("w2") else 64
            assert (error.starved == "rtn") == (error.num_tokens < limit)
            fates.add((limit, error.starved))
    assert len(fates) == 4
    line = describe_starved(result.journal.errors, policy)[0]
    assert "fewer than its input features (experts.min_tokens)" in line


def test_starved_experts_end_the_run_where_that_is_asked_for(model: Path, tmp_path: Path) -> None:
    pattern = (
        r"model\.layers\.0\.\w+\.experts: fewer calibration tokens than 200 "
        r"\(experts\.min_tokens\) were routed to experts \d \(\d+\)"
    )
    with pytest.raises(InputError, match=pattern) as caught:
        quantize(model, tmp_path, options=EXACT, experts=make_policy("fail", 200))
    assert "set experts.starved to rtn or all_tokens" in str(caught.value.remedy)
    enough = make_policy("fail", 1)
    assert quantize(model, tmp_path / "enough", options=EXACT, experts=enough).journal.num_done == 2


@pytest.mark.parametrize("starved", ["rtn", "all_tokens"])
@pytest.mark.parametrize("order", ["natural", "desc_act"])
def test_experts_that_saw_no_token(tmp_path: Path, starved: StarvedPolicy, order: str) -> None:
    source = make_small_model(
        tmp_path / "model", "mixtral", num_experts=9, num_experts_per_tok=1, **FLOAT32
    )
    options = make_options(order=order, scale_dtype=torch.float32)
    policy, windows = make_policy(starved, 1), make_windows(1, 6)
    result = quantize(source, tmp_path, options=options, experts=policy, windows=windows)
    unseen = [error for error in result.journal.errors if error.num_tokens == 0]
    assert len(unseen) >= 3 * 2 * 3
    for error in unseen:
        assert error.starved == starved
        assert (error.loss is None) == (starved == "rtn")
    assert Checkpoint.open(result.folder).quantization.base.scheme == options.scheme
    original, layers = read_folder(source), dequantize_folder(result.folder)
    for error in unseen:
        W = original[f"{error.layer}.weight"].to_numpy()
        assert np.mean((layers[error.layer].weights - W) ** 2) < 0.02 * np.mean(W**2)


def test_experts_that_are_left_as_they_are_do_not_starve(model: Path, tmp_path: Path) -> None:
    plan = build_plan(
        Checkpoint.open(model).config,
        EXACT.scheme,
        [LayerOverride(layers="*.experts.*", skip=True)],
    )
    policy = make_policy("fail", 10_000)
    result = quantize(model, tmp_path, options=EXACT, plan=plan, experts=policy)
    assert len(result.journal.errors) == 8


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
