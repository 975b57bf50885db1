"""Takes the time of the parts of a GPTQ run, by wrapping the engine's own functions meanwhile."""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from gptq_gpu_limit import (
    ACTIVATIONS,
    ATTENTION,
    COLUMNS,
    FACTORISATION,
    FEEDBACK,
    HESSIAN,
    JOURNAL,
    LINEAR,
    LOADING,
    PACKING,
    REST,
    synchronize,
)

from llmopt.checkpoint.activation_store import ActivationStore
from llmopt.checkpoint.decoder_block import DecoderBlock
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.quant import gptq, quantize_checkpoint
from llmopt.quant.block_solve import BlockRounder, round_block
from llmopt.quant.hessian import Hessian
from llmopt.quant.journal import Journal

# (holder, attribute, part); a call inside another part's call counts for its own part only
TIMED: tuple[tuple[Any, str, str], ...] = (
    (torch.nn.Linear, "forward", LINEAR),
    (DecoderBlock, "attention_context", ATTENTION),
    (Hessian, "add", HESSIAN),
    (Hessian, "finish", HESSIAN),
    (gptq, "factorize", FACTORISATION),
    (gptq, "solve_gptq", FEEDBACK),
    (StreamedModel, "load_block", LOADING),
    (StreamedModel, "read_weight", LOADING),
    (quantize_checkpoint, "_check_kept_tensors", LOADING),
    (quantize_checkpoint, "_pack_layers", PACKING),
    (Journal, "add", JOURNAL),
    (Journal, "commit", JOURNAL),
    (ActivationStore, "put", ACTIVATIONS),
    (ActivationStore, "get", ACTIVATIONS),
)


class PartClock:
    """Sums up each part's seconds, of nested parts only the innermost one's.

    Args:
        devices: What is waited for before a part begins or ends.
    """

    def __init__(self, devices: list[torch.device]) -> None:
        self.seconds: dict[str, float] = {}
        self._devices = devices
        self._stack: list[str] = []
        self._last = 0.0

    def start(self) -> None:
        """Begins anew."""
        self.seconds, self._stack, self._last = {}, [], time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what is inside for a part."""
        if self._stack:
            self._book()
        self._stack.append(name)
        try:
            yield
        finally:
            self._book()
            self._stack.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, its time counted for a part."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return run

    def _book(self) -> None:
        synchronize(self._devices)
        now, name = time.perf_counter(), self._stack[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


@contextmanager
def time_parts(clock: PartClock) -> Iterator[None]:
    """Wraps the engine; the clock's seconds then sum up to the time inside the block."""
    with ExitStack() as stack:
        for holder, attribute, part in TIMED:
            timed = clock.timed(part, getattr(holder, attribute))
            stack.enter_context(mock.patch.object(holder, attribute, timed))
        choose = gptq.choose_rounder

        def choose_timed(device: torch.device) -> BlockRounder:
            return clock.timed(COLUMNS, choose(device))

        stack.enter_context(mock.patch.object(gptq, "choose_rounder", choose_timed))
        clock.start()
        with clock.part(REST):
            yield


@contextmanager
def plain_solve() -> Iterator[None]:
    """Rounds columns without the Triton kernel inside the block."""
    with mock.patch.object(gptq, "choose_rounder", return_value=round_block):
        yield
