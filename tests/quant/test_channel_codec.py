"""8-bit weights against a literal oracle in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from llmopt.checkpoint.safetensors_header import read_header
from llmopt.checkpoint.tensor_files import write_tensors
from llmopt.checkpoint.w8a8_format import W8A8Format
from llmopt.errors import InputError
from llmopt.quant import channel_codec
from llmopt.quant.channel_codec import ChannelCodec, round_channels

CPU = torch.device("cpu")
NAME = "model.layers.0.mlp.up_proj.weight"
FORMATS: tuple[W8A8Format, ...] = ("int-quantized", "float-quantized")

pytestmark = pytest.mark.usefixtures("one_thread")


def make_weight(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(3)
    weight = torch.randn(rows, columns) * torch.logspace(-6, 2, rows)[:, None]
    weight[rows // 2] = 0
    return weight.to(dtype)


def list_float8_values() -> np.ndarray:
    """Every finite float8 e4m3fn: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity."""
    positive = [m / 8 * 2.0**-6 for m in range(8)]
    positive += [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)][:-1]
    return np.array(sorted({*positive, *(-value for value in positive)}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("quant_format", FORMATS)
def test_every_weight_goes_to_its_nearest_value(
    quant_format: W8A8Format, dtype: torch.dtype
) -> None:
    weight = make_weight(24, 64, dtype)
    stored, scales = round_channels(weight.float(), quant_format, dtype)
    assert scales.dtype == dtype
    grid = np.arange(-127, 128.0) if quant_format == "int-quantized" else list_float8_values()
    exact, scale = weight.double().numpy(), scales.double().numpy()
    values = stored.double().numpy() * scale
    nearest = np.abs(exact[:, :, None] - (grid * scale[:, :, None])).min(-1)
    # The quotient is rounded to float32 before it is rounded to the grid.
    assert np.all(np.abs(values - exact) <= nearest + 1e-6 * np.abs(exact))


@pytest.mark.parametrize("quant_format", FORMATS)
def test_the_grid_is_used_to_its_end(quant_format: W8A8Format) -> None:
    weight = make_weight(24, 64, torch.float32)
    stored, scales = round_channels(weight, quant_format, torch.float32)
    largest = 127 if quant_format == "int-quantized" else 448
    top = stored.float().abs().amax(1)
    assert top[12] == 0
    assert scales[12] == 1
    assert torch.all(top[torch.arange(24) != 12] == largest)


@pytest.mark.parametrize("quant_format", FORMATS)
def test_weights_below_every_scale_become_zero_not_nan(quant_format: W8A8Format) -> None:
    weight = torch.full((2, 8), 1e-30)
    stored, scales = round_channels(weight, quant_format, torch.float16)
    assert torch.all(scales > 0)
    assert torch.all(stored.float() == 0)


@pytest.mark.parametrize("quant_format", FORMATS)
@pytest.mark.parametrize("shape", [(7, 33), (64, 96), (1, 5000)])
def test_slices_give_the_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quant_format: W8A8Format,
    shape: tuple[int, int],
) -> None:
    monkeypatch.setattr(channel_codec, "SLICE_ELEMENTS", 1000)
    weight = make_weight(*shape, torch.bfloat16)
    write_tensors(tmp_path / "w.safetensors", {NAME: weight})
    entry = read_header(tmp_path / "w.safetensors")[NAME]
    codec = ChannelCodec(quant_format, torch.bfloat16, CPU)
    encoded = codec.encode(NAME, entry)
    stored, scales = round_channels(weight.float(), quant_format, torch.bfloat16)
    assert torch.equal(encoded.tensors["weight"].float(), stored.float())
    assert torch.equal(encoded.tensors["weight_scale"], scales)
    error = stored.float() * scales.float() - weight.float()
    assert encoded.weight_mse == pytest.approx(float(error.square().mean()), rel=1e-5)
    planned = {key: plan.shape for key, plan in codec.plan(shape).items()}
    assert planned == {key: tuple(tensor.shape) for key, tensor in encoded.tensors.items()}


def test_what_is_not_finite_is_named(tmp_path: Path) -> None:
    weight = make_weight(8, 8, torch.float32)
    weight[3, 3] = torch.nan
    write_tensors(tmp_path / "w.safetensors", {NAME: weight})
    entry = read_header(tmp_path / "w.safetensors")[NAME]
    with pytest.raises(InputError, match=f"tensor {NAME} holds NaN or infinity"):
        ChannelCodec("int-quantized", torch.float32, CPU).encode(NAME, entry)
