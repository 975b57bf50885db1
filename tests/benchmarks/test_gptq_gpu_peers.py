"""benchmarks/gptq_gpu_peers.py: its own half on the CPU, and its table."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmopt.checkpoint.checkpoint import Checkpoint
from tests.benchmarks.test_calibration_study import load_script

pytestmark = pytest.mark.usefixtures("one_thread")


def test_our_half_leaves_a_checkpoint_that_opens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("gptq_gpu_peers", monkeypatch)
    monkeypatch.setattr(script.torch.cuda, "is_available", lambda: False)
    shape = replace(script.TINY, blocks=1)
    script.make_model(tmp_path / "model", shape)
    ids = np.random.default_rng(0).integers(0, shape.vocab, (4, 64), dtype=np.int64)
    np.save(tmp_path / "ids.npy", ids)
    script.quantize_here(tmp_path / "model", tmp_path / "ids.npy", tmp_path / "out")
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["tool"].startswith("llmopt ")
    quantization = Checkpoint.open(tmp_path / "out").quantization
    assert quantization is not None


def test_table_holds_the_peer_against_us(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("gptq_gpu_peers", monkeypatch)
    giga = 10**9
    ours, peer = (
        [script.Result(script.Usage(wall, 0.0, 2 * giga), name, 3 * giga)]
        for wall, name in ((2.0, "llmopt 1"), (9.0, "peer 2"))
    )
    options = argparse.Namespace(samples=4, seq_len=64, rounds=1, batch_size=8)
    text = script.describe(options, script.TINY, [ours, peer])
    assert text.splitlines()[-2:] == [
        "| llmopt 1 | 2.0 s | 1.00 | 3.00 GB | 2.00 GB |",
        "| peer 2 | 9.0 s | 4.50 | 3.00 GB | 2.00 GB |",
    ]
