"""Profiles held against a model: what they expand to, and every wrong one refused by name."""

from typing import Any

import pytest

from llmopt.artifacts.engine_settings import EngineSettings
from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.engine.profile_entries import read_entries
from llmopt.engine.profiles import check_workspace, read_profile
from llmopt.errors import IncompatibleError
from tests.engine.descriptions import LIMIT, VOCAB, describe

DECODE: dict[str, Any] = {"batch": [1, 8, 16], "sequence": 1, "past_sequence": [1, 100, 200]}


def read(name: str, written: dict[str, Any], description: OnnxDescription) -> OptimizationProfile:
    """Reads one profile as a recipe writes it."""
    (entries,) = read_entries({name: written}).values()
    return read_profile(name, entries, description)


def test_axes_expand_to_every_input() -> None:
    description = describe()
    profile = read("decode", DECODE, description)
    shapes = {spec.name: profile.shapes(spec) for spec in description.inputs}
    assert shapes == {
        "input_ids": ((1, 1), (8, 1), (16, 1)),
        "attention_mask": ((1, 2), (8, 101), (16, 201)),
        "position_ids": ((1, 1), (8, 1), (16, 1)),
        "past_key_values.0.key": ((1, 2, 1, 16), (8, 2, 100, 16), (16, 2, 200, 16)),
        "past_key_values.0.value": ((1, 2, 1, 16), (8, 2, 100, 16), (16, 2, 200, 16)),
    }


def test_an_empty_past_is_allowed() -> None:
    written = {"batch": 1, "sequence": [1, 64, 128], "past_sequence": 0}
    profile = read("prefill", written, describe())
    assert profile.axes["past_sequence"].points == (0, 0, 0)
    assert profile.axes["total_sequence"].points == (1, 64, 128)


def test_raw_shapes_mean_the_same_as_axes() -> None:
    shapes = [[1, 1], [2, 8], [4, 32]]
    raw = {"input_ids": shapes, "attention_mask": shapes}
    axes = {"batch": [1, 2, 4], "sequence": [1, 8, 32]}
    description = describe(kv_cache=False)
    assert read("p", raw, description) == read("p", axes, description)


def test_shapes_of_one_input_speak_for_the_others_of_its_axes() -> None:
    raw = {"input_ids": [[1, 1], [2, 8], [4, 32]]}
    profile = read("p", raw, describe(kv_cache=False))
    assert profile.axes["sequence"].points == (1, 8, 32)


def test_a_total_that_is_the_sum_may_be_written() -> None:
    written = {**DECODE, "total_sequence": [2, 101, 201]}
    assert read("decode", written, describe()) == read("decode", DECODE, describe())


def test_what_a_profile_contains() -> None:
    profile = read("decode", DECODE, describe())
    assert profile.contains({"batch": 16, "past_sequence": 1})
    assert not profile.contains({"batch": 17})
    assert not profile.contains({"batch": 4, "past_sequence": 0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batsh": 1}, "batsh is no dynamic axis or input"),
        ({"kv_heads": 2}, "kv_heads is no dynamic axis or input"),
        ({"batch": [[1], [2], [3]]}, r"batch is an axis, but has shapes: \[\[1\], \[2\], \[3\]\]"),
        ({"input_ids": [1, 8, 16]}, r"input_ids is an input, but has sizes: \[1, 8, 16\]"),
        (
            {"total_sequence": [1, 8, 16]},
            r"total_sequence is 1:8:16, but past_sequence \+ sequence is 2:101:201",
        ),
        (
            {"past_sequence": [1, 100, LIMIT]},
            rf"max {LIMIT + 1}, beyond the model's max_position_embeddings {LIMIT}",
        ),
        (
            {"input_ids": [[1], [8], [16]]},
            r"input_ids at min is \[1\]; the input has 2 axes \(batch, sequence\)",
        ),
        ({"input_ids": [[2, 1], [8, 1], [16, 1]]}, "(?s)axis batch is 2:8:16.*1:8:16"),
        (
            {"past_key_values.0.key": [[1, 3, 1, 16], [8, 3, 100, 16], [16, 3, 200, 16]]},
            "axis kv_heads is 3:3:3, but the model has it fixed at 2",
        ),
    ],
)
def test_wrong_profiles_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(IncompatibleError, match=message) as caught:
        read("decode", {**DECODE, **changes}, describe())
    assert "profile decode" in caught.value.message
    assert caught.value.remedy


def test_an_unknown_name_is_told_from_the_one_that_was_meant() -> None:
    with pytest.raises(IncompatibleError) as caught:
        read("decode", {**DECODE, "batsh": 1}, describe())
    axes = "batch, sequence, total_sequence, past_sequence"
    assert caught.value.remedy == f"did you mean batch? the model's axes are {axes}"
    with pytest.raises(IncompatibleError) as caught:
        read("decode", {**DECODE, "xyz": 1}, describe())
    assert str(caught.value.remedy).startswith(
        f"the model's axes are {axes}; its inputs input_ids, "
    )


def test_shapes_may_not_leave_an_axis_empty_unless_it_is_the_past() -> None:
    empty = {"input_ids": [[0, 1], [1, 1], [1, 1]], "past_sequence": 1}
    with pytest.raises(IncompatibleError, match="axis batch has min 0; the least is 1"):
        read("p", empty, describe())
    shapes = [[1, 2, 0, 16]] * 3
    raw = {"past_key_values.0.key": shapes, "sequence": 8}
    assert read("p", raw, describe()).axes["past_sequence"].points == (0, 0, 0)


@pytest.mark.parametrize("axis", ["batch", "sequence", "past_sequence"])
def test_a_missing_axis_is_named_with_its_input(axis: str) -> None:
    written = {key: value for key, value in DECODE.items() if key != axis}
    with pytest.raises(IncompatibleError, match=rf"lacks the axis {axis} \(of input ") as caught:
        read("decode", written, describe())
    assert caught.value.remedy == f"add {axis}: [min, opt, max]"


def test_a_missing_input_is_named() -> None:
    raw = {"input_ids": [[1, 1], [8, 1], [16, 1]]}
    with pytest.raises(IncompatibleError, match=r"past_sequence \(of input past_key_values\.0"):
        read("decode", raw, describe())


def test_more_elements_than_tensorrt_takes_are_refused() -> None:
    written = {"batch": 4096, "sequence": [1, 8, 2048]}
    with pytest.raises(
        IncompatibleError,
        match=r"logits has 2,684,354,560 elements at max batch 4096 × sequence 2048 × vocab 320",
    ) as caught:
        read("p", written, describe(kv_cache=False, vocab=VOCAB, limit=2048))
    assert "last_token_logits" in str(caught.value.remedy)


def test_a_workspace_that_the_logits_fill_is_refused() -> None:
    description = describe(kv_cache=False, limit=2048)
    profile = read("p", {"batch": 16, "sequence": 2048}, description)
    needed = 16 * 2048 * VOCAB * 2  # float16
    check_workspace(profile, description, EngineSettings(workspace_bytes=needed))
    check_workspace(profile, description, EngineSettings())
    with pytest.raises(
        IncompatibleError,
        match=r"profile p: logits takes 21\.0 MB at max batch 16 × sequence 2048 × vocab 320 in "
        r"float16; workspace_gb allows 21\.0 MB",
    ):
        check_workspace(profile, description, EngineSettings(workspace_bytes=needed - 1))
