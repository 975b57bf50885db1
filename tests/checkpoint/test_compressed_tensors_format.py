import copy

import pytest
import torch

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.compressed_tensors_format import pack, unpack
from llmopt.checkpoint.stored_quantization import StoredLayer, expected_tensors
from llmopt.checkpoint.tensor_files import SAFETENSORS_DTYPES
from tests.checkpoint.packed_weights import SCHEMES, assert_same_weight, make_packed_weight
from tests.checkpoint.slow_packer import pack_stream

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@pytest.mark.parametrize("scale_dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_unpacking_gives_back_what_was_packed(scheme: QuantScheme, scale_dtype: str) -> None:
    weight = make_packed_weight(scheme)
    before = copy.deepcopy(weight)
    assert_same_weight(unpack(pack(weight, DTYPES[scale_dtype]), scheme), weight)
    assert_same_weight(weight, before)


@pytest.mark.parametrize("scale_dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_tensors_are_those_that_are_expected(scheme: QuantScheme, scale_dtype: str) -> None:
    tensors = pack(make_packed_weight(scheme), DTYPES[scale_dtype])
    found = {
        name: (SAFETENSORS_DTYPES[tensor.dtype], tuple(tensor.shape))
        for name, tensor in tensors.items()
    }
    stored = StoredLayer("pack-quantized", scheme)
    assert found == expected_tensors(stored, (32, 96), scale_dtype)
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    assert tensors["weight_shape"].tolist() == [32, 96]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_words_are_those_of_a_slow_packer(scheme: QuantScheme) -> None:
    weight = make_packed_weight(scheme)
    tensors = pack(weight, torch.bfloat16)
    for row in range(32):
        # The format's integers are signed and are stored with 2^(bits-1) added.
        signed = [q - scheme.midpoint for q in weight.q_IO[:, row].tolist()]
        words = pack_stream([q + 2 ** (scheme.bits - 1) for q in signed], scheme.bits)
        assert tensors["weight_packed"][row].tolist() == words
    if not scheme.sym:
        for group, zeros in enumerate(weight.zeros_GO.tolist()):
            words = pack_stream(zeros, scheme.bits)
            assert tensors["weight_zero_point"][:, group].tolist() == words


def test_other_tools_padding_is_cut_off() -> None:
    # compressed-tensors fills the last word of a row, and of the zero points, with zeros.
    scheme = QuantScheme(4, 32, sym=False)
    q_OI = torch.arange(3 * 36).remainder(16).reshape(3, 36)
    packed = [pack_stream([*row, 0, 0, 0, 0], 4) for row in q_OI.tolist()]
    zeros = [pack_stream([1, 7, 15, 0, 0, 0, 0, 0], 4) for _ in range(2)]
    weight = unpack(
        {
            "weight_packed": torch.tensor(packed, dtype=torch.int32),
            "weight_scale": torch.ones(3, 2, dtype=torch.bfloat16),
            "weight_shape": torch.tensor([3, 36]),
            "weight_zero_point": torch.tensor(zeros, dtype=torch.int32).T,
        },
        scheme,
    )
    assert torch.equal(weight.q_IO.T.long(), q_OI)
    assert weight.zeros_GO.tolist() == [[1, 7, 15], [1, 7, 15]]
    expected = q_OI - torch.tensor([[1], [7], [15]])
    assert torch.equal(weight.dequantize(torch.float32), expected.float())
