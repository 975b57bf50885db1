"""benchmarks/quantization_variants.py: llmopt accepts its recipe, and its table is right."""

from pathlib import Path
from types import ModuleType

import pytest

from llmopt.recipe.graph import build_graph
from llmopt.recipe.loader import load_recipe
from tests.benchmarks.test_calibration_study import load_script
from tests.models import TINY_MODEL


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("quantization_variants", monkeypatch)


def test_the_recipe_is_accepted(variants: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    names = variants.write_recipe(path, TINY_MODEL, seed=3)
    assert list(names.values()) == list(variants.VARIANTS)
    graph = build_graph(load_recipe(path))
    assert set(graph.order) == {*names, "compare"}


def test_the_table_sets_every_variant_beside_rounding(variants: ModuleType) -> None:
    one = dict.fromkeys(variants.VARIANTS, (4.25, 0.002))
    other = {**one, "GPTQ, 3 bits": (3.25, 0.004), variants.BASELINE: (4.25, 0.006)}
    rows = variants.tabulate([one, other]).splitlines()
    assert len(rows) == 2 + len(variants.VARIANTS)
    assert "| rtn, 4 bits | 4.25 | 0.004000 | 0.002000 to 0.006000 | 1.00 |" in rows
    assert "| GPTQ, 3 bits | 4.25 | 0.003000 | 0.002000 to 0.004000 | 1.33 |" in rows
    assert "| FP8 | 4.25 | 0.002000 | the same | 2.00 |" in rows
    assert "| FP8 | 4.25 | 0.002000 | one | 1.00 |" in variants.tabulate([one]).splitlines()
