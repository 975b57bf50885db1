import pytest
import torch

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.packed_weight import monotonic_g_idx
from tests.checkpoint.packed_weights import SCHEMES, make_packed_weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_dequantizes_weight_by_weight(scheme: QuantScheme, dtype: torch.dtype) -> None:
    weight = make_packed_weight(scheme, out_features=8, in_features=72)
    expected = torch.zeros(8, 72)
    for row in range(8):
        for column in range(72):
            group = int(weight.g_idx_I[column])
            steps = int(weight.q_IO[column, row]) - int(weight.zeros_GO[group, row])
            expected[row, column] = float(weight.scales_GO[group, row]) * steps
    found = weight.dequantize(dtype)
    assert found.is_contiguous()
    assert torch.equal(found, expected.to(dtype))


@pytest.mark.parametrize(
    ("in_features", "group_size", "expected"),
    [
        (5, -1, [0] * 5),
        (32, 32, [0] * 32),
        (70, 32, [0] * 32 + [1] * 32 + [2] * 6),
        (20, 64, [0] * 20),
    ],
)
def test_groups_of_consecutive_features(
    in_features: int, group_size: int, expected: list[int]
) -> None:
    assert monotonic_g_idx(in_features, group_size).tolist() == expected
