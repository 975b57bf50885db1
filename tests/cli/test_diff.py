"""`diff`: what it shows, and when it ends with 3."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmopt.artifacts.manifest import StepRecord
from tests.cli.conftest import RunHere
from tests.report.artifacts import (
    make_layers,
    measure,
    write_artifact,
    write_gate,
    write_quantized,
    write_run,
)


@pytest.fixture
def pair(tmp_path: Path) -> None:
    """Two quantised checkpoints, `a` and `b`: b is 1.5 dB worse in all layers but the first."""
    write_quantized(tmp_path / "a")
    settings = {"bits": 8, "group_size": 128, "sym": True, "format": "gptq"}
    layers = make_layers(3, shift_db=-1.5)
    layers[0] = make_layers(3, shift_db=0.25)[0]
    layers[5] = layers[5].model_copy(update={"snr_db": layers[5].snr_db - 2})  # type: ignore[operator]
    write_quantized(
        tmp_path / "b",
        step=StepRecord(id="b", uses="quantize.gptq", version=1, settings=settings),
        layers=layers,
        tools={"llmopt": "0.1.0", "torch": "2.14.0"},
        files={"config.json": "{}", "new.txt": "12345"},
    )


@pytest.mark.usefixtures("pair")
def test_all_that_changed_is_shown(run_here: RunHere) -> None:
    done = run_here("diff", "a", "b")
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        "bits: 4 → 8",
        "torch: 2.13.0 → 2.14.0",
        "SNR is lower in 20 of 21 layers, by up to 3.50 dB",
        "model.layers.0.mlp.up_proj 43.15 → 39.65 dB -3.50 dB",
        "and 10 more (--json lists all)",
        "- model.safetensors (99 B)",
        "+ new.txt (5 B)",
        "~ config.json (21 B → 2 B)",
    ):
        assert line in [" ".join(shown.split()) for shown in done.stdout.splitlines()]
    assert "group_size" not in done.stdout
    assert "model.origin" not in done.stdout


@pytest.mark.usefixtures("pair")
def test_json_holds_every_layer_and_number(run_here: RunHere) -> None:
    found = json.loads(run_here("diff", "a", "b", "--json").stdout)
    layers = found["layers"]
    assert (layers["compared"], layers["regressed"], layers["biggest_drop_db"]) == (21, 20, 3.5)
    assert layers["biggest_drop_layer"] == layers["snr_db"][0]["layer"]
    drops = [row["drop"] for row in layers["snr_db"]]
    assert drops == sorted(drops, reverse=True)
    assert drops[-1] == -0.25
    assert found["settings"] == {"bits": {"a": 4, "b": 8}}
    assert found["metrics"]["weights_bytes"]["increase"] == 0
    assert found["passed_thresholds"] == []
    assert not found["same_work"]
    assert found["files"]["new.txt"] == {"a": None, "b": 5}


@pytest.fixture
def gates(tmp_path: Path) -> None:
    """Two gates, the second 10 % worse."""
    judged = write_quantized(tmp_path / "q")
    write_gate(tmp_path / "a", judged)
    metrics: dict[str, Any] = {**measure(1.1), "top1_agreement": 0.88, "zero": 1}
    write_gate(tmp_path / "b", judged, metrics={**metrics, "by_category": {"tech-pack": measure()}})


@pytest.mark.usefixtures("gates")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--max-increase kl_mean=0.0013", None),
        (
            "--max-increase kl_mean=0.0012",
            "kl_mean rose from 0.0123456 to 0.0135802, by 0.001235, allowed 0.0012",
        ),
        ("--max-increase perplexity=10.1%", None),
        (
            "--max-increase perplexity=9.9%",
            "perplexity rose from 20.25 to 22.275, by 10 %, allowed 9.9 %",
        ),
        ("--max-decrease top1_agreement=0.03", None),
        ("--max-decrease top1_agreement=0.01", "top1_agreement fell from 0.9 to 0.88, by 0.02"),
        ("--max-decrease kl_mean=0", None),
        ("--max-increase by_category.tech-pack.kl_mean=0", None),
        ("--max-increase by_category.寸法表.kl_mean=0", "kl_mean was not measured in the second"),
        ("--max-increase kl_maen=1", "kl_maen was measured in neither; did you mean kl_mean?"),
        ("--max-increase zero=1", "zero was not measured in the first"),
        ("--max-snr-drop 1", "no layer has an SNR in both, so no drop can be judged"),
        (
            "--max-increase kl_mean=0 --max-increase perplexity=0% --max-decrease top1_agreement=0",
            "allowed 0; perplexity rose from 20.25 to 22.275, by 10 %, allowed 0 %; top1_agreement",
        ),
    ],
)
def test_thresholds_on_metrics(run_here: RunHere, arguments: str, message: str | None) -> None:
    done = run_here("diff", "a", "b", *arguments.split())
    assert "metrics\n" in done.stdout  # the difference is shown either way
    if message is None:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 3
        assert done.stderr.startswith("gate failed: b against a: ")
        assert message in done.stderr


@pytest.mark.usefixtures("pair")
def test_the_threshold_on_layers(run_here: RunHere) -> None:
    assert run_here("diff", "a", "b", "--max-snr-drop", "3.6").returncode == 0
    done = run_here("diff", "a", "b", "--max-snr-drop", "1.6", "--json")
    assert done.returncode == 3
    sentence = (
        "SNR dropped by more than 1.6 dB in 1 of 21 layers, most in model.layers.0.mlp.up_proj: "
        "43.15 to 39.65 dB, by 3.50 dB"
    )
    assert json.loads(done.stdout)["passed_thresholds"] == [sentence]
    assert sentence in done.stderr
    assert run_here("diff", "b", "a", "--max-snr-drop", "0").returncode == 3  # layer 0 was better


def test_a_lost_layer_fails_the_threshold(run_here: RunHere, tmp_path: Path) -> None:
    write_quantized(tmp_path / "a", 3)
    write_quantized(tmp_path / "b", 2)
    done = run_here("diff", "a", "b", "--max-snr-drop", "9")
    assert done.returncode == 3
    assert (
        "7 layers of the first are not in the second (model.layers.2.mlp.down_proj" in done.stderr
    )
    assert "7 in A alone" in done.stdout


def test_an_artifact_equals_itself(run_here: RunHere, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    limits = ["--max-snr-drop", "0", "--max-increase", "weights_bytes=0%"]
    done = run_here("diff", "run/quantize", "run/quantize", *limits)
    assert done.returncode == 0
    assert "the same work: equal settings, inputs and versions" in done.stdout
    assert "the same files, byte by byte" in done.stdout
    assert "SNR is lower in 0 of 21 layers\n" in done.stdout + "\n"
    for section in ("settings", "inputs", "tools", "made", "files\n"):
        assert f"\n{section}" not in done.stdout


def test_other_kinds_are_compared_as_far_as_it_goes(run_here: RunHere, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    done = run_here("diff", "run/quantize", "run/gate")
    assert done.returncode == 0
    assert "kinds differ (quantized_checkpoint and evaluation)" in done.stdout
    assert "model.digest: " + "b" * 12 in done.stdout


@pytest.mark.parametrize(
    ("a", "b", "code", "message"),
    [
        ("run/gate", "nowhere", 8, "nowhere is no artifact: it is no folder"),
        ("empty", "run/gate", 8, "empty is no artifact: it holds no manifest.json"),
        ("run", "run/gate", 8, "name one of its steps: run/gate, run/quantize"),
        ("broken", "run/gate", 8, "is not a manifest of llmopt"),
    ],
)
def test_what_is_no_artifact_is_refused(
    run_here: RunHere, tmp_path: Path, a: str, b: str, code: int, message: str
) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    write_artifact(tmp_path / "broken")
    (tmp_path / "broken/manifest.json").write_text("[]", encoding="utf-8")
    done = run_here("diff", a, b)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


@pytest.mark.parametrize("text", ["kl_mean", "=1", "kl_mean=", "kl_mean=x", "kl_mean=-1", "a=nan%"])
def test_a_malformed_limit_is_a_usage_error(run_here: RunHere, tmp_path: Path, text: str) -> None:
    write_run(tmp_path / "run")
    done = run_here("diff", "run/gate", "run/gate", "--max-increase", text)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--max-increase {text}: write METRIC=VALUE" in done.stderr
