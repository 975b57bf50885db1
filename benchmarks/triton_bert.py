"""bert-base-japanese behind Triton: filling masks as an ensemble, float32 and int8, and PyTorch.

    python benchmarks/triton_bert.py [--clients 1,4,8,16] [--seconds 6] [--rounds 3] [--threads 2]
                                     [--write]

Makes a random BERT in that shape with a MeCab tokenizer (random_bert.py), exports it by the real
command with masked_positions, and packages three ensembles: both forms with a batching delay of
2 ms, and int8 with 100 ms. One real tritonserver serves them; its onnxruntime backend is llmopt's
stand-in. PyTorch is transformers in this process, tokenizer and model, one text at a time under a
lock. All take turns in every round; medians count. `--write` puts the table into
docs/benchmarks.md.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from random_bert import base_config, build_vocabulary, make_bert, read_texts
from results_page import PAGE, format_table, write_between_markers
from transformers import AutoModelForMaskedLM, AutoTokenizer
from triton_serving import BACKENDS, run_command

from llmopt.artifacts.onnx_description import read_onnx_description
from llmopt.triton.client import TritonClient
from llmopt.triton.ensemble_repository import EnsemblePlan, write_ensemble
from llmopt.triton.load import Asker, LoadResult, OpenAsker, Timing, ask_once, put_load
from llmopt.triton.model_environment import make_environment
from llmopt.triton.releases import find_release
from llmopt.triton.repository import ServingOptions
from llmopt.triton.server import ServerOptions, TritonServer

PYTORCH = "PyTorch"
# Name → weights of the export, microseconds of delay.
ENSEMBLES = {
    "float32": ("plain", 2000), "int8": ("int8_dynamic", 2000),
    "int8-100ms": ("int8_dynamic", 100_000),
}  # fmt: skip
BUCKETS = (32, 64, 128)
MAX_ROWS = 16
NUM_TEXTS = 64
SHORTEST, LONGEST = 20, 100  # characters
NUM_TOKENS = 5
WARM_S = 1.0


def make_texts(documents: Sequence[str]) -> list[str]:
    """Cuts texts of many lengths, each with one mask in its middle."""
    joined = "".join(documents).replace("\n", "")
    texts = []
    for index in range(NUM_TEXTS):
        length = SHORTEST + (LONGEST - SHORTEST) * index // (NUM_TEXTS - 1)
        piece = joined[1000 * index : 1000 * index + length]
        texts.append(f"{piece[: length // 2]}[MASK]{piece[length // 2 :]}")
    return texts[::2] + texts[1::2]


def prepare(folder: Path, documents: Sequence[str], threads: int) -> Path:
    """Makes the model, its exports and the repository; returns the model's folder."""
    vocabulary = build_vocabulary(documents, base_config().vocab_size)
    model = make_bert(folder / "model", base_config(), vocabulary)
    (folder / "repository").mkdir()
    for name, (weights, delay_us) in ENSEMBLES.items():
        source = folder / weights
        if not source.exists():
            run_command(
                folder, "export-onnx", str(model), "-o", str(source), "--weights", weights,
                "--masked-positions", "--threads", str(threads),
            )  # fmt: skip
        plan = EnsemblePlan(
            task="fill_mask",
            source=source,
            model=read_onnx_description(source),
            engine=None,
            tokenizer=source,
            max_batch_size=MAX_ROWS,
            max_queue_delay_us=delay_us,
            buckets=BUCKETS,
            threads=threads,
            num_tokens=NUM_TOKENS,
        )
        options = ServingOptions(model_name=name, version=1, version_policy="latest", device="cpu")
        write_ensemble(folder / "repository", plan, options, find_release("24.10"))
    return model


