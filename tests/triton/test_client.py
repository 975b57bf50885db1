"""HTTP and gRPC requests to a real server: answers, streams, errors, loading, statistics."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from llmopt.errors import RequestFailed
from llmopt.triton.client import TritonClient
from llmopt.triton.grpc_client import Array, GrpcClient
from llmopt.triton.server import TritonServer
from tests.triton.repositories import ECHO, add_model

TEXT = "襟ぐり🧵始末"


def make_echo_inputs(text: str = TEXT, rows: int = 1) -> dict[str, Array]:
    numbers = np.arange(3 * rows, dtype=np.int64).reshape(rows, 3)
    return {"numbers": numbers, "texts": np.array([[text]] * rows)}


def test_health(client: TritonClient) -> None:
    assert client.is_ready()
    assert client.is_ready("echo", "1")
    assert not client.is_ready("echo", "2")
    assert not client.is_ready("nobody")


def test_generate_hands_inputs_and_parameters_on(client: TritonClient) -> None:
    answer = client.generate("spell", {"text": TEXT, "whole": True})
    assert answer == {"model_name": "spell", "model_version": "1", "part": TEXT}


def test_a_stream_comes_part_by_part(client: TritonClient) -> None:
    began = time.monotonic()
    arrivals = []
    parts = []
    for event in client.generate_stream("spell", {"text": TEXT, "pause_ms": 100}):
        arrivals.append(time.monotonic() - began)
        parts.append(event["part"])
    assert parts == list(TEXT)
    assert arrivals[-1] - arrivals[0] > 0.1 * (len(TEXT) - 2), "the parts came all at once"


def test_a_stream_that_fails_on_the_way(client: TritonClient) -> None:
    parts = []
    with pytest.raises(RequestFailed, match="no shouting"):
        parts += [event["part"] for event in client.generate_stream("spell", {"text": "a!"})]
    assert parts == []
    stream = client.generate_stream("spell", {"text": "襟!"})
    assert next(stream)["part"] == "襟"
    with pytest.raises(RequestFailed, match="no shouting"):
        next(stream)


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_a_client_that_hangs_up_cancels(
    way: str, client: TritonClient, grpc_client: GrpcClient, small_repository: Path
) -> None:
    notes = small_repository.parent / "spell-notes"
    notes.unlink(missing_ok=True)
    if way == "http":
        events = client.generate_stream("spell", {"text": "あ" * 1000, "pause_ms": 20})
        assert next(events)["part"] == "あ"
        events.close()
    else:
        responses = grpc_client.stream_infer(
            "spell", {"text": np.array(["あ" * 1000])}, {"pause_ms": 20}
        )
        assert next(responses)["part"].tolist() == ["あ".encode()]
        responses.close()
    for _ in range(100):
        if notes.exists():
            break
        time.sleep(0.05)
    assert notes.read_text() == "cancelled"


def test_refusals_carry_their_status(client: TritonClient, grpc_client: GrpcClient) -> None:
    with pytest.raises(RequestFailed, match="unknown model") as unknown:
        client.generate("nobody", {"text": "a"})
    assert unknown.value.status == 404
    with pytest.raises(RequestFailed, match="no shouting") as failed:
        client.generate("spell", {"text": "!"})
    assert failed.value.status == 400
    with pytest.raises(RequestFailed, match="unknown model") as missing:
        grpc_client.infer("nobody", {})
    assert missing.value.status == "NOT_FOUND"
    with pytest.raises(RequestFailed, match="boom is not allowed") as refused:
        grpc_client.infer("echo", make_echo_inputs("boom"))
    assert refused.value.status == "INVALID_ARGUMENT"
    with pytest.raises(RequestFailed, match="batch-size must be <= 4") as too_many:
        grpc_client.infer("echo", make_echo_inputs(rows=5))
    assert too_many.value.status == "INVALID_ARGUMENT"


def test_a_server_that_is_not_there() -> None:
    client = TritonClient("127.0.0.1:9")
    with pytest.raises(RequestFailed, match=r"127\.0\.0\.1:9/v2/health/ready: .*refused") as broken:
        client.is_ready()
    assert broken.value.status is None
    with GrpcClient("127.0.0.1:9", timeout_s=2) as grpc_client:
        with pytest.raises(RequestFailed) as failed:
            grpc_client.infer("echo", make_echo_inputs())
        assert failed.value.status == "UNAVAILABLE"


def test_arrays_and_texts_over_grpc(grpc_client: GrpcClient) -> None:
    inputs = make_echo_inputs(rows=2)
    outputs = grpc_client.infer("echo", inputs)
    np.testing.assert_array_equal(outputs["doubled"], inputs["numbers"] * 2)
    assert outputs["doubled"].dtype == np.int64
    assert outputs["same"].tolist() == [[TEXT.encode()]] * 2


def test_a_stream_over_grpc_and_another_after_it(grpc_client: GrpcClient) -> None:
    for text in (TEXT, "後"):
        responses = list(grpc_client.stream_infer("spell", {"text": np.array([text])}))
        assert [each["part"].tolist() for each in responses] == [[s.encode()] for s in text]
    with pytest.raises(RequestFailed, match="no shouting") as failed:
        list(grpc_client.stream_infer("spell", {"text": np.array(["!"])}))
    assert failed.value.status in ("INVALID_ARGUMENT", None)


def test_threads_with_clients_of_their_own(small_server: TritonServer) -> None:
    def spell(number: int) -> str:
        with GrpcClient(small_server.grpc_address) as own:
            responses = own.stream_infer("spell", {"text": np.array([f"番号{number}"])})
            return "".join(each["part"][0].decode() for each in responses)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(spell, range(16))) == [f"番号{n}" for n in range(16)]


def test_statistics_and_metrics_count_requests(
    client: TritonClient, grpc_client: GrpcClient
) -> None:
    before = client.read_statistics("echo")["inference_count"]
    grpc_client.infer("echo", make_echo_inputs(rows=3))
    assert client.read_statistics("echo")["inference_count"] == before + 3
    assert f'nv_inference_count{{model="echo",version="1"}} {before + 3}' in client.read_metrics()


def test_models_are_loaded_with_another_config_and_unloaded(
    client: TritonClient, grpc_client: GrpcClient, small_repository: Path
) -> None:
    config = ECHO.replace('"echo"', '"late"').replace("KIND_CPU", "KIND_GPU")
    folder = add_model(small_repository, "late", config, "echo.py")
    with pytest.raises(RequestFailed, match="no GPUs are available") as refused:
        client.load("late")
    assert refused.value.status == 400
    override = {
        "name": "late",
        "backend": "python",
        "max_batch_size": 2,
        "input": [
            {"name": "numbers", "data_type": "TYPE_INT64", "dims": [-1]},
            {"name": "texts", "data_type": "TYPE_STRING", "dims": [1]},
        ],
        "output": [
            {"name": "doubled", "data_type": "TYPE_INT64", "dims": [-1]},
            {"name": "same", "data_type": "TYPE_STRING", "dims": [1]},
        ],
        "instance_group": [{"kind": "KIND_CPU", "count": 1}],
    }
    client.load("late", override)
    assert client.read_config("late")["max_batch_size"] == 2
    assert grpc_client.infer("late", make_echo_inputs())["same"].tolist() == [[TEXT.encode()]]
    assert (folder / "config.pbtxt").read_text() == config, "the file was changed"
    client.unload("late")
    states = {each["name"]: each.get("state") for each in client.list_models()}
    assert states["echo"] == "READY"
    assert not client.is_ready("late")
