"""A decoupled model that answers with its version, a moment later."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.version = args["model_version"].encode()

    def execute(self, requests):
        time.sleep(0.005)
        for request in requests:
            part = pb_utils.Tensor("version", np.array([self.version], dtype=object))
            sender = request.get_response_sender()
            sender.send(
                pb_utils.InferenceResponse([part]),
                flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
            )