def ask_pytorch(model: Path) -> OpenAsker:
    """Returns a way to ask transformers in this process: one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForMaskedLM.from_pretrained(model, dtype=torch.float32).eval()
    lock = threading.Lock()

    def ask(text: str) -> Timing:
        began = time.monotonic()
        with lock, torch.inference_mode():
            inputs = tokenizer(text, return_tensors="pt")
            hidden_TH = network.bert(**inputs)[0][0]
            masked = inputs["input_ids"][0] == tokenizer.mask_token_id
            logits_1V = network.cls(hidden_TH[masked][:1])
            ids_K = torch.log_softmax(logits_1V, -1).topk(NUM_TOKENS).indices[0]
            [tokenizer.decode([token]) for token in ids_K.tolist()]
        return Timing(time.monotonic() - began)

    @contextmanager
    def open_asker() -> Iterator[Asker]:
        yield ask

    return open_asker


def measure(
    askers: Mapping[str, OpenAsker],
    texts: Sequence[str],
    clients: Sequence[int],
    rounds: int,
    seconds: float,
) -> dict[str, dict[int, list[LoadResult]]]:
    """Puts every load on every candidate in each round, in turn."""
    collected: dict[str, dict[int, list[LoadResult]]] = {
        name: {level: [] for level in clients} for name in askers
    }
    for number in range(rounds):
        for name, open_asker in askers.items():
            put_load(open_asker, texts, 1, WARM_S)
            for level in clients:
                found = put_load(open_asker, texts, level, seconds)
                collected[name][level].append(found)
                print(number, name, level, found.summarise(), file=sys.stderr, flush=True)
    return collected


def take_medians(results: Sequence[LoadResult]) -> dict[str, float]:
    """Returns each figure's median over the rounds."""
    rounds = [result.summarise() for result in results]
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def tabulate(
    measured: Mapping[str, Mapping[int, Mapping[str, float]]], batches: Mapping[str, float]
) -> str:
    """Returns the table: a row for each candidate and number of clients."""
    rows = []
    for name, levels in measured.items():
        for level, figures in levels.items():
            rate = figures["requests_per_s"]
            rows.append(
                [
                    name,
                    str(level),
                    f"{rate:.1f}",
                    f"{rate / measured[PYTORCH][level]['requests_per_s']:.2f}",
                    f"{figures['latency_p50_ms']:.0f}",
                    f"{figures['latency_p99_ms']:.0f}",
                    f"{figures['failed_requests']:.0f}",
                    f"{batches[name]:.1f}" if name in batches else "",
                ]
            )
    header = ["served by", "clients", "texts/s", "× PyTorch", "p50 ms", "p99 ms", "failed"]
    return format_table([*header, "rows per batch, all loads"], rows)


def read_batches(server: TritonServer) -> dict[str, float]:
    """Returns the mean rows of what each engine ran."""
    client = TritonClient.of(server)
    found = {name: client.read_statistics(f"{name}_engine") for name in ENSEMBLES}
    return {name: each["inference_count"] / each["execution_count"] for name, each in found.items()}


def main() -> None:
    """Measures and prints, or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", default="1,4,8,16")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    documents = list(read_texts())
    clients = [int(each) for each in given.clients.split(",")]
    with tempfile.TemporaryDirectory(prefix="triton-bert-") as name:
        folder = Path(name)
        model = prepare(folder, documents, given.threads)
        environment = make_environment(
            ("onnxruntime", "transformers>=4.46", "fugashi", "unidic-lite"), print
        )
        options = ServerOptions(backends=BACKENDS, ready_timeout_s=300)
        with TritonServer(folder / "repository", environment, folder / "log", options) as server:
            askers = {PYTORCH: ask_pytorch(model)}
            askers |= {each: ask_once(server, each, "text_input") for each in ENSEMBLES}
            collected = measure(askers, make_texts(documents), clients, given.rounds, given.seconds)
            batches = read_batches(server)
    measured = {
        name: {level: take_medians(results) for level, results in levels.items()}
        for name, levels in collected.items()
    }
    table = tabulate(measured, batches)
    print(table)
    if given.write:
        write_between_markers(PAGE, "triton_bert", table)


if __name__ == "__main__":
    main()
