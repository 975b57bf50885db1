"""Generation as guides show it: a model that asks another for each token (BLS), without a cache."""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer


class TritonPythonModel:
    """Greedy decoding; one answer per request."""

    def initialize(self, args):  # noqa: ARG002 - the backend gives it
        """Loads the tokenizer beside this file."""
        self._tokenizer = Tokenizer.from_file(str(Path(__file__).parent / "tokenizer.json"))

    def execute(self, requests):
        """Answers one request after another; instances make it concurrent."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()[0]
        max_tokens = int(json.loads(request.parameters() or "{}").get("max_tokens", 16))
        ids = self._tokenizer.encode(text.decode()).ids
        num_prompt = len(ids)
        for _ in range(max_tokens):
            ids.append(self._ask(ids))
        text = self._tokenizer.decode(ids[num_prompt:]).encode()
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("text_output", np.array([text], dtype=object)),
                pb_utils.Tensor("num_output_tokens", np.array([max_tokens], np.uint32)),
            ]
        )

    def _ask(self, ids):
        row = np.array([ids], np.int64)
        inputs = [
            pb_utils.Tensor("input_ids", row),
            pb_utils.Tensor("attention_mask", np.ones_like(row)),
        ]
        asked = pb_utils.InferenceRequest(
            model_name="lm", requested_output_names=["logits"], inputs=inputs
        )
        response = asked.exec()
        if response.has_error():
            raise pb_utils.TritonModelException(response.error().message())
        logits = pb_utils.get_output_tensor_by_name(response, "logits").as_numpy()
        return int(logits[0, -1].argmax())
