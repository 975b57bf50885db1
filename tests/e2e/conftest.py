"""Fixtures for tests against real processes."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.payloads import Payload, read_payload
from tests.e2e.warm import WarmLlmopt
from tests.e2e.workplace import NUM_BLOCKS, Job, Workplace, both_jobs, recipe_job
from tests.models import make_model, write_documents

Furnish = Callable[[], Workplace]


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run: what came out, and how long its parts took."""

    payload: Payload
    load_s: float
    block_s: float


@pytest.fixture(scope="session")
def block_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of many small blocks; do not write into it."""
    folder = tmp_path_factory.mktemp("models") / "blocks"
    return make_model(folder, hidden_size=64, intermediate_size=128, num_hidden_layers=NUM_BLOCKS)


@pytest.fixture(scope="session")
def many_documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough documents for the recipe's samples; do not write into it."""
    return write_documents(tmp_path_factory.mktemp("data") / "documents.jsonl", 80)


@pytest.fixture
def furnish(
    tmp_path: Path, block_model: Path, many_documents: Path
) -> Iterator[Callable[[], Workplace]]:
    """Makes workplaces; at the end, sees that nothing was left outside of store and outputs."""
    places: list[Workplace] = []

    def make() -> Workplace:
        place = Workplace.furnish(tmp_path / f"place-{len(places)}", block_model, many_documents)
        places.append(place)
        return place

    yield make
    for place in places:
        place.stop_all()
    assert [leftover for place in places for leftover in place.find_leftovers()] == []


@pytest.fixture
def place(furnish: Furnish) -> Workplace:
    """A workplace with the default recipe."""
    return furnish()


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmLlmopt]:
    """A warm llmopt, for runs whose start-up does not matter."""
    server = WarmLlmopt()
    yield server
    server.close()


@pytest.fixture(scope="session")
def changes(
    tmp_path_factory: pytest.TempPathFactory,
    block_model: Path,
    many_documents: Path,
    warm: WarmLlmopt,
) -> dict[Job, list[str]]:
    """What uninterrupted runs of both jobs change in the file system, in order."""
    found = {}
    for name, job in both_jobs().items():
        root = tmp_path_factory.mktemp("changes") / name
        ended = warm.run(Workplace.furnish(root, block_model, many_documents), job)
        assert ended.code == 0, ended.stderr
        found[job] = ended.changes
    return found


@pytest.fixture(scope="session")
def reference(
    tmp_path_factory: pytest.TempPathFactory, block_model: Path, many_documents: Path
) -> Reference:
    """The default recipe, run by the real command without interruption."""
    root = tmp_path_factory.mktemp("reference") / "place"
    place = Workplace.furnish(root, block_model, many_documents)
    job = recipe_job()
    code, stderr = place.run(*job.arguments)
    assert code == 0, stderr
    artifact = place.folder / job.artifact
    timings: dict[str, Any] = json.loads((artifact / "manifest.json").read_text())["timings"]
    block_s = timings["quantize_s"] / NUM_BLOCKS
    return Reference(read_payload(artifact), timings["total_s"] - timings["quantize_s"], block_s)
