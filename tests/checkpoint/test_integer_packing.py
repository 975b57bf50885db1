import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmopt.checkpoint.integer_packing import pack_dense, unpack_dense
from llmopt.checkpoint.packed_words import count_words
from tests.checkpoint.slow_packer import pack_stream

BITS = (2, 3, 4, 8)


@st.composite
def integers(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Draws a uint8 matrix of any height and its bit width."""
    bits = draw(st.sampled_from(BITS))
    rows, columns = draw(st.integers(1, 70)), draw(st.integers(1, 4))
    values = st.lists(st.integers(0, 2**bits - 1), min_size=rows * columns, max_size=rows * columns)
    return torch.tensor(draw(values), dtype=torch.uint8).reshape(rows, columns), bits


@given(integers())
def test_words_equal_the_slow_packer_along_either_axis(drawn: tuple[Tensor, int]) -> None:
    values, bits = drawn
    expected = torch.tensor([pack_stream(column.tolist(), bits) for column in values.T]).T
    packed = pack_dense(values, bits, dim=0)
    assert packed.dtype == torch.int32
    assert packed.shape[0] == count_words(len(values), bits)
    assert torch.equal(packed, expected.to(torch.int32))
    assert torch.equal(pack_dense(values.T, bits, dim=1), packed.T)


@given(integers())
def test_words_give_back_what_was_packed(drawn: tuple[Tensor, int]) -> None:
    values, bits = drawn
    before, count = values.clone(), len(values)
    unpacked = unpack_dense(pack_dense(values, bits, dim=0), bits, dim=0)
    assert torch.equal(unpacked[:count], values)
    assert len(unpacked) == count_words(count, bits) * 32 // bits
    assert not unpacked[count:].any()
    across = unpack_dense(pack_dense(values.T, bits, dim=1), bits, dim=1)
    assert torch.equal(across[:, :count], values.T)
    assert torch.equal(values, before)


@given(st.sampled_from(BITS), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8))
def test_packing_gives_back_any_words(bits: int, words: list[int]) -> None:
    packed = torch.tensor(words * 3, dtype=torch.int32)  # 3 bits fill 3 words at a time
    assert torch.equal(pack_dense(unpack_dense(packed, bits, dim=0), bits, dim=0), packed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("bits", BITS)
def test_any_integer_dtype_packs_alike(bits: int, dtype: torch.dtype) -> None:
    values = torch.arange(64).remainder(2**bits)
    assert pack_dense(values.to(dtype), bits, 0).tolist() == pack_stream(values.tolist(), bits)


def test_word_of_sevens() -> None:
    # A symmetric 4-bit layer's qzeros: zero point 8, stored less one.
    assert pack_dense(torch.full((8,), 7), 4, 0).tolist() == [0x77777777]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [-1, "too large"])
def test_values_out_of_range_are_refused(bits: int, value: int | str) -> None:
    values = torch.zeros(32, dtype=torch.int64)
    values[17] = 2**bits if value == "too large" else value
    with pytest.raises(ValueError, match=rf"values -?\d+\.\.\d+ do not fit in {bits} bits"):
        pack_dense(values, bits, 0)
