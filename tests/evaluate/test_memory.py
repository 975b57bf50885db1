"""A model larger than memory can be scored: the peak does not grow with its blocks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import REPOSITORY, make_model

BLOCK_BYTES = 4 * (4 * 512 * 512 + 3 * 512 * 2048)  # float32, as they are computed
FEW, MANY = 2, 12
NUM_WINDOWS, SEQ_LEN, WIDTH = 100, 256, 512
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from llmopt.artifacts.progress import SilentProgress
from llmopt.checkpoint.activation_store import ActivationStore
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.evaluate.scoring import score_windows
from llmopt.evaluate.windows import Window

torch.set_num_threads(1)
for folder, budget_bytes, num_windows in json.loads(sys.argv[1]):
    ids = np.random.default_rng(0).integers(0, 320, (num_windows, 256))
    windows = [Window(number, tuple(row.tolist()), 4) for number, row in enumerate(ids)]
    checkpoint = Checkpoint.open(Path(folder))
    models = [StreamedModel(checkpoint, torch.device("cpu"), torch.float32) for _ in range(2)]
    store = ActivationStore(Path(sys.argv[2]), budget_bytes, torch.device("cpu"))
    (scores,) = score_windows(windows, models[:1], models[1], store, SilentProgress())
    assert scores.kl.max() == 0
    del scores, store
    status = Path("/proc/self/status").read_text()
    print(next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmHWM" in line))
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


def measure_peaks(spill: Path, *runs: tuple[Path, int, int]) -> list[int]:
    """Scores models against themselves in one process; returns its resident peak after each.

    Args:
        spill: Where streams go that do not fit.
        runs: Model, budget of the streams in bytes, windows.
    """
    described = [(str(folder), budget, windows) for folder, budget, windows in runs]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(described), str(spill)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def make_wide_model(folder: Path, num_blocks: int, intermediate_size: int = 2048) -> Path:
    """Writes a model whose blocks are nearly all of its weights."""
    return make_model(
        folder, hidden_size=WIDTH, intermediate_size=intermediate_size, vocab_size=320,
        num_hidden_layers=num_blocks, num_attention_heads=8, num_key_value_heads=8, head_dim=64,
    )  # fmt: skip


@pytest.mark.full
def test_the_peak_does_not_grow_with_the_blocks(tmp_path: Path) -> None:
    few = make_wide_model(tmp_path / "few", FEW)
    many = make_wide_model(tmp_path / "many", MANY)
    less, more = measure_peaks(tmp_path / "spill", (few, 10**9, 2), (many, 10**9, 2))
    weights = (MANY - FEW) * BLOCK_BYTES
    assert more - less < 2 * BLOCK_BYTES < weights / 4, (less, more, weights)


@pytest.mark.full
def test_streams_beyond_the_budget_are_not_held(tmp_path: Path) -> None:
    model = make_wide_model(tmp_path / "model", 1, intermediate_size=64)
    streams = 2 * NUM_WINDOWS * SEQ_LEN * WIDTH * 4
    spilled, held = measure_peaks(
        tmp_path / "spill", (model, 10**6, NUM_WINDOWS), (model, 10**9, NUM_WINDOWS)
    )
    assert held - spilled > streams / 2, (held, spilled, streams)
