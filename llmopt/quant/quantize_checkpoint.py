"""Drives a quantisation over all blocks of a checkpoint, and picks up where one was killed.

Shapes: N = windows, B = batch, T = tokens, D = hidden size.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from llmopt.artifacts.manifest import LayerError
from llmopt.artifacts.progress import Progress
from llmopt.checkpoint import compressed_tensors_format, gptq_format
from llmopt.checkpoint.activation_store import ActivationStore
from llmopt.checkpoint.checkpoint import Checkpoint, linear_names
from llmopt.checkpoint.decoder_block import DecoderBlock
from llmopt.checkpoint.model_config import BLOCK_LINEARS
from llmopt.checkpoint.packed_weight import PackedWeight
from llmopt.checkpoint.quantization_config import QuantFormat
from llmopt.checkpoint.streamed_model import StreamedModel, require_equal_head
from llmopt.checkpoint.tensor_files import read_tensor
from llmopt.data.calibration_windows import CalibrationWindows
from llmopt.errors import InputError
from llmopt.quant.block_pass import BlockPass, BlockResult, CalibrationBatches, Solver
from llmopt.quant.journal import Journal
from llmopt.quant.solution import split_solution

BATCH_TOKENS = 4096


@dataclass(frozen=True)
class QuantizeJob:
    """One quantisation.

    Attributes:
        checkpoint: What to quantise.
        solve: How stacked rows are rounded.
        format: What the packed layers are written as.
        windows: Calibration data; None rounds without looking at data.
        scratch: Folder that survives a kill: journal, finished blocks, activations.
        device: Where to compute.
        processor: What the device is, as far as it decides the last bits.
        activation_budget_bytes: Activations beyond this go to disk.
        progress: Hears of every block.
    """

    checkpoint: Checkpoint
    solve: Solver
    format: QuantFormat
    windows: CalibrationWindows | None
    scratch: Path
    device: torch.device
    processor: str
    activation_budget_bytes: int
    progress: Progress


def quantize_blocks(job: QuantizeJob) -> Journal:
    """Quantises every block that the journal does not hold yet.

    Returns:
        The journal, with all blocks done.

    Raises:
        InputError: A weight is NaN or infinite.
        NumericalError: A layer's Hessian can't be factorised within the damping budget.
    """
    journal = _open_journal(job)
    num_blocks = job.checkpoint.config.num_hidden_layers
    if journal.num_done:
        job.progress.note(f"resumed: {journal.num_done} of {num_blocks} blocks")
    else:
        _check_kept_tensors(job.checkpoint)
    job.progress.start("quantising blocks", num_blocks, journal.num_done)
    with torch.inference_mode():
        run = _run_without_data if job.windows is None else _run_with_data
        for result, hidden in run(job, journal):
            prefix = job.checkpoint.config.block_prefix(journal.num_done)
            journal.record(_pack_block(job, prefix, result), result.errors, hidden)
            job.progress.advance()
    return journal


def _open_journal(job: QuantizeJob) -> Journal:
    """Opens the journal and sees to it that what follows is computed as what it holds."""
    machine = {
        "device": job.device.type,
        "processor": job.processor,
        "compute_dtype": str(choose_compute_dtype(job.checkpoint, job.device)),
    }
    journal = Journal(job.scratch, machine, torch.get_num_threads())
    if journal.damage is not None:
        job.progress.note(f"unfinished work can't be used, starting anew: {journal.damage}")
    if journal.num_threads != torch.get_num_threads():
        job.progress.note(f"going on with {journal.num_threads} CPU threads, as it began")
        torch.set_num_threads(journal.num_threads)
    return journal


def _run_with_data(
    job: QuantizeJob, journal: Journal
) -> Iterator[tuple[BlockResult, Mapping[str, Tensor]]]:
    assert job.windows is not None
    dtype = choose_compute_dtype(job.checkpoint, job.device)
    model = StreamedModel(job.checkpoint, job.device, dtype)
    data = _load_batches(job, journal, model, job.windows)
    for index in range(journal.num_done, model.num_blocks):
        block = DecoderBlock(model, index, job.windows.ids_NT.shape[1])
        prefix = job.checkpoint.config.block_prefix(index)
        result = BlockPass(block, prefix, job.solve, _reporter(job)).run(data)
        yield result, data.hidden()


def _run_without_data(job: QuantizeJob, journal: Journal) -> Iterator[tuple[BlockResult, None]]:
    config = job.checkpoint.config
    for index in range(journal.num_done, config.num_hidden_layers):
        result = BlockResult()
        for layer in BLOCK_LINEARS:
            name = config.block_prefix(index) + layer
            weight = _read_finite(job.checkpoint, f"{name}.weight").to(job.device)
            solution = job.solve(weight, None)
            ((packed, error),) = split_solution(solution, [name], [len(weight)])
            result.weights[layer] = packed
            result.errors.append(error)
        yield result, None


def _check_kept_tensors(checkpoint: Checkpoint) -> None:
    """Checks what is copied as it is; linear layers are checked where they are rounded."""
    require_equal_head(checkpoint)
    rounded = {f"{name}.weight" for name, _ in linear_names(checkpoint.config)}
    for name in sorted(checkpoint.tensors.keys() - rounded):
        _read_finite(checkpoint, name)


def _read_finite(checkpoint: Checkpoint, name: str) -> Tensor:
    entry = checkpoint.tensors[name]
    tensor = read_tensor(entry)
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{entry.file}: tensor {name} holds NaN or infinity")
    return tensor


def _load_batches(
    job: QuantizeJob, journal: Journal, model: StreamedModel, windows: CalibrationWindows
) -> CalibrationBatches:
    seq_len = windows.ids_NT.shape[1]
    size = max(BATCH_TOKENS // seq_len, 1)
    spill = job.scratch / "activations"
    shutil.rmtree(spill, ignore_errors=True)  # what a killed run spilled is worth nothing
    store = ActivationStore(spill, job.activation_budget_bytes, job.device)
    lengths = torch.split(torch.from_numpy(windows.lengths_N), size)
    is_padded = bool((windows.lengths_N < seq_len).any())
    batches = CalibrationBatches(store, lengths if is_padded else [None] * len(lengths))
    if journal.num_done:
        for index, hidden in enumerate(journal.read_hidden()):
            batches.put(index, hidden.to(job.device))
        return batches
    ids_NT = torch.from_numpy(windows.ids_NT)
    _check_ids(job.checkpoint, ids_NT)
    for index, hidden in enumerate(model.embed(torch.split(ids_NT, size))):
        batches.put(index, hidden)
    return batches


def _check_ids(checkpoint: Checkpoint, ids_NT: Tensor) -> None:
    largest, vocab_size = int(ids_NT.max()), checkpoint.config.vocab_size
    if largest >= vocab_size:
        raise InputError(
            f"the tokenizer of {checkpoint.folder} gives token id {largest}, but the model's "
            f"vocab_size is {vocab_size}",
            remedy="use the tokenizer that belongs to the model",
        )


def choose_compute_dtype(checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """Returns the checkpoint's dtype; for float16 on a CPU float32 (docs/adr/0007)."""
    dtype: torch.dtype = getattr(torch, checkpoint.dtype)
    if dtype == torch.float16 and device.type == "cpu":
        return torch.float32
    return dtype


def _pack_block(job: QuantizeJob, prefix: str, result: BlockResult) -> dict[str, Tensor]:
    pack: Callable[[PackedWeight], dict[str, Tensor]] = gptq_format.pack
    if job.format == "compressed-tensors":
        scale_dtype: torch.dtype = getattr(torch, job.checkpoint.dtype)
        pack = partial(compressed_tensors_format.pack, scale_dtype=scale_dtype)
    return {
        f"{prefix}{layer}.{suffix}": tensor
        for layer, weight in result.weights.items()
        for suffix, tensor in pack(weight).items()
    }


def _reporter(job: QuantizeJob) -> Callable[[LayerError], None]:
    def report(error: LayerError) -> None:
        layer = error.layer.rpartition(".")[2]
        job.progress.detail(f"{layer} {error.snr_db:.1f} dB")

    return report
