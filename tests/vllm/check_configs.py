"""Makes the real vLLM's configuration, and starts no engine. Runs inside .venvs/vllm.

    python check_configs.py REQUEST.json RESPONSE.json

Request: a list of keyword arguments of vLLM's EngineArgs. Response: per entry null, or the words
that it is refused with. Never imports llmopt.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from greedy import ENVIRONMENT


def check(arguments: dict[str, Any]) -> str | None:
    """Makes one configuration."""
    from vllm import EngineArgs  # noqa: PLC0415

    try:
        EngineArgs(**arguments).create_engine_config()
    except ValueError as error:
        return str(error)
    return None


def main(request_path: Path, response_path: Path) -> None:
    """Makes every configuration of the request."""
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
    given = json.loads(request_path.read_text(encoding="utf-8"))
    response_path.write_text(json.dumps([check(each) for each in given]), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
