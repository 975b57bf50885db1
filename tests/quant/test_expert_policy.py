"""What becomes of experts that too few calibration tokens were routed to."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.errors import InputError
from llmopt.quant.expert_policy import StarvedPolicy, describe_starved
from llmopt.quant.rounding import solve_rtn
from llmopt.steps.layer_overrides import LayerOverride, build_plan
from tests.checkpoint.numpy_dequantizer import dequantize_folder, read_folder
from tests.quant.expert_models import (
    EXACT,
    FLOAT32,
    expert_layers,
    make_policy,
    mean_square,
    run_reference,
)
from tests.quant.layers import make_options
from tests.quant.pipeline import Quantized, make_small_model, make_windows, quantize
from tests.quant.test_quantize_checkpoint import (
    InterruptingProgress,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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
