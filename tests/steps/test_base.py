"""What every step shares: kinds of inputs have a title each."""

from typing import get_args

from llmopt.artifacts.manifest import ArtifactKind
from llmopt.steps.base import KIND_TITLES


def test_every_kind_has_a_title() -> None:
    assert set(KIND_TITLES) == {*get_args(ArtifactKind), "checkpoint", "dataset"}
