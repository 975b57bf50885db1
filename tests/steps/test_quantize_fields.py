"""What every quantisation refuses before it loads torch."""

import dataclasses
from pathlib import Path

import pytest

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.model_config import ModelConfig, read_model_config
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.errors import IncompatibleError
from llmopt.steps.base import ResolvedInput, StepBase
from llmopt.steps.layer_overrides import build_plan
from llmopt.steps.quantize_fields import check_data, check_shapes
from llmopt.steps.union import step_types


@pytest.fixture
def config(random_model: Path) -> ModelConfig:
    return read_model_config(random_model)


def check(
    config: ModelConfig, bits: int, group_size: int, quant_format: QuantFormat = "gptq"
) -> None:
    check_shapes(config, build_plan(config, QuantScheme(bits, group_size)), quant_format)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [-1, 32, 64, 128])
def test_sizes_that_divide_fit(config: ModelConfig, bits: int, group_size: int) -> None:
    odd = dataclasses.replace(config, intermediate_size=264)
    check(config, bits, group_size)
    if group_size == -1:
        check(odd, bits, group_size)
        return
    with pytest.raises(
        IncompatibleError,
        match=f"mlp.down_proj has 264 input features, not a multiple of group_size {group_size}",
    ) as caught:
        check(odd, bits, group_size)
    assert caught.value.remedy == "use group_size -1"
    assert caught.value.exit_code == 7


def test_sizes_that_fit_are_offered(config: ModelConfig) -> None:
    narrow = dataclasses.replace(config, hidden_size=96)
    with pytest.raises(IncompatibleError, match="q_proj has 96 input features") as caught:
        check(narrow, 4, 128)
    assert caught.value.remedy == "use group_size 32 or -1"


def test_features_that_do_not_fill_a_word_are_refused(config: ModelConfig) -> None:
    odd = dataclasses.replace(config, intermediate_size=260)
    with pytest.raises(
        IncompatibleError, match="gate_proj has 260 output features, not a multiple of 8"
    ) as caught:
        check(odd, 4, -1)
    assert caught.value.remedy is None
    check(odd, 8, -1)
    check(odd, 4, -1, "compressed-tensors")


def test_three_bits_fill_three_words_at_a_time(config: ModelConfig) -> None:
    check(config, 3, 32)
    odd = dataclasses.replace(config, intermediate_size=16 * 17)
    with pytest.raises(IncompatibleError, match="272 output features, not a multiple of 32, which"):
        check(odd, 3, -1)
    check(odd, 2, -1)


def test_windows_longer_than_the_model_are_refused(config: ModelConfig, documents: Path) -> None:
    def data(seq_len: int) -> ResolvedInput:
        spec = DatasetSpec(path=str(documents), seq_len=seq_len)
        return ResolvedInput("calibration", "dataset", "", documents, dataset=spec)

    check_data(config, data(256))
    with pytest.raises(
        IncompatibleError,
        match=r"data set calibration: seq_len 257 exceeds .* max_position_embeddings 256",
    ):
        check_data(config, data(257))


@pytest.mark.parametrize("step", step_types().values(), ids=step_types())
def test_inputs_are_no_settings(step: type[StepBase]) -> None:
    names = [name for name in step.input_fields() if name != "metrics_of"]
    lists = {"candidates"} & set(names)
    values = {name: ["x"] if name in lists else "x" for name in names}
    needed = {"require": {"kl_mean": {"max": 1}}, "tasks": ["t"], "profiles": {"p": {"batch": 1}}}
    needed["shape"] = "generate"
    extra = {name: value for name, value in needed.items() if name in step.model_fields}
    made = step.model_validate(
        {"uses": step.model_fields["uses"].annotation.__args__[0], **values, **extra}
    )
    assert not set(made.settings()) & {*step.input_fields(), "uses", "needs", "when_unavailable"}
    assert set(made.identity_settings()) <= {*made.settings(), "runtime"}  # of shipped code
    assert made.input_names() == {f"{n}.0" if n in lists else n: "x" for n in names}
    assert "ungated" not in made.settings()
    assert made.model_copy(update={"ungated": True}).settings()["ungated"] is True
