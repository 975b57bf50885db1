"""Reads texts as the first bytes of each."""

import numpy as np
import triton_python_backend_utils as pb_utils

from .codes import WIDTH, read_codes


class TritonPythonModel:
    """Text to codes."""

    def initialize(self, args):
        """Keeps the name of the instance."""
        self.name = args["model_instance_name"]

    def execute(self, requests):
        """Answers each request by itself."""
        return [self.answer(request) for request in requests]

    def answer(self, request):
        """Returns codes and the mask of what is padding."""
        texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
        codes = [read_codes(text) for text in texts.reshape(-1)]
        ids = np.array(codes, dtype=np.int64).reshape(-1, WIDTH)
        mask = (ids > 0).astype(np.int64)
        tensors = [pb_utils.Tensor("IDS", ids), pb_utils.Tensor("MASK", mask)]
        return pb_utils.InferenceResponse(output_tensors=tensors)
