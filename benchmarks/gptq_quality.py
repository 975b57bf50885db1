"""Holds llmopt's GPTQ against round-to-nearest and gptqmodel, on the tiny model and one data set.

    python benchmarks/gptq_quality.py [--samplings 3] [--model examples/apparel-tiny]

For each sampling (a seed of the calibration set's order) every tool gets the same 64 x 512 token
ids, 4 bits, group 128, symmetric; the KL divergence to the original is measured on the held-out
split by `llmopt eval`. Prints a Markdown table. gptqmodel runs in its own environment, made by
`make gptqmodel-env`; without it that row is left out and said so.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from llmopt.data.calibration_windows import build_windows
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.data.documents import read_documents
from llmopt.data.tokenization import DocumentTokenizer

REPOSITORY = Path(__file__).parent.parent
GPTQMODEL_PYTHON = REPOSITORY / ".venvs" / "gptqmodel" / "bin" / "python"
SAMPLES, SEQ_LEN = 64, 512
LLMOPT = [sys.executable, "-m", "llmopt"]
METHODS = {
    "round-to-nearest": ["rtn"],
    "llmopt GPTQ": ["gptq"],
    "llmopt GPTQ, columns in order": ["gptq", "--no-act-group-aware"],
    "llmopt GPTQ, damp 0.05": ["gptq", "--damp-percent", "0.05"],
    "llmopt GPTQ, desc_act": ["gptq", "--desc-act"],
    "llmopt GPTQ, desc_act, static groups": ["gptq", "--desc-act", "--static-groups"],
    "llmopt GPTQ, static groups": ["gptq", "--static-groups"],
    "llmopt GPTQ, mse scales": ["gptq", "--scale-search", "mse"],
}


def write_ids(
    model: Path, seed: int, path: Path, shape: tuple[int, int] = (SAMPLES, SEQ_LEN)
) -> None:
    """Writes the exact token windows that `llmopt quantize gptq --seed` uses, int64 [N, T]."""
    spec = DatasetSpec(set="apparel-ja", samples=shape[0], seq_len=shape[1], seed=seed)
    documents = read_documents(spec.locate(REPOSITORY))
    np.save(path, build_windows(documents, DocumentTokenizer(model), spec).ids_NT)


def quantize(model: Path, arguments: list[str], seed: int, output: Path) -> None:
    """Quantises by llmopt."""
    data = ["--samples", str(SAMPLES), "--seq-len", str(SEQ_LEN), "--seed", str(seed)]
    command = [*LLMOPT, "quantize", *arguments, str(model), "-o", str(output), "--quiet"]
    command += ["--store", str(output.parent / "store")]
    if arguments[0] != "rtn":
        command += data
    subprocess.run(command, check=True)


def measure_kl(model: Path, candidate: Path, documents: int | None = None) -> float:
    """Returns the mean KL divergence to the original on the held-out split, in nats."""
    command = [*LLMOPT, "eval", str(candidate), "--baseline", str(model), "--json", "--quiet"]
    command += ["--store", str(candidate.parent / "store")]
    command += [] if documents is None else ["--samples", str(documents)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(output)["kl_mean"])


def measure_sampling(model: Path, seed: int) -> dict[str, float]:
    """Quantises by every method and returns method → KL."""
    kls = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, (method, arguments) in enumerate(METHODS.items()):
            quantize(model, arguments, seed, folder / str(index))
            kls[method] = measure_kl(model, folder / str(index))
        if GPTQMODEL_PYTHON.exists():
            ids, output = folder / "ids.npy", folder / "gptqmodel"
            write_ids(model, seed, ids)
            script = REPOSITORY / "benchmarks" / "gptqmodel_quantize.py"
            command = [GPTQMODEL_PYTHON, script, model.absolute(), ids, output]
            subprocess.run(command, check=True, capture_output=True, cwd=folder)  # it logs to cwd
            kls["gptqmodel"] = measure_kl(model, output)
    return kls


def main() -> None:
    """Measures all samplings and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samplings", type=int, default=3)
    parser.add_argument("--model", type=Path, default=REPOSITORY / "examples" / "apparel-tiny")
    options = parser.parse_args()
    runs = [measure_sampling(options.model, seed) for seed in range(options.samplings)]
    baseline = statistics.mean(run["round-to-nearest"] for run in runs)
    print(f"| method | KL, mean of {len(runs)} samplings | each | round-to-nearest / this |")
    print("|---|---|---|---|")
    for method in runs[0]:
        each = [run[method] for run in runs]
        mean = statistics.mean(each)
        listed = ", ".join(f"{kl:.6f}" for kl in each)
        print(f"| {method} | {mean:.6f} | {listed} | {baseline / mean:.1f} |")
    if not GPTQMODEL_PYTHON.exists():
        print("\ngptqmodel was left out: `make gptqmodel-env` makes its environment")


if __name__ == "__main__":
    main()
