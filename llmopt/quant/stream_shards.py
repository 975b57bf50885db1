"""Quantises a checkpoint from safetensors file to safetensors file, tensor by tensor.

No model is built and no tensor is held for longer than it takes to write it, so memory goes by
the largest layer and the number of workers, not by the checkpoint. Workers quantise the next
tensors, of the next shards too, while the first is written; the order of writing, and so every
byte, is the same for any number of them.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from llmopt.artifacts.manifest import LayerError
from llmopt.artifacts.progress import Progress
from llmopt.checkpoint.planned_tensor_file import PlannedTensorFile
from llmopt.checkpoint.safetensors_header import TensorEntry, TensorPlan
from llmopt.checkpoint.tensor_files import TORCH_DTYPES, read_chunks
from llmopt.errors import InputError
from llmopt.quant.shard_journal import ShardJournal
from llmopt.quant.weight_codec import EncodedWeight, WeightCodec

Shard = dict[str, TensorEntry]


@dataclass(frozen=True)
class StreamJob:
    """One streamed quantisation.

    Attributes:
        shards: The tensors of each file that is to be written, by its name.
        rounded: The names of the weights to quantise; all others are copied byte for byte.
        codec: How they are quantised.
        made_by: What decides the bytes beside the source.
        scratch: Folder that survives a kill: journal and finished shards.
        workers: Tensors that are quantised at the same time, each on one CPU thread.
        progress: Hears of every tensor.
    """

    shards: Mapping[str, Shard]
    rounded: frozenset[str]
    codec: WeightCodec
    made_by: Mapping[str, str]
    scratch: Path
    workers: int
    progress: Progress


def group_by_file(tensors: Mapping[str, TensorEntry]) -> dict[str, Shard]:
    """Returns a checkpoint's tensors by the name of the file they lie in, in their order there."""
    shards: dict[str, Shard] = {}
    for name, entry in sorted(
        tensors.items(), key=lambda item: (item[1].file.name, item[1].offset)
    ):
        shards.setdefault(entry.file.name, {})[name] = entry
    return shards


def stream_shards(job: StreamJob) -> ShardJournal:
    """Writes every shard that the journal does not hold yet.

    Returns:
        The journal, with all shards finished.

    Raises:
        InputError: A tensor is NaN or infinite, or a file ends too early.
    """
    sources = {name: next(iter(shard.values())).file for name, shard in job.shards.items()}
    journal = ShardJournal(job.scratch, job.made_by, sources)
    for fault in journal.damage:
        job.progress.note(f"unfinished work can't be used: {fault}")
    if journal.finished:
        job.progress.note(f"resumed: {len(journal.finished)} of {len(job.shards)} shards")
    todo = [name for name in job.shards if name not in journal.finished]
    num_tensors = sum(len(shard) for shard in job.shards.values())
    num_left = sum(len(job.shards[name]) for name in todo)
    job.progress.start("quantising tensors", num_tensors, num_tensors - num_left)
    with _one_thread_each(), ThreadPoolExecutor(job.workers) as pool:
        encoded = _encode_ahead(job, todo, pool)
        for name in todo:
            journal.record(name, _write_shard(job, job.shards[name], journal.path(name), encoded))
    return journal


def _encode_ahead(
    job: StreamJob, names: Sequence[str], pool: ThreadPoolExecutor
) -> Iterator[EncodedWeight]:
    """Yields the quantised weights of these shards in order, `workers` of them being made."""
    pending: deque[Future[EncodedWeight]] = deque()
    for shard in names:
        for name, entry in job.shards[shard].items():
            if name not in job.rounded:
                continue
            pending.append(pool.submit(job.codec.encode, name, entry))
            if len(pending) > job.workers:
                yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _write_shard(
    job: StreamJob, shard: Shard, path: Path, encoded: Iterator[EncodedWeight]
) -> list[LayerError]:
    errors = []
    with PlannedTensorFile(path, _plan_shard(job, shard)) as file:
        for name, entry in shard.items():
            if name not in job.rounded:
                file.write_bytes(name, _read_finite_chunks(name, entry))
            else:
                layer, weight = name.removesuffix(".weight"), next(encoded)
                for suffix, tensor in weight.tensors.items():
                    file.write(f"{layer}.{suffix}", tensor)
                errors.append(_describe_error(layer, weight))
                job.progress.detail(layer)
            job.progress.advance()
    return errors


def _plan_shard(job: StreamJob, shard: Shard) -> dict[str, TensorPlan]:
    plans: dict[str, TensorPlan] = {}
    for name, entry in shard.items():
        if name not in job.rounded:
            plans[name] = TensorPlan(entry.dtype, entry.shape)
            continue
        layer = name.removesuffix(".weight")
        plans |= {f"{layer}.{key}": plan for key, plan in job.codec.plan(entry.shape).items()}
    return plans


def _describe_error(layer: str, weight: EncodedWeight) -> LayerError:
    return LayerError(layer=layer, loss=None, snr_db=None, weight_mse=weight.weight_mse)


def _read_finite_chunks(name: str, entry: TensorEntry) -> Iterator[bytes]:
    """Yields a tensor's bytes, each piece checked for NaN and infinity where it is of floats."""
    dtype = TORCH_DTYPES.get(entry.dtype)
    for chunk in read_chunks(entry):
        if dtype is not None and dtype.is_floating_point and dtype.itemsize > 1:
            values = torch.frombuffer(bytearray(chunk), dtype=dtype)
            if not bool(torch.isfinite(values).all()):
                raise InputError(f"{entry.file}: tensor {name} holds NaN or infinity")
        yield chunk


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Lets every worker compute on one thread: the number of threads decides a mean's last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
