"""Writes small recipes and runs them in this process, as the command line would."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmopt.artifacts.artifact import Artifact
from llmopt.artifacts.store import Store
from llmopt.recipe.execute import RunResult, RunSettings, run_plan
from llmopt.recipe.graph import StepGraph, build_graph
from llmopt.recipe.loader import LoadedRecipe, load_recipe
from llmopt.recipe.plan import Plan, RunOptions, make_plan

Data = dict[str, Any]
QUANTIZE: Data = {"uses": "quantize.rtn", "model": "base", "group_size": 32}
GPTQ: Data = {"uses": "quantize.gptq", "model": "base", "data": "calibration", "group_size": 32}
GATE: Data = {
    "uses": "eval.gate",
    "model": "quantize",
    "baseline": "base",
    "data": "heldout",
    "require": {"kl_mean": {"max": 1000.0}},
}
COMPARE: Data = {
    "uses": "eval.compare",
    "candidates": ["quantize", "base"],
    "baseline": "base",
    "data": "heldout",
}
EVALUATE: Data = {"uses": "eval.perplexity", "model": "quantize", "data": "heldout"}


def make_recipe(model: Path | str, documents: Path | str, steps: Data, **more: Any) -> Data:
    """Describes a recipe over one model and one file of documents, as small as it gets."""
    return {
        "version": 1,
        "name": "small",
        "sources": {"base": str(model)},
        "datasets": {
            "calibration": {"path": str(documents), "samples": 2, "seq_len": 64},
            "heldout": {"path": str(documents), "samples": 2, "seq_len": 64},
        },
        "steps": dict(steps),
        **more,
    }


def write_recipe(folder: Path, recipe: Data, name: str = "recipe.yaml") -> Path:
    """Writes a recipe as JSON, which is YAML too."""
    path = folder / name
    path.write_text(json.dumps(recipe, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def load(folder: Path, recipe: Data, *overrides: str, variant: str | None = None) -> LoadedRecipe:
    """Writes and loads a recipe."""
    return load_recipe(write_recipe(folder, recipe), variant, overrides)


def graph_of(folder: Path, steps: Data, **more: Any) -> StepGraph:
    """Builds the graph of a recipe whose model and data need not exist."""
    return build_graph(load(folder, make_recipe("./model", "./documents.jsonl", steps, **more)))


@dataclass
class Listener:
    """Keeps what a run said; progress of a step is its notes alone."""

    events: list[tuple[str, Data]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def event(self, name: str, **fields: Any) -> None:
        self.events.append((name, fields))

    def progress(self, step: str) -> "Listener":
        del step
        return self

    def start(self, description: str, total: int, completed: int = 0) -> None:
        """Is part of Progress; nothing to keep."""

    def advance(self) -> None:
        """Is part of Progress; nothing to keep."""

    def detail(self, text: str) -> None:
        """Is part of Progress; nothing to keep."""

    def note(self, message: str) -> None:
        self.notes.append(message)

    def steps(self, event: str) -> list[str]:
        """Names the steps of which an event was heard, in order."""
        return [fields["step"] for name, fields in self.events if name == event]


@dataclass
class Workplace:
    """A working directory: its store, its `out/`, and the recipes run in it."""

    folder: Path
    listener: Listener = field(default_factory=Listener)

    @property
    def store(self) -> Store:
        # A new one each time, as each process has its own.
        return Store(self.folder / "store")

    @property
    def links(self) -> Path:
        return self.folder / "out"

    def plan(self, recipe: Data, *overrides: str, **options: Any) -> Plan:
        loaded = load(self.folder, recipe, *overrides)
        return make_plan(loaded, self.store, self.links, RunOptions(**options))

    def run(self, recipe: Data, *overrides: str, device: str = "cpu", **options: Any) -> RunResult:
        """Runs a recipe; `listener` holds what this run alone said."""
        self.listener = Listener()
        plan = self.plan(recipe, *overrides, **options)
        settings = RunSettings(device, threads=1, output_root=self.links)
        return run_plan(plan, self.store, self.store, settings, self.listener)

    def states(self, recipe: Data, *overrides: str, **options: Any) -> dict[str, str]:
        """Plans and returns each step's reason."""
        return {step.name: step.reason for step in self.plan(recipe, *overrides, **options).steps}

    def artifact(self, step: str, recipe: str = "small") -> Artifact:
        return Artifact.open(self.links / recipe / step)

    def stored(self) -> Sequence[str]:
        """Names everything in the store: finished artifacts and unfinished work."""
        return [entry.identity for entry in self.store.entries()]
