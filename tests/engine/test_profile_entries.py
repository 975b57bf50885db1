"""Profiles as people write them: forms of sizes, buckets, the command line's form, every slip."""

from typing import Any

import pytest

from llmopt.engine.profile_entries import read_entries, read_shorthand


@pytest.mark.parametrize(
    ("written", "sizes"),
    [
        (8, (8, 8, 8)),
        ([1, 8, 16], (1, 8, 16)),
        ("1..8..16", (1, 8, 16)),
        ("1:8:16", (1, 8, 16)),
    ],
)
def test_forms_of_an_axis(written: Any, sizes: tuple[int, ...]) -> None:
    assert read_entries({"p": {"batch": written}}) == {"p": {"batch": sizes}}


def test_shapes_of_an_input() -> None:
    written = {"p": {"input_ids": [[1, 1], [2, 8], [4, 32]]}}
    assert read_entries(written) == {"p": {"input_ids": ((1, 1), (2, 8), (4, 32))}}


def test_buckets_become_profiles_that_leave_no_gap() -> None:
    written = {"prefill": {"batch": 4, "sequence": {"buckets": [128, 512, 2048]}}}
    entries = read_entries({**written, "decode": {"sequence": 1}})
    assert list(entries) == ["prefill_128", "prefill_512", "prefill_2048", "decode"]
    sizes = [entries[f"prefill_{bucket}"]["sequence"] for bucket in (128, 512, 2048)]
    assert sizes == [(1, 128, 128), (129, 512, 512), (513, 2048, 2048)]
    assert all(entries[f"prefill_{b}"]["batch"] == (4, 4, 4) for b in (128, 512, 2048))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"batch": [4, 2, 8]}, "profile p: batch has min 4 above opt 2"),
        ({"batch": [1, 9, 8]}, "profile p: batch has opt 9 above max 8"),
        ({"batch": "1..9..8"}, "profile p: batch has opt 9 above max 8"),
        ({"batch": [0, 1, 8]}, "profile p: batch has min 0; the least is 1"),
        ({"sequence": -1}, "profile p: sequence has min -1; the least is 1"),
        ({"past_sequence": [-1, 1, 8]}, "past_sequence has min -1; the least is 0"),
        ({"batch": [1, 8]}, r"batch is \[1, 8\], not a whole number or three; write batch: 8"),
        ({"batch": [1, 2, 3, 4]}, "not a whole number or three"),
        ({"batch": []}, r"batch is \[\], not a whole number"),
        ({"batch": 1.5}, "batch is 1.5, not a whole number"),
        ({"batch": [1, 2.5, 3]}, r"batch is \[1, 2.5, 3\], not a whole number"),
        ({"batch": True}, "batch is True, not a whole number"),
        ({"batch": "8"}, "batch is '8', not a whole number"),
        ({"batch": "1..8"}, "batch is '1..8', not a whole number"),
        ({"batch": "1..x..8"}, "batch is '1..x..8', not a whole number"),
        ({"batch": None}, "batch is None, not a whole number"),
        ({"input_ids": [[1, 1], [8, 1]]}, "input_ids has 2 shapes; an input takes three"),
        ({"input_ids": [[1, 1], [8, 1], [8.5, 1]]}, r"input_ids at max is \[8.5, 1\]; give whole"),
        ({"input_ids": [[-1, 1], [8, 1], [8, 1]]}, r"input_ids at min is \[-1, 1\]; give whole"),
        ({"input_ids": [[1], [8, 1], [8, 1]]}, "its shapes have different numbers of axes"),
        ({"sequence": {"buckets": []}}, "buckets are written"),
        ({"sequence": {"bucket": [1]}}, "buckets are written"),
        ({"sequence": {"buckets": [512, 128]}}, "give whole numbers from 1 up, rising"),
        ({"sequence": {"buckets": [0, 128]}}, "give whole numbers from 1 up, rising"),
        ({"sequence": {"buckets": [1.5]}}, "give whole numbers from 1 up, rising"),
        (
            {"sequence": {"buckets": [8]}, "batch": {"buckets": [4]}},
            "buckets on sequence and batch; one axis can",
        ),
        ({}, "profile p is empty"),
    ],
)
def test_slips_are_named(written: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_entries({"p": written})


def test_an_empty_past_may_be_written() -> None:
    entries = read_entries({"prefill": {"past_sequence": 0}})
    assert entries["prefill"]["past_sequence"] == (0, 0, 0)


@pytest.mark.parametrize("name", ["", "a b", "../x", "-a", "プロファイル"])
def test_names_of_profiles_are_plain(name: str) -> None:
    with pytest.raises(ValueError, match="may hold letters, digits, - and _ alone"):
        read_entries({name: {"batch": 1}})


def test_a_bucket_may_not_take_another_profiles_name() -> None:
    with pytest.raises(ValueError, match="there are two profiles p_8"):
        read_entries({"p_8": {"sequence": 8}, "p": {"sequence": {"buckets": [8]}}})


def test_reads_the_command_lines_form() -> None:
    name, written = read_shorthand("decode:batch=1:8:16, sequence=1,past_sequence=128|512")
    assert name == "decode"
    assert written == {
        "batch": [1, 8, 16],
        "sequence": 1,
        "past_sequence": {"buckets": [128, 512]},
    }


@pytest.mark.parametrize(
    "text",
    ["decode", "decode:batch", ":batch=1", "d:batch=1:x:3", "d:", "d:=1", "d:b=-1", "d:b=1:2|3"],
)
def test_a_wrong_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not of the form NAME:AXIS=MIN:OPT:MAX"):
        read_shorthand(text)


def test_an_axis_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="gives batch twice"):
        read_shorthand("d:batch=1,batch=2")
