"""Which artifacts a report tells of."""

from pathlib import Path

import pytest

from llmopt.errors import InputError
from llmopt.report.lineage import open_lineage
from tests.report.artifacts import write_gate, write_quantized, write_run


def names(folder: Path) -> list[str]:
    return [artifact.manifest.step.id for artifact in open_lineage(folder).artifacts]


def test_a_run_is_told_in_the_order_of_making(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    assert names(tmp_path / "run") == ["quantize", "gate"]
    assert open_lineage(tmp_path / "run").title == "small"


def test_the_order_follows_inputs_not_clocks(tmp_path: Path) -> None:
    late = write_quantized(tmp_path / "run/quantize", created="2027-01-01T00:00:00+00:00")
    write_gate(tmp_path / "run/gate", late)
    assert names(tmp_path / "run") == ["quantize", "gate"]


def test_an_artifact_comes_with_its_ancestors_and_its_evaluations(tmp_path: Path) -> None:
    artifacts = write_run(tmp_path / "run")
    write_gate(tmp_path / "run/other", write_quantized(tmp_path / "elsewhere", identity="9" * 64))
    for name in ("quantize", "gate"):
        lineage = open_lineage(tmp_path / "run" / name)
        assert names(tmp_path / "run" / name) == ["quantize", "gate"]
        assert lineage.title == f"small / {name}"
        assert lineage.subject is not None
        assert lineage.subject.manifest == artifacts[name].manifest


def test_links_into_a_store_are_followed(tmp_path: Path) -> None:
    store = tmp_path / "store"
    quantized = write_quantized(store / "q")
    gate = write_gate(store / "g", quantized)
    links = tmp_path / "out" / "small"
    links.mkdir(parents=True)
    (links / "gate").symlink_to(gate.path)
    assert names(links / "gate") == ["q", "g"]  # its input is found in the store, though not linked
    (links / "gone").symlink_to(store / "nothing")
    lineage = open_lineage(links)
    assert [a.manifest.step.id for a in lineage.artifacts] == ["g"]
    assert lineage.missing == ("gone: its link points at nothing, the artifact is gone",)


@pytest.mark.parametrize(
    ("place", "message"),
    [("nowhere", "nowhere is no folder"), ("empty", "no manifest.json and no step's artifact")],
)
def test_what_is_no_artifact_is_refused(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        open_lineage(tmp_path / place)


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "run/gate/manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="is not a manifest of llmopt"):
        open_lineage(tmp_path / "run")
    assert names(tmp_path / "run/quantize") == ["quantize"]
