"""Loads several checkpoints in turn with the real vLLM on CPU. Runs inside .venvs/vllm.

    python load_many.py REQUEST.json RESPONSE.json

Request: {"models": {name: folder, ...}, "prompt_token_ids": [[int, ...], ...], "max_tokens": int,
"dtype": "float16"}. Response: {name: {"error": str | null, ...what greedy.py answers}}; `error` is
what vLLM said as it refused a checkpoint. One process pays vLLM's start once; never imports llmopt.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from greedy import ENVIRONMENT, Request, run


def try_model(folder: Path, request: Request) -> dict[str, Any]:
    """Decodes with one checkpoint, or returns the words that it is refused with."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory  # noqa: PLC0415

    try:
        return {"error": None, **run(folder, request)}
    except Exception as error:  # noqa: BLE001 - whatever vLLM refuses with is the answer
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        cleanup_dist_env_and_memory()


def main(request_path: Path, response_path: Path) -> None:
    """Tries every model of the request and writes the answers."""
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
    given = json.loads(request_path.read_text(encoding="utf-8"))
    models: dict[str, str] = given.pop("models")
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch
        answers = {name: try_model(Path(folder), given) for name, folder in models.items()}
    response_path.write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
