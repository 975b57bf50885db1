"""Holds llmopt's GPTQ against gptqmodel and llm-compressor: time, memory and quality.

    python benchmarks/gptq_peers.py [--rounds 3] [--tiny] [--write] [--keep results.json]
        [--tools llmopt llmopt-asymmetric gptqmodel llmcompressor autoround]

Makes a random Llama with the tiny model's tokenizer and quantises it with each tool in turn, each
in its own environment (made here by environments/TOOL.sh), on the same token ids: those that llmopt
cuts from `apparel-ja`. 4 bits, group 128, symmetric. First each tool quantises the tiny trained
model on these ids, for the KL and to have its caches filled. The machine's matmul rates are
measured before and after, for the limit (gptq_peers_limit.py). A quiet machine is needed: whatever
runs beside shows in the figures. `--tiny` is a try-out on a small model. `--write` puts table and
figure into docs/benchmarks.md and docs/images/gptq-peers.svg.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from gptq_peers_limit import Limit, ModelShape, compute_limit, measure_rates
from gptq_peers_report import (
    OURS,
    Run,
    ToolResult,
    describe,
    draw_figure,
)
from gptq_quality import measure_kl, write_ids
from measured_process import MeasuredProcess
from results_page import PAGE, write_between_markers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from llmopt import __version__
from llmopt.steps.device import describe_device

REPOSITORY = Path(__file__).parent.parent
FIGURE = REPOSITORY / "docs" / "images" / "gptq-peers.svg"
TINY_MODEL = REPOSITORY / "examples" / "apparel-tiny"
TRY_OUT = ModelShape(
    hidden=256, layers=2, heads=4, kv_heads=2, intermediate=512, samples=8, seq_len=128
)
TRY_OUT_DOCUMENTS = 4
SEED = 0
OUR_IMPORTS = "import llmopt.cli.model_commands, llmopt.recipe.execute, llmopt.steps.quantize_run"
ASYMMETRIC = "llmopt-asymmetric"  # llmopt once more, aiming at the original model's outputs
OUR_OPTIONS = {OURS: (), ASYMMETRIC: ("--asymmetric-strength", "0.25")}
IMPORTS = {
    OURS: OUR_IMPORTS,
    ASYMMETRIC: OUR_IMPORTS,
    "gptqmodel": "from gptqmodel import GPTQModel, QuantizeConfig, extension",
    "llmcompressor": "import datasets; from llmcompressor import oneshot; "
    "from llmcompressor.modifiers.gptq import GPTQModifier; from transformers import AutoTokenizer",
    "autoround": "from auto_round import AutoRound; from transformers import AutoTokenizer",
}


@dataclass(frozen=True)
class Bench:
    """What all runs share.

    Attributes:
        work: A folder of this benchmark's own.
        shape: The random model and its calibration.
        ids: The file of the token ids.
        documents: Held-out documents that the KL is measured on; None for all.
    """

    work: Path
    shape: ModelShape
    ids: Path
    documents: int | None

    def quantize_command(self, tool: str, model: Path, output: Path) -> list[str | Path]:
        """Returns the command by which a tool quantises a model."""
        if tool not in OUR_OPTIONS:
            script = REPOSITORY / "benchmarks" / f"{tool}_quantize.py"
            return [find_python(tool), script, model, self.ids, output]
        command: list[str | Path] = [sys.executable, "-m", "llmopt", "quantize", "gptq", model]
        command += ["-o", output, "--samples", str(self.shape.samples), "--quiet"]
        command += ["--seq-len", str(self.shape.seq_len), "--seed", str(SEED)]
        return [*command, *OUR_OPTIONS[tool], "--store", output.with_suffix(".store")]

    def quantize(self, tool: str, model: Path, name: str) -> tuple[Path, Run, str]:
        """Quantises by one tool; returns the checkpoint, what it took and its standard output."""
        folder = self.work / f"{tool}-{name}"
        folder.mkdir()  # gptqmodel logs and offloads into the current folder
        output = folder / "checkpoint"
        run, text = run_measured(self.quantize_command(tool, model, output), folder)
        return output, run, text


def find_python(tool: str) -> Path:
    """Returns the interpreter in which a tool lives."""
    if tool in OUR_OPTIONS:
        return Path(sys.executable)
    return REPOSITORY / ".venvs" / tool / "bin/python"


def run_measured(command: list[str | Path], folder: Path) -> tuple[Run, str]:
    """Runs one process to its end; returns what it took and its standard output.

    Raises:
        RuntimeError: It failed; the end of its log is shown.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if command[0] in (sys.executable, Path(sys.executable)):
        environment["PYTHONPATH"] = str(REPOSITORY)  # peers' processes do not see this checkout
    out, log = folder / "stdout", folder / "stderr"
    with MeasuredProcess(command, out, log, cwd=folder, env=environment) as process:
        took = process.wait()
    run = Run(took.wall_s, took.cpu_s, took.peak_bytes)
    return run, out.read_text(encoding="utf-8")


