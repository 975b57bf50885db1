"""Splits texts into bytes, padded to the next bucket."""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

SETTINGS = json.loads((Path(__file__).parent / "settings.json").read_text())
BUCKETS = SETTINGS["buckets"]
VOCABULARY = 16


class TritonPythonModel:
    """Text to ids."""

    def execute(self, requests):
        """Answers each request by itself."""
        return [answer(request) for request in requests]


def answer(request):
    """Returns ids and the mask of what is padding."""
    texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().reshape(-1)
    rows = [[code % VOCABULARY for code in text[: BUCKETS[-1]]] for text in texts]
    longest = max(map(len, rows))
    width = next(bucket for bucket in BUCKETS if bucket >= longest)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    tensors = [pb_utils.Tensor("input_ids", ids), pb_utils.Tensor("attention_mask", mask)]
    return pb_utils.InferenceResponse(output_tensors=tensors)
