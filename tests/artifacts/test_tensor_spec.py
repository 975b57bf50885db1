"""Tensors held against their description."""

import pytest

from llmopt.artifacts.tensor_spec import (
    BATCH,
    SEQUENCE,
    FoundTensor,
    describe_differences,
    make_spec,
)

IDS = make_spec("ids", "int64", **{BATCH: -1, SEQUENCE: -1})
LOGITS = make_spec("logits", "float16", **{BATCH: -1, SEQUENCE: -1, "vocab": 320})


@pytest.mark.parametrize(
    ("found", "differences"),
    [
        (FoundTensor("ids", "int64", (-1, -1)), []),
        (FoundTensor("ids", "int64", None), []),
        (
            FoundTensor("ids", "int32", (-1, -1)),
            ["input ids is int32 [-1, -1], not int64 [-1, -1]"],
        ),
        (FoundTensor("ids", "int32", None), ["input ids is int32, not int64 [-1, -1]"]),
        (FoundTensor("ids", "int64", (1, -1)), ["input ids is int64 [1, -1], not int64 [-1, -1]"]),
        (FoundTensor("ids", "int64", (-1,)), ["input ids is int64 [-1], not int64 [-1, -1]"]),
        (
            FoundTensor("mask", "int64", (-1, -1)),
            ["input ids is missing", "input mask is one too many"],
        ),
    ],
)
def test_dtype_shape_and_names_are_held_against_the_description(
    found: FoundTensor, differences: list[str]
) -> None:
    assert list(describe_differences("input", [IDS], [found])) == differences


def test_a_size_may_be_open_only_where_it_was_inferred() -> None:
    found = FoundTensor("logits", "float16", (-1, -1, -1))
    assert list(describe_differences("output", [LOGITS], [found], is_inferred=True)) == []
    (difference,) = describe_differences("output", [LOGITS], [found])
    assert difference == "output logits is float16 [-1, -1, -1], not float16 [-1, -1, 320]"
    fixed = FoundTensor("logits", "float16", (-1, -1, 321))
    assert list(describe_differences("output", [LOGITS], [fixed], is_inferred=True))