def make_random_llama(shape: ModelShape, folder: Path) -> None:
    """Writes a random Llama in bf16 with the tiny model's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_MODEL).save_pretrained(folder)


def find_version(tool: str, output: str) -> str:
    """Returns a tool's name and version; a peer's script prints them on its last line."""
    if tool in OUR_OPTIONS:
        return " ".join([f"llmopt {__version__}", *OUR_OPTIONS[tool]])
    return str(json.loads(output.splitlines()[-1])["tool"])


def measure_tools(bench: Bench, tools: list[str], rounds: int) -> dict[str, ToolResult]:
    """Quantises with every tool, round after round."""
    model = bench.work / "random-llama"
    make_random_llama(bench.shape, model)
    versions, kls = {}, {}
    for tool in tools:
        candidate, _, text = bench.quantize(tool, TINY_MODEL, "tiny")
        versions[tool] = find_version(tool, text)
        kls[tool] = measure_kl(TINY_MODEL, candidate, bench.documents)
        print(f"{versions[tool]}: KL {kls[tool]:.6f}", file=sys.stderr)
    runs: dict[str, list[Run]] = {tool: [] for tool in tools}
    imports: dict[str, list[Run]] = {tool: [] for tool in tools}
    for turn in range(rounds):
        for tool in tools:
            command: list[str | Path] = [find_python(tool), "-c", IMPORTS[tool]]
            imports[tool].append(run_measured(command, bench.work)[0])
            runs[tool].append(bench.quantize(tool, model, f"round-{turn}")[1])
            print(f"round {turn + 1}: {tool} {runs[tool][-1]}", file=sys.stderr)
    return {
        tool: ToolResult(versions[tool], tuple(runs[tool]), tuple(imports[tool]), kls[tool])
        for tool in tools
    }


def keep_results(path: Path, results: dict[str, ToolResult], limit: Limit) -> None:
    """Writes every single figure as JSON."""
    tools = {tool: asdict(result) for tool, result in results.items()}
    path.write_text(json.dumps({"tools": tools, "limit": asdict(limit)}, indent=1), "utf-8")


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a try-out on a small model")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--keep", type=Path, help="JSON file of the single figures")
    parser.add_argument(
        "--tools",
        nargs="+",
        choices=list(IMPORTS),
        default=[OURS, ASYMMETRIC, "gptqmodel", "llmcompressor"],
    )
    options = parser.parse_args()
    if OURS not in options.tools:
        parser.error(f"--tools must hold {OURS}, which the others are held against")
    return options


def main() -> None:
    """Measures, prints the part of the page and, when asked to, writes it."""
    options = parse_arguments()
    shape = TRY_OUT if options.tiny else ModelShape()
    for tool in options.tools:
        if tool not in OUR_OPTIONS:
            subprocess.run(["bash", f"environments/{tool}.sh"], cwd=REPOSITORY, check=True)
    with tempfile.TemporaryDirectory() as name:
        documents = TRY_OUT_DOCUMENTS if options.tiny else None
        bench = Bench(Path(name), shape, Path(name) / "ids.npy", documents)
        write_ids(TINY_MODEL, SEED, bench.ids, (shape.samples, shape.seq_len))
        before = measure_rates(shape)
        results = measure_tools(bench, options.tools, options.rounds)
        rates = before.faster(measure_rates(shape))
    limit = compute_limit(shape, rates)
    processor = describe_device(torch.device("cpu"))["name"]
    machine = f"{torch.get_num_threads()} threads of {processor}, torch {torch.__version__}"
    page = describe(results, limit, rates, shape, machine)
    print(page)
    if options.keep:
        keep_results(options.keep, results, limit)
    if options.write:
        write_between_markers(PAGE, "gptq_peers", page)
        draw_figure(results, limit, FIGURE)


if __name__ == "__main__":
    main()
