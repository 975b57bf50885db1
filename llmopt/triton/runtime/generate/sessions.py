"""Opens the decoder that a repository is made for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .decoder import Decoder, warm_up

WARM_UP_TOKENS = 4


def open_decoder(folder: Path, settings: Mapping[str, Any], args: Mapping[str, str]) -> Decoder:
    """Makes the decoder; where it is to warm up, the first request does not wait for that.

    An engine loads and warms up in `attach`, in the one thread that may run it.

    Args:
        folder: The model's version folder.
        settings: generation.json.
        args: Of TritonPythonModel.initialize.
    """
    device = "cuda" if args["model_instance_kind"] == "GPU" else "cpu"
    device_id = int(args["model_instance_device_id"])
    most = min(WARM_UP_TOKENS, settings["max_prompt_tokens"])
    warm_up_tokens = most if settings["warm_up"] else 0
    backend, model_path = settings["decoder"], folder / settings["model_file"]
    if backend == "onnxruntime":
        from .onnx_decoder import OnnxDecoder  # noqa: PLC0415 - only what is served is needed

        decoder: Decoder = OnnxDecoder(
            model_path,
            settings["cache"],
            settings["session_options"],
            device,
            device_id,
            settings["threads"],
        )
    else:
        from .tensorrt_decoder import TensorrtDecoder  # noqa: PLC0415

        if device != "cuda":
            raise RuntimeError(f"a {backend} engine runs on a GPU; the instance is on {device}")
        decoder = TensorrtDecoder(
            model_path,
            backend,
            settings["cache"],
            settings["profiles"],
            device_id,
            warm_up_tokens,
        )
    if warm_up_tokens and backend == "onnxruntime":
        warm_up(decoder, warm_up_tokens)
    return decoder
