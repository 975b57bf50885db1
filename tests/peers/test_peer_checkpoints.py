"""What GPTQModel, llm-compressor and AutoRound wrote means to llmopt what it means to them.

`make_checkpoints.py` made the folders and says what `expected.npz` holds.
"""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.resident_model import load_resident_model
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.checkpoint.verification import verify_checkpoint
from llmopt.errors import InputError
from tests.checkpoint.test_streamed_model import run_streamed
from tests.models import TINY_MODEL
from tests.peers.make_checkpoints import CHECKPOINTS

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
ALL_NAMES = sorted(path.name for path in CHECKPOINTS.iterdir())
# 8-bit values with activations rounded as well: not read yet, and refused by name.
UNREAD = {
    "llmcompressor-fp8-block": "float-quantized",
    "llmcompressor-fp8-dynamic": "float-quantized",
    "llmcompressor-fp8-static": "float-quantized",
    "llmcompressor-mixed-formats": "float-quantized",
    "llmcompressor-w8a8": "int-quantized",
}
NAMES = [name for name in ALL_NAMES if name not in UNREAD]


@cache
def read_expected(name: str) -> dict[str, NDArray[Any]]:
    """Reads what the peer made of its checkpoint: ids, logits, layer.NAME."""
    with np.load(CHECKPOINTS / name / "expected.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", NAMES)
def test_layers_hold_the_weights_that_the_peer_unpacks(name: str) -> None:
    expected = read_expected(name)
    layers = [key.removeprefix("layer.") for key in expected if key.startswith("layer.")]
    assert len(layers) >= 7
    model = StreamedModel(Checkpoint.open(CHECKPOINTS / name), CPU, torch.float32)
    for layer in layers:
        weight_OI = model.read_weight(f"{layer}.weight").double()
        product = weight_OI @ torch.arange(weight_OI.shape[1], dtype=torch.float64).cos()
        limit = torch.from_numpy(expected[f"layer.{layer}"]).double()
        torch.testing.assert_close(product, limit, rtol=1e-5, atol=1e-6, msg=layer)


@pytest.mark.parametrize("name", NAMES)
def test_block_by_block_the_logits_are_the_peers(name: str) -> None:
    expected = read_expected(name)
    logits = run_streamed(CHECKPOINTS / name, torch.from_numpy(expected["ids"]))
    wanted = torch.from_numpy(expected["logits"])
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_in_memory_the_logits_are_the_peers(name: str) -> None:
    expected = read_expected(name)
    model = load_resident_model(Checkpoint.open(CHECKPOINTS / name), CPU, torch.float32)
    with torch.inference_mode():
        logits = model(torch.from_numpy(expected["ids"])).logits
    wanted = torch.from_numpy(expected["logits"])
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_no_fault_is_found_in_what_a_peer_wrote(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(CHECKPOINTS / name, tmp_path / name)
    shutil.copyfile(TINY_MODEL / "tokenizer.json", folder / "tokenizer.json")
    report = verify_checkpoint(folder)
    assert report.faults == []
    assert report.num_tensors > 20


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"format is '{UNREAD[name]}'"):
        Checkpoint.open(CHECKPOINTS / name)
