"""Drives a quantisation over all blocks of a checkpoint, and picks up where one was killed.

Shapes: N = windows, B = batch, T = tokens, D = hidden size.
"""

import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from llmopt.artifacts.manifest import LayerError
from llmopt.artifacts.progress import Progress
from llmopt.checkpoint import compressed_tensors_format, gptq_format
from llmopt.checkpoint.activation_store import ActivationStore
from llmopt.checkpoint.channel_format import pack_int_quantized
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.decoder_block import DecoderBlock
from llmopt.checkpoint.packed_weight import PackedWeight
from llmopt.checkpoint.quant_plan import OUTPUT_LAYER, QuantPlan
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.checkpoint.streamed_model import StreamedModel, require_equal_head
from llmopt.checkpoint.tensor_files import read_tensor
from llmopt.data.calibration_windows import CalibrationWindows
from llmopt.errors import InputError, NumericalError
from llmopt.quant.asymmetric import AsymmetricOptions, CrossMoment
from llmopt.quant.asymmetric_pass import ORIGINAL, AsymmetricPass, shift_solver
from llmopt.quant.block_pass import (
    HIDDEN,
    BlockPass,
    BlockResult,
    CalibrationBatches,
    Rounding,
    Solver,
    StageSolver,
    solve_layers,
)
from llmopt.quant.block_solve import name_rounder
from llmopt.quant.expert_pass import ExpertPass
from llmopt.quant.expert_policy import ExpertPolicy, note_starved
from llmopt.quant.hessian import Hessian
from llmopt.quant.journal import Journal
from llmopt.quant.matrix_units import is_widened, kept_dtype
from llmopt.quant.solution import split_solution

BATCH_TOKENS = 4096
CPU_BATCH_TOKENS = 2048  # the allocator then keeps the activations' memory (docs/adr/0016)
# What came of each block, and the residual streams after it.
Parts = Generator[tuple[BlockResult, Mapping[str, Tensor] | None], None, None]


