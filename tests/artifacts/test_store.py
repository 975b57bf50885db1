"""The store: published whole, found by identity, cleared of what nobody wants."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmopt.artifacts.store import Store
from llmopt.errors import InputError
from tests.artifacts.test_locking import held_by_another_process
from tests.artifacts.workspaces import publish, seal

ID = "1d" * 32
ONE = "01" * 32
TWO = "02" * 32
LINKED = "a1" * 32
LOOSE = "a2" * 32
UNFINISHED = "a3" * 32
BUSY = "b0" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_an_artifact_is_found_once_it_is_published(store: Store) -> None:
    work = store.open_workspace(ID)
    seal(work, ID)
    assert store.find(ID) is None
    assert store.has_partial(ID)
    artifact = store.publish(ID, print)
    assert not work.exists()
    assert not store.has_partial(ID)
    assert store.find(ID) == artifact
    assert artifact.path == store.artifact_path(ID)
    assert artifact.find_faults() == []


def test_a_workspace_keeps_what_an_interrupted_run_left(store: Store) -> None:
    (store.open_workspace(ID) / "half").write_text("x", encoding="utf-8")
    assert (store.open_workspace(ID) / "half").exists()
    store.discard_workspace(ID)
    assert not store.has_partial(ID)
    store.discard_workspace(ID)  # a second time finds nothing and says nothing


def test_publishing_replaces_an_older_artifact(store: Store) -> None:
    publish(store, ID, "old")
    artifact = publish(store, ID, "new")
    assert (artifact.path / "a.txt").read_text(encoding="utf-8") == "new"
    assert [entry.identity for entry in store.entries()] == [ID]


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_a_damaged_artifact_is_not_found(store: Store, damage: str) -> None:
    path = publish(store, ID).path
    if damage == "truncate":
        (path / "a.txt").write_text("", encoding="utf-8")
    elif damage == "remove":
        (path / "sub" / "b.txt").unlink()
    else:
        (path / "manifest.json").unlink()
    assert store.find(ID) is None
    assert store.has_damaged(ID)
    publish(store, ID)
    assert store.find(ID) is not None
    assert not store.has_damaged(ID)


def test_nothing_is_not_damaged(store: Store) -> None:
    assert not store.has_damaged(ID)
    assert store.find(ID) is None
    assert list(store.entries()) == []
    assert store.collect_garbage(dry_run=False) == []


def test_a_link_points_at_the_artifact_and_can_be_moved_on(store: Store, tmp_path: Path) -> None:
    link = tmp_path / "out" / "recipe" / "step"
    one, two = publish(store, ONE), publish(store, TWO)
    store.link(link, one)
    assert link.resolve() == one.path
    store.link(link, two)
    assert link.resolve() == two.path
    assert {entry.identity: entry.links for entry in store.entries()} == {
        ONE: (),
        TWO: (link,),
    }
    assert [path.name for path in link.parent.iterdir()] == ["step"]


def test_a_link_holds_where_its_folder_is_a_link_itself(store: Store, tmp_path: Path) -> None:
    (tmp_path / "far" / "away" / "disk").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "far" / "away" / "disk")
    artifact = publish(store, ID)
    store.link(tmp_path / "out" / "step", artifact)
    assert (tmp_path / "out" / "step").resolve() == artifact.path
    assert store.collect_garbage(dry_run=False) == []


def test_gc_keeps_what_is_linked(store: Store, tmp_path: Path) -> None:
    store.link(tmp_path / "out" / "step", publish(store, LINKED))
    publish(store, LOOSE)
    (store.open_workspace(UNFINISHED) / "half").write_text("half", encoding="utf-8")
    would_go = store.collect_garbage(dry_run=True)
    assert [entry.identity for entry in would_go] == [LOOSE, UNFINISHED]
    assert [entry.identity for entry in store.entries()] == [LINKED, LOOSE, UNFINISHED]
    gone = store.collect_garbage(dry_run=False)
    assert [entry.identity for entry in gone] == [LOOSE, UNFINISHED]
    assert [entry.size_bytes for entry in gone] == [entry.size_bytes for entry in would_go]
    assert [entry.identity for entry in store.entries()] == [LINKED]
    assert store.find(LINKED) is not None


@pytest.mark.parametrize("change", ["removed", "pointed elsewhere", "made a file"])
def test_gc_removes_what_its_link_no_longer_points_at(
    store: Store, tmp_path: Path, change: str
) -> None:
    link = tmp_path / "out" / "step"
    store.link(link, publish(store, ID))
    link.unlink()
    if change == "pointed elsewhere":
        link.symlink_to(tmp_path)
    elif change == "made a file":
        link.write_text("x", encoding="utf-8")
    assert [entry.identity for entry in store.collect_garbage(dry_run=False)] == [ID]
    assert list(store.entries()) == []


def test_gc_leaves_what_another_process_is_making(store: Store) -> None:
    (store.open_workspace(BUSY) / "half").write_text("half", encoding="utf-8")
    publish(store, LOOSE)
    with held_by_another_process(store.root / "locks" / f"{BUSY}.lock"):
        assert [entry.identity for entry in store.collect_garbage(dry_run=False)] == [LOOSE]
    assert store.has_partial(BUSY)
    assert [entry.identity for entry in store.collect_garbage(dry_run=False)] == [BUSY]


def test_gc_leaves_what_a_run_reads(store: Store) -> None:
    publish(store, LOOSE)
    with store.hold_for_reading(LOOSE), store.hold_for_reading(LOOSE):
        assert store.collect_garbage(dry_run=False) == []
    assert [entry.identity for entry in store.collect_garbage(dry_run=False)] == [LOOSE]


def test_replacing_waits_for_readers(store: Store) -> None:
    old = publish(store, ID, "old")
    seal(store.open_workspace(ID), ID, "new")
    waits: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        with store.hold_for_reading(ID):
            replacing = pool.submit(store.publish, ID, waits.append)
            with pytest.raises(TimeoutError):
                replacing.result(timeout=0.3)
            assert (old.path / "a.txt").read_text(encoding="utf-8") == "old"
        assert (replacing.result(timeout=30).path / "a.txt").read_text(encoding="utf-8") == "new"
    assert waits == ["another run reads the artifact that this one replaces; waiting for it"]


@pytest.mark.parametrize("marked", [True, False])
def test_gc_touches_nothing_but_its_own(tmp_path: Path, marked: bool) -> None:
    mine = tmp_path / "artifacts" / "my-results"
    mine.mkdir(parents=True)
    store = Store(tmp_path)
    if not marked:
        with pytest.raises(InputError, match=r"is no store of llmopt \(it holds no store.json\)"):
            store.collect_garbage(dry_run=False)
    else:
        publish(store, LOOSE)
        assert [e.identity for e in store.collect_garbage(dry_run=False)] == [LOOSE]
    assert mine.exists()


def test_projects_that_share_a_store_by_links_keep_their_artifacts(tmp_path: Path) -> None:
    artifacts = {}
    for project, identity in (("a", ONE), ("b", TWO)):
        (tmp_path / project).mkdir()
        (tmp_path / project / "store").symlink_to(tmp_path / "big")
        store = Store(tmp_path / project / "store")
        artifacts[project] = publish(store, identity)
        store.link(tmp_path / project / "out" / "step", artifacts[project])
    assert Store(tmp_path / "big").collect_garbage(dry_run=False) == []
    assert (tmp_path / "a" / "out" / "step").resolve() == artifacts["a"].path


def test_gc_clears_what_a_killed_replacement_left(store: Store, tmp_path: Path) -> None:
    store.link(tmp_path / "out" / "step", publish(store, ID))
    (store.open_workspace(f"{ID}.replaced") / "old").mkdir()
    assert [entry.identity for entry in store.collect_garbage(dry_run=False)] == [f"{ID}.replaced"]
    assert [entry.identity for entry in store.entries()] == [ID]


def test_a_store_is_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("store"))
    publish(store, ID)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.find(ID) is not None
    assert Store(Path("../store")).find(ID) is not None
