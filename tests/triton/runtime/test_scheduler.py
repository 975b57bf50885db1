"""Continuous batching over a real exported decoder, against the same model run alone."""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.onnx_session import open_session
from llmopt.export.session import OnnxDecoder as ReferenceDecoder
from llmopt.triton.generate_model import GenerateSettings, make_settings
from llmopt.triton.runtime.generate.decoder import Array, Cache
from llmopt.triton.runtime.generate.generation import Generation, Limits
from llmopt.triton.runtime.generate.onnx_decoder import OnnxDecoder
from llmopt.triton.runtime.generate.sampling import SamplingParameters
from llmopt.triton.runtime.generate.scheduler import QueueFullError, Scheduler
from tests.triton.decoders import ExportedDecoder

LIMITS = Limits(max_running=4, max_waiting=8)
PROMPTS = [[5], [7, 8, 9], list(range(20, 60)), [100, 3], [11] * 9, [42, 43], [900, 17, 3, 4]]


@dataclass
class Collector:
    """What one request's sender hears."""

    parts: list[str] = field(default_factory=list)
    last: tuple[str, str, int, int] | None = None
    error: str | None = None
    cancelled: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def send_text(self, text: str) -> None:
        self.parts.append(text)

    def send_last(self, text: str, reason: str, num_prompt: int, num_generated: int) -> None:
        assert self.last is None
        assert self.error is None
        self.last = (text, reason, num_prompt, num_generated)
        self.done.set()

    def send_error(self, message: str) -> None:
        assert self.last is None
        assert self.error is None
        self.error = message
        self.done.set()

    def is_cancelled(self) -> bool:
        return self.cancelled

    def wait(self) -> None:
        assert self.done.wait(60), "no answer within 60 s"


