"""Speed and memory of an exported decoder in onnxruntime, measured in a process of its own.

Run as `python -m llmopt.export.bench JOB`, JSON itself; prints one BenchResult as JSON.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict

from llmopt.artifacts.onnx_description import read_onnx_description
from llmopt.errors import InputError
from llmopt.export.session import OnnxDecoder, open_session

MODULE = "llmopt.export.bench"
WARM_UP_TOKENS = 2
SEED = 3


class BenchJob(BaseModel):
    """What is measured: `batch` rows of `prompt_tokens`, then `new_tokens` one by one."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    folder: str
    batch: int
    prompt_tokens: int
    new_tokens: int
    threads: int | None


class BenchResult(BaseModel):
    """What came out.

    Attributes:
        prefill_tokens_per_s: Prompt tokens of all rows over the time of their one pass.
        decode_tokens_per_s: New tokens of all rows over the time of their passes.
        load_s: From the file to a session.
        added_rss_bytes: What the process grew by from before loading to after decoding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    load_s: float
    added_rss_bytes: int


def measure(job: BenchJob) -> BenchResult:
    """Loads a model and decodes random tokens."""
    folder = Path(job.folder)
    description = read_onnx_description(folder)
    process = psutil.Process()
    before = process.memory_info().rss
    started = time.perf_counter()
    decoder = OnnxDecoder(open_session(folder, description, job.threads), description)
    load_s = time.perf_counter() - started
    ids_BT = np.random.default_rng(SEED).integers(
        0, description.vocab_size, (job.batch, job.prompt_tokens)
    )
    mask_BT = np.ones_like(ids_BT)
    decoder.start(job.batch)
    decoder.forward(ids_BT[:, :WARM_UP_TOKENS], mask_BT[:, :WARM_UP_TOKENS])
    decoder.start(job.batch)
    started = time.perf_counter()
    logits_BTV = decoder.forward(ids_BT, mask_BT)
    prefill_s = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(job.new_tokens):
        ids_B1 = logits_BTV[:, -1:].argmax(-1)
        logits_BTV = decoder.forward(ids_B1, np.ones_like(ids_B1))
    decode_s = time.perf_counter() - started
    return BenchResult(
        prefill_tokens_per_s=job.batch * job.prompt_tokens / prefill_s,
        decode_tokens_per_s=job.batch * job.new_tokens / decode_s,
        load_s=load_s,
        added_rss_bytes=process.memory_info().rss - before,
    )


def measure_in_process(job: BenchJob) -> BenchResult:
    """Measures in a process of its own, whose memory holds nothing else.

    Raises:
        InputError: The model can't be loaded or run; the process's words are in the message.
    """
    done = subprocess.run(
        [sys.executable, "-m", MODULE, job.model_dump_json()],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"{job.folder} can't be measured: {lines[-1]}")
    return BenchResult.model_validate_json(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.stdout.write(measure(BenchJob.model_validate_json(sys.argv[1])).model_dump_json() + "\n")
