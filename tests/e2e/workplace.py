"""A folder in which the real llmopt runs, watched from outside: its files, processes, leftovers."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.payloads import find_faults
from tests.models import REPOSITORY

NUM_BLOCKS = 6
SETTINGS = {"group_size": 32}
DATA = {"samples": 16, "seq_len": 64}
OUTPUT = "quantized"
INPUTS = {"model", "documents.jsonl"}
POLL_S = 0.0003
TIMEOUT_S = 300.0
FINISHED_NOTE = "resumed: an earlier run finished it"
STORED_NOTE = "quantize: in the store"


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        arguments: What follows `llmopt`.
        partial: The folder under which its unfinished work lies.
        artifact: Where its artifact appears.
    """

    arguments: tuple[str, ...]
    partial: str
    artifact: str


def recipe_job(name: str = "recipe", *options: str) -> Job:
    """The job of `llmopt run NAME.yaml`."""
    arguments = ("run", f"{name}.yaml", "--threads", "1", *options)
    return Job(arguments, ".llmopt/store/partial", f"out/{name}/quantize")


def hand_job(output: str = OUTPUT, *options: str) -> Job:
    """The job of `llmopt quantize gptq MODEL -o OUTPUT` with the recipe's settings."""
    fields = {**SETTINGS, **DATA, "data": "documents.jsonl", "threads": 1}
    given = [part for key, value in fields.items() for part in (_option(key), str(value))]
    arguments = ("quantize", "gptq", "./model", *given, "-o", output, *options)
    return Job(arguments, output, output)


def both_jobs() -> dict[str, Job]:
    """The recipe's job and the same by hand, by name; their artifacts hold the same bytes."""
    return {"run": recipe_job(), "by hand": hand_job()}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass
class Run:
    """A process of llmopt; its output goes to files, so that it can be read while it runs."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def stderr(self) -> str:
        """What it said on stderr so far."""
        return self.log.with_suffix(".err").read_text(encoding="utf-8")

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Waits until the condition holds; False if the process ended first."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if self.process.poll() is not None:
                return condition()
            assert time.monotonic() < deadline, f"waited too long; stderr:\n{self.stderr}"
            time.sleep(POLL_S)
        return True

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, also to a process that has ended but was not waited for."""
        os.kill(self.process.pid, number)

    def finish(self) -> int:
        """Waits for the end, sees that no process is left, and returns the exit code."""
        code = self.process.wait(TIMEOUT_S)
        assert _list_session(self.process.pid) == []
        return code


def _list_session(session: int) -> list[int]:
    pids = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == session and psutil.Process(pid).status() != "zombie":
                pids.append(pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return pids


@dataclass
class Workplace:
    """A folder with a model, documents and recipes, and with a home and a /tmp of its own."""

    root: Path
    runs: list[Run] = field(default_factory=list)

    @classmethod
    def furnish(cls, root: Path, model: Path, documents: Path) -> "Workplace":
        """Lays out the folders and the default recipe."""
        place = cls(root)
        for name in ("work", "home", "tmp", "logs"):
            (root / name).mkdir(parents=True)
        (place.folder / "model").symlink_to(model, target_is_directory=True)
        (place.folder / "documents.jsonl").symlink_to(documents)
        place.write_recipe()
        return place

    @property
    def folder(self) -> Path:
        """The folder in which commands run."""
        return self.root / "work"

    @property
    def store(self) -> Path:
        """The default store."""
        return self.folder / ".llmopt" / "store"

    def write_recipe(
        self, name: str = "recipe", uses: str = "quantize.gptq", **settings: Any
    ) -> None:
        """Writes a recipe of one quantisation; `settings` are fields of its step."""
        recipe = {
            "version": 1,
            "name": name,
            "sources": {"base": "./model"},
            "datasets": {"calibration": {"path": "documents.jsonl", **DATA}},
            "steps": {
                "quantize": {
                    "uses": uses,
                    "model": "base",
                    "data": "calibration",
                    **SETTINGS,
                    **settings,
                }
            },
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(recipe, indent=1), encoding="utf-8")  # JSON is YAML

    def environment(self) -> dict[str, str]:
        """The environment of every process: nothing leads out of this folder."""
        kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        return {
            **kept,
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "PYTHONPATH": str(REPOSITORY),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
        }

    def start(self, *arguments: str, memory_bytes: int | None = None) -> Run:
        """Starts `python -m llmopt ARGUMENTS` in a session of its own."""
        log = self.root / "logs" / f"{len(self.runs):03d}"
        with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "llmopt", *arguments],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        if memory_bytes is not None:
            resource.prlimit(process.pid, resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        run = Run(process, log)
        self.runs.append(run)
        return run

    def run(self, *arguments: str, memory_bytes: int | None = None) -> tuple[int, str]:
        """Runs llmopt to its end; returns its exit code and stderr."""
        run = self.start(*arguments, memory_bytes=memory_bytes)
        return run.finish(), run.stderr

    def find_work(self, job: Job, pattern: str) -> list[Path]:
        """Finds files of a job's unfinished work."""
        return list((self.folder / job.partial).rglob(pattern))

    def count_journaled(self, job: Job) -> int:
        """Returns how many blocks a job's unfinished work holds."""
        for path in self.find_work(job, "journal.json"):
            try:
                return int(json.loads(path.read_text(encoding="utf-8"))["num_done"])
            except FileNotFoundError:
                continue  # the work was finished just now
        return 0

    def expect_note(self, job: Job) -> str | None:
        """Returns what the next run has to say about the work that lies there."""
        if list((self.store / "artifacts").glob("*")):
            return STORED_NOTE
        handover = self.folder / f".{job.artifact}.llmopt-handover"
        sealed = [
            path for path in self.find_work(job, "manifest.json") if ".scratch" not in path.parts
        ]
        if handover.exists() or sealed:
            return FINISHED_NOTE
        num_done = self.count_journaled(job)
        return f"resumed: {num_done} of {NUM_BLOCKS} blocks" if num_done else None

    def find_half_work(self) -> list[str]:
        """Lists what would pass for an artifact without being one."""
        shown = list((self.store / "artifacts").glob("*"))
        output = self.folder / OUTPUT
        if output.exists() and [p.name for p in output.iterdir()] not in ([], [".llmopt-partial"]):
            shown.append(output)
        return [fault for path in shown for fault in find_faults(path)]

    def find_leftovers(self) -> list[str]:
        """Lists what runs left outside the store, the output folder and `out`."""
        recipes = {path.name for path in self.folder.glob("*.yaml")}
        mine = {*INPUTS, *recipes, ".llmopt", "out", OUTPUT, f".{OUTPUT}.llmopt-lock"}
        inside = [path.name for path in self.folder.iterdir() if path.name not in mine]
        outside = [path for name in ("home", "tmp") for path in (self.root / name).rglob("*")]
        # Importing torch._dynamo, as transformers does, makes an empty folder of this name.
        return inside + [str(path) for path in outside if "torchinductor_" not in path.name]

    def clear(self) -> None:
        """Removes all that runs made, finished or not."""
        for path in self.folder.iterdir():
            if path.name in INPUTS or path.suffix == ".yaml":
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def stop_all(self) -> None:
        """Kills what a failed test left running."""
        for run in self.runs:
            if run.process.poll() is None:
                run.process.kill()
                run.process.wait()
