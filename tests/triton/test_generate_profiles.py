"""What generating models may take, by one profile for prompts and one for what follows."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.engine.profile_entries import read_entries
from llmopt.engine.profiles import read_profile
from llmopt.errors import IncompatibleError
from llmopt.triton.generate_model import GenerateSettings, check_generates
from tests.triton.good_generate import describe_decoder

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
PREFILL = {"batch": [1, 1, 4], "sequence": [1, 32, 512], "past_sequence": 0}
DECODE = {"batch": [1, 4, 8], "sequence": 1, "past_sequence": [1, 64, 1023]}
MODEL = describe_decoder().model_copy(update={"max_position_embeddings": 4096})


def make_settings(profiles: dict[str, Any], max_running: int = 8) -> GenerateSettings:
    read: list[OptimizationProfile] = [
        read_profile(name, entries, MODEL) for name, entries in read_entries(profiles).items()
    ]
    return GenerateSettings(
        model=MODEL, model_file="model.engine", decoder="tensorrt_rtx", profiles=tuple(read),
        max_running=max_running, max_waiting=8, default_max_tokens=8,
    )  # fmt: skip


def read_limits(settings: GenerateSettings) -> tuple[int, int, int]:
    """Returns the most tokens of a context and of a prompt, and the most prompts of a run."""
    check_generates(settings)
    rows = settings.limits.max_prefill_rows
    return settings.max_context, settings.max_prompt_tokens, rows


def test_the_quickstart_s_engine_takes_prompts_of_its_prefill_profile() -> None:
    recipe = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    (profiles,) = (s["profiles"] for s in recipe["steps"].values() if "profiles" in s)
    assert read_limits(make_settings(profiles)) == (1024, 512, 8)


def test_limits_of_several_profiles_are_never_joined() -> None:
    few_but_long = {**DECODE, "batch": 1, "past_sequence": [1, 64, 2047]}
    many_but_short = {**PREFILL, "batch": [1, 8, 16], "sequence": [1, 32, 64]}
    profiles = {"p": PREFILL, "short": many_but_short, "d": DECODE, "long": few_but_long}
    assert read_limits(make_settings(profiles)) == (1024, 512, 4)
    assert read_limits(make_settings(profiles, max_running=1)) == (2048, 512, 1)


def test_one_profile_may_do_both_and_leaves_room_for_an_answer() -> None:
    both = {"batch": [1, 2, 8], "sequence": [1, 32, 512], "past_sequence": [0, 64, 127]}
    assert read_limits(make_settings({"both": both})) == (128, 127, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"past_sequence": [2, 64, 1023]}, "no profile to decode with"),
        ({"batch": [2, 4, 8]}, "no profile to decode with"),
        ({"batch": [1, 2, 4]}, "max_batch_size is 8; the engine decodes 4 rows at once"),
    ],
)
def test_rows_and_past_must_be_those_of_one_decode_profile(
    change: dict[str, Any], message: str
) -> None:
    wide_but_late = {**DECODE, "past_sequence": [512, 600, 1023]}
    profiles = {"prefill": PREFILL, "decode": {**DECODE, **change}, "late": wide_but_late}
    with pytest.raises(IncompatibleError, match=message):
        check_generates(make_settings(profiles))


@pytest.mark.parametrize("change", [{"batch": [2, 2, 4]}, {"sequence": [8, 32, 512]}])
def test_a_lone_and_a_short_prompt_must_fit_the_prefill_profile(change: dict[str, Any]) -> None:
    profiles = {"prefill": {**PREFILL, **change}, "decode": DECODE}
    with pytest.raises(IncompatibleError, match="no profile to prefill with"):
        check_generates(make_settings(profiles))
