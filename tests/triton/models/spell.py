"""A decoupled model: sends a text sign by sign, `pause_ms` apart; notes when the client is gone."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.notes = Path(config["parameters"]["notes"]["string_value"])

    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()[0].decode()
            given = json.loads(request.parameters() or "{}")
            sender = request.get_response_sender()
            threading.Thread(target=self.spell, args=(text, given, sender)).start()

    def spell(self, text, given, sender):
        for sign in [text] if given.get("whole") else text:
            if sender.is_cancelled():
                self.notes.write_text("cancelled")
                break
            if sign == "!":
                error = pb_utils.TritonError("no shouting", pb_utils.TritonError.INVALID_ARG)
                sender.send(pb_utils.InferenceResponse([], error))
                break
            part = pb_utils.Tensor("part", np.array([sign.encode()], dtype=object))
            sender.send(pb_utils.InferenceResponse([part]))
            time.sleep(given.get("pause_ms", 0) / 1000)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
