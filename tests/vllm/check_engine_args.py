"""Reads model.json as Triton's vllm backend does, up to vLLM's configuration; starts no engine.

    python check_engine_args.py REQUEST.json RESPONSE.json

Runs inside .venvs/vllm, never imports llmopt. Request: a list of paths of model.json. Response: per
file {"quantization", "max_model_len", "model"} of vLLM's configuration, or {"error"}.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from greedy import ENVIRONMENT


def read_engine_args(path: Path) -> dict[str, Any]:
    """Makes the configuration of one file."""
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415

    arguments = json.loads(path.read_text(encoding="utf-8"))
    try:
        config = AsyncEngineArgs(**arguments).create_engine_config().model_config
    except (TypeError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "quantization": config.quantization,
        "max_model_len": config.max_model_len,
        "model": config.model,
    }


def main(request_path: Path, response_path: Path) -> None:
    """Reads every file of the request."""
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
    paths = json.loads(request_path.read_text(encoding="utf-8"))
    answers = [read_engine_args(Path(path)) for path in paths]
    response_path.write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
