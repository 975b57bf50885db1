"""`run`, `plan`, `validate`: what goes where, and which exit code."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import RunHere
from tests.conftest import RunCli
from tests.recipe.harness import (
    COMPARE,
    EVALUATE,
    GATE,
    GPTQ,
    QUANTIZE,
    make_recipe,
    write_recipe,
)

SECRET = "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ"
IMPOSSIBLE = {**GATE, "require": {"kl_mean": {"max": 0.0}}}


@pytest.fixture
def recipe(tmp_path: Path, random_model: Path, documents: Path) -> Path:
    steps = {"quantize": QUANTIZE, "gate": GATE, "perplexity": EVALUATE}
    return write_recipe(tmp_path, make_recipe(random_model, documents, steps))


def events(stdout: str) -> list[dict[str, Any]]:
    """Parses JSON lines; anything else on stdout fails."""
    return [json.loads(line) for line in stdout.splitlines()]


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_run_ends_with_a_summary_on_stdout(run_here: RunHere, recipe: Path) -> None:
    done = run_here("run", recipe)
    assert done.returncode == 0
    assert "• quantize: not in the store yet" in done.stderr
    assert "✓ quantize: done in" in done.stderr
    for words in ("x less than", "KL 0.", "perplexity ", "out/small/gate", "next: llmopt verify"):
        assert words in done.stdout
    assert re.search(r"  gate: kept kl_mean 0\.\d+ \(max 1000\); KL 0\.", done.stdout)
    assert "✓" not in done.stdout
    assert done.stdout.endswith("      llmopt report out/small\n")
    again = run_here("run", recipe)
    assert "✓ quantize: in the store" in again.stderr
    quiet = run_here("run", recipe, "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_the_summary_prints_a_comparison_as_its_table(
    run_here: RunHere, tmp_path: Path, random_model: Path, documents: Path
) -> None:
    require = {"quantize.kl_mean": {"max": 1000}}
    steps = {
        "quantize": QUANTIZE,
        "compare": COMPARE,
        "gate": {"uses": "eval.gate", "metrics_of": "compare", "require": require},
    }
    recipe = write_recipe(tmp_path, make_recipe(random_model, documents, steps))
    done = run_here("run", recipe)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "out/small/compare/comparison.md").read_text(encoding="utf-8")
    for line in table.splitlines():
        assert f"    {line}\n" in done.stdout
    assert re.search(r"  gate: kept quantize\.kl_mean 0\.\d+ \(max 1000\); judged in", done.stdout)


def test_json_lines_and_nothing_else_on_stdout(run_cli: RunCli, recipe: Path) -> None:
    done = run_cli("run", recipe, "--json", "--threads", "1")
    assert done.returncode == 0
    heard = events(done.stdout)
    assert [event["event"] for event in heard if event["event"].startswith(("run", "step"))] == [
        "run_started",
        *["step_started", "step_finished"] * 3,
        "run_finished",
    ]
    assert heard[0]["steps"] == ["quantize", "gate", "perplexity"]
    finished = [event for event in heard if event["event"] == "step_finished"]
    assert [event["step"] for event in finished] == heard[0]["steps"]
    assert finished[1]["metrics"]["kl_mean"] > 0
    assert Path(finished[0]["path"]).is_dir()
    assert {event["step"] for event in heard if event["event"] == "progress"} == set(
        heard[0]["steps"]
    )
    assert done.stderr == ""


def test_a_missed_gate_is_exit_code_3_with_numbers_every_time(
    run_here: RunHere, tmp_path: Path, random_model: Path, documents: Path
) -> None:
    steps = {"quantize": QUANTIZE, "gate": IMPOSSIBLE, "perplexity": EVALUATE}
    path = write_recipe(tmp_path, make_recipe(random_model, documents, steps))
    for number in range(2):
        done = run_here("run", path)
        assert done.returncode == 3
        assert "gate failed: gate gate: kl_mean is 0.0" in done.stderr
        assert re.search(r"measured: kl_mean 0\.\d+ \(max 0\), \w+ \d", done.stderr)
        assert "the measurements are kept in " in done.stderr
        assert done.stdout == ""
        assert ("• gate" in done.stderr) is (number == 0)
    failed = events(run_here("run", path, "--json").stdout)[-1]
    assert (failed["event"], failed["error"], failed["exit_code"]) == (
        "run_failed",
        "gate failed",
        3,
    )
    assert "kl_mean is 0.0" in failed["message"]
    relaxed = run_here("run", path, "--set", "steps.gate.require.kl_mean.max=1")
    assert relaxed.returncode == 0
    assert "✓ gate: in the store" in relaxed.stderr
    assert "• perplexity" in relaxed.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, so nothing is deferred")
@pytest.mark.parametrize(
    ("policy", "option", "code"),
    [
        ("fail", [], 5),
        ("defer", [], 0),
        ("skip", ["--detailed-exitcode"], 0),
    ],
)
def test_a_step_whose_device_is_missing(
    run_here: RunHere, recipe: Path, policy: str, option: list[str], code: int
) -> None:
    override = f"steps.quantize.when_unavailable={policy}"
    done = run_here("run", recipe, "--device", "cuda", "--set", override, *option)
    assert done.returncode == code
    if policy == "fail":
        assert "missing capability: device cuda is asked for" in done.stderr
        assert "→ use --device cpu" in done.stderr
        assert done.stdout == ""
    else:
        assert "- quantize: not run: device cuda is asked for" in done.stderr
        assert "perplexity: not run: waits for quantize, which did not run" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, so nothing is deferred")
def test_deferred_steps_have_an_exit_code_of_their_own(run_cli: RunCli, recipe: Path) -> None:
    override = "steps.quantize.when_unavailable=defer"
    options = ("--device", "cuda", "--set", override, "--detailed-exitcode", "--json")
    done = run_cli("run", recipe, *options)
    assert done.returncode == 10
    last = events(done.stdout)[-1]
    assert (last["event"], last["deferred"]) == ("run_finished", True)


def test_a_plan_says_why_and_makes_nothing(run_cli: RunCli, recipe: Path, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    done = run_cli("plan", recipe)
    assert done.returncode == 0
    assert "• will run quantize (quantize.rtn): not in the store yet" in done.stdout
    assert "    waits for gate" in done.stdout
    assert "RAM" in done.stdout
    assert done.stderr == ""
    rows = json.loads(run_cli("plan", recipe, "--json", "--until", "gate").stdout)
    assert rows["recipe"] == "small"
    assert [row["step"] for row in rows["steps"]] == ["quantize", "gate"]
    assert rows["steps"][0]["estimate"]["disk_bytes"] > 0
    assert rows["steps"][1]["estimate"] is None
    # The hashes of the inputs are remembered, nothing else is written.
    assert set(files_below(tmp_path)) - set(before) == {
        ".llmopt", ".llmopt/store", ".llmopt/store/hashes.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("steps.quantize.bits=4", 0, ""),
        ("datasets.heldout.seq_len=64", 0, ""),
        ("steps.quantize.group_size=128", 0, ""),
        ("steps.gate.max_length=1000", 7, "max_length 1000"),
        ("steps.quantize.overrides=[{layers: nothing, bits: 8}]", 2, "recipe.yaml:"),
        ("sources.base=./torn", 8, "model.safetensors is truncated"),
    ],
)
def test_a_plan_refuses_what_a_run_would(
    run_here: RunHere, recipe: Path, random_model: Path, override: str, code: int, message: str
) -> None:
    torn = Path(shutil.copytree(random_model, recipe.parent / "torn"))
    (torn / "model.safetensors").write_bytes(b"short")
    planned = run_here("plan", recipe, "--set", override)
    assert (planned.returncode, message in planned.stderr) == (code, True), planned.stderr
    if code:
        ran = run_here("run", recipe, "--set", override)
        assert (ran.returncode, ran.stderr) == (code, planned.stderr)
        assert planned.stdout == ""


def test_a_plan_does_not_call_an_unknown_time_zero(run_here: RunHere, recipe: Path) -> None:
    done = run_here("plan", recipe)
    assert done.returncode == 0, done.stderr
    assert "less than 1 s of arithmetic" in done.stdout or "time not known" in done.stdout
    assert not re.search(r"\b0 s|\b0 B", done.stdout)
    assert done.stdout.count("memory, disk and time not known") == 2  # gate and perplexity


def test_a_plan_in_json_names_state_and_reason(run_here: RunHere, recipe: Path) -> None:
    assert run_here("run", recipe, "--until", "quantize").returncode == 0
    arguments = ("--json", "--set", "steps.gate.max_length=32", "--force", "quantize")
    rows = json.loads(run_here("plan", recipe, *arguments).stdout)["steps"]
    assert [(row["step"], row["state"], row["reason"]) for row in rows] == [
        ("quantize", "run", "forced by --force"),
        ("gate", "run", "not in the store yet"),
        ("perplexity", "run", "not in the store yet"),
    ]
    assert rows[2]["waits_for"] == ["gate"]
    cached = json.loads(run_here("plan", recipe, "--json").stdout)["steps"][0]
    assert (cached["state"], cached["reason"]) == ("cached", "in the store")


def test_from_without_what_comes_before_is_exit_code_2(run_cli: RunCli, recipe: Path) -> None:
    done = run_cli("run", recipe, "--from", "gate")
    assert done.returncode == 2
    assert "--from gate: not in the store yet: quantize" in done.stderr


def test_the_store_can_lie_elsewhere(
    run_here: RunHere, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOPT_STORE", str(tmp_path / "by-variable"))
    assert run_here("run", recipe, "--until", "quantize").returncode == 0
    assert len(list((tmp_path / "by-variable" / "artifacts").iterdir())) == 1
    assert run_here("plan", recipe, "--until", "quantize", "--store", "other").stdout.startswith(
        "•"
    )
    assert not (tmp_path / ".llmopt").exists()


def test_validate_looks_at_variants_too(
    run_cli: RunCli, tmp_path: Path, random_model: Path, documents: Path
) -> None:
    variants: dict[str, Any] = {"eight": {"steps": {"quantize": {"bits": 8}}}}
    recipe = make_recipe(random_model, documents, {"quantize": GPTQ}, variants=variants)
    good = write_recipe(tmp_path, recipe, "good.yaml")
    variants["wide"] = {"datasets": {"calibration": {"seq_len": 1000}}}
    bad = write_recipe(tmp_path, recipe, "bad.yaml")
    done = run_cli("validate", good, bad)
    assert done.returncode == 7
    assert "good.yaml: valid (1 steps, variants eight)" in done.stderr
    assert re.search(
        r"incompatible: variant wide: .*bad\.yaml:\d+:\d+: step quantize: data set calibration: "
        "seq_len 1000",
        done.stderr,
    )
    assert run_cli("validate", bad, "--variant", "eight", "--quiet").stderr == ""


def test_a_token_reaches_nothing_that_is_kept_or_said(
    run_here: RunHere,
    tmp_path: Path,
    random_model: Path,
    documents: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The value of HF_TOKEN is everywhere that a recipe can put it: names, paths, texts."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    folder = tmp_path / SECRET
    shutil.copytree(random_model, folder / "model")
    shutil.copyfile(documents, folder / "d.jsonl")
    steps = {f"q-{SECRET}": QUANTIZE, "gate": {**IMPOSSIBLE, "model": f"q-{SECRET}"}}
    recipe = make_recipe(
        f"./{SECRET}/model", f"{SECRET}/d.jsonl", steps, name=f"n-{SECRET}", description=SECRET
    )
    path = write_recipe(tmp_path, recipe)
    said = ""
    for arguments in (
        ("run", path, "--set", f"description=again {SECRET}"),
        ("run", path, "--json", "--force", "gate"),
        ("plan", path),
        ("plan", path, "--json"),
        ("validate", path),
        ("store", "ls"),
        ("store", "ls", "--json"),
        ("verify", folder / "model"),
        ("run", path, "--set", f"steps.gate.{SECRET}=1"),
        ("run", tmp_path / f"{SECRET}.yaml"),
        ("quantize", "gptq", folder / "model", "--data", folder / "d.jsonl", "--print-recipe"),
        ("quantize", "gptq", folder / "nowhere", "-o", "x"),
        ("eval", folder / "model", "--data", folder / "d.jsonl", "--samples", "2", "--json"),
    ):
        done = run_here(*arguments)
        said += done.stdout + done.stderr
    assert "***" in said
    assert SECRET not in said
    manifests = list((tmp_path / ".llmopt").rglob("manifest.json"))
    assert len(manifests) == 3
    for path in (tmp_path / ".llmopt" / "store" / "artifacts").rglob("*.json*"):
        assert SECRET not in path.read_text(encoding="utf-8")
    assert any("again ***" in manifest.read_text(encoding="utf-8") for manifest in manifests)
