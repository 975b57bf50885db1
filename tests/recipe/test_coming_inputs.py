"""What another step will make is judged by `validate`, and by `run` before anything is made."""

from pathlib import Path

import pytest

from llmopt.errors import IncompatibleError
from llmopt.recipe.inputs import validate_recipe
from llmopt.recipe.loader import load_recipe
from tests.conftest import RunCli
from tests.quant.pipeline import make_small_model

RECIPE = """
version: 1
name: export
sources: {base: ./model}
steps:
  quantize: {uses: quantize.fp8, model: base}
  int4: {uses: export.onnx, model: quantize, weights: qdq_int4}
"""


def test_an_export_that_can_not_be_is_refused_before_the_quantisation(
    tmp_path: Path, run_cli: RunCli
) -> None:
    make_small_model(tmp_path / "model")
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    with pytest.raises(IncompatibleError, match=r"step int4: what quantize\.fp8 makes rounds"):
        validate_recipe(load_recipe(tmp_path / "r.yaml"))
    done = run_cli("run", "r.yaml")
    assert done.returncode == 7
    assert "step int4: what quantize.fp8 makes rounds the inputs" in done.stderr
    assert not list((tmp_path / ".llmopt").rglob("manifest.json"))
