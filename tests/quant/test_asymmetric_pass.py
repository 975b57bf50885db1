"""Two residual streams: what each stage aims at, held against the original model's own inputs."""

from pathlib import Path

import pytest
import torch

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.resident_model import load_resident_model
from llmopt.quant.asymmetric import AsymmetricOptions, shift_targets
from tests.quant.layers import make_options
from tests.quant.pipeline import make_small_model, make_windows, quantize

pytestmark = pytest.mark.usefixtures("one_thread")

FULL = AsymmetricOptions(strength=1.0, damp_percent=0.01, max_damp_percent=0.5)
STAGES = ("q_proj", "o_proj", "gate_proj", "down_proj")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 blocks in float32, so that both streams can be followed exactly."""
    folder = tmp_path_factory.mktemp("asymmetric") / "model"
    return make_small_model(folder, dtype=torch.float32)


def record_inputs(folder: Path) -> list[torch.Tensor]:
    """Returns what each stage's layers read in a whole model of transformers, [N, I]."""
    loaded = load_resident_model(Checkpoint.open(folder), torch.device("cpu"), torch.float32)
    seen: list[torch.Tensor] = []
    for name, module in loaded.named_modules():
        if name.endswith(STAGES):
            module.register_forward_pre_hook(
                lambda _module, given: seen.append(given[0].flatten(0, 1))
            )
    with torch.inference_mode():
        loaded(torch.from_numpy(make_windows().ids_NT))
    return seen


def test_each_stage_aims_at_the_original_models_output(model: Path, tmp_path: Path) -> None:
    options = make_options(order="act_group_aware", scale_dtype=torch.float32)
    result = quantize(model, tmp_path, options=options, asymmetric=FULL)
    originals, quantized = record_inputs(model), record_inputs(result.folder)
    plain = dict(load_resident_model(
        Checkpoint.open(model), torch.device("cpu"), torch.float32
    ).named_parameters())  # fmt: skip
    assert len(result.solver.seen) == len(originals) == 8
    for stage, (W, H, _) in enumerate(result.solver.seen):
        X, changed = quantized[stage], originals[stage] - quantized[stage]
        assert torch.allclose(X.T @ X / len(X), H, atol=float(H.abs().max()) * 1e-4)
        layers = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
        name = f"model.layers.{stage // 4}.{layers[stage % 4]}.weight"
        aim = shift_targets(plain[name], H, changed.T @ X / len(X), FULL)
        assert torch.allclose(W[: len(aim)], aim, atol=2e-3 * float(aim.abs().max()))
        assert (stage == 0) == torch.equal(W[: len(aim)], plain[name])


def test_it_comes_nearer_to_the_original_than_plain_gptq(model: Path, tmp_path: Path) -> None:
    options = make_options(3, 32, order="act_group_aware", scale_dtype=torch.float32)
    ids = torch.from_numpy(make_windows().ids_NT)

    def logits(folder: Path) -> torch.Tensor:
        loaded = load_resident_model(Checkpoint.open(folder), torch.device("cpu"), torch.float32)
        with torch.inference_mode():
            found: torch.Tensor = loaded(ids).logits
        return found

    plain = quantize(model, tmp_path / "plain", options=options)
    shifted = quantize(model, tmp_path / "shifted", options=options, asymmetric=FULL)
    target = logits(model)
    errors = [float((logits(r.folder) - target).square().mean()) for r in (plain, shifted)]
    assert errors[1] < errors[0]


def test_no_strength_is_plain_gptq(model: Path, tmp_path: Path) -> None:
    none = quantize(model, tmp_path / "none", asymmetric=AsymmetricOptions(0.0, 0.01, 0.5))
    plain = quantize(model, tmp_path / "plain")
    for name in ("model.safetensors", "config.json"):
        assert (none.folder / name).read_bytes() == (plain.folder / name).read_bytes()
