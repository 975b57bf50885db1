"""Streamed quantisations, killed: the next run keeps whole shards, the bytes are the same."""

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.payloads import Payload, read_payload
from tests.e2e.warm import WarmLlmopt
from tests.e2e.workplace import Job, Workplace
from tests.models import make_model, write_documents

SEED = 7
EXIT_KILLED = -9
METHODS: dict[str, dict[str, Any]] = {
    "nf4": {"uses": "quantize.nf4", "workers": 2},
    "int8": {"uses": "quantize.int8", "workers": 2},
}


@pytest.fixture(scope="module")
def sharded_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama in several files; do not write into it."""
    folder = tmp_path_factory.mktemp("models") / "sharded"
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "head_dim": 16}
    return make_model(folder, **sizes, vocab_size=320, max_shard_size="120KB")


@pytest.fixture(scope="module")
def num_shards(sharded_model: Path) -> int:
    return len(list(sharded_model.glob("*.safetensors")))


def furnish(root: Path, model: Path, method: str) -> tuple[Workplace, Job]:
    documents = write_documents(root.parent / f"{root.name}.jsonl", 2)
    place = Workplace.furnish(root, model, documents)
    recipe = {
        "version": 1,
        "name": "recipe",
        "sources": {"base": "./model"},
        "datasets": {},
        "steps": {"quantize": {"model": "base", **METHODS[method]}},
    }
    (place.folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    arguments = ("run", "recipe.yaml", "--threads", "1")
    return place, Job(arguments, ".llmopt/store/partial", "out/recipe/quantize")


def count_shards(place: Workplace, job: Job) -> int:
    for path in place.find_work(job, "shards.json"):
        try:
            return len(json.loads(path.read_text(encoding="utf-8"))["shards"])
        except FileNotFoundError:
            continue  # the work was finished just now
    return 0


def run_whole(root: Path, model: Path, method: str) -> Payload:
    place, job = furnish(root, model, method)
    code, stderr = place.run(*job.arguments)
    assert code == 0, stderr
    return read_payload(place.folder / job.artifact)


@pytest.mark.parametrize("method", [pytest.param("nf4", marks=pytest.mark.full), "int8"])
def test_killed_at_several_shards(
    tmp_path: Path, sharded_model: Path, num_shards: int, method: str
) -> None:
    assert num_shards >= 5
    whole = run_whole(tmp_path / "whole", sharded_model, method)
    place, job = furnish(tmp_path / "killed", sharded_model, method)
    num_killed = 0
    for wanted in (2, num_shards - 1):
        run = place.start(*job.arguments)
        alive = run.wait_for(lambda wanted=wanted: count_shards(place, job) >= wanted)
        if alive and run.process.poll() is None:
            run.send(signal.SIGKILL)
        num_killed += run.finish() == -signal.SIGKILL
        assert place.find_half_work() == []
    assert num_killed > 0, "every run was faster than its killer"
    found = count_shards(place, job)
    code, stderr = place.run(*job.arguments)
    assert code == 0, stderr
    if found:
        assert f"resumed: {found} of {num_shards} shards" in stderr
    assert read_payload(place.folder / job.artifact) == whole
    assert place.find_leftovers() == []


def die_and_resume(
    place: Workplace, job: Job, warm: WarmLlmopt, die_at: int, expected: Payload
) -> list[str]:
    """Kills a run before one change, runs again, and lists what is not as it should be."""
    place.clear()
    died = warm.run(place, job, die_at)
    faults = place.find_half_work()
    if died.code != EXIT_KILLED:
        faults.append(f"ended with {died.code} instead of being killed: {died.stderr}")
    found = count_shards(place, job)
    resumed = warm.run(place, job)
    if resumed.code != 0:
        faults.append(f"the next run ended with {resumed.code}: {resumed.stderr}")
    elif read_payload(place.folder / job.artifact) != expected:
        faults.append("the artifact is another one")
    finished = ("an earlier run finished it", "in the store")
    notes = (f"resumed: {found} of", *finished)
    if found and not any(note in resumed.stderr for note in notes):
        faults.append(f"{found} shards were finished, but: {resumed.stderr}")
    faults += [f"left over: {path}" for path in place.find_leftovers()]
    return [f"killed before change {die_at}, {died.changes[-1]}: {fault}" for fault in faults]


@pytest.fixture(scope="module")
def changes(
    tmp_path_factory: pytest.TempPathFactory, sharded_model: Path, warm: WarmLlmopt
) -> tuple[list[str], Payload]:
    """What an uninterrupted run changes in the file system, and what comes of it."""
    place, job = furnish(tmp_path_factory.mktemp("changes") / "place", sharded_model, "int8")
    ended = warm.run(place, job)
    assert ended.code == 0, ended.stderr
    return ended.changes, read_payload(place.folder / job.artifact)


def find_first(changes: list[str], part: str) -> int:
    return next(number for number, text in enumerate(changes, start=1) if part in text)


def test_some_crash_points(
    tmp_path: Path, sharded_model: Path, warm: WarmLlmopt, changes: tuple[list[str], Payload]
) -> None:
    made, expected = changes
    place, job = furnish(tmp_path / "place", sharded_model, "int8")
    first, journal = find_first(made, "partial"), find_first(made, "shards.json")
    link, seal = find_first(made, "os.link"), find_first(made, "manifest.json")
    rng = random.Random(SEED)  # noqa: S311
    points = [
        rng.randrange(first, journal),
        journal,
        journal + 1,
        *rng.sample(range(journal, link), 2),
    ]
    points += [link, link + 1, rng.randrange(link, seal), seal, seal + 1]
    faults = [f for point in points for f in die_and_resume(place, job, warm, point, expected)]
    assert faults == []


@pytest.mark.full
def test_every_crash_point(
    tmp_path: Path, sharded_model: Path, warm: WarmLlmopt, changes: tuple[list[str], Payload]
) -> None:
    made, expected = changes
    place, job = furnish(tmp_path / "place", sharded_model, "int8")
    points = range(find_first(made, "partial"), len(made) + 1)
    faults = [f for point in points for f in die_and_resume(place, job, warm, point, expected)]
    assert faults == []
