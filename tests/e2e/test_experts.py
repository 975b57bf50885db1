"""Mixtures of experts through the real command: planned, killed, resumed, verified, scored."""

import json
from pathlib import Path

import pytest

from tests.e2e.moments import Moment
from tests.e2e.payloads import read_payload
from tests.e2e.test_kill import kill_chain
from tests.e2e.workplace import NUM_BLOCKS, Workplace, recipe_job
from tests.models import make_model

MIN_TOKENS = 500  # of 16 x 64, each of which goes through two of four experts


def furnish_experts(root: Path, model: Path, documents: Path) -> Workplace:
    """Lays out a workplace whose recipe rounds starved experts to nearest."""
    place = Workplace.furnish(root, model, documents)
    place.write_recipe(experts={"min_tokens": MIN_TOKENS, "starved": "rtn"})
    return place


@pytest.mark.parametrize("family", ["mixtral", pytest.param("qwen3_moe", marks=pytest.mark.full)])
def test_killed_mixture_is_the_same_and_usable(
    tmp_path: Path, many_documents: Path, family: str
) -> None:
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": NUM_BLOCKS}
    model = make_model(tmp_path / "model", family, **shape)
    whole, killed = (
        furnish_experts(tmp_path / name, model, many_documents) for name in ("whole", "killed")
    )
    job = recipe_job()
    try:
        code, stderr = whole.run(*job.arguments)
        assert code == 0, stderr
        kill_chain(killed, job, [Moment("block", 2), Moment("block", 3, 0.05)], 1)
        artifact = killed.folder / job.artifact
        assert read_payload(artifact) == read_payload(whole.folder / job.artifact)
        check_manifest(artifact)
        assert "layers that see fewer calibration tokens than 500 are rounded to nearest" in stderr
        check_use(killed, job.artifact)
    finally:
        whole.stop_all()
        killed.stop_all()


def check_manifest(artifact: Path) -> None:
    """Starved experts of blocks before and after the kill are named, with what was done."""
    manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    assert len(manifest["layers"]) == NUM_BLOCKS * (4 + 3 * 4)
    starved = {row["layer"] for row in manifest["layers"] if row["starved"]}
    assert 0 < len(starved) < 3 * NUM_BLOCKS * 4
    assert {int(name.split(".")[2]) for name in starved} > {0, NUM_BLOCKS - 1}
    assert {line.partition(":")[0] for line in manifest["degraded"]} == starved
    assert all(
        line.endswith("fewer than 500 (experts.min_tokens); rounded to nearest")
        for line in manifest["degraded"]
    )


def check_use(place: Workplace, artifact: str) -> None:
    """The artifact is sound, can be scored, and another run could be planned."""
    for arguments in (
        ("verify", artifact),
        ("eval", artifact, "--baseline", "model", "--data", "documents.jsonl", "--samples", "4",
         "--max-length", "64", "--threads", "1"),
        ("plan", "recipe.yaml", "--set", "steps.quantize.experts.starved=fail"),
    ):  # fmt: skip
        code, stderr = place.run(*arguments)
        assert code == 0, stderr
    code, stderr = place.run("run", "recipe.yaml", "--set", "steps.quantize.experts.starved=fail")
    assert code == 8
    assert "set experts.starved to rtn or all_tokens" in stderr
