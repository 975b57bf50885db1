"""The engine: any names, any number of workers, the same bytes."""

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llmopt.artifacts.progress import SilentProgress
from llmopt.checkpoint.linear_weights import select_linear_weights
from llmopt.checkpoint.safetensors_header import TensorEntry, TensorPlan, read_header
from llmopt.checkpoint.tensor_files import read_tensor, write_tensors
from llmopt.errors import InputError
from llmopt.quant.channel_codec import ChannelCodec, round_channels
from llmopt.quant.stream_shards import StreamJob, group_by_file, stream_shards
from llmopt.quant.weight_codec import EncodedWeight

CPU = torch.device("cpu")
EXPERTS = {
    "mixtral": ["block_sparse_moe.experts.{}.w1", "block_sparse_moe.experts.{}.w2"],
    "qwen3_moe": ["mlp.experts.{}.gate_proj", "mlp.experts.{}.down_proj"],
}
ROUTERS = {"mixtral": "block_sparse_moe.gate", "qwen3_moe": "mlp.gate"}


def write_moe(folder: Path, family: str, num_shards: int = 3) -> dict[str, TensorEntry]:
    """Writes a small mixture of experts in several files; returns its tensors."""
    folder.mkdir()
    torch.manual_seed(5)
    for shard in range(num_shards):
        prefix = f"model.layers.{shard}."
        tensors = {
            f"{prefix}self_attn.q_proj.weight": torch.randn(32, 48).bfloat16(),
            f"{prefix}self_attn.q_proj.bias": torch.randn(32).bfloat16(),
            f"{prefix}{ROUTERS[family]}.weight": torch.randn(4, 48).bfloat16(),
            f"{prefix}input_layernorm.weight": torch.randn(48),
            f"{prefix}flags": torch.tensor([True, False]),
        }
        for expert in range(3):
            for layer in EXPERTS[family]:
                tensors[f"{prefix}{layer.format(expert)}.weight"] = torch.randn(24, 48).bfloat16()
        write_tensors(folder / f"model-{shard}.safetensors", tensors)
    files = sorted(folder.iterdir())
    return {name: entry for path in files for name, entry in read_header(path).items()}


