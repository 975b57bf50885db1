from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmopt.checkpoint.integer_packing import (
    dense_multiple,
    pack_dense,
    pack_int32,
    unpack_dense,
    unpack_int32,
)
from tests.checkpoint.slow_packer import pack_stream, pack_words

BITS = (2, 3, 4, 8)
Packer = Callable[[Tensor, int, int], Tensor]
PACKERS: list[Packer] = [pack_int32, pack_dense]


@st.composite
def integers(draw: st.DrawFn, multiple: Callable[[int], int]) -> tuple[Tensor, int]:
    """Draws a uint8 matrix, its first axis a multiple of something, and its bit width."""
    bits = draw(st.sampled_from(BITS))
    rows, columns = draw(st.integers(1, 4)) * multiple(bits), draw(st.integers(1, 5))
    values = st.lists(st.integers(0, 2**bits - 1), min_size=rows * columns, max_size=rows * columns)
    return torch.tensor(draw(values), dtype=torch.uint8).reshape(rows, columns), bits


@given(integers(lambda _: 7))
def test_padded_words_equal_the_slow_packer_along_either_axis(drawn: tuple[Tensor, int]) -> None:
    values, bits = drawn
    expected = torch.tensor([pack_words(column.tolist(), bits) for column in values.T]).T
    packed = pack_int32(values, bits, dim=0)
    assert packed.dtype == torch.int32
    assert torch.equal(packed, expected.to(torch.int32))
    assert torch.equal(pack_int32(values.T, bits, dim=1), packed.T)


@given(integers(dense_multiple))
def test_dense_words_equal_the_slow_packer_along_either_axis(drawn: tuple[Tensor, int]) -> None:
    values, bits = drawn
    expected = torch.tensor([pack_stream(column.tolist(), bits) for column in values.T]).T
    packed = pack_dense(values, bits, dim=0)
    assert packed.dtype == torch.int32
    assert torch.equal(packed, expected.to(torch.int32))
    assert torch.equal(pack_dense(values.T, bits, dim=1), packed.T)


@given(integers(lambda _: 7))
def test_padded_words_give_back_what_was_packed(drawn: tuple[Tensor, int]) -> None:
    values, bits = drawn
    before, count = values.clone(), len(values)
    unpacked = unpack_int32(pack_int32(values, bits, dim=0), bits, dim=0)
    assert torch.equal(unpacked[:count], values)
    assert not unpacked[count:].any()
    across = unpack_int32(pack_int32(values.T, bits, dim=1), bits, dim=1)
    assert torch.equal(across[:, :count], values.T)
    assert torch.equal(values, before)


@given(integers(dense_multiple))
def test_dense_words_give_back_what_was_packed(drawn: tuple[Tensor, int]) -> None:
    values, bits = drawn
    before = values.clone()
    assert torch.equal(unpack_dense(pack_dense(values, bits, dim=0), bits, dim=0), values)
    assert torch.equal(unpack_dense(pack_dense(values.T, bits, dim=1), bits, dim=1), values.T)
    assert torch.equal(values, before)


@given(st.sampled_from(BITS), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8))
def test_packing_gives_back_any_words(bits: int, words: list[int]) -> None:
    packed = torch.tensor(words * 3, dtype=torch.int32)  # 3 bits fill 3 words at a time
    assert torch.equal(pack_dense(unpack_dense(packed, bits, dim=0), bits, dim=0), packed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("bits", BITS)
def test_any_integer_dtype_packs_alike(bits: int, dtype: torch.dtype) -> None:
    values = torch.arange(64).remainder(2**bits)
    assert pack_int32(values.to(dtype), bits, 0).tolist() == pack_words(values.tolist(), bits)
    assert pack_dense(values.to(dtype), bits, 0).tolist() == pack_stream(values.tolist(), bits)


def test_word_of_sevens() -> None:
    # A symmetric 4-bit layer's qzeros: zero point 8, stored less one.
    assert pack_dense(torch.full((8,), 7), 4, 0).tolist() == [0x77777777]


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [-1, "too large"])
def test_values_out_of_range_are_refused(pack: Packer, bits: int, value: int | str) -> None:
    values = torch.zeros(32, dtype=torch.int64)
    values[17] = 2**bits if value == "too large" else value
    with pytest.raises(ValueError, match=rf"values -?\d+\.\.\d+ do not fit in {bits} bits"):
        pack(values, bits, 0)


@pytest.mark.parametrize(
    ("bits", "length", "multiple"), [(2, 8, 16), (3, 30, 32), (4, 12, 8), (8, 3, 4), (4, 1, 8)]
)
@pytest.mark.parametrize("dim", [0, 1])
def test_axes_that_fill_no_whole_word_of_a_stream_are_refused(
    bits: int, length: int, multiple: int, dim: int
) -> None:
    shape = (length, 64) if dim == 0 else (64, length)
    message = rf"axis {dim} has {length} values, not a multiple of {multiple}"
    with pytest.raises(ValueError, match=message):
        pack_dense(torch.zeros(shape, dtype=torch.uint8), bits, dim)
