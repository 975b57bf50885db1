"""What the ensemble's models compute: rows and buckets, likeliest tokens, mean pooling."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmopt.triton.runtime.ensemble.postprocessing import pool_mean, rank_tokens
from llmopt.triton.runtime.ensemble.rows import (
    RequestError,
    choose_bucket,
    find_masks,
    pad_rows,
    read_texts,
)

ROWS = st.lists(st.lists(st.integers(5, 99), min_size=1, max_size=12), min_size=1, max_size=4)


@given(ROWS, st.booleans())
def test_padded_rows_hold_the_tokens_on_their_side_and_nothing_else(
    rows: list[list[int]], is_left: bool
) -> None:
    ids, mask = pad_rows(rows, 12, 3, is_left=is_left)
    assert ids.shape == mask.shape == (len(rows), 12)
    assert ids.dtype == mask.dtype == np.int64
    for row, tokens in enumerate(rows):
        assert ids[row][mask[row] == 1].tolist() == tokens
        assert set(ids[row][mask[row] == 0].tolist()) <= {3}
        edge = mask[row][::-1] if is_left else mask[row]
        assert edge.tolist() == sorted(edge.tolist(), reverse=True)


@pytest.mark.parametrize(("longest", "bucket"), [(1, 4), (4, 4), (5, 8), (8, 8), (9, 32)])
def test_a_request_takes_the_smallest_bucket_of_its_longest_row(longest: int, bucket: int) -> None:
    assert choose_bucket([[1], [1] * longest], (4, 8, 32)) == bucket


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1], []], "no tokens in row 1"),
        ([[1], [1] * 9], r"9 tokens in row 1, special ones included; at most 8"),
    ],
)
def test_rows_that_fit_no_bucket_are_refused(rows: list[list[int]], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        choose_bucket(rows, (4, 8))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (["袖".encode(), b"ab\xff"], "no UTF-8 in row 1: byte 0xff at 2"),
        (["袖".encode()[:2]], "no UTF-8 in row 0: byte 0xe8 at 0"),
        ([b"x" * 11], "11 bytes in row 0; at most 10"),
    ],
)
def test_texts_that_are_no_texts_are_refused(raw: list[bytes], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_texts(raw, 10)


def test_texts_are_read_as_they_are() -> None:
    assert read_texts(["袖を".encode(), b"", b"\xef\xbb\xbfa"], 10) == ["袖を", "", "\ufeffa"]


def test_the_first_mask_of_each_row_is_found() -> None:
    found = find_masks(np.array([[7, 4, 4], [4, 7, 7], [7, 7, 4]]), 4, "[MASK]")
    assert found.tolist() == [[1], [0], [2]]
    with pytest.raises(RequestError, match=r"no \[MASK\] in row 1"):
        find_masks(np.array([[7, 4], [7, 7]]), 4, "[MASK]")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("num_tokens", [1, 5, 50])
def test_ranked_tokens_are_those_of_torch(dtype: type, num_tokens: int) -> None:
    logits = np.random.default_rng(3).standard_normal((4, 50)).astype(dtype) * 4
    before = logits.copy()
    ids, logprobs = rank_tokens(logits, num_tokens)
    expected = torch.log_softmax(torch.from_numpy(logits).float(), -1).topk(num_tokens)
    np.testing.assert_allclose(logprobs, expected.values.numpy(), rtol=1e-5, atol=1e-6)
    assert (ids.dtype, logprobs.dtype) == (np.int64, np.float32)
    if dtype is np.float32:  # float16 has equals, whose order torch does not promise
        assert ids.tolist() == expected.indices.tolist()
    np.testing.assert_array_equal(logits, before)


def test_equal_tokens_are_ranked_by_their_number_and_large_logits_stay_finite() -> None:
    ids, logprobs = rank_tokens(np.array([[1e4, -1e4, 1e4, 1e4]], np.float32), 3)
    assert ids.tolist() == [[0, 2, 3]]
    np.testing.assert_allclose(logprobs, [[-math.log(3)] * 3], rtol=1e-6)
    logits = np.random.default_rng(5).integers(0, 3, (4, 1000)).astype(np.float32)
    ids, _ = rank_tokens(logits, 20)  # the last of them is one of hundreds of equals
    assert ids.tolist() == np.argsort(-logits, 1, kind="stable")[:, :20].tolist()


def test_the_mean_is_of_real_positions_alone_and_of_length_1() -> None:
    hidden = np.random.default_rng(4).standard_normal((2, 5, 3)).astype(np.float16)
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    pooled = pool_mean(hidden, mask)
    for row, length in enumerate((2, 5)):
        mean = hidden[row, :length].astype(np.float64).mean(0)
        np.testing.assert_allclose(pooled[row], mean / np.linalg.norm(mean), rtol=1e-4)
    assert pooled.dtype == np.float32
    assert pool_mean(np.zeros((1, 2, 3)), np.ones((1, 2))).tolist() == [[0, 0, 0]]
