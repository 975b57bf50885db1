import pytest
import torch

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.channel_format import pack_int_quantized
from tests.checkpoint.packed_weights import make_packed_weight


def test_signed_integers_and_scales_are_the_weight() -> None:
    weight = make_packed_weight(QuantScheme(8, -1))
    packed = pack_int_quantized(weight, torch.bfloat16)
    assert packed["weight"].dtype == torch.int8
    assert packed["weight_scale"].dtype == torch.bfloat16
    assert packed["weight_scale"].shape == (32, 1)
    assert {int(packed["weight"].min()), int(packed["weight"].max())} == {-128, 127}
    values = packed["weight"].float() * packed["weight_scale"].float()
    assert torch.equal(values, weight.dequantize(torch.float32))


@pytest.mark.parametrize(
    "scheme", [QuantScheme(4, -1), QuantScheme(8, 32), QuantScheme(8, -1, sym=False)], ids=str
)
def test_other_schemes_are_refused(scheme: QuantScheme) -> None:
    with pytest.raises(ValueError, match="int-quantized takes 8 bits, group_size -1, sym"):
        pack_int_quantized(make_packed_weight(scheme), torch.bfloat16)
