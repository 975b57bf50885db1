"""A step that fails before it left work to go on with keeps nothing, whatever the error."""

from pathlib import Path

import pytest

from llmopt.artifacts.destination import FolderDestination
from llmopt.errors import ResourceError
from llmopt.recipe.execute import RunSettings, run_plan
from tests.recipe.harness import EVALUATE, Data, Workplace, make_recipe

ERRORS = [OSError(28, "No space left on device"), ZeroDivisionError(), KeyboardInterrupt()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("by_hand", [False, True], ids=["store", "folder"])
def test_nothing_is_kept(
    workplace: Workplace,
    random_model: Path,
    documents: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    by_hand: bool,
) -> None:
    def start(self: object, description: str, total: int, completed: int = 0) -> None:
        del self, description, total, completed
        raise error

    monkeypatch.setattr("tests.recipe.harness.Listener.start", start)
    steps: Data = {"measure": {**EVALUATE, "model": "base"}}
    plan = workplace.plan(make_recipe(random_model, documents, steps))
    store, output = workplace.store, workplace.folder / "output"
    destination = FolderDestination(output) if by_hand else store
    settings = RunSettings("cpu", threads=1, output_root=None)
    with pytest.raises((ResourceError, ZeroDivisionError, KeyboardInterrupt)):
        run_plan(plan, destination, store, settings, workplace.listener)
    assert not output.exists()
    assert workplace.stored() == []
