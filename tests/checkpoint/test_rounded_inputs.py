"""Inputs are rounded token by token, as an independent reference does it in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.decoder_block import DecoderBlock
from llmopt.checkpoint.rounded_inputs import InputRounding, RoundedInputLinear, round_tokens
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.checkpoint.w8a8_format import W8A8Format
from llmopt.steps.quantize_int8 import QuantizeInt8
from tests.models import make_model
from tests.steps.stream_steps import run_step
from tests.vllm.reference import round_linear_inputs

KINDS: dict[W8A8Format, str] = {"int-quantized": "int", "float-quantized": "float"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("quant_format", KINDS)
def test_a_layer_computes_with_rounded_inputs(quant_format: W8A8Format) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(48, 24)
    layer = RoundedInputLinear(plain, InputRounding(quant_format))
    inputs = torch.randn(3, 5, 48) * torch.logspace(-3, 3, 5)[:, None]
    with torch.inference_mode():
        unrounded, found = plain(inputs), layer(inputs)
        round_linear_inputs(nn.Sequential(plain), KINDS[quant_format])
        expected = plain(inputs)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, unrounded, rtol=1e-4, atol=1e-4)
    assert layer.weight is plain.weight
    assert layer.bias is plain.bias


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_read_rounded_inputs_too(tmp_path: Path, family: str) -> None:
    """Two forwards, of scoring and of decoding, against plain linear layers that are rounded."""
    model = make_model(tmp_path / "model", family, num_hidden_layers=1, vocab_size=320)
    step = QuantizeInt8(uses="quantize.int8", model="base")
    folder, _ = run_step(step, model, tmp_path)
    streamed = StreamedModel(Checkpoint.open(folder), torch.device("cpu"), torch.float32)
    inputs = torch.randn(1, 6, 128)
    module: Any = streamed.load_block(0)
    block = DecoderBlock(streamed, 0, 6)
    assert block.experts is not None
    mixture = module.mlp
    with torch.inference_mode():
        decoded, scored = mixture(inputs), block.experts.forward(inputs)
        _, weights, chosen = mixture.gate(inputs[0])
        expected = torch.zeros(6, 128)
        for token in range(6):
            for weight, expert in zip(weights[token], chosen[token], strict=True):
                both, down = (
                    make_rounded(matrix[expert])
                    for matrix in (mixture.experts.gate_up_proj, mixture.experts.down_proj)
                )
                gate, up = both(inputs[0, token]).chunk(2)
                expected[token] += weight * down(nn.functional.silu(gate) * up)
    assert torch.allclose(decoded[0], expected, rtol=1e-4, atol=1e-4)
    assert torch.allclose(scored[0], expected, rtol=1e-4, atol=1e-4)


def make_rounded(weight: Tensor) -> nn.Linear:
    """A linear layer that the independent reference rounds."""
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    plain.weight = nn.Parameter(weight)
    round_linear_inputs(nn.Sequential(plain), "int")
    return plain


@pytest.mark.parametrize("quant_format", KINDS)
def test_tokens_do_not_know_of_each_other(quant_format: W8A8Format) -> None:
    values = torch.randn(4, 32)
    together = round_tokens(values, quant_format)
    alone = torch.stack([round_tokens(row, quant_format) for row in values])
    assert torch.equal(together, alone)
    assert together.dtype == values.dtype


@pytest.mark.parametrize("quant_format", KINDS)
def test_zeros_stay_zeros(quant_format: W8A8Format) -> None:
    assert torch.equal(round_tokens(torch.zeros(2, 8), quant_format), torch.zeros(2, 8))


@pytest.mark.parametrize("num_features", [48, 41])
@pytest.mark.parametrize("quant_format", KINDS)
def test_groups_of_features_have_scales_of_their_own(
    quant_format: W8A8Format, num_features: int
) -> None:
    values = torch.randn(3, 5, num_features) * torch.logspace(-3, 3, num_features)
    found = InputRounding(quant_format, group_size=16).round(values)
    parts = [round_tokens(part, quant_format) for part in values.split(16, dim=-1)]
    assert torch.equal(found, torch.cat(parts, dim=-1))
    assert not torch.equal(found, round_tokens(values, quant_format))


def test_a_stored_scale_holds_for_all_tokens_and_cuts_off_what_is_larger() -> None:
    rounding = InputRounding("int-quantized", scale=torch.tensor([0.5]))
    values = torch.tensor([[0.6, -0.3, 100.0], [-63.4, 0.0, -70.0]])
    assert rounding.round(values).tolist() == [[0.5, -0.5, 63.5], [-63.5, 0.0, -63.5]]
    rounding = InputRounding("float-quantized", scale=torch.tensor([0.5]))
    # Between 16 and 32 float8_e4m3 steps by 2: 17.2 / 0.5 = 34.4 lies between 32 and 36.
    assert rounding.round(torch.tensor([[17.2, 1000.0]])).tolist() == [[18.0, 224.0]]
