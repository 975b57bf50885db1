"""What a tritonserver says of its errors in its log."""

import json
import re
from pathlib import Path

# E1126 14:14:58.147935 24320 model_lifecycle.cc:642] "failed to load …"
_ERROR_LINE = re.compile(r"^E\d{4} \S+ \d+ \S+\] (?P<text>.*)$")
_OTHER_ERRORS = ("error:", "[libprotobuf ERROR", "tritonserver: unrecognized option")
# A server on a machine without GPU says so as if it were an error.
_WITHOUT_GPU = "CudaDriverHelper has not been initialized"


def read_server_errors(log_path: Path) -> list[str]:
    """Returns the error lines of a log in order, unescaped, each once."""
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = (_read_error(line) for line in lines)
    return list(dict.fromkeys(text for text in found if text is not None))


def read_last_lines(log_path: Path, count: int) -> list[str]:
    """Returns the last lines of a log that are not empty."""
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()][-count:]


def _read_error(line: str) -> str | None:
    match = _ERROR_LINE.match(line)
    if match is None:
        return line if line.startswith(_OTHER_ERRORS) else None
    text = match["text"]
    if _WITHOUT_GPU in text:
        return None
    try:
        return str(json.loads(text))
    except json.JSONDecodeError:  # the server escapes as C does, which is not always JSON
        return text.strip('"')
