"""Models and data sets of the hub: a real `llmopt` against a small hub of our own."""

import dataclasses
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from tests.models import REPOSITORY
from tests.recipe.harness import QUANTIZE, Data, write_recipe
from tests.recipe.hub_server import COMMIT, Hub, serve_hub

TOKEN = "hf_aVerySecretTokenOfTheTests"
CLEARED = ("HF_HUB_OFFLINE", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy")
WEIGHTS = "model.safetensors"
TRAIN = "data/train-00000-of-00001.parquet"
READ_BYTES = 10 << 20  # what the client reads before it writes


@dataclasses.dataclass
class Place:
    """A working directory with a hub cache of its own."""

    folder: Path
    hub: Hub

    def llmopt(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs the real command line against the hub."""
        inherited = {name: value for name, value in os.environ.items() if name not in CLEARED}
        return subprocess.run(
            [sys.executable, "-m", "llmopt", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={
                **inherited,
                "PYTHONPATH": str(REPOSITORY),
                "COLUMNS": "200",
                "HF_ENDPOINT": self.hub.url,
                "HF_HOME": str(self.folder / "hf"),
                **environment,
            },
        )

    def write(self, **dataset: Any) -> None:
        """Writes a recipe that calibrates a hub model on a hub data set."""
        write_recipe(self.folder, make_recipe(dataset))

    def blobs(self) -> list[Path]:
        return [path for path in (self.folder / "hf").rglob("blobs/*") if path.is_file()]


def make_recipe(dataset: Mapping[str, Any]) -> Data:
    given = {"hf": "org/words", "revision": "main", "samples": 2, "seq_len": 64, **dataset}
    step = {**QUANTIZE, "uses": "quantize.gptq", "data": "calibration"}
    return {
        "version": 1,
        "name": "small",
        "sources": {"base": "org/model@main"},
        "datasets": {"calibration": given},
        "steps": {"quantize": step},
    }


@pytest.fixture(scope="module")
def repositories(
    random_model: Path, documents: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A model, a data set with two splits, and one whose file takes several reads to fetch."""
    hub = tmp_path_factory.mktemp("hub")
    rows = [json.loads(line) for line in documents.read_text(encoding="utf-8").splitlines()]
    write_parquet(hub / "words" / TRAIN, rows)
    write_parquet(hub / "words" / "data" / "test-00000-of-00001.parquet", rows[:5])
    (hub / "words" / "words.py").write_text("raise SystemExit('it ran')\n", encoding="utf-8")
    noise = random.Random(0)  # noqa: S311 - bytes that no compression makes fewer
    write_parquet(
        hub / "heavy" / TRAIN, [{**row, "noise": noise.randbytes(600_000)} for row in rows]
    )
    return {
        "models/org/model": random_model,
        "datasets/org/words": hub / "words",
        "datasets/org/heavy": hub / "heavy",
    }


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture
def place(tmp_path: Path, repositories: dict[str, Path]) -> Iterator[Place]:
    with serve_hub(**repositories) as hub:
        yield Place(tmp_path, hub)


def test_private_repositories_are_fetched_used_and_the_token_kept_nowhere(place: Place) -> None:
    place.write()
    place.hub.token = TOKEN
    refused = place.llmopt("run", "recipe.yaml")
    assert refused.returncode == 8
    assert "model org/model@main: the hub knows none of that name" in refused.stderr
    assert "HF_TOKEN" in refused.stderr
    done = place.llmopt("run", "recipe.yaml", "--device", "cpu", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert "fetching model org/model@main" in done.stderr
    assert "fetching data set org/words@main" in done.stderr

    assert len(place.hub.asked("GET", WEIGHTS)) == 1
    assert not place.hub.asked("GET", ".py")  # no script of a data set is as much as fetched

    manifest = json.loads((place.folder / "out/small/quantize/manifest.json").read_text())
    assert manifest["inputs"]["model"]["origin"] == f"org/model@main (commit {COMMIT})"
    assert manifest["inputs"]["data"]["origin"].endswith(f"org/words@main is commit {COMMIT}")
    assert manifest["metrics"]["calibration_tokens"] == 128

    assert TOKEN not in done.stdout + done.stderr
    written = [path for path in place.folder.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]

    place.hub.requests.clear()
    offline = place.llmopt("run", "recipe.yaml", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://[::1]:1")
    assert offline.returncode == 0, offline.stderr
    again = place.llmopt("plan", "recipe.yaml", HF_TOKEN=TOKEN)
    assert "✓ cached" in again.stdout
    assert place.hub.requests == []


def test_validate_and_plan_ask_nothing_of_the_hub(place: Place) -> None:
    place.write(require={"min_rows": 1000})
    assert place.llmopt("validate", "recipe.yaml").returncode == 0
    planned = place.llmopt("plan", "recipe.yaml")
    assert planned.returncode == 0, planned.stderr
    assert "quantize.gptq" in planned.stdout
    assert place.hub.requests == []


def test_a_transfer_that_breaks_off_goes_on_where_it_was(place: Place) -> None:
    place.write(hf="org/heavy", require={"min_rows": 1000})
    place.hub.cut_once = TRAIN
    refused = place.llmopt("run", "recipe.yaml")
    assert place.hub.cut_once is None
    ranges = [request.headers.get("range") for request in place.hub.asked("GET", TRAIN)]
    assert ranges == [None, f"bytes={READ_BYTES}-"]
    # Whole, checked, read, and found unfit: what could not be seen before it was there.
    assert refused.returncode == 8
    assert "it holds 40 documents, require.min_rows is 1000" in refused.stderr


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (WEIGHTS, "model org/model@main"),
        (TRAIN, "data set org/words@main"),
    ],
)
def test_other_bytes_than_announced_are_refused_and_fetched_anew(
    place: Place, name: str, what: str
) -> None:
    place.write(require={"min_rows": 1000})
    place.hub.spoilt = name
    refused = place.llmopt("run", "recipe.yaml")
    assert refused.returncode == 8
    assert f"{what}: not the bytes that the hub's SHA-256 announces: {name}" in refused.stderr
    assert "run again" in refused.stderr
    whole = {path.name for path in place.blobs()}
    place.hub.spoilt = None
    mended = place.llmopt("run", "recipe.yaml")
    assert "it holds 40 documents" in mended.stderr  # both are there now, and were looked at
    anew = [path for path in place.blobs() if path.name not in whole and len(path.name) == 64]
    assert len(place.hub.asked("GET", name)) == 2
    assert anew


def test_a_proxy_is_used(place: Place) -> None:
    place.write(require={"min_rows": 1000})
    proxy, place.hub.url = place.hub.url, "http://hub.invalid"
    refused = place.llmopt("run", "recipe.yaml", HTTP_PROXY=proxy, NO_PROXY="")
    assert "it holds 40 documents" in refused.stderr
    assert place.hub.requests
    assert all(r.target.startswith("http://hub.invalid/") for r in place.hub.requests)


def test_offline_says_what_is_missing(place: Place) -> None:
    place.write(require={"min_rows": 1000})
    nothing = place.llmopt("run", "recipe.yaml", HF_HUB_OFFLINE="1")
    assert nothing.returncode == 8
    assert "model org/model@main is not in the local cache" in nothing.stderr
    assert "HF_HUB_OFFLINE is set" in nothing.stderr
    assert place.hub.requests == []
    assert "it holds 40 documents" in place.llmopt("run", "recipe.yaml").stderr
    place.write()
    (link,) = (place.folder / "hf").rglob(f"snapshots/*/{WEIGHTS}")
    link.unlink()
    partial = place.llmopt("run", "recipe.yaml", HF_HUB_OFFLINE="1")
    assert partial.returncode == 8
    assert "model org/model@main is not whole in the local cache" in partial.stderr
    assert f"1 file(s) are missing ({WEIGHTS})" in partial.stderr


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"revision": "v9"}, "data set org/words@v9: the hub has no such commit, tag or branch"),
        ({"hf": "org/none"}, "data set org/none@main: the hub knows none of that name"),
        pytest.param(
            {"split": "validation"},
            "split 'validation' can't be read: Unknown split",
            marks=pytest.mark.full,
        ),
        pytest.param(
            {"split": "test", "field": "body"},
            "org/words@main:test#1: the row has no field 'body'",
            marks=pytest.mark.full,
        ),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    place: Place, dataset: dict[str, str], message: str
) -> None:
    place.write(**dataset)
    refused = place.llmopt("run", "recipe.yaml")
    assert refused.returncode == 8
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_hub_that_is_down_is_said_so(place: Place) -> None:
    place.write()
    refused = place.llmopt("run", "recipe.yaml", HF_ENDPOINT="http://127.0.0.1:1")
    assert refused.returncode == 8
    assert "model org/model@main is not in the local cache" in refused.stderr
    assert "the hub can't be reached" in refused.stderr
