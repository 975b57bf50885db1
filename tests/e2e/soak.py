"""Quantises 20 times in a row in this process and writes down its resident memory after each.

    python -m tests.e2e.soak MODEL FOLDER

Run by test_soak.py in a process of its own, so that nothing else's memory is counted. The methods
take turns. FOLDER/resident.json becomes a list of bytes.
"""

import ctypes
import gc
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.recipe.harness import Workplace

NUM_RUNS = 20
GPTQ = {"uses": "quantize.gptq", "model": "base", "data": "calibration"}
METHODS: tuple[dict[str, Any], ...] = (
    GPTQ,
    {**GPTQ, "asymmetric_strength": 1.0, "bits": 3},
    {"uses": "quantize.nf4", "model": "base"},
    {"uses": "quantize.fp8", "model": "base"},
    {"uses": "quantize.int8", "model": "base", "data": "calibration"},
)


def quantize(model: Path, folder: Path, step: dict[str, Any]) -> None:
    """Runs a recipe of one step in a place of its own, and throws its output away."""
    folder.mkdir(parents=True)
    recipe = {
        "version": 1,
        "name": "soak",
        "sources": {"base": str(model.resolve())},
        "datasets": {"calibration": {"set": "apparel-ja", "samples": 16, "seq_len": 128}},
        "steps": {"quantize": step},
    }
    workplace = Workplace(folder)
    workplace.run(recipe)
    assert workplace.listener.steps("step_finished") == ["quantize"]
    shutil.rmtree(folder)


def main(model: Path, folder: Path) -> None:
    """Quantises, and writes resident bytes after each run."""
    libc = ctypes.CDLL("libc.so.6")
    resident = []
    for index in range(NUM_RUNS):
        quantize(model, folder / str(index), METHODS[index % len(METHODS)])
        gc.collect()
        libc.malloc_trim(0)  # what is free is no leak, whether the allocator keeps it or not
        resident.append(psutil.Process().memory_info().rss)
    (folder / "resident.json").write_text(json.dumps(resident))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
