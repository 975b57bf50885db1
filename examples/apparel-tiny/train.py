"""Train the language model on packed sequences and measure it."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from build_tokenizer import MAX_LENGTH, VOCAB_SIZE
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

SEQUENCE = 512
GROUP = 128


@dataclass(frozen=True)
class Settings:
    """What decides the run: the seed, the length and the optimiser's numbers."""

    seed: int
    steps: int
    minutes: float = 0.0  # a limit on the time, after which the run has decayed too; 0: none
    workers: int = 2
    batch: int = 8
    peak_lr: float = 3e-3
    final_lr_share: float = 0.02
    warmup: int = 150
    weight_decay: float = 0.1
    clip: float = 1.0


def new_model() -> LlamaForCausalLM:
    """Build the untrained model in float32."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


def batches(documents: list[Tensor], settings: Settings) -> Iterator[Tensor]:
    """Pack the shuffled documents, epoch after epoch, into rows of `SEQUENCE` + 1 tokens."""
    generator = torch.Generator().manual_seed(settings.seed)
    rows: list[Tensor] = []
    while True:
        order = torch.randperm(len(documents), generator=generator).tolist()
        stream = torch.cat([documents[i] for i in order])
        count = (len(stream) - 1) // SEQUENCE
        starts = torch.randperm(count, generator=generator).tolist()
        for start in starts:
            rows.append(stream[start * SEQUENCE : (start + 1) * SEQUENCE + 1])
            if len(rows) == settings.batch:
                yield torch.stack(rows).long()
                rows = []


def _loss(model: LlamaForCausalLM, rows: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.peak_lr, betas=(0.9, 0.95), fused=True)


def _learning_rate(step: int, progress: float, settings: Settings) -> float:
    """Linear warm-up by steps, then a cosine by the progress of the run."""
    low = settings.final_lr_share
    cosine = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
    return settings.peak_lr * min(cosine, (step + 1) / settings.warmup)


def _progress(step: int, begun: float, settings: Settings) -> float:
    """How much of the run is over, by steps or, with a time limit, by time; rank 0 decides."""
    share = step / settings.steps
    if settings.minutes:
        share = max(share, (time.monotonic() - begun) / (60 * settings.minutes))
    agreed = torch.tensor([share], dtype=torch.float64)
    dist.broadcast(agreed, 0)
    return agreed.item()


def _share_gradients(model: nn.Module) -> None:
    """Average the gradients of all workers, in one message."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _run(model: LlamaForCausalLM, documents: list[Tensor], settings: Settings) -> dict[str, int]:
    """Train in place: float32 weights, bfloat16 autocast, each worker its rows of the batch."""
    rank, workers = dist.get_rank(), dist.get_world_size()
    optimizer = _optimizer(model, settings)
    loss_of = torch.compile(_loss)
    begun = time.monotonic()
    step = 0
    for rows in batches(documents, settings):
        progress = _progress(step, begun, settings)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, progress, settings)
        loss = loss_of(model, rows[rank::workers])
        loss.backward()
        _share_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if rank == 0 and step % 50 == 0:
            rate = step * settings.batch * SEQUENCE / (time.monotonic() - begun)
            print(f"step {step} {progress:.0%} {loss.item():.3f} {rate:.0f} tok/s", flush=True)
    return {"steps": step, "seconds": round(time.monotonic() - begun)}


def _worker(rank: int, folder: Path, settings: Settings) -> None:
    """One process of the training; rank 0 leaves the result in `folder`."""
    torch.set_num_threads(1)
    store = (folder / "store").resolve().as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=settings.workers)
    lengths, stream = torch.load(folder / "tokens.pt")
    torch.manual_seed(settings.seed)
    model = new_model().train()
    done = _run(model, list(stream.split(lengths)), settings)
    if rank == 0:
        torch.save((done, model.state_dict()), folder / "result.pt")
    dist.destroy_process_group()


def train(documents: list[Tensor], settings: Settings) -> tuple[LlamaForCausalLM, dict[str, int]]:
    """Train with one process per worker; returns the model and the steps and seconds it took.

    Processes of one thread each do not wait for one another inside an operation, which on a
    machine with other work is much faster than one process of many threads.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(([len(one) for one in documents], torch.cat(documents)), folder / "tokens.pt")
        torch.multiprocessing.spawn(_worker, (folder, settings), nprocs=settings.workers)
        done, state = torch.load(folder / "result.pt")
    model = new_model()
    model.load_state_dict(state)
    return model, done


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, documents: list[Tensor]) -> float:
    """Perplexity per token over the joined documents, in windows of `SEQUENCE` tokens."""
    model.eval()
    stream = torch.cat(documents)
    count = (len(stream) - 1) // SEQUENCE
    total = 0.0
    for first in range(0, count, 8):
        starts = range(first, min(first + 8, count))
        rows = torch.stack([stream[s * SEQUENCE : (s + 1) * SEQUENCE + 1] for s in starts]).long()
        total += _loss(model, rows).item() * len(starts)
    model.train()
    return math.exp(total / count)


@torch.no_grad()
def round_to_nearest(model: LlamaForCausalLM) -> None:
    """Replace every linear weight of the layers by its symmetric 4-bit rounding."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            groups = module.weight.float().unflatten(1, (-1, GROUP))
            scale = groups.abs().amax(-1, keepdim=True) / 7.5
            rounded = (groups / scale).round().clamp(-8, 7) * scale
            module.weight.copy_(rounded.flatten(1))
