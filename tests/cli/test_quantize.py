"""`quantize METHOD` and `eval` by hand: the same as the recipe that they stand for."""

import hashlib
import json
from pathlib import Path

import pytest

from llmopt.artifacts.artifact import Artifact
from llmopt.recipe.loader import load_recipe
from llmopt.steps.quantize_gptq import QuantizeGptq
from tests.cli.conftest import RunHere
from tests.conftest import RunCli

SMALL = ("--samples", "2", "--seq-len", "64", "--group-size", "32", "--seed", "3")


def digest_weights(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.safetensors"))
    }


def test_the_printed_recipe_makes_the_same_weights(
    run_here: RunHere, tmp_path: Path, random_model: Path, documents: Path
) -> None:
    options = (random_model, "--data", documents, *SMALL, "--bits", "8", "--no-act-group-aware")
    printed = run_here("quantize", "gptq", *options, "--print-recipe")
    assert printed.returncode == 0
    assert printed.stderr == ""
    assert not (tmp_path / ".llmopt").exists()
    (tmp_path / "r.yaml").write_text(printed.stdout, encoding="utf-8")
    step = load_recipe(tmp_path / "r.yaml").recipe.steps["quantize"]
    assert isinstance(step, QuantizeGptq)
    assert (step.bits, step.group_size, step.act_group_aware) == (8, 32, False)
    assert run_here("validate", "r.yaml").returncode == 0
    by_hand = run_here("quantize", "gptq", *options, "-o", "by-hand", "--threads", "1")
    assert by_hand.returncode == 0
    assert by_hand.stdout.splitlines()[-1] == "by-hand"
    assert run_here("run", "r.yaml", "--threads", "1").returncode == 0
    weights = digest_weights(tmp_path / "by-hand")
    assert list(weights) == ["model.safetensors"]
    assert digest_weights(tmp_path / "out" / "quantize-gptq" / "quantize") == weights
    made = Artifact.open(tmp_path / "by-hand")
    assert made.find_faults() == []
    assert made.manifest.step.settings["bits"] == 8


def test_rounding_needs_no_data(run_here: RunHere, tmp_path: Path, random_model: Path) -> None:
    printed = run_here("quantize", "rtn", random_model, "--print-recipe").stdout
    assert "data" not in printed.replace("datasets: {}", "")
    done = run_here("quantize", "rtn", random_model, "-o", "q", "--format", "compressed-tensors")
    assert done.returncode == 0
    assert "x less than" in done.stdout
    config = json.loads((tmp_path / "q" / "config.json").read_text(encoding="utf-8"))
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"


def test_quiet_leaves_the_result_alone(
    run_here: RunHere, random_model: Path, documents: Path, tmp_path: Path
) -> None:
    done = run_here("quantize", "rtn", random_model, "-o", "q", "--group-size", "32", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "q\n", "")
    options = ("--data", documents, "--samples", "2", "--max-length", "64", "-q")
    scored = run_here("eval", random_model, *options)
    assert scored.stdout.startswith("perplexity ")
    assert scored.stderr == ""
    assert "only the result on stdout" in " ".join(run_here("eval", "--help").stdout.split())


def test_options_of_data_want_data(run_cli: RunCli, random_model: Path) -> None:
    done = run_cli("quantize", "rtn", random_model, "--samples", "2", "-o", "q")
    assert done.returncode == 2
    assert "--samples is given, but no data set" in done.stderr


def test_data_defaults_to_the_shipped_set(run_here: RunHere, random_model: Path) -> None:
    printed = run_here("quantize", "gptq", random_model, "--print-recipe").stdout
    assert "set: apparel-ja" in printed
    unknown = run_here("quantize", "gptq", random_model, "--data", "apparel-jp", "-o", "q")
    assert unknown.returncode == 8
    assert (
        "no shipped data set 'apparel-jp'; shipped: apparel-ja, general-en, general-ja"
        in unknown.stderr
    )


