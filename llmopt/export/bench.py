"""Speed and memory of an exported decoder in onnxruntime, measured in a process of its own.

Run as `python -m llmopt.export.bench JOB.json PARENT_PID`; its last event holds a BenchResult.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict

from llmopt.artifacts.child_events import ChildEvent
from llmopt.artifacts.child_process import run_child
from llmopt.artifacts.child_work import run_process
from llmopt.artifacts.onnx_description import read_onnx_description
from llmopt.artifacts.onnx_session import open_session, run_errors
from llmopt.errors import InputError, ResourceError
from llmopt.export.session import OnnxDecoder

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
        InputError: The model can't be loaded or run, or makes the process die.
        ResourceError: Memory ran out, or the process was killed, as the kernel does then.
        OSError: A file could not be read or written.
        ChildBug: The process ended by an error that nobody foresaw.
    """
    with tempfile.TemporaryDirectory() as folder:
        end = run_child(MODULE, job, Path(folder, "bench.log"), lambda _: None)
    if end.is_done and end.last is not None:
        return BenchResult.model_validate_json(end.last.text)
    end.raise_error()
    if end.ran_out_of_memory:
        cause = "killed, most likely because memory ran out"
        raise ResourceError(
            f"{job.folder} can't be measured: {cause if end.reason is None else end.reason.text}",
            remedy="lower batch, prompt_tokens or new_tokens, or measure on a machine with more "
            "memory",
        )
    raise InputError(
        f"the process that runs {job.folder} in onnxruntime {end.cause}; the end of its log: "
        f"{end.log_tail or 'empty'}",
        remedy="export the model with llmopt export-onnx",
    )


def _work(text: str) -> ChildEvent:
    job = BenchJob.model_validate_json(text)
    with run_errors(Path(job.folder)):
        result = measure(job)
    return ChildEvent(kind="done", text=result.model_dump_json())


if __name__ == "__main__":
    sys.exit(run_process(_work))
