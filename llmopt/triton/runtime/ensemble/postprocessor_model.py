"""Triton's Python backend: the engine's output in, an answer out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from .postprocessing import Array, pool_mean, rank_tokens


class TritonPythonModel:
    """One instance; it needs numpy alone."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads what lies beside this file."""
        del args
        here = Path(__file__).parent
        settings = json.loads((here / "settings.json").read_text(encoding="utf-8"))
        self._embeds = settings["task"] == "embed"
        self._num_tokens = settings["num_tokens"]
        texts = [] if self._embeds else json.loads((here / "tokens.json").read_text("utf-8"))
        self._texts_V = np.array([text.encode() for text in texts], dtype=object)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request."""
        answer = self._embed if self._embeds else self._rank
        return [pb_utils.InferenceResponse(answer(request)) for request in requests]

    def _embed(self, request: Any) -> list[Any]:
        hidden_BTH = _read(request, "last_hidden_state")
        return [
            pb_utils.Tensor("embedding", pool_mean(hidden_BTH, _read(request, "attention_mask")))
        ]

    def _rank(self, request: Any) -> list[Any]:
        logits = _read(request, "logits")  # [B, V], or [B, 1, V] of a decoder's last position
        logits_BV = logits.reshape(len(logits), -1)
        ids_BK, logprobs_BK = rank_tokens(logits_BV, self._num_tokens)
        texts_BK = self._texts_V[ids_BK]
        return [
            pb_utils.Tensor("text_output", texts_BK[:, :1]),
            pb_utils.Tensor("tokens", texts_BK),
            pb_utils.Tensor("token_ids", ids_BK),
            pb_utils.Tensor("logprobs", logprobs_BK),
        ]


def _read(request: Any, name: str) -> Array:
    array: Array = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
    return array