@pytest.mark.parametrize("content", ["file", "other step"])
def test_an_output_folder_that_is_not_empty_is_exit_code_2(
    run_here: RunHere, tmp_path: Path, random_model: Path, content: str
) -> None:
    (tmp_path / "q").mkdir()
    if content == "file":
        (tmp_path / "q" / "mine.txt").write_text("mine", encoding="utf-8")
        message = "is not empty (it holds 'mine.txt')"
    else:
        (tmp_path / "q" / ".llmopt-partial" / "work").mkdir(parents=True)
        (tmp_path / "q" / ".llmopt-partial" / "identity").write_text("other", encoding="utf-8")
        message = "holds the unfinished work of another step"
    before = sorted((tmp_path / "q").rglob("*"))
    done = run_here("quantize", "rtn", random_model, "-o", "q")
    assert done.returncode == 2
    assert message in done.stderr
    assert "→ " in done.stderr
    assert sorted((tmp_path / "q").rglob("*")) == before


def test_no_output_folder_is_exit_code_2(run_cli: RunCli, random_model: Path) -> None:
    done = run_cli("quantize", "rtn", random_model)
    assert done.returncode == 2
    assert "name an empty or new one with -o DIR" in done.stderr


def test_eval_against_a_baseline_prints_one_json_document(
    run_cli: RunCli, random_model: Path, documents: Path, tmp_path: Path
) -> None:
    options = ("--data", documents, "--samples", "2", "--max-length", "64", "--threads", "1")
    done = run_cli("eval", random_model, "--baseline", random_model, *options, "--json")
    assert done.returncode == 0
    metrics = json.loads(done.stdout)
    assert metrics["kl_mean"] == pytest.approx(0, abs=1e-9)
    assert metrics["top1_agreement"] == 1
    assert metrics["perplexity"] == metrics["baseline_perplexity"] > 1
    assert (metrics["max_length"], metrics["stride"], metrics["num_documents"]) == (64, 32, 2)
    assert "scoring blocks" in done.stderr
    assert not (tmp_path / "out").exists()


def test_eval_prints_figures_for_people(
    run_here: RunHere, random_model: Path, documents: Path
) -> None:
    options = (random_model, "--data", documents, "--samples", "2", "--max-length", "64")
    done = run_here("eval", *options)
    assert done.returncode == 0
    assert "perplexity " in done.stdout
    assert "tokens of 2 documents" in done.stdout
    assert "KL" not in done.stdout
    assert "[" not in done.stdout  # two documents are too few for an interval
    assert "✓ perplexity: in the store" in run_here("eval", *options).stderr
    assert "uses: eval.perplexity" in run_here("eval", *options, "--print-recipe").stdout


def test_eval_prints_intervals(
    run_here: RunHere, random_model: Path, documents: Path, tmp_path: Path
) -> None:
    rounded = tmp_path / "rounded"
    run_here("quantize", "rtn", random_model, "-o", rounded, "--group-size", "32")
    options = ("--data", documents, "--samples", "6", "--max-length", "64")
    compared = (rounded, "--baseline", random_model, *options)
    found = json.loads(run_here("eval", *compared, "--json").stdout)
    low, high = found["kl_mean_ci"]
    assert 0 < low < found["kl_mean"] < high
    text = run_here("eval", *compared).stdout
    assert f"KL {found['kl_mean']:.6f} [{low:.6f}, {high:.6f}] (p99 " in text
    low, high = found["perplexity_increase_pct_ci"]
    assert f" % [{low:.2f}, {high:.2f}])" in text
    low, high = found["top1_agreement_ci"]
    assert f" % [{100 * low:.2f}, {100 * high:.2f}]" in text


def test_steps_without_data_have_no_options_for_it(
    run_here: RunHere, tmp_path: Path, random_model: Path
) -> None:
    assert "--samples" in run_here("quantize", "int8", "--help").stdout
    assert "--samples" not in run_here("quantize", "fp8", "--help").stdout
    skip = ("--skip", "lm_head", "--skip", "mlp.down_proj")
    printed = run_here("quantize", "fp8", random_model, *skip, "--print-recipe")
    (tmp_path / "r.yaml").write_text(printed.stdout, encoding="utf-8")
    step = load_recipe(tmp_path / "r.yaml").recipe.steps["quantize"]
    assert step.settings()["skip"] == ["lm_head", "mlp.down_proj"]
    done = run_here("quantize", "fp8", random_model, *skip, "-o", "q")
    assert done.returncode == 0, done.stderr
    assert run_here("verify", "q").returncode == 0
