"""Asks what the calibration set is worth: KL to the original by calibration set and held-out set.

    python benchmarks/calibration_study.py [--seeds 3] [--model examples/apparel-tiny] [--threads 1]

Writes recipes into a work folder and runs them by `llmopt run`: GPTQ at 4 bits, groups of 128 and
one scale per channel, calibrated on each set with each seed of its order, and round-to-nearest;
`eval.compare` scores all of them on three held-out sets. Prints Markdown tables; `--figure FILE`
draws them too. Everything is kept in the work folder's store, so a run that is repeated, killed or
given more seeds computes only what is missing.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch
from calibration_study_tables import DocumentKl, draw_figure, summarise, write_tables
from random_token_calibration import quantize_on_random_tokens

from llmopt.artifacts.digest import digest_file
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.steps.quantize_gptq import QuantizeGptq

REPOSITORY = Path(__file__).parent.parent
GROUPS = {"group 128": 128, "one scale per channel": -1}
HELDOUT = ("apparel-ja", "general-ja", "general-en")
JAPANESE_ONLY = "apparel-ja, Japanese only"
NUM_APPAREL_DOCUMENTS = 72
RANDOM, ROUNDING = "random tokens", "round-to-nearest"
CALIBRATION: dict[str, dict[str, Any]] = {
    "apparel-ja": {"set": "apparel-ja"},
    "general-ja": {"set": "general-ja"},
    "general-en": {"set": "general-en"},
    "mix 70/15/15": {
        "set": "apparel-ja",
        "mix": [{"set": "general-ja", "weight": 0.15}, {"set": "general-en", "weight": 0.15}],
    },
}


@dataclass(frozen=True)
class Study:
    """What is asked for.

    Attributes:
        model: The original.
        work: Folder of recipes, store and results.
        samples: Calibration windows.
        seq_len: Tokens per window.
        documents: Held-out documents of each set at most; None for 72 of apparel-ja and all of
            the others.
        threads: CPU threads.
    """

    model: Path
    work: Path
    samples: int
    seq_len: int
    documents: int | None
    threads: int

    def heldout_sets(self) -> dict[str, dict[str, Any]]:
        """Describes the held-out sets; the same documents in every run."""
        sets: dict[str, dict[str, Any]] = {}
        for name in HELDOUT:
            limit = NUM_APPAREL_DOCUMENTS if name == "apparel-ja" else None
            samples = self.documents or limit
            key = f"heldout-{name}"
            sets[key] = {"set": name, "split": "heldout"}
            sets[key] |= {} if samples is None else {"samples": samples}
        return sets


def describe_seed(study: Study, seed: int) -> dict[str, Any]:
    """Describes the recipe of one seed: every calibration set and group size, scored together."""
    shape = (study.samples, study.seq_len)
    cut = {"samples": shape[0], "seq_len": shape[1], "seed": seed}
    datasets = {f"calibration-{slug(name)}": {**CALIBRATION[name], **cut} for name in CALIBRATION}
    sources: dict[str, str] = {}
    steps: dict[str, dict[str, Any]] = {}
    for size in GROUPS.values():
        fields = {"uses": "quantize.gptq", "model": "base", "bits": 4, "group_size": size}
        for name in CALIBRATION:
            steps[name_candidate(name, size)] = {**fields, "data": f"calibration-{slug(name)}"}
        step = QuantizeGptq.model_validate({**fields, "data": "none"})
        folder = study.work / "random-tokens"
        checkpoint = quantize_on_random_tokens(study.model, step, shape, seed, folder)
        sources[name_candidate(RANDOM, size)] = str(checkpoint)
    return describe_comparison(study, sources, datasets, steps)


def describe_rounding(study: Study) -> dict[str, Any]:
    """Describes the recipe of round-to-nearest, which needs no calibration."""
    fields = {"uses": "quantize.rtn", "model": "base", "bits": 4}
    steps = {
        name_candidate(ROUNDING, size): {**fields, "group_size": size} for size in GROUPS.values()
    }
    return describe_comparison(study, {}, {}, steps)


def describe_comparison(
    study: Study,
    sources: dict[str, str],
    datasets: dict[str, Any],
    steps: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Adds a comparison of all steps and further sources on each held-out set."""
    compare = {
        f"on-{name}": {
            "uses": "eval.compare",
            "candidates": [*steps, *sources],
            "baseline": "base",
            "data": f"heldout-{name}",
        }
        for name in HELDOUT
    }
    return {
        "version": 1,
        "sources": {"base": str(study.model), **sources},
        "datasets": {**datasets, **study.heldout_sets()},
        "steps": {**steps, **compare},
    }


