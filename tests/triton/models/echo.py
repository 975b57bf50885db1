"""A batched model: doubles numbers, hands texts on; "boom" fails its own request alone."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        numbers = pb_utils.get_input_tensor_by_name(request, "numbers").as_numpy()
        texts = pb_utils.get_input_tensor_by_name(request, "texts").as_numpy()
        if b"boom" in texts.ravel():
            error = pb_utils.TritonError("boom is not allowed", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse([], error)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("doubled", numbers * 2), pb_utils.Tensor("same", texts)]
        )
