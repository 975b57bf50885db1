"""Quantises small models through the real pipeline, as the steps do, and keeps what they saw."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llmopt.artifacts.progress import Progress, SilentProgress
from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.checkpoint_writer import write_quantized_checkpoint
from llmopt.checkpoint.compressed_tensors_config import build_compressed_tensors_config
from llmopt.checkpoint.gptq_config import build_gptq_config
from llmopt.checkpoint.quant_plan import QuantPlan
from llmopt.checkpoint.stored_quantization import QuantFormat
from llmopt.data.calibration_windows import CalibrationWindows
from llmopt.quant.asymmetric import AsymmetricOptions
from llmopt.quant.expert_policy import ExpertPolicy
from llmopt.quant.gptq import GptqOptions, solve_gptq
from llmopt.quant.journal import Journal
from llmopt.quant.quantize_checkpoint import QuantizeJob, quantize_blocks
from llmopt.quant.sensitivity import Budget, allocate_bits
from llmopt.quant.solution import Solution
from llmopt.steps.layer_overrides import build_plan
from tests.models import make_model
from tests.quant.layers import make_options

SMALL_VOCAB = 320
GIGABYTE = 1_000_000_000


def make_small_model(folder: Path, family: str = "llama", **config: object) -> Path:
    """Writes a random model of 2 blocks, hidden 64: the smallest that groups of 32 fit."""
    small: dict[str, object] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "head_dim": 16,
        "vocab_size": SMALL_VOCAB,
    }
    if family == "qwen3_moe":
        small["moe_intermediate_size"] = 32
    return make_model(folder, family, **{**small, **config})


def make_windows(samples: int = 8, seq_len: int = 40, seed: int = 0) -> CalibrationWindows:
    """Returns windows of random tokens, none padded."""
    ids_NT = np.random.default_rng(seed).integers(0, SMALL_VOCAB, (samples, seq_len))
    return CalibrationWindows(ids_NT, np.full(samples, seq_len, dtype=np.int64))


class RecordingSolver:
    """GPTQ that keeps every stage's weights, Hessian and solution."""

    def __init__(self, options: GptqOptions) -> None:
        self.options = options
        self.seen: list[tuple[Tensor, Tensor, Solution]] = []

    def __call__(self, W_RI: Tensor, H_II: Tensor | None, scheme: QuantScheme) -> Solution:
        assert H_II is not None
        solution = solve_gptq(W_RI, H_II, replace(self.options, scheme=scheme))
        self.seen.append((W_RI, H_II, solution))
        return solution


@dataclass(frozen=True)
class Quantized:
    """A finished quantisation."""

    folder: Path
    journal: Journal
    solver: RecordingSolver


def quantize(
    model: Path,
    folder: Path,
    *,
    options: GptqOptions | None = None,
    plan: QuantPlan | None = None,
    quant_format: QuantFormat = "gptq",
    windows: CalibrationWindows | None = None,
    budget_bytes: int = GIGABYTE,
    progress: Progress | None = None,
    experts: ExpertPolicy | None = None,
    asymmetric: AsymmetricOptions | None = None,
    device: str = "cpu",
    num_devices: int = 1,
    budget: Budget | None = None,
    reads_ahead: bool = False,
    recomputes: bool = False,
    commit_interval_s: float = 0.0,
) -> Quantized:
    """Quantises `model` into `folder`/checkpoint, its scratch in `folder`/scratch.

    Devices after the first are the CPU.
    """
    checkpoint = Checkpoint.open(model)
    dtype: torch.dtype = getattr(torch, checkpoint.dtype)
    solver = RecordingSolver(options or make_options(order="act_group_aware", scale_dtype=dtype))
    plan = plan or build_plan(checkpoint.config, solver.options.scheme)
    job = QuantizeJob(
        checkpoint=checkpoint,
        plan=plan,
        solve=solver,
        format=quant_format,
        windows=windows or make_windows(),
        scratch=folder / "scratch",
        device=torch.device(device),
        processor="here",
        activation_budget_bytes=budget_bytes,
        progress=progress or SilentProgress(),
        experts=experts,
        asymmetric=asymmetric,
        reads_ahead=reads_ahead,
        recomputes=recomputes,
        commit_interval_s=commit_interval_s,
        more_devices=(torch.device("cpu"),) * (num_devices - 1),
    )
    if budget is not None:
        plan = allocate_bits(job, budget)
        job = replace(job, plan=plan)
    journal = quantize_blocks(job)
    build = build_compressed_tensors_config
    if quant_format == "gptq":
        build = partial(build_gptq_config, damp_percent=0.01, quantizer="test")
    config = build(plan)
    target = folder / "checkpoint"
    target.mkdir()
    write_quantized_checkpoint(checkpoint, journal.packed_tensors(), config, target)
    return Quantized(target, journal, solver)
