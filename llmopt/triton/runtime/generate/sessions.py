"""Opens the decoder that a repository is made for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .decoder import Decoder

WARM_UP_TOKENS = 4


def open_decoder(folder: Path, settings: Mapping[str, Any], args: Mapping[str, str]) -> Decoder:
    """Loads the decoder and runs it once, so that the first request does not wait for that.

    Args:
        folder: The model's version folder.
        settings: generation.json.
        args: Of TritonPythonModel.initialize.
    """
    device = "cuda" if args["model_instance_kind"] == "GPU" else "cpu"
    device_id = int(args["model_instance_device_id"])
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
        decoder = TensorrtDecoder(model_path, backend, settings["cache"], settings["profiles"])
    if settings["warm_up"] and backend == "onnxruntime":
        warm_up(decoder)
    return decoder


def warm_up(decoder: Decoder) -> None:
    """Runs a prompt and one token after it."""
    ids_BT = np.ones((1, WARM_UP_TOKENS), np.int64)
    positions_BT = np.arange(WARM_UP_TOKENS)[None]
    cache = decoder.empty_cache(1)
    _, cache = decoder.forward(ids_BT, np.ones_like(ids_BT), positions_BT, cache)
    mask_BL = np.ones((1, WARM_UP_TOKENS + 1), np.int64)
    decoder.forward(ids_BT[:, :1], mask_BL, np.array([[WARM_UP_TOKENS]]), cache)
