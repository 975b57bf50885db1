import copy
from dataclasses import replace

import pytest
import torch

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.gptq_format import TENSOR_NAMES, pack, unpack
from llmopt.checkpoint.stored_quantization import StoredLayer, expected_tensors
from llmopt.checkpoint.tensor_files import SAFETENSORS_DTYPES
from tests.checkpoint.packed_weights import SCHEMES, assert_same_weight, make_packed_weight
from tests.checkpoint.slow_packer import pack_stream


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_unpacking_gives_back_what_was_packed(scheme: QuantScheme) -> None:
    weight = make_packed_weight(scheme)
    before = copy.deepcopy(weight)
    assert_same_weight(unpack(pack(weight), scheme), weight)
    assert_same_weight(weight, before)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_tensors_are_those_that_are_expected(scheme: QuantScheme) -> None:
    tensors = pack(make_packed_weight(scheme))
    assert tuple(tensors) == TENSOR_NAMES
    found = {
        name: (SAFETENSORS_DTYPES[tensor.dtype], tuple(tensor.shape))
        for name, tensor in tensors.items()
    }
    assert found == expected_tensors(StoredLayer("gptq", scheme), (32, 96), "BF16")
    assert all(tensor.is_contiguous() for tensor in tensors.values())


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_words_are_those_of_a_slow_packer(scheme: QuantScheme) -> None:
    weight = make_packed_weight(scheme)
    tensors = pack(weight)
    for column in range(32):
        words = pack_stream(weight.q_IO[:, column].tolist(), scheme.bits)
        assert tensors["qweight"][:, column].tolist() == words
    for group, zeros in enumerate(weight.zeros_GO.tolist()):
        words = pack_stream([zero - 1 for zero in zeros], scheme.bits)
        assert tensors["qzeros"][group].tolist() == words


def test_symmetric_zero_points_are_the_words_that_loaders_know() -> None:
    four, eight = (pack(make_packed_weight(QuantScheme(bits, 32)))["qzeros"] for bits in (4, 8))
    assert set(four.flatten().tolist()) == {0x77777777}
    assert set(eight.flatten().tolist()) == {0x7F7F7F7F}


def test_zero_point_of_zero_is_refused() -> None:
    weight = make_packed_weight(QuantScheme(4, 32, sym=False))
    zeros_GO = weight.zeros_GO.clone()
    zeros_GO[1, 3] = 0
    with pytest.raises(ValueError, match="a zero point must be 1 or more"):
        pack(replace(weight, zeros_GO=zeros_GO))


@pytest.mark.parametrize(
    ("bits", "shape", "side"),
    [
        (2, (32, 72), "input"),
        (3, (32, 80), "input"),
        (4, (12, 64), "output"),
        (8, (6, 64), "output"),
    ],
)
def test_features_that_fill_no_whole_words_are_refused(
    bits: int, shape: tuple[int, int], side: str
) -> None:
    weight = make_packed_weight(QuantScheme(bits, 32), *shape)
    with pytest.raises(ValueError, match=f"{side} features are no multiple of"):
        pack(weight)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_version_2_stores_zero_points_as_they_are(scheme: QuantScheme) -> None:
    weight = make_packed_weight(scheme)
    tensors = pack(replace(weight, zeros_GO=(weight.zeros_GO % scheme.max_q) + 1))
    tensors["qzeros"] = pack(weight)["qzeros"]
    found = unpack(tensors, scheme, version=2)
    assert torch.equal(found.zeros_GO, weight.zeros_GO - 1)
    assert torch.equal(found.q_IO, weight.q_IO)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_other_tools_zero_point_of_zero_wraps_around(bits: int) -> None:
    # AutoGPTQ stores zero - 1 modulo 2^bits: all ones is -1, so a zero point of 0.
    scheme = QuantScheme(bits, 32, sym=False)
    tensors = pack(make_packed_weight(scheme))
    tensors["qzeros"] = torch.full_like(tensors["qzeros"], -1)
    assert not unpack(tensors, scheme).zeros_GO.any()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [-1, 32, 64])
def test_without_g_idx_groups_are_in_order(bits: int, group_size: int) -> None:
    weight = make_packed_weight(QuantScheme(bits, group_size, sym=False))
    tensors = pack(weight)
    del tensors["g_idx"]
    assert_same_weight(unpack(tensors, weight.scheme), weight)
