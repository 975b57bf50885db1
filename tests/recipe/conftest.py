"""Fixtures of the recipe tests."""

from pathlib import Path

import pytest

from tests.recipe.harness import Workplace


@pytest.fixture
def workplace(tmp_path: Path, one_thread: None) -> Workplace:
    """An empty working directory, computing on one thread."""
    return Workplace(tmp_path)
