"""Variants, `--set` and `${…}`: precedence, types, and what they may not reach."""

from pathlib import Path
from typing import Any

import pytest

from llmopt.errors import RecipeError
from llmopt.recipe.loader import LoadedRecipe, load_recipe
from llmopt.steps.quantize_gptq import QuantizeGptq

RECIPE = """\
version: 1
name: small
params: {bits: 4, note: half, ratio: 0.02, fast: true}
env: [LLMOPT_TEST_SEED]
description: "TEXT"
sources: {base: ./model}
datasets:
  calibration: {path: d.jsonl, samples: 8, seed: 1}
steps:
  quantize: {uses: quantize.gptq, model: base, data: calibration, bits: "${params.bits}"}
variants:
  eight:
    params: {bits: 8}
    datasets:
      calibration: {samples: 16}
    steps:
      quantize: {sym: false}
  broken:
    steps:
      quantize: {bitz: 3}
  listed:
    steps: [quantize]
"""


def load(
    tmp_path: Path, *overrides: str, variant: str | None = None, text: str = ""
) -> LoadedRecipe:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("TEXT", text), encoding="utf-8")
    return load_recipe(path, variant, overrides)


def quantize_step(loaded: LoadedRecipe) -> QuantizeGptq:
    step = loaded.recipe.steps["quantize"]
    assert isinstance(step, QuantizeGptq)
    return step


def test_set_beats_variant_beats_file(tmp_path: Path) -> None:
    assert load(tmp_path).recipe.datasets["calibration"].samples == 8
    varied = load(tmp_path, variant="eight")
    assert varied.recipe.datasets["calibration"].samples == 16
    assert varied.recipe.datasets["calibration"].seed == 1
    assert quantize_step(varied).sym is False
    both = load(tmp_path, "datasets.calibration.samples=32", variant="eight")
    assert both.recipe.datasets["calibration"].samples == 32
    assert both.recipe.datasets["calibration"].seed == 1
    assert both.overrides == ("--variant eight", "datasets.calibration.samples=32")


def test_a_later_set_beats_an_earlier_one(tmp_path: Path) -> None:
    loaded = load(tmp_path, "datasets.calibration.seed=2", "datasets.calibration.seed=3")
    assert loaded.recipe.datasets["calibration"].seed == 3


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("bits=8", "bits", 8),
        ("sym=false", "sym", False),
        ("damp_percent=0.05", "damp_percent", 0.05),
        ("format=compressed-tensors", "format", "compressed-tensors"),
        ("needs=[]", "needs", ()),
        ("when_unavailable=defer", "when_unavailable", "defer"),
    ],
)
def test_values_of_set_are_typed(tmp_path: Path, override: str, key: str, value: Any) -> None:
    read = getattr(quantize_step(load(tmp_path, f"steps.quantize.{override}")), key)
    assert read == value
    assert type(read) is type(value)


def test_set_makes_a_key_that_was_not_there(tmp_path: Path) -> None:
    loaded = load(tmp_path, "steps.more={uses: quantize.rtn, model: base}")
    assert list(loaded.recipe.steps) == ["quantize", "more"]


def test_a_parameter_keeps_its_type_through_set(tmp_path: Path) -> None:
    assert quantize_step(load(tmp_path)).bits == 4
    assert quantize_step(load(tmp_path, "params.bits=8")).bits == 8
    assert quantize_step(load(tmp_path, variant="eight")).bits == 8
    # A quoted number stays a string, which is no bit count.
    with pytest.raises(RecipeError, match=r"steps\.quantize\.bits: Input should be 2, 3, 4 or 8"):
        load(tmp_path, "params.bits='8'")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "steps.quantise.bits=8",
            r"steps has no 'quantise'; did you mean 'steps\.quantize\.bits'\?",
        ),
        (
            "stepz.quantize.bits=8",
            r"the recipe has no 'stepz'; did you mean 'steps\.quantize\.bits'\?",
        ),
        ("quantize.bits=8", r"has no 'quantize'; did you mean 'steps\.quantize\.bits'\?"),
        ("bits=8", r"unknown key 'bits'; did you mean '(params|steps\.quantize)\.bits'\?"),
        ("params.bitz=8", r"there is no parameter 'bitz'; did you mean 'bits'\?"),
        (
            "steps.quantize.experts.min_tokens=8",
            r"has no 'experts' .*\n  → to add a whole mapping: "
            r"--set 'steps\.quantize\.experts=\{min_tokens: VALUE\}'",
        ),
        ("steps.quantize.bits.deep=8", r"steps\.quantize\.bits is no mapping"),
        ("steps.quantize.bits", r"expected KEY\.KEY=VALUE"),
        ("steps..bits=8", r"expected KEY\.KEY=VALUE"),
        ("=8", r"expected KEY\.KEY=VALUE"),
        ("steps.quantize.bits=[", r"not valid YAML"),
        ("steps.quantize.bits=!!python/name:os.system x", r"tag or merge key 'python"),
        (
            "steps.quantize.bits=5",
            r"steps\.quantize\.bits: Input should be 2, 3, 4 or 8 \(received 5\)",
        ),
        ("steps.quantize.bitz=8", r"unknown key 'steps\.quantize\.bitz'; did you mean 'bits'\?"),
    ],
)
def test_a_bad_override_names_itself(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load(tmp_path, override)
    assert str(caught.value).startswith(f"--set {override}")


def test_an_unknown_variant_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"r\.yaml:11:1: there is no variant 'eigth'; did you mean 'eight'"
    ):
        load(tmp_path, variant="eigth")


