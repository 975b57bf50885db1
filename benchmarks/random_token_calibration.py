"""Quantises a model by GPTQ on uniformly random token ids, as `quantize.gptq` would on a data set.

No text gives exactly such ids, since a tokenizer merges what stands side by side; so this goes
through the library and leaves a plain checkpoint, which a recipe then names as a source.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from llmopt.artifacts.digest import FileHasher
from llmopt.artifacts.progress import SilentProgress
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.checkpoint_writer import write_quantized_checkpoint
from llmopt.checkpoint.gptq_config import build_gptq_config
from llmopt.data.calibration_windows import CalibrationWindows
from llmopt.quant.gptq import GptqOptions, solve_gptq
from llmopt.quant.quantize_checkpoint import QuantizeJob, quantize_blocks
from llmopt.recipe.sources import digest_model_folder
from llmopt.steps.device import describe_device
from llmopt.steps.quantize_gptq import QuantizeGptq
from llmopt.steps.quantize_run import BYTES_PER_GB, torch_dtype

Shape = tuple[int, int]


def draw_windows(model: Path, shape: Shape, seed: int) -> CalibrationWindows:
    """Draws ids [N, T], each of the tokenizer's tokens equally likely, special ones left out."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ordinary = np.array([token for token in range(len(tokenizer)) if token not in special])
    ids_NT = np.random.default_rng(seed).choice(ordinary, shape)
    return CalibrationWindows(ids_NT.astype(np.int64), np.full(shape[0], shape[1], dtype=np.int64))


def quantize_on_random_tokens(
    model: Path, step: QuantizeGptq, shape: Shape, seed: int, folder: Path
) -> Path:
    """Quantises with a step's settings; returns the checkpoint's folder, made once.

    Args:
        model: The original.
        step: The settings; its `data` is not read.
        shape: Windows and tokens per window.
        seed: Seed of the ids.
        folder: Where checkpoints are kept.
    """
    digest = digest_model_folder(model, FileHasher(None))[:16]
    name = f"{digest}-v{step.step_version}-{step.group_size}-{shape[0]}x{shape[1]}-{seed}"
    output, work = folder / name, folder / f"{name}.partial"
    if output.exists():
        return output
    shutil.rmtree(work, ignore_errors=True)
    (work / "checkpoint").mkdir(parents=True)
    checkpoint = Checkpoint.open(model)
    device = torch.device("cpu")
    options = GptqOptions(
        scheme=step.scheme,
        act_group_aware=step.act_group_aware,
        damp_percent=step.damp_percent,
        max_damp_percent=step.max_damp_percent,
        scale_dtype=torch_dtype(checkpoint),
    )
    plan = step.plan(checkpoint.config)
    job = QuantizeJob(
        checkpoint=checkpoint,
        plan=plan,
        solve=lambda W, H, scheme: solve_gptq(W, H, replace(options, scheme=scheme)),
        format=step.format,
        windows=draw_windows(model, shape, seed),
        scratch=work / "scratch",
        device=device,
        processor=describe_device(device)["name"],
        activation_budget_bytes=int(step.activation_memory_gb * BYTES_PER_GB),
        progress=SilentProgress(),
    )
    packed = quantize_blocks(job).packed_tensors()
    config = build_gptq_config(
        plan, damp_percent=step.damp_percent, quantizer="llmopt on random tokens"
    )
    write_quantized_checkpoint(checkpoint, packed, config, work / "checkpoint")
    (work / "checkpoint").rename(output)
    shutil.rmtree(work)
    return output
