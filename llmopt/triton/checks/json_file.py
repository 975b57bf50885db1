"""JSON files beside a model."""

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any] | list[Any] | str:
    """Returns a file's object or list; where there is none, what it is instead."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "missing"
    except ValueError as error:
        return f"no JSON ({error})"
    return data if isinstance(data, dict | list) else f"JSON of {type(data).__name__}"
