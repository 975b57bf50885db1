"""The store: published whole, found by identity, cleared of what nobody wants."""

from pathlib import Path

import pytest

from llmopt.artifacts.store import Store
from tests.artifacts.test_locking import held_by_another_process
from tests.artifacts.workspaces import publish, seal


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_an_artifact_is_found_once_it_is_published(store: Store) -> None:
    work = store.open_workspace("id")
    seal(work, "id")
    assert store.find("id") is None
    assert store.has_partial("id")
    artifact = store.publish("id")
    assert not work.exists()
    assert not store.has_partial("id")
    assert store.find("id") == artifact
    assert artifact.path == store.artifact_path("id")
    assert artifact.find_faults() == []


def test_a_workspace_keeps_what_an_interrupted_run_left(store: Store) -> None:
    (store.open_workspace("id") / "half").write_text("x", encoding="utf-8")
    assert (store.open_workspace("id") / "half").exists()
    store.discard_workspace("id")
    assert not store.has_partial("id")
    store.discard_workspace("id")  # a second time finds nothing and says nothing


def test_publishing_replaces_an_older_artifact(store: Store) -> None:
    publish(store, "id", "old")
    artifact = publish(store, "id", "new")
    assert (artifact.path / "a.txt").read_text(encoding="utf-8") == "new"
    assert [entry.identity for entry in store.entries()] == ["id"]


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_a_damaged_artifact_is_not_found(store: Store, damage: str) -> None:
    path = publish(store, "id").path
    if damage == "truncate":
        (path / "a.txt").write_text("", encoding="utf-8")
    elif damage == "remove":
        (path / "sub" / "b.txt").unlink()
    else:
        (path / "manifest.json").unlink()
    assert store.find("id") is None
    assert store.has_damaged("id")
    publish(store, "id")
    assert store.find("id") is not None
    assert not store.has_damaged("id")


def test_nothing_is_not_damaged(store: Store) -> None:
    assert not store.has_damaged("id")
    assert store.find("id") is None
    assert list(store.entries()) == []
    assert store.collect_garbage(dry_run=False) == []


def test_a_link_points_at_the_artifact_and_can_be_moved_on(store: Store, tmp_path: Path) -> None:
    link = tmp_path / "out" / "recipe" / "step"
    one, two = publish(store, "one"), publish(store, "two")
    store.link(link, one)
    assert link.resolve() == one.path
    store.link(link, two)
    assert link.resolve() == two.path
    assert {entry.identity: entry.links for entry in store.entries()} == {
        "one": (),
        "two": (link,),
    }
    assert [path.name for path in link.parent.iterdir()] == ["step"]


def test_a_link_holds_where_its_folder_is_a_link_itself(store: Store, tmp_path: Path) -> None:
    (tmp_path / "far" / "away" / "disk").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "far" / "away" / "disk")
    artifact = publish(store, "id")
    store.link(tmp_path / "out" / "step", artifact)
    assert (tmp_path / "out" / "step").resolve() == artifact.path
    assert store.collect_garbage(dry_run=False) == []


def test_gc_keeps_what_is_linked(store: Store, tmp_path: Path) -> None:
    store.link(tmp_path / "out" / "step", publish(store, "linked"))
    publish(store, "loose")
    (store.open_workspace("unfinished") / "half").write_text("half", encoding="utf-8")
    would_go = store.collect_garbage(dry_run=True)
    assert [entry.identity for entry in would_go] == ["loose", "unfinished"]
    assert [entry.identity for entry in store.entries()] == ["linked", "loose", "unfinished"]
    gone = store.collect_garbage(dry_run=False)
    assert [entry.identity for entry in gone] == ["loose", "unfinished"]
    assert [entry.size_bytes for entry in gone] == [entry.size_bytes for entry in would_go]
    assert [entry.identity for entry in store.entries()] == ["linked"]
    assert store.find("linked") is not None


@pytest.mark.parametrize("change", ["removed", "pointed elsewhere", "made a file"])
def test_gc_removes_what_its_link_no_longer_points_at(
    store: Store, tmp_path: Path, change: str
) -> None:
    link = tmp_path / "out" / "step"
    store.link(link, publish(store, "id"))
    link.unlink()
    if change == "pointed elsewhere":
        link.symlink_to(tmp_path)
    elif change == "made a file":
        link.write_text("x", encoding="utf-8")
    assert [entry.identity for entry in store.collect_garbage(dry_run=False)] == ["id"]
    assert list(store.entries()) == []


def test_gc_leaves_what_another_process_is_making(store: Store) -> None:
    (store.open_workspace("busy") / "half").write_text("half", encoding="utf-8")
    publish(store, "loose")
    with held_by_another_process(store.root / "locks" / "busy.lock"):
        assert [entry.identity for entry in store.collect_garbage(dry_run=False)] == ["loose"]
    assert store.has_partial("busy")
    assert [entry.identity for entry in store.collect_garbage(dry_run=False)] == ["busy"]


def test_gc_clears_what_a_killed_replacement_left(store: Store, tmp_path: Path) -> None:
    store.link(tmp_path / "out" / "step", publish(store, "id"))
    (store.open_workspace("id.replaced") / "old").mkdir()
    assert [entry.identity for entry in store.collect_garbage(dry_run=False)] == ["id.replaced"]
    assert [entry.identity for entry in store.entries()] == ["id"]


def test_a_store_is_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("store"))
    publish(store, "id")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.find("id") is not None
    assert Store(Path("../store")).find("id") is not None
