"""Says a text again, in capitals."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Text to text, sent and not returned."""

    def execute(self, requests):
        """Sends one answer for each request."""
        for request in requests:
            sender = request.get_response_sender()
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()[0]
            output = np.array([text.upper()], dtype=object)
            tensor = pb_utils.Tensor("text_output", output)
            response = pb_utils.InferenceResponse(output_tensors=[tensor])
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
