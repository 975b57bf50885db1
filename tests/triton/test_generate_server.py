"""Text generation in the real tritonserver: answers, streams, bad requests, many clients."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from llmopt.artifacts.onnx_description import OnnxWeights
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.resident_model import load_resident_model
from llmopt.errors import RequestFailed
from llmopt.triton.client import TritonClient
from llmopt.triton.generate_model import GENERATE_REQUIREMENTS
from llmopt.triton.grpc_client import GrpcClient
from llmopt.triton.model_environment import ModelEnvironment, make_environment
from llmopt.triton.server import ServerOptions, TritonServer
from tests.export.exports import export
from tests.models import TINY_MODEL, make_model
from tests.quant.layers import make_options
from tests.quant.pipeline import quantize
from tests.triton.decoders import ExportedDecoder
from tests.triton.generate_repository import (
    MAX_RUNNING,
    MAX_WAITING,
    add_generate_model,
    ask,
    ask_at_once,
    text_inputs,
)

TEXTS = [
    ("袖口の縫製仕様:綿100%、身幅±1cm。" * 4)[start : start + 3 + 5 * start] for start in range(16)
]
NUM_TOKENS = 64
INTEGER_FORMS: tuple[OnnxWeights, ...] = ("qdq_int4", "matmulnbits")


@dataclass(frozen=True)
class Serving:
    """A running server: `plain` (float32), GPTQ as `qdq_int4` and `matmulnbits`."""

    server: TritonServer
    decoder: ExportedDecoder
    gptq: Path

    @property
    def client(self) -> TritonClient:
        return TritonClient.of(self.server)

    @property
    def is_healthy(self) -> bool:
        return (
            self.client.is_ready("plain")
            and ask(self.client, "plain", "綿", 2)["num_output_tokens"] == 2
        )


@pytest.fixture(scope="module")
def environment(bare_environment: ModelEnvironment) -> ModelEnvironment:
    return make_environment(("onnxruntime", *GENERATE_REQUIREMENTS), print)


@pytest.fixture(scope="module")
def serving(
    exported_decoder: ExportedDecoder,
    environment: ModelEnvironment,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("generate")
    plain = make_model(folder / "base", initializer_range=0.2)
    options = make_options(4, 32, sym=False, order="desc_act", scale_dtype=torch.float32)
    gptq = quantize(plain, folder / "gptq", options=options).folder
    repository = folder / "repository"
    add_generate_model(
        repository, "plain", exported_decoder.folder, exported_decoder.description,
        exported_decoder.model,
    )  # fmt: skip
    for form in INTEGER_FORMS:
        exported = export(gptq, folder / form, weights=form, last_token_logits=True)
        add_generate_model(repository, form, folder / form, exported.description, gptq)
    explicit = ServerOptions(explicit=True, models=("plain", *INTEGER_FORMS))
    with TritonServer(repository, environment, folder / "log", explicit) as server:
        yield Serving(server, exported_decoder, gptq)


def generate_in_torch(model: Path, text: str, num_tokens: int) -> str:
    """Decodes greedily without a cache: the slow and plain way, on dequantised weights."""
    checkpoint = Checkpoint.open(model)
    reference = load_resident_model(checkpoint, torch.device("cpu"), torch.float32)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    ids = tokenizer.encode(text).ids
    num_prompt = len(ids)
    with torch.inference_mode():
        for _ in range(num_tokens):
            ids.append(int(reference(torch.tensor([ids])).logits[0, -1].argmax()))
    return str(tokenizer.decode(ids[num_prompt:]))


@pytest.fixture(scope="module")
def expected(serving: Serving) -> list[str]:
    return [generate_in_torch(serving.decoder.model, text, NUM_TOKENS) for text in TEXTS]


def test_greedy_text_is_pytorchs_alone_and_among_sixteen(
    serving: Serving, expected: list[str]
) -> None:
    client = serving.client
    alone = [ask(client, "plain", text, NUM_TOKENS)["text_output"] for text in TEXTS[:3]]
    assert alone == expected[:3]
    for order in (range(16), [*range(0, 16, 3), *range(1, 16, 3), *range(2, 16, 3)]):
        answers = ask_at_once(
            [lambda i=i: ask(client, "plain", TEXTS[i], NUM_TOKENS) for i in order]
        )
        assert [a["text_output"] for a in answers] == [expected[i] for i in order]
        assert {a["finish_reason"] for a in answers} == {"length"}
        assert {a["num_output_tokens"] for a in answers} == {NUM_TOKENS}


@pytest.fixture(scope="module")
def expected_of_integers(serving: Serving) -> list[str]:
    texts = [generate_in_torch(serving.gptq, text, NUM_TOKENS) for text in TEXTS]
    assert len(set(texts)) > 12, "answers so much alike prove little"
    return texts


@pytest.mark.parametrize("form", INTEGER_FORMS)
def test_greedy_text_of_int4_is_the_dequantised_models(
    serving: Serving, expected_of_integers: list[str], form: str
) -> None:
    client = serving.client
    alone = [ask(client, form, text, NUM_TOKENS)["text_output"] for text in TEXTS[:3]]
    assert alone == expected_of_integers[:3]
    answers = ask_at_once([lambda t=t: ask(client, form, t, NUM_TOKENS) for t in TEXTS])
    assert [a["text_output"] for a in answers] == expected_of_integers


def test_http_grpc_and_streams_say_the_same(serving: Serving, expected: list[str]) -> None:
    body = {"text_input": TEXTS[5], "max_tokens": NUM_TOKENS, "ignore_eos": True, "stream": True}
    events = list(serving.client.generate_stream("plain", body))
    assert len(events) > 10
    assert "".join(event["text_output"] for event in events) == expected[5]
    assert [("finish_reason" in event) for event in events] == [False] * (len(events) - 1) + [True]
    sampling = {"max_tokens": NUM_TOKENS, "ignore_eos": True}
    with GrpcClient(serving.server.grpc_address) as grpc:
        inputs = text_inputs(TEXTS[5].encode(), **sampling) | {"stream": np.array([True])}
        parts = list(grpc.stream_infer("plain", inputs))
        assert b"".join(p["text_output"][0] for p in parts).decode() == expected[5]
        assert parts[-1]["num_output_tokens"].tolist() == [NUM_TOKENS]
        (whole,) = grpc.stream_infer("plain", text_inputs(TEXTS[5].encode(), **sampling))
    assert whole["text_output"][0].decode() == expected[5]
    assert whole["finish_reason"].tolist() == [b"length"]


def test_a_stream_and_a_whole_answer_are_the_same_text(serving: Serving) -> None:
    """A hot random model takes many tokens that are single bytes."""
    body = {
        "text_input": TEXTS[7],
        "max_tokens": 100,
        "temperature": 1.5,
        "seed": 4,
        "stream": True,
    }
    parts = [e["text_output"] for e in serving.client.generate_stream("plain", body)]
    whole = serving.client.generate("plain", {**body, "stream": False})
    assert "".join(parts) == whole["text_output"]


def test_sampling_is_repeatable_and_obeys(serving: Serving) -> None:
    client = serving.client
    hot = {"temperature": 1.2, "seed": 9, "top_p": 0.95, "top_k": 200}
    first, again = (ask(client, "plain", "身幅", 20, **hot) for _ in range(2))
    assert first["text_output"] == again["text_output"]
    assert (
        ask(client, "plain", "身幅", 20, **{**hot, "seed": 10})["text_output"]
        != first["text_output"]
    )
    text = ask(client, "plain", "身幅", 40)["text_output"]
    stop = text[len(text) // 2 :][:2]
    stopped = ask(client, "plain", "身幅", 40, sampling_parameters=json.dumps({"stop": [stop]}))
    assert stopped["text_output"] == text[: text.index(stop)]
    assert stopped["finish_reason"] == "stop"


def test_penalties_and_min_p_reach_the_model(serving: Serving) -> None:
    client = serving.client
    greedy = ask(client, "plain", TEXTS[9], NUM_TOKENS)["text_output"]
    likeliest = ask(client, "plain", TEXTS[9], NUM_TOKENS, temperature=1.5, min_p=1.0)
    assert likeliest["text_output"] == greedy
    for name in ("repetition_penalty", "frequency_penalty", "presence_penalty"):
        penalised = ask(client, "plain", TEXTS[9], NUM_TOKENS, **{name: 2.0})
        assert penalised["text_output"] != greedy, name


def test_a_chat_goes_through_the_template(serving: Serving) -> None:
    messages = [{"role": "user", "content": "袖口の仕様は?"}]
    given = json.dumps(messages, ensure_ascii=False)
    body = {"messages": given, "max_tokens": 4, "ignore_eos": True}
    answer = serving.client.generate("plain", body)
    assert answer["num_input_tokens"] > len(
        Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json")).encode(messages[0]["content"]).ids
    )
    assert answer["num_output_tokens"] == 4


HALF = r'[{"role": "user", "content": "\ud800"}]'
HALF_ROLE = r'[{"role": "\ud800", "content": "袖"}]'
BAD_BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"text_input": ""}, "text_input is empty"),
    "nothing": ({"max_tokens": 3}, "give one of text_input and messages"),
    "both": ({"text_input": "a", "messages": "[]"}, "give one of text_input and messages"),
    "1 MB": ({"text_input": "綿" * 350_000}, "text_input has 1050000 bytes; at most"),
    "over-long context": ({"text_input": "綿 " * 400}, "the prompt has [0-9]+ tokens; at most"),
    "no room": ({"text_input": "綿", "max_tokens": 9999}, "max_tokens is 9999; the prompt's"),
    "negative max_tokens": ({"text_input": "綿", "max_tokens": -1}, "max_tokens is -1"),
    "unknown key": ({"text_input": "綿", "top_pp": 0.9}, "unknown sampling parameter 'top_pp'"),
    "no JSON": ({"text_input": "綿", "sampling_parameters": "{"}, "sampling_parameters is no JSON"),
    "a list": ({"text_input": "綿", "sampling_parameters": "[1]"}, "it is a JSON object"),
    "deep JSON": ({"text_input": "綿", "sampling_parameters": "[" * 60000}, "is no JSON"),
    "long JSON": ({"text_input": "綿", "sampling_parameters": " " * 70000}, "has 70000 bytes"),
    "half a character": ({"messages": HALF}, r"messages hold .ud800, half of a pair of UTF-16"),
    "half a character as role": ({"messages": HALF_ROLE}, "half of a pair|the chat template"),
    "bad chat": ({"messages": '[{"role": "user"}]'}, "messages is a list"),
    "batch of 2": ({"text_input": ["a", "b"]}, "can not convert input 'text_input' to tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_request_is_refused_with_status_400(serving: Serving, name: str) -> None:
    body, match = BAD_BODIES[name]
    with pytest.raises(RequestFailed, match=match) as caught:
        serving.client.generate("plain", body)
    assert caught.value.status == 400
    assert serving.is_healthy


def test_a_text_that_is_no_utf8_fails_alone(serving: Serving) -> None:
    def ask_badly() -> list[Any]:
        with GrpcClient(serving.server.grpc_address) as grpc:
            return list(grpc.stream_infer("plain", text_inputs("袖".encode()[:2])))

    good = [lambda: ask(serving.client, "plain", "袖口", 30)] * 3
    *answers, failure = ask_at_once([*good, ask_badly])
    assert isinstance(failure, RequestFailed)
    assert "text_input is no UTF-8: byte 0xe8 at 0" in str(failure)
    assert [a["num_output_tokens"] for a in answers] == [30, 30, 30]


def test_bytes_that_are_no_utf8_are_refused_over_http_too(serving: Serving) -> None:
    connection = http.client.HTTPConnection(serving.server.http_address, timeout=30)
    raw = b'{"text_input": "' + "袖".encode()[:2] + b'", "max_tokens": 2}'
    connection.request("POST", "/v2/models/plain/generate", raw)
    answer = connection.getresponse()
    assert answer.status == 400
    assert "text_input is no UTF-8" in json.loads(answer.read())["error"]
    connection.close()
    assert serving.is_healthy


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_clients_that_are_gone_free_their_rows(serving: Serving, way: str) -> None:
    """Streams only: of a client of /generate the server learns when it answers."""
    body = {"text_input": "袖", "stream": True, "max_tokens": 250, "ignore_eos": True}
    began = time.monotonic()
    ask_at_once([lambda: ask(serving.client, "plain", "袖", 250)] * MAX_RUNNING)
    answered_s = time.monotonic() - began
    with ExitStack() as stack:
        streams: list[Iterator[Any]] = []
        for _ in range(MAX_RUNNING):
            if way == "http":
                streams.append(serving.client.generate_stream("plain", body))
            else:
                grpc = stack.enter_context(GrpcClient(serving.server.grpc_address))
                inputs = text_inputs("袖".encode(), max_tokens=250, ignore_eos=True)
                streams.append(grpc.stream_infer("plain", inputs | {"stream": np.array([True])}))
        for stream in streams:
            next(stream)
        began = time.monotonic()
        for stream in streams:
            stream.close()  # type: ignore[attr-defined]
        ask(serving.client, "plain", "袖", 1)
        assert time.monotonic() - began < answered_s / 2


def test_two_hundred_requests_on_a_queue_of_64(serving: Serving) -> None:
    answers = ask_at_once([lambda: ask(serving.client, "plain", "袖口", 200)] * 200)
    refused = [a for a in answers if isinstance(a, RequestFailed)]
    answered = [a for a in answers if isinstance(a, dict)]
    assert len(refused) + len(answered) == 200
    assert len(answered) >= MAX_RUNNING + MAX_WAITING - 16
    assert refused, "the queue took them all"
    assert all("64 requests wait already, as many as max_queue_size" in str(e) for e in refused)
    assert {e.status for e in refused} == {400}
    assert {a["num_output_tokens"] for a in answered} == {200}
    assert serving.is_healthy


def test_counts_stand_in_the_servers_metrics(serving: Serving) -> None:
    before = serving.client.read_statistics("plain")["inference_count"]
    ask(serving.client, "plain", "袖口", 2)
    assert serving.client.read_statistics("plain")["inference_count"] == before + 1
    assert (
        'nv_inference_request_success{model="plain",version="1"}' in serving.client.read_metrics()
    )


def test_a_model_is_unloaded_and_loaded_again(serving: Serving) -> None:
    serving.client.unload("qdq_int4")
    deadline = time.monotonic() + 30
    while serving.client.is_ready("qdq_int4") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not serving.client.is_ready("qdq_int4")
    serving.client.load("qdq_int4")
    assert ask(serving.client, "qdq_int4", "袖口", 3)["num_output_tokens"] == 3
