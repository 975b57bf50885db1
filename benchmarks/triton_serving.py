"""Text generation behind Triton: `generate`, a BLS loop without cache, and vLLM, in one run.

    python benchmarks/triton_serving.py [--model examples/apparel-tiny] [--clients 1,4,8,16]
                                        [--seconds 8] [--rounds 3] [--no-vllm] [--write]

Quantises the model with GPTQ (4 bits, group 32), exports the integers with and without a
key-value cache and packages them by the real commands. Then every server is started over the same
checkpoint and asked by the same clients for greedy answers of 64 tokens, streamed where it
streams; the servers take turns in every round, and medians count. The vLLM is the CPU build in
.venvs/vllm (`make vllm-env`), asked through its OpenAI interface with a float16 or bf16 model as
it chooses. `--write` puts the table into docs/benchmarks.md.
"""

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from results_page import PAGE, format_table, write_between_markers

from llmopt.artifacts.onnx_description import read_onnx_description
from llmopt.artifacts.tensor_spec import make_spec
from llmopt.errors import RequestFailed
from llmopt.triton.backends import find_backend
from llmopt.triton.load import (
    Asker,
    LoadResult,
    OpenAsker,
    Timing,
    ask_generating,
    put_load,
)
from llmopt.triton.model_config import make_config, write_config
from llmopt.triton.model_environment import ModelEnvironment, make_environment
from llmopt.triton.server import ServerOptions, TritonServer

ROOT = Path(__file__).parent.parent
VLLM_PYTHON = ROOT / ".venvs" / "vllm" / "bin" / "python"
BACKENDS = {"onnxruntime": find_backend("onnxruntime")}
# Repository of shape generate → form of the weights; the loop has the first.
GENERATES = {"generate, float32": "dequantised", "generate, int4": "matmulnbits"}
BLS_INSTANCES = 8
MAX_ROWS = 16
NUM_TOKENS = 64
TEXTS = tuple(
    ("袖口はリブ編み、身幅は±1cm、素材は綿100%。裏地の縫製仕様を書いてください。" * 6)[: 8 + 12 * k]
    for k in range(16)
)
Serve = AbstractContextManager[OpenAsker]