def slug(name: str) -> str:
    """Writes a name as recipes allow it."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def name_candidate(calibration: str, group_size: int) -> str:
    """Names what a calibration set made of the model."""
    return f"{slug(calibration)}-{'channel' if group_size < 0 else group_size}"


def run_recipe(study: Study, name: str, recipe: dict[str, Any]) -> None:
    """Runs a recipe in the work folder, which its results are linked into; progress to stderr."""
    path = study.work / f"{name}.yaml"
    text = json.dumps({"name": name, **recipe}, indent=1)  # JSON is YAML too
    path.write_text(text + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "llmopt", "run", path.name, "--threads", str(study.threads)]
    command += ["--store", "store", "--device", "cpu"]
    subprocess.run(command, cwd=study.work, check=True, stdout=subprocess.DEVNULL)


def read_documents(study: Study, recipe: str, calibrations: Sequence[str]) -> Iterator[DocumentKl]:
    """Reads what each candidate of a recipe cost on each held-out document.

    Documents of apparel-ja that are Japanese alone come a second time, as a set of their own.
    """
    places = {
        name_candidate(name, size): (group, name)
        for name in calibrations
        for group, size in GROUPS.items()
    }
    japanese = list_japanese()
    for heldout in HELDOUT:
        path = study.work / "out" / recipe / f"on-{heldout}" / "documents.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            measured = (recipe, row["origin"], row["num_tokens"], row["kl_mean"])
            yield DocumentKl(*places[row["candidate"]], heldout, *measured)
            if heldout == "apparel-ja" and row["origin"] in japanese:
                yield DocumentKl(*places[row["candidate"]], JAPANESE_ONLY, *measured)


def list_japanese() -> set[str]:
    """Names the held-out documents of apparel-ja that are neither English nor bilingual."""
    lines = locate_set("apparel-ja", "heldout").read_text(encoding="utf-8").splitlines()
    return {f":{n}" for n, line in enumerate(lines, start=1) if json.loads(line)["lang"] == "ja"}


def locate_set(name: str, split: str) -> Path:
    """Returns the file of a shipped set."""
    return DatasetSpec(set=name, split=split).locate(Path())


def measure(study: Study, seeds: int) -> list[DocumentKl]:
    """Runs all recipes and reads their results."""
    run_recipe(study, "rounding", describe_rounding(study))
    measured = list(read_documents(study, "rounding", [ROUNDING]))
    for seed in range(seeds):
        recipe = f"seed-{seed}"
        run_recipe(study, recipe, describe_seed(study, seed))
        measured += read_documents(study, recipe, [*CALIBRATION, RANDOM])
    return measured


def describe_inputs(study: Study, seeds: int) -> str:
    """Says what the figures hold for: versions, sizes, and the bytes of the sets."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("llmopt", "torch", "transformers"))
    lines = [f"{versions}; {study.samples} x {study.seq_len} tokens, seeds 0 to {seeds - 1}", ""]
    for name, split in product(HELDOUT, ("calibration", "heldout")):
        digest = digest_file(locate_set(name, split))
        lines.append(f"- {name} {split}: SHA-256 {digest[:16]}…")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=REPOSITORY / "examples" / "apparel-tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument(
        "--documents",
        type=int,
        help="held-out documents of each set at most; from about 10 on, all parts have intervals",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(".llmopt") / "calibration-study")
    parser.add_argument("--figure", type=Path, help="an .svg or .png file to draw into")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(given.threads)
    study = Study(
        given.model.resolve(), given.work.resolve(), given.samples, given.seq_len,
        given.documents, given.threads,
    )  # fmt: skip
    summary = summarise(measure(study, given.seeds))
    print(describe_inputs(study, given.seeds))
    print(write_tables(summary, reference="apparel-ja"))
    if given.figure is not None:
        draw_figure(summary, given.figure)


if __name__ == "__main__":
    main()