def test_a_fault_inside_a_variant_is_placed_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml:20:18: unknown key 'steps\.quantize\.bitz'"):
        load(tmp_path, variant="broken")
    with pytest.raises(RecipeError, match=r"r\.yaml:22:5: steps: "):
        load(tmp_path, variant="listed")
    assert load(tmp_path).recipe.variants["broken"] == {"steps": {"quantize": {"bitz": 3}}}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("${params.bits} bits, ${ params.note }", "4 bits, half"),
        ("$${params.bits}", "${params.bits}"),
        ("cost $5, $$ and $${x} of ${params.note}", "cost $5, $$ and ${x} of half"),
        ("${params.ratio}/${params.fast}", "0.02/True"),
    ],
)
def test_references_inside_text(tmp_path: Path, text: str, read: str) -> None:
    assert load(tmp_path, text=text).recipe.description == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${params.bit}", r"there is no parameter 'bit'; did you mean 'bits'\?"),
        ("${bits}", r"\$\{bits\} is not known; known are \$\{params\.NAME\}"),
        ("${params.__class__}", "there is no parameter '__class__'"),
        ("${steps.quantize.bits}", "is not known"),
        ("${1+1}", "is not known"),
        ("${env.HOME}", "does not allow environment variable 'HOME'"),
        ("${env.LLMOPT_TEST_SEED}", "environment variable LLMOPT_TEST_SEED is not set"),
    ],
)
def test_an_unknown_reference_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.delenv("LLMOPT_TEST_SEED", raising=False)
    with pytest.raises(RecipeError, match=rf"r\.yaml:5:1: .*{message}"):
        load(tmp_path, text=text)


def test_a_listed_environment_variable_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOPT_TEST_SEED", "23")
    loaded = load(tmp_path, "datasets.calibration.seed=${env.LLMOPT_TEST_SEED}")
    assert loaded.recipe.datasets["calibration"].seed == 23


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "openai_api_key"]
)
def test_secrets_can_not_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "hf_0123456789")
    with pytest.raises(
        RecipeError, match=f"{name} looks like a secret; recipes may not read it"
    ) as caught:
        load(tmp_path, f"env=[{name}]", text=f"${{env.{name}}}")
    assert "hf_0123456789" not in str(caught.value)


@pytest.mark.parametrize("value", ["[1, 2]", "{a: 1}", "x" * 5000])
def test_a_parameter_is_one_short_value(tmp_path: Path, value: str) -> None:
    """Else a few bytes of recipe, referred to often, would grow without bound."""
    with pytest.raises(RecipeError, match="parameter 'note' must be one value of at most 4096"):
        load(tmp_path, f"params.note={value}", text="${params.note}")


def test_parameters_are_not_replaced_twice(tmp_path: Path) -> None:
    loaded = load(tmp_path, "params.note=$${params.bits}", text="${params.note}")
    assert loaded.recipe.description == "$${params.bits}"


def test_overrides_leave_aliased_neighbours_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "version: 1\nname: x\nsources: {base: ./m}\n"
        "datasets:\n  a: &a {path: d.jsonl, seed: 1}\n  b: *a\n"
        "steps: {q: {uses: quantize.gptq, model: base, data: a}}\n",
        encoding="utf-8",
    )
    loaded = load_recipe(path, overrides=["datasets.b.seed=2"])
    assert [loaded.recipe.datasets[name].seed for name in "ab"] == [1, 2]
