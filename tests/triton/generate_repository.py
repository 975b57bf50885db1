"""A repository of shape generate, and clients that ask it many things at once."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmopt.artifacts.onnx_description import MODEL_NAME, OnnxDescription
from llmopt.triton.client import TritonClient
from llmopt.triton.generate_model import GenerateSettings
from llmopt.triton.generate_repository import GenerateParts, write_generate
from llmopt.triton.releases import find_release
from llmopt.triton.repository import ServingOptions

MAX_RUNNING, MAX_WAITING = 16, 64


def add_generate_model(
    repository: Path,
    name: str,
    onnx: Path,
    description: OnnxDescription,
    tokenizer: Path,
    *,
    version: int = 1,
) -> None:
    """Writes one generating model into a repository."""
    settings = GenerateSettings(
        model=description,
        model_file=MODEL_NAME,
        decoder="onnxruntime",
        max_running=MAX_RUNNING,
        max_waiting=MAX_WAITING,
        default_max_tokens=16,
        threads=1,
    )
    parts = GenerateParts(onnx, settings, None, tokenizer, None)
    options = ServingOptions(name, version, "latest", "cpu")
    write_generate(repository, parts, options, find_release("24.10"))


def ask(
    client: TritonClient, model: str, text: str, max_tokens: int, **more: Any
) -> dict[str, Any]:
    """Asks for one answer over HTTP, not streamed, past any end-of-text token."""
    body = {"text_input": text, "max_tokens": max_tokens, "ignore_eos": True, **more}
    return client.generate(model, body)


def ask_at_once(work: Sequence[Callable[[], Any]]) -> list[Any]:
    """Does all of it at once, each in a thread of its own; returns results or exceptions."""
    results: list[Any] = [None] * len(work)

    def run(index: int) -> None:
        try:
            results[index] = work[index]()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def text_inputs(text: bytes, **sampling: Any) -> dict[str, Any]:
    """Returns gRPC inputs."""
    inputs = {"text_input": np.array([text], dtype=object)}
    if sampling:
        inputs["sampling_parameters"] = np.array([json.dumps(sampling).encode()], dtype=object)
    return inputs
