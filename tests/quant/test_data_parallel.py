"""Several devices share the calibration batches; here two of them are the one CPU."""

import threading
from pathlib import Path

import pytest
import torch

from llmopt.checkpoint.activation_store import ActivationStore
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.quant.hessian import Hessian
from llmopt.quant.journal import Journal
from tests.checkpoint.numpy_dequantizer import dequantize_folder
from tests.quant.pipeline import make_small_model, make_windows, quantize
from tests.quant.test_quantize_checkpoint import InterruptedRunError, InterruptingProgress

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.mark.parametrize("num_places", [1, 2, 3])
def test_partial_sums_make_one_hessian(num_places: int) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(2, 9, 48, generator=generator) for _ in range(5)]
    lengths = torch.tensor([9, 4])
    hessian = Hessian(48, *[CPU] * num_places)
    for index, batch in enumerate(batches):
        hessian.add(batch, lengths if index == 3 else None, place=index % num_places)
    rows = [batch.flatten(0, 1) for batch in batches]
    rows[3] = torch.cat([batches[3][0], batches[3][1, :4]])
    X = torch.cat(rows).double()
    assert torch.allclose(hessian.finish().double(), X.T @ X / len(X), atol=1e-5)


@pytest.mark.parametrize("num_devices", [2, 3])
def test_integers_are_those_of_one_device_but_for_ties(tmp_path: Path, num_devices: int) -> None:
    model = make_small_model(tmp_path / "model", dtype=torch.float32)
    windows = make_windows(samples=700)  # batches of 4096 tokens: 7 of them
    alone = quantize(model, tmp_path / "alone", windows=windows)
    shared = quantize(model, tmp_path / "shared", windows=windows, num_devices=num_devices)
    one, other = dequantize_folder(alone.folder), dequantize_folder(shared.folder)
    for name, layer in one.items():
        same = (layer.integers == other[name].integers).mean()
        assert same > 0.995, name
    # Every replica got the rounded weights: else later stages would have seen other inputs.
    for (_, H, _), (_, other_H, _) in zip(alone.solver.seen, shared.solver.seen, strict=True):
        assert torch.allclose(H, other_H, atol=1e-2 * float(H.abs().max()))


def test_reading_ahead_changes_no_byte(tmp_path: Path) -> None:
    model = make_small_model(tmp_path / "model", num_hidden_layers=4, max_shard_size="100KB")
    plain = quantize(model, tmp_path / "plain")
    ahead = quantize(model, tmp_path / "ahead", reads_ahead=True)
    name = "model.safetensors"
    assert (plain.folder / name).read_bytes() == (ahead.folder / name).read_bytes()


def test_a_run_that_ends_early_reads_no_further(tmp_path: Path) -> None:
    model = make_small_model(tmp_path / "model")
    progress = InterruptingProgress(details=3)
    with pytest.raises(InterruptedRunError) as caught:
        quantize(model, tmp_path / "work", reads_ahead=True, progress=progress)
    assert caught.tb is not None  # which holds the run's frames, and so what they hold
    assert not [each for each in threading.enumerate() if each.name.startswith("read-ahead")]


@pytest.mark.parametrize("batches_that_fit", [0, 2, 9])
def test_computing_again_what_has_no_room_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches_that_fit: int
) -> None:
    model = make_small_model(tmp_path / "model", dtype=torch.float32)
    windows = make_windows(samples=400)  # 8 batches of 51 windows
    hidden_bytes, inner_bytes = 400 * 40 * 64 * 4, 51 * 40 * 96 * 4
    budget_bytes = hidden_bytes + batches_that_fit * inner_bytes
    kept: list[str] = []
    plain_put = ActivationStore.put

    def watch(store: ActivationStore, key: str, tensor: torch.Tensor) -> None:
        kept.append(key)
        plain_put(store, key, tensor)

    monkeypatch.setattr(ActivationStore, "put", watch)
    folders = []
    for recomputes in (False, True):
        kept.clear()
        name = f"recomputes-{recomputes}"
        done = quantize(
            model, tmp_path / name, windows=windows, budget_bytes=budget_bytes,
            recomputes=recomputes,
        )  # fmt: skip
        num_inner = sum(key.startswith("inner") for key in kept)
        num_blocks = Checkpoint.open(model).config.num_hidden_layers
        assert num_inner == num_blocks * (min(batches_that_fit, 8) if recomputes else 8)
        folders.append(done.folder)
    one, other = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert one == other


def test_work_of_other_devices_is_not_gone_on_with(tmp_path: Path) -> None:
    model = make_small_model(tmp_path / "model")
    done = quantize(model, tmp_path / "work", num_devices=2)
    assert done.journal.num_done == Checkpoint.open(model).config.num_hidden_layers
    machine = {
        "device": "cpu",
        "processor": "here",
        "compute_dtype": "torch.bfloat16",
        "rounder": "plain",
    }
    journal = Journal(tmp_path / "work" / "scratch", machine, num_threads=1)
    assert journal.num_done == 0
    assert journal.damage is not None
    assert "cpu and cpu" in journal.damage
