"""Every way to quantise, on the tiny model and the same data, in one table: size and KL.

    python benchmarks/quantization_variants.py [--samplings 3] [--model examples/apparel-tiny]
        [--store DIR] [--write]

Writes one recipe per sampling (a seed of the calibration set's order) with a step for each variant
and one `eval.compare` over them all on the held-out split, and runs it. 64 x 512 tokens of
`apparel-ja`; group 128 unless said otherwise. A store that is given is kept, so that a run that was
broken off goes on. `--write` puts the table into docs/benchmarks.md.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from results_page import PAGE, format_table, write_between_markers

from llmopt.artifacts.manifest import read_manifest
from llmopt.checkpoint.checkpoint import Checkpoint, linear_names

REPOSITORY = Path(__file__).parent.parent
GPTQ: dict[str, Any] = {"uses": "quantize.gptq", "model": "base", "data": "calibration"}
RTN: dict[str, Any] = {"uses": "quantize.rtn", "model": "base"}
EDGES = [{"layers": r"re:.*\.layers\.(0|5)\..*", "bits": 8}]
VARIANTS: dict[str, dict[str, Any]] = {
    "rtn, 4 bits": RTN,
    "rtn, 4 bits, mse scales": {**RTN, "scale_search": "mse"},
    "rtn, 8 bits": {**RTN, "bits": 8},
    "GPTQ, 4 bits (the default)": GPTQ,
    "GPTQ, columns in order": {**GPTQ, "act_group_aware": False},
    "GPTQ, columns in order, static groups": {
        **GPTQ,
        "act_group_aware": False,
        "static_groups": True,
    },
    "GPTQ, grids in turn": {**GPTQ, "static_groups": False},
    "GPTQ, asymmetric calibration 0.25": {**GPTQ, "asymmetric_strength": 0.25},
    "GPTQ, asymmetric calibration 1": {**GPTQ, "asymmetric_strength": 1.0},
    "GPTQ, mse scales": {**GPTQ, "scale_search": "mse"},
    "GPTQ, asymmetric grid": {**GPTQ, "sym": False},
    "GPTQ, desc_act": {**GPTQ, "desc_act": True},
    "GPTQ, damp 0.05": {**GPTQ, "damp_percent": 0.05},
    "GPTQ, group 32": {**GPTQ, "group_size": 32},
    "GPTQ, per channel": {**GPTQ, "group_size": -1},
    "GPTQ, 2 bits, group 32": {**GPTQ, "bits": 2, "group_size": 32},
    "GPTQ, 3 bits": {**GPTQ, "bits": 3},
    "GPTQ, 3 bits, mse scales": {**GPTQ, "bits": 3, "scale_search": "mse"},
    "GPTQ, 8 bits": {**GPTQ, "bits": 8},
    "GPTQ, first and last block 8 bits": {**GPTQ, "overrides": EDGES},
    "GPTQ, budget 3.6 of 2, 3, 4, 8": {
        **GPTQ,
        "budget": {"bits_per_weight": 3.6, "choices": [2, 3, 4, 8]},
    },
    "GPTQ, budget 4.6 of 4, 8": {**GPTQ, "budget": {"bits_per_weight": 4.6}},
    "GPTQ, budget 4.6 of 3, 4, 8": {
        **GPTQ,
        "budget": {"bits_per_weight": 4.6, "choices": [3, 4, 8]},
    },
    "NF4, double quantisation": {"uses": "quantize.nf4", "model": "base"},
    "FP4, double quantisation": {"uses": "quantize.nf4", "model": "base", "quant_type": "fp4"},
    "FP8": {"uses": "quantize.fp8", "model": "base"},
    "INT8, to nearest": {"uses": "quantize.int8", "model": "base"},
    "INT8, GPTQ": {"uses": "quantize.int8", "model": "base", "data": "calibration"},
}
BASELINE = "rtn, 4 bits"


def write_recipe(path: Path, model: Path, seed: int) -> dict[str, str]:
    """Writes the recipe of one sampling; returns step → variant."""
    names = {f"v{index}": variant for index, variant in enumerate(VARIANTS)}
    steps: dict[str, Any] = {step: VARIANTS[variant] for step, variant in names.items()}
    steps["compare"] = {
        "uses": "eval.compare",
        "candidates": list(names),
        "baseline": "base",
        "data": "heldout",
    }
    calibration = {"set": "apparel-ja", "samples": 64, "seq_len": 512, "seed": seed}
    recipe = {
        "version": 1,
        "name": f"variants-{seed}",
        "sources": {"base": str(model.resolve())},
        "datasets": {
            "calibration": calibration,
            "heldout": {"set": "apparel-ja", "split": "heldout"},
        },
        "steps": steps,
    }
    path.write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    return names


def measure(model: Path, seed: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Runs one sampling; returns variant → (bits per weight, mean KL in nats per token)."""
    folder = folder.resolve()
    path = folder / f"variants-{seed}.yaml"
    names = write_recipe(path, model, seed)
    command = [sys.executable, "-m", "llmopt", "run", str(path), "--store", str(folder / "store")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)  # out/ goes there
    output = folder / "out" / f"variants-{seed}"
    metrics = read_manifest(output / "compare").metrics
    found = {}
    for step, variant in names.items():
        bits = measure_bits(model, read_manifest(output / step).metrics)
        found[variant] = (bits, float(metrics[step]["kl_mean"]))  # type: ignore[arg-type, call-overload, index]
    return found


def measure_bits(model: Path, metrics: Mapping[str, Any]) -> float:
    """Returns the bits per rounded weight, scales included, by what the files shrank by."""
    linears = sum(math.prod(shape) for _, shape in linear_names(Checkpoint.open(model).config))
    source_bits = 8 * torch.bfloat16.itemsize
    saved_bytes = metrics["source_weights_bytes"] - metrics["weights_bytes"]
    return source_bits - 8 * float(saved_bytes) / linears


def tabulate(samplings: list[dict[str, tuple[float, float]]]) -> str:
    """Returns the table: a row per variant."""
    baseline = statistics.mean(found[BASELINE][1] for found in samplings)
    rows = []
    for variant in VARIANTS:
        values = [found[variant][1] for found in samplings]
        mean = statistics.mean(values)
        each = f"{min(values):.6f} to {max(values):.6f}" if len(set(values)) > 1 else "the same"
        each = "one" if len(values) == 1 else each
        bits = f"{samplings[0][variant][0]:.2f}"
        rows.append([variant, bits, f"{mean:.6f}", each, f"{baseline / mean:.2f}"])
    header = ["variant", "bits per weight", "KL", "samplings", f"KL of {BASELINE} / this"]
    return format_table(header, rows)


def main() -> None:
    """Measures all samplings and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samplings", type=int, default=3)
    parser.add_argument("--model", type=Path, default=REPOSITORY / "examples" / "apparel-tiny")
    parser.add_argument("--store", type=Path, help="a folder to keep everything in")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.store or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        samplings = [measure(given.model, seed, folder) for seed in range(given.samplings)]
    table = tabulate(samplings)
    print(table)
    if given.write:
        write_between_markers(PAGE, "variants", table)


if __name__ == "__main__":
    main()
