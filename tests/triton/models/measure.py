"""A batched model: a text's length in signs and in bytes, and its first sign."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        raw = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().ravel()
        sizes = np.array([[len(each.decode()), len(each)] for each in raw], np.float32)
        first = np.array([[each.decode()[:1].encode()] for each in raw], dtype=object)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("sizes", sizes / 3), pb_utils.Tensor("first", first)]
        )
