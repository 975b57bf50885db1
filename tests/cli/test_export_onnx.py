"""`export-onnx` by hand, `verify` of what it wrote, and messages for what it can't do."""

from pathlib import Path

import pytest

from llmopt.artifacts.artifact import Artifact
from llmopt.recipe.loader import load_recipe
from llmopt.steps.export_onnx import ExportOnnx
from tests.cli.conftest import RunHere
from tests.conftest import RunCli


def test_the_printed_recipe_exports_the_same_bytes(
    run_here: RunHere, tmp_path: Path, random_model: Path
) -> None:
    options = (random_model, "--last-token-logits", "--opset", "22")
    printed = run_here("export-onnx", *options, "--print-recipe")
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "r.yaml").write_text(printed.stdout, encoding="utf-8")
    step = load_recipe(tmp_path / "r.yaml").recipe.steps["export"]
    assert isinstance(step, ExportOnnx)
    assert (step.last_token_logits, step.opset) == (True, 22)
    by_hand = run_here("export-onnx", *options, "-o", "onnx", "--threads", "1")
    assert by_hand.returncode == 0, by_hand.stderr
    assert "of PyTorch's largest value" in by_hand.stdout
    assert by_hand.stdout.splitlines()[-1] == "onnx"
    assert run_here("run", "r.yaml", "--threads", "1").returncode == 0
    for name in ("model.onnx", "model.onnx.data", "onnx.json"):
        made = (tmp_path / "out" / "export-onnx" / "export" / name).read_bytes()
        assert made == (tmp_path / "onnx" / name).read_bytes()
    assert Artifact.open(tmp_path / "onnx").find_faults() == []
    verified = run_here("verify", "onnx")
    assert verified.returncode == 0, verified.stderr
    assert "ONNX model (llama, generate, float32, weights plain, opset 22)" in verified.stdout
    data = tmp_path / "onnx" / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1000])
    damaged = run_here("verify", "onnx")
    assert damaged.returncode == 8
    assert "model.onnx.data" in damaged.stderr


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--weights", "qdq_int4"), 7, "is not quantised, so it has no integers"),
        (("--weights", "int4"), 2, "weights"),
        (("--opset", "17"), 2, "opset"),
        (("--weights", "qdq_int4", "--opset", "20"), 2, "qdq_int4 needs opset 21 or later, not 20"),
        (("--tolerance", "0"), 2, "tolerance"),
    ],
)
def test_what_does_not_fit_is_told_before_any_work(
    run_cli: RunCli,
    tmp_path: Path,
    random_model: Path,
    options: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    done = run_cli("export-onnx", random_model, *options, "-o", "onnx")
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "onnx").exists()
