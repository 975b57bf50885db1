"""What goes back to those who asked, sent in a thread of its own.

The server's process acknowledges each response; a scheduler that waits for that does not decode.
"""

import logging
import queue
import threading
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
logger = logging.getLogger(__name__)


class ResponseThread:
    """Sends responses in the order in which they were given."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[ResponseListener, Any, int] | None]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="responses", daemon=True)
        self._thread.start()

    def put(self, listener: "ResponseListener", response: Any, flags: int) -> None:
        """Takes a response."""
        self._queue.put((listener, response, flags))

    def close(self) -> None:
        """Sends what is left, and ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (entry := self._queue.get()) is not None:
            listener, response, flags = entry
            try:
                listener.sender.send(response, flags=flags)
            except Exception:
                logger.exception("a response could not be sent")
                listener.is_unreachable = True


class ResponseListener:
    """Sends what the scheduler says to the one who asked.

    Attributes:
        sender: Of the server.
        is_unreachable: Whether a response could not be sent.
    """

    def __init__(self, sender: Any, thread: ResponseThread) -> None:
        self.sender, self._thread = sender, thread
        self.is_unreachable = False

    def send_text(self, text: str) -> None:
        """Sends a part of an answer."""
        self._put([_strings("text_output", text)], 0)

    def send_last(self, text: str, reason: str, num_prompt: int, num_generated: int) -> None:
        """Sends the rest of an answer, why it ends, and its tokens."""
        tensors = [
            _strings("text_output", text),
            _strings("finish_reason", reason),
            pb_utils.Tensor("num_input_tokens", np.array([num_prompt], np.uint32)),
            pb_utils.Tensor("num_output_tokens", np.array([num_generated], np.uint32)),
        ]
        self._put(tensors, FINAL)

    def send_error(self, message: str, code: int | None = None) -> None:
        """Ends an answer with an error."""
        given = pb_utils.TritonError.INTERNAL if code is None else code
        sendable = message.encode("utf-8", "replace").decode()  # it may quote half a character
        error = pb_utils.TritonError(sendable, given)
        response = pb_utils.InferenceResponse(output_tensors=[], error=error)
        self._thread.put(self, response, FINAL)

    def is_cancelled(self) -> bool:
        """Tells whether the client is gone."""
        return self.is_unreachable or bool(self.sender.is_cancelled())

    def _put(self, tensors: list[Any], flags: int) -> None:
        self._thread.put(self, pb_utils.InferenceResponse(output_tensors=tensors), flags)


def _strings(name: str, text: str) -> Any:
    return pb_utils.Tensor(name, np.array([text.encode("utf-8", "replace")], dtype=object))
