"""Artifacts held against their manifests."""

from pathlib import Path

import pytest

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.manifest import FileEntry
from llmopt.errors import InputError
from tests.artifacts.workspaces import seal


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    folder = tmp_path / "artifact"
    folder.mkdir()
    seal(folder, "id")
    return Artifact.open(folder)


def test_a_whole_artifact_has_no_faults(artifact: Artifact) -> None:
    assert artifact.find_faults() == []
    assert artifact.is_whole()
    assert [entry.path for entry in artifact.manifest.files] == ["a.txt", "sub/b.txt"]


def test_every_difference_is_named(artifact: Artifact) -> None:
    (artifact.path / "a.txt").write_text("Contents", encoding="utf-8")  # the same size
    (artifact.path / "sub" / "b.txt").unlink()
    (artifact.path / "extra.txt").write_text("x", encoding="utf-8")
    changed, missing, extra = artifact.find_faults()
    assert changed.startswith("a.txt has other contents than the manifest's sha256")
    assert missing == "sub/b.txt is missing"
    assert extra == "extra.txt is not in the manifest"


def test_a_shorter_file_is_found_without_hashing(artifact: Artifact) -> None:
    (artifact.path / "a.txt").write_text("c", encoding="utf-8")
    assert not artifact.is_whole()
    assert artifact.find_faults() == ["a.txt has 1 bytes, the manifest says 8"]


@pytest.mark.parametrize("path", ["../outside.txt", "/etc/hostname"])
def test_a_manifest_can_not_point_outside(artifact: Artifact, path: str) -> None:
    (artifact.path.parent / "outside.txt").write_text("contents", encoding="utf-8")
    entry = FileEntry(path=path, size=8, sha256="0" * 64)
    manifest = artifact.manifest.model_copy(update={"files": [entry]})
    faults = Artifact(artifact.path, manifest).find_faults()
    assert faults[0] == f"{path} points outside the artifact"


def test_a_folder_without_a_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        Artifact.open(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 2}', "\udcff"])
def test_a_manifest_that_is_none_is_refused(artifact: Artifact, text: str) -> None:
    (artifact.path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"manifest\.json is not a manifest of llmopt"):
        Artifact.open(artifact.path)
