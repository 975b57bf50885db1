"""Profiles: what they expand to, and every wrong one of the field refused by name."""

from typing import Any

import pytest

from llmopt.engine.profiles import read_profile, read_shorthand
from llmopt.errors import IncompatibleError
from tests.engine.descriptions import LIMIT, VOCAB, describe

DECODE: dict[str, Any] = {"batch": (1, 8, 16), "sequence": 1, "past_sequence": (1, 100, 200)}


def test_axes_expand_to_every_input() -> None:
    description = describe()
    profile = read_profile("decode", DECODE, description)
    shapes = {spec.name: profile.shapes(spec) for spec in description.inputs}
    assert shapes == {
        "input_ids": ((1, 1), (8, 1), (16, 1)),
        "attention_mask": ((1, 2), (8, 101), (16, 201)),
        "position_ids": ((1, 1), (8, 1), (16, 1)),
        "past_key_values.0.key": ((1, 2, 1, 16), (8, 2, 100, 16), (16, 2, 200, 16)),
        "past_key_values.0.value": ((1, 2, 1, 16), (8, 2, 100, 16), (16, 2, 200, 16)),
    }


def test_an_empty_past_is_allowed() -> None:
    entries = {"batch": 1, "sequence": (1, 64, 128), "past_sequence": 0}
    profile = read_profile("prefill", entries, describe())
    assert profile.axes["past_sequence"].points == (0, 0, 0)
    assert profile.axes["total_sequence"].points == (1, 64, 128)


def test_raw_shapes_mean_the_same_as_axes() -> None:
    raw = {"input_ids": ((1, 1), (2, 8), (4, 32)), "attention_mask": ((1, 1), (2, 8), (4, 32))}
    axes = {"batch": (1, 2, 4), "sequence": (1, 8, 32)}
    description = describe(kv_cache=False)
    assert read_profile("p", raw, description) == read_profile("p", axes, description)


def test_what_a_profile_contains() -> None:
    profile = read_profile("decode", DECODE, describe())
    assert profile.contains({"batch": 16, "past_sequence": 1})
    assert not profile.contains({"batch": 17})
    assert not profile.contains({"batch": 4, "past_sequence": 0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": (4, 2, 8)}, "batch has min 4 above opt 2"),
        ({"batch": (1, 9, 8)}, "batch has opt 9 above max 8"),
        ({"batch": (0, 1, 8)}, "batch has min 0; the least is 1"),
        ({"past_sequence": (-1, 1, 8)}, "past_sequence has min -1; the least is 0"),
        ({"batch": (1, 8)}, r"batch is \(1, 8\), not a whole number or three"),
        ({"batch": 1.5}, "batch is 1.5, not a whole number"),
        ({"batch": True}, "batch is True, not a whole number"),
        ({"batch": "8"}, "batch is '8', not a whole number"),
        ({"batsh": 1}, "(?s)batsh is no dynamic axis or input.*did you mean batch"),
        ({"kv_heads": 2}, "kv_heads is no dynamic axis"),
        ({"sequence": None}, "sequence is None"),
        (
            {"total_sequence": (1, 8, 16)},
            r"total_sequence is 1:8:16, but past_sequence \+ sequence",
        ),
        ({"past_sequence": (1, 100, LIMIT)}, f"max {LIMIT + 1}, beyond .*{LIMIT}"),
        ({"input_ids": ((1, 1), (8, 1))}, "not three shapes"),
        (
            {"input_ids": ((1,), (8, 1), (16, 1))},
            r"input_ids at min is \[1\]; the input has 2 axes",
        ),
        ({"input_ids": ((2, 1), (8, 1), (16, 1))}, "(?s)batch.*2:8:16.*1:8:16"),
        (
            {"past_key_values.0.key": ((1, 3, 1, 16), (8, 3, 100, 16), (16, 3, 200, 16))},
            "axis kv_heads is 3:3:3, but the model has it fixed at 2",
        ),
    ],
)
def test_wrong_profiles_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(IncompatibleError, match=message) as caught:
        read_profile("decode", {**DECODE, **changes}, describe())
    assert "decode" in caught.value.message


@pytest.mark.parametrize("axis", ["batch", "sequence", "past_sequence"])
def test_a_missing_axis_is_named_with_its_input(axis: str) -> None:
    entries = {key: value for key, value in DECODE.items() if key != axis}
    with pytest.raises(IncompatibleError, match=f"lacks the axis {axis}|lacks the axis total"):
        read_profile("decode", entries, describe())


def test_more_elements_than_tensorrt_takes_are_refused() -> None:
    entries = {"batch": 4096, "sequence": (1, 8, 2048)}
    with pytest.raises(
        IncompatibleError, match=r"(?s)logits has 2,684,354,560 elements.*last_token"
    ):
        read_profile("p", entries, describe(kv_cache=False, vocab=VOCAB, limit=2048))


def test_reads_the_command_lines_form() -> None:
    name, entries = read_shorthand("decode:batch=1:8:16,sequence=1,past_sequence=1:100:200")
    assert (name, entries) == ("decode", DECODE)


@pytest.mark.parametrize("text", ["decode", "decode:batch", ":batch=1", "d:batch=1:x:3", "d:"])
def test_a_wrong_form_is_refused(text: str) -> None:
    with pytest.raises(IncompatibleError, match="not of the form"):
        read_shorthand(text)
