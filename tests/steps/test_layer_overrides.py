"""Which layers an override speaks of, and what is refused before any work."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.model_config import ModelConfig, read_model_config
from llmopt.errors import IncompatibleError, RecipeError
from llmopt.steps.layer_overrides import LayerOverride, build_plan, free_layers

BASE = QuantScheme(4, 128)


@pytest.fixture
def config(random_model: Path) -> ModelConfig:
    """A Llama of 3 blocks with tied embeddings."""
    return read_model_config(random_model)


def override(layers: str, **fields: Any) -> LayerOverride:
    return LayerOverride(layers=layers, **fields)


def test_without_overrides_every_layer_has_the_base(config: ModelConfig) -> None:
    plan = build_plan(config, BASE)
    assert len(plan.schemes) == 21
    assert set(plan.schemes.values()) == {BASE}
    assert not list(plan.exceptions())
    assert not plan.rounds_output_layer


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.mlp.down_proj", {f"model.layers.{b}.mlp.down_proj" for b in range(3)}),
        ("model.layers.1.self_attn.o_proj", {"model.layers.1.self_attn.o_proj"}),
        (
            r"re:model\.layers\.[02]\.self_attn\.[qk]_proj",
            {f"model.layers.{b}.self_attn.{n}_proj" for b in (0, 2) for n in "qk"},
        ),
        ("*.layers.2.*up_proj", {"model.layers.2.mlp.up_proj"}),
        ("*.layers.[01].mlp.up_proj", {f"model.layers.{b}.mlp.up_proj" for b in (0, 1)}),
    ],
)
def test_a_pattern_names_whole_layers(
    config: ModelConfig, pattern: str, expected: set[str]
) -> None:
    plan = build_plan(config, BASE, [override(pattern, bits=8)])
    assert {name for name, _ in plan.exceptions()} == expected
    assert {scheme for _, scheme in plan.exceptions()} == {QuantScheme(8, 128)}
    free = free_layers(config, [override(pattern, bits=8)], lm_head=False)
    assert free == plan.schemes.keys() - expected


def test_the_first_override_that_matches_holds(config: ModelConfig) -> None:
    plan = build_plan(
        config,
        BASE,
        [
            override("*.layers.0.*", skip=True),
            override("*.down_proj", bits=8, group_size=32, sym=False),
            override("*", group_size=64),
        ],
    )
    assert plan.schemes["model.layers.0.mlp.down_proj"] is None
    assert plan.schemes["model.layers.1.mlp.down_proj"] == QuantScheme(8, 32, sym=False)
    assert plan.schemes["model.layers.1.mlp.up_proj"] == QuantScheme(4, 64)


def test_a_pattern_that_matches_nothing_is_refused(config: ModelConfig) -> None:
    with pytest.raises(RecipeError, match=r"'\*\.mlp\.downproj' matches no layer") as caught:
        build_plan(config, BASE, [override("*.mlp.downproj", bits=8)])
    assert "model.layers.0.self_attn.q_proj" in str(caught.value.remedy)
    with pytest.raises(RecipeError, match="'re:q_proj' matches no layer"):
        build_plan(config, BASE, [override("re:q_proj", bits=8)])


def test_an_override_that_has_no_say_is_refused(config: ModelConfig) -> None:
    entries = [override("*_proj", bits=8), override("*.mlp.down_proj", bits=3)]
    with pytest.raises(RecipeError, match=r"every layer that '\*\.mlp\.down_proj' matches is"):
        build_plan(config, BASE, entries)
    assert build_plan(config, BASE, entries[::-1]).schemes["model.layers.0.mlp.down_proj"]


def test_a_plan_that_quantises_nothing_is_refused(config: ModelConfig) -> None:
    with pytest.raises(RecipeError, match="no layer is left to quantise"):
        build_plan(config, BASE, [override("*", skip=True)])


def test_lm_head_can_not_be_rounded_where_it_is_the_embeddings(config: ModelConfig) -> None:
    with pytest.raises(IncompatibleError, match="lm_head shares its weights"):
        build_plan(config, BASE, lm_head=True)
    untied = dataclasses.replace(config, tie_word_embeddings=False)
    plan = build_plan(untied, BASE, [override("lm_head", bits=8)], lm_head=True)
    assert plan.schemes["lm_head"] == QuantScheme(8, 128)
    assert plan.rounds_output_layer
    with pytest.raises(RecipeError, match="'lm_head' matches no layer") as caught:
        build_plan(untied, BASE, [override("lm_head", bits=8)])
    assert caught.value.remedy == "set lm_head: true"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": "*"}, "says nothing"),
        ({"layers": "*", "skip": True, "bits": 4}, "but bits is set"),
        ({"layers": "re:(", "bits": 4}, r"'\(' is no regular expression"),
        ({"layers": "", "bits": 4}, "at least 1 character"),
        ({"layers": "*", "bits": 5}, "Input should be 2, 3, 4 or 8"),
        ({"layers": "*", "bit": 4}, "Extra inputs"),
    ],
)
def test_bad_overrides_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LayerOverride(**fields)