class WatchedDecoder(OnnxDecoder):
    """The decoder, with a look at each call's rows, and a fault on demand."""

    def __init__(self, exported: ExportedDecoder) -> None:
        settings = GenerateSettings(
            model=exported.description, model_file="model.onnx", decoder="onnxruntime",
            max_running=4, max_waiting=8, default_max_tokens=8,
        )  # fmt: skip
        cache = make_settings(settings, exported.model)["cache"]
        super().__init__(exported.folder / "model.onnx", cache, {}, "cpu", 0, 1)
        self.rows: list[int] = []
        self.widths: list[int] = []
        self.fault_token: int | None = None
        self.delay_s = 0.0

    def forward(
        self, ids_BT: Array, mask_BL: Array, positions_BT: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        time.sleep(self.delay_s)
        self.rows.append(len(ids_BT))
        self.widths.append(mask_BL.shape[1])
        if self.fault_token is not None and self.fault_token in ids_BT:
            raise RuntimeError("a planted fault")
        return super().forward(ids_BT, mask_BL, positions_BT, cache)


@dataclass
class Bench:
    """A scheduler over a watched decoder."""

    decoder: WatchedDecoder
    scheduler: Scheduler
    tokenizer: Tokenizer
    vocab_size: int

    def ask(
        self, prompt: list[int], max_tokens: int = 8, *, streams: bool = False,
        eos: frozenset[int] = frozenset(), **sampling: float,
    ) -> tuple[Collector, Generation]:  # fmt: skip
        collector = Collector()
        parameters = SamplingParameters(max_tokens, **sampling)  # type: ignore[arg-type]
        generation = Generation(
            prompt, parameters, streams, eos, self.vocab_size, self.tokenizer, collector
        )
        self.scheduler.submit(generation)
        return collector, generation


@pytest.fixture
def bench(exported_decoder: ExportedDecoder) -> Iterator[Bench]:
    decoder = WatchedDecoder(exported_decoder)
    scheduler = Scheduler(decoder, LIMITS)
    tokenizer = Tokenizer.from_file(str(exported_decoder.model / "tokenizer.json"))
    yield Bench(decoder, scheduler, tokenizer, exported_decoder.description.vocab_size)
    scheduler.close()


def decode_alone(
    folder: Path, description: OnnxDescription, prompt: list[int], num_tokens: int
) -> list[int]:
    decoder = ReferenceDecoder(open_session(folder, description, threads=1), description)
    return decoder.generate([prompt], num_tokens)[0]


def test_requests_that_come_and_go_get_the_tokens_that_they_get_alone(
    bench: Bench, exported_decoder: ExportedDecoder
) -> None:
    lengths = [12, 3, 20, 7, 1, 16, 9]
    asked = []
    for prompt, num_tokens in zip(PROMPTS, lengths, strict=True):
        asked.append(bench.ask(prompt, num_tokens))
        time.sleep(0.01)  # so that some join while others are being decoded
    for collector, _ in asked:
        collector.wait()
    for (collector, generation), prompt, num_tokens in zip(asked, PROMPTS, lengths, strict=True):
        expected = decode_alone(
            exported_decoder.folder, exported_decoder.description, prompt, num_tokens
        )
        assert generation.generated == expected
        assert collector.last is not None
        text, reason, num_prompt, num_generated = collector.last
        assert (reason, num_prompt, num_generated) == ("length", len(prompt), num_tokens)
        assert text == bench.tokenizer.decode(expected)
    assert max(bench.decoder.rows) > 1
    assert max(bench.decoder.rows) <= LIMITS.max_running


def test_padding_goes_with_the_row_that_needed_it(bench: Bench) -> None:
    bench.decoder.delay_s = 0.005
    long, _ = bench.ask(list(range(20, 80)), 2)
    short, _ = bench.ask([5], 30)
    long.wait()
    short.wait()
    assert max(bench.decoder.widths) >= 60
    assert bench.decoder.widths[-1] <= 31


def test_a_stream_and_a_whole_answer_are_the_same_text(bench: Bench) -> None:
    streamed, generation = bench.ask([7, 8, 9], 20, streams=True)
    whole, _ = bench.ask([7, 8, 9], 20)
    streamed.wait()
    whole.wait()
    assert streamed.last is not None
    assert whole.last is not None
    assert len(streamed.parts) > 3
    assert not whole.parts
    assert "".join(streamed.parts) + streamed.last[0] == whole.last[0]
    assert whole.last[0] == bench.tokenizer.decode(generation.generated)


def test_an_answer_ends_at_the_end_of_text_token_unless_told_otherwise(bench: Bench) -> None:
    _, generation = first = bench.ask([7, 8, 9], 10)
    first[0].wait()
    ending = generation.generated[4]
    position = generation.generated.index(ending)
    stopped, shorter = bench.ask([7, 8, 9], 10, eos=frozenset({ending}))
    stopped.wait()
    assert stopped.last is not None
    assert stopped.last[1] == "stop"
    assert shorter.generated == generation.generated[: position + 1]
    on, longer = bench.ask([7, 8, 9], 10, eos=frozenset({ending}), ignore_eos=True)
    on.wait()
    assert longer.generated == generation.generated


def test_a_full_queue_refuses_and_those_in_it_are_answered(bench: Bench) -> None:
    bench.decoder.delay_s = 0.02
    asked: list[Collector] = []
    refused: list[str] = []
    for _ in range(30):
        try:
            asked.append(bench.ask([5, 6], 4)[0])
        except QueueFullError as error:
            refused.append(str(error))
    assert refused
    assert all("8 requests wait already, as many as max_queue_size" in each for each in refused)
    assert len(asked) >= LIMITS.max_waiting
    for collector in asked:
        collector.wait()
        assert collector.last is not None


def test_a_request_that_nobody_waits_for_leaves_its_row(bench: Bench) -> None:
    bench.decoder.delay_s = 0.01
    gone, generation = bench.ask([5, 6], 200)
    other, _ = bench.ask([7], 60)
    gone.cancelled = True
    other.wait()
    gone.wait()
    assert gone.error == "the request was cancelled"
    assert len(generation.generated) < 60
    assert other.last is not None
    assert bench.decoder.rows[-1] == 1


def test_a_waiting_request_that_nobody_waits_for_is_never_run(bench: Bench) -> None:
    bench.decoder.delay_s = 0.01
    running = [bench.ask([5 + row], 60)[0] for row in range(LIMITS.max_running)]
    gone, generation = bench.ask([9], 60)
    gone.cancelled = True
    gone.wait()
    assert gone.error == "the request was cancelled"
    assert generation.generated == []
    for collector in running:
        collector.wait()


def test_a_prompt_that_fails_fails_alone(bench: Bench) -> None:
    bench.decoder.fault_token = 777
    bench.decoder.delay_s = 0.01
    good, _ = bench.ask([5], 30)
    time.sleep(0.1)
    bad, _ = bench.ask([777], 5)
    bad.wait()
    good.wait()
    assert bad.error == "the model failed: a planted fault"
    assert good.last is not None
    later, _ = bench.ask([6], 3)
    later.wait()
    assert later.last is not None


def test_a_prompt_that_fails_among_others_fails_alone(bench: Bench) -> None:
    bench.decoder.fault_token = 777
    bench.decoder.delay_s = 0.02
    prompts = [[5], [6, 7], [8, 777], [9]]  # the last three wait while the first is run
    asked = [bench.ask(prompt, 5) for prompt in prompts]
    for collector, _ in asked:
        collector.wait()
    assert [collector.error for collector, _ in asked] == [
        None, None, "the model failed: a planted fault", None,
    ]  # fmt: skip
    assert 3 in bench.decoder.rows
    assert [len(generation.generated) for _, generation in asked] == [5, 5, 0, 5]


def test_a_request_whose_choice_fails_fails_alone(bench: Bench) -> None:
    bench.decoder.delay_s = 0.01
    good, _ = bench.ask([5], 10)
    bad, generation = bench.ask([6], 10, temperature=1.0)
    generation.chooser.parameters = replace(generation.parameters, temperature=math.nan)
    bad.wait()
    good.wait()
    assert good.last is not None
    assert bad.error is not None
    assert "the request failed" in bad.error


class Unattached(WatchedDecoder):
    """A decoder whose device is not there."""

    def attach(self) -> None:
        raise OSError("no driver")


def test_a_decoder_that_can_not_work_fails_the_loading(exported_decoder: ExportedDecoder) -> None:
    with pytest.raises(RuntimeError, match="OSError: no driver"):
        Scheduler(Unattached(exported_decoder), LIMITS)


class Crowded(WatchedDecoder):
    """A decoder that has no memory for a cache of several rows."""

    def write_cache(self, arrays: Sequence[Array]) -> Cache:
        if len(arrays[0]) > 1:
            raise MemoryError("a planted lack")
        return super().write_cache(arrays)


def test_rows_that_can_not_join_hear_of_it(exported_decoder: ExportedDecoder) -> None:
    decoder = Crowded(exported_decoder)
    decoder.delay_s = 0.01
    scheduler = Scheduler(decoder, LIMITS)
    tokenizer = Tokenizer.from_file(str(exported_decoder.model / "tokenizer.json"))
    bench = Bench(decoder, scheduler, tokenizer, exported_decoder.description.vocab_size)
    first, _ = bench.ask([5], 40)
    time.sleep(0.05)
    second, _ = bench.ask([6], 40)
    first.wait()
    second.wait()
    assert first.error == second.error == "the model failed: a planted lack"
    later, _ = bench.ask([7], 3)
    later.wait()
    assert later.last is not None
    scheduler.close()


def test_closing_tells_those_who_wait(exported_decoder: ExportedDecoder) -> None:
    decoder = WatchedDecoder(exported_decoder)
    decoder.delay_s = 0.05
    scheduler = Scheduler(decoder, LIMITS)
    tokenizer = Tokenizer.from_file(str(exported_decoder.model / "tokenizer.json"))
    bench = Bench(decoder, scheduler, tokenizer, exported_decoder.description.vocab_size)
    asked = [bench.ask([5], 100)[0] for _ in range(6)]
    time.sleep(0.1)
    scheduler.close()
    assert all(each.error == "the model is being unloaded" for each in asked)


def test_a_seed_gives_the_same_answer_alone_and_among_others(bench: Bench) -> None:
    alone, first = bench.ask([7, 8], 12, temperature=1.0, seed=11)
    alone.wait()
    others = [bench.ask([row], 20, temperature=1.0, seed=row)[0] for row in range(3)]
    among, second = bench.ask([7, 8], 12, temperature=1.0, seed=11)
    for collector in (among, *others):
        collector.wait()
    assert first.generated == second.generated
    assert len(np.unique(first.generated)) > 3
