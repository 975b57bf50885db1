"""Triton's Python backend: texts in, the engine's inputs out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from .rows import RequestError, choose_bucket, find_masks, pad_rows, read_texts
from .tokenization import open_tokenizer


class TritonPythonModel:
    """One instance: a tokenizer."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads what lies beside this file."""
        del args
        here = Path(__file__).parent
        self._settings = json.loads((here / "settings.json").read_text(encoding="utf-8"))
        self._tokenizer = open_tokenizer(here / self._settings["tokenizer"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request; one that can't be tokenised fails alone."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        raw_B1 = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
        try:
            arrays = self._tokenize(raw_B1[:, 0].tolist())
        except RequestError as refused:
            error = pb_utils.TritonError(str(refused), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(output_tensors=[], error=error)
        wanted = self._settings["outputs"]
        return pb_utils.InferenceResponse([pb_utils.Tensor(n, arrays[n]) for n in wanted])

    def _tokenize(self, raw_B: list[bytes]) -> dict[str, Any]:
        settings = self._settings
        rows = self._tokenizer.encode(read_texts(raw_B, settings["max_text_bytes"]))
        bucket = choose_bucket(rows, settings["buckets"])
        ids_BT, mask_BT = pad_rows(
            rows, bucket, settings["pad_id"], is_left=settings["padding_side"] == "left"
        )
        arrays = {
            "input_ids": ids_BT,
            "attention_mask": mask_BT,
            "token_type_ids": np.zeros_like(ids_BT),
        }
        mask_id, mask_text = settings["mask_id"], settings["mask_token"]
        if mask_id is not None:
            arrays["masked_positions"] = find_masks(ids_BT, mask_id, mask_text)
        return arrays