@dataclass(frozen=True)
class QuantizeJob:
    """One quantisation.

    Attributes:
        checkpoint: What to quantise.
        plan: How each layer is rounded.
        solve: How stacked rows are rounded.
        format: What the packed layers are written as.
        windows: Calibration data; None rounds without looking at data.
        scratch: Folder that survives a kill: journal, finished blocks, activations.
        device: Where to compute, and where layers are solved.
        more_devices: Take a share of the calibration batches through each block; not where there
            are experts or no batches, or `asymmetric` is set.
        asymmetric: Aims at the original model's outputs; not for experts.
        reads_ahead: Whether the next block is read from the disk meanwhile (for GPUs).
        recomputes: Whether MLPs' inner activations that do not fit in memory are computed a second
            time, not put on disk (for GPUs); the result is the same.
        commit_interval_s: Blocks are committed, and the data after them written, when so much time
            has passed since it last was; a kill costs the blocks since then. 0 commits every block.
        processor: What the device is, as far as it decides the last bits.
        activation_budget_bytes: Activations beyond this go to disk.
        progress: Hears of every block.
        experts: What becomes of experts that see few tokens; None treats all alike.
        solve_stage: Works on the layers that share an input.
        packs_words: Whether integers share 32-bit words; else compressed-tensors stores them as
            int8 (its `int-quantized`, for schemes of 8 bits per channel).
    """

    checkpoint: Checkpoint
    plan: QuantPlan
    solve: Solver
    format: QuantFormat
    windows: CalibrationWindows | None
    scratch: Path
    device: torch.device
    processor: str
    activation_budget_bytes: int
    progress: Progress
    experts: ExpertPolicy | None = None
    solve_stage: StageSolver = solve_layers
    packs_words: bool = True
    more_devices: tuple[torch.device, ...] = ()
    asymmetric: AsymmetricOptions | None = None
    reads_ahead: bool = False
    recomputes: bool = False
    commit_interval_s: float = 0.0

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Every device that takes part."""
        has_experts = self.checkpoint.config.experts is not None
        takes_one = has_experts or self.asymmetric is not None or self.windows is None
        return (self.device,) if takes_one else (self.device, *self.more_devices)

    def device_of(self, batch: int) -> torch.device:
        """Returns the device that a calibration batch is on."""
        return self.devices[batch % len(self.devices)]

    @property
    def streams(self) -> tuple[str, ...]:
        """The residual streams that go through the model."""
        return (HIDDEN,) if self.asymmetric is None else (HIDDEN, ORIGINAL)

    @property
    def rounding(self) -> Rounding:
        """How the layers of a block are worked on."""
        return Rounding(self.plan.schemes, self.solve, self.solve_stage)


def quantize_blocks(job: QuantizeJob) -> Journal:
    """Quantises every block that the journal does not hold yet.

    Returns:
        The journal, with all blocks done.

    Raises:
        InputError: A weight is NaN or infinite.
        NumericalError: A layer's Hessian can't be factorised within the damping budget.
    """
    return walk_blocks(job, "quantising blocks")


def walk_blocks(job: QuantizeJob, title: str) -> Journal:
    """Takes the calibration data through every block that the journal does not hold yet.

    Args:
        job: What is walked through, with what data, and where.
        title: What the progress is called.
    """
    journal = _open_journal(job)
    num_parts = job.checkpoint.config.num_hidden_layers + job.plan.rounds_output_layer
    if journal.num_done:
        job.progress.note(f"resumed: {journal.num_done} of {num_parts} blocks")
    else:
        _check_kept_tensors(job.checkpoint, job.plan)
    job.progress.start(title, num_parts, journal.num_done)
    num_walked, committed_s = journal.num_done, time.monotonic()
    run = _run_without_data if job.windows is None else _run_with_data
    with torch.inference_mode(), closing(journal), closing(run(job, journal)) as parts:
        for result, hidden in parts:
            journal.add(_pack_layers(job, result), result.errors)
            num_walked += 1
            is_due = time.monotonic() - committed_s >= job.commit_interval_s
            if is_due or num_walked == num_parts:
                journal.commit(hidden if num_walked < num_parts else None)
                committed_s = time.monotonic()
            job.progress.advance()
    return journal


def _open_journal(job: QuantizeJob) -> Journal:
    """Opens the journal and sees to it that what follows is computed as what it holds."""
    machine = {
        "device": " and ".join(device.type for device in job.devices),
        "processor": job.processor,
        "compute_dtype": str(choose_compute_dtype(job.checkpoint, job.device)),
        "rounder": name_rounder(job.device),
    }
    journal = Journal(job.scratch, machine, torch.get_num_threads())
    if journal.damage is not None:
        job.progress.note(f"unfinished work can't be used, starting anew: {journal.damage}")
    if journal.num_threads != torch.get_num_threads():
        job.progress.note(f"going on with {journal.num_threads} CPU threads, as it began")
        torch.set_num_threads(journal.num_threads)
    return journal


def _run_with_data(job: QuantizeJob, journal: Journal) -> Parts:
    num_blocks = job.checkpoint.config.num_hidden_layers
    if journal.num_done == num_blocks + job.plan.rounds_output_layer:
        return  # nothing reads the data any more, so that it was not kept
    dtype = choose_compute_dtype(job.checkpoint, job.device)
    models = [StreamedModel(job.checkpoint, device, dtype) for device in job.devices]
    try:
        yield from _pass_blocks(job, journal, models)
    finally:
        for model in models:
            model.close()


def _pass_blocks(job: QuantizeJob, journal: Journal, models: Sequence[StreamedModel]) -> Parts:
    assert job.windows is not None
    model, num_blocks = models[0], job.checkpoint.config.num_hidden_layers
    data = _load_batches(job, journal, model, job.windows)
    for index in range(journal.num_done, num_blocks):
        blocks = [DecoderBlock(each, index, job.windows.ids_NT.shape[1]) for each in models]
        if job.reads_ahead and index + 1 < num_blocks:
            for each in models:
                each.read_ahead(index + 1)
        if job.asymmetric is not None:
            blocks.append(DecoderBlock(model, index, job.windows.ids_NT.shape[1]))
        result = _pass_block(job, blocks, index, data)
        yield result, data.streams(*job.streams)
    if job.plan.rounds_output_layer:
        yield _solve_output_layer(job, model, data), None


def _pass_block(
    job: QuantizeJob, blocks: Sequence[DecoderBlock], index: int, data: CalibrationBatches
) -> BlockResult:
    prefix, report = job.checkpoint.config.block_prefix(index), _reporter(job)
    if job.asymmetric is not None:
        block, original = blocks
        rounding, options = job.rounding, job.asymmetric
        return AsymmetricPass(block, original, prefix, rounding, report, options).run(data)
    if blocks[0].experts is None:
        return BlockPass(blocks, prefix, job.rounding, report).run(data)
    result = ExpertPass(blocks[0], prefix, job.rounding, report, job.experts).run(data)
    note = note_starved(result.errors, job.experts)
    if note is not None:
        job.progress.note(note)
    return result


def _solve_output_layer(
    job: QuantizeJob, model: StreamedModel, data: CalibrationBatches
) -> BlockResult:
    """Rounds `lm_head`, calibrated on the normalised end of the residual stream."""
    head = model.read_head()
    hidden_size = head.projection_VD.shape[1]
    hessian = Hessian(hidden_size, job.device)
    cross = None if job.asymmetric is None else CrossMoment(hidden_size, job.device)
    for batch in data:
        inputs = head.normalize(batch.hidden.to(job.device))
        hessian.add(inputs, batch.lengths)
        if cross is not None:
            original = head.normalize(data.look(batch.index, ORIGINAL))
            cross.add(original, inputs, batch.lengths)
    solve = job.solve
    if cross is not None and job.asymmetric is not None:
        solve = shift_solver(solve, cross.finish(), job.asymmetric)
    try:
        weights = {OUTPUT_LAYER: head.projection_VD}
        result = job.solve_stage(weights, hessian.finish, job.plan.schemes, solve)
    except NumericalError as error:
        raise NumericalError(f"{OUTPUT_LAYER}: {error.message}", remedy=error.remedy) from None
    _reporter(job)(result.errors[0])
    return result


def _run_without_data(job: QuantizeJob, journal: Journal) -> Parts:
    config = job.checkpoint.config
    for index in range(journal.num_done, config.num_hidden_layers):
        prefix = config.block_prefix(index)
        yield _round_layers(job, [prefix + layer for layer in config.linear_shapes(index)]), None
    if job.plan.rounds_output_layer and journal.num_done <= config.num_hidden_layers:
        yield _round_layers(job, [OUTPUT_LAYER]), None


def _round_layers(job: QuantizeJob, names: list[str]) -> BlockResult:
    result = BlockResult()
    for name in names:
        scheme = job.plan.schemes[name]
        if scheme is not None:
            weight = _read_finite(job.checkpoint, f"{name}.weight").to(job.device)
            solution = job.solve(weight, None, scheme)
            ((packed, error),) = split_solution(solution, [name], [len(weight)])
            result.weights[name] = packed
            result.errors.append(error)
    return result


def _check_kept_tensors(checkpoint: Checkpoint, plan: QuantPlan) -> None:
    """Checks what is copied as it is; linear layers are checked where they are rounded."""
    require_equal_head(checkpoint)
    rounded = {f"{name}.weight" for name, _ in plan.rounded()}
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
    batch_tokens = CPU_BATCH_TOKENS if job.device.type == "cpu" else BATCH_TOKENS
    size = max(batch_tokens // seq_len, 1)
    spill = job.scratch / "activations"
    shutil.rmtree(spill, ignore_errors=True)  # what a killed run spilled is worth nothing
    budget_bytes = job.activation_budget_bytes // len(job.devices)
    computed = str(model.compute_dtype).removeprefix("torch.")
    stored_dtype: torch.dtype = getattr(torch, kept_dtype(job.checkpoint.dtype, computed))
    stores = [
        ActivationStore(spill / str(number), budget_bytes, device, stored_dtype)
        for number, device in enumerate(job.devices)
    ]
    lengths = torch.split(torch.from_numpy(windows.lengths_N), size)
    is_padded = bool((windows.lengths_N < seq_len).any())
    batches = CalibrationBatches(
        stores,
        lengths if is_padded else [None] * len(lengths),
        recomputes=job.recomputes,
    )
    if journal.num_done:
        for name, tensor in journal.read_hidden():
            stream, _, number = name.rpartition("-")
            device = job.device_of(int(number))
            batches.keep(int(number), stream, tensor.to(device, model.compute_dtype))
        return batches
    ids_NT = torch.from_numpy(windows.ids_NT)
    _check_ids(job.checkpoint, ids_NT)
    for index, hidden in enumerate(model.embed(torch.split(ids_NT, size))):
        for stream in job.streams:
            batches.keep(index, stream, hidden.to(job.device_of(index)))
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
    """Returns the checkpoint's dtype; float32 where a CPU is faster in it (docs/adr/0007, 16)."""
    if device.type == "cpu" and is_widened(checkpoint.dtype):
        return torch.float32
    dtype: torch.dtype = getattr(torch, checkpoint.dtype)
    return dtype


def _pack_layers(job: QuantizeJob, result: BlockResult) -> dict[str, Tensor]:
    pack: Callable[[PackedWeight], dict[str, Tensor]] = gptq_format.pack
    scale_dtype: torch.dtype = getattr(torch, job.checkpoint.dtype)
    if job.format == "compressed-tensors":
        packer = compressed_tensors_format.pack if job.packs_words else pack_int_quantized
        pack = partial(packer, scale_dtype=scale_dtype)
    return {
        f"{name}.{suffix}": tensor
        for name, weight in result.weights.items()
        for suffix, tensor in pack(weight).items()
    }


def _reporter(job: QuantizeJob) -> Callable[[LayerError], None]:
    def report(error: LayerError) -> None:
        layer = error.layer.rpartition(".")[2]
        snr = "no data" if error.snr_db is None else f"{error.snr_db:.1f} dB"
        job.progress.detail(f"{layer} {snr}")

    return report
