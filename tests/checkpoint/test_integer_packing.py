import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llmopt.checkpoint.integer_packing import pack_int32, unpack_int32
from tests.checkpoint.slow_packer import pack_words

BITS = (2, 4, 8)


@st.composite
def integers(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Draws a uint8 matrix whose first axis fills whole words, and its bit width."""
    bits = draw(st.sampled_from(BITS))
    rows, columns = draw(st.integers(1, 4)) * 32 // bits, draw(st.integers(1, 5))
    value = st.integers(0, 2**bits - 1)
    values = draw(st.lists(value, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(values, dtype=torch.uint8).reshape(rows, columns), bits


@given(integers())
def test_equals_the_slow_packer_along_either_axis(drawn: tuple[Tensor, int]) -> None:
    values, bits = drawn
    expected = torch.tensor([pack_words(column.tolist(), bits) for column in values.T]).T
    packed = pack_int32(values, bits, dim=0)
    assert packed.dtype == torch.int32
    assert torch.equal(packed, expected.to(torch.int32))
    assert torch.equal(pack_int32(values.T, bits, dim=1), packed.T)


@given(integers())
def test_unpacking_gives_back_what_was_packed(drawn: tuple[Tensor, int]) -> None:
    values, bits = drawn
    before = values.clone()
    assert torch.equal(unpack_int32(pack_int32(values, bits, dim=0), bits, dim=0), values)
    assert torch.equal(unpack_int32(pack_int32(values.T, bits, dim=1), bits, dim=1), values.T)
    assert torch.equal(values, before)


@given(st.sampled_from(BITS), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8))
def test_packing_gives_back_any_words(bits: int, words: list[int]) -> None:
    packed = torch.tensor(words, dtype=torch.int32)
    assert torch.equal(pack_int32(unpack_int32(packed, bits, dim=0), bits, dim=0), packed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("bits", BITS)
def test_any_integer_dtype_packs_alike(bits: int, dtype: torch.dtype) -> None:
    values = torch.arange(64).remainder(2**bits)
    assert pack_int32(values.to(dtype), bits, 0).tolist() == pack_words(values.tolist(), bits)


def test_word_of_sevens() -> None:
    # A symmetric 4-bit layer's qzeros: zero point 8, stored less one.
    assert pack_int32(torch.full((8,), 7), 4, 0).tolist() == [0x77777777]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("value", [-1, "too large"])
def test_values_out_of_range_are_refused(bits: int, value: int | str) -> None:
    values = torch.zeros(32, dtype=torch.int64)
    values[17] = 2**bits if value == "too large" else value
    with pytest.raises(ValueError, match=rf"values -?\d+\.\.\d+ do not fit in {bits} bits"):
        pack_int32(values, bits, dim=0)


@pytest.mark.parametrize(("bits", "length"), [(2, 8), (4, 12), (8, 3), (4, 1)])
@pytest.mark.parametrize("dim", [0, 1])
def test_axes_that_fill_no_whole_word_are_refused(bits: int, length: int, dim: int) -> None:
    shape = (length, 64) if dim == 0 else (64, length)
    message = rf"axis {dim} has {length} values, not a multiple of {32 // bits}"
    with pytest.raises(ValueError, match=message):
        pack_int32(torch.zeros(shape, dtype=torch.uint8), bits, dim)
