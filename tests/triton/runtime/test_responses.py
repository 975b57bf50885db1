"""Responses of shape generate: sent in order by their own thread, all before it ends."""

import importlib
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.triton import fake_python_backend
from tests.triton.fake_python_backend import InferenceResponse, Sender

MODULE = "llmopt.triton.runtime.generate.responses"


@pytest.fixture
def responses(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake_python_backend)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


class SlowSender(Sender):
    """Sends when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_send = threading.Event()

    def send(self, response: InferenceResponse, flags: int) -> None:
        """Waits, then takes one."""
        assert self.may_send.wait(30)
        super().send(response, flags)


class LostSender(Sender):
    """Reaches nobody."""

    def send(self, response: InferenceResponse, flags: int) -> None:
        """Fails."""
        raise ConnectionError(f"{response} with flags {flags}: the server is gone")


def read_texts(sender: Sender) -> list[str]:
    return [response.output_tensors[0].array[0].decode() for response in sender.responses]


def test_nobody_waits_for_a_slow_sender_and_all_is_sent_in_order(responses: ModuleType) -> None:
    thread, sender = responses.ResponseThread(), SlowSender()
    listener = responses.ResponseListener(sender, thread)
    for text in ("袖", "口", "は"):
        listener.send_text(text)
    listener.send_last("リブ", "stop", 3, 4)
    assert sender.responses == []
    sender.may_send.set()
    thread.close()
    assert read_texts(sender) == ["袖", "口", "は", "リブ"]
    assert sender.done.is_set()
    last = {tensor.name: tensor.array[0] for tensor in sender.responses[-1].output_tensors}
    assert last["finish_reason"] == b"stop"
    assert (last["num_input_tokens"], last["num_output_tokens"]) == (3, 4)


def test_one_who_can_not_be_reached_counts_as_gone_and_the_others_are_served(
    responses: ModuleType,
) -> None:
    thread, lost, reached = responses.ResponseThread(), LostSender(), Sender()
    gone, listener = (responses.ResponseListener(each, thread) for each in (lost, reached))
    assert not gone.is_cancelled()
    gone.send_text("袖")
    listener.send_error("the model failed")
    thread.close()
    assert gone.is_cancelled()
    assert not listener.is_cancelled()
    assert reached.responses[0].error is not None
    assert reached.responses[0].error.text == "the model failed"
