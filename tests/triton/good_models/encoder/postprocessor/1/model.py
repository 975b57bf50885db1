"""Names the largest logit."""

import numpy as np
import triton_python_backend_utils as pb_utils

WORD = "WORD"


class TritonPythonModel:
    """Logits to a word and its score."""

    def execute(self, requests):
        """Answers each request by itself."""
        return [answer(request) for request in requests]


def answer(request):
    """Returns the word and its logit for each row."""
    logits = pb_utils.get_input_tensor_by_name(request, "logits").as_numpy()
    words = [f"word {index}".encode() for index in logits.argmax(1)]
    tensors = [
        make_tensor(WORD, np.array(words, dtype=object).reshape(-1, 1)),
        make_tensor("SCORE", logits.max(1).astype(np.float32).reshape(-1, 1)),
    ]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def make_tensor(name, values):
    """Gives an array its name."""
    return pb_utils.Tensor(name, values)