def run_command(folder: Path, *arguments: str) -> None:
    """Runs llmopt.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    command = [sys.executable, "-m", "llmopt", *arguments, "--quiet"]
    command += ["--store", str(folder / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments[:2])} failed: {done.stderr[-2000:]}")


def prepare(model: Path, folder: Path, threads: int) -> None:
    """Makes checkpoint, exports and both repositories."""
    run_command(
        folder, "quantize", "gptq", str(model), "-o", str(folder / "gptq"), "--bits", "4",
        "--group-size", "32", "--data", "apparel-ja", "--samples", "32", "--seq-len", "256",
    )  # fmt: skip
    weights = GENERATES.values()
    for name, form, cache in (*((each, each, "--kv-cache") for each in weights),
                              ("plain", *list(weights)[:1], "--no-kv-cache")):  # fmt: skip
        run_command(
            folder, "export-onnx", str(folder / "gptq"), "-o", str(folder / name), "--weights",
            form, "--last-token-logits", cache,
        )  # fmt: skip
    for form in weights:
        run_command(
            folder, "triton-repo", str(folder / form), "-o", str(folder / f"{form}-repository"),
            "--model-name", "generate", "--max-batch-size", str(MAX_ROWS), "--threads",
            str(threads), "--tokenizer", str(folder / "gptq"),
        )  # fmt: skip
    make_bls_repository(folder, threads)


def make_bls_repository(folder: Path, threads: int) -> None:
    """Writes `loop`, which asks `lm`, the export without a cache, for every token."""
    repository, description = folder / "bls", read_onnx_description(folder / "plain")
    version = repository / "lm" / "1"
    version.mkdir(parents=True)
    for each in ("model.onnx", "model.onnx.data"):
        shutil.copyfile(folder / "plain" / each, version / each)
    config = make_config("lm", "onnxruntime", MAX_ROWS, description.inputs, description.outputs)
    config.dynamic_batching.max_queue_delay_microseconds = 0
    config.instance_group.add(count=1, kind="KIND_CPU")
    config.parameters["intra_op_thread_count"].string_value = str(threads)
    write_config(repository / "lm", config)
    version = repository / "loop" / "1"
    version.mkdir(parents=True)
    shutil.copyfile(Path(__file__).parent / "triton_bls" / "loop.py", version / "model.py")
    shutil.copyfile(folder / "gptq" / "tokenizer.json", version / "tokenizer.json")
    outputs = (make_spec("text_output", "string", one=1),
               make_spec("num_output_tokens", "uint32", one=1))  # fmt: skip
    config = make_config("loop", "python", 0, (make_spec("text_input", "string", one=1),), outputs)
    config.instance_group.add(count=BLS_INSTANCES, kind="KIND_CPU")
    write_config(repository / "loop", config)


@contextmanager
def serve_generate(
    folder: Path, environment: ModelEnvironment, weights: str
) -> Iterator[OpenAsker]:
    """Serves a repository of shape generate."""
    repository = folder / f"{weights}-repository"
    with TritonServer(repository, environment, folder / f"{weights}.log") as server:
        yield ask_generating(server, "generate", NUM_TOKENS)


@contextmanager
def serve_bls(folder: Path, environment: ModelEnvironment) -> Iterator[OpenAsker]:
    """Serves the loop."""
    options = ServerOptions(backends=BACKENDS)
    with TritonServer(folder / "bls", environment, folder / "bls.log", options) as server:
        path = "/v2/models/loop/generate"
        yield ask_json(server.http_address, path, "text_input", {}, "num_output_tokens")


@contextmanager
def serve_vllm(folder: Path, threads: int) -> Iterator[OpenAsker]:
    """Serves the checkpoint with vLLM's OpenAI interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1",
                 "OMP_NUM_THREADS": str(threads)}  # fmt: skip
    command = [str(VLLM_PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model",
               str(folder / "gptq"), "--served-model-name", "m", "--host", "127.0.0.1", "--port",
               str(port), "--max-num-seqs", str(MAX_ROWS)]  # fmt: skip
    with (folder / "vllm.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=variables, cwd=folder)
        try:
            wait_for_http(f"http://127.0.0.1:{port}/health", process, folder / "vllm.log")
            yield ask_openai(f"127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(30)


def wait_for_http(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Waits until a server answers.

    Raises:
        RuntimeError: It ended, or 300 s passed.
    """
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"vLLM did not start: {log.read_text(errors='replace')[-2000:]}")


def ask_json(
    address: str, path: str, text_key: str, body: dict[str, object], tokens_key: str
) -> OpenAsker:
    """Returns a way to ask for whole answers over one connection."""

    @contextmanager
    def open_asker() -> Iterator[Asker]:
        connection = http.client.HTTPConnection(address, timeout=300)

        def ask(text: str) -> Timing:
            began = time.monotonic()
            data = json.dumps({text_key: text, "max_tokens": NUM_TOKENS, **body})
            connection.request("POST", path, data, {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            if tokens_key not in answer:
                raise RequestFailed(str(answer), status=None)
            return Timing(time.monotonic() - began, None, int(answer[tokens_key]))

        yield ask
        connection.close()

    return open_asker


def ask_openai(address: str) -> OpenAsker:
    """Returns a way to ask /v1/completions for streamed greedy answers."""
    settings = {"model": "m", "max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True,
                "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip

    @contextmanager
    def open_asker() -> Iterator[Asker]:
        connection = http.client.HTTPConnection(address, timeout=300)

        def ask(text: str) -> Timing:
            began, first, tokens = time.monotonic(), 0.0, 0
            data = json.dumps({"prompt": text, **settings})
            connection.request(
                "POST", "/v1/completions", data, {"Content-Type": "application/json"}
            )
            for line in connection.getresponse():
                if not line.startswith(b"data: {"):
                    continue
                first = first or time.monotonic() - began
                usage = json.loads(line[6:]).get("usage")
                tokens = usage["completion_tokens"] if usage else tokens
            return Timing(time.monotonic() - began, first, tokens)

        yield ask
        connection.close()

    return open_asker


def summarise(results: Sequence[LoadResult]) -> dict[str, float]:
    """Returns the medians over rounds."""
    rounds = []
    for result in results:
        figures = result.summarise()
        tokens = sum(each.num_tokens for each in result.timings)
        rounds.append({**figures, "tokens_per_s": tokens / result.seconds})
    return {
        name: statistics.median(each[name] for each in rounds)
        for name in rounds[0]
        if all(name in each for each in rounds)
    }


def tabulate(measured: dict[str, dict[int, dict[str, float]]]) -> str:
    """Returns the table: a row for each server and number of clients."""
    rows = []
    base = measured["BLS loop"]
    for name, levels in measured.items():
        single = levels[min(levels)]["tokens_per_s"]
        for clients, figures in levels.items():
            rate = figures["tokens_per_s"]
            first = figures.get("first_token_p50_ms")
            rows.append([
                name, str(clients), f"{rate:.0f}", f"{rate / single:.2f}",
                f"{rate / base[clients]['tokens_per_s']:.2f}", f"{figures['latency_p50_ms']:.0f}",
                f"{figures['latency_p99_ms']:.0f}", "" if first is None else f"{first:.0f}",
                f"{figures['failed_requests']:.0f}",
            ])  # fmt: skip
    header = ["server", "clients", "tokens/s", "× its 1 client", "× BLS loop", "p50 ms", "p99 ms",
              "first token p50 ms", "failed"]  # fmt: skip
    return format_table(header, rows)


def main() -> None:
    """Measures and prints, or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "examples" / "apparel-tiny")
    parser.add_argument("--clients", default="1,4,8,16")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-vllm", action="store_true")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    clients = [int(each) for each in given.clients.split(",")]
    with tempfile.TemporaryDirectory(prefix="triton-serving-") as name:
        folder = Path(name)
        prepare(given.model.resolve(), folder, given.threads)
        environment = make_environment(("onnxruntime", "tokenizers", "jinja2"), print)
        servers = {
            **{
                name: partial(serve_generate, folder, environment, weights)
                for name, weights in GENERATES.items()
            },
            "BLS loop": partial(serve_bls, folder, environment),
        }
        if not given.no_vllm:
            servers["vLLM"] = partial(serve_vllm, folder, given.threads)
        collected: dict[str, dict[int, list[LoadResult]]] = {
            each: {level: [] for level in clients} for each in servers
        }
        for number in range(given.rounds):
            for server, serve in servers.items():
                with serve() as open_asker:
                    put_load(open_asker, TEXTS, 1, 2)  # warm
                    for level in clients:
                        found = put_load(open_asker, TEXTS, level, given.seconds)
                        collected[server][level].append(found)
                        print(number, server, level, found.summarise(), flush=True)
    measured = {
        server: {level: summarise(found) for level, found in levels.items()}
        for server, levels in collected.items()
    }
    table = tabulate(measured)
    print(table)
    if given.write:
        write_between_markers(PAGE, "triton-serving", table)


if __name__ == "__main__":
    main()
