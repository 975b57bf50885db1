"""Inputs are rounded token by token, as an independent reference does it in float64."""

import pytest
import torch
from torch import nn

from llmopt.checkpoint.rounded_inputs import RoundedInputLinear, round_tokens
from llmopt.checkpoint.w8a8_format import W8A8Format
from tests.vllm.reference import round_linear_inputs

KINDS: dict[W8A8Format, str] = {"int-quantized": "int", "float-quantized": "float"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("quant_format", KINDS)
def test_a_layer_computes_with_rounded_inputs(quant_format: W8A8Format) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(48, 24)
    layer = RoundedInputLinear(plain, quant_format)
    inputs = torch.randn(3, 5, 48) * torch.logspace(-3, 3, 5)[:, None]
    with torch.inference_mode():
        unrounded, found = plain(inputs), layer(inputs)
        round_linear_inputs(nn.Sequential(plain), KINDS[quant_format])
        expected = plain(inputs)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, unrounded, rtol=1e-4, atol=1e-4)
    assert layer.weight is plain.weight
    assert layer.bias is plain.bias


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
