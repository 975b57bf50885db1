"""Recipe files as users get them wrong: each fault with file, line, column and a way out."""

import re
import time
from pathlib import Path

import pytest

from llmopt.errors import RecipeError
from llmopt.recipe.loader import load_recipe

RECIPE = """\
version: 1
name: small
sources:
  base: ./model
  long: {hf: org/model, revision: main}
datasets:
  calibration: {path: d.jsonl, samples: 8}
target: {runtime: vllm, tp: 2}
steps:
  quantize:
    uses: quantize.gptq
    model: base
    data: calibration
    bits: 4
  gate:
    uses: eval.gate
    model: quantize
    baseline: base
    data: calibration
    require:
      kl_mean: {max: 0.1}
"""


def load_changed(tmp_path: Path, old: str, new: str) -> None:
    assert RECIPE.count(old) == 1, old
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace(old, new), encoding="utf-8")
    load_recipe(path)


def test_the_recipe_itself_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    loaded = load_recipe(path)
    assert list(loaded.recipe.steps) == ["quantize", "gate"]
    assert loaded.base == tmp_path
    assert loaded.recipe.sources["long"].revision == "main"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: small", "nam: small", "2:1: unknown key 'nam'; did you mean 'name'?"),
        (
            "samples: 8",
            "sample: 8",
            "7:32: unknown key 'datasets.calibration.sample'; did you mean 'samples'?",
        ),
        (
            "revision: main",
            "revison: main",
            "5:25: unknown key 'sources.long.revison'; did you mean 'revision'?",
        ),
        (
            "tp: 2",
            "tensors: 2",
            "8:25: unknown key 'target.tensors' (known: runtime, device, gpu, tp,",
        ),
        ("bits: 4", "bit: 4", "14:5: unknown key 'steps.quantize.bit'; did you mean 'bits'?"),
        ("{max: 0.1}", "{maxi: 0.1}", "21:17: unknown key 'steps.gate.require.kl_mean.maxi'"),
        (
            "kl_mean: {",
            "kl_men: {",
            "15:3: steps.gate: there is no metric 'kl_men'; did you mean kl_mean?",
        ),
        (
            "uses: quantize.gptq",
            "uses: quantize.gptk",
            "10:3: steps.quantize uses the unknown step type 'quantize.gptk'; did you mean 'quan",
        ),
        ("uses: quantize.gptq", "uses: 4", "10:3: steps.quantize uses the unknown step type '4'"),
        (
            "    uses: quantize.gptq\n",
            "",
            "10:3: step 'steps.quantize' has no `uses` (known: quantize.gptq,",
        ),
        ("    data: calibration\n    bits", "    bits", "10:3: 'steps.quantize.data' is missing"),
        ("version: 1\n", "", "1:1: 'version' is missing"),
        ("version: 1", "version: 2", "1:1: version: Input should be 1 (received 2)"),
        ("version: 1", "version: '1'", "1:1: version: Input should be 1 (received '1')"),
        (
            "samples: 8",
            "samples: lots",
            "7:32: datasets.calibration.samples: Input should be a valid integer",
        ),
        (
            "samples: 8",
            "samples: 0",
            "7:32: datasets.calibration.samples: Input should be greater than or",
        ),
        (
            "samples: 8",
            "samples: 1.5",
            "7:32: datasets.calibration.samples: Input should be a valid integer",
        ),
        (
            "bits: 4",
            "bits: 5",
            "14:5: steps.quantize.bits: Input should be 2, 3, 4 or 8 (received 5)",
        ),
        (
            "bits: 4",
            "bits: four",
            "14:5: steps.quantize.bits: Input should be 2, 3, 4 or 8 (received 'four')",
        ),
        (
            "bits: 4",
            "group_size: 100",
            "14:5: steps.quantize.group_size: Input should be -1, 32, 64 or 128 (received 100)",
        ),
        ("bits: 4", "sym: [yes]", "14:5: steps.quantize.sym: Input should be a valid boolean"),
        (
            "bits: 4",
            "damp_percent: 1.5",
            "14:5: steps.quantize.damp_percent: Input should be less than 1",
        ),
        (
            "bits: 4",
            "damp_percent: 0.9",
            "10:3: steps.quantize: damp_percent 0.9 exceeds max_damp_percent 0.5",
        ),
        (
            "bits: 4",
            "desc_act: true\n    act_group_aware: true",
            "10:3: steps.quantize: desc_act and act_group_aware exclude",
        ),
        ("bits: 4", "needs: gate", "14:5: steps.quantize.needs: Input should be a valid tuple"),
        ("tp: 2", "tp: 0", "8:25: target.tp: Input should be greater than or equal to 1"),
        (
            "runtime: vllm",
            "runtime: tgi",
            "8:10: target.runtime: Input should be 'vllm', 'onnxruntime' or 'tensorrt'",
        ),
        (
            "path: d.jsonl",
            "path: d.jsonl, set: a",
            "7:3: datasets.calibration: give exactly one of set, path and hf",
        ),
        ("path: d.jsonl, ", "", "7:3: datasets.calibration: give exactly one of set, path and hf"),
        (
            "path: d.jsonl",
            "path: d.jsonl, hf: org/d, revision: main",
            "7:3: datasets.calibration: give exactly one of set, path and hf (given: ['path', 'hf'",
        ),
        (
            "path: d.jsonl",
            "hf: org/d",
            "7:3: datasets.calibration: hf: org/d wants a revision: a commit, a tag or a branch",
        ),
        (
            "path: d.jsonl",
            "hf: d, revision: main",
            "7:17: datasets.calibration.hf: String should match pattern",
        ),
        (
            "path: d.jsonl",
            "set: apparel-ja, revision: main",
            "7:3: datasets.calibration: revision 'main' is for hf; set has none",
        ),
        (
            "path: d.jsonl",
            "path: d.jsonl, split: heldout",
            "7:3: datasets.calibration: split 'heldout' is for set and hf; path names one file",
        ),
        (
            "samples: 8",
            "mix: [{set: a, weight: 0.5}, {path: b.csv, weight: 0.5}]",
            "7:3: datasets.calibration: the weights of mix sum to 1; they must stay below 1",
        ),
        (
            "samples: 8",
            "samples: 8, mix: [{path: b.csv, weight: 0.05}]",
            "7:3: datasets.calibration: of 8 samples, b.csv would get none by the weights of mix",
        ),
        (
            "samples: 8",
            "mix: [{path: b.csv, weight: 1.5}]",
            "7:52: datasets.calibration.mix.0.weight: Input should be less than 1 (received 1.5)",
        ),
        (
            "samples: 8",
            "mix: [{path: b.csv}]",
            "7:38: 'datasets.calibration.mix.0.weight' is missing",
        ),
        (
            "samples: 8",
            "mix: [{path: b.csv, weight: 0.5, feild: x}]",
            "7:65: unknown key 'datasets.calibration.mix.0.feild'; did you mean 'field'?",
        ),
        (
            "samples: 8",
            "mix: [{path: b.csv, set: a, weight: 0.5}]",
            "7:38: datasets.calibration.mix.0: give exactly one of set, path and hf",
        ),
        (
            "samples: 8",
            "require: {min_row: 8}",
            "7:42: unknown key 'datasets.calibration.require.min_row'; did you mean 'min_rows'?",
        ),
        (
            "samples: 8",
            "require: {min_japanese_share: 60}",
            "7:42: datasets.calibration.require.min_japanese_share: Input should be less than or",
        ),
        (
            "samples: 8",
            "require: {max_overlap: {heldout: 10}}",
            "7:32: datasets.calibration.require: max_overlap.heldout is a share from 0 to 1, not",
        ),
        (
            "hf: org/model",
            "hf: org/model, path: ./m",
            "5:3: sources.long: give exactly one of path and hf",
        ),
        ("hf: org/model", "path: ./m", "5:3: sources.long: a local folder has no revision"),
        ("{max: 0.1}", "{}", "21:7: steps.gate.require.kl_mean: give at least one of max, min"),
        ("    baseline: base\n", "", "15:3: steps.gate: give baseline, or metrics_of"),
        ("name: small", "name: ../small", "2:1: name: String should match pattern"),
        ("name: small", "name: a/b", "2:1: name: String should match pattern"),
        ("name: small", "name: ''", "2:1: name: String should match pattern"),
        ("name: small", "name: 2024", "2:1: name: Input should be a valid string (received 2024)"),
        ("name: small", f"name: {'x' * 81}", "2:1: name: String should have at most 80"),
        (
            "  quantize:\n",
            "  ../../quantize:\n",
            "10:3: steps.../../quantize: String should match pattern",
        ),
        ("  quantize:\n", "  a.b:\n", "10:3: steps.a.b: String should match pattern"),
        ("  calibration: {", "  ../c: {", "7:3: datasets.../c: String should match pattern"),
        ("steps:", "steps: {}\nparams:", "9:1: steps: Dictionary should have at least 1 item"),
        (
            "name: small",
            "name: small\nenv: HOME",
            "3:1: env: Input should be a valid tuple (received 'HOME')",
        ),
    ],
)
def test_faults_are_placed_and_explained(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"r.yaml:{message}")) as caught:
        load_changed(tmp_path, old, new)
    assert caught.value.exit_code == 2


def test_faults_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_changed(tmp_path, "bits: 4", "bits: 5\n    group_size: 100\n    nonsense: 1")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0].rpartition("r.yaml")[2] for line in lines] == [
        ":14:5",
        ":15:5",
        ":16:5",
    ]


def test_many_faults_are_cut_short(tmp_path: Path) -> None:
    extra = "".join(f"\n    k{number}: 1" for number in range(40))
    with pytest.raises(RecipeError, match=r"… and 28 more$"):
        load_changed(tmp_path, "bits: 4", "bits: 4" + extra)


def test_a_recipe_of_many_references_to_little_stays_small(tmp_path: Path) -> None:
    """The other bomb: a mapping named once and referred to a thousand times."""
    many = "\n".join(f"  d{number}: ${{params.p}}" for number in range(2000))
    pairs = ", ".join(f"k{number}: 1" for number in range(2000))
    path = tmp_path / "r.yaml"
    path.write_text(
        f"version: 1\nname: x\nparams: {{p: {{{pairs}}}}}\ndatasets:\n{many}\n", encoding="utf-8"
    )
    started = time.process_time()
    with pytest.raises(RecipeError, match="parameter 'p' must be one value"):
        load_recipe(path)
    assert time.process_time() - started < 5
