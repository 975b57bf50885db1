"""Scores codes by their sum, the largest and their count."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Codes to scores."""

    def execute(self, requests):
        """Answers each request by itself."""
        answers = []
        for request in requests:
            ids = pb_utils.get_input_tensor_by_name(request, "IDS").as_numpy()
            mask = pb_utils.get_input_tensor_by_name(request, "MASK").as_numpy()
            rows = [ids.sum(1), ids.max(1), mask.sum(1)]
            scores = np.stack(rows, axis=1).astype(np.float32)
            tensor = pb_utils.Tensor("SCORES", scores)
            answers.append(pb_utils.InferenceResponse(output_tensors=[tensor]))
        return answers