class Watched(SilentProgress):
    """Keeps what was said, and counts tensors."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.started: list[tuple[int, int]] = []
        self.num_advanced = 0

    def start(self, description: str, total: int, completed: int = 0) -> None:
        del description
        self.started.append((total, completed))

    def advance(self) -> None:
        self.num_advanced += 1

    def note(self, message: str) -> None:
        self.notes.append(message)


def make_job(
    tensors: dict[str, TensorEntry],
    scratch: Path,
    *,
    workers: int = 2,
    codec: object = None,
    progress: Watched | None = None,
) -> StreamJob:
    scratch.mkdir(exist_ok=True)
    return StreamJob(
        shards=group_by_file(tensors),
        rounded=select_linear_weights(tensors, ["lm_head"]),
        codec=codec or ChannelCodec("int-quantized", torch.bfloat16, CPU),  # type: ignore[arg-type]
        made_by={"settings": "{}"},
        scratch=scratch,
        workers=workers,
        progress=progress or Watched(),
    )


def read_shards(scratch: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((scratch / "shards").iterdir())}


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_are_rounded_and_all_else_is_copied(tmp_path: Path, family: str) -> None:
    tensors = write_moe(tmp_path / "model", family)
    progress = Watched()
    journal = stream_shards(make_job(tensors, tmp_path / "scratch", progress=progress))
    assert journal.finished == {f"model-{n}.safetensors" for n in range(3)}
    assert progress.started == [(len(tensors), 0)]
    assert progress.num_advanced == len(tensors)
    assert len(journal.errors) == 3 * (1 + 3 * len(EXPERTS[family]))
    for shard in range(3):
        made = load_file(journal.path(f"model-{shard}.safetensors"))
        source = load_file(tmp_path / "model" / f"model-{shard}.safetensors")
        rounded = [name for name in source if f"{name}_scale" in made]
        assert len(rounded) == 1 + 3 * len(EXPERTS[family])
        assert not any("gate.weight" in name for name in rounded)
        for name, tensor in source.items():
            expected = tensor
            if name in rounded:
                expected, scales = round_channels(tensor.float(), "int-quantized", torch.bfloat16)
                assert torch.equal(made[f"{name}_scale"], scales)
            assert made[name].dtype == expected.dtype
            assert torch.equal(made[name], expected), name
        assert len(made) == len(source) + len(rounded)


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    tensors = write_moe(tmp_path / "model", "mixtral")
    found = []
    for workers in (1, 2, 7):
        scratch = tmp_path / f"scratch-{workers}"
        stream_shards(make_job(tensors, scratch, workers=workers))
        found.append(read_shards(scratch))
    assert found[0] == found[1] == found[2]


def test_finished_shards_are_not_made_again(tmp_path: Path) -> None:
    tensors = write_moe(tmp_path / "model", "mixtral")
    scratch = tmp_path / "scratch"
    stream_shards(make_job(tensors, scratch))
    whole = read_shards(scratch)
    (scratch / "shards" / "model-1.safetensors").write_bytes(b"damaged")
    states = {p.name: p.stat().st_mtime_ns for p in (scratch / "shards").iterdir()}
    progress = Watched()
    journal = stream_shards(make_job(tensors, scratch, progress=progress))
    assert read_shards(scratch) == whole
    remade = [n for n, t in states.items() if (scratch / "shards" / n).stat().st_mtime_ns != t]
    assert remade == ["model-1.safetensors"]
    assert "resumed: 2 of 3 shards" in progress.notes
    assert any("model-1.safetensors has 7 bytes" in note for note in progress.notes)
    per_shard = len(tensors) // 3
    assert progress.started == [(3 * per_shard, 2 * per_shard)]
    assert progress.num_advanced == per_shard
    assert [error.layer.split(".")[2] for error in journal.errors] == sorted("012" * 7)


class CountingCodec:
    """Watches how many weights are in the works at the same time, and on how many threads each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self.most = 0
        self.threads: set[int] = set()

    def plan(self, shape_OI: tuple[int, ...]) -> dict[str, TensorPlan]:
        return {"weight": TensorPlan("BF16", shape_OI)}

    def encode(self, name: str, entry: TensorEntry) -> EncodedWeight:
        del name
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        tensor = read_tensor(entry)
        threading.Event().wait(0.02)
        self.threads.add(torch.get_num_threads())
        with self._lock:
            self._running -= 1
        return EncodedWeight({"weight": tensor}, 0.0)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_compute_on_one_thread_each(tmp_path: Path, workers: int) -> None:
    tensors = write_moe(tmp_path / "model", "mixtral")
    codec = CountingCodec()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        stream_shards(make_job(tensors, tmp_path / "scratch", workers=workers, codec=codec))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert codec.most == workers
    assert codec.threads == {1}


@pytest.mark.parametrize("broken", ["mlp.gate", "mlp.experts.1.down_proj"])
def test_what_is_not_finite_is_named_and_leaves_no_half_file(tmp_path: Path, broken: str) -> None:
    tensors = write_moe(tmp_path / "model", "qwen3_moe")
    path = tmp_path / "model" / "model-1.safetensors"
    source: dict[str, Tensor] = load_file(path)
    name = f"model.layers.1.{broken}.weight"
    source[name][1, 1] = torch.nan
    write_tensors(path, source)
    tensors |= read_header(path)
    with pytest.raises(InputError, match=f"model-1.safetensors: tensor {name} holds NaN"):
        stream_shards(make_job(tensors, tmp_path / "scratch"))
    assert [p.name for p in (tmp_path / "scratch" / "shards").iterdir()] == ["model-0.safetensors"]
