"""What a quantisation by blocks is told of, and reports, where there are several devices."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from llmopt.artifacts.progress import SilentProgress
from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.quant.asymmetric_pass import AsymmetricOptions
from llmopt.quant.quantize_checkpoint import QuantizeJob, quantize_blocks
from llmopt.quant.rounding import solve_rtn
from llmopt.steps.base import RunContext
from llmopt.steps.layer_overrides import build_plan
from llmopt.steps.quantize_run import QuantizationInput, Stopwatch, describe_outcome, make_job
from tests.quant.pipeline import make_small_model, make_windows

pytestmark = pytest.mark.usefixtures("one_thread")
SEVERAL = (torch.device("cuda:0"), torch.device("cuda:1"))


def make_context(folder: Path) -> RunContext:
    return RunContext(folder, folder / "scratch", "cpu", 1, SilentProgress())


def make_rtn_job(model: Path, context: RunContext) -> QuantizeJob:
    """Returns round-to-nearest, its output error measured on random tokens."""
    checkpoint = Checkpoint.open(model)
    plan = build_plan(checkpoint.config, QuantScheme(4, 32))
    solve = partial(solve_rtn, scale_dtype=torch.bfloat16)
    given = QuantizationInput(checkpoint, plan, solve, None, "gptq", 1.0)
    return replace(make_job(given, context), windows=make_windows())


def test_the_manifest_names_every_device_that_took_part(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    job = make_rtn_job(make_small_model(tmp_path / "model"), context)
    shared = replace(job, more_devices=(torch.device("cpu"),))
    outcome = describe_outcome(shared, quantize_blocks(shared), context, Stopwatch())
    assert outcome.machine["devices"] == "cpu,cpu"
    alone = replace(shared, more_devices=())
    again = describe_outcome(alone, quantize_blocks(alone), context, Stopwatch())
    assert "devices" not in again.machine


def test_only_batches_of_a_dense_model_are_shared(tmp_path: Path) -> None:
    dense = make_rtn_job(make_small_model(tmp_path / "dense"), make_context(tmp_path))
    several = replace(dense, device=SEVERAL[0], more_devices=SEVERAL[1:])
    assert several.devices == SEVERAL
    assert replace(several, windows=None).devices == SEVERAL[:1]
    assert replace(several, asymmetric=AsymmetricOptions(1.0, 0.01, 0.5)).devices == SEVERAL[:1]
    experts = Checkpoint.open(make_small_model(tmp_path / "experts", "mixtral"))
    assert replace(several, checkpoint=experts).devices == SEVERAL[:1]
