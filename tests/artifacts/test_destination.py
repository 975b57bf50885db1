"""`-o DIR`: empty or whole at every moment, whatever dies in between."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.destination import FolderDestination
from llmopt.errors import InputError, RecipeError
from tests.artifacts.workspaces import publish, seal


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "parent" / "out"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_or_empty_folder_is_filled(output: Path, exists: bool) -> None:
    if exists:
        output.mkdir(parents=True)
    artifact = publish(FolderDestination(output), "id")
    assert artifact.path == output
    assert artifact.find_faults() == []
    assert names(output) == ["a.txt", "manifest.json", "sub"]
    assert names(output.parent) == ["out"]


def test_a_link_to_a_folder_is_followed(output: Path) -> None:
    output.mkdir(parents=True)
    link = output.parent / "link"
    link.symlink_to(output)
    publish(FolderDestination(link), "id")
    assert link.is_symlink()
    assert Artifact.open(output).find_faults() == []


def test_nothing_shows_before_it_is_published(output: Path) -> None:
    destination = FolderDestination(output)
    seal(destination.open_workspace("id"), "id")
    assert names(output) == [".llmopt-partial"]


def test_a_folder_that_holds_something_is_refused(output: Path) -> None:
    output.mkdir(parents=True)
    (output / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"out is not empty \(it holds 'mine\.txt'\)") as caught:
        FolderDestination(output).open_workspace("id")
    assert caught.value.exit_code == 2
    assert names(output) == ["mine.txt"]


def test_a_finished_artifact_is_not_overwritten(output: Path) -> None:
    publish(FolderDestination(output), "id")
    with pytest.raises(RecipeError, match="is not empty"):
        FolderDestination(output).check("id")
    assert FolderDestination(output).find("id") is None


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(RecipeError, match="file is a file"):
        FolderDestination(tmp_path / "file").check("id")
    destination = FolderDestination(tmp_path / "file" / "out")
    with pytest.raises(InputError, match="can't be made"), destination.lock("id", print):
        pytest.fail("nothing to hold")


def test_the_same_steps_unfinished_work_is_gone_on_with(output: Path) -> None:
    work = FolderDestination(output).open_workspace("id")
    (work / "half").write_text("half", encoding="utf-8")
    again = FolderDestination(output)
    assert (again.open_workspace("id") / "half").exists()
    (work / "half").unlink()
    publish(again, "id")
    assert names(output) == ["a.txt", "manifest.json", "sub"]


def test_another_steps_unfinished_work_is_refused(output: Path) -> None:
    work = FolderDestination(output).open_workspace("id")
    with pytest.raises(RecipeError, match="unfinished work of another step") as caught:
        FolderDestination(output).check("other")
    assert caught.value.remedy is not None
    assert ".llmopt-partial" in caught.value.remedy
    with pytest.raises(RecipeError, match="unfinished work of another step"):
        FolderDestination(output).open_workspace("other")
    assert work.exists()


@pytest.mark.parametrize("exists", [False, True])
def test_discarded_work_leaves_what_was_there(output: Path, exists: bool) -> None:
    if exists:
        output.mkdir(parents=True)
    FolderDestination(output).discard_workspace("id")
    FolderDestination(output).open_workspace("id")
    resumed = FolderDestination(output)  # another process, which did not make the folder
    resumed.open_workspace("id")
    resumed.discard_workspace("id")
    assert output.exists() is exists
    if exists:
        assert names(output) == []
    resumed.check("other")


def die_in_publish(output: Path, monkeypatch: pytest.MonkeyPatch, num_moves: int) -> bool:
    """Publishes, but dies after so many renames and removals; tells whether it came through."""
    destination = FolderDestination(output)
    seal(destination.open_workspace("id"), "id")
    left = iter(range(num_moves))

    def dying(move: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object) -> object:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return move(*arguments)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying(Path.rename))
        patch.setattr(shutil, "rmtree", dying(shutil.rmtree))
        try:
            destination.publish("id", print)
        except KeyboardInterrupt:
            return False
    return True


@pytest.mark.parametrize("num_moves", range(5))
def test_an_interrupted_handover_is_completed(
    output: Path, monkeypatch: pytest.MonkeyPatch, num_moves: int
) -> None:
    came_through = die_in_publish(output, monkeypatch, num_moves)
    assert came_through is (num_moves >= 3)
    if not came_through:
        assert [name for name in names(output) if not name.startswith(".")] == []
        destination = FolderDestination(output)
        work = destination.open_workspace("id")
        assert Artifact.open(work).find_faults() == []  # nothing of it is lost
        destination.publish("id", print)
    assert Artifact.open(output).find_faults() == []
    assert names(output.parent) == ["out"]


@pytest.mark.parametrize("num_moves", range(3))
def test_another_step_does_not_take_an_interrupted_handover(
    output: Path, monkeypatch: pytest.MonkeyPatch, num_moves: int
) -> None:
    assert not die_in_publish(output, monkeypatch, num_moves)
    for _ in range(2):
        with pytest.raises(RecipeError, match="unfinished work of another step"):
            FolderDestination(output).open_workspace("other")
    assert Artifact.open(FolderDestination(output).open_workspace("id")).find_faults() == []
