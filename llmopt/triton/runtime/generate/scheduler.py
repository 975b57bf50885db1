"""Continuous batching: one thread that decodes all running requests together, a token at a time.

New requests join between two steps: their prompts are run together, then their rows are added to
the running cache. Shapes: see decoder.py.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from .decoder import Array, Cache, Decoder, gather_rows
from .generation import Generation, Limits

CANCEL_CHECK_S = 0.1  # each look costs a round trip to the server's process
logger = logging.getLogger(__name__)


class QueueFullError(Exception):
    """More requests wait than the queue holds."""


class Scheduler:
    """Answers requests.

    Args:
        decoder: Runs the model; used in the scheduler's thread alone.
        limits: How much at once.

    Raises:
        RuntimeError: The decoder can't work in the scheduler's thread.
    """

    def __init__(self, decoder: Decoder, limits: Limits) -> None:
        self._decoder, self._limits = decoder, limits
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []
        self._cache: Cache = []
        self._mask_BL: Array = np.empty((0, 0), np.int64)
        self._changed = threading.Condition()
        self._closed = False
        self._next_cancel_check = 0.0
        self._attached, self._attach_error = threading.Event(), ""
        self._thread = threading.Thread(target=self._work, name="generate", daemon=True)
        self._thread.start()
        self._attached.wait()
        if self._attach_error:
            raise RuntimeError(self._attach_error)

    def submit(self, generation: Generation) -> None:
        """Puts a request into the queue.

        Raises:
            QueueFullError: It is full.
        """
        with self._changed:
            if len(self._waiting) >= self._limits.max_waiting:
                raise QueueFullError(
                    f"{len(self._waiting)} requests wait already, as many as max_queue_size "
                    "allows; try again later"
                )
            self._waiting.append(generation)
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread; what is not answered yet hears so."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        try:
            self._decoder.attach()
        except Exception as error:  # noqa: BLE001 - raised again where the model is loaded
            self._attach_error = f"{type(error).__name__}: {error}"
            return
        finally:
            self._attached.set()
        while self._wait():
            try:
                self._drop_cancelled()
                self._admit()
                if self._running:
                    self._step()
            except Exception as error:
                logger.exception("a step failed")
                self._fail_running(f"the model failed: {error}")
        for generation in (*self._running, *self._waiting):
            generation.fail("the model is being unloaded")

    def _wait(self) -> bool:
        """Waits for something to do; tells whether to go on."""
        with self._changed:
            while not (self._waiting or self._running or self._closed):
                self._changed.wait()
            return not self._closed

    def _drop_cancelled(self) -> None:
        if time.monotonic() < self._next_cancel_check:
            return
        with self._changed:
            waiting = list(self._waiting)
        gone = [each for each in waiting if each.is_unwanted()]
        with self._changed:
            for each in gone:
                self._waiting.remove(each)
        for each in self._running:
            each.is_done = each.is_unwanted()
            gone += [each] if each.is_done else []
        for each in gone:
            each.fail("the request was cancelled")
        self._retire()
        self._next_cancel_check = time.monotonic() + CANCEL_CHECK_S

    def _admit(self) -> None:
        """Runs the prompts of waiting requests, as many as there are free rows."""
        joining = self._take_waiting()
        if not joining:
            return
        try:
            mask_BT, logits_BV, cache = self._prefill([each.prompt for each in joining])
        except Exception as error:
            logger.exception("a prompt failed")
            self._give_back(joining, f"the model failed: {error}")
            return
        self._advance(joining, logits_BV)
        staying = [row for row, each in enumerate(joining) if not each.is_done]
        if not staying:
            self._decoder.free_cache(cache)
            return
        if not self._running and len(staying) == len(joining):
            self._running, self._cache, self._mask_BL = joining, cache, mask_BT
            return
        self._join([joining[row] for row in staying], staying, cache)

    def _give_back(self, failed: Sequence[Generation], message: str) -> None:
        """Fails a prompt that failed alone; of several, each goes back to be run by itself."""
        if len(failed) == 1:
            failed[0].fail(message)
            return
        for each in failed:
            each.runs_alone = True
        with self._changed:
            self._waiting.extendleft(reversed(failed))

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Array, Array, Cache]:
        """Runs prompts; returns their mask, the logits of their last positions, their cache."""
        ids_BT, mask_BT = pad_left(prompts)
        positions_BT = np.maximum(mask_BT.cumsum(1) - 1, 0)
        empty = self._decoder.empty_cache(len(prompts))
        logits_BV, cache = self._decoder.forward(ids_BT, mask_BT, positions_BT, empty)
        return mask_BT, logits_BV, cache

    def _take_waiting(self) -> list[Generation]:
        limits, longest = self._limits, 0
        taken: list[Generation] = []
        most = limits.max_prefill_rows or limits.max_running
        with self._changed:
            while self._waiting and len(taken) < most:
                if len(self._running) + len(taken) >= limits.max_running:
                    break
                if taken and (taken[0].runs_alone or self._waiting[0].runs_alone):
                    break
                longest = max(longest, len(self._waiting[0].prompt))
                if taken and longest * (len(taken) + 1) > limits.max_prefill_tokens:
                    break
                taken.append(self._waiting.popleft())
        return taken

    def _join(self, joining: list[Generation], rows: Sequence[int], cache: Cache) -> None:
        before, self._running = self._running, [*self._running, *joining]  # a fault is theirs too
        parts = [(self._decoder.read_cache(cache), rows)]
        if before:
            parts.insert(0, (self._decoder.read_cache(self._cache), range(len(before))))
        self._rebuild(parts)

    def _step(self) -> None:
        """Decodes one token of every running request."""
        ids_B1 = np.array([[each.generated[-1]] for each in self._running], np.int64)
        positions_B1 = np.array([[each.num_cached] for each in self._running], np.int64)
        mask_BL = np.concatenate([self._mask_BL, np.ones_like(ids_B1)], axis=1)
        logits_BV, self._cache = self._decoder.forward(ids_B1, mask_BL, positions_B1, self._cache)
        self._mask_BL = mask_BL
        self._advance(self._running, logits_BV)
        self._retire()

    def _advance(self, generations: Sequence[Generation], logits_BV: Array) -> None:
        likeliest_B = logits_BV.argmax(1)
        for row, each in enumerate(generations):
            try:
                each.advance(logits_BV[row], int(likeliest_B[row]))
            except Exception as error:
                logger.exception("a request failed")
                each.fail(f"the request failed: {error}")

    def _retire(self) -> None:
        """Takes the rows of finished requests out of the cache, and padding that none needs."""
        staying = [row for row, each in enumerate(self._running) if not each.is_done]
        if len(staying) == len(self._running):
            return
        self._running = [self._running[row] for row in staying]
        if not staying:
            self._decoder.free_cache(self._cache)
            self._cache, self._mask_BL = [], np.empty((0, 0), np.int64)
            return
        self._rebuild([(self._decoder.read_cache(self._cache), staying)])

    def _rebuild(self, parts: Sequence[tuple[Sequence[Array], Sequence[int]]]) -> None:
        """Makes the cache of the running requests anew, no longer than the longest of them."""
        lengths = [each.num_cached for each in self._running]
        self._cache = self._decoder.write_cache(gather_rows(parts, max(lengths)))
        self._mask_BL = make_mask(lengths, max(lengths))

    def _fail_running(self, message: str) -> None:
        failed, self._running = self._running, []
        self._decoder.free_cache(self._cache)
        self._cache, self._mask_BL = [], np.empty((0, 0), np.int64)
        for each in failed:
            if not each.is_done:
                each.fail(message)


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """Stacks rows of tokens, zeros on the left; returns ids and mask, int64 [B, T]."""
    longest = max(len(row) for row in rows)
    ids_BT = np.zeros((len(rows), longest), np.int64)
    for row, tokens in enumerate(rows):
        ids_BT[row, longest - len(tokens) :] = tokens
    return ids_BT, make_mask([len(row) for row in rows], longest)


def make_mask(lengths: Sequence[int], longest: int) -> Array:
    """Returns the mask of rows that end at the right border: int64 [B, longest]."""
    return (np.arange(longest) >= longest - np.array(lengths)[:, None]).astype(np.int64)
